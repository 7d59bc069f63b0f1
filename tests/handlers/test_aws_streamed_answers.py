"""What a streamed answer says before its body, and how it ends; the whole way stands in test_aws_lambda_stream.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

import orjson
import pytest

from handlers.aws_events import Request
from handlers.aws_streamed_answers import Asked, Responding, prelude
from handlers.runtime_api import Fault, ResponseRefused, RuntimeApi
from steward.errors import BadRequest, InternalError

FAULT = Fault("Steward.Test", "As the test says.")
HEAD = {"type": "http.response.start", "status": 200, "headers": [(b"a", b"1")]}


class Heard:
    """The Runtime API and the response it takes, in one: what it heard, in order."""

    def __init__(self, takes: bool = True) -> None:
        self.said: list[bytes | str] = []
        self.takes = takes

    async def respond(self, invocation_id: str) -> Heard:
        return self

    async def fail(self, invocation_id: str, fault: Fault) -> None:
        self.said.append(fault.kind)

    async def write(self, piece: bytes) -> None:
        if not self.takes:
            raise ResponseRefused
        self.said.append(piece)

    async def end(self) -> None:
        self.said.append("end")

    async def break_off(self, fault: Fault) -> None:
        self.said.append(fault.kind)

    async def refused(self) -> None:
        await asyncio.get_running_loop().create_future()

    def close(self) -> None:
        self.said.append("closed")


def told(heard: Heard, story: Callable[[Responding], Coroutine[Any, Any, None]], method: str = "POST") -> None:
    """The story of one response, ended and closed."""

    async def tell() -> None:
        asked = Asked(Request(method, b"/v1/models", b"", [], b"{}"), multi_value=False)
        response = Responding(cast(RuntimeApi, heard), "an-id", asked)
        await story(response)
        await response.finish(FAULT)
        response.close()

    asyncio.run(tell())


def piece(body: bytes, more: bool) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}


@pytest.mark.parametrize(("whole", "ends"), [(True, "end"), (False, "Steward.Test")])
def test_a_response_ends_well_only_when_it_is_whole(whole: bool, ends: str) -> None:
    async def story(response: Responding) -> None:
        await response.send(HEAD)
        await response.send(piece(b"x", more=not whole))
        if whole:
            await response.send(piece(b"too much", more=False))

    heard = Heard()
    told(heard, story)
    assert heard.said == [prelude(200, [(b"a", b"1")], False), b"x", ends, "closed"]


def test_a_head_that_is_held_goes_with_the_first_piece_and_one_of_head_without_any() -> None:
    async def story(response: Responding) -> None:
        await response.send({**HEAD, "steward.hold": True})
        await response.send(piece(b"x", more=False))

    for method, body in (("POST", b"x"), ("HEAD", b"")):
        heard = Heard()
        told(heard, story, method)
        assert heard.said == [prelude(200, [(b"a", b"1")], False) + body, "end", "closed"]


def test_where_nothing_began_the_invocation_fails_or_is_refused_in_words() -> None:
    async def nothing(response: Responding) -> None:
        assert (await response.receive())["body"] == b"{}"

    async def refused(response: Responding) -> None:
        await response.refuse(InternalError())
        await response.refuse(BadRequest())

    heard = Heard()
    told(heard, nothing)
    assert heard.said == ["Steward.Test"]
    told(heard := Heard(), refused)
    [said, *ends] = heard.said
    assert b'"statusCode":500' in said and b"internal_error" in said  # type: ignore[operator]
    assert ends == ["end", "closed"]


def test_when_nobody_takes_it_any_more_the_application_hears_of_it() -> None:
    async def story(response: Responding) -> None:
        await response.receive()
        await response.send(HEAD)
        await response.send(piece(b"never said", more=True))
        assert (await response.receive())["type"] == "http.disconnect"

    heard = Heard(takes=False)
    told(heard, story)
    assert heard.said == ["Steward.Test", "closed"]


def test_repeats_go_as_the_front_takes_them() -> None:
    headers = [(b"a", b"1"), (b"set-cookie", b"x=1"), (b"a", b"2"), (b"set-cookie", b"y=2"), (b"connection", b"close")]
    url, rest = prelude(200, headers, multi_value=False), prelude(200, headers, multi_value=True)
    assert url.endswith(bytes(8))
    assert orjson.loads(url[:-8]) == {"statusCode": 200, "headers": {"a": "1, 2"}, "cookies": ["x=1", "y=2"]}
    many = {"a": ["1", "2"], "set-cookie": ["x=1", "y=2"]}
    assert orjson.loads(rest[:-8]) == {"statusCode": 200, "headers": {}, "multiValueHeaders": many}
