"""Nothing leaves that the egress log does not hold."""

from __future__ import annotations

from uuid import uuid4

import pytest

from steward import egress
from steward.adapters.memory_egress_log import MemoryEgressLog
from steward.errors import ButlerUnavailable, LedgerUnavailable
from steward.logged_butler import LoggedButler, Polls
from steward.ports import ControlPlane, Departure, EgressLog
from tests.said import listening
from tests.test_egress import facts

REGISTRATION = uuid4()


class Hearing(ControlPlane):
    """Keeps what it is asked; fails as it is told."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.heard: list[bytes | None] = []
        self.fault = fault
        self.closed = False

    def ask(self, call: egress.Call, fields: frozenset[str] | None = None) -> object:
        self.heard.append(call.body(fields))
        if self.fault is not None:
            raise self.fault
        return {"said": True}

    def close(self) -> None:
        self.closed = True


class Broken(MemoryEgressLog):
    """Takes no row, or no answer."""

    def __init__(self, takes: bool) -> None:
        super().__init__()
        self.takes = takes

    def leaving(self, departure: Departure) -> int:
        if not self.takes:
            raise LedgerUnavailable
        return super().leaving(departure)

    def answered(self, number: int, answer: str) -> None:
        raise LedgerUnavailable


def ingest() -> egress.Ingest:
    return egress.Ingest(records=tuple(egress.MetadataRecord(**facts(id=uuid4())) for _ in range(3)))


def test_a_call_is_one_row_with_what_was_sent_to_the_octet() -> None:
    butler, log = Hearing(), MemoryEgressLog()
    call = ingest()
    fields = frozenset({"id", "revision"})
    assert LoggedButler(butler, log, REGISTRATION).ask(call, fields) == {"said": True}
    (row,) = log.newest(9)
    assert (row.kind, row.count, row.target) == ("Ingest", 3, call.target())
    assert (row.first_id, row.last_id) == (call.records[0].id, call.records[2].id)
    assert (row.registration_id, row.answer) == (REGISTRATION, "ok")
    assert [log.body(1)] == butler.heard


@pytest.mark.parametrize(
    ("fault", "answer"), [(ButlerUnavailable(), "butler_unavailable"), (ValueError("CANARY"), "foreign")]
)
def test_what_went_wrong_is_noted_as_a_code(fault: Exception, answer: str) -> None:
    log: EgressLog = MemoryEgressLog()
    with pytest.raises(type(fault)):
        LoggedButler(Hearing(fault), log).ask(egress.Me())
    assert [(row.kind, row.answer, row.registration_id) for row in log.newest(9)] == [("Me", answer, None)]


def test_a_poll_that_repeats_itself_is_a_row_once_an_hour() -> None:
    """One every 5 s would be 17,000 rows a day for each organisation, in a log that is never shortened."""
    now = [0.0]
    butler, log = Hearing(), MemoryEgressLog()
    logged = LoggedButler(butler, log, REGISTRATION, Polls(lambda: now[0]))

    def rows_after(*calls: egress.Call) -> int:
        for call in calls:
            logged.ask(call)
        return len(log.newest(100))

    assert rows_after(*[egress.Work(limit=50)] * 100) == 1
    assert len(butler.heard) == 100
    assert rows_after(egress.Work(limit=7), egress.Me(), egress.Me(), egress.Ack(job_id=uuid4())) == 5
    now[0] = 3600.0
    assert rows_after(*[egress.Work(limit=50)] * 100) == 6
    butler.fault = ButlerUnavailable()
    with pytest.raises(ButlerUnavailable):
        logged.ask(egress.Work(limit=50))
    butler.fault = None
    assert rows_after(*[egress.Work(limit=50)] * 100) == 7, "after a failure the next is written"


def test_without_a_row_no_call_is_made() -> None:
    butler = Hearing()
    with pytest.raises(LedgerUnavailable):
        LoggedButler(butler, Broken(takes=False)).ask(ingest())
    assert butler.heard == []


def test_an_answer_that_cannot_be_noted_is_an_answer() -> None:
    log = Broken(takes=True)
    with listening() as said:
        assert LoggedButler(Hearing(), log).ask(egress.Me()) == {"said": True}
    assert [row.answer for row in log.newest(9)] == [None]
    assert said.events() == ["egress_answer_not_noted"]


def test_it_is_closed_with_what_it_wraps() -> None:
    butler = Hearing()
    LoggedButler(butler, MemoryEgressLog()).close()
    assert butler.closed
