"""Longer kills than `make test` has time for, deploys, and shutdowns under load."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from steward.exchange import Outcome
from tests.faults.account import key_numbers, rows
from tests.faults.bucket import Bucket
from tests.faults.gates import BROKEN
from tests.faults.plays import Kind
from tests.faults.scene import Scene

pytestmark = pytest.mark.faults

MIX = (*[Kind.PLAIN] * 18, Kind.STREAM, Kind.LARGE)
WITHIN_S = 120.0


def test_sixteen_rounds_at_500_a_second_with_the_files_store(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene()
    kill_again_and_again(scene, 16, 500)


def test_four_rounds_at_150_a_second_with_s3(make_scene: Callable[..., Scene], bucket: Bucket) -> None:
    scene = make_scene(bucket=bucket)
    kill_again_and_again(scene, 4, 150)


def kill_again_and_again(scene: Scene, rounds: int, rate: float) -> None:
    """The whole tree, round after round; the last tree settles what all of them left."""
    scene.steward.start()
    load = scene.load(rate=rate, mix=MIX)
    for _ in range(rounds):
        scene.round(load)
        scene.steward.kill_tree()
        scene.steward.start()
    account = scene.settle(within_s=300)
    cut = len([call for call in load.calls if not call.ended])
    print(f"{rounds} kills at {rate}/s: {account}; {cut} calls were cut")  # noqa: T201
    assert account.interrupted <= cut
    assert scene.steward.reconcile() == 0
    scene.steward.stop()


def test_sigterm_under_load_cuts_nothing(make_scene: Callable[..., Scene]) -> None:
    """Five times: what runs ends well, what was taken is settled or left on the volume; nothing is `interrupted`."""
    scene = make_scene(SHUTDOWN_DELAY="1s")
    load = None
    for _ in range(5):
        scene.steward.start()
        load = load or scene.load(rate=200, mix=MIX)
        scene.round(load)
        scene.steward.stop()
    scene.steward.start()
    account = scene.settle()
    assert account.interrupted == 0
    assert load is not None and not [call for call in load.calls if call.status and not call.ended]
    scene.steward.stop()


def test_a_container_is_replaced_while_the_bucket_is_down(make_scene: Callable[..., Scene], bucket: Bucket) -> None:
    """A new tree on the old one's volume: it settles what the old one could not."""
    scene = make_scene(bucket=bucket)
    scene.steward.start()
    load = scene.load(rate=60, mix=MIX)
    scene.round(load)
    bucket.gate.instead = BROKEN
    scene.round(load)
    scene.steward.stop()
    scene.steward.start()
    scene.round(load)
    scene.steward.stop()
    scene.steward.start()
    bucket.gate.instead = None
    scene.round(load)
    assert scene.settle(within_s=300).interrupted == 0
    scene.steward.stop()


def test_a_second_signal_cuts_and_says_so(make_scene: Callable[..., Scene]) -> None:
    """Streams that run are cut, not cleanly; each has its row, none is counted as whole."""
    scene = make_scene(SHUTDOWN_DELAY="1h")
    keys = key_numbers(scene.steward.engine)
    scene.steward.start()
    load = scene.load(rate=30, mix=[Kind.OPEN])
    scene.begin(30, load)
    assert scene.steward.process is not None
    scene.steward.process.send_signal(signal.SIGTERM)
    scene.begin(5, load)
    scene.steward.process.send_signal(signal.SIGTERM)
    scene.steward.gone()
    scene.steward.start()
    load.stop()
    scene.settle()
    cut = {call.id for call in load.calls if call.id is not None and not call.ended}
    found = {row.id: row.outcome for row in rows(scene.steward, keys)}
    assert cut and {found[ident] for ident in cut} == {Outcome.INTERRUPTED}
    scene.steward.kill_tree()  # told to end, it would stay for the hour that was set
