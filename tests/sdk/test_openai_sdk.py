"""The official OpenAI SDK, unchanged but for its base URL: the same through the Steward as directly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai
import pytest

from tests.sdk.ways import Ways, said
from tests.servers.examples import ARGUMENTS, CHAT_USAGE, ERROR_MESSAGE, RESPONSES_USAGE, TEXT

ASK: Any = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Guten Tag, Köln! \N{WAVING HAND SIGN}"}]}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": "get_weather", "description": "Weather of a city", "parameters": PARAMETERS}
TOOLS: Any = [{"type": "function", "function": FUNCTION}]
RESPONSES_TOOLS: Any = [{"type": "function", "strict": False, **FUNCTION}]
ERRORS = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    403: openai.PermissionDeniedError,
    404: openai.NotFoundError,
    409: openai.ConflictError,
    422: openai.UnprocessableEntityError,
    429: openai.RateLimitError,
    500: openai.InternalServerError,
    503: openai.InternalServerError,
}


@contextmanager
def sync_client(ways: Ways, url: str, **options: Any) -> Iterator[openai.OpenAI]:
    """The SDK as an application makes it, its connections closed afterwards."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="sk-test", default_headers=ways.headers, **options) as client:
        yield client


def async_client(ways: Ways, url: str) -> openai.AsyncOpenAI:
    """The same for an event loop; used as a context manager."""
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="sk-test", default_headers=ways.headers)


def test_chat(ways: Ways) -> None:
    """A plain answer, compressed on the wire."""

    def call(url: str) -> Any:
        with sync_client(ways, url) as client:
            return client.chat.completions.create(**ASK).model_dump()

    answer = ways.same(call)
    assert answer["choices"][0]["message"]["content"] == TEXT
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 8


def test_chat_async(ways: Ways) -> None:
    """The same from an event loop."""

    async def call(url: str) -> Any:
        async with async_client(ways, url) as client:
            return (await client.chat.completions.create(**ASK)).model_dump()

    assert ways.same_async(call)["choices"][0]["message"]["content"] == TEXT


def test_chat_stream(ways: Ways) -> None:
    """Every chunk, comments between them and the usage at the end."""

    def call(url: str) -> list[Any]:
        with sync_client(ways, url) as client:
            stream = client.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True})
            return [chunk.model_dump() for chunk in stream]

    chunks = ways.same(call)
    assert "".join(chunk["choices"][0]["delta"]["content"] or "" for chunk in chunks[:-1]) == TEXT
    assert chunks[-1]["usage"]["completion_tokens"] == CHAT_USAGE["completion_tokens"]


def test_chat_stream_async(ways: Ways) -> None:
    """The same from an event loop."""

    async def call(url: str) -> list[Any]:
        async with async_client(ways, url) as client:
            stream = await client.chat.completions.create(**ASK, stream=True)
            return [chunk.model_dump() async for chunk in stream]

    chunks = ways.same_async(call)
    assert "".join(chunk["choices"][0]["delta"]["content"] or "" for chunk in chunks[:-1]) == TEXT


def test_chat_tools(ways: Ways) -> None:
    """A tool call, and its arguments streamed in pieces."""

    def call(url: str) -> Any:
        with sync_client(ways, url) as client:
            whole = client.chat.completions.create(**ASK, tools=TOOLS)
            with client.chat.completions.stream(**ASK, tools=TOOLS) as stream:
                kinds = [event.type for event in stream]
            return whole.model_dump(), kinds, stream.get_final_completion().model_dump()

    whole, kinds, final = ways.same(call)
    assert whole["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == ARGUMENTS
    assert final["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == ARGUMENTS
    assert "tool_calls.function.arguments.done" in kinds


def test_responses(ways: Ways) -> None:
    """The Responses API, plain and with tools."""

    def call(url: str) -> Any:
        with sync_client(ways, url) as client:
            text = client.responses.create(model="gpt-4o-mini", input="Hallo")
            tool = client.responses.create(model="gpt-4o-mini", input="Hallo", tools=RESPONSES_TOOLS)
            return text.output_text, text.model_dump(), tool.model_dump()

    text, whole, tool = ways.same(call)
    assert text == TEXT
    assert whole["usage"]["total_tokens"] == RESPONSES_USAGE["total_tokens"]
    assert tool["output"][0]["arguments"] == ARGUMENTS


@pytest.mark.parametrize("tools", [[], RESPONSES_TOOLS], ids=["text", "tools"])
def test_responses_stream(ways: Ways, tools: Any) -> None:
    """Named events, in order, by the SDK's own accumulator."""
    options = {"tools": tools} if tools else {}

    def call(url: str) -> Any:
        with (
            sync_client(ways, url) as client,
            client.responses.stream(model="gpt-4o-mini", input="Hallo", **options) as stream,
        ):
            events = [event.type for event in stream]
            return events, stream.get_final_response().model_dump()

    events, final = ways.same(call)
    assert events[0] == "response.created"
    assert events[-1] == "response.completed"
    assert final["output"][0]["type"] == ("function_call" if tools else "message")


def test_responses_stream_async(ways: Ways) -> None:
    """The same from an event loop, event by event."""

    async def call(url: str) -> list[Any]:
        async with async_client(ways, url) as client:
            stream = await client.responses.create(model="gpt-4o-mini", input="Hallo", stream=True)
            return [event.model_dump() async for event in stream]

    events = ways.same_async(call)
    assert "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta") == TEXT


def test_completions(ways: Ways) -> None:
    """The old completions, plain and streamed."""

    def call(url: str) -> Any:
        with sync_client(ways, url) as client:
            whole = client.completions.create(model="gpt-3.5-turbo-instruct", prompt="Hallo")
            stream = client.completions.create(model="gpt-3.5-turbo-instruct", prompt="Hallo", stream=True)
            return whole.model_dump(), [chunk.model_dump() for chunk in stream]

    whole, chunks = ways.same(call)
    assert whole["choices"][0]["text"] == TEXT
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks if chunk["choices"]) == TEXT


