"""The streaming runtime as Lambda starts it: a process of its own against the Runtime API, PostgreSQL and a provider.

What comes before what is told by handshakes: the provider goes on only when the test has seen what it sent before.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl
from uuid import UUID

import orjson
import pytest

from handlers.aws_lambda_stream import Runtime, Times, asked_of
from handlers.aws_streamed_answers import Asked
from handlers.runtime_api import Fault, RuntimeApi
from steward.adapters.postgres_directory import PostgresDirectory
from steward.adapters.postgres_ledger import PostgresLedger
from steward.adapters.postgres_local import LocalPostgres
from steward.exchange import LOCAL_ORG, BodyState, ErrorCode, Outcome, Record
from steward.wiring.hosted import Hosted
from tests.handlers.lambda_events import function_url, rest_proxy
from tests.said import listening
from tests.sdk.ways import assert_same_request
from tests.servers.examples import respond
from tests.servers.plain_http import Fields, Request, call
from tests.servers.postgres import Database, _database
from tests.servers.replay import Recording, recordings, replay
from tests.servers.socket_provider import Answer, Provider, Received
from tests.servers.steward import REPOSITORY, RunningSteward, _environ
from tests.servers.streaming_runtime_api import Invoked, RuntimeApiServer
from tests.servers.waiting import eventually
from tests.services import ENCRYPTION_KEY

FRONTS = {"url": function_url, "rest": rest_proxy}
SSE: Fields = [(b"Content-Type", b"text/event-stream")]
EVENTS = [
    b'data: {"id":"1","object":"chat.completion.chunk","model":"gpt-4o-mini","choices":[]}\n\n',
    b'data: {"id":"1","model":"gpt-4o-mini","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n',
    b"data: [DONE]\n\n",
]
CHAT = "/v1/chat/completions"
ASKED = b'{"model":"gpt-4o-mini","stream":true}'
RECORDINGS = recordings()
CREDENTIALS: dict[str, Fields] = {
    "openai": [(b"Authorization", b"Bearer sk-test")],
    "anthropic": [(b"x-api-key", b"sk-ant-test"), (b"anthropic-version", b"2023-06-01")],
    "gemini": [(b"x-goog-api-key", b"AIza-test")],
}
WITHIN_S = 60.0
KEY = "mdm_sk_" + "k" * 40
MIB = 1 << 20
LARGE, PIECE = 80 * MIB, 65_536


class Scripted:
    """A provider that does what the test set; else the recordings and the examples."""

    def __init__(self) -> None:
        self.go_on = threading.Semaphore(0)
        """One piece more is sent for each release."""
        self.answer: Callable[[Received], Answer] | None = None
        self._otherwise = replay(RECORDINGS, respond)
        self.server = Provider(lambda received: (self.answer or self._otherwise)(received))

    def new_play(self) -> None:
        """As before any test."""
        self.answer = None
        self.go_on.release(1_000)
        self.go_on = threading.Semaphore(0)
        self.server.take()

    def close(self) -> None:
        self.go_on.release(1_000)
        self.server.close()

    def streams(self, pieces: list[bytes], cut: bool = False) -> None:
        """From now on: the first piece at once, each further one when the test lets it."""
        go_on = self.go_on

        def paced() -> Iterator[bytes]:
            for number, piece in enumerate(pieces):
                if number:
                    assert go_on.acquire(timeout=WITHIN_S)
                yield piece

        self.answer = lambda _: Answer(200, SSE, paced(), "chunked", cut)


@dataclass
class Sandbox:
    """A runtime that was started, and what it was started on."""

    api: RuntimeApiServer
    provider: Scripted
    steward: RunningSteward
    database: Database

    @property
    def process(self) -> subprocess.Popen[bytes]:
        return self.steward.process

    def key(self) -> Fields:
        return [(b"X-Majordomo-Key", self.steward.key.encode())]

    def chat(self, front: Any = function_url, body: bytes = ASKED, **options: Any) -> Invoked:
        sent = [(b"Authorization", b"Bearer sk-x"), (b"Content-Type", b"application/json"), *self.key()]
        return self.api.invoke(front("POST", CHAT, sent, body), **options)

    def behind(self, invoked: Invoked) -> None:
        """Waits until the runtime has done with it and asked for the next event."""
        assert invoked.behind.wait(WITHIN_S), self.steward.said()

    def row(self, invoked: Invoked) -> Record:
        """Its row, as it stands when the runtime asks for the next event."""
        self.behind(invoked)
        return self.row_now(invoked)

    def row_now(self, invoked: Invoked) -> Record:
        found = self.steward.ledger.get(LOCAL_ORG, UUID(invoked.request_id()))
        assert found is not None
        return found.record

    def ids(self) -> set[str]:
        return {str(row.id) for row in self.steward.rows()}

    def bodies(self) -> int:
        return sum(path.is_file() for path in self.steward.bodies.rglob("*"))


@contextmanager
def sandbox_on(server: LocalPostgres, folder: Path, **settings: str) -> Iterator[Sandbox]:
    """A runtime on an installation of its own. Nothing of a call may be left in its /tmp."""
    temporary = folder / "tmp"
    temporary.mkdir()
    with ExitStack() as undo:
        api, provider = RuntimeApiServer(), Scripted()
        undo.callback(api.close)
        undo.callback(provider.close)
        database = undo.enter_context(contextmanager(_database)(server, "steward_template"))
        environ = {**_environ(database.address, folder, provider.server.url), "AWS_LAMBDA_RUNTIME_API": api.authority}
        environ |= {"ENCRYPTION_KEY": ENCRYPTION_KEY, "TMPDIR": str(temporary), "AFTER_RESPONSE_BUDGET": "20s"}
        environ |= settings
        del environ["SPOOL_DIR"]
        ledger, log = PostgresLedger(database.engine), folder / "runtime.log"
        directory = PostgresDirectory(database.engine, database.keyring, None)  # type: ignore[arg-type]
        made = directory.create_key(LOCAL_ORG, "tests", hashlib.sha256(KEY.encode()).hexdigest())
        process = undo.enter_context(running(environ, log))
        undo.callback(left_clean, temporary)
        steward = RunningSteward(KEY, made.id, environ, folder / "bodies", log, ledger, 0, process)
        assert api.next_asked.acquire(timeout=WITHIN_S), steward.said()
        yield Sandbox(api, provider, steward, database)


@pytest.fixture
def start(postgres_server: LocalPostgres, tmp_path: Path) -> Iterator[Callable[..., Sandbox]]:
    """Starts a runtime of a test's own: `start(SETTING="value")`."""
    with ExitStack() as undo:
        yield lambda **settings: undo.enter_context(sandbox_on(postgres_server, tmp_path, **settings))


