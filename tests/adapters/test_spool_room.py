"""The account of a spool's octets: what gives way first, for whom, and what comes back."""

from __future__ import annotations

from uuid import UUID

import pytest

from steward.adapters.spool_room import MIB, Room, SpoolLimits

A, B = UUID(int=1), UUID(int=2)


def room(**limits: object) -> Room:
    return Room(SpoolLimits(max_bytes=800, **limits))  # type: ignore[arg-type]


def told(one: Room) -> tuple[bool, bool]:
    """(takes a call, takes a body of one octet of a key that has nothing)."""
    return one.takes_calls(), one.takes_body(99, 1)


@pytest.mark.parametrize(
    ("used", "shedding", "rejecting"),
    [
        (0, (True, True), (True, True)),
        (699, (True, True), (True, True)),
        (700, (True, False), (False, True)),
        (799, (True, False), (False, True)),
        (800, (False, False), (False, False)),
    ],
)
def test_bodies_or_calls_give_way_first(used: int, shedding: tuple[bool, bool], rejecting: tuple[bool, bool]) -> None:
    for full, expected in (("shed-bodies", shedding), ("reject", rejecting)):
        one = room(full=full)
        one.add(0, 1, used)
        assert told(one) == expected


def test_a_key_has_a_quarter() -> None:
    one = room()
    assert one.takes_body(A.int, 200)
    assert not one.takes_body(A.int, 201)
    one.add(0, A.int, 150)
    one.spilling(A)(40)
    assert (one.takes_body(A.int, 10), one.takes_body(A.int, 11)) == (True, False)
    assert one.takes_body(B.int, 200)


def test_a_file_that_grows_asks_first_and_gives_back() -> None:
    one = room()
    spill = one.spilling(A)
    spill(200)
    with pytest.raises(OSError, match="full"):
        spill(1)
    assert one.used == 200
    spill(-200)
    assert (one.used, one.takes_body(A.int, 200)) == (0, True)


def test_what_went_with_a_segment_comes_back_with_it() -> None:
    one = room()
    one.add(0, A.int, 50)
    one.spilling(A)(100)
    one.spilt(0, A.int, 100)
    one.add(1, A.int, 7)
    one.add(1, B.int, 9)
    assert (one.used, sorted(one.segments())) == (166, [0, 1])
    one.gone(0)
    one.gone(0)
    assert (one.used, one.segments(), one.takes_body(A.int, 193)) == (16, [1], True)
    one.gone(1)
    assert (one.used, one.segments()) == (0, [])


def test_a_disk_that_is_full_takes_records_alone() -> None:
    one = room()
    one.disk_full = True
    assert told(one) == (False, False)
    with pytest.raises(OSError, match="full"):
        one.spilling(A)(1)


def test_the_whole_has_a_bound_of_its_own() -> None:
    """Two shares of 800; what others have beyond theirs is not ours to take."""
    one = room(whole_bytes=1600)
    one.measured(800)
    one.add(0, 1, 690)
    assert told(one) == (True, True)
    one.measured(900)
    assert told(one) == (True, False)
    one.measured(1600)
    assert told(one) == (False, False)
    alone = room()
    alone.measured(1 << 40)
    assert told(alone) == (True, True)


def test_a_segment_is_a_small_part_of_the_share() -> None:
    assert SpoolLimits().segment_ends_at == 64 * MIB
    assert SpoolLimits(max_bytes=16 * MIB).segment_ends_at == MIB
