"""The settling process: one a spool, through signals, outages and kills, with nothing lost and nothing twice."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import FrameType
from uuid import uuid4

import pytest

from handlers.settler import Stopping, run
from steward import metrics
from steward.adapters.memory import MemoryDirectory, MemoryLedger
from steward.adapters.memory_bodies import MemoryBodyStore
from steward.adapters.memory_settled import MemoryQueue, MemorySettled
from steward.adapters.price_feed import PriceFeed
from steward.adapters.spool import Spool, SpoolLimits
from steward.clockwork import Clockwork, Task
from steward.errors import LedgerUnavailable, StoreUnavailable
from steward.exchange import Body, BodyState, Exchange, Intent, Outcome
from steward.metrics import QueueMetrics
from steward.policy import NOTHING_SAID
from steward.price import bundled
from steward.seal import Keyring
from steward.settle import Settler
from steward.settling import RoundLimits, Rounds
from steward.stores import DecidedStores, Looking, OneStore
from steward.wiring.settler import SettlerServices
from steward.words import Secret
from tests.exchanges import exchange, route
from tests.said import Said, listening
from tests.servers.postgres import Database
from tests.servers.steward import COMMAND
from tests.servers.waiting import eventually

CHAT = route("/v1/chat/completions")
ANSWER = {"model": "gpt-4o-mini", "usage": {"prompt_tokens": 10, "completion_tokens": 2}}


@pytest.fixture(autouse=True)
def said() -> Iterator[Said]:
    with listening() as heard:
        yield heard


class House:
    """A settling process over memory, in this one: signals come to the main thread, which runs it."""

    def __init__(self) -> None:
        self.queue = MemoryQueue()
        self.ledger = MemoryLedger()
        self.store = MemoryBodyStore()
        self.book = bundled({})
        self.asked = 0
        self.others_until = 0
        self.maintained: list[datetime] = []
        self.closed = threading.Event()
        self.tasks: list[Task] = []
        settler = Settler(self.ledger, OneStore(self.store), lambda: self.book)
        self.rounds = Rounds(MemorySettled(self.queue), settler, self.ledger, RoundLimits(idle_s=0.01))

    def services(self) -> SettlerServices:
        def acquire() -> bool:
            self.asked += 1
            return self.asked > self.others_until

        board = metrics.prepare(None)
        prices = PriceFeed("", self.book)
        looking = Looking(DecidedStores(MemoryDirectory(), NOTHING_SAID, self.store, lambda destination: self.store))
        return SettlerServices(
            self.rounds,
            acquire,
            self.maintained.append,
            prices,
            looking,
            QueueMetrics(board, 1),
            Clockwork(self.tasks),
            self.closed.set,
        )

    def call(self) -> Exchange:
        """A call that waits to be settled."""
        made = replace(exchange(CHAT, ANSWER), id=uuid4(), requested_at=datetime.now(UTC))
        self.queue.put(made)
        return made

    def run(self, stopping: Stopping | None = None) -> int:
        return run(self.services(), 3600.0, stopping or Stopping())

    def state(self, call: Exchange) -> BodyState | None:
        found = self.ledger.get(call.caller.org_id, call.id)
        return found.record.body_state if found else None


@contextmanager
def signalled(*conditions: Callable[[], object], number: int = signal.SIGTERM) -> Iterator[None]:
    """Sends this process the signal once after each condition."""

    def send() -> None:
        for condition in conditions:
            eventually(condition)
            os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    yield
    thread.join()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_settles_until_it_is_told_to_end_and_then_what_is_there(number: int, said: Said) -> None:
    it = House()
    before = signal.getsignal(number)
    first = it.call()
    late: list[Exchange] = []

    def settled() -> bool:
        if it.state(first) is not BodyState.STORED:
            return False
        late.extend(it.call() for _ in range(20))
        return True

    with signalled(settled, number=number):
        assert it.run() == 0
    assert {it.state(call) for call in late} == {BodyState.STORED}
    assert it.closed.is_set()
    assert signal.getsignal(number) == before
    assert [event for event in said.events() if event != "call"] == ["settling", "stopped"]


def test_what_cannot_be_settled_when_it_ends_is_left_in_the_queue() -> None:
    it = House()
    it.store.fail(StoreUnavailable)
    calls = [it.call() for _ in range(5)]
    with signalled(lambda: it.state(calls[-1]) is BodyState.PENDING):
        assert it.run() == 0
    assert len(it.queue.kept) == 5


class _Away(MemoryLedger):
    def record(self, batch: object) -> list[object]:  # type: ignore[override]
        raise LedgerUnavailable


def test_a_drain_without_a_ledger_ends_in_its_time() -> None:
    it = House()
    settler = Settler(_Away(), OneStore(it.store), lambda: it.book)
    it.rounds = Rounds(MemorySettled(it.queue), settler, it.ledger, RoundLimits(idle_s=0.01, backoff_s=60.0))
    it.call()
    with signalled(lambda: not it.rounds.ledger_up()):
        assert it.run(Stopping(drain_s=0.2)) == 0
    assert len(it.queue.kept) == 1


def test_a_second_settler_waits_for_the_first(said: Said) -> None:
    it = House()
    it.others_until = 2
    call = it.call()
    with signalled(lambda: it.state(call) is BodyState.STORED):
        assert it.run() == 0
    assert it.asked == 3
    assert said.events()[:2] == ["settler_waits", "settling"]


def test_a_second_settler_that_is_told_to_end_never_settles(said: Said) -> None:
    it = House()
    it.others_until = 10**6
    it.call()
    with signalled(lambda: it.asked):
        assert it.run() == 0
    assert (len(it.queue.kept), said.events()) == (1, ["settler_waits", "stopped"])
    assert it.closed.is_set()


class _Ended(BaseException):
    """What stands for the end of the process."""


def _end(code: int) -> None:
    raise _Ended


def test_the_second_signal_ends_it_where_it_stands() -> None:
    it = House()
    settler = Settler(_Away(), OneStore(it.store), lambda: it.book)
    it.rounds = Rounds(MemorySettled(it.queue), settler, it.ledger, RoundLimits(idle_s=0.01, backoff_s=60.0))
    it.call()
    stopping = Stopping(drain_s=60.0, end=_end)
    with signalled(lambda: not it.rounds.ledger_up(), stopping.asked), pytest.raises(_Ended):
        it.run(stopping)
    assert len(it.queue.kept) == 1


def test_a_signal_may_come_at_any_step_of_a_wait() -> None:
    """Its handler runs in the thread that waits: a lock that both take would never be given back.

    Here it runs in another thread while the one that waits stands still, so that it can be seen to wait for it.
    """
    stuck: list[int] = []

    def steps_of_a_wait(told_at: int) -> int:
        stopping, steps = Stopping(end=_end), 0

        def step(frame: FrameType, event: str, arg: object) -> None:
            nonlocal steps
            steps += 1
            if steps == told_at:
                handler = threading.Thread(target=stopping._told, args=(signal.SIGTERM, None), daemon=True)
                handler.start()
                handler.join(2.0)
                stuck.extend([told_at] if handler.is_alive() else [])

        with stopping.signals():
            sys.setprofile(step)
            try:
                stopping.wait(0.0)
            finally:
                sys.setprofile(None)
        assert told_at > steps or stopping.wait(0.0)
        return steps

    told_at = 1
    while steps_of_a_wait(told_at) >= told_at and not stuck:
        told_at += 1
    assert told_at > 3 and stuck == []


def test_a_round_that_fails_does_not_end_it(said: Said) -> None:
    it = House()
    call = it.call()
    broken = [True]
    whole = it.rounds.run_once

    class Once(Rounds):
        def run_once(self) -> float:
            if broken:
                broken.clear()
                raise ValueError("CANARY-4b1d")
            return whole()

    it.rounds.__class__ = Once
    with signalled(lambda: it.state(call) is BodyState.STORED):
        assert it.run() == 0
    assert said.events()[:2] == ["settling", "settle_failed"]
    assert "CANARY" not in said.text


def test_what_is_on_a_schedule_runs_beside_it_and_has_the_drain_to_end() -> None:
    it = House()
    begun, let_go, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> bool:
        begun.set()
        let_go.wait(20)
        ended.set()
        return True

    it.tasks = [Task("export", 3600, work)]
    stopping = Stopping(drain_s=20.0)
    with signalled(begun.is_set):
        threading.Thread(target=lambda: stopping.wait(20) and let_go.set(), daemon=True).start()
        assert it.run(stopping) == 0
    assert ended.is_set()
    assert it.closed.is_set()


def test_what_hangs_there_is_left_when_the_drain_is_over() -> None:
    it = House()
    begun, let_go = threading.Event(), threading.Event()
    it.tasks = [Task("export", 3600, lambda: begun.set() or let_go.wait(20))]
    with signalled(begun.is_set):
        assert it.run(Stopping(drain_s=0.2)) == 0
    assert it.closed.is_set()
    let_go.set()


def test_partitions_are_kept() -> None:
    it = House()
    with signalled(lambda: it.maintained):
        it.run()
    assert len(it.maintained) == 1


# the process itself, on a spool, PostgreSQL and a folder of bodies


@dataclass
class Installation:
    """What `steward settle` is set up with."""

    database: Database
    folder: Path
    environ: Mapping[str, str]
    keyring: Keyring
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def spool(self) -> Spool:
        """What a relaying process writes to."""
        return Spool(self.folder / "spool", self.keyring, SpoolLimits())

    def settler(self) -> subprocess.Popen[bytes]:
        """The command, as an operator starts it."""
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen([*COMMAND, "settle"], env=dict(self.environ), cwd="/", stdout=log, stderr=log)
        self.started.append(process)
        return process

    def rows(self) -> list[tuple[object, ...]]:
        """Of every row what tells whether it is right."""
        return self.database.run("SELECT id, outcome, body_state, revision FROM llm_requests ORDER BY id")

    def bodies(self) -> set[str]:
        """The ids of the objects."""
        return {path.name.removesuffix(".json.gz") for path in (self.folder / "bodies").rglob("*.json.gz")}


@pytest.fixture
def installation(postgres: Database, tmp_path: Path) -> Iterator[Installation]:
    key = secrets.token_bytes(32)
    (tmp_path / "spool").mkdir(mode=0o700)
    address = postgres.address
    environ = {
        **{name: os.environ[name] for name in ("PATH", "HOME", "LANG", "VIRTUAL_ENV") if name in os.environ},
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "ENCRYPTION_KEY": key.hex(),
        "POSTGRES_HOST": address.host,
        "POSTGRES_PORT": str(address.port),
        "POSTGRES_USER": address.user,
        "POSTGRES_PASSWORD": address.password.reveal(),
        "POSTGRES_DB": address.database,
        "POSTGRES_SSLMODE": "disable",
        "AFTER_RESPONSE": "spool",
        "SPOOL_DIR": str(tmp_path / "spool"),
        "BODY_STORE_URL": f"file://{tmp_path}/bodies",
        "PRICING_REMOTE_URL": "",
    }
    it = Installation(postgres, tmp_path, environ, Keyring(Secret(key)))
    yield it
    for process in it.started:
        if process.poll() is None:
            process.kill()
            process.wait(10)


def relayed(spool: Spool, count: int, size: int = 10) -> list[Exchange]:
    """Calls as a relay hands them over."""
    calls = []
    for _ in range(count):
        octets = os.urandom(size)
        call = replace(
            exchange(CHAT, ANSWER), id=uuid4(), requested_at=datetime.now(UTC), request=Body(octets, None, len(octets))
        )
        spool.intend(Intent(call.id, call.caller, call.route, call.requested_at, call.method))
        spool.submit(call)
        calls.append(call)
    return calls


def ended(process: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> int:
    """Its exit code after the signal."""
    process.send_signal(number)
    return process.wait(30)


def grown(it: Installation, before: int) -> bool:
    """Whether there are more rows than before."""
    return len(it.rows()) > before


@pytest.mark.faults
def test_kills_and_a_new_process_each_time_lose_nothing_and_write_nothing_twice(installation: Installation) -> None:
    it = installation
    spool = it.spool()
    calls = relayed(spool, 300)
    for _ in range(3):
        settler = it.settler()
        eventually(partial(grown, it, len(it.rows())), 30)
        calls += relayed(spool, 400)
        assert ended(settler, signal.SIGKILL) == -signal.SIGKILL
    flight = replace(calls[0], id=uuid4())
    spool.intend(Intent(flight.id, flight.caller, flight.route, flight.requested_at, flight.method))
    settler = it.settler()
    eventually(lambda: len([row for row in it.rows() if row[2] == "stored"]) == len(calls), 60)
    assert flight.id not in {row[0] for row in it.rows()}, "its relay lives"
    asyncio.run(spool.close())
    eventually(lambda: flight.id in {row[0] for row in it.rows()}, 30)
    assert ended(settler) == 0
    rows = {row[0]: row[1:3] for row in it.rows()}
    assert rows.pop(flight.id) == (Outcome.INTERRUPTED, BodyState.LOST)
    assert rows == {call.id: (Outcome.COMPLETE, BodyState.STORED) for call in calls}
    assert it.bodies() == {str(call.id) for call in calls}
    assert list((it.folder / "spool" / "relays").iterdir()) == []


def test_two_settlers_on_one_spool_take_turns(installation: Installation) -> None:
    it = installation
    spool = it.spool()
    first, second = it.settler(), it.settler()
    calls = relayed(spool, 50)
    eventually(lambda: len(it.rows()) == 50, 30)
    eventually(lambda: b"settler_waits" in (it.folder / "log").read_bytes(), 30)
    assert ended(first) == 0
    calls += relayed(spool, 50)
    eventually(lambda: len(it.rows()) == 100, 30)
    assert ended(second) == 0
    asyncio.run(spool.close())
    assert {row[2:] for row in it.rows()} == {(BodyState.STORED, 1)}
    assert it.bodies() == {str(call.id) for call in calls}