def test_embeddings_and_models(ways: Ways) -> None:
    """Base64 vectors, which the SDK asks for by itself, and a GET."""

    def call(url: str) -> Any:
        with sync_client(ways, url) as client:
            made = client.embeddings.create(model="text-embedding-3-small", input=["Hallo"])
            return made.data[0].embedding, [model.id for model in client.models.list()]

    assert ways.same(call) == ([1.0, -2.0], ["gpt-4o-mini"])


def test_upload(ways: Ways) -> None:
    """A multipart body, whose boundary the SDK makes anew each time, arrives whole."""
    content = bytes(range(256)) * 64
    with sync_client(ways, ways.steward_url, max_retries=0) as client, pytest.raises(openai.NotFoundError):
        client.files.create(file=("bytes.bin", content), purpose="assistants")
    received = ways.provider.newest()
    assert content in received.message.body
    assert received.value("content-type").startswith("multipart/form-data; boundary=")


@pytest.mark.parametrize(("status", "kind"), ERRORS.items())
def test_errors(ways: Ways, status: int, kind: type[openai.APIStatusError]) -> None:
    """The SDK's own exception, with the provider's words and `retry-after`; `x-should-retry: false` is obeyed."""

    def call(url: str) -> Any:
        with sync_client(ways, url) as client, pytest.raises(kind) as caught:
            client.chat.completions.create(**ASK, extra_headers={"x-example": str(status)})
        return said(caught.value)

    answer = ways.same(call)
    assert ERROR_MESSAGE in str(answer["message"])
    assert (answer["status"], answer["retry-after"], answer["x-should-retry"]) == (status, "7", "false")


def test_errors_async(ways: Ways) -> None:
    """The same from an event loop, on a stream that never begins."""

    async def call(url: str) -> Any:
        async with async_client(ways, url) as client:
            with pytest.raises(openai.RateLimitError) as caught:
                await client.chat.completions.create(**ASK, stream=True, extra_headers={"x-example": "429"})
        return said(caught.value)

    assert ways.same_async(call)["retry-after"] == "7"


def test_the_sdk_tries_again(ways: Ways) -> None:
    """`x-should-retry: true` and `retry-after-ms` reach it: two requests, the second marked as one."""

    def call(url: str) -> Any:
        with sync_client(ways, url) as client:
            answer = client.chat.completions.create(**ASK, extra_headers={"x-example": "flaky"})
        return answer.model_dump()

    ways.same(call)
    assert ways.provider.newest().value("x-stainless-retry-count") == "1"


def test_a_broken_stream_breaks(ways: Ways) -> None:
    """A provider that dies in mid-stream: the SDK raises either way, after the same chunks."""

    def call(url: str) -> Any:
        chunks: list[Any] = []
        with sync_client(ways, url) as client:
            stream = client.chat.completions.create(**ASK, stream=True, extra_headers={"x-example": "broken"})
            with pytest.raises(Exception, match=r"incomplete chunked read|Connection error") as caught:
                chunks.extend(chunk.model_dump() for chunk in stream)
        return chunks, type(caught.value).__name__

    chunks, _ = ways.same(call)
    assert chunks


def test_the_request_id_is_there_once(ways: Ways) -> None:
    """Beside the provider's own, exactly one `x-majordomo-request-id`."""
    with sync_client(ways, ways.steward_url) as client:
        raw = client.chat.completions.with_raw_response.create(**ASK)
    assert len(raw.headers.get_list("x-majordomo-request-id")) == 1
    assert raw.headers["x-request-id"] == "req_example"


def test_a_bad_key_of_ours(ways: Ways) -> None:
    """Our own 401 is the SDK's AuthenticationError, with our words, and the provider hears nothing."""
    ways.provider.take()
    with sync_client(ways, ways.steward_url) as client, pytest.raises(openai.AuthenticationError) as caught:
        client.chat.completions.create(**ASK, extra_headers={"X-Majordomo-Key": "mdm_sk_" + "0" * 32})
    assert "X-Majordomo-Key" in str(caught.value)
    assert caught.value.response.headers["x-majordomo-error"] == "invalid_key"
    assert ways.provider.take() == []
