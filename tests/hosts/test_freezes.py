"""Sandboxes that are frozen, thawed, killed and doubled: what becomes of the calls they had.

One installation on a PostgreSQL of its own, over a way that can hold, cut and lose what is said to it. Nothing waits
for a time: each story goes on when the one before it can be seen.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import orjson
import pytest

from steward.adapters.postgres_local import LocalPostgres
from steward.exchange import BodyState, Outcome, Record
from tests.hosts.entries import (
    BUFFERED,
    STREAMING,
    Entry,
    of_sandbox,
    of_stream,
    on_lambda,
    registered,
    request_id,
)
from tests.hosts.fronts import Alb, fields_of
from tests.servers.examples import respond
from tests.servers.ingest_butler import IngestButler
from tests.servers.lambda_sandbox import Invocation, Reset, Sandbox, Then
from tests.servers.plain_http import Message, Request
from tests.servers.postgres import _with_template
from tests.servers.postgres_way import Way, way_to
from tests.servers.socket_provider import Answer, Provider, Received
from tests.servers.steward import Installation
from tests.servers.stores import Said, scripted
from tests.servers.waiting import eventually

KINDS = ("buffered", "waits", "streams")
WITHIN_S = 60.0
TRUSTED_S = 5.5
"""A little more than a connection may rest between two calls and be trusted yet."""
CALL = Request(
    b"POST",
    b"/v1/chat/completions",
    [(b"Authorization", b"Bearer sk-test"), (b"Content-Type", b"application/json")],
    orjson.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Guten Tag"}]}),
)


@dataclass
class Stage:
    """Where the stories play."""

    made: Installation
    butler: IngestButler
    way: Way
    server: LocalPostgres
    provider: Provider
    folder: Path
    numbers: Iterator[int] = field(default_factory=count)
    seen: set[str] = field(default_factory=set)

    @contextmanager
    def open(self, kind: str, **settings: str) -> Iterator[Entry]:
        """A sandbox of its own."""
        way = {"POSTGRES_HOST": "127.0.0.1", "POSTGRES_PORT": str(self.way.port), "POSTGRES_SSLMODE": "disable"}
        environ = on_lambda(self.made.environ, **way, **settings)
        folder = self.folder / f"sandbox-{next(self.numbers)}"
        if kind == "streams":
            with Sandbox("handlers.aws_lambda_stream", environ, folder, STREAMING) as sandbox:
                yield of_stream(self.made, self.butler, sandbox)
        else:
            waits = {"AFTER_RESPONSE_WAIT": "on"} if kind == "waits" else {}
            with Sandbox(BUFFERED, environ | waits, folder) as sandbox:
                yield of_sandbox(kind, self.made, self.butler, sandbox, Alb())

    def new_rows(self) -> list[Record]:
        """Rows of calls that no test has spoken of yet."""
        return [record for record in self.made.rows() if str(record.id) not in self.seen]

    def one_new(self) -> Record:
        """The only one, which is spoken of by this."""
        (record,) = self.new_rows()
        return record

    def close(self, *records: Record) -> None:
        """The story of these is told; there are no others."""
        assert {record.id for record in self.new_rows()} == {record.id for record in records}
        self.seen |= {str(record.id) for record in records}

    def exported(self, record: Record) -> bool:
        """Whether Butler has the row as it is."""
        with self.butler.lock:
            known = self.butler.organisations[0].records.get(str(record.id), {})
        return (known.get("outcome"), known.get("body_state")) == (record.outcome, record.body_state)


def begin(entry: Entry, request: Request = CALL, then: Then = "goes_on") -> Invocation:
    """Hands a call with the key over and returns at once."""
    assert entry.front is not None
    assert entry.sandbox is not None
    fields = [*fields_of(request), (b"x-majordomo-key", entry.installation.key.encode())]
    return entry.sandbox.begin(entry.front.event(request, fields), then)


def answer_to(entry: Entry, call: Invocation) -> Message:
    """What its caller gets in the end."""
    assert entry.front is not None
    return entry.front.message(call.answered() if entry.name == "stream" else call.response())


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with ExitStack() as undo:
        data = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="steward-pg-test-", dir="/tmp")))
        data.chmod(0o755)
        server = undo.enter_context(LocalPostgres(data / "data", tcp=True, for_tests=True))
        assert server.tcp_port is not None
        _with_template(server)
        way = undo.enter_context(way_to("127.0.0.1", server.tcp_port))
        provider = Provider(respond)
        undo.callback(provider.close)
        folder = tmp_path_factory.mktemp("freezes")
        made, butler = undo.enter_context(registered(server, folder, provider.url, tcp=True))
        yield Stage(made, butler, way, server, provider, folder)


@pytest.fixture(autouse=True)
def _in_order(stage: Stage) -> Iterator[None]:
    """Every story begins with a network, a database and a provider that are well."""
    stage.provider.respond = respond
    yield
    stage.way.come_up()
    stage.way.release()
    stage.seen |= {str(record.id) for record in stage.made.rows()}


@pytest.fixture(scope="module", params=KINDS)
def warm(request: pytest.FixtureRequest, stage: Stage) -> Iterator[Entry]:
    """A sandbox of each kind that has served a call; for stories that do not end it."""
    stage.provider.respond = respond
    with stage.open(request.param) as entry:
        stage.close(served(stage, entry))
        yield entry


def idle(entry: Entry) -> None:
    assert entry.sandbox is not None
    entry.sandbox.idle()


def served(stage: Stage, entry: Entry) -> Record:
    """A call that nothing befalls: all of it is done when the sandbox is frozen, and nothing runs afterwards."""
    answer = entry.call(CALL)
    assert answer.status == 200
    idle(entry)
    row = stage.made.ledger.get(stage.made.rows(1)[0].org_id, stage.made.rows(1)[0].id)
    assert row is not None
    assert str(row.record.id) == request_id(answer)
    assert (row.record.outcome, row.record.body_state) == (Outcome.COMPLETE, BodyState.STORED)
    assert stage.exported(row.record)
    assert stage.made.body(row.record)["request"]
    return row.record


def held_at_the_provider(
    stage: Stage, then: Callable[[], object] = lambda: None
) -> tuple[threading.Event, threading.Event]:
    """The provider has a call, whose intent is written, and waits. First what tells that, then what lets it go on."""
    there, on = threading.Event(), threading.Event()

    def told(received: Received) -> Answer:
        eventually(lambda: any(each.outcome is Outcome.INTERRUPTED for each in stage.new_rows()), WITHIN_S)
        there.set()
        assert on.wait(WITHIN_S)
        then()
        return respond(received)

    stage.provider.respond = told
    return there, on


def test_all_is_done_when_the_sandbox_freezes(stage: Stage, warm: Entry) -> None:
    """Row, body and export, in the same invocation: no schedule has run, and nothing is left to a later one."""
    stage.close(*(served(stage, warm) for _ in range(3)))


def test_the_caller_does_not_wait_for_what_comes_after(stage: Stage) -> None:
    """The answer is complete while the database takes nothing: the work is done behind it, by the extension or loop."""
    for kind in ("buffered", "streams"):
        with stage.open(kind) as entry:
            _, on = held_at_the_provider(stage, stage.way.hold)
            on.set()
            call = begin(entry)
            answer = answer_to(entry, call)
            assert answer.status == 200
            stage.way.wait_held()
            assert stage.one_new().outcome is Outcome.INTERRUPTED
            stage.way.release()
            idle(entry)
            record = stage.one_new()
            assert (record.outcome, record.body_state) == (Outcome.COMPLETE, BodyState.STORED)
            stage.close(record)


@pytest.mark.parametrize("kind", ["buffered", "streams"])
def test_frozen_right_after_the_response(stage: Stage, kind: str) -> None:
    """Whatever was left to do is done when the process goes on; until then its row says `interrupted`."""
    with stage.open(kind) as entry:
        assert entry.sandbox is not None
        _, on = held_at_the_provider(stage, stage.way.hold)
        on.set()
        answer = answer_to(entry, begin(entry, then="freeze"))
        assert answer.status == 200
        record = stage.one_new()
        assert str(record.id) == request_id(answer)
        assert (record.outcome, record.body_state) == (Outcome.INTERRUPTED, BodyState.LOST)
        stage.way.release()
        stage.provider.respond = respond
        entry.sandbox.thaw()
        idle(entry)
        after = served(stage, entry)
        first = stage.made.settled(request_id(answer))
        assert (first.outcome, first.body_state) == (Outcome.COMPLETE, BodyState.STORED)
        assert stage.exported(first)
        stage.close(first, after)


@pytest.mark.parametrize("kind", ["buffered", "streams"])
def test_killed_between_response_and_settling(stage: Stage, kind: str) -> None:
    """Its caller has the answer; its row says what is known, and keeps saying it once the next sandbox has settled."""
    with stage.open(kind) as entry:
        _, on = held_at_the_provider(stage, stage.way.hold)
        on.set()
        answer = answer_to(entry, begin(entry, then="kill"))
        assert answer.status == 200
        stage.way.drop()
    assert_interrupted(stage, kind, request_id(answer))


@pytest.mark.parametrize("kind", ["buffered", "streams"])
def test_killed_while_the_provider_works(stage: Stage, kind: str) -> None:
    """Its caller gets a 502 of the front's own; one row, `interrupted`."""
    with stage.open(kind) as entry:
        assert entry.sandbox is not None
        there, on = held_at_the_provider(stage)
        call = begin(entry)
        assert there.wait(WITHIN_S)
        entry.sandbox.kill()
        with pytest.raises(Reset):
            call.answered()
        on.set()
    assert_interrupted(stage, kind, str(stage.one_new().id))


