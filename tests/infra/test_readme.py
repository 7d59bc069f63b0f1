"""infra/README.md: its sums are right, and what it tells to type is there."""

from __future__ import annotations

import ast
import operator
import re

import pytest

from tests.infra.expanded import template
from tests.infra.manifests import ROOT

README = (ROOT / "infra" / "README.md").read_text()
COSTS = README.split("\n## What it costs\n")[1].split("\n## ")[0]
PRICES = {name: float(price) for name, price in re.findall(r"^\| `(\w+)` \| ([0-9.]+) \|", COSTS, re.MULTILINE)}
SUMS = re.findall(r"^\| ([^|]+) \| `([^`]+)` \| ([0-9.]+) \|$", COSTS, re.MULTILINE)
OPERATORS = {ast.Mult: operator.mul, ast.Div: operator.truediv, ast.Add: operator.add}


def value(node: ast.expr) -> float:
    """Of an arithmetic expression over prices."""
    if isinstance(node, ast.BinOp):
        return float(OPERATORS[type(node.op)](value(node.left), value(node.right)))  # type: ignore[index]
    if isinstance(node, ast.Name):
        return PRICES[node.id]
    assert isinstance(node, ast.Constant)
    return float(node.value)  # type: ignore[arg-type]


@pytest.mark.parametrize(("what", "arithmetic", "said"), SUMS)
def test_a_sum_is_what_its_arithmetic_says(what: str, arithmetic: str, said: str) -> None:
    assert f"{value(ast.parse(arithmetic, mode='eval').body):.2f}" == said, what


def test_every_price_is_used_and_every_sum_is_read() -> None:
    assert len(PRICES) == 12
    used = {name for _, arithmetic, _ in SUMS for name in PRICES if name in arithmetic}
    assert used == set(PRICES)


def test_where_a_container_is_cheaper_is_what_the_sums_say() -> None:
    sums = {what: float(said) for what, _, said in SUMS}
    a_million = sum(sums[name] for name in ("Lambda, its time", "Lambda, its calls", "bodies", "logs", "NAT"))
    fargate = sums["Fargate, two tasks that relay and one that settles"]
    containers = fargate / (sums["Lambda, its time"] + sums["Lambda, its calls"])
    assert f"cost as much as {containers:.1f} million such calls" in COSTS
    assert f"{sums['Lambda, its time']:.0f} of {a_million:.0f} USD" in COSTS


def test_parameters_it_speaks_of_are_the_templates() -> None:
    chapter = README.split("\n## Lambda\n")[1].split("\n## ")[0]
    named = set(re.findall(r"`([A-Z][A-Za-z]+)(?:=\w+)?`", chapter))
    known = template()["Parameters"].keys() | template()["Outputs"].keys() | {"Authorization", "OK", "STREAM"}
    assert len(named) > 5
    assert named <= known


def test_files_it_speaks_of_are_there() -> None:
    named = set(re.findall(r"`((?:kubernetes|aws|gcp)/[\w./-]*|compose\.yaml)`", README))
    assert len(named) > 8
    assert not [name for name in named if not (ROOT / "infra" / name).exists()]
    typed = set(re.findall(r"infra/[\w/.-]+", "".join(re.findall(r"(?ms)^```\n(.*?)^```$", README))))
    assert not [name for name in typed if not (ROOT / name).exists() and not name.startswith("infra/secrets")]
