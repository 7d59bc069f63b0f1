"""The chain of the egress log: every fact of a row, and its place, is bound."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from steward.egress_chain import bound, first_broken
from steward.ports import Departed
from steward.words import Secret
from tests.contracts.test_egress_log import a_departure, a_question

KEY = Secret(bytes(range(32)))
AT = datetime(2026, 1, 2, 3, 4, 5, 6, UTC)


def rows(count: int = 4) -> list[Departed]:
    made: list[Departed] = []
    for number in range(count):
        departure = a_departure() if number % 2 else a_question()
        made.append(bound(KEY, made[-1] if made else None, AT + timedelta(seconds=number), departure))
    return made


def test_a_chain_of_ours_is_whole() -> None:
    made = rows()
    assert [row.number for row in made] == [1, 2, 3, 4]
    assert first_broken(KEY, made) is None
    assert first_broken(KEY, made[2:], made[1]) is None
    assert first_broken(KEY, []) is None


CHANGES: dict[str, Any] = {
    "number": 9,
    "at": AT,
    "registration_id": None,
    "kind": "Ack",
    "target": "/elsewhere",
    "count": 7,
    "bytes": 7,
    "sha256": "0" * 64,
    "first_id": uuid4(),
    "last_id": None,
    "chain": "0" * 64,
}


@pytest.mark.parametrize("name", [field.name for field in fields(Departed)])
def test_every_fact_is_bound(name: str) -> None:
    made = rows()
    if name in {"answer", "has_body"}:  # said later
        changed = replace(made[1], **{name: "ok" if name == "answer" else False})
        assert first_broken(KEY, [made[0], changed, *made[2:]]) is None
        return
    changed = replace(made[1], **{name: CHANGES[name]})
    assert first_broken(KEY, [made[0], changed, *made[2:]]) == changed.number


def test_a_row_out_of_its_place_is_seen() -> None:
    made = rows()
    assert first_broken(KEY, [made[0], *made[2:]]) == 3
    assert first_broken(KEY, made[1:]) == 2
    assert first_broken(KEY, [made[0], made[2], made[1], made[3]]) == 3
    assert first_broken(Secret(bytes(32)), made) == 1