def assert_interrupted(stage: Stage, kind: str, ident: str) -> None:
    """One row that says so; the next sandbox serves, and changes nothing about it."""
    stage.provider.respond = respond
    before = stage.one_new()
    assert str(before.id) == ident
    with stage.open(kind) as entry:
        after = served(stage, entry)
    interrupted = next(record for record in stage.new_rows() if str(record.id) == ident)
    assert (interrupted.outcome, interrupted.body_state) == (Outcome.INTERRUPTED, BodyState.LOST)
    stage.close(interrupted, after)


@pytest.mark.parametrize("kind", ["buffered", "streams"])
def test_two_calls_overlap_in_two_sandboxes(stage: Stage, kind: str) -> None:
    """Both are with the provider at once; each gets his own answer, row and body."""
    both = threading.Barrier(2)

    def told(received: Received) -> Answer:
        both.wait(WITHIN_S)
        return Answer(200, [(b"Content-Type", b"application/json")], [received.message.body])

    stage.provider.respond = told
    with stage.open(kind) as one, stage.open(kind) as other:
        asked = {entry: orjson.dumps({"model": "gpt-4o", "user": str(id(entry))}) for entry in ("one", "other")}
        calls = [
            (entry, body, begin(entry, Request(CALL.method, CALL.target, CALL.fields, body)))
            for entry, body in zip((one, other), asked.values(), strict=True)
        ]
        records = []
        for entry, body, call in calls:
            answer = answer_to(entry, call)
            assert answer.body == body
            idle(entry)
            records.append(stage.made.settled(request_id(answer)))
            assert stage.made.body(records[-1])["response"]["body"] == orjson.loads(body)
        assert all(map(stage.exported, records))  # each by whichever had it in hand, so both must have ended
        stage.close(*records)


