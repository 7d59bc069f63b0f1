"""What every egress log promises, over the one in memory and the one in PostgreSQL (two versions of it)."""

from __future__ import annotations

import hashlib
import threading
from typing import Any
from uuid import uuid4

import pytest

from steward.adapters.memory_egress_log import MemoryEgressLog
from steward.adapters.postgres_egress_log import PostgresEgressLog
from steward.ports import Departure, EgressLog

REGISTRATION = uuid4()


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
    assert (egress_log.newest(10), egress_log.after(0, 10), egress_log.first_broken()) == ([], [], None)
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
    assert egress_log.first_broken() is None


def test_an_answer_is_noted_once(egress_log: EgressLog) -> None:
    number = egress_log.leaving(a_question())
    egress_log.answered(number, "butler_unavailable")
    egress_log.answered(number, "ok")
    assert [row.answer for row in egress_log.newest(1)] == ["butler_unavailable"]
    assert egress_log.first_broken() is None


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
    assert egress_log.first_broken() is None


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
    assert egress_log.first_broken() is None
