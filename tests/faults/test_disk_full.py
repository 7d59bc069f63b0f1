"""The spool's disk is full: what was answered is not lost, what cannot be kept is said, and nothing else is sent."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from steward.adapters.postgres_local import LocalPostgres
from steward.errors import NotAccepted
from steward.exchange import BodyState
from tests.faults.load import Load
from tests.faults.plays import Kind
from tests.faults.scene import Scene
from tests.faults.small_disk import NoSmallDisk, SmallDisk, small_disk
from tests.servers.waiting import eventually

MIX = (Kind.HEAVY, Kind.PLAIN, Kind.STREAM, Kind.LARGE)
DISK_MB = 64
WITHIN_S = 60.0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """Large enough for two relaying processes and their reserves, and soon full."""
    try:
        with small_disk(tmp_path / "disk", DISK_MB) as made:
            yield made
    except NoSmallDisk:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip("a small disk is a mounted tmpfs, which takes root; run as root to see a full disk")


def refused(load: Load) -> int:
    return sum(call.code == NotAccepted.code for call in list(load.calls))


def test_the_disk_fills_up_under_load_and_is_freed(make_scene: Callable[..., Scene], disk: SmallDisk) -> None:
    """Calls are refused before anything is sent, or lose their body and say so; then all is as before."""
    scene = make_scene(SPOOL_DIR=str(disk.folder / "spool"))
    scene.steward.start()
    load = scene.load(rate=150, mix=MIX)
    scene.serve(100, load)

    def refuses() -> bool:
        disk.fill()
        return refused(load) >= 50

    eventually(refuses, WITHIN_S)
    assert scene.steward.tree() and scene.steward.relays()
    disk.free()
    scene.serve(100, load)
    account = scene.settle(excused=[BodyState.SHED])
    assert account.interrupted == 0
    assert account.bodies[BodyState.STORED] >= 200 - account.bodies[BodyState.SHED]
    scene.steward.stop()


@pytest.mark.faults
def test_the_database_is_away_until_the_disk_is_full(
    make_scene: Callable[..., Scene], disk: SmallDisk, own_postgres: LocalPostgres
) -> None:
    """What waits fills the disk by itself; bodies are shed before a call is refused; all rows come in the end."""

    scene = make_scene(own_postgres, SPOOL_DIR=str(disk.folder / "spool"))
    scene.steward.start()
    load = scene.load(rate=200, mix=[Kind.HEAVY])
    scene.serve(60, load)
    own_postgres.stop()
    eventually(lambda: refused(load) >= 20, WITHIN_S)

    own_postgres.start()
    scene.serve(60, load)
    account = scene.settle(excused=[BodyState.SHED])
    assert account.bodies[BodyState.SHED] >= 1
    scene.steward.stop()
