"""The stand-in's Anthropic dialect, by its shapes; `test_app.py` has the SDK's own opinion."""

from __future__ import annotations

from typing import Any

from steward.standin.said import SENTENCE
from tests.standin.conversation import ask, document, events

ASK: Any = {
    "model": "claude-haiku-4-5",
    "max_tokens": 9,
    "messages": [{"role": "user", "content": "What is the weather in Ulm?"}],
}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [{"name": "get_weather", "input_schema": SCHEMA}]


def test_messages_and_count() -> None:
    """The model asked for, the sentence; counting says what the message then does."""
    said = document(ask("/v1/messages", ASK))
    assert said["model"] == "claude-haiku-4-5"
    assert said["content"][0]["text"].startswith(SENTENCE)
    assert document(ask("/v1/messages/count_tokens", ASK)) == {"input_tokens": said["usage"]["input_tokens"]}


def test_stream_tells_usage_twice() -> None:
    """Input first, output last, names on the events."""
    said = ask("/v1/messages", {**ASK, "stream": True})
    begun, *_, delta, stop = events(said)
    assert begun["message"]["usage"]["input_tokens"] > 1
    assert delta["usage"]["output_tokens"] > begun["message"]["usage"]["output_tokens"]
    assert stop == {"type": "message_stop"}
    assert said.pieces[0].startswith(b"event: message_start\n")


def test_tool_and_its_result() -> None:
    """Called when spoken of, streamed alike; words once its result is there."""
    said = document(ask("/v1/messages", {**ASK, "tools": TOOLS}))
    assert said["content"][0]["input"] == {"city": "stand-in"}
    assert said["stop_reason"] == "tool_use"
    streamed = events(ask("/v1/messages", {**ASK, "tools": TOOLS, "stream": True}))
    assert any(each.get("delta", {}).get("partial_json") == '{"city":"stand-in"}' for each in streamed)
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x", "content": "weather: rain"}]}
    answered = document(ask("/v1/messages", {**ASK, "tools": TOOLS, "messages": [*ASK["messages"], result]}))
    assert answered["stop_reason"] == "end_turn"


def test_forced_tool() -> None:
    """By kind or by name."""
    quiet = {**ASK, "messages": [{"role": "user", "content": "Hi"}], "tools": TOOLS}
    for choice in ({"type": "any"}, {"type": "tool", "name": "get_weather"}):
        assert document(ask("/v1/messages", {**quiet, "tool_choice": choice}))["stop_reason"] == "tool_use"
    assert document(ask("/v1/messages", quiet))["stop_reason"] == "end_turn"


def test_errors_are_anthropics() -> None:
    """Shape and type."""
    said = ask("/v1/messages", {**ASK, "model": "no-such-model"})
    assert said.status == 404
    assert document(said)["error"]["type"] == "not_found_error"
    assert ask("/v1/messages/batches", ASK).status == 404
