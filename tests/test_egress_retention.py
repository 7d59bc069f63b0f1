"""How long the rows of the egress log are kept, over a log in memory with a clock of its own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from steward.adapters.memory_egress_log import MemoryEgressLog
from steward.egress_retention import Retention
from tests.contracts.test_egress_log import a_question
from tests.said import listening

DAY_S = 86400.0
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def egress_log() -> MemoryEgressLog:
    """A row a day, ten of them."""
    days = iter(BEGAN + timedelta(days=day) for day in range(100))
    made = MemoryEgressLog(lambda: next(days))
    for _ in range(10):
        made.leaving(a_question())
    return made


def numbers(egress_log: MemoryEgressLog) -> list[int]:
    return [row.number for row in egress_log.newest(100)]


@pytest.mark.parametrize("batch", [1, 2, 3, 6, 100])
def test_what_is_older_goes_in_as_many_batches_as_it_takes(egress_log: MemoryEgressLog, batch: int) -> None:
    retention = Retention(egress_log, 3 * DAY_S, batch)
    with listening() as heard:
        retention.run(BEGAN + timedelta(days=9))
        retention.run(BEGAN + timedelta(days=9))
    assert numbers(egress_log) == [7, 8, 9, 10]
    assert [(line["count"], line["until"][:10]) for line in heard.lines("egress_log_let_go")] == [(6, "2026-01-07")]
    assert egress_log.walked().first_broken is None


def test_nothing_is_asked_for_ever(egress_log: MemoryEgressLog) -> None:
    Retention(egress_log, 0).run(BEGAN + timedelta(days=99999))
    assert numbers(egress_log) == list(range(1, 11))


def test_a_log_that_was_changed_stays_as_it_is_and_that_is_said(egress_log: MemoryEgressLog) -> None:
    del egress_log._rows[4]
    with listening() as heard:
        Retention(egress_log, DAY_S, batch=2).run(BEGAN + timedelta(days=9))
    assert numbers(egress_log) == [3, 4, 6, 7, 8, 9, 10]
    assert [line["code"] for line in heard.lines("egress_log_broken")] == ["egress_log_broken"]
    assert [line["count"] for line in heard.lines("egress_log_let_go")] == [2]
