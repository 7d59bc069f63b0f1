"""The seams: protocols alone, each with its promises, its suite and more than one implementation."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Protocol
from uuid import UUID

import pytest

from steward import ports
from steward.exchange import Caller
from steward.ports import ApiKey

ROOT = Path(__file__).parents[1]
PROTOCOLS = [
    kind
    for kind in vars(ports).values()
    if inspect.isclass(kind) and kind.__module__ == ports.__name__ and kind.__bases__[-1] is Protocol
]


def test_there_are_ports() -> None:
    assert {"Upstream", "AfterResponse", "BodyStore", "Ledger", "Directory"} <= {kind.__name__ for kind in PROTOCOLS}


@pytest.mark.parametrize("port", PROTOCOLS, ids=lambda port: port.__name__)
def test_each_port_says_what_every_method_promises(port: type) -> None:
    methods = [method for name, method in vars(port).items() if inspect.isfunction(method) and not name.startswith("_")]
    assert inspect.getdoc(port)
    assert methods
    assert all(method.__doc__ for method in methods), port
    assert all("return" in method.__annotations__ for method in methods), port


@pytest.mark.parametrize("port", ["Upstream", "AfterResponse", "BodyStore", "Ledger", "Directory"])
def test_each_port_has_one_suite_over_its_implementations(port: str) -> None:
    suites = [file.read_text() for file in (ROOT / "tests" / "contracts").glob("test_*.py")]
    assert any(re.search(rf"\b{port}\b", suite) for suite in suites)


def test_a_key_names_its_caller() -> None:
    now = ports.datetime.fromisoformat("2026-01-01T00:00:00+00:00")
    key = ApiKey(
        UUID(int=1), UUID(int=2), "hash", "name", True, now, now, user_id=UUID(int=3), registration_id=UUID(int=4)
    )
    assert key.caller() == Caller(UUID(int=1), UUID(int=2), UUID(int=3), UUID(int=4))
