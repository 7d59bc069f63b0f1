"""From figures to shapes: round ticks, stacked areas, lines, bars. Shapes are numbers; templates write the SVG.

Refuses to write a tag: what comes from outside reaches a page through the template engine alone (SECURITY F22). x and y
are in a box of `WIDTH` by the chart's height, which a page stretches sideways; labels stand at percents of it, so their
letters keep their size. A figure that is unknown (`None`) leaves a gap in a line and nothing in a stack. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Final

WIDTH: Final = 1000
COLOURS: Final = 8
"""Data colours that the style sheet has; the last is for `other`."""

_ROUND: Final = (1, 2, 2.5, 5)
_LEAST: Final = 1e-12
_LABEL: Final = 14
_TIME_STEPS: Final = tuple(
    timedelta(minutes=minutes)
    for minutes in (5, 10, 15, 30, 60, 120, 180, 360, 720, 1440, 2880, 7200, 10_080, 20_160, 43_200, 86_400)
)


@dataclass(frozen=True, slots=True)
class Tick:
    """A place on the upright axis: y in the box, and the value there."""

    y: float
    value: float


@dataclass(frozen=True, slots=True)
class TimeTick:
    """A place on the time axis: percent of the width, the moment, its text in UTC and where the text is held."""

    percent: float
    at: datetime
    text: str
    anchor: str
    minor: bool
    """Left out where the page is narrow."""


@dataclass(frozen=True, slots=True)
class Series:
    """A named row of figures, one for each piece of time; `colour` is 0 to `COLOURS` - 1."""

    name: str
    colour: int
    values: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Shape:
    """A series drawn: a path, and where its name may stand inside it (percent, y) when there is room."""

    name: str
    colour: int
    path: str
    label: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """One piece of time across the whole height: what the pointer finds there."""

    index: int
    x: float
    width: float


@dataclass(frozen=True, slots=True)
class Chart:
    """Everything that a template needs of one chart."""

    height: int
    shapes: tuple[Shape, ...]
    ticks: tuple[Tick, ...]
    times: tuple[TimeTick, ...]
    hits: tuple[Hit, ...]
    top: float
    """The value at y = 0."""
    width: int = WIDTH


def ticks(top: float, most: int = 4) -> tuple[float, ...]:
    """Round values from 0 to the first that is not below `top`: three to `most` + 1 of them."""
    if not math.isfinite(top) or top < _LEAST:
        return (0.0, 1.0)
    power = 10.0 ** math.floor(math.log10(top / most))
    sizes = [factor * scale for scale in (power, 10 * power) for factor in _ROUND]
    size = next(each for each in sizes if math.ceil(top / each - 1e-9) <= most)
    amount = max(2, math.ceil(top / size - 1e-9))
    return tuple(float(f"{index * size:.12g}") for index in range(amount + 1))


def stacked(series: Sequence[Series], starts: Sequence[datetime], length: timedelta, height: int = 220) -> Chart:
    """Areas on top of each other, the first at the bottom; each piece of time is a level of its own width."""
    totals = [sum(each.values[index] or 0 for each in series) for index in range(len(starts))]
    values = ticks(max(totals, default=0))
    top = values[-1]
    floor = [0.0] * len(starts)
    shapes = []
    for each in series:
        roof = [below + (value or 0) for below, value in zip(floor, each.values, strict=True)]
        shapes.append(_area(each, floor, roof, top, height))
        floor = roof
    return _chart(tuple(shapes), values, starts, length, height)


def lines(series: Sequence[Series], starts: Sequence[datetime], length: timedelta, height: int = 220) -> Chart:
    """A line for each series; a gap where nothing is known."""
    known = [value for each in series for value in each.values if value is not None]
    values = ticks(max(known, default=0))
    shapes = _apart([_line(each, values[-1], height) for each in series], height)
    return _chart(shapes, values, starts, length, height)


def _apart(shapes: Sequence[Shape], height: int) -> tuple[Shape, ...]:
    """With labels that do not lie on each other, in their order of height."""
    floor = float(height)
    placed: dict[str, Shape] = {}
    for shape in sorted(shapes, key=lambda each: -(each.label or (0, 0))[1]):
        if shape.label is not None:
            y = min(shape.label[1], floor)
            floor = y - _LABEL
            placed[shape.name] = replace(shape, label=(shape.label[0], round(y, 1)))
    return tuple(placed.get(each.name, each) for each in shapes)


def sparkline(values: Sequence[float | None], height: int = 32) -> str:
    """The path of a small line over the whole width; empty when there is nothing to draw."""
    known = [value for value in values if value is not None]
    if len(known) < 2 or max(known) <= 0:
        return ""
    top = max(known) * 1.08
    return _path(_points(values, top, height))


def share(value: float, largest: float) -> float:
    """How long a bar is, in percent of the longest; a value above 0 can always be seen."""
    if largest <= 0 or value <= 0:
        return 0.0
    return round(max(0.6, min(100.0, 100 * value / largest)), 2)


def _chart(
    shapes: tuple[Shape, ...], values: Sequence[float], starts: Sequence[datetime], length: timedelta, height: int
) -> Chart:
    top = values[-1]
    width = WIDTH / max(1, len(starts))
    hits = tuple(Hit(index, round(index * width, 2), round(width, 2)) for index in range(len(starts)))
    marks = tuple(Tick(round(height * (1 - value / top), 1), value) for value in values)
    return Chart(height, shapes, marks, time_ticks(starts, length), hits, top)


def _area(series: Series, floor: Sequence[float], roof: Sequence[float], top: float, height: int) -> Shape:
    def y(value: float) -> float:
        return round(height * (1 - value / top), 1)

    width = WIDTH / max(1, len(roof))
    over = [(round(index * width + width / 2, 1), y(value)) for index, value in enumerate(roof)]
    under = [(round(index * width + width / 2, 1), y(value)) for index, value in enumerate(floor)]
    if not over:
        return Shape(series.name, series.colour, "")
    over = [(0.0, over[0][1]), *over, (float(WIDTH), over[-1][1])]
    under = [(0.0, under[0][1]), *under, (float(WIDTH), under[-1][1])]
    points = [*over, *reversed(under)]
    path = "M" + "L".join(f"{x:g} {y_:g}" for x, y_ in points) + "Z"
    return Shape(series.name, series.colour, path, _room(over, under))


def _room(over: Sequence[tuple[float, float]], under: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    """The middle of the widest stretch where the band is high enough for a word; None when it nowhere is."""
    best: tuple[float, float, float] | None = None
    for index in range(3, len(over) - 3):
        near = range(index - 2, index + 3)
        roof, floor = max(over[at][1] for at in near), min(under[at][1] for at in near)
        inside = 12 <= 100 * over[index][0] / WIDTH <= 88
        if inside and floor - roof >= 16 and (best is None or floor - roof > best[0]):
            best = floor - roof, round(100 * over[index][0] / WIDTH, 1), round((floor + roof) / 2 + 4, 1)
    return best[1:] if best else None


def _line(series: Series, top: float, height: int) -> Shape:
    points = _points(series.values, top, height)
    ends = [point for point in points if point is not None]
    label = (round(100 * ends[-1][0] / WIDTH, 1), ends[-1][1]) if ends else None
    return Shape(series.name, series.colour, _path(points), label)


def _points(values: Sequence[float | None], top: float, height: int) -> list[tuple[float, float] | None]:
    width = WIDTH / max(1, len(values))
    return [
        None if value is None else (round(index * width + width / 2, 1), round(height * (1 - value / top), 1))
        for index, value in enumerate(values)
    ]


def _path(points: Sequence[tuple[float, float] | None]) -> str:
    """Moves over gaps; a point alone becomes a stroke as long as it is wide."""
    padded = [None, *points, None]
    parts = []
    for (before, here), (_, after) in zip(pairwise(padded), pairwise(padded[1:]), strict=False):
        if here is None:
            continue
        parts.append(f"{'M' if before is None else 'L'}{here[0]:g} {here[1]:g}")
        if before is None and after is None:
            parts.append(f"h{0.1:g}")
    return "".join(parts)


def time_ticks(starts: Sequence[datetime], length: timedelta, most: int = 6) -> tuple[TimeTick, ...]:
    """Round moments in UTC along the axis, `most` at most."""
    if not starts:
        return ()
    begin, end = starts[0], starts[-1] + length
    size = next((each for each in _TIME_STEPS if (end - begin) / each <= most), _TIME_STEPS[-1])
    epoch = datetime(1970, 1, 5, tzinfo=UTC)
    at = epoch - ((epoch - begin) // size) * size
    found = []
    while at < end:
        percent = round(100 * ((at - begin) / (end - begin)), 2)
        if 2 <= percent <= 97:
            found.append((percent, at))
        at += size
    form = "%H:%M" if size < timedelta(days=1) and end - begin <= timedelta(days=2) else "%-d %b"
    return tuple(
        TimeTick(percent, at, at.strftime(form), "middle", minor=index % 2 == 1)
        for index, (percent, at) in enumerate(found)
    )
