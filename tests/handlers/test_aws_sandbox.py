"""The way of one invocation: the real core, a real database, a stand-in for the provider; events as they are sent."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from handlers.aws_answers import Response
from handlers.aws_sandbox import Sandbox, kept_s
from handlers.buffered_cycle import BufferedCycle
from steward.adapters.postgres_directory import PostgresDirectory
from steward.adapters.postgres_ledger import PostgresLedger
from steward.errors import SettingError
from steward.exchange import LOCAL_ORG, BodyState, ErrorCode, Outcome, Record
from tests.handlers.extensions import INVOKE, Api, invoke
from tests.handlers.invoking import CHAT, HEADERS, KEY, Context, alb, field, octets, rest, url
from tests.said import Said, listening
from tests.servers.examples import respond
from tests.servers.postgres import Database
from tests.servers.socket_provider import Answer, Provider, Received
from tests.services import ENCRYPTION_KEY

JSON = [(b"Content-Type", b"application/json")]


@pytest.fixture(autouse=True)
def said() -> Iterator[Said]:
    with listening() as heard:
        yield heard


@pytest.fixture
def upstream() -> Iterator[Provider]:
    """A provider of this test's own, to answer as the test says."""
    server = Provider(respond)
    yield server
    server.close()


class Lambda:
    """A sandbox, and the rows it left."""

    def __init__(self, sandbox: Sandbox, database: Database, bodies: Path) -> None:
        self.sandbox = sandbox
        self.bodies = bodies
        self._ledger = PostgresLedger(database.engine)

    def __call__(self, event: Any, context: Context | None = None) -> dict[str, Any]:
        answer = self.sandbox.answer(event, context or Context())
        json.dumps(answer)
        return answer

    def rows(self) -> list[Record]:
        return [row.record for row in self._ledger.newest(LOCAL_ORG, 100)]


@pytest.fixture
def environ(postgres: Database, upstream: Provider, tmp_path: Path) -> dict[str, str]:
    directory = PostgresDirectory(postgres.engine, postgres.keyring, None)  # type: ignore[arg-type]
    directory.create_key(LOCAL_ORG, "tests", hashlib.sha256(KEY.encode()).hexdigest())
    address = postgres.address
    return {
        "ENCRYPTION_KEY": ENCRYPTION_KEY,
        "PRICING_REMOTE_URL": "",
        "POSTGRES_HOST": address.host,
        "POSTGRES_PORT": str(address.port),
        "POSTGRES_USER": address.user,
        "POSTGRES_DB": address.database,
        "BODY_STORE_URL": f"file://{tmp_path}/bodies",
        "AFTER_RESPONSE_BUDGET": "20s",
        **{f"{name}_BASE_URL": upstream.url for name in ("OPENAI", "ANTHROPIC", "GEMINI")},
    }


Opened = Callable[..., Lambda]


@pytest.fixture
def opened(environ: dict[str, str], postgres: Database, tmp_path: Path) -> Iterator[Opened]:
    """Makes sandboxes; they are closed in the end."""
    with contextlib.ExitStack() as undo:

        def open_one(**given: str) -> Lambda:
            sandbox = Sandbox({**environ, **given})
            undo.callback(sandbox.close)
            return Lambda(sandbox, postgres, tmp_path / "bodies")

        yield open_one


@pytest.mark.parametrize(
    "event",
    [alb(), alb(many=False), alb(body=json.dumps(CHAT).encode()), url(), rest()],
    ids=["many", "one", "b64", "url", "rest"],
)
def test_a_call_comes_back_as_the_provider_sent_it_and_is_settled_when_the_answer_is_there(
    opened: Opened, upstream: Provider, event: dict[str, Any]
) -> None:
    invoked = opened()
    answer = invoked(event)
    (received,) = upstream.take()
    assert received.json() == CHAT and received.value("content-length") == str(len(json.dumps(CHAT)))
    assert answer["statusCode"] == 200
    assert json.loads(octets(answer))["model"].startswith("gpt-4o-mini")
    (row,) = invoked.rows()
    assert (row.outcome, row.body_state, row.status_code) == (Outcome.COMPLETE, BodyState.STORED, 200)
    assert field(answer, "x-majordomo-request-id") == str(row.id)
    assert len([file for file in invoked.bodies.rglob("*") if file.is_file()]) == 1


