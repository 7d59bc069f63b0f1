"""Reads how a fetched price list says which names a model goes by.

Refuses to run a list's patterns on anything but RE2, and clauses that are empty, deep, many or unknown (SECURITY F23).
Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import re2  # type: ignore[import-untyped]
from genai_prices.types import (
    ClauseAnd,
    ClauseContains,
    ClauseEndsWith,
    ClauseEquals,
    ClauseOr,
    ClauseStartsWith,
    MatchLogic,
)

from steward.errors import PriceListRefused

MAX_CLAUSES = 20_000
MAX_CLAUSE_DEPTH = 8
MAX_PATTERNS = 500
MAX_PATTERN_CHARS = 200
MAX_TEXT_CHARS = 200
MAX_ENTRIES = 64
"""Of one list within one model's entry."""
PATTERN_MEMORY_BYTES = 1 << 20

LITERAL: Mapping[str, Callable[[str], MatchLogic]] = {
    "equals": ClauseEquals,
    "starts_with": ClauseStartsWith,
    "ends_with": ClauseEndsWith,
    "contains": ClauseContains,
}


class Unfit(Exception):
    """One entry is not acceptable. `reason` is a word of ours."""

    def __init__(self, reason: str = "malformed") -> None:
        self.reason = reason
        super().__init__(reason)


def text(value: object) -> str:
    """A name: not empty, bounded, in ASCII (what RE2 and the ledger are given)."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT_CHARS or not value.isascii():
        raise Unfit
    return value


def mapping(value: object) -> Mapping[str, object]:
    """A JSON object."""
    if not isinstance(value, dict):
        raise Unfit
    return value


def sequence(value: object, most: int = MAX_ENTRIES, least: int = 0) -> Sequence[object]:
    """A JSON array of a bounded length; nothing is none."""
    entries = [] if value is None else value
    if not isinstance(entries, list) or not least <= len(entries) <= most:
        raise Unfit
    return entries


@dataclass(frozen=True, slots=True)
class _Pattern:
    """A regular expression of a list, on RE2: linear in the name, whatever the pattern."""

    search: Callable[[str], object]
    unless: Callable[[str], object] | None = None

    def is_match(self, text: str) -> bool:
        """Whether the name is meant. The caller gives it in lower case and in ASCII."""
        if self.unless is not None and self.unless(text) is not None:
            return False
        return self.search(text) is not None


@dataclass(slots=True)
class Clauses:
    """Builds genai-prices' clauses, counting as it goes."""

    clauses: int = 0
    patterns: int = 0

    def read(self, raw: object, depth: int = 0) -> MatchLogic:
        """One way of naming models; raises Unfit for what is empty, deep or unknown."""
        self.clauses += 1
        if self.clauses > MAX_CLAUSES:
            raise PriceListRefused
        if depth > MAX_CLAUSE_DEPTH or not isinstance(raw, dict) or len(raw) != 1:
            raise Unfit
        ((kind, value),) = raw.items()
        if kind in LITERAL:
            return LITERAL[kind](text(value))
        if kind == "or":
            return ClauseOr([self.read(entry, depth + 1) for entry in sequence(value, MAX_CLAUSES)])
        if kind == "and":
            return ClauseAnd([self.read(entry, depth + 1) for entry in sequence(value, MAX_CLAUSES, least=1)])
        if kind == "regex":
            # Not genai-prices' own clause, which would run the pattern on `re`.
            return cast("MatchLogic", self._pattern(value))
        raise Unfit

    def _pattern(self, value: object) -> _Pattern:
        self.patterns += 1
        if self.patterns > MAX_PATTERNS:
            raise PriceListRefused
        if not isinstance(value, str) or not 0 < len(value) <= MAX_PATTERN_CHARS:
            raise Unfit("pattern")
        end = _lookahead_end(value)
        if end is None:
            return _Pattern(_search(value))
        return _Pattern(_search("^" + value[end:]), unless=_search(f"^(?:{value[4 : end - 1]})"))


def _search(pattern: str) -> Callable[[str], object]:
    """`search` of a pattern compiled by RE2, in bounded memory."""
    options = re2.Options()
    options.max_mem = PATTERN_MEMORY_BYTES
    options.log_errors = False
    try:
        search: Callable[[str], object] = re2.compile(pattern, options).search
    except (re2.error, ValueError):
        raise Unfit("pattern") from None
    return search


def _lookahead_end(pattern: str) -> int | None:
    """Where the `^(?!...)` that a pattern begins with ends.

    RE2 has no lookahead, but one at the very start is a pattern of its own, asked first; the published list uses it.
    """
    if not pattern.startswith("^(?!"):
        return None
    depth, in_class, escaped = 0, False, False
    for index, mark in enumerate(pattern):
        if escaped:
            escaped = False
        elif mark == "\\":
            escaped = True
        elif in_class:
            in_class = mark != "]"
        elif mark == "[":
            in_class = True
        elif mark in "()":
            depth += 1 if mark == "(" else -1
            if depth == 0 and index:
                return index + 1
    raise Unfit("pattern")
