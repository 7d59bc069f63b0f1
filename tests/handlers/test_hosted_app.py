"""The core between the calls of a host that gives no time of its own, by real servers on both of Google's hosts.

What a caller has whole is in the database and the store, and with Butler, before anybody could freeze the process.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

import orjson
import pytest
from sqlalchemy import text
from sqlalchemy.engine import Connection

from handlers.hosted_app import HostedApp
from steward.adapters.postgres_connection import PostgresAddress, open_engine
from steward.adapters.postgres_local import LocalPostgres
from steward.exchange import LOCAL_ORG, BodyState, Outcome, Record
from steward.wiring.hosted import build_hosted
from steward.words import Secret
from tests.servers.examples import respond
from tests.servers.function import running_function, running_on_cloud_run
from tests.servers.ingest_butler import IngestButler, Organisation, serving
from tests.servers.openid import OpenId, open_id
from tests.servers.plain_http import Ended, Head, Request, call, read_body, read_head
from tests.servers.signed_calls import right, signed_settings
from tests.servers.socket_provider import Answer, Provider, Received
from tests.servers.steward import RunningSteward, run_command
from tests.services import settings

SSE = [(b"Content-Type", b"text/event-stream")]
EVENT = b'data: {"id":"1","object":"chat.completion.chunk","model":"gpt-4o-mini","choices":[]}\n\n'
USAGE = b'data: {"id":"1","model":"gpt-4o-mini","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n'
DONE = b"data: [DONE]\n\n"
CHAT = Request(b"POST", b"/v1/chat/completions", [(b"Authorization", b"Bearer sk-x")], b'{"model":"gpt-4o-mini"}')
STREAMED = b'{"model":"gpt-4o-mini","stream":true}'
WITHIN_S = 30.0
HOSTS = [running_function, running_on_cloud_run]
NAMES = ["cloud function", "cloud run"]

Start = Callable[..., AbstractContextManager[RunningSteward]]


class Scripted:
    """A provider whose streams wait for the test after their first event, and end with their last."""

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.breaks = False
        self.server = Provider(self._answer)

    def _answer(self, received: Received) -> Answer:
        if b'"stream"' not in received.message.body:
            return respond(received)
        return Answer(200, SSE, self._stream(), "chunked", cut=self.breaks)

    def _stream(self) -> Iterator[bytes]:
        yield EVENT
        assert self.may_end.wait(60)
        yield USAGE + DONE


@pytest.fixture(scope="module")
def providers() -> Iterator[Scripted]:
    scripted = Scripted()
    yield scripted
    scripted.may_end.set()
    scripted.server.close()


@pytest.fixture
def provider(providers: Scripted) -> Iterator[Scripted]:
    providers.may_end.clear()
    providers.breaks = False
    providers.server.take()
    yield providers
    providers.may_end.set()


@pytest.fixture(scope="module")
def issuer() -> Iterator[OpenId]:
    """In Google's place."""
    with open_id() as running:
        yield running


