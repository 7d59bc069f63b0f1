"""A call whose answer is taken whole or not at all, with applications that do as they like."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from handlers.aws_answers import Response
from handlers.aws_events import ALB_FRONT, read
from handlers.buffered_cycle import BoundedUpstream, BufferedCycle, refusal
from steward.cycle import Cycle
from steward.errors import BadRequest, Cut, HeadTooLarge, StreamingUnavailable, TooLarge, TooManyCalls
from steward.exchange import Origin, Outbound
from steward.ports import Answer
from tests.handlers.invoking import CHAT, alb
from tests.said import Said, listening

START: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}


@pytest.fixture(autouse=True)
def said() -> Iterator[Said]:
    with listening() as heard:
        yield heard


def cycle(event: dict[str, Any] | None = None, streaming: bool = True) -> BufferedCycle:
    return BufferedCycle(read(event or alb(), ALB_FRONT), ALB_FRONT, streaming=streaming)


def run(app: Any, call: BufferedCycle | None = None, within_s: float = 30) -> Response:
    return asyncio.run((call or cycle()).run(app, within_s))


def piece(body: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}


def test_what_an_application_sends_is_the_answer() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        asked = await receive()
        assert json.loads(asked["body"]) == CHAT and not asked["more_body"]
        await send(START)
        await send(piece(b"a", more=True))
        await send(piece(b"b"))

    assert run(app) == Response(200, START["headers"], b"ab")


def test_an_answer_to_head_has_no_body() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(piece(b"abc"))

    assert run(app, cycle(alb("", method="HEAD"))).body == b""


@pytest.mark.parametrize("fault", [Cut(), KeyError("canary"), None])
@pytest.mark.parametrize("began", [True, False])
def test_an_answer_that_does_not_end_is_none(fault: Exception | None, began: bool, said: Said) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if began:
            await send(START)
            await send(piece(b"half", more=True))
        if fault is not None:
            raise fault

    answer = run(app)
    assert answer.status == 500 and b"half" not in answer.body and "canary" not in said.text
    assert (b"x-majordomo-error", b"internal_error") in answer.headers


def test_time_runs_out_for_an_application_that_knows_nothing_of_it() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await receive()

    answer = run(app, within_s=0)
    assert answer.status == 504 and b"time that this host gives" in answer.body


def test_time_is_up_once_and_never_after_the_answer() -> None:
    call = cycle()
    told: list[str] = []
    call.on_lost = lambda: told.append("lost")
    call.expire()
    call.expire()
    assert told == ["lost"]
    ended = cycle()
    ended.head_now(dict(START))
    ended.piece_now(b"x", False)
    ended.expire()
    assert ended.refused is None


def test_a_body_is_refused_when_it_is_asked_for() -> None:
    assert json.loads(cycle().body_now()) == CHAT
    with pytest.raises(TooLarge, match="streaming Function URL or its container"):
        cycle(alb("x" * (ALB_FRONT.request_bytes + 1))).body_now()
    for body, path in (({**CHAT, "stream": True}, "/v1/messages"), ({}, "/v1beta/models/m:streamGenerateContent")):
        with pytest.raises(StreamingUnavailable):
            cycle(alb(body, path), streaming=False).body_now()
        assert cycle(alb(body, path)).body_now()
    for plain in ({**CHAT, "stream": False}, {"messages": '"stream": true'}, '{"stream": true', '["stream"]'):
        assert cycle(alb(plain), streaming=False).body_now()


def test_only_a_stream_is_said_to_be_buffered() -> None:
    for kind, said_so in ((b"text/event-stream; charset=utf-8", True), (b"application/json", False)):

        async def app(scope: Any, receive: Any, send: Any, kind: bytes = kind) -> None:
            await send({**START, "headers": [(b"content-type", kind)]})
            await send(piece(b""))

        assert ((b"x-majordomo-streaming", b"buffered") in run(app).headers) is said_so


def test_what_the_front_could_not_carry_after_all_is_an_error() -> None:
    call = cycle()
    answer = call.spelled(Response(200, [(b"content-type", b"text/plain")], b"x" * 1_000_001), alb())
    assert answer["statusCode"] == 502 and "answer_too_large" in answer["body"]


def test_a_refusal_is_in_the_likeliest_dialect() -> None:
    assert json.loads(refusal(HeadTooLarge()).body)["error"]["code"] == "head_too_large"
    claude = read(alb(path="/v1/messages"), ALB_FRONT)
    assert json.loads(refusal(BadRequest(), claude).body)["type"] == "error"
    assert (b"retry-after", b"1") in refusal(TooManyCalls()).headers


def test_where_a_caller_reads_along_nothing_is_taken_back() -> None:
    assert cycle().take_back() and not Cycle.take_back(object.__new__(Cycle))


class Waiting:
    """An Upstream that gives one answer."""

    forgotten = closed = 0

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    async def send(self, outbound: Outbound, body: Any, on_sent: Any) -> Answer:
        return self.answer  # type: ignore[no-any-return]

    def forget_idle(self) -> None:
        self.forgotten += 1

    async def close(self) -> None:
        self.closed += 1


def test_outside_of_a_call_answers_are_not_bounded() -> None:
    answer, origin = object(), Origin("https", "api.example", 443)
    upstream = Waiting(answer)

    async def story() -> None:
        bounded = BoundedUpstream(upstream)
        assert await bounded.send(Outbound(origin, b"GET", b"/", [], 0, False), None, lambda: None) is answer  # type: ignore[arg-type]
        bounded.forget_idle()
        await bounded.close()

    asyncio.run(story())
    assert (upstream.forgotten, upstream.closed) == (1, 1)