def test_one_loop_and_one_connection_serve_many_invocations(opened: Opened, upstream: Provider) -> None:
    invoked = opened()
    assert [invoked(alb())["statusCode"] for _ in range(5)] == [200] * 5
    held = invoked.sandbox.hosted.services.held()
    assert held.database_idle + held.database_in_use == 1 and held.upstream == 1
    assert len(invoked.rows()) == 5


def test_the_path_reaches_the_provider_as_it_was_sent(opened: Opened, upstream: Provider) -> None:
    invoked = opened()
    path = "/v1beta/models/gemini-1.5%2Fpro:generateContent"
    query = {"alt": ["json"], "q": ["a+b%20c", ""], "beta": ""}
    assert invoked(alb(path=path, query=query))["statusCode"] == 200
    assert invoked(url(path=path, query="alt=json&q=a+b%20c&q=&beta"))["statusCode"] == 200
    first, second = upstream.take()
    assert first.target == f"{path}?alt=json&q=a+b%20c&q=&beta=".encode()
    assert second.target == f"{path}?alt=json&q=a+b%20c&q=&beta".encode()


def test_a_stream_comes_whole_and_says_so(opened: Opened, upstream: Provider) -> None:
    invoked = opened()
    answer = invoked(alb({**CHAT, "stream": True}))
    assert answer["statusCode"] == 200 and not answer["isBase64Encoded"]
    assert field(answer, "x-majordomo-streaming") == "buffered"
    assert answer["body"].startswith("data: ") and answer["body"].endswith("data: [DONE]\n\n")
    assert invoked.rows()[0].streamed


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/chat/completions", {**CHAT, "stream": True}), ("/v1beta/models/gemini-pro:streamGenerateContent", {})],
)
def test_a_stream_is_refused_before_the_provider_is_asked(
    opened: Opened, upstream: Provider, path: str, body: dict[str, Any]
) -> None:
    invoked = opened(ALB_STREAMING="refused")
    answer = invoked(alb(body, path))
    assert answer["statusCode"] == 400 and field(answer, "x-majordomo-error") == "streaming_unavailable"
    assert not upstream.take()
    (row,) = invoked.rows()
    assert (row.status_code, row.outcome, row.error_message) == (400, Outcome.COMPLETE, ErrorCode.INVALID_REQUEST)
    assert invoked(url(body, path))["statusCode"] == 200, "a Function URL is no load balancer"
    assert invoked(alb())["statusCode"] == 200


def test_a_stream_that_breaks_is_an_error_and_no_half_of_a_body(opened: Opened, upstream: Provider) -> None:
    invoked = opened()
    answer = invoked(alb({**CHAT, "stream": True}, headers={**HEADERS, "x-example": "broken"}))
    assert answer["statusCode"] == 502 and field(answer, "x-majordomo-error") == "upstream_broke"
    assert json.loads(answer["body"])["error"]["code"] == "upstream_broke"
    (row,) = invoked.rows()
    assert (row.status_code, row.outcome, row.error_message) == (
        502,
        Outcome.UPSTREAM_FAILED,
        ErrorCode.UPSTREAM_FAILED,
    )


DIALECTS = {
    "/v1/chat/completions": lambda said: said["error"]["code"],
    "/v1/messages": lambda said: said["error"]["message"] and said["type"],
    "/v1beta/models/gemini-pro:generateContent": lambda said: said["error"]["status"],
}


