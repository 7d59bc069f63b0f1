"""What the Steward depends on is away for a while: calls go on, and in the end nothing is missing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from steward.adapters.postgres_local import LocalPostgres
from steward.exchange import BodyState
from tests.faults.account import assert_nothing_leaked, key_numbers, rows
from tests.faults.bucket import Bucket
from tests.faults.gates import BROKEN
from tests.faults.plays import Kind
from tests.faults.scene import Scene
from tests.servers.waiting import eventually

KEPT = (*[Kind.PLAIN] * 8, Kind.STREAM, Kind.LARGE)
"""Calls that keep their connection: the process at its other end knows their key."""
MIX = (*[Kind.PLAIN] * 8, Kind.STREAM, Kind.LEAVE, Kind.RESET, Kind.LARGE)


@pytest.mark.faults
def test_postgres_is_stopped_and_started(make_scene: Callable[..., Scene], own_postgres: LocalPostgres) -> None:
    """Known keys are served throughout; every row and body is there afterwards."""
    scene = make_scene(own_postgres)
    scene.steward.start()
    load = scene.load(rate=150, mix=KEPT)
    scene.serve(150, load)
    own_postgres.stop()
    scene.serve(300, load)
    assert_nothing_leaked(scene.steward)
    own_postgres.start()
    scene.serve(100, load)
    account = scene.settle()
    assert account.interrupted == 0
    assert not [call for call in load.calls if call.status == 503]
    scene.steward.stop()


def test_the_bucket_answers_500(make_scene: Callable[..., Scene], bucket: Bucket) -> None:
    """Rows come at once and say `pending`; the bodies come once the bucket takes them."""
    scene = make_scene(bucket=bucket)
    keys = key_numbers(scene.steward.engine)
    scene.steward.start()
    load = scene.load(rate=60, mix=MIX)
    scene.serve(60, load)
    bucket.gate.instead = BROKEN
    scene.serve(120, load)

    def noted_while_the_bucket_is_away() -> bool:
        waiting = [row for row in rows(scene.steward, keys) if row.body_state is BodyState.PENDING]
        return len(waiting) >= 30

    eventually(noted_while_the_bucket_is_away, 60)
    assert bucket.gate.refused
    assert_nothing_leaked(scene.steward)
    bucket.gate.instead = None
    scene.serve(30, load)
    assert scene.settle().interrupted == 0
    scene.steward.stop()
