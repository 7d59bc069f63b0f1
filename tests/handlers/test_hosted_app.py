"""The core between the calls of a host that gives no time of its own, by real servers on both of Google's hosts.

What a caller has whole is in the database and in the store, and is with Butler, before anybody could freeze the process.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, BinaryIO
from uuid import UUID

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
from tests.servers.plain_http import Ended, Head, Request, call, read_body, read_head
from tests.servers.postgres import Database
from tests.servers.socket_provider import Answer, Provider, Received
from tests.servers.steward import RunningSteward, run_command
from tests.servers.waiting import eventually, eventually_async
from tests.services import run, settings

SSE = [(b"Content-Type", b"text/event-stream")]
EVENT = b'data: {"id":"1","object":"chat.completion.chunk","model":"gpt-4o-mini","choices":[]}\n\n'
USAGE = b'data: {"id":"1","model":"gpt-4o-mini","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n'
DONE = b"data: [DONE]\n\n"
CHAT = Request(b"POST", b"/v1/chat/completions", [(b"Authorization", b"Bearer sk-x")], b'{"model":"gpt-4o-mini"}')
STREAMED = b'{"model":"gpt-4o-mini","stream":true}'
WITHIN_S = 30.0
HOSTS = [running_function, running_on_cloud_run]
NAMES = ["cloud function", "cloud run"]

Start = Callable[..., Any]


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


@pytest.fixture
def provider() -> Iterator[Scripted]:
    scripted = Scripted()
    yield scripted
    scripted.may_end.set()
    scripted.server.close()


@pytest.fixture(params=HOSTS, ids=NAMES)
def start(request: pytest.FixtureRequest, postgres_server: LocalPostgres, provider: Scripted, tmp_path: Any) -> Start:
    """Starts one on an installation of its own: `with start(SETTING="value") as running:`."""

    def started(**given: str) -> Any:
        return request.param(postgres_server, tmp_path, provider.server.url, given)

    return started


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


def test_frozen_right_after_the_response_row_and_body_are_there(start: Start, provider: Scripted) -> None:
    with start() as running:
        for ask in (lambda: chat(running), lambda: _streamed(running, provider)):
            ident = ask()
            with frozen(running):
                record = row(running, ident)
                assert (record.outcome, record.body_state) == (Outcome.COMPLETE, BodyState.STORED)
                assert running.body(record)["response"]["body"]


def _streamed(running: RunningSteward, provider: Scripted) -> UUID:
    stream = Stream(running)
    provider.may_end.set()
    assert stream.rest() == USAGE + DONE
    return stream.id


def test_a_stream_streams_and_its_last_event_waits_for_nobody(start: Start, provider: Scripted) -> None:
    """The database keeps everybody waiting: the caller has every octet all the same, and only the end waits."""
    with start(AFTER_RESPONSE_BUDGET="60s") as running:
        stream = Stream(running)
        with locked(running):
            provider.may_end.set()
            stream.chunk(USAGE, DONE)
            stream.sock.settimeout(0.3)
            with pytest.raises(TimeoutError):
                stream.sock.recv(1)
            stream.sock.settimeout(WITHIN_S)
        assert stream.rest() == b""
        record = row(running, stream.id)
        assert (record.outcome, record.body_state, record.input_tokens) == (Outcome.COMPLETE, BodyState.STORED, 7)


def test_a_counted_answer_waits_until_its_row_is_in(start: Start) -> None:
    with start(AFTER_RESPONSE_BUDGET="60s") as running, ThreadPoolExecutor(1) as other:
        chat(running)
        with locked(running):
            asked = other.submit(chat, running)
            with pytest.raises(TimeoutError):
                asked.result(0.3)
        assert row(running, asked.result(WITHIN_S)).outcome is Outcome.COMPLETE


def test_sigterm_under_load_ends_within_ten_seconds_with_every_row(start: Start, provider: Scripted) -> None:
    """Google kills ten seconds after SIGTERM. Streams that run on are cut before, and their rows say so."""
    with start() as running:
        done = [chat(running) for _ in range(5)]
        streams = [Stream(running) for _ in range(8)]
        began = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        for stream in streams:
            with pytest.raises(Ended):
                stream.rest()
        assert running.process.wait(WITHIN_S) == 0
        assert time.monotonic() - began < 10
        assert {row(running, ident).outcome for ident in done} == {Outcome.COMPLETE}
        for stream in streams:
            record = row(running, stream.id)
            assert (record.outcome, record.body_state) == (Outcome.INTERRUPTED, BodyState.STORED)
            assert running.body(record)["response"]["body"] == EVENT.decode()
        assert b"Traceback" not in running.said()


def test_a_call_is_exported_though_no_schedule_ever_ran(start: Start) -> None:
    acme = Organisation("mdm_st_" + "a" * 32)
    with serving(IngestButler([acme])) as butler, start() as running:
        environ = {**running.environ, "MDM_STEWARD_TOKEN": acme.token}
        registered = run_command(environ, "register", "--butler-url", butler.url)
        assert registered.returncode == 0, registered.stderr
        with database(running) as connection:
            connection.execute(text("UPDATE api_keys SET org_id = :org").bindparams(org=acme.org_id))
        ident = str(chat(running))
        assert ident in acme.records, "it is with Butler when its caller has his answer"


def test_a_caller_who_leaves_takes_the_provider_with_him_and_leaves_his_row(start: Start, provider: Scripted) -> None:
    with start() as running:
        stream = Stream(running)
        [asked] = provider.server.take()
        stream.close()
        assert asked.gone.wait(WITHIN_S)
        provider.may_end.set()
        eventually(lambda: row(running, stream.id).outcome is Outcome.CLIENT_CANCELLED, WITHIN_S)


def test_what_the_provider_breaks_does_not_end_cleanly(start: Start, provider: Scripted) -> None:
    provider.breaks = True
    with start() as running:
        stream = Stream(running)
        provider.may_end.set()
        with pytest.raises(Ended):
            stream.rest()
        eventually(lambda: row(running, stream.id).outcome is Outcome.UPSTREAM_FAILED, WITHIN_S)
        assert chat(running)
        assert b"Traceback" not in running.said() and b"Internal Server Error" not in running.said()


def test_lines_say_how_severe_they_are(start: Start) -> None:
    """As Cloud Logging reads it."""
    with start() as running:
        chat(running)
        [said] = [line for line in running.said().splitlines() if b'"event":"call"' in line or b'"event": "call"' in line]
        assert re.search(rb'"severity": ?"INFO"', said)
