"""Anthropic's dialect, shape by shape: input excludes the cache there, streams are cumulative, steps are billed."""

from __future__ import annotations

import json

import pytest

from steward.exchange import ErrorCode, Operation, Usage
from steward.providers.anthropic_usage import AnthropicReader
from steward.providers.reading import Reading
from steward.wire.sse import Event


def whole(answer: object, operation: Operation = Operation.MESSAGES) -> Reading:
    reader = AnthropicReader(operation)
    reader.document(answer)
    return reader.result()


def streamed(*events: object) -> Reading:
    reader = AnthropicReader(Operation.MESSAGES)
    for event in events:
        reader.event(Event(b"", event.encode() if isinstance(event, str) else json.dumps(event).encode()))
    return reader.result()


def start(**usage: object) -> dict[str, object]:
    return {"type": "message_start", "message": {"model": "claude-x", "usage": {"output_tokens": 1, **usage}}}


def delta(stop: str | None = "end_turn", **usage: object) -> dict[str, object]:
    return {"type": "message_delta", "delta": {"stop_reason": stop}, "usage": usage}


STOP = {"type": "message_stop"}
TEXT = {"type": "content_block_delta", "delta": {"text": '"usage": {"input_tokens": 99} "message_start" "error"'}}


def test_a_message() -> None:
    reading = whole(
        {
            "model": "claude-x",
            "usage": {
                "input_tokens": 10,
                "cache_creation_input_tokens": 200,
                "cache_read_input_tokens": 3000,
                "cache_creation": {"ephemeral_5m_input_tokens": 150, "ephemeral_1h_input_tokens": 50},
                "output_tokens": 40,
                "output_tokens_details": {"thinking_tokens": 30},
                "server_tool_use": {"web_search_requests": 2},
                "service_tier": "standard",
            },
        }
    )
    assert (reading.model, reading.service_tier) == ("claude-x", "standard")
    assert reading.usage == Usage(
        input_tokens=3210,
        output_tokens=40,
        cached_tokens=3000,
        cache_creation_tokens=200,
        cache_creation_1h_tokens=50,
        reasoning_tokens=30,
        web_searches=2,
    )


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        ({"input_tokens": 5, "output_tokens": 1}, Usage(5, 1)),
        ({"input_tokens": 5, "cache_creation_input_tokens": None, "cache_read_input_tokens": None}, Usage(5)),
        (
            {"input_tokens": 5, "cache_creation": {"ephemeral_5m_input_tokens": 7, "ephemeral_1h_input_tokens": 2}},
            Usage(14, cache_creation_tokens=9, cache_creation_1h_tokens=2),
        ),
        ({"input_tokens": 5, "cache_read_input_tokens": -1, "output_tokens": 2}, Usage(None, 2)),
        ({"input_tokens": "5", "cache_read_input_tokens": 9, "output_tokens": 2}, Usage(None, 2, cached_tokens=9)),
        ({"input_tokens": 10**9, "cache_read_input_tokens": 1}, Usage(cached_tokens=1)),
        ({}, None),
        (None, None),
        ("usage", None),
    ],
)
def test_odd_usage(usage: object, read: Usage | None) -> None:
    assert whole({"usage": usage}).usage == read


def test_a_stream_is_merged_not_added() -> None:
    reading = streamed(
        start(input_tokens=10, cache_read_input_tokens=5, cache_creation_input_tokens=0),
        {"type": "ping"},
        TEXT,
        delta(None, output_tokens=20),
        delta(output_tokens=30, cache_creation_input_tokens=17_269, cache_read_input_tokens=None),
        STOP,
    )
    assert reading.usage == Usage(17_284, 30, cached_tokens=5, cache_creation_tokens=17_269)
    assert (reading.final, reading.model, reading.error) == (True, "claude-x", None)


def test_the_split_of_the_start_is_kept_and_cut_to_the_whole() -> None:
    split = {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 100}
    first = start(input_tokens=1, cache_creation_input_tokens=100, cache_creation=split)
    kept = streamed(first, delta(output_tokens=3))
    assert kept.usage == Usage(101, 3, cache_creation_tokens=100, cache_creation_1h_tokens=100)
    shrunk = streamed(first, delta(output_tokens=3, input_tokens=1, cache_creation_input_tokens=20))
    assert shrunk.usage == Usage(21, 3, cache_creation_tokens=20, cache_creation_1h_tokens=20)


def test_a_placeholder_is_not_final() -> None:
    reading = streamed(start(input_tokens=10), TEXT)
    assert (reading.usage, reading.final) == (Usage(10, 1), False)
    assert not streamed(start(input_tokens=10), delta(None, output_tokens=5)).final


def test_billed_steps_beyond_the_headline() -> None:
    steps = [
        {"type": "message", "input_tokens": 100, "output_tokens": 10, "cache_read_input_tokens": 20},
        {"type": "advisor_message", "model": "claude-big", "input_tokens": 500, "output_tokens": 5},
    ]
    usage: dict[str, object] = {
        "input_tokens": 100,
        "cache_read_input_tokens": 20,
        "output_tokens": 10,
        "iterations": steps,
    }
    read = whole({"model": "claude-x", "usage": usage}).usage
    assert read is not None
    assert (read.input_tokens, read.output_tokens) == (120, 10)
    assert read.parts == (("claude-x", Usage(120, 10, cached_tokens=20)), ("claude-big", Usage(500, 5)))
    assert streamed(start(input_tokens=1), delta("end_turn", **usage), STOP).usage == read


def test_compaction_is_billed_though_the_model_is_one() -> None:
    steps = [
        {"type": "compaction", "input_tokens": 55_000, "output_tokens": 300},
        {"type": "message", "input_tokens": 220, "output_tokens": 40},
    ]
    read = whole({"model": "m", "usage": {"input_tokens": 220, "output_tokens": 40, "iterations": steps}}).usage
    assert read is not None
    assert sum(part.input_tokens or 0 for _, part in read.parts) == 55_220


def test_steps_that_say_no_more_than_the_headline_are_left_out() -> None:
    step = {"type": "message", "input_tokens": 7, "output_tokens": 2}
    usage = {"input_tokens": 7, "output_tokens": 2}
    for iterations in ([step], [], None, "x", [None], [{"type": "message"}]):
        assert whole({"model": "m", "usage": {**usage, "iterations": iterations}}).usage == Usage(7, 2)


def test_what_changes_the_price_is_one_word() -> None:
    def tier(**usage: object) -> str | None:
        return whole({"usage": {"input_tokens": 1, **usage}}).service_tier

    assert tier(service_tier="priority", inference_geo="global") == "priority"
    assert tier(service_tier="standard", speed="fast") == "fast"
    assert tier(service_tier="standard", speed="standard", inference_geo="us") == "standard-us"
    assert tier(service_tier="a word or two") is None


def test_errors() -> None:
    failed = {"type": "error", "error": {"type": "overloaded_error", "message": "rate_limit_error"}}
    assert whole(failed).error is ErrorCode.OVERLOADED
    reading = streamed(start(input_tokens=4), failed)
    assert (reading.error, reading.final, reading.usage) == (ErrorCode.OVERLOADED, False, Usage(4, 1))
    assert streamed('{"type":"error"', '"usage"', "").error is None


def test_counting_is_free() -> None:
    assert whole({"input_tokens": 11}, Operation.FREE).usage is None
    assert whole({"model": "m", "usage": {"input_tokens": 1}}, Operation.OTHER).usage is None
