"""The harness itself: without a fault the account is clean, and each thing it looks for is found when it is there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from uuid import UUID

import pytest

from steward.exchange import BodyState, Outcome
from tests.faults.account import Row, take
from tests.faults.load import Call
from tests.faults.plays import Kind, answered
from tests.faults.scene import Scene


@pytest.mark.parametrize("after_response", ["inline", "spool"])
def test_nothing_is_amiss_without_a_fault(make_scene: Callable[..., Scene], after_response: str) -> None:
    scene = make_scene(AFTER_RESPONSE=after_response)
    scene.steward.start()
    load = scene.load(mix=(*[Kind.PLAIN] * 20, Kind.STREAM, Kind.LARGE, Kind.RESET, Kind.DRIP, Kind.LEAVE))
    scene.serve(300, load)
    account = scene.settle()
    assert account.served == account.bodies[BodyState.STORED] >= 300
    assert account.interrupted == 0
    scene.steward.stop()


ID = UUID(int=7)
CALL = Call(7, Kind.PLAIN, 0, 200, ID, b"".join(answered(7, Kind.PLAIN)), ended=True)
CUT = Call(8, Kind.PLAIN, 0)
ROW = Row(ID, 7, 0, Outcome.COMPLETE, BodyState.STORED, "key", "hash")
INTENT = Row(UUID(int=8), None, 0, Outcome.INTERRUPTED, BodyState.LOST, None, None)


def test_the_account_knows_each_thing_that_can_be_wrong() -> None:
    both = [CALL, CUT]
    take(both, {7: 1, 8: 1}, [ROW, INTENT]).assert_clean()
    assert take([CALL], {7: 1}, []).lost == [7]
    assert take([CALL], {7: 1}, [replace(ROW, outcome=Outcome.INTERRUPTED)]).lost == [7]
    assert take([CALL], {7: 1}, [ROW, replace(ROW, id=UUID(int=9))]).doubled == [7]
    assert take([CALL], {7: 2}, [ROW]).doubled == [7]
    assert take(both, {7: 1, 8: 1}, [ROW]).unseen == [8]
    assert take([CALL], {7: 1}, [ROW, INTENT]).invented
    assert take([CALL], {7: 1}, [replace(ROW, body_state=BodyState.PENDING)]).pending == [7]
    shed = replace(ROW, body_state=BodyState.SHED)
    assert take([CALL], {7: 1}, [shed]).unexcused == [7]
    take([CALL], {7: 1}, [shed], [BodyState.SHED]).assert_clean()
    refused = Call(9, Kind.PLAIN, 0, 503, None, b"", ended=True, code="not_accepted")
    assert take([CALL, refused], {7: 1, 9: 1}, [ROW]).refused_but_sent == [9]
    assert not CALL.altered and not CUT.altered
    assert Call(7, Kind.PLAIN, 0, 200, ID, b"{}", ended=True).altered
    assert Call(7, Kind.PLAIN, 0, 200, ID, b"{}").altered
