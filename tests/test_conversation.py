"""Conversations read out of bodies: by role, in all dialects, plain and streamed; strangers' shapes break nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steward.body_object import build
from steward.body_reading import Reading, laid_out, unpacked
from steward.conversation import Part, Turn, answered, asked
from tests.exchanges import recorded
from tests.servers.corpus import Recording
from tests.servers.viewers import a_document


def reading(question: Any = None, answer: Any = None, encoding: str = "json") -> Reading:
    document = a_document(body=answer, body_encoding=encoding)
    document["request"]["body"] = question
    found = laid_out(json.dumps(document).encode())
    assert found is not None
    return found


def said(*turns: tuple[str, str]) -> tuple[Turn, ...]:
    return tuple(Turn(role, (Part("text", text),)) for role, text in turns)


REQUESTS: dict[str, tuple[Any, tuple[Turn, ...]]] = {
    "chat": (
        {"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]},
        said(("system", "Be kind."), ("user", "Hi")),
    ),
    "anthropic": (
        {"system": [{"type": "text", "text": "Be kind."}], "messages": [{"role": "user", "content": "Hi"}]},
        said(("system", "Be kind."), ("user", "Hi")),
    ),
    "responses": ({"instructions": "Be kind.", "input": "Hi"}, said(("system", "Be kind."), ("user", "Hi"))),
    "responses' items": (
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}]},
        said(("user", "Hi")),
    ),
    "gemini": (
        {
            "systemInstruction": {"parts": [{"text": "Be kind."}]},
            "contents": [{"role": "user", "parts": [{"text": "Hi"}]}],
        },
        said(("system", "Be kind."), ("user", "Hi")),
    ),
    "completions": ({"prompt": "Once"}, said(("user", "Once"))),
    "embeddings": ({"input": ["one", "two"]}, said(("user", "one"), ("user", "two"))),
    "none": ({"model": "x"}, ()),
}


@pytest.mark.parametrize(("body", "turns"), REQUESTS.values(), ids=REQUESTS.keys())
def test_what_was_asked_is_told_by_role(body: Any, turns: tuple[Turn, ...]) -> None:
    assert asked(reading(body)) == turns


CHAT = {"choices": [{"message": {"role": "assistant", "content": "Hello"}}]}
ANSWERS: dict[str, tuple[Any, tuple[Turn, ...]]] = {
    "chat": (CHAT, said(("assistant", "Hello"))),
    "completions": ({"choices": [{"text": "upon a time"}]}, said(("assistant", "upon a time"))),
    "anthropic": ({"role": "assistant", "content": [{"type": "text", "text": "Hello"}]}, said(("assistant", "Hello"))),
    "responses": (
        {"output": [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hello"}]}]},
        said(("assistant", "Hello")),
    ),
    "gemini": (
        {"candidates": [{"content": {"role": "model", "parts": [{"text": "Hello"}]}}]},
        said(("model", "Hello")),
    ),
    "gemini's array": (
        [{"candidates": [{"content": {"role": "model", "parts": [{"text": "Hello"}]}}]}],
        said(("model", "Hello")),
    ),
    "error": ({"error": {"message": "Too fast", "type": "x"}}, said(("error", "Too fast"))),
    "error without words": ({"error": [1]}, said(("error", "[\n  1\n]"))),
    "nothing": (None, ()),
}


@pytest.mark.parametrize(("body", "turns"), ANSWERS.values(), ids=ANSWERS.keys())
def test_what_was_answered_is_told_by_role(body: Any, turns: tuple[Turn, ...]) -> None:
    assert answered(reading({}, body)) == turns


def test_tools_are_told_with_their_names_and_arguments() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}
    chat = {
        "messages": [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "2"},
        ]
    }
    use = {"type": "tool_use", "id": "t1", "name": "add", "input": {"a": 1}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "2"}]}
    anthropic = {"messages": [{"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]}
    parts = [
        {"functionCall": {"name": "add", "args": {"a": 1}}},
        {"functionResponse": {"name": "add", "response": {"r": 2}}},
    ]
    gemini = {"contents": [{"role": "model", "parts": parts}]}
    items = {
        "input": [
            {"type": "function_call", "name": "add", "arguments": '{"a":1}'},
            {"type": "function_call_output", "call_id": "c", "output": "2"},
        ]
    }
    argument = '{\n  "a": 1\n}'
    for body, names in ((chat, ("add", "c1")), (anthropic, ("add", "t1")), (items, ("add", "c"))):
        parts_told = [part for turn in asked(reading(body)) for part in turn.parts]
        assert parts_told == [Part("tool call", argument, names[0]), Part("tool result", "2", names[1])]
    assert [part for turn in asked(reading(gemini)) for part in turn.parts] == [
        Part("tool call", argument, "add"),
        Part("tool result", '{\n  "r": 2\n}', "add"),
    ]


def test_an_image_is_told_and_not_shown() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 5000}}
    (turn,) = asked(reading({"messages": [{"role": "user", "content": [{"type": "text", "text": "Look"}, image]}]}))
    assert [part.kind for part in turn.parts] == ["text", "media"]
    assert len(turn.parts[1].text) < 400
    assert "5022 characters" in turn.parts[1].text


def test_thinking_and_refusals_are_named_so() -> None:
    content = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "Yes"}]
    (turn,) = answered(reading({}, {"role": "assistant", "content": content}))
    assert turn.parts == (Part("thinking", "hm"), Part("text", "Yes"))
    (turn,) = answered(reading({}, {"choices": [{"message": {"role": "assistant", "content": None, "refusal": "No"}}]}))
    assert turn.parts == (Part("refusal", "No"),)


def test_a_stream_is_read_as_one_answer() -> None:
    events = [{"choices": [{"index": 0, "delta": {"content": part}}]} for part in ("Hel", "lo")]
    stream = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    assert answered(reading({}, stream, "text")) == said(("assistant", "Hello"))
    assert answered(reading({}, "no stream", "text")) == ()
    assert answered(reading({}, "AAAA", "base64")) == ()


JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("role", "content", "parts", "text", "type", "messages", "input", "contents", "choices"),
                    *("output", "candidates", "error", "tool_calls", "function", "arguments", "thinking", "summary"),
                    *("system", "delta", "refusal", "functionCall", "function_response", "message"),
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=25,
)


@given(JSON, JSON)
def test_whatever_shape_it_has_it_breaks_nothing(question: Any, answer: Any) -> None:
    found = reading(question, answer)
    for turn in (*asked(found), *answered(found)):
        assert turn.parts
        assert all(isinstance(part.text, str) and part.text.encode() is not None for part in turn.parts)


def test_a_thousand_turns_are_cut() -> None:
    assert len(asked(reading({"messages": [{"role": "user", "content": "x"}] * 1000}))) == 500


TALKS = ("chat", "messages", "generateContent", "streamGenerateContent")


def test_every_recorded_conversation_has_both_sides(dialect_corpus: list[Recording]) -> None:
    told, silent = 0, []
    for recording in dialect_corpus:
        if recording.status >= 400 or recording.endpoint not in TALKS:
            continue
        made = build(recorded(recording))
        assert isinstance(made.source, bytes)
        found = laid_out(unpacked(made.source, made.sha256))
        if found is not None and asked(found) and answered(found):
            told += 1
        elif recording.truth["output_tokens"]:
            silent.append(recording.id)
    assert told > 50
    assert len(silent) <= 3, silent
