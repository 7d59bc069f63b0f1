"""The request explorer, one request's panel and page, and the same calls as a CSV file.

Refuses to filter by a tag that is not active: it would read every call of the time. A file has every call of the
filter: it is written in pages as it is read, so that a year needs no more memory than one page. One that cannot be read
to its end, or whose reader is signed out meanwhile, breaks off within the transfer, and no browser keeps it as whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import count
from typing import Final
from uuid import UUID

from fastapi import Response
from fastapi.responses import StreamingResponse

from steward.butler.errors import NotThere
from steward.butler.pages import asked, csv_lines, filters, numbers
from steward.butler.pages.door import Looking, Visitor
from steward.butler.pages.filters import View
from steward.butler.pages.numbers import Figure
from steward.butler.pages.serving import away, page_of, pages_router, show
from steward.butler.pages.watching import curl_line
from steward.butler.store_explorer import Explorer
from steward.butler.views import MAX_PAGE, Call, CallPage, Filter
from steward.exchange import BodyState, ErrorCode, Outcome

router = pages_router()

PAGE: Final = 50
MENU: Final = 100
"""Entries of a menu: the page comes anew every few seconds."""
LOOK_EVERY: Final = 50
"""Pages of a file after which is asked whether its reader is still signed in."""


@dataclass(frozen=True, slots=True)
class Choice:
    """An entry of a filter's menu."""

    name: str
    query: str
    current: bool
    count: Figure | None = None


@dataclass(frozen=True, slots=True)
class Menu:
    """A filter to choose."""

    name: str
    choices: tuple[Choice, ...]
    nothing: str = "Nothing to choose from in this time."
    more: str = ""
    """What is not listed, and how to ask for it."""


@dataclass(frozen=True, slots=True)
class Chip:
    """A filter that is set."""

    name: str
    value: str
    without: str


@dataclass(frozen=True, slots=True)
class Fall:
    """A line of the waterfall: percents of the whole, and how long."""

    name: str
    left: float
    width: float | None
    colour: int
    text: Figure
    title: str


@router.get("/requests")
def requests_page(visitor: Looking) -> Response:
    """The table, its filters, and the panel that is open."""
    page = page_of(visitor, "Requests", "requests", live=True)
    org_id, services = visitor.session.org_id, visitor.services
    typed = visitor.request.query_params.get("filter", "")
    view, wrong = asked.added(filters.read(visitor.request.query_params.multi_items()), typed)
    if typed.strip() and not wrong:
        return away("/requests" + filters.write(view))
    keys = services.keys.names(org_id)
    active = [each.name for each in services.metadata_keys.all(org_id) if each.is_active]
    view, untagged = asked.only_active(view, frozenset(active))
    which = asked.which(view, visitor.now)
    calls = services.explorer.page(org_id, which, asked.cursor_of(view.after), PAGE)
    call = _call(visitor, org_id, view.panel)
    start, end = view.span.at(visitor.now)
    return show(
        visitor,
        "requests.html",
        page,
        view=view,
        chips=_chips(view, keys),
        add_choices=False,
        wrong_filter=wrong or untagged,
        span_start=start,
        span_end=end,
        suggestions=[f"{name}=" for name in (*filters.NAMES, *(filters.TAG + name for name in active))],
        menus=_menus(visitor, org_id, view, which, active),
        calls=calls,
        newest=str(calls.rows[0].id) if calls.rows else "",
        key_names=keys,
        call=call,
        falls=() if call is None else waterfall(call),
        first_command=curl_line(),
        neighbours=_neighbours(view, calls),
    )


@router.get("/requests.csv")
def requests_csv(visitor: Looking) -> Response:
    """The same calls as a file, newest first; no cell is a formula (SECURITY F22)."""
    org_id, services = visitor.session.org_id, visitor.services
    view = filters.read(visitor.request.query_params.multi_items())
    active = frozenset(each.name for each in services.metadata_keys.all(org_id) if each.is_active)
    which = asked.which(asked.only_active(view, active)[0], visitor.now)
    headers = {"content-disposition": 'attachment; filename="requests.csv"'}
    lines = file_of(services.explorer, org_id, which, services.keys.names(org_id), visitor.still)
    return StreamingResponse(lines, 200, headers, media_type="text/csv; charset=utf-8")


@router.get("/requests/{request_id}")
def request_page(visitor: Looking, request_id: UUID) -> Response:
    """Everything of one call."""
    org_id, services = visitor.session.org_id, visitor.services
    call = services.explorer.get(org_id, request_id)
    stewards = {each.id: each.name for each in services.stewards.all(org_id)}
    return show(
        visitor,
        "request.html",
        page_of(visitor, f"{call.model}, {numbers.moment(call.requested_at)}", "requests"),
        view=_around(call.requested_at, visitor),
        call=call,
        key_names=services.keys.names(org_id),
        steward_name=stewards.get(call.steward_id, "a Steward that is gone"),
        falls=waterfall(call),
    )


def _around(at: datetime, visitor: Visitor) -> View:
    """The shortest range up to now that has the call, so that links from it show it among its kind."""
    for preset, length in filters.PRESETS.items():
        if visitor.now - at < length and preset != "1h":
            return View(filters.Span(preset))
    return View(filters.Span("90d"))