@pytest.mark.parametrize("path", DIALECTS)
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_an_answer_that_the_load_balancer_would_cut_is_our_own_502(
    opened: Opened, upstream: Provider, path: str, framing: Any
) -> None:
    upstream.respond = lambda received: Answer(200, JSON, [b'{"a":"' + b"x" * 600_000, b"y" * 600_000 + b'"}'], framing)
    invoked = opened()
    answer = invoked(alb(path=path))
    assert answer["statusCode"] == 502 and field(answer, "x-majordomo-error") == "answer_too_large"
    assert DIALECTS[path](json.loads(answer["body"]))
    assert "streaming Function URL or its container" in answer["body"]
    (row,) = invoked.rows()
    assert (row.status_code, row.outcome, row.error_message) == (502, Outcome.COMPLETE, ErrorCode.OTHER)
    assert invoked(url(path=path))["statusCode"] == 200


def test_a_provider_that_never_ends_is_left_when_the_answer_outgrows_its_front(
    opened: Opened, upstream: Provider
) -> None:
    received: list[Received] = []

    def endless(call: Received) -> Answer:
        received.append(call)

        def pieces() -> Iterator[bytes]:
            while not call.gone.is_set():
                yield b"data: " + b"x" * 60_000 + b"\n\n"

        return Answer(200, [(b"Content-Type", b"text/event-stream")], pieces(), "chunked")

    upstream.respond = endless
    invoked = opened()
    assert invoked(alb({**CHAT, "stream": True}))["statusCode"] == 502
    assert received[0].gone.wait(20)
    assert [row.error_message for row in invoked.rows()] == [ErrorCode.OTHER]


def test_a_request_larger_than_the_front_carries_is_refused_with_a_row(opened: Opened, upstream: Provider) -> None:
    invoked = opened()
    large = {**CHAT, "user": "x" * (1 << 20)}
    answer = invoked(alb(large))
    assert answer["statusCode"] == 413 and field(answer, "x-majordomo-error") == "request_too_large"
    assert not upstream.take()
    (row,) = invoked.rows()
    assert (row.status_code, row.error_message) == (413, ErrorCode.INVALID_REQUEST)
    assert invoked(url(large))["statusCode"] == 200
    assert invoked(url({**CHAT, "user": "x" * (6 << 20)}))["statusCode"] == 413


def test_a_provider_slower_than_the_function_is_a_504_while_there_is_time(opened: Opened, upstream: Provider) -> None:
    held = threading.Event()

    def slow(call: Received) -> Answer:
        held.wait(30)
        return Answer(200, JSON, [b"{}"])

    upstream.respond = slow
    invoked = opened(AFTER_RESPONSE_BUDGET="1s")
    answer = invoked(alb(), Context(left_ms=3000))
    held.set()
    assert answer["statusCode"] == 504 and field(answer, "x-majordomo-error") == "upstream_timeout"
    assert "time that this host gives" in octets(answer).decode()
    (row,) = invoked.rows()
    assert (row.status_code, row.outcome) == (504, Outcome.TIMED_OUT)
    assert field(answer, "x-majordomo-request-id") == str(row.id)


def test_time_is_kept_for_what_comes_behind_the_providers_answer() -> None:
    """Of a long time the wait for the intent and a turn, of a short one a share."""
    assert kept_s(left_s=900.0, budget_s=2.0) == 5.0
    assert kept_s(left_s=3.0, budget_s=2.0) == pytest.approx(1.2)


def test_a_call_is_given_the_time_that_is_not_kept(environ: dict[str, str]) -> None:
    given: list[float] = []

    class Noting(Sandbox):
        def _relay(self, cycle: BufferedCycle, within_s: float) -> Coroutine[Any, Any, Response]:
            given.append(within_s)
            return super()._relay(cycle, within_s)

    sandbox = Noting({**environ, "AFTER_RESPONSE_BUDGET": "3s"})
    try:
        assert sandbox.answer(alb(), Context(left_ms=60_000))["statusCode"] == 200
    finally:
        sandbox.close()
    assert 0 < given[0] <= 60 - kept_s(60.0, 3.0)


