"""The schedule: nothing ends a task, nobody holds up another, and the end comes in time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from uuid import UUID, uuid4

import pytest

from steward.backoff import Backoff
from steward.clockwork import Clockwork, Fanout, Task
from steward.errors import ButlerUnavailable, LedgerUnavailable
from tests.said import Said, listening
from tests.servers.waiting import eventually


@pytest.fixture(autouse=True)
def said() -> Iterator[Said]:
    with listening() as heard:
        yield heard


class Work:
    """Counts its runs; each does what the next of its words says."""

    def __init__(self, *words: object) -> None:
        self.words = list(words)
        self.runs = 0

    def run_once(self) -> bool:
        self.runs += 1
        word = self.words.pop(0) if self.words else False
        if isinstance(word, BaseException):
            raise word
        return bool(word)


def clockwork(*tasks: Task, chance: Callable[[], float] = lambda: 0.0) -> Clockwork:
    return Clockwork(tasks, chance)


def test_what_has_more_to_do_is_run_again_at_once_and_else_when_it_is_due() -> None:
    busy, idle, often = Work(True, True, True), Work(), Work()
    works = clockwork(
        Task("busy", 3600, busy.run_once), Task("idle", 3600, idle.run_once), Task("often", 0.001, often.run_once)
    )
    works.start()
    eventually(lambda: busy.runs == 4 and idle.runs == 1 and often.runs > 5)
    assert works.join(10)
    assert (busy.runs, idle.runs) == (4, 1)


def test_a_failure_is_said_and_the_task_goes_on(said: Said) -> None:
    work = Work(LedgerUnavailable(), ValueError("CANARY-5d"), False)
    works = clockwork(Task("export", 3600, work.run_once))
    works.start()
    eventually(lambda: work.runs == 3)
    assert works.join(10)
    lines = said.lines("task_failed")
    assert [(line["task"], line["code"]) for line in lines] == [("export", "ledger_unavailable"), ("export", "foreign")]
    assert "CANARY" not in said.text


def test_after_a_failure_it_pauses_for_as_long_as_was_asked(said: Said) -> None:
    work = Work(ButlerUnavailable(300.0))
    works = clockwork(Task("sync", 0.0, work.run_once))
    works.start()
    eventually(lambda: said.lines("task_failed"))
    assert said.lines("task_failed")[0]["seconds"] > 299
    assert works.join(10)
    assert work.runs == 1


def test_pauses_double_to_five_minutes() -> None:
    from steward.clockwork import FIRST_S, LONGEST_S

    away = Backoff(FIRST_S, LONGEST_S, now=lambda: 0.0, chance=lambda: 1.0)
    seen = []
    for _ in range(11):
        away.failed()
        seen.append(away.waits())
    assert seen == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


def test_one_that_hangs_holds_up_neither_the_others_nor_the_end() -> None:
    let_go = threading.Event()
    hanging = Task("hangs", 1, lambda: let_go.wait() and False)
    other = Work(True)
    works = clockwork(hanging, Task("other", 0.001, other.run_once))
    works.start()
    eventually(lambda: other.runs > 3)
    assert not works.join(0.05)
    let_go.set()
    assert works.join(10)


def test_at_the_end_each_gives_back_what_it_holds() -> None:
    finished: list[float] = []
    work = Work()
    works = clockwork(Task("export", 3600, work.run_once, finished.append))
    works.start()
    eventually(lambda: work.runs)
    works.end()
    works.end()
    assert works.join(10)
    assert len(finished) == 1
    assert 0 <= finished[0] <= 10


def test_ended_before_it_began_nothing_runs() -> None:
    work = Work()
    works = clockwork(Task("export", 0.0, work.run_once))
    works.end()
    works.start()
    assert works.join(10)
    assert work.runs == 0


# one piece of work for each of many


class Many:
    """Counts the runs of each; each does what its next word says."""

    def __init__(self, count: int, **options: float | int) -> None:
        self.keys = [uuid4() for _ in range(count)]
        self.runs = dict.fromkeys(self.keys, 0)
        self.words: dict[UUID, list[object]] = {key: [] for key in self.keys}
        self.at_once = self.most = 0
        self.gate: dict[UUID, threading.Event] = {}
        self.clock = 0.0
        self.lock = threading.Lock()
        facts = {"every_s": 10.0, "patience_s": 20.0, **options}
        self.fanout: Fanout[UUID] = Fanout(
            self.run,
            "export",
            now=lambda: self.clock,
            chance=lambda: 1.0,
            **facts,  # type: ignore[arg-type]
        )

    def run(self, key: UUID) -> bool:
        with self.lock:
            self.runs[key] += 1
            self.at_once += 1
            self.most = max(self.most, self.at_once)
            word = self.words[key].pop(0) if self.words[key] else False
        if key in self.gate:
            self.gate[key].wait(20)
        with self.lock:
            self.at_once -= 1
        if isinstance(word, BaseException):
            raise word
        return bool(word)

    def step(self) -> bool:
        return self.fanout.step({key: key for key in self.keys})

    def settle(self) -> None:
        """Steps until nothing is due or runs."""
        eventually(lambda: not self.step())


def test_each_is_served_and_then_rests() -> None:
    many = Many(20)
    many.settle()
    assert set(many.runs.values()) == {1}
    assert many.most <= 4
    assert many.step() is False
    assert set(many.runs.values()) == {1}
    many.clock += 10.0
    many.settle()
    assert set(many.runs.values()) == {2}


def test_who_has_more_is_served_again_before_the_others_are_due() -> None:
    many = Many(3)
    many.words[many.keys[1]] = [True, True]
    many.settle()
    assert list(many.runs.values()) == [1, 3, 1]


def test_who_fails_rests_alone_and_longer_each_time(said: Said) -> None:
    many = Many(2, every_s=0.0)
    many.words[many.keys[0]] = [ButlerUnavailable(), ButlerUnavailable(60.0), ValueError("CANARY-7e")]
    many.words[many.keys[1]] = [True]
    many.fanout.every_s = 1.0
    many.settle()
    assert list(many.runs.values()) == [1, 2]
    seen = []
    for clock in (0.9, 1.0, 2.5, 60.0, 61.0):
        many.clock = clock
        many.settle()
        seen.append(many.runs[many.keys[0]])
    assert seen == [1, 2, 2, 2, 3]
    assert [line["id"] for line in said.lines("task_failed")] == [str(many.keys[0])] * 3
    assert "CANARY" not in said.text


def test_who_hangs_keeps_one_place_and_nobody_waits_for_him() -> None:
    many = Many(3, patience_s=0.01)
    slow = many.keys[0]
    many.gate[slow] = threading.Event()
    for key in many.keys[1:]:
        many.words[key] = [True] * 5
    eventually(lambda: many.step() or [many.runs[key] for key in many.keys[1:]] == [6, 6])
    assert many.runs[slow] == 1
    assert not many.fanout.finish(0.01)
    assert [many.fanout.runs(key) for key in many.keys] == [True, False, False]
    many.gate[slow].set()
    assert many.fanout.finish(10)


def test_who_is_no_longer_named_is_forgotten() -> None:
    many = Many(2)
    many.settle()
    gone = many.keys.pop()
    many.settle()
    many.keys.append(gone)
    many.settle()
    assert many.runs[gone] == 2, "as if it had never been there"


def test_nobody_named_is_nothing_done() -> None:
    many = Many(0)
    assert many.step() is False
    assert many.fanout.finish(0)
