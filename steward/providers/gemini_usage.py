"""How answers in Gemini's dialect spell model, usage and tier: generate, embed and interactions, whole and streamed.

It refuses to add up a stream: chunks repeat cumulative usage, and the last one that has a prompt count is kept.
"""

from __future__ import annotations

from steward.exchange import Operation, Usage
from steward.providers.failures import by_words
from steward.providers.reading import (
    Json,
    Reading,
    at_most,
    count,
    counted,
    known,
    listed,
    mapping,
    model_name,
    summed,
    word,
)
from steward.wire import jsondoc
from steward.wire.sse import Event

_IMAGE, _AUDIO = ("IMAGE", 2), ("AUDIO", 4)
"""Modalities by name and by number: some clients of Vertex emit enums as numbers."""
_COUNTS = ("promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount", "totalTokenCount")


class GeminiReader:
    """Reads one answer."""

    def __init__(self, operation: Operation) -> None:
        self._metered = operation not in (Operation.FREE, Operation.OTHER)
        self._interaction = operation in (Operation.INTERACTIONS, Operation.RESPONSES_RETRIEVE)
        self._reading = Reading()
        self._usage: Json = {}
        self._searches = 0

    def document(self, value: object) -> None:
        """A whole answer, or all chunks of a streamed one as an array."""
        if isinstance(value, list):
            for chunk in value:
                self._take(mapping(chunk))
            return
        self._take(mapping(value))
        self._reading.final = True

    def event(self, event: Event) -> None:
        """One chunk."""
        value = mapping(jsondoc.parse(event.data))
        if event.name == b"error" or value.get("event_type") == "error":
            self._reading.error = by_words(value.get("error") or value)
            return
        inner = value.get("interaction")
        self._take(mapping(inner) if isinstance(inner, dict) else value)
        if value.get("event_type") in ("interaction.completed", "interaction.complete"):
            self._reading.final = True

    def result(self) -> Reading:
        """What was gathered."""
        reading = self._reading
        if self._metered and self._usage:
            shape = _interaction_usage if self._interaction else _usage
            reading.usage = known(shape(self._usage, self._searches or None))
        return reading

    def _take(self, chunk: Json) -> None:
        reading = self._reading
        reading.error = by_words(chunk.get("error")) or reading.error
        reading.model = model_name(chunk.get("modelVersion") or chunk.get("model")) or reading.model
        usage = mapping(chunk.get("usage" if self._interaction else "usageMetadata"))
        tier = word(usage.get("serviceTier")) or word(usage.get("trafficType")) or word(chunk.get("service_tier"))
        reading.service_tier = tier or reading.service_tier
        if self._interaction:
            self._usage = usage or self._usage
            return
        unsure = self._usage.get("promptTokenCount") is None and any(usage.get(name) is not None for name in _COUNTS)
        if unsure or usage.get("promptTokenCount") is not None:
            self._usage = usage
        for candidate in map(mapping, listed(chunk.get("candidates"))):
            queries = listed(mapping(candidate.get("groundingMetadata")).get("webSearchQueries"))
            self._searches = max(self._searches, len(queries))
            reading.final = reading.final or candidate.get("finishReason") is not None
        if mapping(chunk.get("promptFeedback")).get("blockReason") is not None:
            reading.final = True


def _usage(usage: Json, searches: int | None) -> Usage:
    prompt = counted(usage, "promptTokenCount")
    inputs = None if prompt is None else summed(usage, "promptTokenCount", "toolUsePromptTokenCount")
    thoughts = counted(usage, "thoughtsTokenCount")
    outputs = summed(usage, "candidatesTokenCount", "thoughtsTokenCount")
    if inputs is not None and usage.get("candidatesTokenCount") is None and usage.get("thoughtsTokenCount") is None:
        outputs = 0
    return Usage(
        input_tokens=inputs,
        output_tokens=outputs,
        cached_tokens=at_most(counted(usage, "cachedContentTokenCount"), inputs),
        reasoning_tokens=thoughts,
        input_audio_tokens=at_most(_of(usage, "promptTokensDetails", _AUDIO), inputs),
        output_audio_tokens=at_most(_of(usage, "candidatesTokensDetails", _AUDIO), outputs),
        cached_audio_tokens=at_most(_of(usage, "cacheTokensDetails", _AUDIO), inputs),
        input_image_tokens=at_most(_of(usage, "promptTokensDetails", _IMAGE), inputs),
        output_image_tokens=at_most(_of(usage, "candidatesTokensDetails", _IMAGE), outputs),
        web_searches=searches,
    )


def _of(usage: Json, details: str, modality: tuple[str, int]) -> int | None:
    """Tokens of one modality, 0 where the others are told; None when the provider does not split."""
    parts = [mapping(part) for part in listed(usage.get(details))]
    if not parts:
        return None
    counts = [count(part.get("tokenCount")) for part in parts if part.get("modality") in modality]
    return None if None in counts else count(sum(each or 0 for each in counts))


def _interaction_usage(usage: Json, searches: int | None) -> Usage:
    inputs = summed(usage, "total_input_tokens", "total_tool_use_tokens")
    thoughts = counted(usage, "total_thought_tokens")
    return Usage(
        input_tokens=inputs,
        output_tokens=summed(usage, "total_output_tokens", "total_thought_tokens"),
        cached_tokens=at_most(counted(usage, "total_cached_tokens"), inputs),
        reasoning_tokens=thoughts,
        web_searches=searches,
    )
