"""Counts as CloudWatch reads them: the names of `/metrics`, closed dimensions, and nothing on a disk."""

from __future__ import annotations

import io
import json
import threading
from typing import Any

from handlers.emf import NAMESPACE, EmfBoard
from steward import metric_names as names
from steward.metric_names import MOST_SETS, TABLE


def told(board: EmfBoard, stream: io.BytesIO) -> list[dict[str, Any]]:
    board.flush()
    lines = stream.getvalue().splitlines()
    stream.seek(0)
    stream.truncate()
    return [json.loads(line) for line in lines]


def made() -> tuple[EmfBoard, io.BytesIO]:
    stream = io.BytesIO()
    return EmfBoard(stream, lambda: 1_700_000_000_000), stream


def test_a_document_is_of_the_format() -> None:
    board, stream = made()
    board.add(names.CALLS, ("openai", "gpt-4o", "200", "complete"))
    board.add(names.CALLS, ("openai", "gpt-4o", "200", "complete"), 2)
    (document,) = told(board, stream)
    assert document == {
        "_aws": {
            "Timestamp": 1_700_000_000_000,
            "CloudWatchMetrics": [
                {
                    "Namespace": NAMESPACE,
                    "Dimensions": [["provider", "model", "status", "outcome"]],
                    "Metrics": [{"Name": "steward_calls_total", "Unit": "Count"}],
                }
            ],
        },
        "provider": "openai",
        "model": "gpt-4o",
        "status": "200",
        "outcome": "complete",
        "steward_calls_total": 3.0,
    }


def test_every_metric_has_the_name_it_has_for_prometheus_and_every_dimension_a_value() -> None:
    board, stream = made()
    for metric in TABLE:
        labels = tuple(f"v-{name}" for name in metric.labels)
        if metric.kind == "counter":
            board.add(metric, labels)
        elif metric.kind == "histogram":
            board.observe(metric, labels, 0.25)
        else:
            board.put(metric, 1, labels)
    said = set()
    for document in told(board, stream):
        (directive,) = document["_aws"]["CloudWatchMetrics"]
        (dimensions,) = directive["Dimensions"]
        assert len(dimensions) <= 4 and all(document[name] == f"v-{name}" for name in dimensions)
        for each in directive["Metrics"]:
            assert document[each["Name"]] is not None
            said.add(each["Name"])
    assert said == {metric.shown for metric in TABLE}


def test_values_of_a_histogram_are_all_told_to_a_bound() -> None:
    board, stream = made()
    board.observe(names.DURATION, ("openai",), 0.5)
    board.observe(names.DURATION, ("openai",), 1.5)
    (document,) = told(board, stream)
    assert document["steward_call_seconds"] == [0.5, 1.5]
    assert document["_aws"]["CloudWatchMetrics"][0]["Metrics"][0]["Unit"] == "Seconds"
    for _ in range(500):
        board.observe(names.DURATION, ("openai",), 0.5)
    (document,) = told(board, stream)
    assert len(document["steward_call_seconds"]) == 100


def test_each_flush_tells_what_came_since_the_last() -> None:
    board, stream = made()
    board.add(names.POISONED)
    assert len(told(board, stream)) == 1
    assert told(board, stream) == []
    board.add(names.POISONED, by=0)
    assert told(board, stream) == [], "nothing happened"


def test_what_a_label_may_say_is_bounded() -> None:
    board, stream = made()
    for number in range(MOST_SETS + 50):
        board.add(names.TOKENS, ("openai", f"m{number}", "input"))
    documents = told(board, stream)
    assert len(documents) == MOST_SETS + 1
    assert documents[-1]["model"] == "other" and documents[-1]["steward_tokens_total"] == 50


def test_threads_lose_no_count() -> None:
    board, stream = made()

    def count() -> None:
        for _ in range(1000):
            board.add(names.POISONED)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told(board, stream)[0]["steward_poisoned_total"] == 4000


def test_a_stream_that_is_gone_costs_no_call_and_no_file_is_made() -> None:
    stream = io.BytesIO()
    board = EmfBoard(stream)
    stream.close()
    board.add(names.POISONED)
    board.flush()
    board.close()
    assert b"CloudWatch" in board.text() and not board.folder.exists()
