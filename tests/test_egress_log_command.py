"""`steward egress tail` and `verify`, over a log in memory."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from steward.adapters.memory_egress_log import MemoryEgressLog
from steward.egress_log_command import Shown, tail, verify
from tests.contracts.test_egress_log import a_departure, a_question

BODY = '{"records":[{"raw_metadata":{"Note":"a\u202eb\u009bc"}}]}'


@pytest.fixture
def egress_log() -> MemoryEgressLog:
    made = MemoryEgressLog()
    made.answered(made.leaving(a_question()), "ok")
    for number in range(4):
        made.leaving(a_departure(body=BODY.encode(), count=number))
    made.answered(3, "butler_unavailable")
    return made


def printed(egress_log: MemoryEgressLog, **shown: Any) -> str:
    out = io.StringIO()
    assert tail(egress_log, Shown(**shown), out) == 0
    return out.getvalue()


def test_the_newest_calls_are_shown_without_what_was_sent(egress_log: MemoryEgressLog) -> None:
    lines = printed(egress_log, newest=3).splitlines()
    assert [line.split()[0] for line in lines] == ["number", "3", "4", "5"]
    assert "butler_unavailable" in lines[1]
    assert "(not known)" in lines[3]
    assert "records" not in "".join(lines)


def test_what_was_sent_is_shown_when_asked_and_moves_no_cursor(egress_log: MemoryEgressLog) -> None:
    text = printed(egress_log, content=True)
    assert text.count('"records"') == 4
    assert "\\u202e" in text
    assert not {"\u202e", "\u009b"} & set(text)


def test_as_json_it_is_one_object_a_line(egress_log: MemoryEgressLog) -> None:
    first, *_, last = map(json.loads, printed(egress_log, as_json=True).splitlines())
    assert (first["kind"], first["answer"], first["registration_id"], first["bytes"]) == ("Me", "ok", None, 0)
    assert (last["number"], last["count"], last["answer"]) == (5, 3, None)
    assert last["first_id"] and last["sha256"]
    text = printed(egress_log, as_json=True, content=True)
    contents = [json.loads(line)["content"] for line in text.splitlines()]
    assert contents == [None, *[json.loads(BODY)] * 4]
    assert not {"\u202e", "\u009b"} & set(text)


def test_what_is_no_longer_kept_is_said_so() -> None:
    log = MemoryEgressLog()
    for _ in range(201):
        log.leaving(a_departure())
    assert printed(log, newest=201, content=True).count("newest 200") == 1


def test_an_empty_log_is_its_heading() -> None:
    assert len(printed(MemoryEgressLog()).splitlines()) == 1
    assert printed(MemoryEgressLog(), as_json=True) == ""


def test_following_shows_each_call_once_as_it_comes(egress_log: MemoryEgressLog) -> None:
    out = io.StringIO()
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        if len(waits) < 3:
            egress_log.leaving(a_departure(first_id=uuid4()))
        return len(waits) < 3

    assert tail(egress_log, Shown(newest=1, follow=True, as_json=True), out, wait) == 0
    assert [json.loads(line)["number"] for line in out.getvalue().splitlines()] == [5, 6, 7]
    assert waits == [1.0, 1.0, 1.0]


def test_a_whole_log_is_zero_and_a_broken_one_is_one_with_the_row(egress_log: MemoryEgressLog) -> None:
    out = io.StringIO()
    assert verify(egress_log, False, out) == 0
    assert out.getvalue().startswith("whole: 5 calls")
    del egress_log._rows[2]
    for as_json in (False, True):
        out = io.StringIO()
        assert verify(egress_log, as_json, out) == 1
        assert "4" in out.getvalue()
    assert json.loads(out.getvalue()) == {
        "calls": 5,
        "first_broken": 4,
        "let_go": None,
        "checkpoint_forged": False,
    }


def test_an_empty_log_is_whole() -> None:
    out = io.StringIO()
    assert verify(MemoryEgressLog(), True, out) == 0
    said = json.loads(out.getvalue())
    assert (said["calls"], said["first_broken"]) == (0, None)


def test_it_says_how_many_were_let_go_and_up_to_which_day() -> None:
    days = iter(datetime(2026, 1, day, 12, tzinfo=UTC) for day in range(1, 6))
    egress_log = MemoryEgressLog(lambda: next(days))
    for _ in range(5):
        egress_log.leaving(a_question())
    assert egress_log.let_go(datetime(2026, 1, 4, tzinfo=UTC), 10, datetime(2027, 1, 3, tzinfo=UTC)) == 3
    out = io.StringIO()
    assert verify(egress_log, False, out) == 0
    assert out.getvalue().splitlines() == [
        "whole: 5 calls, each bound to the one before",
        "let go: the first 3 of them, of 2026-01-01 to 2026-01-03, the last time on 2027-01-03 (EGRESS_LOG_RETENTION)",
    ]
    out = io.StringIO()
    assert verify(egress_log, True, out) == 0
    assert json.loads(out.getvalue())["let_go"] == {
        "calls": 3,
        "first_at": "2026-01-01T12:00:00+00:00",
        "last_at": "2026-01-03T12:00:00+00:00",
        "made_at": "2027-01-03T00:00:00+00:00",
    }
    assert [line.split()[0] for line in printed(egress_log).splitlines()] == ["number", "4", "5"]


def test_a_forged_checkpoint_is_a_break_and_nothing_of_it_is_told(egress_log: MemoryEgressLog) -> None:
    assert egress_log.let_go(datetime(2100, 1, 1, tzinfo=UTC), 2, datetime(2026, 1, 1, tzinfo=UTC)) == 2
    assert egress_log._checkpoint is not None
    egress_log._checkpoint = replace(egress_log._checkpoint, last_at=datetime(1999, 1, 1, tzinfo=UTC))
    out = io.StringIO()
    assert verify(egress_log, False, out) == 1
    assert out.getvalue() == "broken at 3: what says how many rows were let go is not this Steward's word\n"
    out = io.StringIO()
    assert verify(egress_log, True, out) == 1
    assert json.loads(out.getvalue()) == {"calls": 5, "first_broken": 3, "let_go": None, "checkpoint_forged": True}
