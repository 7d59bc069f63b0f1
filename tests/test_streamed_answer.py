"""Streams put together: as they would have come without streaming, however they were cut or broken off."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steward.streamed_answer import assembled


def stream(*events: Any) -> str:
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events)


def delta(number: int = 0, **said: Any) -> dict[str, Any]:
    return {"choices": [{"index": number, "delta": said}]}


def tool(index: int, **function: str) -> dict[str, Any]:
    return delta(tool_calls=[{"index": index, "function": function}])


CHAT = stream(
    delta(role="assistant", content=""),
    delta(content="Hel"),
    delta(1, content="Bye"),
    delta(content="lo"),
    tool(0, name="add", arguments='{"a"'),
    tool(1, name="sub"),
    tool(0, arguments=":1}"),
    {"choices": [], "usage": {}},
)


def test_deltas_of_a_chat_are_joined_by_choice_and_tool() -> None:
    (answer,) = assembled(CHAT + "data: [DONE]\n\n")
    assert answer == {
        "choices": [
            {
                "message": {
                    "role": "assistant",
                    "content": "Hello",
                    "tool_calls": [
                        {"function": {"name": "add", "arguments": '{"a":1}'}},
                        {"function": {"name": "sub"}},
                    ],
                }
            },
            {"message": {"role": "assistant", "content": "Bye", "tool_calls": []}},
        ]
    }


def test_content_blocks_are_joined_by_their_index() -> None:
    blocks = stream(
        {"type": "message_start", "message": {"content": []}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hel"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "lo"}},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "name": "add", "input": {}}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"a":1}'}},
        {"type": "message_stop"},
    )
    content = [{"type": "text", "text": "Hello"}, {"type": "tool_use", "name": "add", "input": '{"a":1}'}]
    assert assembled(blocks) == [{"role": "assistant", "content": content}]


def test_the_responses_api_ends_with_the_whole() -> None:
    begun = [{"type": "response.output_text.delta", "delta": part} for part in ("Hel", "lo")]
    whole = {"output": [{"role": "assistant", "content": "Hello!"}]}
    assert assembled(stream(*begun, {"type": "response.completed", "response": whole})) == [whole]
    assert assembled(stream(*begun)) == [{"output": [{"role": "assistant", "content": "Hello"}]}]


def test_gemini_s_pieces_of_one_kind_are_one() -> None:
    def event(**part: Any) -> dict[str, Any]:
        return {"candidates": [{"content": {"role": "model", "parts": [part]}}]}

    call = {"functionCall": {"name": "add"}}
    made = assembled(
        stream(
            event(text="h", thought=True),
            event(text="m", thought=True),
            event(text="Hi"),
            event(**call),
            event(text="!"),
        )
    )
    parts = [{"text": "hm", "thought": True}, {"text": "Hi"}, call, {"text": "!"}]
    assert made == [{"candidates": [{"content": {"role": "model", "parts": parts}}]}]


def test_an_error_in_a_stream_is_told() -> None:
    assert assembled(stream(delta(content="Hel"), {"error": {"message": "overloaded"}}))[-1] == {
        "error": {"message": "overloaded"}
    }


@pytest.mark.parametrize("at", range(0, len(CHAT), 7))
def test_what_breaks_off_is_kept_as_far_as_it_came(at: int) -> None:
    for answer in assembled(CHAT[:at]):
        choices: Any = answer["choices"]
        assert "Hello".startswith(choices[0]["message"].get("content", ""))


@given(
    st.lists(
        st.one_of(
            st.text(max_size=20),
            st.dictionaries(
                st.sampled_from(("choices", "type", "index", "delta", "candidates", "error", "response")),
                st.one_of(
                    st.none(),
                    st.integers(),
                    st.text(max_size=5),
                    st.lists(st.integers(), max_size=2),
                    st.just("content_block_delta"),
                    st.just([{"index": -1, "delta": 5, "content": {"parts": [1, {"text": 2}]}}]),
                ),
            ),
        )
    )
)
def test_whatever_comes_nothing_breaks(events: list[Any]) -> None:
    assert isinstance(assembled(stream(*events)), list)
