"""What stands in `infra/monitoring`: alerts and panels ask for metrics that exist, and every metric is asked for.

Without Prometheus here, expressions are taken apart far enough to check names, labels, their words and brackets.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from steward import metric_names as names
from steward.exchange import BodyState, Outcome
from steward.metric_names import TABLE, Metric
from steward.metrics import CODES, QUEUE_REASONS, VIEW_ACTS

FOLDER = Path(__file__).parents[1] / "infra" / "monitoring"
RUNBOOK = (FOLDER / "runbook.md").read_text()
WORDS = {
    "outcome": {str(outcome) for outcome in Outcome},
    "body_state": {str(state) for state in BodyState},
    "code": set(CODES),
    "reason": set(QUEUE_REASONS),
    "result": {"stored", "refused", "unavailable", "written", "failed", "taken", "set_aside"},
    "role": {"relay", "settler"},
    "state": {"in_use", "idle"},
    "side": {"request", "response"},
    "act": {str(act) for act in VIEW_ACTS},
    "kind": {"input", "output", "cached", "cache_creation", "reasoning"},
}
ADDED_BY_PROMETHEUS = {"instance", "job", "le"}
FUNCTIONS = {
    *("sum", "min", "max", "rate", "increase", "absent", "topk", "histogram_quantile", "max_over_time"),
    *("by", "and", "or", "unless", "label_values"),
}
Rule = dict[str, Any]


def rules() -> list[Rule]:
    groups = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    assert len({group["name"] for group in groups}) == len(groups)
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((FOLDER / "dashboard.json").read_text())["panels"]
    return found


@cache
def asked() -> dict[str, str]:
    """Where an expression stands -> the expression."""
    said = {rule["alert"]: rule["expr"] for rule in rules()}
    for panel in panels():
        for target in panel.get("targets", []):
            said[f"panel {panel['title']} {target['refId']}"] = target["expr"]
    return said


def metric_of(name: str) -> tuple[Metric, str]:
    """The metric that a sample belongs to, and what the name says beyond it."""
    for metric in TABLE:
        if name.startswith(metric.name) and name[len(metric.name) :] in _endings(metric):
            return metric, name[len(metric.name) :]
    raise AssertionError(f"there is no {name}")


def _endings(metric: Metric) -> set[str]:
    kinds = {"counter": {"_total"}, "histogram": {"_bucket", "_sum", "_count"}}
    return kinds.get(metric.kind, {""})


def selectors(expression: str) -> Iterator[tuple[Metric, str, str]]:
    """Every metric that is asked for: itself, its ending, what stands in its braces."""
    for name, inside in re.findall(r"\b(steward_\w+)(?:\{([^}]*)\})?", expression):
        metric, ending = metric_of(name)
        yield metric, ending, inside


@pytest.mark.parametrize("place", asked())
def test_an_expression_asks_for_what_there_is(place: str) -> None:
    expression = asked()[place]
    found = list(selectors(expression))
    assert found
    for metric, ending, inside in found:
        for label, said in re.findall(r'(\w+)=~?"([^"]*)"', inside):
            assert label in {*metric.labels, *ADDED_BY_PROMETHEUS}, (place, label)
            if label in WORDS:
                assert set(said.split("|")) <= WORDS[label], (place, said)
        ranged = re.findall(rf"{metric.name}{ending}(?:\{{[^}}]*\}})?(\[)?", expression)
        if metric.kind in {"counter", "histogram"}:
            assert all(ranged), f"{place}: a counter is asked for by its rate"
    for words in re.findall(r"\bby \(([^)]*)\)", expression):
        grouped = {word.strip() for word in words.split(",")}
        assert grouped <= {*ADDED_BY_PROMETHEUS, *(label for metric, *_ in found for label in metric.labels)}


@pytest.mark.parametrize("place", asked())
def test_an_expression_is_whole(place: str) -> None:
    expression = re.sub(r'"[^"]*"', '""', asked()[place])
    open_ones: list[str] = []
    for sign in expression:
        if sign in "([{":
            open_ones.append({"(": ")", "[": "]", "{": "}"}[sign])
        elif sign in ")]}":
            assert open_ones and open_ones.pop() == sign
    assert not open_ones
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\bby \([^)]*\)|\bsteward_\w+", " ", expression)
    assert set(re.findall(r"[a-z_]+", bare)) <= FUNCTIONS
    assert set(re.findall(r"\[([^\]]*)\]", expression)) <= {"5m", "10m", "15m", "1h", "$__rate_interval", "$__range"}


def test_every_metric_is_asked_for_and_every_alert_s_metric_is_seen() -> None:
    seen = {metric for place, said in asked().items() if place.startswith("panel ") for metric, *_ in selectors(said)}
    alerted = {
        metric for place, said in asked().items() if not place.startswith("panel ") for metric, *_ in selectors(said)
    }
    assert seen == set(TABLE)
    assert alerted <= seen
    assert {names.SPOOL_BYTES, names.SPOOL_OLDEST, names.QUARANTINE, names.LOST, names.ROWS, names.CALLS} <= alerted


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_is_one_that_can_be_acted_on(rule: Rule) -> None:
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"Steward[A-Z][A-Za-z]+", rule["alert"])
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert re.fullmatch(r"[0-9]+[mh]", rule.get("for", "1m"))
    assert rule["annotations"]["runbook"] == f"runbook.md#{rule['alert'].lower()}"
    shown = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    kept = {word.strip() for words in re.findall(r"\bby \(([^)]*)\)", rule["expr"]) for word in words.split(",")}
    assert shown <= kept | ({"instance"} if not kept else set()) | {
        label for metric, *_ in selectors(rule["expr"]) for label in metric.labels if not kept
    }


def test_alerts_speak_when_they_should_and_else_are_silent() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: alerts are checked by their text alone")
    for command in (["check", "rules", "alerts.yaml"], ["test", "rules", "alerts-test.yaml"]):
        ran = subprocess.run([promtool, *command], cwd=FOLDER, capture_output=True, text=True, timeout=120)
        assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_alerts_own_tests_name_alerts_that_exist() -> None:
    cases = yaml.safe_load((FOLDER / "alerts-test.yaml").read_text())["tests"]
    tried = {each["alertname"] for case in cases for each in case["alert_rule_test"]}
    assert len(tried) > 10
    assert tried <= {rule["alert"] for rule in rules()}


def test_every_alert_has_its_chapter_and_every_chapter_its_alert() -> None:
    chapters = re.findall(r"^## (Steward\w+)$", RUNBOOK, re.MULTILINE)
    assert chapters == [rule["alert"] for rule in rules()]
    for chapter in re.split(r"^## ", RUNBOOK, flags=re.MULTILINE)[2:]:
        assert len(chapter.split()) > 25, chapter
    anchors = {f"#{chapter.lower()}" for chapter in chapters}
    assert set(re.findall(r"\]\((#\w+)\)", RUNBOOK)) <= anchors


def test_the_runbook_names_metrics_and_codes_that_exist() -> None:
    for name in re.findall(r"`(steward_\w+)`", RUNBOOK):
        assert name in {metric.name for metric in TABLE} | {metric.shown for metric in TABLE}


def test_the_dashboard_lies_on_its_grid_and_names_no_place() -> None:
    text = (FOLDER / "dashboard.json").read_text()
    assert "://" not in text
    board = json.loads(text)
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken
        taken |= cells
        if panel["type"] != "row":
            assert panel["datasource"] == {"type": "prometheus", "uid": "${source}"}
            assert panel["fieldConfig"]["defaults"]["unit"]
    assert {each["name"] for each in board["templating"]["list"]} == {"source", "instance"}