@pytest.fixture(scope="module", params=HOSTS, ids=NAMES)
def house(
    request: pytest.FixtureRequest,
    postgres_server: LocalPostgres,
    providers: Scripted,
    issuer: OpenId,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[RunningSteward]:
    """One on each host for all tests that leave it as it was. Whoever waits for his row, waits long."""
    folder = tmp_path_factory.mktemp("hosted")
    temporary = folder / "tmp"
    temporary.mkdir()
    given = {"AFTER_RESPONSE_BUDGET": "60s", "TMPDIR": str(temporary), **signed_settings(issuer)}
    with request.param(postgres_server, folder, providers.server.url, given) as running:
        yield running
        assert list(temporary.rglob("steward*")) == [], "the disk there is memory"


class Stream:
    """A streamed call whose first event is here."""

    def __init__(self, running: RunningSteward) -> None:
        fields = [*CHAT.fields, (b"X-Majordomo-Key", running.key.encode())]
        self.sock = socket.create_connection(("127.0.0.1", running.port), timeout=WITHIN_S)
        self.sock.sendall(replace(CHAT, fields=fields, body=STREAMED).octets(b"127.0.0.1"))
        self._stream: BinaryIO = self.sock.makefile("rb")
        head = read_head(self._stream)
        assert head is not None
        self._head: Head = head
        self.chunk(EVENT)
        [ident] = head.values(b"x-majordomo-request-id")
        self.id = UUID(ident.decode())

    def chunk(self, *said: bytes) -> None:
        """The next chunks hold exactly this."""
        wanted, heard = b"".join(said), b""
        while len(heard) < len(wanted):
            size = int(self._stream.readline(), 16)
            heard += self._stream.read(size + 2)[:-2]
            assert size, heard
        assert heard == wanted

    def rest(self) -> bytes:
        """What comes until the stream ends well. Raises Ended when it is cut."""
        try:
            return read_body(self._stream, self._head)
        except ConnectionError:
            raise Ended from None
        finally:
            self.close()

    def close(self) -> None:
        self._stream.close()
        self.sock.close()


def row(running: RunningSteward, ident: UUID) -> Record:
    """As it is now."""
    found = running.ledger.get(LOCAL_ORG, ident)
    assert found is not None
    return found.record


def chat(running: RunningSteward) -> UUID:
    answer = running.call(CHAT)
    assert answer.status == 200
    [ident] = answer.head.values(b"x-majordomo-request-id")
    return UUID(ident.decode())


@contextmanager
def database(running: RunningSteward) -> Iterator[Connection]:
    """One transaction on its database."""
    environ = running.environ
    address = PostgresAddress(
        environ["POSTGRES_HOST"],
        int(environ["POSTGRES_PORT"]),
        environ["POSTGRES_USER"],
        Secret(environ["POSTGRES_PASSWORD"]),
        environ["POSTGRES_DB"],
        "disable",
    )
    engine = open_engine(address)
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


@contextmanager
def locked(running: RunningSteward) -> Iterator[None]:
    """Nobody writes a row meanwhile."""
    with database(running) as connection:
        connection.execute(text("LOCK TABLE llm_requests IN ACCESS EXCLUSIVE MODE"))
        yield


@contextmanager
def frozen(running: RunningSteward) -> Iterator[None]:
    """As a host does that takes the processor away: every process of it stands still."""
    os.killpg(running.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(running.process.pid, signal.SIGCONT)


def test_frozen_right_after_the_response_row_and_body_are_there(house: RunningSteward, provider: Scripted) -> None:
    for ask in (lambda: chat(house), lambda: _streamed(house, provider)):
        ident = ask()
        with frozen(house):
            record = row(house, ident)
            assert (record.outcome, record.body_state) == (Outcome.COMPLETE, BodyState.STORED)
            assert house.body(record)["response"]["body"]


def _streamed(house: RunningSteward, provider: Scripted) -> UUID:
    stream = Stream(house)
    provider.may_end.set()
    assert stream.rest() == USAGE + DONE
    return stream.id


def test_what_googles_front_end_adds_goes_to_no_provider(house: RunningSteward, provider: Scripted) -> None:
    """A caller's own fields do, his tracing's among them; and his body stays what it was."""
    added = [
        *((b"X-Forwarded-For", b"203.0.113.9"), (b"X-Forwarded-Proto", b"https"), (b"Forwarded", b"for=203.0.113.9")),
        *((b"X-Cloud-Trace-Context", b"1/2;o=1"), (b"X-Serverless-Authorization", b"Bearer canary")),
    ]
    traced = (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    keyed = [*CHAT.fields, traced, *added, (b"X-Majordomo-Key", house.key.encode())]
    assert call(house.port, replace(CHAT, fields=keyed)).status == 200
    [received] = provider.server.take()
    named = {name.lower() for name, _ in received.message.head.fields}
    assert not named & {name.lower() for name, _ in added}
    assert {b"traceparent", b"authorization", b"content-length"} <= named
    assert received.message.body == CHAT.body


def test_a_stream_streams_and_its_last_event_waits_for_nobody(house: RunningSteward, provider: Scripted) -> None:
    """The database keeps everybody waiting: the caller has every octet all the same, and only the end waits."""
    stream = Stream(house)
    with locked(house):
        provider.may_end.set()
        stream.chunk(USAGE, DONE)
        stream.sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            stream.sock.recv(1)
        stream.sock.settimeout(WITHIN_S)
    assert stream.rest() == b""
    record = row(house, stream.id)
    assert (record.outcome, record.body_state, record.input_tokens) == (Outcome.COMPLETE, BodyState.STORED, 7)


def test_a_counted_answer_waits_until_its_row_is_in(house: RunningSteward, provider: Scripted) -> None:
    with ThreadPoolExecutor(1) as other:
        chat(house)
        with locked(house):
            asked = other.submit(chat, house)
            with pytest.raises(TimeoutError):
                asked.result(0.3)
        assert row(house, asked.result(WITHIN_S)).outcome is Outcome.COMPLETE


@pytest.mark.parametrize("start", HOSTS, ids=NAMES)
def test_sigterm_under_load_ends_within_ten_seconds_with_every_row(
    start: Start, postgres_server: LocalPostgres, provider: Scripted, tmp_path: Path
) -> None:
    """Google kills ten seconds after SIGTERM. Streams that run on are cut before, and their rows say so."""
    with start(postgres_server, tmp_path, provider.server.url) as house:
        done = [chat(house) for _ in range(5)]
        streams = [Stream(house) for _ in range(8)]
        house.process.send_signal(signal.SIGTERM)
        google = threading.Timer(10, os.killpg, (house.process.pid, signal.SIGKILL))
        google.start()
        for stream in streams:
            with pytest.raises(Ended):
                stream.rest()
        assert house.process.wait(WITHIN_S) == 0
        google.cancel()
        assert {row(house, ident).outcome for ident in done} == {Outcome.COMPLETE}
        for stream in streams:
            record = row(house, stream.id)
            assert (record.outcome, record.body_state) == (Outcome.INTERRUPTED, BodyState.STORED)
            assert house.body(record)["response"]["body"] == EVENT.decode()
        assert b"Traceback" not in house.said()
        assert b'"stopped"' in house.said(), "behind the last call it gave what waited one more turn"


def test_a_caller_who_leaves_takes_the_provider_with_him_and_leaves_his_row(
    house: RunningSteward, provider: Scripted
) -> None:
    stream = Stream(house)
    [asked] = provider.server.take()
    stream.close()
    assert asked.gone.wait(WITHIN_S)
    provider.may_end.set()
    assert house.settled(str(stream.id)).outcome is Outcome.CLIENT_CANCELLED


def test_what_the_provider_breaks_does_not_end_cleanly(house: RunningSteward, provider: Scripted) -> None:
    provider.breaks = True
    stream = Stream(house)
    provider.may_end.set()
    with pytest.raises(Ended):
        stream.rest()
    assert house.settled(str(stream.id)).outcome is Outcome.UPSTREAM_FAILED
    assert chat(house)
    assert b"Traceback" not in house.said() and b"Internal Server Error" not in house.said()


def test_lines_say_how_severe_they_are(house: RunningSteward, provider: Scripted) -> None:
    """As Cloud Logging reads it."""
    chat(house)
    [said, *_] = [line for line in map(orjson.loads, house.said().splitlines()) if line["event"] == "call"]
    assert said["severity"] == "INFO"


@pytest.mark.parametrize("path", [b"/tasks/scheduled", b"/tasks/settle"])
def test_signed_calls_come_by_the_same_port_and_wrong_ones_by_none(
    house: RunningSteward, provider: Scripted, issuer: OpenId, path: bytes
) -> None:
    """Not with a caller's key either, and by no other spelling: that would be a provider's path."""

    def asked(token: str, spelled: bytes = path) -> int:
        fields = [(b"Authorization", b"Bearer " + token.encode())]
        return call(house.port, Request(b"POST", spelled, fields, b"{}")).status

    assert asked(right(issuer)) == (204 if path == b"/tasks/scheduled" else 404)
    assert asked(right(issuer, email="other@a-project.iam.gserviceaccount.com")) == 401
    assert asked(right(issuer, aud="https://other.example")) == 401
    assert house.call(Request(b"POST", path, [], b"{}")).status == 401
    assert asked(right(issuer), path.replace(b"tasks", b"t%61sks")) == 401, "no X-Majordomo-Key"
    assert provider.server.take() == []


class Waiting:
    """What settles here, of which so many calls wait for a turn."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.turns = 0

    def waiting(self) -> int:
        return self.count

    def turn(self, until: float | None) -> None:
        self.turns += 1


def test_a_turn_follows_only_what_left_something_to_settle() -> None:
    """What was turned away, or a queue took, costs the database nothing."""
    scope = {"type": "http", "method": "GET", "path": "/health", "raw_path": b"/health", "query_string": b""}

    async def nothing(message: object = None) -> dict[str, object]:
        return {"type": "http.request", "body": b"", "more_body": False}

    for count, turns in ((0, 0), (1, 1)):
        by_call = Waiting(count)
        found = settings(AFTER_RESPONSE_WAIT="off")
        hosted = replace(build_hosted(found, caller_waits=True), by_call=by_call)  # type: ignore[arg-type]
        app = HostedApp(found, hosted, caller_waits=True)

        async def story(app: HostedApp = app) -> None:
            await app({**scope, "headers": []}, nothing, nothing)  # type: ignore[arg-type]
            await app.close()

        asyncio.run(story())
        assert by_call.turns == turns


def test_a_call_is_exported_though_no_schedule_ever_ran(house: RunningSteward, provider: Scripted) -> None:
    acme = Organisation("mdm_st_" + "a" * 32)
    with serving(IngestButler([acme])) as butler:
        environ = {**house.environ, "MDM_STEWARD_TOKEN": acme.token}
        registered = run_command(environ, "register", "--butler-url", butler.url)
        assert registered.returncode == 0, registered.stderr
        assert str(chat(house)) in acme.records, "it is with Butler when its caller has his answer"