def test_wakes_to_connections_that_were_closed(stage: Stage, warm: Entry) -> None:
    """The database was restarted while the sandbox was frozen."""
    idle(warm)
    stage.server.stop()
    stage.server.start()
    stage.close(served(stage, warm))


def test_wakes_to_connections_that_vanished(stage: Stage) -> None:
    """Nobody told the sandbox: after a gap in which that happens, it trusts no connection that rested.

    A network forgets a connection after minutes; the gap after which Steward itself does not trust one is enough.
    """
    with ExitStack() as undo:
        entries = [undo.enter_context(stage.open(kind)) for kind in KINDS]
        before = [served(stage, entry) for entry in entries]
        stage.way.vanish()
        trusted_until = time.monotonic() + TRUSTED_S
        eventually(lambda: time.monotonic() > trusted_until)
        stage.close(*before, *(served(stage, entry) for entry in entries))


def test_the_database_is_down_during_the_call(stage: Stage, warm: Entry) -> None:
    """The call is served, and settled with the next."""
    idle(warm)
    stage.way.go_down()
    answer = warm.call(CALL)
    assert answer.status == 200
    idle(warm)
    assert stage.new_rows() == []
    stage.way.come_up()
    after = served(stage, warm)
    first = stage.made.settled(request_id(answer))
    assert (first.outcome, first.body_state) == (Outcome.COMPLETE, BodyState.STORED)
    stage.close(first, after)


