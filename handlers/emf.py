"""Metrics where nobody scrapes: the names of `/metrics`, as CloudWatch's embedded metric format, a line for each set.

Gathered in memory and written when told, to stdout alone; nothing is kept on a disk, and nothing is said that is not
in the table of names. Powertools' Metrics writes one document with one value for each dimension, adds a `service` and
flushes by itself at the hundredth metric; one call of ours has six sets of labels, so this is a serializer of our own.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import orjson

from steward import log
from steward.metric_files import Board
from steward.metric_names import MOST_SETS, OTHER, Metric

NAMESPACE = "Majordomo/Steward"
_VALUES = 100
"""Of one metric in one document, as the format has it."""
_UNITS = {"seconds": "Seconds", "bytes": "Bytes"}

_Set = tuple[tuple[str, ...], tuple[str, ...]]


class EmfBoard(Board):
    """A Board whose counts are those since the last flush. Safe for threads; never raises."""

    def __init__(
        self, stream: BinaryIO | None = None, unix_ms: Callable[[], int] = lambda: time.time_ns() // 10**6
    ) -> None:
        super().__init__(Path("/nonexistent"))  # what makes folders is overridden, all of it
        self._stream = stream
        self._unix_ms = unix_ms
        self._gathered = threading.Lock()
        self._sets: dict[_Set, dict[Metric, list[float]]] = {}
        self._known: dict[str, set[tuple[str, ...]]] = {}

    def add(self, metric: Metric, labels: tuple[str, ...] = (), by: float = 1.0) -> None:
        """See Board. What is nothing is not said: a first value needs no beginning here."""
        if by:
            with self._gathered:
                values = self._values(metric, labels)
                values[:] = [sum(values) + by]

    def put(self, metric: Metric, value: float, labels: tuple[str, ...] = ()) -> None:
        """See Board."""
        with self._gathered:
            self._values(metric, labels)[:] = [float(value)]

    def observe(self, metric: Metric, labels: tuple[str, ...], value: float) -> None:
        """See Board. Every value is told, to a bound: CloudWatch makes the percentiles."""
        with self._gathered:
            values = self._values(metric, labels)
            if len(values) < _VALUES:
                values.append(value)

    def _values(self, metric: Metric, labels: tuple[str, ...]) -> list[float]:
        names = metric.labels
        if metric.bounded:
            known = self._known.setdefault(metric.name, set())
            if labels not in known and len(known) >= MOST_SETS:
                labels = (OTHER,) * len(labels)
            known.add(labels)
        return self._sets.setdefault((names, labels), {}).setdefault(metric, [])

    def flush(self) -> None:
        """Writes what was gathered since the last time, and forgets it."""
        with self._gathered:
            sets, self._sets = self._sets, {}
        lines = b"".join(self._document(names, labels, metrics) for (names, labels), metrics in sets.items())
        if not lines:
            return
        stream = sys.stdout.buffer if self._stream is None else self._stream
        try:
            stream.write(lines)
            stream.flush()
        except (OSError, ValueError) as exc:
            log.error("metrics_failed", exc)

    def _document(self, names: tuple[str, ...], labels: tuple[str, ...], metrics: dict[Metric, list[float]]) -> bytes:
        told = [{"Name": metric.shown, "Unit": _unit(metric)} for metric in metrics]
        directive = {"Namespace": NAMESPACE, "Dimensions": [list(names)], "Metrics": told}
        document: dict[str, object] = {
            "_aws": {"Timestamp": self._unix_ms(), "CloudWatchMetrics": [directive]},
            **dict(zip(names, labels, strict=True)),
        }
        for metric, values in metrics.items():
            document[metric.shown] = values[0] if len(values) == 1 else values
        return orjson.dumps(document) + b"\n"

    def close(self) -> None:
        """What is left is written."""
        self.flush()

    def text(self) -> bytes:
        """See Board: for Prometheus there is nothing, it would ask one sandbox of many."""
        return b"# Metrics of this host are in CloudWatch.\n"


def _unit(metric: Metric) -> str:
    return next(
        (unit for word, unit in _UNITS.items() if word in metric.name), "Count" if metric.kind == "counter" else "None"
    )
