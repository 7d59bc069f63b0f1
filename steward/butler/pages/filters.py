"""What a page's address says: time range, filters, measure, place in the list, open panel; read, changed, written.

Refuses nothing and trusts nothing: what is not understood, too long or too much is left out and named in `dropped`, so
that a link from anywhere shows a page. Every view is its address, so `read(write(view)) == view`. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Final
from urllib.parse import urlencode
from uuid import UUID

from steward.exchange import BodyState, ErrorCode, Outcome

MAX_PAIRS: Final = 64
MAX_FILTERS: Final = 16
MAX_VALUE: Final = 256
MAX_SPAN: Final = timedelta(days=400)

PRESETS: Final[Mapping[str, timedelta]] = MappingProxyType(
    {
        "1h": timedelta(hours=1),
        "6h": timedelta(hours=6),
        "24h": timedelta(hours=24),
        "7d": timedelta(days=7),
        "30d": timedelta(days=30),
        "90d": timedelta(days=90),
    }
)
DEFAULT_PRESET: Final = "24h"
MEASURES: Final = ("cost", "calls", "tokens", "latency", "errors")
DIMENSIONS: Final = ("model", "provider", "key")
TAG: Final = "tag."
NAMES: Final = ("model", "provider", "key", "status", "outcome", "error", "failed", "body")
"""What calls can be narrowed by, tags aside."""

_TAG_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")
_LINE: Final = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]{1,256}")
_WORD: Final = re.compile(r"[A-Za-z0-9@][A-Za-z0-9._:/@+-]{0,127}")
_STATUS: Final = re.compile(r"[1-9][0-9]{2}")
_CURSOR: Final = re.compile(r"[A-Za-z0-9_.:~-]{1,200}")
_STEPS: Final = tuple(
    timedelta(seconds=s)
    for s in (60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800)
)


@dataclass(frozen=True, slots=True)
class Filter:
    """One chip: a call is shown when its `name` has `value`. A name stands once."""

    name: str
    """One of `NAMES`, or `tag.` and a tag's name."""
    value: str

    @property
    def tag(self) -> str | None:
        """The tag's name, when it is one."""
        return self.name.removeprefix(TAG) if self.name.startswith(TAG) else None


@dataclass(frozen=True, slots=True)
class Span:
    """A time range: one of `PRESETS` up to now, or two moments in UTC."""

    preset: str | None = DEFAULT_PRESET
    start: datetime | None = None
    end: datetime | None = None

    def at(self, now: datetime) -> tuple[datetime, datetime]:
        """Start (in it) and end (no longer in it)."""
        if self.preset is not None:
            return now - PRESETS[self.preset], now
        assert self.start is not None and self.end is not None
        return self.start, self.end


@dataclass(frozen=True, slots=True)
class View:
    """Everything that a page shows besides the data."""

    span: Span = Span()
    filters: tuple[Filter, ...] = ()
    measure: str = "cost"
    by: str = "model"
    """One of `DIMENSIONS`: what the chart is stacked by."""
    tag: str = ""
    """The tag whose values are summed."""
    after: str = ""
    """Where the page of a list begins: what the store gave as its cursor. Never parsed here."""
    panel: UUID | None = None
    """The call whose side panel is open."""
    paused: bool = False
    dropped: tuple[str, ...] = ()
    """Names of what was left out, each once; never part of the address."""

    def toggled(self, name: str, value: str) -> View:
        """With the filter in place of another of its name, or without it when it was there; the list starts anew."""
        chosen = Filter(name, value)
        kept = tuple(each for each in self.filters if each.name != name)
        return replace(self, filters=kept if chosen in self.filters else (*kept, chosen), after="", panel=None)

    def value(self, name: str) -> str | None:
        """What is chosen of one name."""
        return next((each.value for each in self.filters if each.name == name), None)


def read(pairs: Iterable[tuple[str, str]]) -> View:
    """The view that an address's query says, as far as it is understood. Never raises."""
    reading = _Reading()
    for index, (name, value) in enumerate(pairs):
        if index >= MAX_PAIRS:
            reading.drop("more")
            break
        if value and not reading.take(name[:80], value):
            reading.drop(name)
    return reading.view()


class _Reading:
    """One query as it is read."""

    def __init__(self) -> None:
        self._filters: dict[str, str] = {}
        self._said: dict[str, str] = {}
        self._dropped: list[str] = []

    def drop(self, name: str) -> None:
        known = name if name in {*NAMES, *_CHECKS, "range", "from", "to"} else "other"
        if known not in self._dropped:
            self._dropped.append(known)

    def take(self, name: str, value: str) -> bool:
        if name in _CHECKS:
            self._said[name] = value
            return _CHECKS[name].fullmatch(value) is not None
        if not understood(name, value):
            return name == "filter"  # what was typed, which `asked.py` reads
        if name in self._filters or len(self._filters) >= MAX_FILTERS:
            return self._filters.get(name) == value
        self._filters[name] = value
        return True

    def view(self) -> View:
        said = {name: value for name, value in self._said.items() if _CHECKS[name].fullmatch(value)}
        panel = said.get("open")
        return View(
            span=self._span(said),
            filters=tuple(Filter(name, value) for name, value in self._filters.items()),
            measure=said.get("measure", "cost"),
            by=said.get("by", "model"),
            tag=said.get("tag", ""),
            after=said.get("after", ""),
            panel=UUID(panel) if panel else None,
            paused="paused" in said,
            dropped=tuple(self._dropped),
        )

    def _span(self, said: Mapping[str, str]) -> Span:
        start, end = _moment(said.get("from", "")), _moment(said.get("to", ""))
        if start is not None and end is not None:
            if timedelta() < end - start <= MAX_SPAN:
                return Span(None, start, end)
            self.drop("range")
        elif "from" in said or "to" in said:
            self.drop("range")
        return Span(said.get("range", DEFAULT_PRESET))


