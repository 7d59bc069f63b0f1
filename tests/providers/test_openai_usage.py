"""OpenAI's dialect, shape by shape: the examples are our own, the arithmetic is the providers'."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from steward.exchange import ErrorCode, Operation, Usage
from steward.providers.openai_usage import OpenAiReader
from steward.providers.reading import Reading
from steward.wire.sse import Event


def whole(answer: object, operation: Operation = Operation.CHAT, provider: str = "openai") -> Reading:
    reader = OpenAiReader(operation, provider)
    reader.document(answer)
    return reader.result()


def streamed(*chunks: object, operation: Operation = Operation.CHAT, name: bytes = b"") -> Reading:
    reader = OpenAiReader(operation, "openai")
    for chunk in chunks:
        reader.event(Event(name, chunk.encode() if isinstance(chunk, str) else json.dumps(chunk).encode()))
    return reader.result()


def usage_of(usage: object, operation: Operation = Operation.CHAT, provider: str = "openai") -> Usage | None:
    return whole({"usage": usage}, operation, provider).usage


def test_chat() -> None:
    reading = whole(
        {
            "model": "gpt-5-2025-08-07",
            "service_tier": "flex",
            "usage": {
                "prompt_tokens": 100,
                "completion_tokens": 60,
                "total_tokens": 160,
                "prompt_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 30, "audio_tokens": 5},
                "completion_tokens_details": {"reasoning_tokens": 50, "audio_tokens": 7},
            },
        }
    )
    assert (reading.model, reading.service_tier, reading.final) == ("gpt-5-2025-08-07", "flex", True)
    assert reading.usage == Usage(
        input_tokens=100,
        output_tokens=60,
        cached_tokens=40,
        cache_creation_tokens=30,
        reasoning_tokens=50,
        input_audio_tokens=5,
        output_audio_tokens=7,
    )


def test_responses_and_their_searches() -> None:
    usage = {"input_tokens": 10, "output_tokens": 5, "input_tokens_details": {"cached_tokens": 4}}
    calls = [{"type": "web_search_call"}, {"type": "message"}, {"type": "web_search_call"}]
    reading = whole({"model": "m", "output": calls, "usage": usage}, Operation.RESPONSES)
    assert reading.usage == Usage(10, 5, cached_tokens=4, web_searches=2)
    told = {"web_search": {"num_requests": 3}, "image_gen": {"input_tokens": 999}}
    reading = whole({"output": calls, "usage": usage, "tool_usage": told}, Operation.RESPONSES)
    assert reading.usage is not None
    assert reading.usage.web_searches == 3


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        ({"prompt_tokens": 8, "total_tokens": 8}, Usage(8)),
        ({"total_tokens": 8}, Usage(8)),
        ({"prompt_tokens": 5.0, "completion_tokens": 2.0}, Usage(5, 2)),
        ({"prompt_tokens": 7, "prompt_tokens_details": {"cached_tokens": 163}}, Usage(7, cached_tokens=7)),
        (
            {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 8}},
            Usage(9, cached_tokens=8, cache_creation_tokens=1),
        ),
        ({"prompt_tokens": 9, "prompt_cache_hit_tokens": 4}, Usage(9, cached_tokens=4)),
        ({"prompt_tokens": 9, "cached_tokens": 3}, Usage(9, cached_tokens=3)),
        ({"prompt_tokens": 9, "prompt_tokens_details": None, "completion_tokens_details": None}, Usage(9)),
        ({"prompt_tokens": -1, "completion_tokens": 3}, Usage(None, 3)),
        ({"prompt_tokens": True, "completion_tokens": "3"}, None),
        ({"prompt_tokens": 2**63, "completion_tokens": 1e999}, None),
        ({"type": "duration", "seconds": 7}, None),
        ({}, None),
        ([], None),
        ("usage", None),
        (None, None),
    ],
)
def test_odd_usage(usage: object, read: Usage | None) -> None:
    assert usage_of(usage) == read


def test_reasoning_left_out_of_the_output() -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 42}
    detailed = {**usage, "completion_tokens_details": {"reasoning_tokens": 30}}
    assert usage_of(detailed, provider="xai") == Usage(10, 32, reasoning_tokens=30)
    assert usage_of(usage, provider="gemini") == Usage(10, 32)
    assert usage_of(usage) == Usage(10, 2)
    inclusive = {**detailed, "completion_tokens": 32}
    assert usage_of(inclusive) == Usage(10, 32, reasoning_tokens=30)


def test_images_are_told_from_text() -> None:
    usage = {"input_tokens": 50, "output_tokens": 1000, "input_tokens_details": {"image_tokens": 40, "text_tokens": 10}}
    assert usage_of(usage, Operation.IMAGES) == Usage(50, 1000, input_image_tokens=40, output_image_tokens=1000)
    split = {**usage, "output_tokens_details": {"image_tokens": 900, "text_tokens": 100}}
    assert usage_of(split, Operation.IMAGES) == Usage(50, 1000, input_image_tokens=40, output_image_tokens=900)


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        ({"cost": 0.00435825}, "0.00435825"),
        ({"cost": 1.6e-07}, "0.00000016"),
        ({"cost": {"total_cost": 0.006, "request_cost": 0.005}}, "0.006"),
        ({"cost_in_usd_ticks": 6_543_500}, "0.00065435"),
        ({"cost": 0}, "0"),
    ],
)
def test_reported_prices(usage: dict[str, object], cost: str) -> None:
    assert whole({"usage": {"prompt_tokens": 1, **usage}}).cost_usd == Decimal(cost)


@pytest.mark.parametrize("cost", [-1, 10_001, True, "0.5", {"total_cost": -1}, None, [0.1]])
def test_prices_out_of_their_domain_are_unknown(cost: object) -> None:
    assert whole({"usage": {"prompt_tokens": 1, "cost": cost}}).cost_usd is None
    assert whole({"usage": {"prompt_tokens": 1, "cost_in_usd_ticks": 10**20}}).cost_usd is None


def test_decoys_are_not_usage() -> None:
    decoys = {
        "tool_usage": {"image_gen": {"input_tokens": 9}},
        "provider_metadata": {"anthropic": {"usage": {"input_tokens": 9, "prompt_tokens": 9}}},
        "data": [{"usage": {"prompt_tokens": 9}}],
    }
    assert whole(decoys).usage is None


def chunk(**more: object) -> dict[str, object]:
    return {"model": "m-1", "choices": [{"delta": {"content": "hi"}, "finish_reason": None}], "usage": None, **more}


def test_the_last_usage_of_a_stream_that_is_not_null_wins() -> None:
    reading = streamed(
        chunk(model="", choices=[], prompt_filter_results=[]),
        chunk(usage={"prompt_tokens": 5, "completion_tokens": 1}),
        chunk(),
        chunk(choices=[{"finish_reason": "stop"}]),
        chunk(choices=[], usage={"prompt_tokens": 5, "completion_tokens": 9}, service_tier="default"),
        chunk(choices=[], moderation=[]),
        "[DONE]",
    )
    assert (reading.model, reading.usage, reading.final) == ("m-1", Usage(5, 9), True)


def test_streams_end_in_several_ways() -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 9}
    assert not streamed(chunk(usage=usage)).final
    assert streamed(chunk(usage=usage), "[DONE]").final
    assert streamed(chunk(choices=[{"finish_reason": "length"}], usage=usage)).final
    assert streamed(chunk(), chunk(choices=[], usage=usage)).final
    groq = streamed(chunk(), chunk(choices=[{"finish_reason": "stop"}], x_groq={"usage": usage}))
    assert (groq.usage, groq.final) == (Usage(5, 9), True)


def test_a_responses_stream() -> None:
    usage = {"input_tokens": 3, "output_tokens": 4}
    created = {"type": "response.created", "response": {"model": "m-1", "usage": None}}
    delta = {"type": "response.output_text.delta", "delta": 'he said "usage": {"input_tokens": 99}'}
    for last in ("response.completed", "response.incomplete", "response.failed"):
        ended = {"type": last, "response": {"model": "m-1", "usage": usage, "service_tier": "priority"}}
        reading = streamed(created, delta, ended, operation=Operation.RESPONSES)
        assert (reading.usage, reading.final, reading.service_tier) == (Usage(3, 4), True, "priority")
    assert streamed(created, delta, operation=Operation.RESPONSES).usage is None


def test_streams_of_other_operations() -> None:
    done = {"type": "transcript.text.done", "usage": {"type": "tokens", "input_tokens": 14, "output_tokens": 45}}
    reading = streamed(done, operation=Operation.TRANSCRIPTION)
    assert (reading.usage, reading.final) == (Usage(14, 45), True)


def test_errors_inside_a_stream() -> None:
    failed = {"type": "response.failed", "response": {"error": {"code": "server_error"}, "usage": None}}
    assert streamed(failed, operation=Operation.RESPONSES).error is ErrorCode.SERVER_ERROR
    assert streamed({"type": "error", "code": "rate_limit_exceeded"}).error is ErrorCode.RATE_LIMITED
    assert streamed(chunk(), {"error": {"type": "overloaded_error"}}).error is ErrorCode.OVERLOADED
    assert streamed(chunk(), {"message": "no"}, name=b"error").error is ErrorCode.OTHER
    assert streamed(chunk(error=None), "not json", "", "null", "[]", "7").error is None


def test_what_bills_nothing_has_no_usage() -> None:
    answer = {"model": "m", "usage": {"prompt_tokens": 5}, "input_tokens": 5}
    for operation in (Operation.FREE, Operation.OTHER):
        assert whole(answer, operation).usage is None
        assert whole(answer, operation).model == "m"
    assert whole(answer, Operation.RESPONSES_RETRIEVE).usage == Usage(5)
