"""The overview, from sums to what the page shows: five figures, one chart with its table, bars of where it goes.

Refuses to draw what is not known: a step without calls is nothing in a stack and a gap in a line. The period before is
compared by rate, since the newest step is not over yet. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from steward.butler.pages import filters, numbers, phrases, svg
from steward.butler.pages.filters import View
from steward.butler.pages.numbers import Change, Figure
from steward.butler.store_overview import REST
from steward.butler.views import ErrorCount, GroupSums, LatencyPoint, Point, Quantiles, Span, Sums, Totals

MEASURES: Final = (
    ("cost", "Cost"),
    ("calls", "Calls"),
    ("tokens", "Tokens"),
    ("latency", "Latency"),
    ("errors", "Errors"),
)
OTHER: Final = "everything else"
_BARS: Final = 8
_STACKED: Final = svg.COLOURS - 1
_DAY: Final = timedelta(days=1)
_NEXT_TO_NOTHING: Final = 0.05


@dataclass(frozen=True, slots=True)
class FigureCard:
    """One of the five figures; a click shows it in the chart."""

    name: str
    value: Figure
    change: Change | None
    note: str
    spark: str
    href: str
    current: bool


@dataclass(frozen=True, slots=True)
class Bar:
    """A row of where it goes."""

    name: str
    value: Figure
    part: Figure
    percent: float
    colour: int
    href: str
    title: str = ""
    keyed: bool = False
    """Its colour is the chart's."""


@dataclass(frozen=True, slots=True)
class Table:
    """A chart's figures, newest first."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[datetime, tuple[Figure, ...]], ...]


@dataclass(frozen=True, slots=True)
class Key:
    """A colour and whose it is."""

    name: str
    colour: int


@dataclass(frozen=True, slots=True)
class Drawn:
    """The chart, what the pointer finds in each step, and the same as a table."""

    chart: svg.Chart
    tips: tuple[str, ...]
    links: tuple[str, ...]
    legend: tuple[Key, ...]
    table: Table
    kind: str
    tick: str


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """Failed calls of one code."""

    name: str
    meaning: str
    calls: Figure
    part: Figure
    newest_at: datetime
    newest_id: object
    href: str


def span_of(view: View, now: datetime) -> Span:
    """The steps that cover the view's time: whole hours from half a day on, since sums are kept by the hour."""
    start, end = view.span.at(now)
    length = filters.step(start, end)
    if end - start >= _DAY / 2:
        length = max(length, timedelta(hours=1))
    first = filters.floor(start, length) if view.span.preset is None else filters.ceiling(start, length)
    return Span(first, filters.ceiling(end, length), length)


