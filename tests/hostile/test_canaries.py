"""Words planted in every place a call has, through every way it can fail, at LOG_LEVEL=debug: in no line written.

The places where a word may rest are listed (the body object, tags, the alias); a canary anywhere else is a leak (F4).
"""

from __future__ import annotations

import gzip
import json
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from sqlalchemy import text

from steward.adapters.postgres_connection import PostgresAddress, open_engine
from steward.exchange import BodyState, Outcome
from steward.words import Secret
from tests.servers.plain_http import Ended, Request, call
from tests.servers.raw_caller import say
from tests.servers.socket_provider import Answer, Provider, Received
from tests.servers.steward import RunningSteward
from tests.servers.stores import S3Server
from tests.servers.waiting import eventually

SECRET = "zq" + secrets.token_hex(6)
"""Part of every canary, and of nothing else."""
JSON = [(b"Content-Type", b"application/json")]


def canary(place: str) -> bytes:
    return f"{SECRET}-{place}".encode()


def chat(**more: object) -> bytes:
    said = {
        "model": "gpt-4o-mini",
        "messages": [{"role": "system", "content": canary("system").decode()}],
        "tools": [{"type": "function", "function": {"name": canary("tool").decode()}}],
        "user": canary("user").decode(),
        **more,
    }
    return json.dumps(said).encode()


def fields(**more: bytes) -> list[tuple[bytes, bytes]]:
    return [
        (b"Content-Type", b"application/json; note=" + canary("content-type")),
        (b"Authorization", b"Bearer sk-" + canary("credential")),
        (b"User-Agent", canary("agent")),
        (b"X-Unknown", canary("header")),
        (canary("name"), b"1"),
        (b"X-Majordomo-Feature", canary("tag")),
        (b"X-Majordomo-Api-Key", b"mdm_sk_" + canary("mistyped") * 2),
        (b"X-Majordomo-Provider-Alias", canary("alias")),
        *[(name.replace("_", "-").encode(), value) for name, value in more.items()],
    ]


def request(target: bytes = b"/v1/chat/completions", body: bytes | None = None, **more: bytes) -> Request:
    return Request(b"POST", target + b"?note=" + canary("query"), fields(**more), chat() if body is None else body)


def error_answer(received: Received) -> Answer:
    """A provider's error that repeats all it was told."""
    body = b'{"error":{"message":"' + canary("error") + b'","code":"' + canary("code") + b'","model":"x"}}'
    return Answer(404, [*JSON, (b"X-Request-Id", canary("request-id")), (b"X-Note", canary("answer-header"))], [body])


def broken_stream(received: Received) -> Answer:
    event = b'data: {"choices":[{"delta":{"content":"' + canary("delta") + b'"}}]}\n\n'
    return Answer(200, [(b"Content-Type", b"text/event-stream")], [event, event], "chunked", cut=True)


def stream_error(received: Received) -> Answer:
    event = b'event: error\ndata: {"type":"error","error":{"type":"' + canary("type") + b'","message":"m"}}\n\n'
    return Answer(200, [(b"Content-Type", b"text/event-stream")], [event], "chunked")


def not_json(received: Received) -> Answer:
    return Answer(200, JSON, [b'{"model":"' + canary("cut") + b'","usage":{"prompt_tokens":"' + canary("count")])


def bad_coding(received: Received) -> Answer:
    return Answer(200, [*JSON, (b"Content-Encoding", b"gzip")], [b"\x1f\x8b" + canary("gzip")])


def bomb(received: Received) -> Answer:
    packed = gzip.compress(gzip.compress(canary("bomb") + b"0" * (96 << 20)))
    return Answer(200, [*JSON, (b"Content-Encoding", b"gzip, gzip")], [packed])


def surrogates(received: Received) -> Answer:
    return Answer(200, JSON, [b'{"model":"\\ud800' + canary("model") + b'\\u0000","usage":{"prompt_tokens":-1}}'])


def known_model(received: Received) -> Answer:
    return Answer(200, JSON, [b'{"model":"gpt-4o-mini","usage":{"prompt_tokens":1,"completion_tokens":1}}'])


ANSWERS = (error_answer, broken_stream, stream_error, not_json, bad_coding, bomb, surrogates, known_model)


@dataclass
class Told:
    """The provider, and what it answers next."""

    server: Provider
    next: Callable[[Received], Answer]


@pytest.fixture
def told() -> Iterator[Told]:
    made = Told(Provider(lambda received: made.next(received)), known_model)
    yield made
    made.server.close()


def through(steward: RunningSteward, asked: Request) -> str | None:
    """Makes the call, however it ends; the request id when there was an answer."""
    try:
        answer = steward.call(asked)
    except (OSError, Ended):
        return None
    return answer.head.values(b"x-majordomo-request-id")[0].decode()


def assert_silent(steward: RunningSteward) -> None:
    """Nothing that was written holds a canary, and something was written."""
    said = steward.said()
    assert b'"event":"call"' in said
    lines = [line for line in said.splitlines() if SECRET.encode() in line.lower()]
    assert lines == []