def test_the_store_is_down_during_the_call(stage: Stage) -> None:
    """The row is there at once, its body with one of the next calls: over S3, which answers 503 meanwhile."""
    with scripted() as s3:
        keys = {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret"}
        store = {"BODY_STORE_URL": "s3://bodies/calls", "BODY_STORE_S3_ENDPOINT": s3.address, **keys}
        with stage.open("buffered", **store) as entry:
            s3.answer = lambda _: Said(503)
            answer = entry.call(CALL)
            assert answer.status == 200
            idle(entry)
            first = stage.one_new()
            assert (first.outcome, first.body_state) == (Outcome.COMPLETE, BodyState.PENDING)
            s3.answer = lambda _: Said(200, {"ETag": '"0"'})
            for _ in range(2):
                entry.call(CALL)
                idle(entry)
        records = stage.new_rows()
        stored = [record for record in records if record.body_state is BodyState.STORED]
        assert first.id in {record.id for record in stored}
        assert len(records) == 3
        put = {asked.path.partition("?")[0] for asked in s3.asked if asked.method == "PUT"}
        assert {f"/bodies/calls/{record.body_key}" for record in stored} <= put
        stage.close(*records)


def test_the_provider_fails_in_the_middle(stage: Stage, warm: Entry) -> None:
    """A whole error where nothing was sent yet; else a break that says it is one. Never a part that looks whole."""
    stage.provider.respond = lambda _: Answer(
        200, [(b"Content-Type", b"text/event-stream")], [b'data: {"a": 1}\n\n'], "chunked", cut=True
    )
    call = begin(warm)
    answered = call.answered()
    idle(warm)
    if warm.name == "stream":
        assert [name for name, _ in answered.trailers if b"Error-Type" in name]
    else:
        answer = answer_to(warm, call)
        assert answer.status == 502
        assert b"data:" not in answer.body
    record = stage.one_new()
    assert record.outcome is Outcome.UPSTREAM_FAILED
    assert stage.exported(record)
    stage.close(record)


def test_a_stream_is_streamed_or_says_that_it_was_not(stage: Stage, warm: Entry) -> None:
    """The second event is sent when the first is here, where the host streams; elsewhere it says that it did not."""
    has_the_first = threading.Event()
    if warm.name != "stream":
        has_the_first.set()

    def one_by_one() -> Iterator[bytes]:
        yield b'data: {"first": 1}\n\n'
        assert has_the_first.wait(WITHIN_S)
        yield b"data: [DONE]\n\n"

    stage.provider.respond = lambda _: Answer(200, [(b"Content-Type", b"text/event-stream")], one_by_one(), "chunked")
    call = begin(warm)
    if warm.name == "stream":
        eventually(lambda: call.answer is not None and b"first" in call.answer.body)
        assert not call.over.is_set()
        has_the_first.set()
    answer = answer_to(warm, call)
    assert answer.body == b'data: {"first": 1}\n\ndata: [DONE]\n\n'
    said = [value for name, value in answer.ours() if name == b"x-majordomo-streaming"]
    assert said == ([] if warm.name == "stream" else [b"buffered"])
    idle(warm)
    record = stage.one_new()
    assert record.streamed
    assert record.body_state is BodyState.STORED
    stage.close(record)


@pytest.mark.parametrize(("size", "coding"), [(1_100_000, b""), (800_000, b"gzip")])
def test_an_answer_that_a_load_balancer_cannot_carry(stage: Stage, warm: Entry, size: int, coding: bytes) -> None:
    """An error in the caller's dialect and a full row, also where base64 alone makes it too large."""
    fields = [(b"Content-Type", b"application/json"), *([(b"Content-Encoding", coding)] if coding else [])]
    stage.provider.respond = lambda _: Answer(200, fields, [b"[" + b" " * size + b"]"])
    answer = answer_to(warm, begin(warm))
    idle(warm)
    record = stage.one_new()
    assert str(record.id) == request_id(answer)
    if warm.name == "stream":
        assert (answer.status, len(answer.body)) == (200, size + 2)
    else:
        assert answer.status == 502
        said = orjson.loads(answer.body)["error"]
        assert "1 MB" in said["message"]
        assert record.status_code == 502
        assert record.error_message is not None
    assert record.model is not None
    assert stage.exported(record)
    stage.close(record)


def test_a_request_that_a_load_balancer_would_not_have_carried(stage: Stage, warm: Entry) -> None:
    """413 in the caller's dialect, a row of it, and the provider is not asked."""
    body = orjson.dumps({"model": "claude-haiku-4-5", "max_tokens": 9, "messages": "x" * 1_100_000})
    fields = [(b"x-api-key", b"sk-ant"), (b"Content-Type", b"application/json")]
    stage.provider.take()
    answer = answer_to(warm, begin(warm, Request(b"POST", b"/v1/messages", fields, body)))
    idle(warm)
    if warm.name == "stream":
        assert answer.status == 200
    else:
        assert answer.status == 413
        said: Any = orjson.loads(answer.body)
        assert (said["type"], said["error"]["type"]) == ("error", "request_too_large")
        assert stage.provider.take() == []
    stage.close(stage.one_new())


def test_a_host_without_extensions_settles_before_it_answers(stage: Stage) -> None:
    """Lambda refuses the extension: then the caller waits, and nothing is left to the freeze that follows at once."""
    with ExitStack() as undo:
        way = {"POSTGRES_HOST": "127.0.0.1", "POSTGRES_PORT": str(stage.way.port)}
        environ = on_lambda(stage.made.environ, **way)
        folder = stage.folder / "refused"
        sandbox = undo.enter_context(Sandbox(BUFFERED, environ, folder, extensions=False))
        entry = of_sandbox("refused", stage.made, stage.butler, sandbox, Alb())
        answer = answer_to(entry, begin(entry, then="freeze"))
        assert answer.status == 200
        record = stage.one_new()
        assert (record.outcome, record.body_state) == (Outcome.COMPLETE, BodyState.STORED)
        assert stage.exported(record)
        assert sandbox.extensions == []
        stage.close(record)


def test_what_the_caller_waits_for_is_done_when_he_has_his_answer(stage: Stage) -> None:
    """AFTER_RESPONSE_WAIT on: settled and exported, whatever the host does in that instant."""
    with stage.open("waits") as entry:
        answer = answer_to(entry, begin(entry, then="kill"))
        assert answer.status == 200
    record = stage.one_new()
    assert (record.outcome, record.body_state) == (Outcome.COMPLETE, BodyState.STORED)
    assert stage.exported(record)
    stage.close(record)
