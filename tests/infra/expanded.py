"""template.yaml as CloudFormation sees it: expanded by SAM's own translator, without any network."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
Node = dict[str, Any]


class _Loader(yaml.SafeLoader):
    """Also reads CloudFormation's short forms."""


def _short(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Node:
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        assert isinstance(node, yaml.MappingNode)
        value = loader.construct_mapping(node, deep=True)
    if suffix == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {suffix if suffix in {"Ref", "Condition"} else f"Fn::{suffix}": value}


_Loader.add_multi_constructor("!", _short)


@cache
def _template() -> Node:
    read: Node = yaml.load((ROOT / "template.yaml").read_text(), _Loader)  # noqa: S506 - a SafeLoader
    return read


def template() -> Node:
    """As it is written."""
    return copy.deepcopy(_template())


@cache
def expanded(release: str = "1") -> Node:
    """In a process of its own: the translator asks the environment alone for a region. `release`: the parameter."""
    environ = {"AWS_DEFAULT_REGION": "eu-central-1", "PATH": os.environ["PATH"]}
    command = [sys.executable, "-m", "tests.infra.expanded", release]
    ran = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=300)
    assert ran.returncode == 0, ran.stderr
    made: Node = json.loads(ran.stdout)
    return made


def _translate(release: str) -> Node:
    from samtranslator.parser.parser import Parser
    from samtranslator.translator.translator import Translator

    given = template()
    given["Globals"]["Function"]["CodeUri"] = "s3://archives/steward-lambda.zip"  # as `sam deploy` writes it
    made: Node = Translator({}, Parser()).translate(given, {"Release": release})
    return made


def resources(kind: str | None = None) -> dict[str, Node]:
    """Name -> resource, of one kind or of all."""
    found: Node = expanded()["Resources"]
    return {name: each for name, each in found.items() if kind in {None, each["Type"]}}


def each_of(value: Any) -> list[Any]:
    """A list of what may be one or many."""
    return value if isinstance(value, list) else [value]


def choices(value: Any) -> list[Any]:
    """What a value may be, whatever the conditions say; without `AWS::NoValue`."""
    if isinstance(value, dict) and "Fn::If" in value:
        return [each for branch in value["Fn::If"][1:] for each in choices(branch)]
    if isinstance(value, list):
        return [each for item in value for each in choices(item)]
    return [] if value == {"Ref": "AWS::NoValue"} else [value]


def documents() -> Iterator[tuple[str, Node]]:
    """Every policy document: of roles, of what they may be assumed by, of queues, of buckets, of keys."""
    for name, each in resources().items():
        properties = each.get("Properties", {})
        for key in ("AssumeRolePolicyDocument", "PolicyDocument", "KeyPolicy"):
            if key in properties:
                yield name, properties[key]
        for policy in properties.get("Policies", []):
            yield name, policy["PolicyDocument"]


def statements() -> Iterator[tuple[str, Node]]:
    """Every statement of every policy, with the resource it stands in, whatever the conditions say."""
    for name, document in documents():
        for statement in choices(document["Statement"]):
            yield name, statement


def of_role(name: str) -> dict[str, Node]:
    """Sid -> statement of a role's own policy."""
    (policy,) = resources("AWS::IAM::Role")[name]["Properties"]["Policies"]
    return {each["Sid"]: each for each in choices(policy["PolicyDocument"]["Statement"])}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_translate(sys.argv[1])))
