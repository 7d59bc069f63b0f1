"""All relays together: found, read in turn, and cleared away."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from steward.adapters.spool_quarantine import Quarantine
from steward.adapters.spool_relays import Relays
from tests.spools import KEYRING, folder_of, relay_in, relays_left, request_id


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    path = tmp_path / "spool"
    with relay_in(path) as first:
        first.calls(0)
    return path


@pytest.fixture
def relays(spool: Path) -> Iterator[Relays]:
    quarantine = Quarantine(spool, KEYRING)
    made = Relays(folder_of(spool / "relays"), KEYRING, quarantine)
    yield made
    made.close()
    made.close()
    quarantine.close()


def known(relays: Relays) -> int:
    return sum(segment.index.unsettled() for _, segment in relays.segments())


def settle(relays: Relays) -> None:
    for _, segment in relays.segments():
        for place in range(len(segment.index)):
            segment.index.settle(place)


def test_each_gets_its_turn_however_little_is_read(spool: Path, relays: Relays) -> None:
    with ExitStack() as living:
        for number in range(1, 5):
            living.enter_context(relay_in(spool)).calls(number)
        for turn in range(1, 6):
            relays.look(1)
            assert known(relays) == turn


def test_what_is_settled_is_cleared_away_and_what_it_lost_is_remembered(spool: Path, relays: Relays) -> None:
    [segment] = spool.glob("relays/*/*.seg")
    os.truncate(segment, segment.stat().st_size - 1)
    relays.look(1 << 20)
    settle(relays)
    relays.look(1 << 20)
    assert relays_left(spool) == []
    assert list(relays.segments()) == []
    assert relays.lost() == 1


def test_what_was_left_unfinished_goes_and_what_is_begun_stays(spool: Path, relays: Relays) -> None:
    folder = spool / "relays"
    for name in (f".{request_id(1)}", f".{request_id(2)}", str(request_id(3))):
        (folder / name).mkdir(0o700)
    (folder / f".{request_id(1)}" / "owner").write_bytes(b"")
    (folder / ".notes").write_bytes(b"a person's")
    before = set(relays_left(spool))
    relays.clear_unfinished()
    # One without `owner` is being made at this moment, perhaps.
    assert before - set(relays_left(spool)) == {f".{request_id(1)}", str(request_id(3))}


def test_a_name_that_is_no_folder_is_passed_over_once(spool: Path, relays: Relays) -> None:
    (spool / "relays" / str(request_id(1))).write_bytes(b"")
    (spool / "relays" / str(request_id(2))).symlink_to("/")
    for _ in range(2):
        relays.look(1 << 20)
    assert known(relays) == 1
