"""Longer and slower outages than `make test` has time for: services that drag, refuse, break off and come back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from steward.adapters.postgres_local import LocalPostgres
from steward.exchange import BodyState
from tests.faults.account import key_numbers, rows
from tests.faults.bucket import Bucket
from tests.faults.clock import SteppedClock
from tests.faults.gates import BROKEN, FORBIDDEN, Gate
from tests.faults.loop_thread import LoopThread
from tests.faults.plays import Kind
from tests.faults.scene import Scene
from tests.servers.waiting import eventually

pytestmark = pytest.mark.faults

KEPT = (*[Kind.PLAIN] * 8, Kind.STREAM, Kind.LARGE)
MIX = (*KEPT, Kind.LEAVE, Kind.RESET, Kind.DRIP)
DAY_S = 86_400
WITHIN_S = 120.0


@pytest.fixture
def gate(loop_thread: LoopThread, own_postgres: LocalPostgres) -> Iterator[Gate]:
    """In front of the database."""
    assert own_postgres.tcp_port is not None
    port = own_postgres.tcp_port
    made = loop_thread.ask(lambda: Gate(port))
    loop_thread.do(made.start())
    yield made
    loop_thread.do(made.stop())


def test_postgres_is_slow(make_scene: Callable[..., Scene], own_postgres: LocalPostgres, gate: Gate) -> None:
    """A quarter of a second each way; calls wait for none of it."""
    scene = make_scene(own_postgres, POSTGRES_PORT=str(gate.port))
    scene.steward.start()
    load = scene.load(rate=150, mix=KEPT)
    scene.round(load)
    gate.delay_s = 0.25
    scene.round(load, 15)
    gate.delay_s = 0.0
    scene.round(load)
    assert scene.settle().interrupted == 0
    assert not [call for call in load.calls if call.status == 503]
    scene.steward.stop()


def test_postgres_breaks_off_and_restarts_in_the_middle_of_batches(
    make_scene: Callable[..., Scene], own_postgres: LocalPostgres, gate: Gate
) -> None:
    """Connections that end between a statement and its answer: the batch is written again, and counted once."""
    scene = make_scene(own_postgres, POSTGRES_PORT=str(gate.port))
    scene.steward.start()
    load = scene.load(rate=200, mix=KEPT)
    scene.round(load)
    for _ in range(10):
        gate.delay_s = 0.05
        scene.serve(40, load)
        scene.running.do(gate.cut())
        gate.delay_s = 0.0
        scene.serve(40, load)
    for _ in range(3):
        own_postgres.stop()
        scene.serve(60, load)
        own_postgres.start()
        scene.serve(60, load)
    assert scene.settle().interrupted == 0
    scene.steward.stop()


def test_the_bucket_forbids_and_then_allows(make_scene: Callable[..., Scene], bucket: Bucket) -> None:
    """Refused is not lost: within the day that is tried, all bodies come."""
    scene = make_scene(bucket=bucket)
    scene.steward.start()
    load = scene.load(rate=60, mix=MIX)
    bucket.gate.instead = FORBIDDEN
    scene.round(load, 15)
    bucket.gate.instead = None
    scene.round(load)
    assert scene.settle(within_s=300).interrupted == 0
    scene.steward.stop()


def test_the_bucket_forbids_for_longer_than_is_tried(make_scene: Callable[..., Scene], bucket: Bucket) -> None:
    """Rows say `failed`, the bytes stay in quarantine, and `reconcile --fix` puts them once the bucket allows it."""
    scene = make_scene(bucket=bucket, BODY_RETRY_FOR="5s")
    keys = key_numbers(scene.steward.engine)
    scene.steward.start()
    load = scene.load(rate=40, mix=KEPT)
    bucket.gate.instead = FORBIDDEN
    scene.serve(30, load)
    load.stop()

    def all_failed() -> bool:
        return [row.body_state for row in rows(scene.steward, keys)].count(BodyState.FAILED) == len(load.calls)

    eventually(all_failed, 2 * WITHIN_S)
    failed = scene.settle(excused=[BodyState.FAILED], within_s=5)
    assert failed.bodies[BodyState.FAILED] == failed.served
    bucket.gate.instead = None
    scene.steward.reconcile("--fix")
    assert scene.settle().bodies[BodyState.STORED] == failed.served
    assert scene.steward.reconcile() == 0
    scene.steward.stop()


def test_the_bucket_is_slow(make_scene: Callable[..., Scene], bucket: Bucket) -> None:
    """Two seconds a body: rows come at once, bodies when they come, calls wait for neither."""
    scene = make_scene(bucket=bucket)
    scene.steward.start()
    load = scene.load(rate=60, mix=MIX)
    scene.round(load)
    bucket.gate.delay_s = 2.0
    scene.round(load, 20)
    bucket.gate.delay_s = 0.0
    assert scene.settle(within_s=300).interrupted == 0
    scene.steward.stop()


@pytest.mark.parametrize("kind", [Kind.RESET, Kind.DRIP, Kind.LEAVE])
def test_providers_and_callers_that_behave_badly(make_scene: Callable[..., Scene], kind: Kind) -> None:
    """Reset, dripping, or a caller who leaves: each call is in the ledger as what it was."""
    scene = make_scene()
    scene.steward.start()
    load = scene.load(rate=150, mix=[kind, Kind.PLAIN])
    scene.round(load, 10)
    account = scene.settle()
    assert account.interrupted == 0
    assert len([call for call in load.calls if call.kind is kind and call.id is not None]) >= 20
    scene.steward.stop()


def test_the_clock_is_stepped(make_scene: Callable[..., Scene], bucket: Bucket, tmp_path: Path) -> None:
    """Two days forth and four back under load, with bodies waiting: no clock decides what is settled or given up."""
    try:
        clock = SteppedClock(tmp_path)
    except FileNotFoundError:
        pytest.skip("a clock of its own takes a C compiler, and there is none")
    scene = make_scene(bucket=bucket, **clock.settings)
    scene.steward.start()
    load = scene.load(rate=60, mix=KEPT)
    scene.serve(60, load)
    bucket.gate.instead = BROKEN
    for days in (2, -2, 0):
        scene.serve(60, load)
        clock.step(days * DAY_S)
    scene.serve(60, load)
    bucket.gate.instead = None
    scene.serve(60, load)
    assert scene.settle(within_s=300).interrupted == 0
    scene.steward.stop()
    with scene.steward.engine.connect() as connection:
        days = connection.exec_driver_sql("SELECT count(DISTINCT requested_at::date) FROM llm_requests").scalar_one()
    assert days >= 3
