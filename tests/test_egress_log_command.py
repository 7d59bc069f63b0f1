"""`steward egress tail` and `verify`, over a log in memory."""

from __future__ import annotations

import io
import json
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
    assert json.loads(out.getvalue()) == {"calls": 5, "first_broken": 4}


def test_an_empty_log_is_whole() -> None:
    out = io.StringIO()
    assert verify(MemoryEgressLog(), True, out) == 0
    assert json.loads(out.getvalue()) == {"calls": 0, "first_broken": None}
