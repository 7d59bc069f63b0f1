"""Counts in memory, for a host where one process serves and nothing may be left on its disk.

They are shown as those in files are, end with the process, and no other adds to them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path

from prometheus_client import generate_latest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from steward import log
from steward.metric_files import Board, admissible
from steward.metric_names import OTHER, TABLE, Metric

_Sets = dict[tuple[str, ...], list[float]]
"""Of one metric, its values: one, or a histogram's sum and what fell into each bucket."""
_INFINITE = float("inf")


class MemoryBoard(Board):
    """A Board whose counts are this process's own. Safe for threads; never raises."""

    def __init__(self) -> None:
        super().__init__(Path("/nonexistent"))  # what makes folders is overridden, all of it
        self._sets: dict[str, _Sets] = {}

    def add(self, metric: Metric, labels: tuple[str, ...] = (), by: float = 1.0) -> None:
        """See Board."""
        self._change(metric, labels, lambda values: _raise(values, 0, by))

    def put(self, metric: Metric, value: float, labels: tuple[str, ...] = ()) -> None:
        """See Board."""
        self._change(metric, labels, lambda values: _raise(values, 0, value - values[0]))

    def observe(self, metric: Metric, labels: tuple[str, ...], value: float) -> None:
        """See Board."""

        def fell(values: list[float]) -> None:
            _raise(values, 1 + bisect_left(metric.buckets, value), 1.0)
            _raise(values, 0, value)

        self._change(metric, labels, fell)

    def _change(self, metric: Metric, labels: tuple[str, ...], change: Callable[[list[float]], None]) -> None:
        with self._lock:
            try:
                change(self._values(metric, labels))
            except Exception as exc:  # a defect of ours: what is counted is worth more than its number
                if not self._said:
                    self._said = True
                    log.error("metrics_failed", exc)

    def _values(self, metric: Metric, labels: tuple[str, ...]) -> list[float]:
        if len(labels) != len(metric.labels):
            raise ValueError("one label for each name")
        sets = self._sets.setdefault(metric.name, {})
        if labels not in sets and metric.bounded:
            labels = _admitted(sets, metric, labels)
        if labels not in sets:
            "".join(labels).encode()  # what could not be shown would hide all the others
            sets[labels] = [0.0] * (len(metric.buckets) + 2 if metric.kind == "histogram" else 1)
        return sets[labels]

    def close(self) -> None:
        """There is nothing to give up."""

    def text(self) -> bytes:
        """What this process counted, as Prometheus reads it."""
        with self._lock:
            counted = {
                name: {labels: list(values) for labels, values in sets.items()} for name, sets in self._sets.items()
            }
        return generate_latest(_Shown(counted))


def _raise(values: list[float], at: int, by: float) -> None:
    values[at] += by


def _admitted(sets: _Sets, metric: Metric, labels: tuple[str, ...]) -> tuple[str, ...]:
    for candidate, most in admissible(metric, labels):
        if candidate in sets or len(sets) < most:
            return candidate
    return (OTHER,) * len(labels)


class _Shown(Collector):
    """What a scrape shows, in the order of the table."""

    def __init__(self, counted: dict[str, _Sets]) -> None:
        self._counted = counted

    def collect(self) -> Iterator[Family]:
        """Histograms with the counts up to each bound."""
        for metric in TABLE:
            if metric.name not in self._counted:
                continue
            kind = metric.kind if metric.kind in {"counter", "histogram"} else "gauge"
            family = Family(metric.name, metric.says, kind)
            for said, values in self._counted[metric.name].items():
                labels = dict(zip(metric.labels, said, strict=True))
                if kind == "histogram":
                    _add_histogram(family, metric, labels, values)
                else:
                    family.add_sample(metric.shown, labels, values[0])
            yield family


def _add_histogram(family: Family, metric: Metric, labels: dict[str, str], values: list[float]) -> None:
    fell = list(accumulate(values[1:]))
    for bound, count in zip((*metric.buckets, _INFINITE), fell, strict=True):
        family.add_sample(f"{metric.name}_bucket", {**labels, "le": floatToGoString(bound)}, count)
    family.add_sample(f"{metric.name}_sum", labels, values[0])
    family.add_sample(f"{metric.name}_count", labels, fell[-1])
