"""How a figure is written: with as many digits as mean something, its full value beside it, and unknown never as 0.

Refuses to guess: `None` becomes a dash that says `unknown`. Money comes as `Decimal` in USD, times as aware UTC,
latency in milliseconds. Pure; gives plain text, which the templates escape.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Final, Literal

NBSP: Final = "\u00a0"
DASH: Final = "\u2013"
_MINUS: Final = "\u2212"
_CENT_LIMIT: Final = Decimal("0.1")
_SMALLEST: Final = Decimal("0.000001")
_SCALES: Final = ((10**3, "k"), (10**6, "M"), (10**9, "B"), (10**12, "T"))

Tone = Literal["plain", "good", "bad"]


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure as it is shown, and what stands there on hover; `known` is False for a dash."""

    text: str
    full: str = ""
    known: bool = True


@dataclass(frozen=True, slots=True)
class Change:
    """Against the period before: the text, which way, and whether that is good."""

    text: str
    way: Literal["up", "down", "same", "new"]
    tone: Tone = "plain"


UNKNOWN: Final = Figure(DASH, "unknown", known=False)


def cost(usd: Decimal | None) -> Figure:
    """`$0.0031`, `$12.40`, `$1,204`."""
    if usd is None:
        return UNKNOWN
    if 0 < abs(usd) < _SMALLEST:
        return Figure(f"<${_SMALLEST:f}", exact(usd).text)
    return Figure(_sign(usd) + "$" + _money(abs(usd)), exact(usd).text)


def _sign(value: Decimal) -> str:
    return _MINUS if value < 0 else ""


def _money(usd: Decimal) -> str:
    if usd == 0:
        return "0"
    if usd >= 1000:
        return f"{_rounded(usd, 0):,}"
    if usd >= _CENT_LIMIT:
        return f"{_rounded(usd, 2):,}"
    small = _rounded(usd, 1 - usd.adjusted())
    return f"{small:f}" if small < _CENT_LIMIT else f"{_rounded(usd, 2)}"


def _rounded(value: Decimal, digits: int) -> Decimal:
    return value.quantize(Decimal(1).scaleb(-digits), rounding=ROUND_HALF_UP)


def exact(usd: Decimal | None) -> Figure:
    """Every digit that was reckoned: `$0.003125`."""
    if usd is None:
        return UNKNOWN
    plain = f"{abs(usd):,f}"
    plain = plain.rstrip("0").rstrip(".") if "." in plain else plain
    return Figure(f"{_sign(usd)}${plain} USD" if plain != "0" else "$0 USD")


def per_million(usd: Decimal | None, count: int | None) -> Figure:
    """What a million tokens cost at this call's average; unknown without both, or of no tokens."""
    if usd is None or not count:
        return UNKNOWN
    return cost(usd * 1_000_000 / count)


def tokens(count: int | None) -> Figure:
    """`1.2 M` with `1,204,331` on hover; below ten thousand the figure itself."""
    if count is None:
        return UNKNOWN
    return Figure(short(count), f"{count:,}")


def short(count: float) -> str:
    """A large number in three digits at most."""
    if abs(count) < 10_000:
        return f"{count:,.0f}"
    scale, letter = next((each for each in _SCALES if round(abs(count) / each[0]) < 1000), _SCALES[-1])
    scaled = count / scale
    return f"{scaled:,.0f}{NBSP}{letter}" if abs(scaled) >= 99.95 else f"{scaled:.1f}{NBSP}{letter}"


def count(number: int | None) -> Figure:
    """Calls, rows, keys: in full up to a million."""
    if number is None:
        return UNKNOWN
    return Figure(f"{number:,}" if abs(number) < 1_000_000 else short(number), f"{number:,}")


def latency(ms: float | None) -> Figure:
    """`842 ms` under ten seconds, then `12.4 s`, then `2 min 5 s`."""
    if ms is None:
        return UNKNOWN
    full = f"{ms:,.0f}{NBSP}ms"
    if ms < 1 and ms > 0:
        return Figure(f"{ms:.2f}{NBSP}ms")
    if ms < 10_000:
        return Figure(full)
    if ms < 120_000:
        return Figure(f"{ms / 1000:.1f}{NBSP}s", full)
    minutes, seconds = divmod(round(ms / 1000), 60)
    return Figure(f"{minutes:,}{NBSP}min{NBSP}{seconds}{NBSP}s", full)


def share(part: float | None, whole: float | None) -> Figure:
    """`12.4 %`; of nothing it is unknown."""
    if part is None or not whole:
        return UNKNOWN
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return Figure(f"<0.1{NBSP}%", f"{percent:.4f}{NBSP}%")
    return Figure(f"{percent:.0f}{NBSP}%" if percent in (0, 100) else f"{percent:.1f}{NBSP}%")


def change(now: float | None, before: float | None, *, more_is: Tone = "plain") -> Change | None:
    """Against the period before; None when there is nothing to compare."""
    if now is None or before is None or (not before and not now):
        return None
    if not before:
        return Change("new", "new")
    percent = 100 * (now - before) / before
    if abs(percent) < 0.5:
        return Change("no change", "same")
    rising = percent > 0
    tone: Tone = more_is if rising or more_is == "plain" else ("good" if more_is == "bad" else "bad")
    size = f"{abs(percent):,.0f}" if abs(percent) < 1000 else ">999"
    return Change(f"{size}{NBSP}%", "up" if rising else "down", tone)


def ago(then: datetime | None, now: datetime) -> Figure:
    """`12 s ago`, `5 min ago`, `3 h ago`, `12 days ago`; the moment itself on hover. None is `never`."""
    if then is None:
        return Figure("never")
    passed = max(now - then, timedelta())
    return Figure(f"{span(passed)} ago" if passed >= timedelta(seconds=1) else "just now", moment(then))


def span(passed: timedelta) -> str:
    """A length of time in its largest unit."""
    seconds = int(passed.total_seconds())
    if seconds < 120:
        return f"{seconds}{NBSP}s"
    if seconds < 7200:
        return f"{seconds // 60}{NBSP}min"
    if seconds < 172_800:
        return f"{seconds // 3600}{NBSP}h"
    return f"{seconds // 86_400}{NBSP}days"


def moment(at: datetime) -> str:
    """`2026-11-28 00:31:05 UTC`."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