def test_a_provider_that_is_still_answering_then_is_a_504_with_its_facts(opened: Opened, upstream: Provider) -> None:
    """Nobody has seen what came: the caller is told in his dialect, and the row keeps what is known without a body."""
    held = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b'{"model":'
        held.wait(30)
        yield b"1}"

    upstream.respond = lambda _: Answer(200, JSON, pieces(), "chunked")
    invoked = opened(AFTER_RESPONSE_BUDGET="1s", CAPTURE="metadata")
    answer = invoked(alb(path="/v1/messages"), Context(left_ms=3000))
    held.set()
    assert answer["statusCode"] == 504 and json.loads(octets(answer))["type"] == "error"
    (row,) = invoked.rows()
    assert (row.status_code, row.outcome, row.body_state) == (504, Outcome.TIMED_OUT, BodyState.OFF)
    assert row.head_us is not None and row.request_bytes > 0
    assert field(answer, "x-majordomo-request-id") == str(row.id)


def test_a_body_that_cannot_be_read_leaves_a_row(opened: Opened, upstream: Provider) -> None:
    invoked = opened()
    answer = invoked(alb() | {"body": "@@@", "isBase64Encoded": True})
    assert answer["statusCode"] == 400 and not upstream.take()
    (row,) = invoked.rows()
    assert (row.status_code, row.outcome, row.error_message) == (400, Outcome.COMPLETE, ErrorCode.INVALID_REQUEST)


def test_a_sandbox_serves_on_after_its_connection_died_in_a_freeze(opened: Opened, postgres: Database) -> None:
    invoked = opened()
    assert invoked(alb())["statusCode"] == 200
    postgres.run(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'majordomo-steward' AND pid <> pg_backend_pid() AND datname = current_database()"
    )
    assert invoked(alb())["statusCode"] == 200
    assert [row.body_state for row in invoked.rows()] == [BodyState.STORED] * 2


def test_a_sandbox_serves_on_after_its_password_was_changed(environ: dict[str, str], postgres: Database) -> None:
    """It was warm meanwhile; its next connection fetches the new one, and the call that needs it is served."""
    kept = iter(["old", postgres.tcp.password.reveal()])
    name = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:steward/db-AbCdEf"
    by_tcp = {"POSTGRES_HOST": "127.0.0.1", "POSTGRES_PORT": str(postgres.tcp.port), "POSTGRES_PASSWORD": name}
    sandbox = Sandbox({**environ, **by_tcp}, lambda place: next(kept))
    try:
        assert sandbox.answer(alb(), Context())["statusCode"] == 200
    finally:
        sandbox.close()


def test_nothing_of_an_invocation_is_left_in_tmp(opened: Opened, upstream: Provider, tmp_path: Path) -> None:
    folder = tmp_path / "tmp"
    folder.mkdir()
    tempfile.tempdir = str(folder)
    try:
        upstream.respond = lambda received: Answer(200, JSON, [b'"' + b"y" * 900_000 + b'"'])
        invoked = opened()
        for event in (alb(), alb({**CHAT, "user": "x" * 900_000}), url({**CHAT, "user": "x" * 3_000_000})):
            assert invoked(event)["statusCode"] == 200
            assert not list(folder.iterdir())
            assert not [name for name in _open_files() if str(folder) in name], "a capture's file stayed open"
    finally:
        tempfile.tempdir = None
    assert len(invoked.rows()) == 3


def _open_files() -> list[str]:
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return found


CANARY = "canary-5f2e9c"