def _call(visitor: Visitor, org_id: UUID, panel: UUID | None) -> Call | None:
    if panel is None:
        return None
    try:
        return visitor.services.explorer.get(org_id, panel)
    except NotThere:
        return None


def _neighbours(view: View, calls: CallPage) -> dict[str, str]:
    def query(cursor: str) -> str:
        return filters.write(replace(view, after=cursor, panel=None)) or "?"

    return {
        "older": query(asked.cursor_text(calls.older)) if calls.older else "",
        "newer": query(asked.cursor_text(calls.newer)) if calls.newer else "",
        "first": filters.write(replace(view, after="", panel=None)),
    }


def _chips(view: View, keys: Mapping[UUID, str]) -> list[Chip]:
    named = {str(key_id): name for key_id, name in keys.items()}
    return [
        Chip(
            each.tag or each.name,
            named.get(each.value, each.value) if each.name == "key" else each.value,
            filters.write(view.toggled(each.name, each.value)),
        )
        for each in view.filters
    ]


def _menus(visitor: Visitor, org_id: UUID, view: View, which: Filter, active: list[str]) -> list[Menu]:
    services = visitor.services
    pairs = services.explorer.choices(org_id, which)
    models = sorted({model for _, model in pairs})
    providers = sorted({provider for provider, _ in pairs})
    keys = sorted(
        ((str(key_id), name) for key_id, name in services.keys.names(org_id).items()), key=lambda each: each[1]
    )
    found = [
        Menu("Model", _choices(view, "model", [(each, each) for each in models])),
        Menu("Provider", _choices(view, "provider", [(each, each) for each in providers])),
        Menu("Key", _choices(view, "key", keys[:MENU]), "No API key was made yet.", _more(len(keys))),
        Menu("Status", _states(view)),
    ]
    for name in active[:4]:
        values = services.explorer.values(org_id, which, name)
        choices = tuple(
            Choice(
                value,
                filters.write(view.toggled(filters.TAG + name, value)),
                _is(view, filters.TAG + name, value),
                numbers.count(calls),
            )
            for value, calls in values
            if filters.understood(filters.TAG + name, value)
        )
        found.append(Menu(name, choices, "No call of this time has the tag."))
    return found


def _more(count: int) -> str:
    return f"And {count - MENU:,} more: each has its calls linked under API keys." if count > MENU else ""


def _choices(view: View, name: str, values: list[tuple[str, str]]) -> tuple[Choice, ...]:
    return tuple(
        Choice(shown, filters.write(view.toggled(name, value)), _is(view, name, value))
        for value, shown in values
        if filters.understood(name, value)
    )


def _states(view: View) -> tuple[Choice, ...]:
    wanted = [
        ("failed", "yes", "Failed"),
        ("failed", "no", "Not failed"),
        *(("error", code.value, f"Error: {code.value.replace('_', ' ')}") for code in ErrorCode),
        *(("outcome", each.value, f"Outcome: {each.value.replace('_', ' ')}") for each in Outcome),
        *(("body", each.value, f"Body: {each.value}") for each in BodyState),
    ]
    return tuple(
        Choice(shown, filters.write(view.toggled(name, value)), _is(view, name, value)) for name, value, shown in wanted
    )


def _is(view: View, name: str, value: str) -> bool:
    return view.value(name) == value


def file_of(
    explorer: Explorer, org_id: UUID, which: Filter, keys: Mapping[UUID, str], still: Callable[[], object]
) -> Iterator[str]:
    """All calls, a page at a time. `still` raises once nobody may read on."""
    yield csv_lines.HEAD
    cursor = None
    for number in count(1):
        page = explorer.page(org_id, which, cursor, MAX_PAGE)
        yield "".join(csv_lines.line_of(row, keys) for row in page.rows)
        cursor = page.older
        if cursor is None:
            return
        if number % LOOK_EVERY == 0:
            still()


def waterfall(call: Call) -> tuple[Fall, ...]:
    """What Butler knows of the call's offsets: the wait for the first byte, the answer, the way here."""
    whole, first = call.response_time_ms, call.ttft_ms
    found = []
    if whole is not None and first is not None and first <= whole:
        part = 100 * first / whole if whole else 0
        found += [
            _fall("To the first byte", 0, part, 4, first),
            _fall("First to last byte", part, 100 - part, 0, whole - first),
        ]
    else:
        found.append(Fall("To the first byte", 0, None, 4, numbers.latency(first), ""))
    if whole is not None:
        found.append(_fall("The whole call", 0, 100, 7, whole))
    else:
        found.append(Fall("The whole call", 0, None, 7, numbers.UNKNOWN, ""))
    if call.responded_at is not None:
        settled = max(0.0, (call.received_at - call.responded_at).total_seconds() * 1000)
        text = numbers.latency(settled)
        found.append(
            Fall(
                "Settled, exported, here", 0, None, 7, replace(text, full="from the last byte until Butler had it"), ""
            )
        )
    return tuple(found)


def _fall(name: str, left: float, width: float, colour: int, ms: float) -> Fall:
    text = numbers.latency(ms)
    return Fall(name, round(left, 2), round(max(width, 0.3), 2), colour, text, f"{name}: {text.text}")