_UUID: Final = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_MOMENT: Final = r"2[0-9]{3}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?(?:Z|\+00:00)?"
_CHECKS: Final[Mapping[str, re.Pattern[str]]] = MappingProxyType(
    {
        "range": re.compile("|".join(PRESETS)),
        "from": re.compile(_MOMENT),
        "to": re.compile(_MOMENT),
        "measure": re.compile("|".join(MEASURES)),
        "by": re.compile("|".join(DIMENSIONS)),
        "tag": re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}"),
        "after": _CURSOR,
        "open": re.compile(_UUID),
        "paused": re.compile("1"),
    }
)


def understood(name: str, value: str) -> bool:
    """Whether a filter can be what it says."""
    if name.startswith(TAG):
        return _TAG_NAME.fullmatch(name.removeprefix(TAG)) is not None and _LINE.fullmatch(value) is not None
    match name:
        case "model" | "provider":
            return _WORD.fullmatch(value) is not None
        case "key":
            return re.fullmatch(_UUID, value) is not None
        case "status":
            return _STATUS.fullmatch(value) is not None
        case "outcome":
            return value in set(Outcome)
        case "error":
            return value in set(ErrorCode)
        case "body":
            return value in set(BodyState)
        case "failed":
            return value in ("yes", "no")
    return False


def _moment(text: str) -> datetime | None:
    """What a link or a field of type datetime-local says, which bears no zone: UTC."""
    try:
        return datetime.fromisoformat(text.removesuffix("Z").removesuffix("+00:00")).replace(tzinfo=UTC)
    except ValueError:
        return None


def write(view: View) -> str:
    """The query of the view, with `?`; empty for the first view. Written in one order, so that one view is one link."""
    written = pairs(view)
    return f"?{urlencode(written)}" if written else ""


def pairs(view: View) -> list[tuple[str, str]]:
    """The same as names and values, for hidden fields of a form."""
    written: list[tuple[str, str]] = []
    if view.span.preset is None:
        assert view.span.start is not None and view.span.end is not None
        written += [("from", iso(view.span.start)), ("to", iso(view.span.end))]
    elif view.span.preset != DEFAULT_PRESET:
        written.append(("range", view.span.preset))
    written += [(each.name, each.value) for each in view.filters]
    said = (
        ("measure", view.measure, "cost"),
        ("by", view.by, "model"),
        ("tag", view.tag, ""),
        ("after", view.after, ""),
    )
    written += [(name, value) for name, value, first in said if value != first]
    if view.panel is not None:
        written.append(("open", str(view.panel)))
    if view.paused:
        written.append(("paused", "1"))
    return written


def pairs_without_range(view: View) -> list[tuple[str, str]]:
    """For the form that asks for a range."""
    return [each for each in pairs(replace(view, after="", panel=None)) if each[0] not in {"from", "to", "range"}]


def with_range(view: View, preset: str) -> str:
    """The address of the same in another time."""
    return write(replace(view, span=Span(preset), after="", panel=None))


def with_measure(view: View, measure: str) -> str:
    """The address of the same with another figure in the chart."""
    return write(replace(view, measure=measure))


def with_panel(view: View, panel: UUID | None) -> str:
    """The address of the same with this call's panel open; None closes it."""
    return write(replace(view, panel=panel))


def with_filter(view: View, name: str, value: str) -> str:
    """The address of the calls that have this as well."""
    kept = tuple(each for each in view.filters if each.name != name)
    return write(View(view.span, (*kept, Filter(name, value))))


def with_tag(view: View, name: str, value: str) -> str:
    """The same for a tag."""
    return with_filter(view, TAG + name, value)


def only(view: View, name: str, value: str) -> str:
    """The address of the calls of this time that have this, whatever else was asked."""
    return write(View(view.span, (Filter(name, value),)))


def without_filters(view: View) -> str:
    """The address of the same with no filter."""
    return write(replace(view, filters=(), after="", panel=None))


def for_export(view: View) -> str:
    """The address of the same as a file: all of it, from the newest."""
    return write(replace(view, after="", panel=None, paused=False))


def field_time(at: datetime) -> str:
    """A moment as a field of type datetime-local has it."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M")


def iso(at: datetime) -> str:
    """A moment in an address: UTC, to the second where that is exact."""
    text = at.astimezone(UTC).replace(tzinfo=None).isoformat()
    return f"{text}Z"


def step(start: datetime, end: datetime, most: int = 60) -> timedelta:
    """The shortest round length of time of which `most` cover the range."""
    for each in _STEPS:
        if (end - start) / each <= most:
            return each
    return _STEPS[-1]


_MONDAY: Final = datetime(1970, 1, 5, tzinfo=UTC)


def floor(at: datetime, length: timedelta) -> datetime:
    """The last edge of round steps that is not after `at`; weeks begin on a Monday, in UTC."""
    return _MONDAY + ((at - _MONDAY) // length) * length


def ceiling(at: datetime, length: timedelta) -> datetime:
    """The first edge that is not before `at`."""
    return _MONDAY - ((_MONDAY - at) // length) * length
