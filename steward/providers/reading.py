"""What a dialect's reader gathers from an answer, and how single values are taken from a stranger's JSON.

It refuses every value outside its domain: counts are 0 to 10^9, dollars 0 to 10^4, words are words; else unknown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from steward.exchange import MAX_COST_USD, MAX_TOKENS, ErrorCode, Usage
from steward.wire.sse import Event

Json = Mapping[str, object]

_WORD = re.compile(r"[A-Za-z0-9_-]{1,40}")
_MAX_MODEL_CHARACTERS = 256
_NOTHING: Json = {}
_UNKNOWN = Usage()


@dataclass(slots=True)
class Reading:
    """What an answer said, so far."""

    usage: Usage | None = None
    model: str | None = None
    service_tier: str | None = None
    cost_usd: Decimal | None = None
    error: ErrorCode | None = None
    final: bool = False
    """The usage is what will be billed, not a placeholder or a running sum."""


class Reader(Protocol):
    """One dialect's way to read an answer."""

    def document(self, value: object) -> None:
        """The whole answer as one JSON value."""

    def event(self, event: Event) -> None:
        """The next event of a streamed answer."""

    def result(self) -> Reading:
        """What was gathered. Called once, at the end."""


def count(value: object) -> int | None:
    """A whole number from 0 to 10^9, also when written as 12.0; None for anything else."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= MAX_TOKENS else None


def counted(source: Json, *names: str) -> int | None:
    """The first of the named values that is a count."""
    for name in names:
        found = count(source.get(name))
        if found is not None:
            return found
    return None


def dollars(value: object) -> Decimal | None:
    """An amount of 0 to 10^4 USD, exactly as the JSON text spells it."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return priced(Decimal(repr(value)))


def priced(amount: Decimal) -> Decimal | None:
    """The amount, within the domain of a price."""
    return amount if amount.is_finite() and 0 <= amount <= MAX_COST_USD else None


def word(value: object) -> str | None:
    """A short plain word, such as a service tier."""
    return value if isinstance(value, str) and _WORD.fullmatch(value) else None


def model_name(value: object) -> str | None:
    """A model's name: any text that is not empty and not absurdly long."""
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_MODEL_CHARACTERS:
        return None
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")


def mapping(value: object) -> Json:
    """The value when it is an object, else an empty one."""
    return value if isinstance(value, dict) else _NOTHING


def listed(value: object) -> list[object]:
    """The value when it is an array, else an empty one."""
    return value if isinstance(value, list) else []


def summed(source: Json, *names: str) -> int | None:
    """The sum of the named counts. None when none is there, when one of them is no count, or beyond the domain."""
    present = [source[name] for name in names if source.get(name) is not None]
    parts = [count(value) for value in present]
    known_parts = [part for part in parts if part is not None]
    return count(sum(known_parts)) if known_parts and len(known_parts) == len(parts) else None


def at_most(value: int | None, bound: int | None) -> int | None:
    """A part of something, never more than the whole. Some report more cached tokens than tokens."""
    return value if value is None or bound is None else min(value, bound)


def known(usage: Usage) -> Usage | None:
    """The usage, unless nothing at all is known."""
    return None if usage == _UNKNOWN else usage
