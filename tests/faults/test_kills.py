"""Processes are killed without warning, under load: what was answered is settled, once, by those that come after."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.plays import Kind
from tests.faults.scene import Scene
from tests.servers.waiting import eventually

MIX = (*[Kind.PLAIN] * 8, Kind.STREAM, Kind.LARGE)
WITHIN_S = 60.0
ROUNDS = 4


@pytest.mark.faults
def test_the_settler_is_killed(make_scene: Callable[..., Scene]) -> None:
    """Relaying goes on, another takes its place, and nothing is settled twice."""
    scene = make_scene()
    steward = scene.steward
    steward.start()
    load = scene.load(rate=200, mix=MIX)
    for _ in range(2):
        scene.serve(100, load)
        eventually(lambda: steward.settler() is not None, WITHIN_S)
        settler = steward.settler()
        assert settler is not None and settler not in steward.relays()
        steward.kill(settler)
        eventually(lambda settler=settler: steward.settler() not in (None, settler), WITHIN_S)
    scene.serve(60, load)
    assert scene.settle().interrupted == 0
    assert not [call for call in load.calls if not call.ended]
    steward.stop()


def test_a_relaying_process_is_killed_under_load(make_scene: Callable[..., Scene]) -> None:
    """Its calls are cut and say so in the ledger; those that it had answered are there, whole."""
    scene = make_scene()
    steward = scene.steward
    steward.start()
    load = scene.load(rate=250, mix=MIX)
    for _ in range(2):
        scene.serve(120, load)
        eventually(lambda: len(steward.relays()) == 2, WITHIN_S)
        victim = steward.relays()[0]
        steward.kill(victim)
        eventually(lambda victim=victim: len(steward.relays()) == 2 and victim not in steward.relays(), WITHIN_S)
    scene.serve(60, load)
    account = scene.settle()
    assert account.interrupted <= len([call for call in load.calls if not call.ended])
    steward.stop()


@pytest.mark.faults
def test_the_whole_tree_is_killed_and_started_again(make_scene: Callable[..., Scene]) -> None:
    """Four rounds of three seconds under load; the last tree settles what all of them left."""
    scene = make_scene()
    load = None
    for _ in range(ROUNDS):
        scene.steward.start()
        load = load or scene.load(rate=400, mix=MIX)
        scene.round(load)
        scene.steward.kill_tree()
    scene.steward.start()
    scene.settle()
    scene.steward.stop()
