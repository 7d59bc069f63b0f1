"""Gemini's dialect, shape by shape: the last chunk with a prompt count speaks for the stream."""

from __future__ import annotations

import json

import pytest

from steward.exchange import ErrorCode, Operation, Usage
from steward.providers.gemini_usage import GeminiReader
from steward.providers.reading import Reading
from steward.wire.sse import Event


def whole(answer: object, operation: Operation = Operation.GENERATE_CONTENT) -> Reading:
    reader = GeminiReader(operation)
    reader.document(answer)
    return reader.result()


def streamed(*chunks: object, operation: Operation = Operation.GENERATE_CONTENT, name: bytes = b"") -> Reading:
    reader = GeminiReader(operation)
    for chunk in chunks:
        reader.event(Event(name, chunk.encode() if isinstance(chunk, str) else json.dumps(chunk).encode()))
    return reader.result()


def used(**usage: object) -> dict[str, object]:
    return {"modelVersion": "gemini-x", "usageMetadata": usage}


def test_an_answer() -> None:
    reading = whole(
        {
            "modelVersion": "gemini-x",
            "candidates": [{"finishReason": "STOP", "groundingMetadata": {"webSearchQueries": ["a", "b"]}}],
            "usageMetadata": {
                "promptTokenCount": 100,
                "cachedContentTokenCount": 60,
                "toolUsePromptTokenCount": 20,
                "candidatesTokenCount": 30,
                "thoughtsTokenCount": 10,
                "totalTokenCount": 160,
                "promptTokensDetails": [
                    {"modality": "TEXT", "tokenCount": 70},
                    {"modality": "AUDIO", "tokenCount": 25},
                    {"modality": "IMAGE", "tokenCount": 5},
                ],
                "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 9}],
                "candidatesTokensDetails": [{"modality": "TEXT", "tokenCount": 30}],
                "serviceTier": "flex",
            },
        }
    )
    assert (reading.model, reading.service_tier, reading.final) == ("gemini-x", "flex", True)
    assert reading.usage == Usage(
        input_tokens=120,
        output_tokens=40,
        cached_tokens=60,
        reasoning_tokens=10,
        input_audio_tokens=25,
        output_audio_tokens=0,
        cached_audio_tokens=9,
        input_image_tokens=5,
        output_image_tokens=0,
        web_searches=2,
    )


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        ({"promptTokenCount": 5, "totalTokenCount": 5}, Usage(5, 0)),
        ({"promptTokenCount": 5, "thoughtsTokenCount": 9}, Usage(5, 9, reasoning_tokens=9)),
        ({"candidatesTokenCount": 5}, Usage(None, 5)),
        ({"promptTokenCount": 5, "candidatesTokenCount": -5}, Usage(5, None)),
        ({"promptTokenCount": 5, "candidatesTokenCount": 2, "thoughtsTokenCount": "x"}, Usage(5, None)),
        (
            {"promptTokenCount": 5, "trafficType": 1, "promptTokensDetails": [{"modality": 4, "tokenCount": 3}, 7]},
            Usage(5, 0, input_audio_tokens=3, input_image_tokens=0),
        ),
        ({"trafficType": "ON_DEMAND"}, None),
        ({}, None),
        ("usage", None),
    ],
)
def test_odd_usage(usage: object, read: Usage | None) -> None:
    assert whole({"usageMetadata": usage}).usage == read


def test_a_stream_keeps_the_last_prompt_count() -> None:
    reading = streamed(
        used(promptTokenCount=8, candidatesTokenCount=1),
        used(trafficType="ON_DEMAND_FLEX"),
        {"candidates": [{"finishReason": "STOP"}], **used(promptTokenCount=427, candidatesTokenCount=30)},
        used(trafficType="ON_DEMAND_FLEX"),
    )
    assert (reading.usage, reading.final) == (Usage(427, 30), True)
    assert reading.service_tier == "ON_DEMAND_FLEX"


def test_without_any_prompt_count_the_rest_is_kept() -> None:
    reading = streamed(used(candidatesTokenCount=3), used(candidatesTokenCount=7), used(trafficType="ON_DEMAND"))
    assert (reading.usage, reading.final) == (Usage(None, 7), False)
    later = streamed(used(candidatesTokenCount=3), used(promptTokenCount=2), used(candidatesTokenCount=9))
    assert later.usage == Usage(2, 0)


def test_an_array_of_chunks_is_a_stream() -> None:
    last = {"candidates": [{"finishReason": "STOP"}], **used(promptTokenCount=4, candidatesTokenCount=6)}
    chunks = [used(promptTokenCount=4), last]
    assert whole(chunks).usage == Usage(4, 6)
    assert whole(chunks).final
    assert not whole(chunks[:1]).final
    assert whole([1, None, []]).usage is None


def test_a_blocked_prompt_is_an_end() -> None:
    reading = streamed({"promptFeedback": {"blockReason": "SAFETY"}, **used(promptTokenCount=4)})
    assert (reading.usage, reading.final, reading.error) == (Usage(4, 0), True, None)


def test_embeddings_often_say_nothing() -> None:
    assert whole({"embedding": {"values": [0.1]}}, Operation.EMBED_CONTENT).usage is None
    counted = {"embeddings": [], "usageMetadata": {"promptTokenCount": 5, "totalTokenCount": 5}}
    assert whole(counted, Operation.EMBED_CONTENT).usage == Usage(5, 0)


USAGE = {
    "total_input_tokens": 50,
    "total_tool_use_tokens": 5,
    "total_output_tokens": 10,
    "total_thought_tokens": 30,
    "total_cached_tokens": 20,
}


@pytest.mark.parametrize("operation", [Operation.INTERACTIONS, Operation.RESPONSES_RETRIEVE])
def test_interactions(operation: Operation) -> None:
    read = Usage(55, 40, cached_tokens=20, reasoning_tokens=30)
    assert whole({"model": "g", "usage": USAGE, "usageMetadata": {"promptTokenCount": 1}}, operation).usage == read
    reading = streamed(
        {"event_type": "interaction.created", "interaction": {"model": "g", "status": "in_progress"}},
        {"event_type": "step.delta", "delta": {"text": "hi"}},
        {"event_type": "interaction.completed", "interaction": {"model": "g", "usage": USAGE, "service_tier": "flex"}},
        "[DONE]",
        operation=operation,
    )
    assert (reading.usage, reading.model, reading.final, reading.service_tier) == (read, "g", True, "flex")


def test_errors() -> None:
    error = {"error": {"code": 503, "status": "UNAVAILABLE", "message": "x"}}
    assert whole(error).error is ErrorCode.OVERLOADED
    assert whole([error]).error is ErrorCode.OVERLOADED
    assert streamed(used(promptTokenCount=1), error).error is ErrorCode.OVERLOADED
    failed = {"event_type": "error", "error": {"code": "internal"}}
    assert streamed(failed, operation=Operation.INTERACTIONS).error is ErrorCode.SERVER_ERROR
    assert streamed({"message": "x"}, name=b"error").error is ErrorCode.OTHER


def test_counting_is_free() -> None:
    counted = {"totalTokens": 10, "promptTokensDetails": [], "usageMetadata": {"promptTokenCount": 10}}
    assert whole(counted, Operation.FREE).usage is None
