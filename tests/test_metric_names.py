"""The table of metrics: names as Prometheus wants them, labels that are closed, nothing twice."""

from __future__ import annotations

import re

import pytest

from steward import metric_names
from steward.metric_names import TABLE, Metric

LABELS = {
    "act",
    "provider",
    "model",
    "status",
    "outcome",
    "reason",
    "kind",
    "code",
    "side",
    "body_state",
    "result",
    "role",
    "state",
}
"""Each is an egress type (provider, model) or says words of a closed list."""


def test_every_metric_stands_in_the_table_once() -> None:
    made = [each for each in vars(metric_names).values() if isinstance(each, Metric)]
    assert sorted(made, key=lambda each: each.name) == sorted(TABLE, key=lambda each: each.name)
    assert len({each.name for each in TABLE}) == len(TABLE)


@pytest.mark.parametrize("metric", TABLE, ids=lambda metric: metric.name)
def test_names_labels_and_units_are_what_prometheus_expects(metric: Metric) -> None:
    assert re.fullmatch(r"steward_[a-z]+(?:_[a-z]+)*", metric.name)
    assert not metric.name.endswith("_total")
    assert (metric.shown == f"{metric.name}_total") is (metric.kind == "counter")
    assert set(metric.labels) <= LABELS
    assert re.fullmatch(r"[A-Z].*\.", metric.says) or metric.says.startswith(("1 ", "SPOOL_"))
    if metric.kind == "histogram":
        assert metric.name.endswith("_seconds")
        assert list(metric.buckets) == sorted(set(metric.buckets))
    else:
        assert metric.buckets == ()


def test_a_metric_whose_label_is_no_closed_list_is_bounded() -> None:
    open_ended = [metric for metric in TABLE if {"provider", "model"} & set(metric.labels)]
    assert open_ended
    assert all(metric.bounded for metric in open_ended)
