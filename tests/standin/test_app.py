"""The stand-in as an application meets it: over a socket, by the official SDKs."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
import uvicorn

from steward.standin.app import Standin
from steward.standin.said import SENTENCE
from tests.sdk.google_sdk import genai, types
from tests.servers.plain_http import Request, call, read_head
from tests.standin.conversation import ask, document

GARBAGE = (
    *(b"", b"{", b"[]", b"null", b'"x"', b'{"model": 7}', b'{"model": ""}', b"\xff", b"[" * 2000),
    b'{"model": "m", "messages": {"a": 1}, "tools": [7, {"function": 1}], "tool_choice": {"function": 2}}',
)
USER: Any = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The stand-in behind uvicorn on a free port."""
    config = uvicorn.Config(Standin(pause_s=0.001), lifespan="off", log_config=None, http="httptools")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
        thread.start()
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join()


def test_openai_sdk(port: int) -> None:
    """Plain, streamed, tools, embeddings, models, errors."""
    with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="any", max_retries=0) as client:
        chat = client.chat.completions.create(model="gpt-4o-mini", messages=USER)
        assert (chat.choices[0].message.content or "").startswith(SENTENCE)
        with client.responses.stream(model="gpt-4o-mini", input="Hello") as stream:
            assert stream.get_final_response().output_text.startswith(SENTENCE)
        tool: Any = {"type": "function", "name": "get_time", "parameters": None, "strict": False}
        made = client.responses.create(model="gpt-4o", input="Hi", tools=[tool], tool_choice="required", stream=True)
        assert [event for event in made if event.type == "response.function_call_arguments.done"]
        assert len(client.embeddings.create(model="text-embedding-3-small", input="Hello").data[0].embedding) == 256
        assert [model.id for model in client.models.list()]
        with pytest.raises(openai.NotFoundError, match="stand-in"):
            client.chat.completions.create(model="no-such-model", messages=USER)


def test_anthropic_sdk(port: int) -> None:
    """Plain, streamed, counted, models, errors."""
    with anthropic.Anthropic(base_url=f"http://127.0.0.1:{port}", api_key="any", max_retries=0) as client:
        with client.messages.stream(model="claude-haiku-4-5", max_tokens=9, messages=USER) as stream:
            assert stream.get_final_text().startswith(SENTENCE)
        assert client.messages.count_tokens(model="claude-haiku-4-5", messages=USER).input_tokens > 1
        assert [model.id for model in client.models.list()]
        with pytest.raises(anthropic.NotFoundError, match="stand-in"):
            client.messages.create(model="no-such-model", max_tokens=9, messages=USER)


def test_google_sdk(port: int) -> None:
    """Plain, streamed, embedded, models."""
    client = genai.Client(api_key="any", http_options=types.HttpOptions(base_url=f"http://127.0.0.1:{port}"))
    said = client.models.generate_content(model="gemini-2.5-flash", contents="Hello").text
    assert (said or "").startswith(SENTENCE)
    chunks = client.models.generate_content_stream(model="gemini-2.5-flash", contents="Hello")
    assert "".join(chunk.text or "" for chunk in chunks) == said
    assert client.models.embed_content(model="gemini-embedding-001", contents="Hello").embeddings
    assert [model.name for model in client.models.list()]
    client.close()


def test_every_answer_says_that_it_is_a_stand_in(port: int) -> None:
    """Success, refusal and stream alike."""
    bearer = (b"Authorization", b"Bearer any")
    stream = b'{"model": "gpt-4o", "messages": [], "stream": true}'
    for request in (
        Request(b"GET", b"/v1/models", [bearer]),
        Request(b"POST", b"/v1/chat/completions", [bearer], stream),
        Request(b"POST", b"/v1/messages", [], b"{}"),
        Request(b"DELETE", b"/", [bearer]),
    ):
        assert call(port, request).head.values(b"x-steward-standin") == [b"true"]


def test_the_first_event_comes_alone() -> None:
    """Over a real socket an event is there while the next is still a minute away."""
    server = uvicorn.Server(uvicorn.Config(Standin(pause_s=60), lifespan="off", log_config=None))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
        thread.start()
        request = Request(
            b"POST",
            b"/v1/messages",
            [(b"x-api-key", b"any")],
            b'{"model": "claude-haiku-4-5", "messages": [], "stream": true}',
        )
        with socket.create_connection(listener.getsockname(), timeout=30) as sock, sock.makefile("rb") as stream:
            sock.sendall(request.octets(b"127.0.0.1"))
            assert read_head(stream) is not None
            assert b"event: message_start" in stream.readline() + stream.readline()
        server.force_exit = server.should_exit = True
        thread.join()


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/v1/chat/completions", {}, 401),
        ("/v1/messages", {"authorization": "Bearer "}, 401),
        ("/v1beta/models/gemini-2.5-flash:generateContent", {}, 401),
        ("/v1beta/models/gemini-2.5-flash:generateContent?key=any", {}, 200),
        ("/v1/models/gemini-2.5-flash:generateContent", {"x-goog-api-key": "any"}, 200),
        ("/v1/messages", {"x-api-key": "any"}, 200),
        ("/chat/completions", {"authorization": "Bearer any"}, 200),
    ],
)
def test_credentials_and_spellings(path: str, headers: dict[str, str], status: int) -> None:
    """Each dialect's way to send a credential; none is a 401 in its shape."""
    said = ask(path, {"model": "m", "messages": [], "contents": []}, headers)
    assert said.status == status
    assert status == 200 or "error" in document(said)


@pytest.mark.parametrize(
    "body",
    GARBAGE,
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/embeddings"])
def test_garbage_is_answered(path: str, body: bytes) -> None:
    """Whatever comes, an answer in the dialect, never an exception."""
    said = ask(path, body)
    assert said.status in (200, 400)
    assert document(said)


def test_other_protocols_are_refused() -> None:
    """A lifespan or a WebSocket is not served, and says so."""

    async def nothing(*_: Any) -> Any:
        raise AssertionError

    with pytest.raises(NotImplementedError):
        asyncio.run(Standin()({"type": "lifespan"}, nothing, nothing))
