"""One segment, read while it grows, by any pieces."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from steward.adapters.spool_files import SEGMENT_HEADER_BYTES, Folder
from steward.adapters.spool_scan import PAGE_BYTES, READ_BYTES, Condition, Segment
from steward.errors import SealBroken
from steward.wire.frames import Frame, Kind
from tests.spools import KEYRING, OTHER_KEYRING, WrittenRelay, folder_of, relay_in, request_id


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[WrittenRelay]:
    with relay_in(tmp_path / "spool") as made:
        yield made


@pytest.fixture
def copy(tmp_path: Path, relay: WrittenRelay) -> Iterator[Folder]:
    """A folder of the same name, whose segment a test writes itself."""
    path = tmp_path / relay.path.name
    path.mkdir(0o700)
    folder = folder_of(path)
    yield folder
    folder.close()


def look(segment: Segment, ended: bool = False) -> list[Frame]:
    found = segment.look(KEYRING, ended)
    while found.again:
        more = segment.look(KEYRING, ended)
        found.frames += more.frames
        found.again = more.again
    return found.frames


@pytest.mark.parametrize("step", [1, 7, 64, 10_000])
def test_whatever_pieces_it_grows_by_each_record_is_found_once(
    tmp_path: Path, relay: WrittenRelay, copy: Folder, step: int
) -> None:
    relay.calls(0, 1, 2)
    whole = relay.segment().read_bytes()
    path = tmp_path / relay.path.name / "00000000.seg"
    path.write_bytes(b"")
    segment = Segment(copy, 0)
    found: list[Frame] = []
    for at in range(0, len(whole), step):
        with path.open("ab") as file:
            file.write(whole[at : at + step])
        found += look(segment)
        assert not segment.over
    assert [frame.number for frame in found] == list(range(6))
    assert look(segment, ended=True) == []
    assert segment.over and segment.condition is Condition.OPEN and segment.lost_records() == 0
    segment.rest()


def test_the_header_alone_decides_who_opens_it(relay: WrittenRelay) -> None:
    relay.calls(0)
    ours, theirs = Segment(relay.folder, 0), Segment(relay.folder, 0)
    frames = look(ours)
    assert ours.payload(frames[0])
    theirs.look(OTHER_KEYRING, True)
    assert (ours.condition, theirs.condition) == (Condition.OPEN, Condition.SHUT)
    with pytest.raises(SealBroken):
        theirs.payload(frames[0])
    assert theirs.over and not theirs.settled()
    assert theirs.unread_bytes() == theirs.size_bytes == relay.segment().stat().st_size
    ours.rest()
    theirs.rest()


@pytest.mark.parametrize("at", range(SEGMENT_HEADER_BYTES))
def test_a_flipped_header_never_opens_and_is_never_taken_for_whole(
    tmp_path: Path, relay: WrittenRelay, copy: Folder, at: int
) -> None:
    relay.calls(0)
    octets = bytearray(relay.segment().read_bytes())
    octets[at] ^= 0x40
    (tmp_path / relay.path.name / "00000000.seg").write_bytes(octets)
    segment = Segment(copy, 0)
    segment.look(KEYRING, True)
    # A version or a key id that is not ours may be another's: it is left alone. All else is damage.
    another = at in {8, *range(10, 18)}
    assert segment.condition is (Condition.SHUT if another else Condition.DAMAGED)
    segment.rest()


def test_a_header_that_is_not_all_there_waits_and_is_nothing_at_the_end(tmp_path: Path, copy: Folder) -> None:
    path = tmp_path / copy.name / "00000000.seg"
    path.write_bytes(b"")
    segment = Segment(copy, 0)
    assert look(segment) == [] and segment.condition is Condition.NEW
    assert look(segment, ended=True) == [] and segment.settled()
    path.write_bytes(b"MDSPOOL\n")
    segment = Segment(copy, 0)
    assert look(segment) == [] and not segment.over
    found = segment.look(KEYRING, True)
    assert (segment.condition, len(found.gaps)) == (Condition.DAMAGED, 1)
    segment.rest()


def test_a_record_is_read_again_only_as_it_was_found(relay: WrittenRelay) -> None:
    relay.calls(0)
    segment = Segment(relay.folder, 0)
    intended, ended = look(segment)
    assert segment.frame(ended.start, ended.end - ended.start) is not None
    assert segment.size_at(intended.start) == intended.end - intended.start
    assert segment.size_at(intended.start + 1) is None
    assert segment.size_at(1 << 30) is None
    assert segment.frame(intended.start, intended.end - intended.start - 1) is None
    assert segment.frame(intended.start, ended.end - intended.start) is None
    os.truncate(relay.segment(), ended.end - 1)
    assert segment.frame(ended.start, ended.end - ended.start) is None
    segment.rest()


def test_octets_come_in_pieces(relay: WrittenRelay) -> None:
    with relay.segment().open("ab") as file:
        file.write(bytes(2 * READ_BYTES + 5))
    segment = Segment(relay.folder, 0)
    pieces = [len(piece) for piece in segment.octets(SEGMENT_HEADER_BYTES, SEGMENT_HEADER_BYTES + 2 * READ_BYTES + 99)]
    assert pieces == [READ_BYTES, READ_BYTES, 5]
    segment.rest()


def test_a_segment_is_settled_once_nothing_of_it_is_needed(relay: WrittenRelay) -> None:
    relay.append(Kind.END, request_id(0), b"plain")
    segment = Segment(relay.folder, 0)
    [frame] = look(segment, ended=True)
    place = segment.index.add(frame.start, frame.end - frame.start, 0)
    assert not segment.settled()
    segment.index.settle(place)
    segment.open_intents = 1
    assert not segment.settled()
    segment.open_intents = 0
    assert segment.settled()
    segment.remove()
    assert not relay.segment().exists()


@pytest.mark.parametrize(("ends_at", "lost"), [(3 * PAGE_BYTES, 0), (3 * PAGE_BYTES - 1, 1), (3 * PAGE_BYTES + 1, 1)])
def test_a_write_that_a_kill_stopped_between_two_pages_was_never_accepted(
    relay: WrittenRelay, ends_at: int, lost: int
) -> None:
    relay.end(0)
    relay.append(Kind.END, request_id(1), bytes(4 * PAGE_BYTES))
    os.truncate(relay.segment(), ends_at)
    segment = Segment(relay.folder, 0)
    found = segment.look(KEYRING, True)
    assert (len(found.frames), len(found.gaps), segment.lost_records()) == (1, 1, lost)
    segment.rest()


def test_what_is_cut_and_written_over_is_read_again_from_the_start(relay: WrittenRelay) -> None:
    relay.calls(0, 1)
    segment = Segment(relay.folder, 0)
    frames = look(segment)
    os.truncate(relay.segment(), frames[2].start + 7)
    relay.calls(2, 3, 4)
    assert [frame.id for frame in look(segment)] == [request_id(number) for number in (2, 2, 3, 3, 4, 4)]
    segment.rest()
