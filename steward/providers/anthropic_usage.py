"""How answers in Anthropic's dialect spell model, usage and tier, whole and streamed.

It refuses to add up a stream: its usage is cumulative, and what came last and is not null counts.
"""

from __future__ import annotations

from dataclasses import replace

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

_TELLING = (b'"usage"', b'"error"', b'"message_stop"', b'"message_start"')


class AnthropicReader:
    """Reads one answer."""

    def __init__(self, operation: Operation) -> None:
        self._metered = operation is Operation.MESSAGES
        self._reading = Reading()
        self._merged: dict[str, object] = {}

    def document(self, value: object) -> None:
        """A whole message, or an error."""
        answer = mapping(value)
        self._reading.error = by_words(answer.get("error"))
        self._message(answer)
        self._reading.final = True

    def event(self, event: Event) -> None:
        """`message_start` has the input side and a placeholder, `message_delta` what counts."""
        if not any(mark in event.data for mark in _TELLING):
            return
        value = mapping(jsondoc.parse(event.data))
        kind = value.get("type")
        if kind == "message_start":
            self._message(mapping(value.get("message")))
        elif kind == "message_delta":
            self._merge(mapping(value.get("usage")))
            if mapping(value.get("delta")).get("stop_reason") is not None:
                self._reading.final = True
        elif kind == "message_stop":
            self._reading.final = True
        elif kind == "error":
            self._reading.error = by_words(value.get("error") or value)

    def result(self) -> Reading:
        """What was gathered."""
        reading = self._reading
        if self._metered and self._merged:
            usage = _usage(self._merged)
            reading.usage = known(_with_parts(usage, self._merged, reading.model))
            reading.service_tier = _tier(self._merged)
        return reading

    def _message(self, message: Json) -> None:
        self._reading.model = model_name(message.get("model")) or self._reading.model
        self._merge(mapping(message.get("usage")))

    def _merge(self, usage: Json) -> None:
        self._merged.update({name: value for name, value in usage.items() if value is not None})


def _usage(usage: Json) -> Usage:
    """One usage object. Input tokens exclude the cache here; ours include it."""
    split = mapping(usage.get("cache_creation"))
    hour = counted(split, "ephemeral_1h_input_tokens")
    if usage.get("cache_creation_input_tokens") is None:
        parts = summed(split, "ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")
        usage = {**usage, "cache_creation_input_tokens": parts}
    written = counted(usage, "cache_creation_input_tokens")
    read = counted(usage, "cache_read_input_tokens")
    inputs = summed(usage, "input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    outputs = counted(usage, "output_tokens")
    thinking = counted(mapping(usage.get("output_tokens_details")), "thinking_tokens")
    return Usage(
        input_tokens=inputs if counted(usage, "input_tokens") is not None else None,
        output_tokens=outputs,
        cached_tokens=read,
        cache_creation_tokens=written,
        cache_creation_1h_tokens=at_most(hour, written),
        reasoning_tokens=at_most(thinking, outputs),
        web_searches=count(mapping(usage.get("server_tool_use")).get("web_search_requests")),
    )


def _tier(usage: Json) -> str | None:
    """What the price depends on, as one word: fast mode is a tier of its own, and US-only inference marks its tier."""
    tier = "fast" if usage.get("speed") == "fast" else word(usage.get("service_tier"))
    return f"{tier or 'standard'}-us" if usage.get("inference_geo") == "us" else tier


def _with_parts(usage: Usage, merged: Json, model: str | None) -> Usage:
    """With the billed steps, where they are more than the headline says: compaction, advisors, fallbacks."""
    steps = [mapping(step) for step in listed(merged.get("iterations"))]
    parts = [(model_name(step.get("model")) or model or "", _usage(step)) for step in steps]
    if not parts or any(not name or part.input_tokens is None for name, part in parts):
        return usage
    inputs = sum(part.input_tokens or 0 for _, part in parts)
    outputs = sum(part.output_tokens or 0 for _, part in parts)
    same_model = all(name == model for name, _ in parts)
    if same_model and (inputs, outputs) == (usage.input_tokens, usage.output_tokens):
        return usage
    return replace(usage, parts=tuple(parts))