def test_the_event_is_never_logged_whatever_powertools_is_told(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = {
        "POWERTOOLS_LOGGER_LOG_EVENT": "true",
        "POWERTOOLS_DEBUG": "true",
        "POWERTOOLS_LOG_LEVEL": "DEBUG",
        "POWERTOOLS_LOGGER_SAMPLE_RATE": "1",
        "POWERTOOLS_TRACE_DISABLED": "false",
        "POWERTOOLS_TRACER_CAPTURE_RESPONSE": "true",
        "POWERTOOLS_TRACER_CAPTURE_ERROR": "true",
        "_X_AMZN_TRACE_ID": f"Root={CANARY};Parent=1;Sampled=1",
    }
    for name, value in asked.items():
        monkeypatch.setenv(name, value)
    invoked = opened(LOG_LEVEL="debug", **asked)
    headers = {**HEADERS, "X-Majordomo-User-Id": CANARY, "x-other": CANARY, "X-Amzn-Trace-Id": f"Root={CANARY}"}
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": CANARY}]}
    assert invoked(alb(body, headers=headers))["statusCode"] == 200
    assert invoked(alb(CANARY, path=f"/{CANARY}", headers={**headers, CANARY: f"a\r\n{CANARY}"}))["statusCode"] == 400
    with pytest.raises(TypeError) as told:
        invoked({"Records": [{"body": CANARY}]})
    heard = capsys.readouterr()
    assert '"event":"call"' in heard.out
    assert CANARY not in heard.out + heard.err + str(told.value)


def test_the_canonical_line_says_which_sandbox_and_call(opened: Opened, capsys: pytest.CaptureFixture[str]) -> None:
    invoked = opened()
    invoked(alb())
    invoked(alb(), Context(aws_request_id=f"{CANARY}\n", function_name="a b"))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"event":"call"' in line]
    assert [line["cold_start"] for line in lines] == [True, False]
    assert lines[0]["function_request_id"] == Context().aws_request_id and lines[0]["function_name"] == "steward"
    assert lines[1]["function_request_id"] == lines[1]["function_name"] == "***"
    assert lines[0]["status"] == 200 and lines[0]["operation"] and lines[0]["id"]


def test_counts_are_written_after_each_call(opened: Opened, capsys: pytest.CaptureFixture[str]) -> None:
    invoked = opened()
    invoked(alb())
    documents = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith('{"_aws"')]
    calls = [each for each in documents if "steward_calls_total" in each]
    assert [(each["provider"], each["status"], each["steward_calls_total"]) for each in calls] == [("openai", "200", 1)]
    assert sum(each.get("steward_rows_total", 0) for each in documents) == 1
    assert invoked(alb(path="/metrics", method="GET"))["statusCode"] in (200, 401)


def test_who_is_turned_away_is_counted_in_the_same_invocation(
    opened: Opened, capsys: pytest.CaptureFixture[str]
) -> None:
    invoked = opened()
    assert invoked(alb(headers={}))["statusCode"] == 400
    assert invoked(alb(headers={**HEADERS, "Transfer-Encoding": "gzip"}))["statusCode"] == 501
    assert invoked(alb(headers={"Host": "a"}))["statusCode"] == 401
    out = capsys.readouterr().out
    lines = [json.loads(line) for line in out.splitlines() if '"event":"callers_refused"' in line]
    assert [(line["code"], line["count"]) for line in lines] == [
        ("bad_request", 1),
        ("not_supported", 1),
        ("missing_key", 1),
    ]
    assert out.count('"steward_refused_callers_total":1') == 3 and not invoked.rows()


@pytest.mark.parametrize(
    "event",
    [
        *({}, None, [], "x", 3, {"Records": []}, {"Records": [{"eventSource": "aws:sqs"}]}, {"source": "aws.events"}),
        *({"requestContext": None}, {"requestContext": {"elb": 1}, "x": 1}, {"requestContext": {}}),
    ],
)
def test_what_is_no_request_is_told_where_it_belongs(opened: Opened, event: Any) -> None:
    invoked = opened()
    if isinstance(event, Mapping) and isinstance(event.get("requestContext"), Mapping) and event["requestContext"]:
        assert invoked(event)["statusCode"] == 400
        return
    with pytest.raises(TypeError, match="handlers.aws_lambda.settle"):
        invoked(event)