@pytest.fixture(scope="module")
def serving(postgres_server: LocalPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with sandbox_on(postgres_server, tmp_path_factory.mktemp("sandbox")) as made:
        yield made


@pytest.fixture
def sandbox(serving: Sandbox) -> Iterator[Sandbox]:
    """One runtime for all tests that leave it as it was: it serves one event after the other, and never ends."""
    serving.provider.new_play()
    yield serving
    assert serving.process.poll() is None, serving.steward.said()


class running:  # noqa: N801 - a context manager
    """The runtime; killed in the end, if it still runs."""

    def __init__(self, environ: dict[str, str], log: Path) -> None:
        with log.open("ab") as out:
            command = (sys.executable, "-m", "handlers.aws_lambda_stream")
            self._process = subprocess.Popen(command, env=environ, cwd="/", stdout=out, stderr=out)

    def __enter__(self) -> subprocess.Popen[bytes]:
        return self._process

    def __exit__(self, *raised: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()


def left_clean(temporary: Path) -> None:
    assert list(temporary.rglob("*")) == []


@pytest.mark.parametrize("front", FRONTS.values(), ids=FRONTS)
def test_each_event_is_there_before_the_provider_sends_the_next(sandbox: Sandbox, front: Any) -> None:
    """And when the runtime asks for the next event, the call is settled: one row, one body."""
    rows, bodies = sandbox.ids(), sandbox.bodies()
    sandbox.provider.streams(EVENTS)
    invoked = sandbox.chat(front)
    assert invoked.prelude()["statusCode"] == 200
    assert invoked.prelude()["headers"]["content-type"] == "text/event-stream"
    for event in EVENTS:
        assert invoked.next_piece() == event
        sandbox.provider.go_on.release()
    assert invoked.next_piece() is None
    assert (invoked.trailers, invoked.cut) == ([], False)
    row = sandbox.row(invoked)
    assert sandbox.ids() - rows == {invoked.request_id()}
    assert (row.outcome, row.status_code, row.body_state) == (Outcome.COMPLETE, 200, BodyState.STORED)
    assert (row.input_tokens, row.output_tokens) == (7, 3)
    assert sandbox.bodies() == bodies + 1
    assert sandbox.steward.body(row)


@pytest.mark.skipif(not RECORDINGS, reason="no recordings: ../shared/corpus is absent")
@pytest.mark.parametrize("front", FRONTS.values(), ids=FRONTS)
def test_every_recording_passes_unchanged(sandbox: Sandbox, front: Any) -> None:
    """What the caller gets and what the provider is sent, directly and by the runtime; one row each, a body at most."""
    rows, bodies, seen, kept = sandbox.ids(), sandbox.bodies(), set(), set()
    for recording in RECORDINGS.values():
        sent = _fields(recording)
        request = Request(recording.method.encode(), recording.target.encode(), sent, recording.request_body)
        direct = call(sandbox.provider.server.port, request)
        [told_directly] = sandbox.provider.server.take()
        event = front(recording.method, recording.target, [*sent, *sandbox.key()], recording.request_body)
        invoked = sandbox.api.invoke(event)
        assert invoked.body() == recording.body == direct.body, recording.id
        assert invoked.trailers == []
        [told] = sandbox.provider.server.take()
        if front is rest_proxy:  # it has decoded the query
            assert parse_qsl(told.target.decode()) == parse_qsl(told_directly.target.decode())
            told = replace(told, message=replace(told.message, head=_with_target(told, told_directly)))
        assert_same_request(told, told_directly)
        _assert_same_head(invoked.prelude(), direct.status, direct.end_to_end(), direct.head.values(b"content-length"))
        row = sandbox.row(invoked)
        assert row.outcome is Outcome.COMPLETE, recording.id
        assert row.body_state in {BodyState.STORED, BodyState.NONE}, recording.id
        seen.add(str(row.id))
        kept |= {row.body_key} - {None}
    assert sandbox.ids() - rows == seen
    assert len(seen) == len(RECORDINGS)
    assert len(kept) == sandbox.bodies() - bodies > len(seen) / 2


def _fields(recording: Recording) -> Fields:
    sent: Fields = [(b"X-Recording-Id", recording.id.encode()), *CREDENTIALS[recording.provider]]
    sent += [(b"accept-encoding", b"gzip, br"), (b"User-Agent", b"plain/1")]
    if recording.content_type:
        sent.append((b"Content-Type", recording.content_type.encode()))
    if recording.provider == "anthropic" and recording.endpoint == "chat":
        sent.append((b"X-Majordomo-Provider", b"anthropic"))
    return sent


def _with_target(told: Received, directly: Received) -> Any:
    return replace(told.message.head, first=directly.message.head.first)


def _assert_same_head(said: Any, status: int, fields: Fields, lengths: list[bytes]) -> None:
    assert said["statusCode"] == status
    values: dict[str, list[str]] = {}
    for name, value in fields:
        values.setdefault(name.decode(), []).append(value.decode("latin-1"))
    if lengths:
        values["content-length"] = [length.decode() for length in lengths]
    told = {name: [value] for name, value in said["headers"].items()} | said.get("multiValueHeaders", {})
    if "cookies" in said:
        told["set-cookie"] = said["cookies"]
    assert told.pop("x-majordomo-request-id")
    assert told == values


def test_a_stream_that_the_provider_breaks_never_ends_as_if_it_were_whole(sandbox: Sandbox) -> None:
    sandbox.provider.streams(EVENTS[:2], cut=True)
    invoked = sandbox.chat()
    assert invoked.next_piece() == EVENTS[0]
    sandbox.provider.go_on.release()
    assert invoked.body() == EVENTS[1]
    kind, document = invoked.fault()
    assert kind == document["errorType"] == "Steward.StreamBroken"
    row = sandbox.row(invoked)
    assert (row.outcome, row.body_state) == (Outcome.UPSTREAM_FAILED, BodyState.STORED)


def test_killed_while_it_streams_and_the_next_sandbox_serves(start: Callable[..., Sandbox], tmp_path: Path) -> None:
    sandbox = start()
    sandbox.provider.streams(EVENTS)
    invoked = sandbox.chat()
    assert invoked.next_piece() == EVENTS[0]
    eventually(lambda: len(sandbox.steward.rows()) == 1)
    sandbox.process.kill()
    sandbox.process.wait()
    assert invoked.done.wait(WITHIN_S)
    assert invoked.cut
    [row] = sandbox.steward.rows()
    assert (row.outcome, row.body_state) == (Outcome.INTERRUPTED, BodyState.LOST)
    sandbox.provider.go_on.release(10)
    with running(dict(sandbox.steward.environ), tmp_path / "runtime.log"):
        again = sandbox.chat()
        assert again.body() == b"".join(EVENTS)
        assert sandbox.row(again).outcome is Outcome.COMPLETE
    assert len(sandbox.steward.rows()) == 2


def test_one_event_after_the_other(sandbox: Sandbox) -> None:
    """Also after one that failed: nothing of a call stays for the next."""
    rows = sandbox.ids()
    first, second, third = sandbox.chat(), sandbox.api.invoke({"Records": []}), sandbox.chat()
    body = first.body()
    assert b"[DONE]" in body
    assert third.body() == body
    assert second.error["errorType"] == "Steward.NotHttp"
    sandbox.behind(third)
    assert sandbox.ids() - rows == {first.request_id(), third.request_id()}


def test_a_large_answer_streams_through_little_memory(start: Callable[..., Sandbox]) -> None:
    """What the other side does not read waits at the provider; and of all that passes only what is captured is kept."""
    sandbox = start(CAPTURE="metadata", CAPTURE_MAX_BYTES="16MiB")
    first = sandbox.chat()
    first.body()
    sandbox.behind(first)
    sent = 0

    def large() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(LARGE // PIECE):
            sent += PIECE
            yield bytes(PIECE)

    before = _peak(sandbox.process.pid)
    sandbox.provider.answer = lambda _: Answer(200, SSE, large(), "chunked")
    invoked = sandbox.chat(reads=threading.Event())
    assert _still(lambda: sent) < LARGE / 4, "it was read ahead of who takes it"
    invoked.reads.set()
    size = 0
    while piece := invoked.next_piece():
        size += len(piece)
    assert size == LARGE
    row = sandbox.row(invoked)
    assert (row.outcome, row.response_bytes, row.truncated) == (Outcome.COMPLETE, LARGE, True)
    assert _peak(sandbox.process.pid) - before < LARGE / 2


def _still(value: Callable[[], int]) -> int:
    """The value once it has not changed for fifty looks."""
    seen: list[int] = []

    def unchanged() -> bool:
        seen.append(value())
        return len(seen) > 50 and seen[-1] > 0 and len(set(seen[-50:])) == 1

    eventually(unchanged)
    return seen[-1]


def _peak(pid: int) -> int:
    """The most memory that the process ever had, in octets."""
    status = Path(f"/proc/{pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def test_a_compressed_stream_is_not_touched(sandbox: Sandbox) -> None:
    packed = gzip.compress(b"".join(EVENTS), mtime=0)
    fields = [*SSE, (b"Content-Encoding", b"gzip")]
    sandbox.provider.answer = lambda _: Answer(200, fields, [packed[:20], packed[20:]], "chunked")
    invoked = sandbox.chat()
    assert invoked.body() == packed
    assert invoked.prelude()["headers"]["content-encoding"] == "gzip"
    row = sandbox.row(invoked)
    assert (row.input_tokens, row.output_tokens, row.body_state) == (7, 3, BodyState.STORED)


@pytest.mark.parametrize(
    ("method", "status", "fields"),
    [
        ("HEAD", 200, [(b"X-Of-It", b"1")]),
        ("GET", 204, []),
        ("GET", 304, [(b"ETag", b'"a"')]),
        ("DELETE", 200, []),
    ],
)
def test_answers_without_a_body(sandbox: Sandbox, method: str, status: int, fields: Fields) -> None:
    sandbox.provider.answer = lambda _: Answer(status, fields, [], "close" if status in (204, 304) else "length")
    sent = [*CREDENTIALS["openai"], *sandbox.key()]
    invoked = sandbox.api.invoke(function_url(method, "/v1/files/file-1", sent))
    assert invoked.prelude()["statusCode"] == status
    assert invoked.body() == b""
    assert invoked.trailers == []
    for name, value in fields:
        assert invoked.prelude()["headers"][name.decode().lower()] == value.decode()
    row = sandbox.row(invoked)
    assert (row.outcome, row.status_code, row.request_method) == (Outcome.COMPLETE, status, method)


def test_the_functions_time_runs_out_while_the_provider_streams(sandbox: Sandbox) -> None:
    """The caller's stream breaks, and the row has what came: nothing is cut in silence."""
    sandbox.provider.streams(EVENTS)
    invoked = sandbox.chat(within_s=6.0)
    assert invoked.body() == EVENTS[0]
    assert invoked.fault()[0] == "Steward.Deadline"
    row = sandbox.row(invoked)
    assert (row.outcome, row.status_code, row.body_state) == (Outcome.TIMED_OUT, 200, BodyState.STORED)
    assert row.response_bytes == len(EVENTS[0])


def test_a_call_that_was_cut_keeps_its_facts_without_a_body(start: Callable[..., Sandbox]) -> None:
    """Its row takes the place of the intent, which has none of them."""
    sandbox = start(CAPTURE="metadata")
    sandbox.provider.streams(EVENTS)
    invoked = sandbox.chat(within_s=6.0)
    assert invoked.body() == EVENTS[0]
    row = sandbox.row(invoked)
    assert (row.outcome, row.status_code, row.body_state) == (Outcome.TIMED_OUT, 200, BodyState.OFF)
    assert (row.response_bytes, row.model) == (len(EVENTS[0]), "gpt-4o-mini")
    assert row.head_us is not None


def test_the_functions_time_runs_out_before_the_provider_answers(sandbox: Sandbox) -> None:
    """In the caller's dialect, and with the id by which he finds it."""
    silent = threading.Event()

    def never(_: Received) -> Answer:
        assert silent.wait(WITHIN_S)
        return Answer()

    sandbox.provider.answer = never
    sent = [*CREDENTIALS["anthropic"], *sandbox.key()]
    invoked = sandbox.api.invoke(function_url("POST", "/v1/messages", sent, ASKED), within_s=6.0)
    assert invoked.prelude()["statusCode"] == 504
    assert invoked.prelude()["headers"]["x-majordomo-error"] == "upstream_timeout"
    document = orjson.loads(invoked.body())
    assert (document["type"], "time that this host gives" in document["error"]["message"]) == ("error", True)
    silent.set()
    row = sandbox.row(invoked)
    assert (row.outcome, row.status_code) == (Outcome.TIMED_OUT, 504)


def test_lambda_takes_no_more_of_a_response(sandbox: Sandbox) -> None:
    """Beyond the front's limit: the provider is hung up on, and the row says that not all of it was taken."""
    sandbox.provider.streams(EVENTS)
    invoked = sandbox.chat(refuse_after=EVENTS[0])
    assert invoked.body() == EVENTS[0]
    assert sandbox.provider.server.newest().gone.wait(WITHIN_S)
    assert sandbox.row(invoked).outcome is Outcome.CLIENT_CANCELLED


def test_a_request_larger_than_lambda_carries_is_told_in_the_callers_dialect(sandbox: Sandbox) -> None:
    sent = [*CREDENTIALS["anthropic"], *sandbox.key()]
    invoked = sandbox.api.invoke(function_url("POST", "/v1/messages", sent, b"x" * (6 * MIB)))
    said = orjson.loads(invoked.body())
    assert invoked.prelude()["statusCode"] == 413
    assert said["type"] == "error"
    assert said["error"]["type"]
    row = sandbox.row(invoked)
    assert (row.status_code, row.outcome, row.provider) == (413, Outcome.COMPLETE, "anthropic")
    assert row.error_message is ErrorCode.INVALID_REQUEST
    assert sandbox.provider.server.take() == []


def test_what_the_listener_would_refuse(sandbox: Sandbox) -> None:
    """In the caller's dialect, and the provider sees nothing (SECURITY F9)."""
    twice = [*CREDENTIALS["gemini"], *sandbox.key(), *sandbox.key()]
    invoked = sandbox.api.invoke(rest_proxy("POST", "/v1beta/models/gemini-2.0-flash:generateContent", twice, b"{}"))
    assert invoked.prelude()["statusCode"] == 400
    assert orjson.loads(invoked.body())["error"]["status"]
    rows = sandbox.ids()
    keyless = sandbox.api.invoke(function_url("POST", CHAT, CREDENTIALS["openai"], b"{}"))
    assert keyless.prelude()["statusCode"] == 401
    assert orjson.loads(keyless.body())["error"]["code"] == "missing_key"
    sandbox.behind(keyless)
    assert sandbox.provider.server.take() == []
    assert sandbox.ids() == rows


def test_a_body_that_cannot_be_read_leaves_a_row(sandbox: Sandbox) -> None:
    sent = [*CREDENTIALS["openai"], *sandbox.key()]
    invoked = sandbox.api.invoke(function_url("POST", CHAT, sent, ASKED) | {"body": "%%%"})
    assert invoked.prelude()["statusCode"] == 400
    invoked.body()
    row = sandbox.row(invoked)
    assert (row.status_code, row.outcome, row.error_message) == (400, Outcome.COMPLETE, ErrorCode.INVALID_REQUEST)
    assert sandbox.provider.server.take() == []


@pytest.mark.parametrize("event", [function_url("PO(ST", CHAT), function_url("POST", CHAT) | {"rawPath": 7}])
def test_a_request_that_is_none_is_answered_all_the_same(sandbox: Sandbox, event: dict[str, Any]) -> None:
    invoked = sandbox.api.invoke(event)
    assert invoked.prelude()["statusCode"] == 400
    assert orjson.loads(invoked.body())["error"]["code"] == "bad_request"
    sandbox.behind(invoked)


def test_our_own_paths(sandbox: Sandbox) -> None:
    health = sandbox.api.invoke(function_url("GET", "/health"))
    assert (health.prelude()["statusCode"], bool(health.body())) == (200, True)
    ready = sandbox.api.invoke(rest_proxy("GET", "/readyz"))
    assert ready.prelude()["statusCode"] == 200
    assert ready.body()


NO_REQUEST: list[bytes] = [
    *(b"{}", b'"ping"', b"[1]", b"null", b"", b"{", b"not json", b"\xff", b'{"a":"\\ud800"}'),
    *(b'{"Records":[{"eventSource":"aws:sqs","body":"x"}]}', b'{"source":"aws.events","detail":{}}'),
    b'{"requestContext":{"elb":{}},"httpMethod":"GET","path":"/","headers":{}}',
]


@pytest.mark.parametrize("octets", [*NO_REQUEST, b"[" * 100_000], ids=range(len(NO_REQUEST) + 1))
def test_what_is_no_http_request_is_said_to_be_none(octets: bytes) -> None:
    told = asked_of(octets)
    assert isinstance(told, Fault)
    assert told.kind == "Steward.NotHttp"


def test_repeats_are_for_fronts_that_take_them() -> None:
    for make, many in ((function_url, False), (rest_proxy, True)):
        asked = asked_of(orjson.dumps(make("GET", "/v1/models")))
        assert isinstance(asked, Asked)
        assert asked.multi_value is many


async def _one_event(api: RuntimeApiServer, flushed: list[str]) -> None:
    """A loop that has nothing behind it: what is no request asks for nothing."""
    runtime = Runtime(
        RuntimeApi(api.authority), cast(Hosted, None), cast(Any, None), Times(), lambda: flushed.append("x")
    )
    running = asyncio.create_task(runtime.run())
    invoked = await asyncio.to_thread(api.invoke, b"{}")
    assert await asyncio.to_thread(invoked.behind.wait, WITHIN_S)
    runtime.stop()
    await running


def test_what_was_counted_is_written_behind_an_event_that_is_none(api: RuntimeApiServer) -> None:
    flushed: list[str] = []
    with listening():
        asyncio.run(_one_event(api, flushed))
    assert flushed == ["x"]


@pytest.mark.parametrize("event", [b"{}", b'"ping"', b"not json"])
def test_an_event_that_is_no_http_request_is_an_error_of_the_invocation(sandbox: Sandbox, event: bytes) -> None:
    invoked = sandbox.api.invoke(event)
    assert invoked.next_chunk() is None
    assert invoked.error["errorType"] == "Steward.NotHttp"
    assert invoked.head is not None
    assert invoked.head.values(b"lambda-runtime-function-error-type") == [b"Steward.NotHttp"]
    sandbox.behind(invoked)


def test_told_to_end_while_it_waits(start: Callable[..., Sandbox]) -> None:
    sandbox = start()
    invoked = sandbox.chat()
    invoked.body()
    sandbox.behind(invoked)
    sandbox.process.send_signal(signal.SIGTERM)
    assert sandbox.process.wait(WITHIN_S) == 0
    assert b'"stopped"' in sandbox.steward.said()


def test_told_to_end_while_it_streams(start: Callable[..., Sandbox]) -> None:
    sandbox = start()
    sandbox.provider.streams(EVENTS)
    invoked = sandbox.chat()
    assert invoked.next_piece() == EVENTS[0]
    eventually(lambda: len(sandbox.steward.rows()) == 1)
    sandbox.process.send_signal(signal.SIGTERM)
    assert invoked.body() == b""
    assert invoked.fault()[0] == "Steward.Stopped"
    assert sandbox.process.wait(WITHIN_S) == 0
    assert sandbox.row_now(invoked).outcome is Outcome.INTERRUPTED


def test_the_runtime_api_is_gone(start: Callable[..., Sandbox]) -> None:
    sandbox = start()
    sandbox.api.close()
    assert sandbox.process.wait(WITHIN_S) == 1
    assert b"runtime_api_lost" in sandbox.steward.said()


@pytest.fixture
def api() -> Iterator[RuntimeApiServer]:
    server = RuntimeApiServer()
    yield server
    server.close()


def test_a_start_that_fails_is_told_in_a_fixed_sentence(api: RuntimeApiServer, tmp_path: Path) -> None:
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "AWS_LAMBDA_RUNTIME_API": api.authority}
    environ |= {"ENCRYPTION_KEY": "not-a-key-but-a-secret", "PYTHONUNBUFFERED": "1"}
    with running(environ, tmp_path / "runtime.log") as process:
        head, document = api.init_errors.get(timeout=WITHIN_S)
        assert process.wait(WITHIN_S) == 2
    assert head.values(b"lambda-runtime-function-error-type") == [b"Steward.InitFailed"]
    assert document["errorMessage"] == "The Steward could not start. Its log says why."
    said = (tmp_path / "runtime.log").read_bytes()
    assert b"init_failed" in said
    assert b"ENCRYPTION_KEY" in said
    assert b"not-a-key" not in said


def test_nothing_of_a_vendor_is_imported_before_its_first_use() -> None:
    program = (
        "import sys\n"
        "before = set(sys.modules)\n"  # namespaces of the environment's own
        "from handlers.aws_lambda_stream import _started\n"
        "key = bytes(range(32)).hex()\n"
        "_started({'ENCRYPTION_KEY': key, 'BODY_STORE_URL': 's3://bucket', 'PRICING_REMOTE_URL': ''})\n"
        "late = {'boto3', 'botocore', 'mangum', 'aws_lambda_powertools', 'uvicorn', 'functions_framework', 'jwt'}\n"
        "new = set(sys.modules) - before\n"
        "print(sorted(late & new | {name for name in new if name.split('.')[0] == 'google'}))\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout.strip()) == (0, "[]"), ran.stderr


def test_a_secret_that_is_named_wrongly_is_no_value(api: RuntimeApiServer, tmp_path: Path) -> None:
    """The setting goes the way of secrets by name; what only begins like a name is an error of the start."""
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "AWS_LAMBDA_RUNTIME_API": api.authority}
    environ |= {"ENCRYPTION_KEY": ENCRYPTION_KEY, "POSTGRES_PASSWORD": "arn:aws:iam::1:user/x"}
    with running(environ, tmp_path / "runtime.log") as process:
        assert api.init_errors.get(timeout=WITHIN_S)[1]["errorType"] == "Steward.InitFailed"
        assert process.wait(WITHIN_S) == 2
    assert b"steward: POSTGRES_PASSWORD: begins like the name of a secret" in (tmp_path / "runtime.log").read_bytes()


def test_what_was_counted_is_written_behind_each_event(sandbox: Sandbox) -> None:
    """In CloudWatch's embedded format: nobody scrapes a sandbox."""
    before = sandbox.steward.said().count(b"CloudWatchMetrics")
    invoked = sandbox.chat()
    invoked.body()
    sandbox.behind(invoked)
    assert sandbox.steward.said().count(b"CloudWatchMetrics") > before


def test_time_is_kept_for_what_comes_behind_a_response() -> None:
    """Of a long time what a turn takes, of a short one a share."""
    times = Times(budget=2.0)
    assert times.cut_at(0.0, 900.0) == 895.5
    assert times.cut_at(0.0, 3.0) == pytest.approx(1.8)


def test_the_process_holds_one_connection_to_the_database(sandbox: Sandbox) -> None:
    invoked = sandbox.chat()
    invoked.body()
    sandbox.behind(invoked)
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    ours = sandbox.database.engine.pool.checkedin()  # type: ignore[attr-defined]
    [(count,)] = sandbox.database.run(others)
    assert int(str(count)) - max(0, ours - 1) == 1