def test_no_answer_of_a_provider_is_repeated(make_steward: Callable[..., RunningSteward], told: Told) -> None:
    steward = make_steward(told.server.url)
    for answer in ANSWERS:
        told.next = answer
        through(steward, request())
    eventually(lambda: len(steward.rows()) == len(ANSWERS), 30)
    eventually(lambda: all(row.body_state is BodyState.STORED for row in steward.rows()), 30)
    assert_silent(steward)
    for row in steward.rows():
        kept = {**{name: getattr(row, name) for name in row.__dataclass_fields__}, "tags": None}
        kept.pop("provider_api_key_alias")
        assert SECRET not in repr(kept)
        assert row.tags == {"Feature": canary("tag").decode()}
        assert row.tags_dropped == 1
    ready = call(steward.port, Request(b"GET", b"/readyz"))
    assert ready.body == b"ready"


def test_no_refused_caller_is_repeated(make_steward: Callable[..., RunningSteward], told: Told) -> None:
    steward = make_steward(told.server.url)
    key = b"mdm_sk_" + canary("unknown-key").replace(b"-", b"_")
    refused = [
        Request(b"POST", b"/v1/chat/completions?key=" + canary("query"), fields(), chat()),
        Request(b"POST", b"/v1/chat/completions", [*fields(), (b"X-Majordomo-Key", key)], chat()),
        Request(b"POST", b"/v1/chat/completions", [*fields(), (b"X-Majordomo-Key", canary("malformed"))], chat()),
    ]
    assert [call(steward.port, each).status for each in refused] == [401, 401, 401]
    routed = [
        request(b"/" + canary("path")),
        request(b"/v1/../" + canary("dots")),
        request(x_majordomo_provider=canary("provider")),
        request(authorization=b"Bearer " + canary("second")),
        Request(b"POST", b"/v1/chat/completions", [(b"Authorization", b"Bearer mdm_sk_" + canary("leaked"))], chat()),
    ]
    assert [steward.call(each).status for each in routed] == [400, 400, 400, 400, 400]
    raw = [
        b"GET /" + canary("line") + b" NONSENSE\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + canary("folded") + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Big: " + canary("big") * 9000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: " + canary("coding") + b"\r\n\r\n",
    ]
    assert all(say(steward.port, each).status >= 400 for each in raw)
    through(steward, request())
    eventually(lambda: b'"event":"call"' in steward.said() and b"callers_refused" in steward.said(), 15)
    assert_silent(steward)


def test_no_way_to_a_provider_is_repeated(make_steward: Callable[..., RunningSteward]) -> None:
    steward = make_steward("http://127.0.0.1:9")
    ident = through(steward, request())
    assert ident is not None
    row = steward.settled(ident)
    assert (row.outcome, row.status_code) == (Outcome.UPSTREAM_FAILED, 502)
    assert_silent(steward)


def test_no_store_that_refuses_makes_it_speak(
    make_steward: Callable[..., RunningSteward], told: Told, s3_server: S3Server
) -> None:
    steward = make_steward(
        told.server.url,
        BODY_STORE_URL=f"s3://{s3_server.bucket().bucket}",
        BODY_STORE_S3_ENDPOINT=s3_server.address,
        BODY_STORE_S3_REGION="us-east-1",
        AWS_ACCESS_KEY_ID=s3_server.access_key_id,
        AWS_SECRET_ACCESS_KEY=canary("s3-secret").decode(),
        BODY_RETRY_FOR="1s",
    )
    ident = through(steward, request())
    assert ident is not None
    assert steward.settled(ident, 60).body_state is BodyState.FAILED
    assert_silent(steward)


@pytest.mark.parametrize(
    "harm",
    [
        "ALTER TABLE llm_requests ADD CONSTRAINT harmed CHECK (outcome = 'interrupted')",
        "ALTER TABLE llm_requests RENAME TO elsewhere",
        "ALTER TABLE llm_requests RENAME COLUMN tags TO labels",
    ],
    ids=["constraint", "no table", "no column"],
)
def test_no_database_that_refuses_makes_it_speak(
    make_steward: Callable[..., RunningSteward], told: Told, harm: str
) -> None:
    steward = make_steward(told.server.url)
    address = steward.environ
    engine = open_engine(
        PostgresAddress(
            address["POSTGRES_HOST"],
            int(address["POSTGRES_PORT"]),
            address["POSTGRES_USER"],
            Secret(address["POSTGRES_PASSWORD"]),
            address["POSTGRES_DB"],
            "disable",
            None,
            1,
        )
    )
    with engine.begin() as connection:
        connection.execute(text(harm))
    engine.dispose()
    assert through(steward, request()) is not None
    eventually(lambda: b"row_refused" in steward.said() or b"rows_waiting" in steward.said(), 20)
    assert_silent(steward)
