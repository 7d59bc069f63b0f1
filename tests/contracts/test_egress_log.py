"""What every egress log promises, over the one in memory and the one in PostgreSQL (two versions of it)."""

from __future__ import annotations

import hashlib
import threading
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from steward.adapters.memory_egress_log import MemoryEgressLog
from steward.adapters.postgres_egress_log import PostgresEgressLog
from steward.ports import Departed, Departure, EgressLog, Walked

REGISTRATION = uuid4()
NOW = datetime(2031, 5, 6, 7, 8, 9, 10, UTC)
LATE = datetime(2100, 1, 1, tzinfo=UTC)


@pytest.fixture(params=["memory", "postgres", "installed_postgres"])
def egress_log(request: pytest.FixtureRequest) -> EgressLog:
    if request.param == "memory":
        return MemoryEgressLog()
    database = request.getfixturevalue(request.param)
    return PostgresEgressLog(database.engine, database.keyring)


def a_departure(**changes: Any) -> Departure:
    facts: dict[str, Any] = {
        "registration_id": REGISTRATION,
        "kind": "Ingest",
        "target": "/api/v1/steward/ingest/metadata",
        "count": 2,
        "body": b'{"records": []}',
        "first_id": uuid4(),
        "last_id": uuid4(),
    }
    return Departure(**(facts | changes))


def a_question() -> Departure:
    return Departure(None, "Me", "/api/v1/steward/me", 0, None)


def test_an_empty_log_is_whole(egress_log: EgressLog) -> None:
    assert (egress_log.newest(10), egress_log.after(0, 10), egress_log.walked().first_broken) == ([], [], None)
    assert egress_log.body(1) is None


def test_what_leaves_is_kept_before_anything_is_known_of_it(egress_log: EgressLog) -> None:
    gone = a_departure()
    assert [egress_log.leaving(gone), egress_log.leaving(a_question())] == [1, 2]
    first, second = egress_log.newest(10)
    assert (first.kind, first.target, first.count, first.registration_id) == (
        gone.kind,
        gone.target,
        gone.count,
        REGISTRATION,
    )
    assert gone.body is not None
    assert (first.bytes, first.sha256) == (len(gone.body), hashlib.sha256(gone.body).hexdigest())
    assert (first.first_id, first.last_id, first.answer, first.has_body) == (gone.first_id, gone.last_id, None, True)
    assert (second.registration_id, second.bytes, second.has_body, second.answer) == (None, 0, False, None)
    assert (egress_log.body(1), egress_log.body(2)) == (gone.body, None)
    assert second.at >= first.at
    assert first.chain != second.chain
    assert egress_log.walked().first_broken is None


def test_an_answer_is_noted_once(egress_log: EgressLog) -> None:
    number = egress_log.leaving(a_question())
    egress_log.answered(number, "butler_unavailable")
    egress_log.answered(number, "ok")
    assert [row.answer for row in egress_log.newest(1)] == ["butler_unavailable"]
    assert egress_log.walked().first_broken is None


def test_it_is_read_from_its_end_and_onwards(egress_log: EgressLog) -> None:
    for _ in range(5):
        egress_log.leaving(a_question())
    assert [row.number for row in egress_log.newest(2)] == [4, 5]
    assert [row.number for row in egress_log.after(2, 2)] == [3, 4]
    assert egress_log.after(5, 2) == []


def test_what_was_sent_is_kept_of_the_newest_two_hundred(egress_log: EgressLog) -> None:
    for number in range(1, 204):
        egress_log.leaving(a_departure(body=str(number).encode()))
    egress_log.leaving(a_question())
    assert [egress_log.body(number) for number in (1, 3, 4, 203)] == [None, None, b"4", b"203"]
    assert len([row for row in egress_log.newest(300) if row.has_body]) == 200
    assert egress_log.walked().first_broken is None


def test_writers_take_turns(egress_log: EgressLog) -> None:
    def write() -> None:
        for _ in range(10):
            egress_log.leaving(a_departure())

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [row.number for row in egress_log.newest(100)] == list(range(1, 41))
    assert egress_log.walked().first_broken is None


def filled(egress_log: EgressLog, count: int = 6) -> list[Departed]:
    for number in range(count):
        egress_log.leaving(a_departure(body=str(number).encode()))
    return egress_log.newest(count)


def test_the_oldest_are_let_go_and_the_rest_hangs_on_the_checkpoint(egress_log: EgressLog) -> None:
    rows = filled(egress_log)
    assert egress_log.let_go(rows[3].at, 100, NOW) == 3
    found = egress_log.walked()
    gone = found.checkpoint
    assert gone is not None
    assert (found.first_broken, found.forged) == (None, False)
    assert (gone.number, gone.chain) == (3, rows[2].chain)
    assert (gone.first_at, gone.last_at, gone.made_at) == (rows[0].at, rows[2].at, NOW)
    assert [row.number for row in egress_log.newest(100)] == [4, 5, 6]
    assert [row.number for row in egress_log.after(0, 2)] == [4, 5]
    assert [egress_log.body(number) for number in (3, 4)] == [None, b"3"]
    egress_log.answered(2, "ok")
    egress_log.answered(5, "ok")
    assert [row.answer for row in egress_log.newest(100)] == [None, "ok", None]
    assert egress_log.leaving(a_question()) == 7
    assert egress_log.walked().first_broken is None


def test_they_go_in_bounded_batches_and_the_day_of_the_first_is_kept(egress_log: EgressLog) -> None:
    rows = filled(egress_log)
    assert [egress_log.let_go(LATE, 2, NOW) for _ in range(4)] == [2, 2, 1, 0]
    found = egress_log.walked()
    assert found.checkpoint is not None
    assert (found.checkpoint.number, found.checkpoint.first_at) == (5, rows[0].at)
    assert found.first_broken is None


def test_the_newest_row_stays_however_old_and_young_ones_all(egress_log: EgressLog) -> None:
    assert egress_log.let_go(LATE, 10, NOW) == 0
    [first, *_] = filled(egress_log, 2)
    assert egress_log.let_go(first.at, 10, NOW) == 0
    assert egress_log.walked() == Walked(None)
    assert [egress_log.let_go(LATE, 10, NOW) for _ in range(2)] == [1, 0]
    assert [row.number for row in egress_log.newest(10)] == [2]


def test_rows_are_let_go_while_others_are_written(egress_log: EgressLog) -> None:
    filled(egress_log)
    gone: list[int] = []

    def let_go() -> None:
        gone.extend(egress_log.let_go(LATE, 2, NOW) for _ in range(10))

    def write() -> None:
        for _ in range(10):
            egress_log.leaving(a_question())

    threads = [threading.Thread(target=target) for target in (let_go, let_go, write, write)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    found = egress_log.walked()
    assert found.checkpoint is not None
    assert (found.first_broken, found.checkpoint.number) == (None, sum(gone))
    assert [row.number for row in egress_log.newest(100)] == list(range(sum(gone) + 1, 27))