def steps(span: Span) -> tuple[datetime, ...]:
    """The beginnings of its steps."""
    return tuple(span.since + index * span.step for index in range((span.until - span.since) // span.step))


def figure_of(sums: Sums, measure: str) -> float:
    """A number to draw; latency has none in sums, calls stand for it."""
    match measure:
        case "cost":
            return float(sums.cost)
        case "tokens":
            return sums.input_tokens + sums.output_tokens
        case "errors":
            return sums.errors
    return sums.calls


def shown(sums: Sums, measure: str) -> Figure:
    """The same as a figure; cost and tokens are unknown where no call's are known."""
    match measure:
        case "cost":
            known = sums.cost > 0 or sums.calls > sums.unpriced + sums.errors or not sums.calls
            return numbers.cost(sums.cost if known else None)
        case "tokens":
            tokens = sums.input_tokens + sums.output_tokens
            known = tokens > 0 or sums.calls > sums.unmetered + sums.errors or not sums.calls
            return numbers.tokens(tokens if known else None)
        case "errors":
            return numbers.count(sums.errors)
    return numbers.count(sums.calls)


@dataclass(frozen=True, slots=True)
class Compared:
    """A time and the one before it; `passed` is how much of the time is over, 0 to 1."""

    now: Totals
    before: Totals
    passed: float

    @property
    def began(self) -> bool:
        """There was next to nothing before: a percentage of it says nothing."""
        return self.before.sums.calls * self.passed < self.now.sums.calls * _NEXT_TO_NOTHING

    def change(self, measure: str) -> Change | None:
        """By rate."""
        before = 0.0 if self.began else figure_of(self.before.sums, measure) * self.passed
        return numbers.change(figure_of(self.now.sums, measure), before)

    def change_of(self, now: float | None, before: float | None) -> Change | None:
        """Of a figure that is no sum, and better when it is less."""
        return None if self.began else numbers.change(now, before, more_is="bad")


@dataclass(frozen=True, slots=True)
class Sight:
    """What was asked of the stores for one overview."""

    view: View
    span: Span
    both: Compared
    points: Sequence[Point]
    """By the view's dimension."""
    delays: Sequence[LatencyPoint]
    names: Mapping[str, str]
    """Of groups that are ids."""

    def order(self) -> tuple[str, ...]:
        """The groups of the chart: their place is their colour."""
        return ranking(self.points, self.view.measure)


def cards(sight: Sight) -> tuple[FigureCard, ...]:
    """The five figures."""
    view, both = sight.view, sight.both
    sums, before = both.now.sums, both.before.sums
    starts = steps(sight.span)
    whole = {each.at: each.whole.p95 for each in sight.delays}

    def card(name: str, measure: str, value: Figure, change: Change | None, note: str = "") -> FigureCard:
        sparks = [whole.get(at) for at in starts] if measure == "latency" else _totals(sight.points, starts, measure)
        href = "/" + filters.with_measure(view, measure)
        return FigureCard(name, value, change, note, svg.sparkline(sparks), href, view.measure == measure)

    slow = both.now.whole.p95, both.before.whole.p95
    first = both.now.first.p95
    rate = _rate(sums), _rate(before)
    return (
        card("Cost", "cost", shown(sums, "cost"), both.change("cost"), _without(sums.unpriced, "unpriced")),
        card("Calls", "calls", shown(sums, "calls"), both.change("calls")),
        card("Tokens", "tokens", shown(sums, "tokens"), both.change("tokens"), _without(sums.unmetered, "uncounted")),
        card(
            "Latency, p95",
            "latency",
            numbers.latency(slow[0]),
            both.change_of(*slow),
            f"first byte {numbers.latency(first).text}" if first is not None else "",
        ),
        card(
            "Error rate",
            "errors",
            numbers.share(sums.errors, sums.calls),
            both.change_of(*rate),
            f"{sums.errors:,} failed",
        ),
    )


def _rate(sums: Sums) -> float | None:
    return sums.errors / sums.calls if sums.calls else None


def _without(count: int, word: str) -> str:
    return f"{numbers.count(count).text} {word}" if count else ""


def _totals(points: Iterable[Point], starts: Sequence[datetime], measure: str) -> list[float | None]:
    found: dict[datetime, float] = {}
    for each in points:
        found[each.at] = found.get(each.at, 0) + figure_of(each.sums, measure)
    return [found.get(at, 0) for at in starts]


def ranking(points: Iterable[Point], measure: str) -> tuple[str, ...]:
    """Groups by what they add up to, largest first, by name where equal: their place is their colour."""
    found: dict[str, float] = {}
    for each in points:
        found[each.group] = found.get(each.group, 0) + figure_of(each.sums, measure)
    found.pop(REST, None)
    return tuple(sorted(found, key=lambda group: (-found[group], group)))


def composition(sight: Sight) -> Drawn:
    """Areas of the measure by group: the largest seven, and the rest as one."""
    view, span, names = sight.view, sight.span, sight.names
    order = sight.order()[:_STACKED]
    rows = {group: {at: Sums() for at in steps(span)} for group in (*order, OTHER)}
    for each in sight.points:
        group = each.group if each.group in order else OTHER
        if each.at in rows[group]:
            rows[group][each.at] = added(rows[group][each.at], each.sums)
    if not any(figure_of(sums, view.measure) for sums in rows[OTHER].values()):
        del rows[OTHER]
    series = tuple(
        svg.Series(
            OTHER if group == OTHER else names.get(group, group) or "unknown",
            min(index, _STACKED) if group != OTHER else _STACKED,
            tuple(figure_of(sums, view.measure) for sums in of.values()),
        )
        for index, (group, of) in enumerate(rows.items())
    )
    if not any(value for each in series for value in each.values):
        series = ()
    figures = [[shown(of[at], view.measure) for of in rows.values()] for at in steps(span)]
    drawn = svg.stacked(series, steps(span), span.step)
    tick = view.measure if view.measure == "cost" else "count"
    return _drawn(sight, drawn, series, figures, ("area", tick))


def delays_drawn(sight: Sight) -> Drawn:
    """Lines of the quantiles of whole calls."""
    span = sight.span
    at = {each.at: each.whole for each in sight.delays}
    found = [at.get(step, Quantiles()) for step in steps(span)]
    rows = (
        ("p99", 5, [each.p99 for each in found]),
        ("p95", 0, [each.p95 for each in found]),
        ("p50", 2, [each.p50 for each in found]),
    )
    series = tuple(svg.Series(name, colour, tuple(values)) for name, colour, values in rows)
    if not any(value is not None for each in series for value in each.values):
        series = ()
    figures = [[numbers.latency(values[index]) for _, _, values in rows] for index in range(len(found))]
    drawn = svg.lines(series, steps(span), span.step)
    return _drawn(sight, drawn, series, figures, ("line", "latency"))


def _drawn(
    sight: Sight,
    chart: svg.Chart,
    series: Sequence[svg.Series],
    figures: Sequence[Sequence[Figure]],
    how: tuple[str, str],
) -> Drawn:
    view, span, starts = sight.view, sight.span, steps(sight.span)
    columns = tuple(each.name for each in series)
    failed = view.filters if view.measure != "errors" else (filters.Filter("failed", "yes"),)
    links = tuple(
        "/requests" + filters.write(View(filters.Span(None, at, at + span.step), tuple(failed))) for at in starts
    )
    tips = tuple(_tip(at, columns, figures[index]) for index, at in enumerate(starts))
    caption = f"{dict(MEASURES)[view.measure]} by time, newest first"
    rows = tuple((at, tuple(figures[index])) for index, at in reversed(list(enumerate(starts))))
    labelled = {shape.name for shape in chart.shapes if shape.label}
    legend = tuple(Key(each.name, each.colour) for each in series) if len(labelled) < len(series) else ()
    return Drawn(chart, tips, links, legend, Table(caption, columns, rows), *how)


def _tip(at: datetime, columns: Sequence[str], figures: Sequence[Figure]) -> str:
    said = [
        (name, each)
        for name, each in zip(columns, figures, strict=False)
        if each.known and each.text not in ("0", "$0")
    ]
    lines = [f"{each.text}  {name}" for name, each in said] or ["nothing"]
    return "\n".join([at.strftime("%Y-%m-%d %H:%M UTC"), *lines])


def added(one: Sums, other: Sums) -> Sums:
    """Both together."""
    names = ("calls", "errors", "input_tokens", "output_tokens", "cached_tokens", "cost", "unmetered", "unpriced")
    return Sums(**{name: getattr(one, name) + getattr(other, name) for name in names})


def bars(sight: Sight, groups: Sequence[GroupSums], dimension: str) -> tuple[Bar, ...]:
    """Where it goes, largest first; in the chart's colours when the chart is stacked by the same."""
    view, whole = sight.view, sight.both.now.sums
    order = sight.order() if view.by == dimension and view.measure != "latency" else ()
    measure = "calls" if view.measure == "latency" else view.measure
    ranked = sorted(groups, key=lambda each: (-figure_of(each.sums, measure), each.group))
    ranked = [each for each in ranked if figure_of(each.sums, measure) > 0][:_BARS]
    largest = figure_of(ranked[0].sums, measure) if ranked else 0
    return tuple(
        Bar(
            name=_name(sight, dimension, each.group),
            value=shown(each.sums, measure),
            part=numbers.share(figure_of(each.sums, measure), figure_of(whole, measure)),
            percent=svg.share(figure_of(each.sums, measure), largest),
            colour=_colour(each.group, order),
            keyed=bool(order),
            href=_narrowed(view, dimension, each.group, measure),
            title=f"{each.sums.calls:,} calls, {numbers.cost(each.sums.cost).text}, {each.sums.errors:,} failed",
        )
        for each in ranked
    )


def _name(sight: Sight, dimension: str, group: str) -> str:
    return (sight.names.get(group, group) if dimension == "key" else group) or "unknown"


def _colour(group: str, order: Sequence[str]) -> int:
    if not order:
        return 0
    return order.index(group) if group in order[:_STACKED] else _STACKED


def _narrowed(view: View, dimension: str, group: str, measure: str) -> str:
    """The calls of a bar; of a call without a key there is no filter, and the list of all stands for it."""
    narrowed = View(view.span)
    if measure == "errors":
        narrowed = replace(narrowed, filters=(filters.Filter("failed", "yes"),))
    if filters.understood(dimension, group):
        return "/requests" + filters.with_filter(narrowed, dimension, group)
    return "/requests" + filters.write(narrowed)


def error_rows(view: View, found: Sequence[ErrorCount], calls: int) -> tuple[ErrorRow, ...]:
    """Failed calls by code, newest first."""
    return tuple(
        ErrorRow(
            name=each.code.replace("_", " "),
            meaning=phrases.error_words(each.code) or phrases.outcome_words(each.code).replace(each.code, ""),
            calls=numbers.count(each.calls),
            part=numbers.share(each.calls, calls),
            newest_at=each.newest_at,
            newest_id=each.newest_id,
            href=_failed(view, each.code),
        )
        for each in sorted(found, key=lambda each: each.newest_at, reverse=True)
    )


def _failed(view: View, code: str) -> str:
    narrowed = View(view.span)
    for name, value in (("error", code), ("status", code.removeprefix("status ")), ("outcome", code)):
        if filters.understood(name, value):
            return "/requests" + filters.with_filter(narrowed, name, value)
    return "/requests" + filters.with_filter(narrowed, "failed", "yes")
