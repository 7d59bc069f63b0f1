"""The chain of the egress log: every fact of a row, and its place, is bound."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from steward.egress_chain import bound, first_broken, going, moved, walk
from steward.errors import EgressLogBroken
from steward.ports import Checkpoint, Departed, Walked
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


def test_every_fact_of_a_checkpoint_is_bound() -> None:
    made = rows()
    point = moved(KEY, None, made[:2], AT)
    assert walk(KEY, point, made[2:]) == Walked(None, point)
    changes: dict[str, Any] = {"number": 1, "chain": made[0].chain, "mac": made[0].chain}
    changes |= {name: AT + timedelta(days=1) for name in ("first_at", "last_at", "made_at")}
    assert changes.keys() == {field.name for field in fields(Checkpoint)}
    for name, value in changes.items():
        assert walk(KEY, replace(point, **{name: value}), made[2:]) == Walked(3, forged=True), name
    assert walk(Secret(bytes(32)), point, made[2:]) == Walked(3, forged=True)


def test_behind_a_checkpoint_there_is_the_next_row_and_no_other() -> None:
    made = rows()
    point = moved(KEY, None, made[:2], AT)
    assert walk(KEY, point, []).first_broken == 3
    assert walk(KEY, point, made[3:]).first_broken == 4
    assert walk(KEY, point, made[1:]).first_broken == 2
    assert walk(KEY, None, made[2:]).first_broken == 3
    further = moved(KEY, point, made[2:3], AT + timedelta(days=9))
    assert (further.number, further.first_at, further.last_at) == (3, made[0].at, made[2].at)
    assert walk(KEY, further, made[3:]) == Walked(None, further)


def test_what_goes_is_old_and_in_a_row_and_proven_by_the_one_behind() -> None:
    made = rows()
    assert going(KEY, None, [], AT) == []
    assert going(KEY, None, made, AT + timedelta(seconds=2)) == made[:2]
    assert going(KEY, None, made, AT + timedelta(days=2)) == made[:3]
    assert going(KEY, None, made[:1], AT + timedelta(days=2)) == []
    for at in range(4):
        changed = [*made[:at], replace(made[at], target="/other"), *made[at + 1 :]]
        with pytest.raises(EgressLogBroken):
            going(KEY, None, changed, AT + timedelta(seconds=1))
