"""The stand-in's OpenAI dialect, by its shapes; `test_app.py` has the SDK's own opinion."""

from __future__ import annotations

from typing import Any

import pytest

from steward.standin.openai import vector
from steward.standin.said import SENTENCE
from tests.standin.conversation import ask, document, events

CHAT: Any = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "What is the weather in Ulm?"}]}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {}}}]


def test_chat() -> None:
    """The model asked for, the sentence, usage that adds up."""
    said = document(ask("/v1/chat/completions", CHAT))
    assert said["model"] == "gpt-4o-mini"
    assert said["choices"][0]["message"]["content"].startswith(SENTENCE)
    usage = said["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 2


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_usage_is_streamed_when_asked_for(path: str) -> None:
    """On one chunk without choices, before `[DONE]`; otherwise nowhere."""
    body = {**CHAT, "prompt": "Hello", "stream": True}
    silent = ask(path, body)
    told = ask(path, {**body, "stream_options": {"include_usage": True}})
    assert not any("usage" in each for each in events(silent))
    *others, last = events(told)
    assert last["choices"] == []
    assert last["usage"]["prompt_tokens"] > 1
    assert all(each["usage"] is None for each in others)
    assert told.pieces[-1] == silent.pieces[-1] == b"data: [DONE]\n\n"


def test_chat_tool_and_its_answer() -> None:
    """Called when spoken of; words once its answer is there."""
    first = document(ask("/v1/chat/completions", {**CHAT, "tools": TOOLS}))
    assert first["choices"][0]["finish_reason"] == "tool_calls"
    answered = [*CHAT["messages"], first["choices"][0]["message"], {"role": "tool", "content": "weather: rain"}]
    second = document(ask("/v1/chat/completions", {**CHAT, "messages": answered, "tools": TOOLS}))
    assert second["choices"][0]["message"]["content"].startswith(SENTENCE)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_forced_tools(choice: object) -> None:
    """By word or by name."""
    body = {**CHAT, "messages": [{"role": "user", "content": "Hi"}], "tools": TOOLS, "tool_choice": choice}
    assert document(ask("/v1/chat/completions", body))["choices"][0]["message"]["tool_calls"]


def test_responses_stream_ends_with_the_plain_answer() -> None:
    """The last event carries what a plain call would have said, ids and times aside."""
    body = {"model": "gpt-4o", "input": "Hello"}
    plain, streamed = document(ask("/v1/responses", body)), events(ask("/v1/responses", {**body, "stream": True}))
    assert [each["sequence_number"] for each in streamed] == list(range(len(streamed)))
    assert streamed[-1]["response"]["usage"] == plain["usage"]
    assert streamed[-1]["response"]["output"][0]["content"] == plain["output"][0]["content"]


def test_embeddings_repeat_and_obey() -> None:
    """The same vector for the same text; as many numbers as asked; one vector for a list of token ids."""
    assert vector("Ulm", 3) == vector("Ulm", 3) != vector("Bonn", 3)
    body = {"model": "text-embedding-3-small", "input": ["a", "b"], "dimensions": 3}
    assert [len(each["embedding"]) for each in document(ask("/v1/embeddings", body))["data"]] == [3, 3]
    assert len(document(ask("/v1/embeddings", {**body, "input": [1, 2, 3]}))["data"]) == 1
    assert len(vector("Ulm", -1)) == len(vector("Ulm", None)) == len(vector("Ulm", 10**9)) == 256


def test_errors_are_openais() -> None:
    """Shape and code."""
    said = ask("/v1/chat/completions", {**CHAT, "model": "no-such-model"})
    assert said.status == 404
    assert document(said)["error"]["code"] == "model_not_found"
    assert ask("/v1/assistants", CHAT).status == 404
