"""The official google-genai SDK, unchanged but for its base URL: the same through the Steward as directly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.sdk.google_sdk import errors, genai, types
from tests.sdk.ways import Ways, said
from tests.servers.examples import ERROR_MESSAGE, GEMINI_USAGE, TEXT

MODEL = "gemini-2.5-flash"
ASK = "Guten Tag, Köln! \N{WAVING HAND SIGN}"
DECLARED = types.FunctionDeclaration(
    name="get_weather",
    description="Weather of a city",
    parameters_json_schema={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
ERRORS: dict[int, type[errors.APIError]] = dict.fromkeys((400, 403, 404, 429), errors.ClientError)
ERRORS |= dict.fromkeys((500, 503), errors.ServerError)
TOOLS = types.GenerateContentConfig(tools=[types.Tool(function_declarations=[DECLARED])])


@contextmanager
def sync_client(ways: Ways, url: str, **headers: str) -> Iterator[genai.Client]:
    """The SDK as an application makes it, its connections closed afterwards."""
    client = genai.Client(api_key="AIza-test", http_options=_options(ways, url, headers))
    try:
        yield client
    finally:
        client.close()


def _options(ways: Ways, url: str, headers: dict[str, str]) -> types.HttpOptions:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return types.HttpOptions(base_url=url, headers={**ways.headers, **named})


def test_generate(ways: Ways) -> None:
    """A plain answer, compressed on the wire."""

    def call(url: str) -> Any:
        with sync_client(ways, url) as client:
            answer = client.models.generate_content(model=MODEL, contents=ASK)
            return answer.text, answer.model_dump(exclude={"sdk_http_response"})

    text, answer = ways.same(call)
    assert text == TEXT
    assert answer["usage_metadata"]["thoughts_token_count"] == GEMINI_USAGE["thoughtsTokenCount"]


def test_generate_async(ways: Ways) -> None:
    """The same from an event loop."""

    async def call(url: str) -> Any:
        async with genai.Client(api_key="AIza-test", http_options=_options(ways, url, {})).aio as client:
            return (await client.models.generate_content(model=MODEL, contents=ASK)).text

    assert ways.same_async(call) == TEXT


def test_stream(ways: Ways) -> None:
    """CRLF events, the last with the usage."""

    def call(url: str) -> list[Any]:
        with sync_client(ways, url) as client:
            chunks = client.models.generate_content_stream(model=MODEL, contents=ASK)
            return [chunk.model_dump(exclude={"sdk_http_response"}) for chunk in chunks]

    chunks = ways.same(call)
    assert "".join(chunk["candidates"][0]["content"]["parts"][0]["text"] for chunk in chunks) == TEXT
    assert chunks[-1]["usage_metadata"]["total_token_count"] == GEMINI_USAGE["totalTokenCount"]
    assert ways.provider.newest().target.endswith(b":streamGenerateContent?alt=sse")


def test_stream_async(ways: Ways) -> None:
    """The same from an event loop."""

    async def call(url: str) -> list[str | None]:
        async with genai.Client(api_key="AIza-test", http_options=_options(ways, url, {})).aio as client:
            stream = await client.models.generate_content_stream(model=MODEL, contents=ASK)
            return [chunk.text async for chunk in stream]

    assert "".join(text or "" for text in ways.same_async(call)) == TEXT


def test_tools(ways: Ways) -> None:
    """A function call, plain and streamed."""

    def call(url: str) -> Any:
        with sync_client(ways, url) as client:
            whole = client.models.generate_content(model=MODEL, contents=ASK, config=TOOLS)
            chunks = list(client.models.generate_content_stream(model=MODEL, contents=ASK, config=TOOLS))
            return [[made.args for made in answer.function_calls or []] for answer in (whole, *chunks)]

    assert ways.same(call) == [[{"city": "Köln"}], [{"city": "Köln"}]]


def test_count_embed_list(ways: Ways) -> None:
    """Counting, embedding, and a GET."""

    def call(url: str) -> Any:
        with sync_client(ways, url) as client:
            counted = client.models.count_tokens(model=MODEL, contents=ASK).total_tokens
            embedded = client.models.embed_content(model="gemini-embedding-001", contents=ASK).embeddings or []
            listed = [model.name for model in client.models.list()]
            return counted, [each.values for each in embedded], listed

    assert ways.same(call) == (17, [[1.0, -2.0]], ["models/gemini-2.5-flash"])


@pytest.mark.parametrize(("status", "kind"), ERRORS.items())
@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
def test_errors(ways: Ways, status: int, kind: type[errors.APIError], streamed: bool) -> None:
    """The SDK's own exception, with the provider's words and `retry-after`."""

    def ask(client: genai.Client) -> object:
        if streamed:
            return list(client.models.generate_content_stream(model=MODEL, contents=ASK))
        return client.models.generate_content(model=MODEL, contents=ASK)

    def call(url: str) -> Any:
        with sync_client(ways, url, x_example=str(status)) as client, pytest.raises(kind) as caught:
            ask(client)
        return said(caught.value)

    answer = ways.same(call)
    assert answer["status"] == status
    assert ERROR_MESSAGE in str(answer["message"])
    assert answer["retry-after"] == "7"


def test_errors_async(ways: Ways) -> None:
    """The same from an event loop."""

    async def call(url: str) -> Any:
        options = _options(ways, url, {"x-example": "429"})
        async with genai.Client(api_key="AIza-test", http_options=options).aio as client:
            with pytest.raises(errors.ClientError) as caught:
                await client.models.generate_content(model=MODEL, contents=ASK)
        return caught.value.code, str(caught.value)

    assert ways.same_async(call)[0] == 429


def test_a_bad_key_of_ours(ways: Ways) -> None:
    """Our own 401 is the SDK's ClientError in Gemini's shape, and the provider hears nothing."""
    ways.provider.take()
    wrong = Ways(ways.provider, ways.steward_url, {"X-Majordomo-Key": "mdm_sk_" + "0" * 32})
    with sync_client(wrong, ways.steward_url) as client, pytest.raises(errors.ClientError) as caught:
        client.models.generate_content(model=MODEL, contents=ASK)
    assert caught.value.code == 401
    assert "X-Majordomo-Key" in str(caught.value)
    assert ways.provider.take() == []
