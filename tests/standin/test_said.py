"""Counts, tools and samples of the stand-in."""

from __future__ import annotations

import pytest

from steward.standin.said import SENTENCE, Asked, tokens, tool_call

WEATHER = {"name": "get_weather", "parameters": None}
CLOCK = {"name": "read_clock", "parameters": None}


def test_tokens_grow_with_the_text() -> None:
    """About four characters a token, wherever the text stands; never 0."""
    assert tokens({}) == 1
    assert tokens({"a": ["x" * 40, {"b": "y" * 40}], "n": 12}) == 21


def test_a_deep_document_is_counted() -> None:
    """Depth is no fault."""
    deep: object = "x" * 400
    for _ in range(5000):
        deep = [deep]
    assert tokens(deep) == 101


def test_it_says_what_it_is() -> None:
    """Whole, and in pieces that make the whole; the model's name is not counted."""
    asked = Asked("a-model", {"model": "m" * 4000, "text": "x" * 36}, "id", 1)
    assert asked.text().startswith(SENTENCE)
    assert "10 tokens" in asked.text()
    assert len(asked.pieces()) > 3


@pytest.mark.parametrize(
    ("forced", "words", "expected"),
    [
        (None, "Hello", None),
        (None, "What is the WEATHER like?", "get_weather"),
        (None, [{"text": "look at the clock"}], "read_clock"),
        ("none", "the weather", None),
        ("required", "Hello", "get_weather"),
        ("any", "Hello", "get_weather"),
        ("read_clock", "Hello", "read_clock"),
        ("read_clock", "What is the weather like?", "read_clock"),
    ],
)
def test_a_tool_is_called_when_forced_or_spoken_of(forced: str | None, words: object, expected: str | None) -> None:
    """Never merely because it was offered: an agent would run it."""
    call = tool_call([WEATHER, CLOCK], forced, words)
    assert (call.name if call else None) == expected


def test_arguments_suit_the_schema() -> None:
    """A value of the right type for each required property, no other."""
    kinds = {"a": {"type": "string"}, "b": {"type": "INTEGER"}, "c": {"type": "number"}, "d": {"type": "boolean"}}
    kinds |= {"e": {"type": "array"}, "f": {"type": "object"}, "optional": {"type": "string"}}
    properties = {**kinds, "g": {"enum": ["one", "two"]}, "h": None}
    schema = {"type": "object", "properties": properties, "required": [*"abcdefgh", "undeclared", 7]}
    call = tool_call([{"name": "try_all", "parameters": schema}], "required", "")
    assert call is not None
    expected: dict[str, object] = {"a": "stand-in", "b": 1, "c": 1.5, "d": True, "e": [], "f": {}, "g": "one"}
    assert call.arguments == {**expected, "h": "stand-in", "undeclared": "stand-in"}
