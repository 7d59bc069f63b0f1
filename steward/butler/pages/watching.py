"""The overview: how are we doing, what does it cost, who spends it, what broke."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

from fastapi import Response

from steward.butler.nouns import MetadataKey
from steward.butler.pages import filters, overview
from steward.butler.pages.door import Looking, Visitor
from steward.butler.pages.filters import View
from steward.butler.pages.overview import Bar, Compared, Sight
from steward.butler.pages.serving import page_of, pages_router, show
from steward.butler.views import Dimension, Measure, Span

router = pages_router()

_DIMENSIONS: Final[Mapping[str, Dimension]] = {"model": "model", "provider": "provider", "key": "api_key_id"}
_MEASURES: Final[Mapping[str, Measure]] = {"cost": "cost", "tokens": "tokens", "errors": "errors"}
_TITLES: Final = {
    "cost": "Cost over time",
    "calls": "Calls over time",
    "tokens": "Tokens over time",
    "latency": "Latency over time, by quantile",
    "errors": "Failed calls over time",
}


def curl_line(key: str = "mdm_sk_...") -> str:
    """A first call: the Steward's address and the provider's key are the caller's to put in."""
    message = '{"model": "gpt-5-mini", "messages": [{"role": "user", "content": "Hi"}]}'
    return (
        f"curl $STEWARD/v1/chat/completions -H 'X-Majordomo-Key: {key}' -H \"Authorization: Bearer $OPENAI_API_KEY\" "
        f"-H 'Content-Type: application/json' -d '{message}'"
    )


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several tags to sum by."""

    name: str
    href: str
    current: bool


@dataclass(frozen=True, slots=True)
class Group:
    """A card of bars."""

    name: str
    title: str
    rows: tuple[Bar, ...]
    symbol: str
    nothing: str
    hint: str
    choices: tuple[Choice, ...] = ()
    stack_href: str = ""
    stacked: bool = False
    href: str = ""
    link: str = ""


@router.get("/")
def overview_page(visitor: Looking) -> Response:
    """Everything of one time."""
    page = page_of(visitor, "Overview", "overview", live=True)
    org_id, services = visitor.session.org_id, visitor.services
    view = filters.read(visitor.request.query_params.multi_items())
    span = overview.span_of(view, visitor.now)
    sight = _sight(visitor, org_id, view, span)
    drawn = overview.delays_drawn(sight) if view.measure == "latency" else overview.composition(sight)
    start, end = view.span.at(visitor.now)
    sums = sight.both.now.sums
    return show(
        visitor,
        "overview.html",
        page,
        view=view,
        chips=(),
        add_choices=False,
        span_start=start,
        span_end=end,
        nothing_ever=not sums.calls and services.overview.first_hour(org_id) is None,
        first_command=curl_line(),
        figures=overview.cards(sight),
        measures=overview.MEASURES,
        chart_title=_TITLES[view.measure],
        chart_label=f"{_TITLES[view.measure]}, by {view.by}. The same figures stand in the table below.",
        drawn=drawn.chart,
        tick=drawn.tick,
        tips=drawn.tips,
        links=drawn.links,
        kind=drawn.kind,
        legend=drawn.legend,
        table=drawn.table,
        groups=_groups(visitor, sight),
        errors=overview.error_rows(view, services.overview.errors(org_id, span), sums.calls),
    )


def _sight(visitor: Visitor, org_id: UUID, view: View, span: Span) -> Sight:
    stores = visitor.services
    passed = (min(span.until, visitor.now) - span.since) / (span.until - span.since)
    both = Compared(stores.overview.totals(org_id, span), stores.overview.totals(org_id, span.before()), passed)
    names = {str(key_id): name for key_id, name in stores.keys.names(org_id).items()}
    points = stores.overview.series(org_id, span, _DIMENSIONS.get(view.by, "model"), _first(view))
    return Sight(view, span, both, points, stores.overview.latency(org_id, span), names)


def _groups(visitor: Visitor, sight: Sight) -> tuple[tuple[Group, Group], tuple[Group, Group]]:
    """Two columns."""
    org_id, view = visitor.session.org_id, sight.view
    figure = {"latency": "calls", "errors": "failed calls"}.get(view.measure, view.measure)
    found = []
    for name, title in (("model", "Model"), ("key", "API key"), ("provider", "Provider")):
        rows = visitor.services.overview.breakdown(org_id, sight.span, _DIMENSIONS[name], first=_first(view))
        stacked = view.by == name and view.measure != "latency"
        found.append(
            Group(
                name=name,
                title=f"{title}, by {figure}",
                rows=overview.bars(sight, rows, name),
                symbol="check" if view.measure == "errors" else "overview",
                nothing="No failed calls" if view.measure == "errors" else "Nothing in this time",
                hint=f"Each {title.lower() if name != 'key' else title} stands here with its share.",
                stack_href="" if stacked or view.measure == "latency" else "/" + filters.write(replace(view, by=name)),
                stacked=stacked,
            )
        )
    return (found[0], found[2]), (found[1], _tags(visitor, sight, figure))


def _tags(visitor: Visitor, sight: Sight, figure: str) -> Group:
    org_id, view = visitor.session.org_id, sight.view
    active = [each for each in visitor.services.metadata_keys.all(org_id) if each.is_active]
    if not active:
        hint = "Switch on a tag such as Feature or Team, and this says what each of its values costs."
        nothing = "No tag is switched on"
        return Group("tag", "Tag", (), "metadata", nothing, hint, href="/metadata", link="Metadata keys")
    chosen = _chosen(active, view)
    rows = visitor.services.overview.tag_breakdown(org_id, sight.span, chosen.name, first=_first(view))
    return Group(
        name="tag",
        title=f"{chosen.label or chosen.name}, by {figure}",
        rows=overview.bars(sight, rows, filters.TAG + chosen.name),
        symbol="metadata",
        nothing="No call with this tag",
        hint="Calls of this time came without it.",
        choices=tuple(_choice(each, view, chosen) for each in active[:4]) if len(active) > 1 else (),
    )


def _first(view: View) -> Measure:
    """What the largest groups are looked for by; latency has no sum, calls stand for it."""
    return _MEASURES.get(view.measure, "calls")


def _chosen(active: Sequence[MetadataKey], view: View) -> MetadataKey:
    return next((each for each in active if view.tag == each.name), active[0])


def _choice(key: MetadataKey, view: View, chosen: MetadataKey) -> Choice:
    return Choice(key.label or key.name, "/" + filters.write(replace(view, tag=key.name)), key is chosen)