def test_a_health_check_needs_no_database(environ: dict[str, str]) -> None:
    sandbox = Sandbox({**environ, "POSTGRES_HOST": "127.0.0.1", "POSTGRES_PORT": "1"})
    try:
        checker = {"User-Agent": "ELB-HealthChecker/2.0"}
        for path, headers in (("/health", {"Host": "10.0.0.1", **checker}), ("/health", checker), ("/", checker)):
            answer = sandbox.answer(alb("", path, headers, method="GET"), Context())
            assert answer["statusCode"] == 200
        answer = sandbox.answer(alb("", "/v1/models", checker, method="GET"), Context())
        assert answer["statusCode"] == 400, "a provider's path needs a host"
        refused = sandbox.answer(alb(), Context())
        assert refused["statusCode"] == 503 and field(refused, "x-majordomo-error") == "key_check_unavailable"
    finally:
        sandbox.close()


@pytest.fixture
def api() -> Iterator[Api]:
    served = Api()
    yield served
    served.close()


def test_with_an_extension_the_answer_is_there_before_the_call_is_settled(opened: Opened, api: Api) -> None:
    invoked = opened(AWS_LAMBDA_RUNTIME_API=api.address)
    invoked.sandbox.begin()
    assert api.asked.get(timeout=20) == "an-identifier" and len(api.registered) == 1
    for number in (1, 2, 3):
        assert invoked(alb())["statusCode"] == 200
        assert invoked.sandbox.hosted.by_call.waiting() == 1, "the invocation's event has not come to the extension"
        assert invoked.rows()[0].outcome is Outcome.INTERRUPTED
        api.events.put(INVOKE)
        assert api.asked.get(timeout=20), "its work is done"
        assert [row.body_state for row in invoked.rows()] == [BodyState.STORED] * number


def test_the_extension_works_for_the_invocation_whose_event_it_has(opened: Opened, api: Api) -> None:
    invoked = opened(AWS_LAMBDA_RUNTIME_API=api.address)
    invoked.sandbox.begin()
    assert api.asked.get(timeout=20)
    for ident in ("lost", "seen"):
        assert invoked(alb(), Context(aws_request_id=ident))["statusCode"] == 200
    api.events.put(invoke("seen"))
    assert api.asked.get(timeout=20)
    assert invoked.sandbox.extension is not None
    assert [ended.request_id for ended in invoked.sandbox.extension._ended] == ["lost"]
    assert [row.body_state for row in invoked.rows()] == [BodyState.STORED] * 2


def test_an_invocation_that_fails_or_leaves_nothing_keeps_no_extension_waiting(opened: Opened, api: Api) -> None:
    invoked = opened(AWS_LAMBDA_RUNTIME_API=api.address)
    invoked.sandbox.begin()
    assert api.asked.get(timeout=20)
    kept = Kept({})
    invoked.sandbox.__dict__["consumer"] = kept

    def wrong() -> None:
        with pytest.raises(TypeError):
            invoked({"Records": []})

    def no_batch() -> None:
        with pytest.raises(TypeError):
            invoked.sandbox.settle({}, Context())

    for invocation in (
        wrong,
        no_batch,
        lambda: invoked(alb(headers={})),
        lambda: invoked.sandbox.settle({"Records": []}, Context()),
        lambda: invoked.sandbox.sweep(Context()),
    ):
        invocation()
        api.events.put(INVOKE)
        assert api.asked.get(timeout=20)


@pytest.mark.parametrize(
    ("given", "registers"),
    [
        ({}, 1),
        ({"LAMBDA_EXTENSION": "off"}, 0),
        ({"AWS_LAMBDA_MAX_CONCURRENCY": "8"}, 0),
        ({"AWS_LAMBDA_MAX_CONCURRENCY": "8", "LAMBDA_EXTENSION": "on"}, 1),
        ({"_HANDLER": "handlers.aws_lambda.settle"}, 0),
        ({"_HANDLER": "handlers.aws_lambda.handler"}, 1),
    ],
)
def test_the_extension_is_there_where_it_is_of_use(
    opened: Opened, api: Api, given: dict[str, str], registers: int
) -> None:
    invoked = opened(AWS_LAMBDA_RUNTIME_API=api.address, **given)
    invoked.sandbox.begin()
    assert len(api.registered) == registers
    if not registers:
        assert invoked(alb())["statusCode"] == 200
        assert [row.body_state for row in invoked.rows()] == [BodyState.STORED]


