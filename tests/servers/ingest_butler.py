"""A Butler that takes records as the protocol says, keeps the newest revision of each, and fails as a test wishes.

It keeps to one rule of ours: a record is applied only when its revision is higher, by organisation of the token and id.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from uuid import UUID, uuid4

from steward.egress import MetadataRecord
from steward.ports import Identity

Fault = Literal["fail", "deny", "refuse", "break", "break_after", "hang"]
FIELDS = tuple(MetadataRecord.model_fields)


@dataclass
class Organisation:
    """One tenant, and what it was sent."""

    token: str
    org_id: UUID = field(default_factory=uuid4)
    steward_id: UUID = field(default_factory=uuid4)
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By id, the newest revision."""
    batches: list[list[str]] = field(default_factory=list)
    """Ids of every call that was taken, in their order."""

    @property
    def identity(self) -> Identity:
        return Identity(self.steward_id, self.org_id, f"Org {str(self.org_id)[:8]}")


@dataclass
class IngestButler:
    """What it heard and what it does about it. Change `fault` and `refuses` at any time."""

    organisations: list[Organisation]
    fields: Sequence[str] | None = FIELDS
    fault: Callable[[str, str], Fault | None] = lambda path, token: None
    """Of a path and a token."""
    refuses: Callable[[dict[str, Any]], bool] = lambda record: False
    url: str = ""
    heard: list[tuple[str, str]] = field(default_factory=list)
    """Start line's path and the token of every call."""
    bodies: list[bytes] = field(default_factory=list)
    connections: list[socket.socket] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    ended: threading.Event = field(default_factory=threading.Event)

    def of(self, token: str) -> Organisation | None:
        return next((each for each in self.organisations if each.token == token), None)

    def taken(self) -> int:
        with self.lock:
            return sum(len(each.records) for each in self.organisations)

    def apply(self, organisation: Organisation, records: list[dict[str, Any]]) -> int:
        """The status of the answer."""
        with self.lock:
            if any(self.refuses(record) for record in records):
                return 422
            if self.fields is not None and any(set(record) - set(self.fields) for record in records):
                return 422
            organisation.batches.append([record["id"] for record in records])
            for record in records:
                before = organisation.records.get(record["id"], {"revision": 0})
                if record.get("revision", 1) > before.get("revision", 1) or record["id"] not in organisation.records:
                    organisation.records[record["id"]] = record
            return 200


def _handler(butler: IngestButler) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            butler.connections.append(self.connection)

        def log_message(self, *said: object) -> None:
            return None

        def do_GET(self) -> None:
            self._answer(b"")

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers["content-length"])))

        def _answer(self, body: bytes) -> None:
            token = self.headers["authorization"].removeprefix("Bearer ")
            with butler.lock:
                butler.heard.append((self.path, token))
                butler.bodies.append(body)
            fault = butler.fault(self.path, token)
            if fault in {"break", "hang"}:
                if fault == "hang":
                    butler.ended.wait()
                self._break()
                return
            organisation = butler.of(token)
            if fault in {"fail", "deny", "refuse"} or organisation is None:
                statuses = {"fail": 503, "refuse": 404}
                self._say(statuses.get(fault or "deny", 401), {})
                return
            if self.path.endswith("/me"):
                who = organisation.identity
                said = {"steward_id": str(who.steward_id), "org_id": str(who.org_id), "org_name": who.org_name}
                self._say(200, said if butler.fields is None else said | {"record_fields": list(butler.fields)})
                return
            status = butler.apply(organisation, json.loads(body)["records"])
            if fault == "break_after":
                self._break()
            else:
                self._say(status, {})

        def _break(self) -> None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

        def _say(self, status: int, said: object) -> None:
            document = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(document)))
            self.end_headers()
            self.wfile.write(document)

    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who left in the middle was meant to."""


@contextmanager
def serving(butler: IngestButler, port: int = 0) -> Iterator[IngestButler]:
    """Listens until the block ends; again on the same port for a restart."""
    server = _Server(("127.0.0.1", port), _handler(butler))
    butler.url = f"http://127.0.0.1:{server.server_port}"
    butler.ended.clear()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield butler
    finally:
        butler.ended.set()
        server.shutdown()
        server.server_close()
        for connection in butler.connections:  # those that were kept alive would be served on
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        butler.connections.clear()
        thread.join()
