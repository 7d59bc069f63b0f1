"""What stands in infra/kubernetes, read. Asserts nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "infra" / "kubernetes"
KUSTOMIZE = "kustomization.yaml"
Node = dict[str, Any]


def files() -> list[Path]:
    """Every manifest."""
    return sorted(path for path in FOLDER.rglob("*.yaml") if path.name != KUSTOMIZE)


def objects(kind: str | None = None, folder: str = "") -> list[Node]:
    """Every object of a kind, or of all."""
    found = [each for path in files() if path.is_relative_to(FOLDER / folder) for each in read(path)]
    return [each for each in found if kind in {None, each["kind"]}]


def read(path: Path) -> list[Node]:
    """The objects of one file."""
    return list(yaml.safe_load_all(path.read_text()))


def one(kind: str, name: str) -> Node:
    """The object of that kind and name."""
    (found,) = (each for each in objects(kind) if each["metadata"]["name"] == name)
    return found


def pods() -> dict[str, Node]:
    """Kind and name -> the pod's spec, of everything that makes pods."""
    found = {}
    for each in objects():
        spec = each.get("spec", {})
        template = spec.get("jobTemplate", {}).get("spec", {}).get("template") or spec.get("template")
        if template:
            found[f"{each['kind']}/{each['metadata']['name']}"] = template["spec"]
    return found