def test_where_lambda_refuses_the_extension_the_caller_waits(
    opened: Opened, api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    api.status = 403
    invoked = opened(AWS_LAMBDA_RUNTIME_API=api.address)
    invoked.sandbox.begin()
    assert invoked(alb())["statusCode"] == 200
    assert [row.body_state for row in invoked.rows()] == [BodyState.STORED]
    assert "extension_not_registered" in capsys.readouterr().out


class Kept:
    """A consumer that knows what it was handed."""

    def __init__(self, said: dict[str, str | None]) -> None:
        self.said = said
        self.handed: list[Any] = []

    def settle(self, messages: Any, until: float | None = None) -> dict[str, str | None]:
        self.handed += messages
        return self.said

    def close(self) -> None:
        self.closed = True


def test_a_batch_says_which_messages_are_to_come_again(environ: dict[str, str]) -> None:
    kept = Kept({"a": None, "b": "not_metered"})
    sandbox = Sandbox(environ, open_consumer=lambda settings, board: kept)
    records = [{"messageId": name, "body": name * 3, "eventSource": "aws:sqs"} for name in "abc"]
    answer = sandbox.settle({"Records": records}, Context())
    assert [each["itemIdentifier"] for each in answer["batchItemFailures"]] == ["b", "c"]
    assert kept.handed == [("a", "aaa"), ("b", "bbb"), ("c", "ccc")]
    sandbox.close()
    assert kept.closed


def test_a_queues_own_consumer_stands_behind_it(environ: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    queue = "https://sqs.eu-central-1.amazonaws.com/123456789012/calls"
    sandbox = Sandbox({**environ, "AFTER_RESPONSE": "sqs", "SQS_QUEUE_URL": queue})
    records = [{"messageId": "a", "body": CANARY, "eventSource": "aws:sqs"}]
    answer = sandbox.settle({"Records": records}, Context())
    assert [each["itemIdentifier"] for each in answer["batchItemFailures"]] == ["a"], "it does not open"
    sandbox.close()
    heard = capsys.readouterr()
    assert "message_refused" in heard.out and CANARY not in heard.out + heard.err


def test_a_schedule_sweeps(opened: Opened, capsys: pytest.CaptureFixture[str]) -> None:
    invoked = opened()
    assert invoked.sandbox.sweep(Context()) == {"swept": True}
    assert "task_failed" not in capsys.readouterr().out


def test_a_wrong_setting_names_itself_and_no_value(environ: dict[str, str]) -> None:
    with pytest.raises(SettingError) as wrong:
        Sandbox({**environ, "POSTGRES_PORT": CANARY}).begin()
    assert "POSTGRES_PORT" in wrong.value.message and CANARY not in wrong.value.message


def test_a_plain_key_in_the_environment_is_warned_of(
    environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    Sandbox({**environ, "_HANDLER": "handlers.aws_lambda.settle"}).begin()
    assert "ENCRYPTION_KEY: a plain secret" in capsys.readouterr().out


def test_a_setting_without_a_value_leaves_what_this_host_goes_by(environ: dict[str, str]) -> None:
    empty = dict.fromkeys(("AFTER_RESPONSE", "POSTGRES_MAX_CONNS", "PRICING_REFRESH_INTERVAL"), "")
    given = Sandbox({**environ, **empty}).settings
    assert (given.after_response, given.postgres_max_conns) == ("inline", 1)


def test_a_spool_is_refused_while_the_function_starts(environ: dict[str, str]) -> None:
    with pytest.raises(SettingError, match="AFTER_RESPONSE"):
        Sandbox({**environ, "AFTER_RESPONSE": "spool"}).begin()
