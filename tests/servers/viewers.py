"""A viewer on a port of its own, over a real database, and what lies in its store. It asserts nothing.

Requests go over a plain connection with the fields that a browser would send, unless a test says otherwise.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import orjson

from steward.adapters.memory_bodies import MemoryBodyStore
from steward.adapters.postgres_ledger import PostgresLedger
from steward.adapters.postgres_view_book import PostgresViewBook
from steward.api.viewer import SESSION_COOKIE, viewer_app
from steward.exchange import BodyState, Record
from steward.listener import ListenerLimits, listener
from steward.ports import BodyStore, IdentityProvider, Put, ViewAct, ViewBook, ViewEntry
from steward.timed_reads import TimedReads
from steward.viewing import Viewing, new_token
from tests.contracts.records import ORG, a_full_record, new_id
from tests.servers.listening import listening
from tests.servers.postgres import Database

TYPED = {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
"""A person typed the address."""
CLICKED = {**TYPED, "Sec-Fetch-Site": "same-origin"}
"""A link or a form of the viewer's own."""
LED = {**TYPED, "Sec-Fetch-Site": "cross-site"}
"""A link of another site."""


@dataclass(frozen=True)
class Told:
    """One answer."""

    status: int
    fields: list[tuple[str, str]]
    body: bytes

    def values(self, name: str) -> list[str]:
        """Every value of a field, in lower case."""
        return [value for key, value in self.fields if key == name]

    @property
    def text(self) -> str:
        return self.body.decode()


@dataclass
class RunningViewer:
    """One viewer."""

    port: int
    book: ViewBook
    ledger: PostgresLedger
    store: MemoryBodyStore
    name: str = "localhost"
    cookies: dict[str, str] = field(default_factory=dict)
    others: dict[UUID, BodyStore] = field(default_factory=dict)
    """Where rows of these configs have their bodies; all others in `store`."""

    @property
    def url(self) -> str:
        return f"http://{self.name}:{self.port}"

    def ask(
        self,
        path: str,
        fields: Mapping[str, str] = TYPED,
        method: str = "GET",
        form: Mapping[str, str] | None = None,
        host: str | None = None,
    ) -> Told:
        """One request, with the cookies that were given so far; those of the answer are kept."""
        body = None if form is None else urlencode(form)
        sent = {"Host": host or f"{self.name}:{self.port}", **fields}
        if body is not None:
            sent["Content-Type"] = "application/x-www-form-urlencoded"
        if self.cookies:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            told = Told(answer.status, [(name.lower(), value) for name, value in answer.getheaders()], answer.read())
        finally:
            connection.close()
        for line in told.values("set-cookie"):
            name, _, value = line.partition(";")[0].partition("=")
            self.cookies[name] = value
            if not value:
                del self.cookies[name]
        return told

    def token(self, org_id: UUID = ORG, lasts: timedelta = timedelta(hours=1), name: str = "ada") -> str:
        """A new view token."""
        return new_token(self.book, org_id, name, lasts)[0]

    def sign_in(self, org_id: UUID = ORG) -> str:
        """Signs in with a token of its own; the session's secret."""
        self.cookies.clear()
        self.ask("/sign-in", CLICKED, "POST", {"token": self.token(org_id)})
        return self.cookies[SESSION_COOKIE]

    def keep(self, document: Any, **changes: Any) -> Record:
        """A call and its object; `document` may be octets that are no gzip at all."""
        octets = document if isinstance(document, bytes) else gzip.compress(orjson.dumps(document), mtime=0)
        request_id = new_id()
        key = f"{UUID(int=7)}/2026-11-20/{request_id}.json.gz"
        self.store.put_many([Put(key, octets, hashlib.sha256(octets).hexdigest(), len(octets))])
        facts = {
            "id": request_id,
            "body_state": BodyState.STORED,
            "body_key": key,
            "body_sha256": hashlib.sha256(octets).hexdigest(),
            "body_bytes": len(octets),
        }
        record = a_full_record(**(facts | changes))
        self.ledger.record([record])
        return record

    def account(self) -> list[ViewEntry]:
        """All that was noted, oldest first."""
        return self.book.notes(10_000)[::-1]

    def openings(self) -> list[ViewEntry]:
        """Of these, the bodies that were given out."""
        return [each for each in self.account() if each.act in (ViewAct.OPENED, ViewAct.DOWNLOADED)]


def a_document(answer: Any = "Hello.", question: Any = "Say hello.", **response: Any) -> dict[str, Any]:
    """The object of an ordinary chat completion."""
    message = {"role": "assistant", "content": answer}
    body = {"id": "chatcmpl-1", "object": "chat.completion", "choices": [{"index": 0, "message": message}]}
    return {
        "request_id": "0",
        "timestamp": "2026-11-20T12:00:00.000000Z",
        "request": {
            "method": "POST",
            "path": "/v1/chat/completions",
            "query": {},
            "headers": {"content-type": "application/json", "user-agent": "openai-python/2.1"},
            "body_encoding": "json",
            "body": {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": question}]},
        },
        "response": {
            "status_code": 200,
            "headers": {"content-type": "application/json"},
            "body_encoding": "json",
            "body": body,
            **response,
        },
    }


class Late:
    """An application that is made once its port is known."""

    def __init__(self) -> None:
        self.app: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


@contextmanager
def running_viewer(
    database: Database,
    groups: Mapping[str, frozenset[UUID]] | None = None,
    provider: Callable[[str], IdentityProvider] | None = None,
    butler_urls: Callable[[], Sequence[str]] = tuple,
    name: str = "localhost",
) -> Iterator[RunningViewer]:
    """Serves until the block ends. `provider`: made with the viewer's address."""
    late = Late()
    store = MemoryBodyStore()
    others: dict[UUID, BodyStore] = {}
    book, ledger = PostgresViewBook(database.engine), PostgresLedger(database.engine)

    def store_of(row: Record) -> BodyStore:
        return store if row.storage_config_id is None else others.get(row.storage_config_id, store)

    viewing = Viewing(book, ledger, store_of, groups, butler_urls)
    viewing.reads = TimedReads(within_s=5, room_s=0.5)
    with ExitStack() as undo, listening(late, listener(ListenerLimits())) as running:
        viewer = RunningViewer(running.port, book, ledger, store, name, others=others)
        made = provider(viewer.url) if provider else None
        if made is not None:
            undo.callback(made.close)
        late.app = viewer_app(viewing, viewer.url, made)
        yield viewer
