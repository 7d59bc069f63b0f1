"""Turns a page's data into HTML. Everything that comes from outside is escaped by the template engine, here alone.

Refuses undefined names, so that a page with a missing figure fails its test and shows no hole. No template marks text
as safe; what a browser loads has the hash of its content in its address and comes from this host.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Final

from jinja2 import Environment, FunctionLoader, StrictUndefined

from steward.butler.pages import filters, numbers, phrases
from steward.butler.views import Call

STATIC: Final[Mapping[str, str]] = MappingProxyType(
    {
        "butler.css": "text/css; charset=utf-8",
        "butler.js": "text/javascript; charset=utf-8",
        "icons.svg": "image/svg+xml",
        "icon.svg": "image/svg+xml",
    }
)
"""Everything that a page loads besides itself."""

_CLOCKS: Final = MappingProxyType(
    {
        "second": "%-d %b, %H:%M:%S",
        "minute": "%-d %b, %H:%M",
        "full": "%-d %b %Y, %H:%M:%S UTC",
        "short": "%-d %b, %H:%M",
    }
)


@dataclass(frozen=True, slots=True)
class Asset:
    """A file that pages load."""

    content: bytes
    kind: str
    mark: str
    """The beginning of its SHA-256: an address with it may be kept for ever."""


class Renderer:
    """The templates and static files, read once."""

    def __init__(self) -> None:
        folder = files("steward.butler") / "static"
        self.assets: Mapping[str, Asset] = {
            name: _asset((folder / name).read_bytes(), kind) for name, kind in STATIC.items()
        }
        self._environment = Environment(
            loader=FunctionLoader(_source),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._environment.globals["asset"] = self._address
        self._environment.filters.update(_FILTERS)

    def html(self, template: str, **values: object) -> str:
        """The page. Every name that the template uses must be given."""
        return self._environment.get_template(template).render(**values)

    def _address(self, name: str) -> str:
        return f"/static/{name}?v={self.assets[name].mark}"


def _source(name: str) -> str | None:
    file = files("steward.butler") / "templates" / name
    return file.read_text("utf-8") if file.is_file() else None


def _asset(content: bytes, kind: str) -> Asset:
    return Asset(content, kind, hashlib.sha256(content).hexdigest()[:16])


def clock(at: datetime, form: str = "short") -> str:
    """A moment in UTC, which a browser with scripts rewrites in its own zone."""
    return at.astimezone(UTC).strftime(_CLOCKS.get(form, _CLOCKS["short"]))


def tick(value: float, kind: str, step: float) -> str:
    """A mark of an upright axis; `step` says how many digits tell marks apart."""
    if kind == "cost":
        if value == 0:
            return "$0"
        digits = max(0, _digits(step))
        return f"${numbers.short(value)}" if value >= 10_000 else f"${value:,.{digits}f}"
    if kind == "latency":
        if step >= 1000:
            return f"{value / 1000:g}{numbers.NBSP}s"
        return f"{value:,.{max(0, _digits(step))}f}{numbers.NBSP}ms"
    return numbers.short(value) if value >= 1 or value == 0 else f"{value:g}"


def _digits(step: float) -> int:
    text = f"{step:.12f}".rstrip("0")
    return len(text.partition(".")[2])


def all_tokens(call: Call) -> int | None:
    """In and out together; unknown when one is."""
    if call.input_tokens is None or call.output_tokens is None:
        return None
    return call.input_tokens + call.output_tokens


def sorted_tags(tags: Mapping[str, object]) -> list[tuple[str, object]]:
    """By name."""
    return sorted(tags.items())


def first_tags(tags: Mapping[str, object], most: int) -> list[tuple[str, object]]:
    """The first by name."""
    return sorted_tags(tags)[:most]


_FILTERS: Final[dict[str, Any]] = {
    "ago": numbers.ago,
    "all_tokens": all_tokens,
    "clock": clock,
    "cost": numbers.cost,
    "count": numbers.count,
    "exact": numbers.exact,
    "field_time": filters.field_time,
    "first_tags": first_tags,
    "for_export": filters.for_export,
    "iso": filters.iso,
    "latency": numbers.latency,
    "moment": numbers.moment,
    "only": filters.only,
    "pairs": filters.pairs,
    "per_million": numbers.per_million,
    "pairs_without_range": filters.pairs_without_range,
    "sorted_tags": sorted_tags,
    "tick": tick,
    "tokens": numbers.tokens,
    "with_filter": filters.with_filter,
    "with_measure": filters.with_measure,
    "with_panel": filters.with_panel,
    "with_range": filters.with_range,
    "with_tag": filters.with_tag,
    "without_filters": filters.without_filters,
    **{
        each.__name__: each
        for each in (
            phrases.action_words,
            phrases.body_tone,
            phrases.body_words,
            phrases.call_tone,
            phrases.call_word,
            phrases.error_words,
            phrases.outcome_words,
            phrases.steward_health,
            phrases.steward_lag,
            phrases.usage_words,
        )
    },
}
