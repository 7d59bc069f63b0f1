"""Runs what is due on a schedule: each task in a thread of its own, and among many of a kind each in its own turn.

No failure ends a task or holds up another: it is said, and what is away is left alone for a while (1 s doubling to
5 min, full jitter, `Retry-After` obeyed). It decides nothing about what is done.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Generic, TypeVar
from uuid import UUID

from steward import log
from steward.backoff import Backoff
from steward.errors import ButlerUnavailable

FIRST_S: Final = 1.0
LONGEST_S: Final = 300.0

T = TypeVar("T")


def _nothing(within_s: float) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Task:
    """Something that is done again and again."""

    name: str
    every_s: float
    """From the end of one run to the next; a tenth more or less."""
    run_once: Callable[[], bool]
    """One bounded piece of work; True when more waits: then it is run again at once."""
    finish: Callable[[float], None] = _nothing
    """Called once at the end: gives back what it holds, within so many seconds."""


class Clockwork:
    """Tasks and their threads. Ended once, it is not started again."""

    def __init__(self, tasks: Sequence[Task], chance: Callable[[], float] = random.random) -> None:
        self.tasks = tuple(tasks)
        self._chance = chance
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Every task is run for the first time now. Never waits."""
        for task in self.tasks:
            thread = threading.Thread(target=self._run, args=(task,), name=f"steward-{task.name}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def end(self) -> None:
        """No run begins any more. Never waits; safe to repeat."""
        self._ended.set()

    def join(self, within_s: float) -> bool:
        """Ends it and waits for what runs; whether all did in time. What did not ends with the process."""
        self.end()
        until = time.monotonic() + within_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        for task in self.tasks:
            task.finish(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self, task: Task) -> None:
        away = Backoff(FIRST_S, LONGEST_S, chance=self._chance)
        while not self._ended.is_set():
            self._ended.wait(self._once(task, away))

    def _once(self, task: Task, away: Backoff) -> float:
        """One run; seconds until the next."""
        try:
            more = task.run_once()
        except Exception as exc:  # nothing that one run meets may be the end of all later ones
            away.failed(_asked_s(exc))
            log.error("task_failed", exc, task=task.name, seconds=away.waits())
            return away.waits()
        away.worked()
        return 0.0 if more else task.every_s * (0.9 + 0.2 * self._chance())


@dataclass(slots=True, eq=False)
class _Turn:
    """How far one of many is."""

    away: Backoff
    running: bool = False
    due_at: float = 0.0


@dataclass(slots=True, eq=False)
class Fanout(Generic[T]):
    """One piece of work for each of many, at most some at once: one that fails or hangs delays no other.

    `step` is called again and again, by one thread.
    """

    run: Callable[[T], bool]
    """One bounded piece of work for one; True when more waits."""
    name: str
    every_s: float
    at_once: int = 4
    patience_s: float = 1.0
    """How long a step waits for the first that ends."""
    now: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = random.random
    _turns: dict[UUID, _Turn] = field(default_factory=dict)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _ends: int = 0

    def step(self, items: Mapping[UUID, T]) -> bool:
        """Begins what is due and waits for the first to end; True when something is due still, or may be soon."""
        with self._changed:
            for gone in [key for key, turn in self._turns.items() if key not in items and not turn.running]:
                del self._turns[gone]
            ends = self._ends
            for key in self._due(items)[: self.at_once - self._running()]:
                self._begin(key, items[key])
            self._changed.wait_for(lambda: self._ends > ends or not self._running(), self.patience_s)
            return self._running() > 0 or bool(self._due(items))

    def runs(self, key: UUID) -> bool:
        """Whether its work is under way."""
        with self._changed:
            return key in self._turns and self._turns[key].running

    def finish(self, within_s: float) -> bool:
        """Waits for those that run; whether all ended."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._running(), within_s)

    def _due(self, items: Mapping[UUID, T]) -> list[UUID]:
        """Who waited longest comes first."""
        now = self.now()
        for key in items:
            if key not in self._turns:
                self._turns[key] = _Turn(Backoff(FIRST_S, LONGEST_S, self.now, self.chance))
        due = [
            key
            for key, turn in self._turns.items()
            if key in items and not turn.running and turn.due_at <= now and turn.away.waits() == 0
        ]
        return sorted(due, key=lambda key: self._turns[key].due_at)

    def _running(self) -> int:
        return sum(turn.running for turn in self._turns.values())

    def _begin(self, key: UUID, item: T) -> None:
        self._turns[key].running = True
        threading.Thread(target=partial(self._one, key, item), name=f"steward-{self.name}", daemon=True).start()

    def _one(self, key: UUID, item: T) -> None:
        more, fault = False, None
        try:
            more = self.run(item)
        except Exception as exc:  # the next of its turns may go better
            fault = exc
        with self._changed:
            turn = self._turns[key]
            turn.running = False
            if fault is None:
                turn.away.worked()
            else:
                turn.away.failed(_asked_s(fault))
                log.error("task_failed", fault, task=self.name, id=key, seconds=turn.away.waits())
            turn.due_at = self.now() + (0.0 if more else self.every_s)
            self._ends += 1
            self._changed.notify_all()


def _asked_s(exc: Exception) -> float:
    """What a Butler asked for by `Retry-After`."""
    return (exc.after_s or 0.0) if isinstance(exc, ButlerUnavailable) else 0.0
