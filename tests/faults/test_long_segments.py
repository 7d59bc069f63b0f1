"""Segments that are cut or written over: all that is whole is settled, and how much is missing is known and said."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from steward.adapters.spool_files import SEGMENT_HEADER_BYTES
from steward.exchange import BodyState, Outcome
from steward.wire.frames import Frame, Kind, decode
from tests.faults.account import Row, key_numbers, rows, take
from tests.faults.load import Load
from tests.faults.scene import Scene
from tests.servers.waiting import eventually

pytestmark = pytest.mark.faults

CALLS = 200
WITHIN_S = 60.0
Damage = Callable[[Path, Sequence[Frame]], list[Frame]]


def cut_in_the_last_record(path: Path, frames: Sequence[Frame]) -> list[Frame]:
    """The file ends in the middle of it."""
    last = frames[-1]
    os.truncate(path, (last.start + last.end) // 2)
    return [last]


def write_over(path: Path, frames: Sequence[Frame]) -> list[Frame]:
    """Chance octets within one record, and from the middle of another to the middle of the third after it."""
    ends = [at for at, frame in enumerate(frames) if frame.kind is Kind.END]
    one, first = ends[20], ends[60]
    last = first + 3
    with path.open("r+b") as file:
        for start, end in ((frames[one], frames[one]), (frames[first], frames[last])):
            begin, stop = (start.start + start.end) // 2, (end.start + end.end) // 2 + 16
            file.seek(begin)
            file.write(secrets.token_bytes(stop - begin))
    return [frames[one], *frames[first : last + 1]]


def flip_one_bit_of_each_of_ten(path: Path, frames: Sequence[Frame]) -> list[Frame]:
    """The smallest damage there is, in ten records."""
    hit = [frame for frame in frames if frame.kind is Kind.END][30:130:10]
    octets = bytearray(path.read_bytes())
    for frame in hit:
        octets[(frame.start + frame.end) // 2] ^= 1
    path.write_bytes(octets)
    return hit


@pytest.mark.parametrize("damage", [cut_in_the_last_record, write_over, flip_one_bit_of_each_of_ten])
def test_as_many_are_missing_as_were_cut(make_scene: Callable[..., Scene], damage: Damage) -> None:
    scene = make_scene(WORKERS="1")
    steward = scene.steward
    load = unsettled(scene)
    [path] = [each for each in steward.spool.glob("relays/*/*.seg") if each.stat().st_size > SEGMENT_HEADER_BYTES]
    found, _ = decode(path.read_bytes()[SEGMENT_HEADER_BYTES:], SEGMENT_HEADER_BYTES)
    frames = [each for each in found if isinstance(each, Frame)]
    damaged = damage(path, frames)
    steward.start()
    keys = key_numbers(steward.engine)
    gone = {frame.id for frame in damaged if frame.kind is Kind.END}
    whole = {frame.id for frame in frames if frame not in damaged}
    ledger: list[Row] = []

    def all_that_is_whole_is_settled() -> bool:
        nonlocal ledger
        ledger = rows(steward, keys)
        return {row.id for row in ledger} >= whole and not any(row.body_state is BodyState.PENDING for row in ledger)

    eventually(all_that_is_whole_is_settled, WITHIN_S)
    served = {call.id: call.number for call in load.calls if call.served}
    account = take(load.calls, scene.provider.seen, ledger)
    assert sorted(account.lost) == sorted(served[ident] for ident in gone if ident in served)
    assert not (account.doubled or account.unexcused or account.invented)
    assert {row.outcome for row in ledger if row.id in gone} <= {Outcome.INTERRUPTED}
    eventually(lambda: steward.metric("steward_spool_lost_records") == len(damaged), WITHIN_S)
    assert any((steward.spool / "quarantine" / "octets").iterdir())
    steward.stop()


def unsettled(scene: Scene) -> Load:
    """Calls that were served by a tree that is gone, and that nobody has settled."""
    steward = scene.steward
    steward.start()
    eventually(lambda: steward.settler() is not None, WITHIN_S)
    settler = steward.settler()
    assert settler is not None
    os.kill(settler, signal.SIGSTOP)
    load = scene.load(rate=200)
    scene.serve(CALLS, load)
    steward.kill_tree()
    load.stop()
    return load
