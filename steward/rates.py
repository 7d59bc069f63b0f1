"""What a model's prices make of a call's tokens, in US dollars.

Refuses to guess: a count or a price that is missing makes the sum unknown, never smaller. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from steward.exchange import MAX_TOKENS, Usage

Price = Decimal | tuple[tuple[int, Decimal], ...]
"""US dollars per million tokens; or steps of (input tokens above which it holds, price), the highest first."""

KEYS = (
    "input_mtok",
    "output_mtok",
    "cache_read_mtok",
    "cache_write_mtok",
    "cache_write_1h_mtok",
    "input_audio_mtok",
    "cache_audio_read_mtok",
    "output_audio_mtok",
    "output_image_mtok",
    "output_video_mtok",
    "input_image_mtok",
    "input_video_mtok",
    "web_searches_kcount",
    "requests_kcount",
)
"""The prices that are understood, by genai-prices' names: per million tokens, or per thousand of what is counted."""

MILLION = Decimal(1_000_000)
THOUSAND = Decimal(1_000)
ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Charge:
    """US dollars for a call's input, its output, and what is billed beside tokens."""

    input_usd: Decimal
    output_usd: Decimal
    fees_usd: Decimal = ZERO


@dataclass(frozen=True, slots=True)
class Rates:
    """A model's prices at one moment under one service tier."""

    prices: Mapping[str, Price]

    def charge(self, usage: Usage, complete: bool) -> Charge | None:
        """The tokens' price; None when a count or a price is unknown.

        `complete`: the provider's usage is whole, so that an output it does not mention is none.
        """
        if "input_mtok" not in self.prices:
            return None
        total = usage.input_tokens
        output = usage.output_tokens
        if output is None and (complete or "output_mtok" not in self.prices):
            output = 0
        if total is None or output is None or not (0 <= total <= MAX_TOKENS and 0 <= output <= MAX_TOKENS):
            return None
        input_usd = self._input(usage, total)
        output_usd = self._output(usage, total, output)
        if input_usd is None or output_usd is None:
            return None
        request = self._at("requests_kcount", total)
        return Charge(input_usd, output_usd, request / THOUSAND if request else ZERO)

    def searches(self, count: int) -> Decimal | None:
        """The fee for web searches; None where the list does not say."""
        price = self._at("web_searches_kcount", 0)
        return None if price is None else price * count / THOUSAND

    def _input(self, usage: Usage, total: int) -> Decimal | None:
        """Each kind of input at its own price. Kinds that exceed the whole are cut to it (PROVIDERS 4)."""
        cached = _within(usage.cached_tokens, total)
        written = _within(usage.cache_creation_tokens, total - cached)
        if not cached and not written and not usage.input_audio_tokens and not usage.input_image_tokens:
            return self._sum(total, ((total, ("input_mtok",)),))
        written_1h = _within(usage.cache_creation_1h_tokens, written)
        audio = _within(usage.input_audio_tokens, total)
        cached_audio = _within(usage.cached_audio_tokens, min(cached, audio))
        fresh = total - cached - written
        fresh_audio = _within(audio - cached_audio, fresh)
        image = _within(usage.input_image_tokens, fresh - fresh_audio)
        return self._sum(
            total,
            (
                (fresh - fresh_audio - image, ("input_mtok",)),
                (fresh_audio, ("input_audio_mtok", "input_mtok")),
                (image, ("input_image_mtok", "input_mtok")),
                (cached - cached_audio, ("cache_read_mtok", "input_mtok")),
                (cached_audio, ("cache_audio_read_mtok", "cache_read_mtok", "input_audio_mtok", "input_mtok")),
                (written - written_1h, ("cache_write_mtok",)),
                (written_1h, ("cache_write_1h_mtok",)),
            ),
        )

    def _output(self, usage: Usage, total: int, output: int) -> Decimal | None:
        """Each kind of output at its own price; unknown where a kind with a price of its own is not told apart."""
        if output and "output_video_mtok" in self.prices:
            return None
        if output and usage.output_image_tokens is None and "output_image_mtok" in self.prices:
            return None
        if not usage.output_audio_tokens and not usage.output_image_tokens:
            return self._sum(total, ((output, ("output_mtok",)),))
        audio = _within(usage.output_audio_tokens, output)
        image = _within(usage.output_image_tokens, output - audio)
        return self._sum(
            total,
            (
                (output - audio - image, ("output_mtok",)),
                (audio, ("output_audio_mtok", "output_mtok")),
                (image, ("output_image_mtok", "output_mtok")),
            ),
        )

    def _sum(self, total: int, leaves: tuple[tuple[int, tuple[str, ...]], ...]) -> Decimal | None:
        """Counts times prices, each under the first of its names that has one; None when none has."""
        millionths = ZERO
        for count, names in leaves:
            if not count:
                continue
            price = next((p for name in names if (p := self._at(name, total)) is not None), None)
            if price is None:
                return None
            millionths += price * count
        return millionths / MILLION

    def _at(self, name: str, total: int) -> Decimal | None:
        """One price at this much input: crossing a step moves every token (the providers' own rule)."""
        price = self.prices.get(name)
        if isinstance(price, tuple):
            return next(step for start, step in price if total > start)
        return price


def _within(count: int | None, whole: int) -> int:
    """A part of a whole: unknown is none, and no part exceeds what is left."""
    return min(max(count or 0, 0), whole)
