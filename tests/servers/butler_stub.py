"""A Butler that keeps what an organisation's dashboard would: keys, sets and work, for each token. Strict, or lenient.

The strict one takes no parameter that it does not know, and gives each page what was asked for; the lenient one knows
no limit, and says more of everything, in other spellings. Either answers what a test puts in the place of an answer.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

API = "/api/v1/steward"
MASTER = "mdm_st_" + "m" * 32

Put = Callable[[BaseHTTPRequestHandler], None]
"""Answers in the place of Butler."""


def plaintext(name: str) -> str:
    """The key of that name, as an application has it."""
    return "mdm_sk_" + hashlib.sha256(name.encode()).hexdigest()


def key_hash(name: str) -> str:
    """What Butler and Steward know of it."""
    return hashlib.sha256(plaintext(name).encode()).hexdigest()


@dataclass
class Organisation:
    """What the dashboard of one organisation holds."""

    name: str = "Acme"
    id: UUID = field(default_factory=uuid4)
    steward_id: UUID = field(default_factory=uuid4)
    token: str = ""
    keys: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By name."""
    work: list[dict[str, Any]] = field(default_factory=list)
    storage: list[dict[str, Any]] = field(default_factory=list)
    provider_keys: list[dict[str, Any]] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.token = self.token or f"mdm_st_{self.id.hex}"

    def key(self, name: str, **facts: Any) -> dict[str, Any]:
        """Makes a key, or changes one, as of now; with the work item that tells of it."""
        now = spelled(datetime.now(UTC))
        row = self.keys.setdefault(name, {"id": str(uuid4()), "key_hash": key_hash(name), "name": name})
        new = {"is_active": True, "org_id": str(self.id), "created_at": now}
        self.keys[name] = {**new, **row, "updated_at": now, **facts}
        self.job("sync_api_keys")
        return self.keys[name]

    def job(self, kind: str, **facts: Any) -> str:
        """Makes a work item."""
        item = {"job_id": str(uuid4()), "org_id": str(self.id), "job_type": kind, **facts}
        self.work.append(item)
        return str(item["job_id"])


def spelled(at: datetime) -> str:
    """As Butler writes a time."""
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")


@dataclass
class StubButler:
    """Its organisations, what it was asked, and what it answers instead."""

    url: str = ""
    strict: bool = True
    organisations: list[Organisation] = field(default_factory=list)
    pending: list[dict[str, Any]] = field(default_factory=list)
    claimed: list[str] = field(default_factory=list)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Token, method and target of each call."""
    instead: dict[str, Put] = field(default_factory=dict)
    """By path below the API; `*` is any."""

    def of(self, token: str) -> Organisation | None:
        """Whose token it is."""
        return next((each for each in self.organisations if each.token == token), None)

    def targets(self, path: str) -> list[str]:
        """What was asked of this path, with its query."""
        return [target for _, _, target in self.asked if urlsplit(target).path == API + path]

    def answer(self, method: str, path: str, query: dict[str, str], token: str) -> tuple[int, Any]:
        """Status and document."""
        if path.startswith("/managed/"):
            return self._managed(method, path, token)
        who = self.of(token)
        if who is None:
            return 401, {"error": "unknown token"}
        if path.startswith("/work/") and method == "POST":
            return self._ended(who, *path.removeprefix("/work/").split("/"))
        known = {"/work": {"limit"}, "/api-keys": {"updated_after", "limit"}}.get(path, set())
        if self.strict and set(query) - known:
            return 400, {"error": "unknown parameter"}
        if path == "/me":
            return 200, {"steward_id": str(who.steward_id), "org_id": str(who.id), "org_name": who.name}
        if path == "/work":
            return self._work(who, query)
        if path == "/api-keys":
            return self._keys(who, query)
        sets = {"/cloud-storage-configs": who.storage, "/provider-keys": who.provider_keys}
        return (200, sets[path]) if path in sets else (404, {"error": "no such path"})

    def _managed(self, method: str, path: str, token: str) -> tuple[int, Any]:
        if token != MASTER:
            return 401, None
        if path == "/managed/pending":
            return 200, self.pending
        assignment = path.removeprefix("/managed/assignments/").removesuffix("/claim")
        found = [each for each in self.pending if each["id"] == assignment]
        self.pending = [each for each in self.pending if each["id"] != assignment]
        self.claimed += [each["id"] for each in found]
        return (204, None) if found and method == "POST" else (404, None)

    def _work(self, who: Organisation, query: dict[str, str]) -> tuple[int, Any]:
        most = int(query["limit"]) if self.strict else len(who.work)
        given, who.work = who.work[:most], who.work[most:]
        return 200, given

    def _ended(self, who: Organisation, job_id: str, how: str) -> tuple[int, Any]:
        (who.acknowledged if how == "ack" else who.failed).append(job_id)
        return 200, {}

    def _keys(self, who: Organisation, query: dict[str, str]) -> tuple[int, Any]:
        rows = sorted(who.keys.values(), key=lambda row: str(row["updated_at"]))
        if not self.strict:
            return 200, [{**row, "colour": "red", "revoked_at": row.get("revoked_at"), "user": None} for row in rows]
        limit = int(query["limit"])
        if not 1 <= limit <= 400:
            return 400, {"error": "limit"}
        after = datetime.fromisoformat(query["updated_after"])
        return 200, [row for row in rows if datetime.fromisoformat(str(row["updated_at"])) > after][:limit]


def document(status: int, said: Any, *fields: tuple[str, str]) -> Put:
    """An ordinary answer of a test's own."""

    def put(handler: BaseHTTPRequestHandler) -> None:
        body = b"" if said is None else said if isinstance(said, bytes) else json.dumps(said).encode()
        handler.send_response(status)
        for name, value in (("Content-Length", str(len(body))), *fields):
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return put


@contextmanager
def stub_butler(*organisations: Organisation, strict: bool = True) -> Iterator[StubButler]:
    """One that listens."""
    butler = StubButler(strict=strict, organisations=list(organisations))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            path = parts.path.removeprefix(API)
            self.rfile.read(int(self.headers.get("content-length", 0)))
            token = self.headers.get("authorization", "").removeprefix("Bearer ")
            butler.asked.append((token, self.command, self.path))
            put = butler.instead.get(path) or butler.instead.get("*")
            if put is None:
                query = {name: value for name, [value] in parse_qs(parts.query).items()}
                put = document(*butler.answer(self.command, path, query, token))
            with contextlib.suppress(OSError):
                put(self)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *args: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    butler.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield butler
    server.shutdown()
    server.server_close()
    thread.join()


def seconds_ago(seconds: float) -> str:
    """A time gone by, as Butler writes it."""
    return spelled(datetime.now(UTC) - timedelta(seconds=seconds))
