"""The official Anthropic SDK, unchanged but for its base URL: the same through the Steward as directly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anthropic
import pytest

from tests.sdk.ways import Ways, said
from tests.servers.examples import ARGUMENTS, ERROR_MESSAGE, MESSAGES_USAGE, TEXT

ASK: Any = {
    "model": "claude-haiku-4-5",
    "max_tokens": 64,
    "messages": [{"role": "user", "content": "Guten Tag, Köln! \N{WAVING HAND SIGN}"}],
}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: Any = [{"name": "get_weather", "description": "Weather of a city", "input_schema": SCHEMA}]
ERRORS = {
    400: anthropic.BadRequestError,
    401: anthropic.AuthenticationError,
    403: anthropic.PermissionDeniedError,
    404: anthropic.NotFoundError,
    413: anthropic.APIStatusError,
    429: anthropic.RateLimitError,
    500: anthropic.InternalServerError,
    529: anthropic.InternalServerError,
}


@contextmanager
def sync_client(ways: Ways, url: str) -> Iterator[anthropic.Anthropic]:
    """The SDK as an application makes it, its connections closed afterwards."""
    with anthropic.Anthropic(base_url=url, api_key="sk-ant-test", default_headers=ways.headers) as client:
        yield client


def async_client(ways: Ways, url: str) -> anthropic.AsyncAnthropic:
    """The same for an event loop; used as a context manager."""
    return anthropic.AsyncAnthropic(base_url=url, api_key="sk-ant-test", default_headers=ways.headers)


def test_messages(ways: Ways) -> None:
    """A plain answer, compressed on the wire, with cached tokens."""

    def call(url: str) -> Any:
        with sync_client(ways, url) as client:
            return client.messages.create(**ASK).model_dump()

    answer = ways.same(call)
    assert answer["content"][0]["text"] == TEXT
    assert answer["usage"]["cache_read_input_tokens"] == MESSAGES_USAGE["cache_read_input_tokens"]


def test_messages_async(ways: Ways) -> None:
    """The same from an event loop."""

    async def call(url: str) -> Any:
        async with async_client(ways, url) as client:
            return (await client.messages.create(**ASK)).model_dump()

    assert ways.same_async(call)["content"][0]["text"] == TEXT


@pytest.mark.parametrize("tools", [[], TOOLS], ids=["text", "tools"])
def test_messages_stream(ways: Ways, tools: Any) -> None:
    """Every event, by the SDK's own accumulator."""
    options = {"tools": tools} if tools else {}

    def call(url: str) -> Any:
        with sync_client(ways, url) as client, client.messages.stream(**ASK, **options) as stream:
            events = [event.type for event in stream]
            return events, stream.get_final_message().model_dump()

    events, final = ways.same(call)
    assert events[0] == "message_start"
    assert final["usage"]["output_tokens"] == MESSAGES_USAGE["output_tokens"]
    assert final["stop_reason"] == ("tool_use" if tools else "end_turn")


def test_messages_stream_async(ways: Ways) -> None:
    """Raw events from an event loop."""

    async def call(url: str) -> list[Any]:
        async with async_client(ways, url) as client:
            return [event.model_dump() async for event in await client.messages.create(**ASK, stream=True)]

    events = ways.same_async(call)
    texts = [event["delta"].get("text", "") for event in events if event["type"] == "content_block_delta"]
    assert "".join(texts) == TEXT


def test_tools(ways: Ways) -> None:
    """A tool's input as the provider made it."""

    def call(url: str) -> Any:
        with sync_client(ways, url) as client:
            return client.messages.create(**ASK, tools=TOOLS).model_dump()

    assert ways.same(call)["content"][0]["input"] == {"city": "Köln"}
    assert "Köln" in ARGUMENTS


def test_count_tokens(ways: Ways) -> None:
    """Free, and through."""

    def call(url: str) -> int:
        with sync_client(ways, url) as client:
            return client.messages.count_tokens(model=ASK["model"], messages=ASK["messages"]).input_tokens

    assert ways.same(call) == 23


def test_beta_query(ways: Ways) -> None:
    """A query and the beta client's headers stand upstream as they were sent."""

    def call(url: str) -> Any:
        with sync_client(ways, url) as client:
            made = client.beta.messages.create(**ASK, betas=["one-2026-01-01", "two-1"], extra_query={"beta": "true"})
            return made.model_dump()

    ways.same(call)
    received = ways.provider.newest()
    assert received.target == b"/v1/messages?beta=true"
    assert received.value("anthropic-beta") == "one-2026-01-01,two-1"


@pytest.mark.parametrize(("status", "kind"), ERRORS.items())
def test_errors(ways: Ways, status: int, kind: type[anthropic.APIStatusError]) -> None:
    """The SDK's own exception, with the provider's words and `retry-after`; `x-should-retry: false` is obeyed."""

    def call(url: str) -> Any:
        with sync_client(ways, url) as client, pytest.raises(kind) as caught:
            client.messages.create(**ASK, extra_headers={"x-example": str(status)})
        return said(caught.value)

    answer = ways.same(call)
    assert ERROR_MESSAGE in str(answer["message"])
    assert (answer["status"], answer["retry-after"], answer["x-should-retry"]) == (status, "7", "false")


def test_errors_async(ways: Ways) -> None:
    """The same from an event loop, on a stream that never begins."""

    async def call(url: str) -> Any:
        async with async_client(ways, url) as client:
            with pytest.raises(anthropic.RateLimitError) as caught:
                await client.messages.create(**ASK, stream=True, extra_headers={"x-example": "429"})
        return said(caught.value)

    assert ways.same_async(call)["retry-after"] == "7"


def test_the_sdk_tries_again(ways: Ways) -> None:
    """`x-should-retry: true` and `retry-after-ms` reach it: two requests, the second marked as one."""

    def call(url: str) -> Any:
        with sync_client(ways, url) as client:
            return client.messages.create(**ASK, extra_headers={"x-example": "flaky"}).model_dump()

    ways.same(call)
    assert ways.provider.newest().value("x-stainless-retry-count") == "1"


def test_a_broken_stream_breaks(ways: Ways) -> None:
    """A provider that dies in mid-stream: the SDK raises either way, after the same events."""

    def call(url: str) -> Any:
        events: list[Any] = []
        with sync_client(ways, url) as client:
            stream = client.messages.create(**ASK, stream=True, extra_headers={"x-example": "broken"})
            with pytest.raises(Exception, match=r"incomplete chunked read|Connection error") as caught:
                events.extend(event.model_dump() for event in stream)
        return events, type(caught.value).__name__

    events, _ = ways.same(call)
    assert events


def test_the_request_id_is_there_once(ways: Ways) -> None:
    """Beside the provider's own, exactly one `x-majordomo-request-id`."""
    with sync_client(ways, ways.steward_url) as client:
        raw = client.messages.with_raw_response.create(**ASK)
    assert len(raw.headers.get_list("x-majordomo-request-id")) == 1


def test_a_bad_key_of_ours(ways: Ways) -> None:
    """Our own 401 is the SDK's AuthenticationError in Anthropic's shape, and the provider hears nothing."""
    ways.provider.take()
    with sync_client(ways, ways.steward_url) as client, pytest.raises(anthropic.AuthenticationError) as caught:
        client.messages.create(**ASK, extra_headers={"X-Majordomo-Key": "mdm_sk_" + "0" * 32})
    body: Any = caught.value.body
    assert body["type"] == "error"
    assert "X-Majordomo-Key" in body["error"]["message"]
    assert ways.provider.take() == []
