"""How answers in OpenAI's dialect spell model, usage, tier and price: chat, completions, Responses and their kin.

It refuses decoys: usage is read where the dialect puts it, never searched for.
"""

from __future__ import annotations

from decimal import Decimal

from steward.exchange import Operation, Usage
from steward.providers.failures import by_words
from steward.providers.reading import (
    Json,
    Reading,
    at_most,
    count,
    counted,
    dollars,
    known,
    listed,
    mapping,
    model_name,
    priced,
    word,
)
from steward.wire import jsondoc
from steward.wire.sse import Event

_TICKS_A_DOLLAR = Decimal(10**10)
_DONE = b"[DONE]"
_LAST = frozenset(
    {
        "response.completed",
        "response.incomplete",
        "response.failed",
        "response.cancelled",
        "image_generation.completed",
        "image_edit.completed",
        "transcript.text.done",
        "speech.audio.done",
    }
)
"""Event types after which nothing is billed."""


class OpenAiReader:
    """Reads one answer. `provider` matters where others speak the dialect with another arithmetic."""

    def __init__(self, operation: Operation, provider: str) -> None:
        self._provider = provider
        self._images = operation is Operation.IMAGES
        self._metered = operation not in (Operation.FREE, Operation.OTHER)
        self._reading = Reading()

    def document(self, value: object) -> None:
        """A whole answer."""
        self._take(mapping(value))
        self._reading.final = True

    def event(self, event: Event) -> None:
        """One chunk or Responses event; those that can hold nothing of interest are not parsed."""
        data = event.data
        if data == _DONE:
            self._reading.final = True
            return
        if self._reading.model is not None and not _telling(data) and event.name != b"error":
            return
        chunk = mapping(jsondoc.parse(data))
        named = chunk.get("type")
        kind = named if isinstance(named, str) else ""
        if kind == "error" or event.name == b"error":
            self._reading.error = by_words(chunk.get("error") or chunk)
            return
        response = chunk.get("response")
        self._take(mapping(response) if isinstance(response, dict) else chunk)
        choices = chunk.get("choices")
        if kind in _LAST or (isinstance(choices, list) and _ended(choices, chunk)):
            self._reading.final = True

    def result(self) -> Reading:
        """What was gathered."""
        return self._reading

    def _take(self, answer: Json) -> None:
        reading = self._reading
        reading.model = model_name(answer.get("model")) or reading.model
        reading.service_tier = word(answer.get("service_tier")) or reading.service_tier
        reading.error = by_words(answer.get("error")) or reading.error
        usage = answer.get("usage") or mapping(answer.get("x_groq")).get("usage")
        if self._metered and isinstance(usage, dict):
            reading.usage = self._usage(usage, answer) or reading.usage
            reading.cost_usd = _cost(usage) if _cost(usage) is not None else reading.cost_usd

    def _usage(self, usage: Json, answer: Json) -> Usage | None:
        details_in = _details(usage, "prompt_tokens_details", "input_tokens_details", "input_token_details")
        details_out = _details(usage, "completion_tokens_details", "output_tokens_details", "output_token_details")
        inputs = counted(usage, "prompt_tokens", "input_tokens")
        outputs = counted(usage, "completion_tokens", "output_tokens")
        summed = count(usage.get("total_tokens"))
        reasoning = counted(details_out, "reasoning_tokens")
        if reasoning is None:
            reasoning = counted(usage, "reasoning_tokens")
        if inputs is None and outputs is None:
            inputs = summed
        outputs = self._whole_output(inputs, outputs, reasoning, summed)
        cached = at_most(_cached(usage, details_in), inputs)
        written = counted(details_in, "cache_write_tokens", "cache_creation_tokens")
        if inputs is not None and cached is not None:
            written = at_most(written, inputs - cached)
        return known(
            Usage(
                input_tokens=inputs,
                output_tokens=outputs,
                cached_tokens=cached,
                cache_creation_tokens=at_most(written, inputs),
                reasoning_tokens=at_most(reasoning, outputs),
                input_audio_tokens=at_most(counted(details_in, "audio_tokens"), inputs),
                output_audio_tokens=at_most(counted(details_out, "audio_tokens"), outputs),
                input_image_tokens=at_most(counted(details_in, "image_tokens"), inputs),
                output_image_tokens=at_most(self._images_out(details_out, outputs), outputs),
                web_searches=_searches(answer),
            )
        )

    def _images_out(self, details: Json, outputs: int | None) -> int | None:
        """The image models' output is image wherever they do not split it."""
        found = counted(details, "image_tokens")
        return outputs if found is None and self._images and not details else found

    def _whole_output(
        self, inputs: int | None, outputs: int | None, reasoning: int | None, summed: int | None
    ) -> int | None:
        """Output with its reasoning, for those who leave it out: xAI says how much, Gemini hides it in the total."""
        if inputs is None or summed is None:
            return outputs
        if outputs is not None and reasoning and summed == inputs + outputs + reasoning:
            return count(outputs + reasoning)
        if self._provider == "gemini" and summed > inputs + (outputs or 0):
            return summed - inputs
        return outputs


def _telling(data: bytes) -> bool:
    """Whether an event may hold usage, an end, an error or a whole response. Quotes in content are escaped."""
    if b'"usage"' in data or b'"error"' in data or b'"response"' in data:
        return True
    return b'"finish_reason"' in data and b'"finish_reason":null' not in data


def _ended(choices: list[object], chunk: Json) -> bool:
    """A finish reason was given, or this is the extra chunk that holds nothing but usage."""
    if not choices:
        return isinstance(chunk.get("usage"), dict)
    return any(mapping(choice).get("finish_reason") is not None for choice in choices)


def _details(usage: Json, *names: str) -> Json:
    """The first of the named objects that is there."""
    return next((found for name in names if (found := mapping(usage.get(name)))), {})


def _cached(usage: Json, details: Json) -> int | None:
    found = counted(details, "cached_tokens")
    return found or counted(usage, "cached_tokens", "prompt_cache_hit_tokens", "num_cached_tokens") or found


def _searches(answer: Json) -> int | None:
    """Web searches of a Responses answer: its own count, or one a call."""
    tools = mapping(mapping(answer.get("tool_usage")).get("web_search"))
    told = count(tools.get("num_requests"))
    if told is not None:
        return told
    calls = sum(mapping(item).get("type") == "web_search_call" for item in listed(answer.get("output")))
    return calls or None


def _cost(usage: Json) -> Decimal | None:
    """The price the provider itself reports, in the three spellings there are."""
    ticks = usage.get("cost_in_usd_ticks")
    if isinstance(ticks, int) and not isinstance(ticks, bool):
        return priced(Decimal(ticks) / _TICKS_A_DOLLAR)
    cost = usage.get("cost")
    return dollars(cost.get("total_cost") if isinstance(cost, dict) else cost)
