"""Segments that were cut, overwritten, swapped, repeated or are not ours: each whole record settles, and no other."""

from __future__ import annotations

import os
import random
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from steward.adapters.spool_files import SEGMENT_HEADER_BYTES, segment_name
from steward.adapters.spool_progress import Mark, entry
from steward.codec import encode_exchange
from steward.wire.frames import HEAD_BYTES, MAGIC, Frame, Kind
from tests.said import Said, listening
from tests.spools import (
    KEYRING,
    OTHER_KEYRING,
    Settlement,
    WrittenRelay,
    call,
    quarantined_octets,
    reader_of,
    relay_in,
    relays_left,
    request_id,
    settle,
    settle_all,
)

CALLS = range(6)


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def relay(spool: Path) -> Iterator[WrittenRelay]:
    """A relay whose six calls overlap: 0 begins, 1 begins, 0 ends, 2 begins, 1 ends, ..."""
    with relay_in(spool) as made:
        made.intend(0)
        for number in CALLS[1:]:
            made.intend(number)
            made.end(number - 1)
        made.end(CALLS[-1])
        yield made


def touched(frames: list[Frame], start: int, end: int) -> list[Frame]:
    return [frame for frame in frames if frame.start < end and frame.end > start]


def expect(found: Settlement, frames: list[Frame], lost: list[Frame]) -> None:
    """Every whole end settles; a call whose end alone is gone is an intent; one of which both are gone is no more."""
    gone = {(frame.kind, frame.id) for frame in lost}
    ends = [number for number in CALLS if (Kind.END, request_id(number)) not in gone]
    intents = [number for number in CALLS if number not in ends and (Kind.INTENT, request_id(number)) not in gone]
    assert sorted(found.ends) == ends
    assert sorted(found.intents) == intents
    assert found.depth.lost == len(gone)
    assert found.depth.items == 0


@pytest.fixture
def said() -> Iterator[Said]:
    with listening() as heard:
        yield heard


SPOTS = 97
"""Places tried in each segment, spread over it."""


@pytest.mark.parametrize("part", range(3))
def test_a_flipped_octet_costs_its_own_record_alone(
    spool: Path, relay: WrittenRelay, tmp_path: Path, part: int
) -> None:
    frames = relay.frames()
    relay.die()
    whole = relay.segment().read_bytes()
    places = list(range(SEGMENT_HEADER_BYTES, len(whole), max(1, len(whole) // SPOTS)))
    for place in places[part::3]:
        octets = bytearray(whole)
        octets[place] ^= 1 << place % 8
        found, aside = settled_copy(spool, tmp_path, relay, bytes(octets))
        hit = touched(frames, place, place + 1)
        expect(found, frames, hit)
        assert aside == bytes(octets[hit[0].start : hit[0].end])


def settled_copy(spool: Path, tmp_path: Path, relay: WrittenRelay, octets: bytes) -> tuple[Settlement, bytes]:
    """What a settler finds when the segment holds these octets; and what it set aside."""
    copy = tmp_path / "copy"
    shutil.copytree(spool, copy, symlinks=True)
    (copy / "relays" / relay.path.name / segment_name(0)).write_bytes(octets)
    try:
        found = settle_all(copy)
        assert relays_left(copy) == []
        return found, quarantined_octets(copy)
    finally:
        shutil.rmtree(copy)


@pytest.mark.parametrize("part", range(3))
def test_a_truncated_segment_costs_what_was_cut_and_tells_of_the_record_that_was_halved(
    spool: Path, relay: WrittenRelay, tmp_path: Path, part: int
) -> None:
    frames = relay.frames()
    relay.die()
    whole = relay.segment().read_bytes()
    places = list(range(SEGMENT_HEADER_BYTES, len(whole), max(1, len(whole) // SPOTS)))
    for place in places[part::3]:
        found, aside = settled_copy(spool, tmp_path, relay, whole[:place])
        left = {frame.id for frame in frames if frame.end <= place and frame.kind is Kind.END}
        assert {request_id(number) for number in found.ends} == left
        begun = {frame.id for frame in frames if frame.end <= place and frame.kind is Kind.INTENT} - left
        assert {request_id(number) for number in found.intents} == begun
        halved = [frame for frame in frames if frame.start < place < frame.end]
        assert found.depth.lost == len(halved)
        assert aside == (whole[halved[0].start : place] if halved else b"")


@pytest.mark.parametrize("seed", range(20))
def test_what_is_overwritten_is_counted_record_by_record(
    spool: Path, relay: WrittenRelay, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    frames = relay.frames()
    relay.die()
    whole = relay.segment().read_bytes()
    start = chance.randrange(SEGMENT_HEADER_BYTES, len(whole) - 1)
    end = chance.randrange(start + 1, min(frames[-1].start, start + 900) if start < frames[-1].start else len(whole))
    octets = whole[:start] + chance.randbytes(end - start) + whole[end:]
    found, aside = settled_copy(spool, tmp_path, relay, octets)
    hit = touched(frames, start, end)
    expect(found, frames, hit)
    assert aside == octets[hit[0].start : hit[-1].end]


@pytest.mark.parametrize("seed", range(5))
def test_foreign_octets_between_records_cost_none(spool: Path, relay: WrittenRelay, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    frames = relay.frames()
    relay.die()
    whole = relay.segment().read_bytes()
    junk = [chance.randbytes(chance.randrange(1, 3000)), MAGIC * 20, bytes(500), MAGIC[:2], whole[:HEAD_BYTES]]
    at = chance.choice(frames).end
    found, aside = settled_copy(spool, tmp_path, relay, whole[:at] + junk[seed] + whole[at:])
    expect(found, frames, [])
    assert aside == junk[seed]


def test_ten_mebibytes_of_chance_behind_the_records_cost_none(spool: Path, relay: WrittenRelay) -> None:
    frames = relay.frames()
    relay.die()
    with relay.segment().open("ab") as file:
        file.write(random.Random(1).randbytes(10 << 20))
    found = settle_all(spool)
    expect(found, frames, [])
    assert len(quarantined_octets(spool)) == 10 << 20
    assert relays_left(spool) == []


def test_ten_mebibytes_of_chance_for_a_segment_are_set_aside_whole(spool: Path, relay: WrittenRelay) -> None:
    octets = random.Random(2).randbytes(10 << 20)
    relay.next_segment()
    relay.calls(7)
    relay.die()
    relay.segment(0).write_bytes(octets)
    found = settle_all(spool)
    assert (found.ends, found.intents) == ([7], [])
    assert quarantined_octets(spool) == octets
    assert relays_left(spool) == []


@pytest.mark.parametrize(("one", "other"), [(0, 1), (2, 9), (3, 4), (8, 11)])
def test_swapped_records_settle_as_themselves(
    spool: Path, relay: WrittenRelay, tmp_path: Path, one: int, other: int
) -> None:
    frames = relay.frames()
    relay.die()
    whole = relay.segment().read_bytes()
    parts = [whole[frame.start : frame.end] for frame in frames]
    parts[one], parts[other] = parts[other], parts[one]
    found, aside = settled_copy(spool, tmp_path, relay, whole[: frames[0].start] + b"".join(parts))
    assert sorted(found.ends) == list(CALLS)
    assert found.depth.lost == 0
    assert aside == b""


def test_repeated_records_settle_once(spool: Path, relay: WrittenRelay, tmp_path: Path) -> None:
    frames = relay.frames()
    relay.die()
    whole = relay.segment().read_bytes()
    repeated = whole + b"".join(whole[frame.start : frame.end] for frame in frames for _ in range(3))
    found, aside = settled_copy(spool, tmp_path, relay, repeated)
    expect(found, frames, [])
    assert aside == b""


def forged(frame: Frame, whole: bytes, change: Callable[[bytearray], None]) -> bytes:
    """The same frame with another head, and the checksum that belongs to it."""
    octets = bytearray(whole[frame.start : frame.end - 4])
    change(octets)
    return bytes(octets) + zlib.crc32(octets).to_bytes(4, "big")


def _another_id(octets: bytearray) -> None:
    octets[13:29] = request_id(99).bytes


def _another_number(octets: bytearray) -> None:
    octets[5:9] = (70_000).to_bytes(4, "big")


def _another_payload(octets: bytearray) -> None:
    octets[-1] ^= 1


@pytest.mark.parametrize("change", [_another_id, _another_number, _another_payload])
def test_a_record_under_another_id_or_number_is_refused_and_its_intent_stands_in(
    spool: Path, relay: WrittenRelay, tmp_path: Path, change: Callable[[bytearray], None]
) -> None:
    frames = relay.frames()
    relay.die()
    whole = relay.segment().read_bytes()
    chosen = next(frame for frame in frames if frame.kind is Kind.END and frame.id == request_id(2))
    false = forged(chosen, whole, change)
    found, aside = settled_copy(spool, tmp_path, relay, whole[: chosen.start] + false + whole[chosen.end :])
    assert sorted(found.ends) == [0, 1, 3, 4, 5]
    assert found.intents == [2]
    assert 99 not in found.all
    assert false in aside
    assert found.depth.lost >= 1


def test_a_record_of_another_segment_or_relay_is_refused(spool: Path, relay: WrittenRelay, tmp_path: Path) -> None:
    frames = relay.frames()
    stranger = tmp_path / "stranger"
    with relay_in(stranger) as other:
        other.calls(*range(20, 40))
        theirs = other.segment().read_bytes()
        foreign = next(frame for frame in other.frames() if frame.number == frames[-1].number + 2)
    with relay.segment().open("ab") as file:
        file.write(theirs[foreign.start : foreign.end])
    relay.die()
    found = settle_all(spool)
    assert found.all == list(CALLS)
    assert found.depth.lost == 1
    assert quarantined_octets(spool) == theirs[foreign.start : foreign.end]


def test_a_segment_moved_to_another_name_or_relay_stays_closed(spool: Path, relay: WrittenRelay) -> None:
    relay.die()
    with relay_in(spool) as other:
        other.calls(30)
    os.replace(relay.segment(), other.segment())
    found = settle_all(spool)
    assert found.all == []
    assert found.depth.lost == 2 * len(CALLS)
    assert len(quarantined_octets(spool)) > 1000


def test_a_damaged_header_loses_what_it_sealed_and_keeps_its_octets(spool: Path, relay: WrittenRelay) -> None:
    frames = relay.frames()
    relay.next_segment()
    relay.calls(7)
    relay.die()
    octets = bytearray(relay.segment(0).read_bytes())
    octets[40] ^= 1
    relay.segment(0).write_bytes(octets)
    found = settle_all(spool)
    assert (found.ends, found.intents) == ([7], [])
    assert found.depth.lost == len(frames)
    assert quarantined_octets(spool) == octets
    assert relays_left(spool) == []


def test_under_another_key_nothing_is_touched_and_all_settles_once_it_is_back(
    spool: Path, relay: WrittenRelay, said: Said
) -> None:
    relay.die()
    before = relay.segment().read_bytes()
    found = settle_all(spool, OTHER_KEYRING)
    assert found.all == []
    assert found.depth.size_bytes == len(before)
    assert (found.depth.lost, quarantined_octets(spool)) == (0, b"")
    assert said.events().count("spool_segment_shut") == 1
    assert relay.segment().read_bytes() == before
    assert settle_all(spool).ends == list(CALLS)


def test_a_living_relay_that_is_cut_loses_the_cut_and_settles_all_that_comes_after(
    spool: Path, relay: WrittenRelay
) -> None:
    frames = relay.frames()
    with reader_of(spool) as reader:
        assert reader.depth().items == len(CALLS)
        cut = frames[7].start + 10
        os.truncate(relay.segment(), cut)
        relay.calls(10, 11)
        found = settle(reader)
        assert found.ends == [0, 1, 2, 10, 11]
        # Of the calls whose ends were cut, the intents that are whole stand in.
        whole = {frame.id for frame in frames[:7] if frame.kind is Kind.INTENT}
        assert sorted(found.intents) == [number for number in (3, 4, 5) if request_id(number) in whole]
        relay.calls(12)
        relay.die()
        assert settle(reader).ends == [12]
    assert relays_left(spool) == []


def test_half_a_record_of_a_living_relay_waits_for_its_other_half(spool: Path, relay: WrittenRelay) -> None:
    last = relay.frames()[-1]
    whole = relay.segment().read_bytes()
    os.truncate(relay.segment(), last.start + 5)
    with reader_of(spool) as reader:
        assert settle(reader).ends == [0, 1, 2, 3, 4]
        with relay.segment().open("ab") as file:
            file.write(whole[last.start + 5 : last.end - 1])
        assert settle(reader).all == []
        with relay.segment().open("ab") as file:
            file.write(whole[last.end - 1 :])
        found = settle(reader)
        assert (found.ends, found.depth.lost) == ([5], 0)
        assert quarantined_octets(spool) == b""


def test_a_number_that_a_full_disk_used_up_is_not_a_lost_record(spool: Path) -> None:
    with relay_in(spool) as relay:
        relay.calls(0)
        relay._writer._frames += 3
        relay.calls(1)
    found = settle_all(spool)
    assert (found.ends, found.depth.lost) == ([0, 1], 0)


def test_bodies_beside_that_are_gone_or_cut_are_said_to_be_shed(spool: Path) -> None:
    with relay_in(spool) as relay:
        for number in range(4):
            relay.intend(number)
            relay.end(number, 300_000, beside=True)
        (relay.path / f"{request_id(1)}.q").unlink()
        os.truncate(relay.path / f"{request_id(2)}.r", 1000)
        (relay.path / f"{request_id(3)}.r").unlink()
        (relay.path / f"{request_id(3)}.r").symlink_to("/etc/hostname")
    found = settle_all(spool)
    assert found.ends == [0, 1, 2, 3]
    assert found.shed == [1, 2, 3]
    assert found.depth.lost == 3
    assert relays_left(spool) == []


def test_a_record_that_opens_and_is_no_call_is_set_aside_alone(spool: Path) -> None:
    with relay_in(spool) as relay:
        relay.intend(0)
        relay.append(Kind.END, request_id(0), b"\x63later version")
        relay.append(Kind.INTENT, request_id(1), b"")
        relay.calls(2)
    found = settle_all(spool)
    assert found.ends == [2]
    assert found.depth.set_aside == 2


def test_foreign_files_links_and_pipes_are_left_alone(spool: Path, relay: WrittenRelay, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_bytes(b"precious")
    (relay.path / segment_name(1)).symlink_to(elsewhere / "precious")
    os.mkfifo(relay.path / segment_name(2))
    (relay.path / segment_name(3)).mkdir()
    (relay.path / "notes.txt").write_text("foreign")
    (spool / "relays" / "not-a-relay").mkdir()
    (spool / "relays" / str(request_id(50))).symlink_to(elsewhere)
    (spool / "relays" / str(request_id(51))).write_bytes(b"a file")
    relay.die()
    with reader_of(spool) as reader:
        found = settle(reader)
        assert found.ends == list(CALLS)
        assert settle(reader).all == []
    assert (relay.path / "notes.txt").exists()
    assert [file.name for file in elsewhere.iterdir()] == ["precious"]
    assert (elsewhere / "precious").read_bytes() == b"precious"
    assert settle_all(spool).all == []


def test_a_relay_without_its_owner_file_is_taken_for_living(spool: Path, relay: WrittenRelay) -> None:
    relay.intend(9)
    (relay.path / "owner").unlink()
    relay.die()
    found = settle_all(spool)
    assert (found.ends, found.intents) == (list(CALLS), [])
    assert relays_left(spool) == [relay.path.name]


def test_a_segment_that_vanishes_is_counted_and_holds_nothing_up(spool: Path, relay: WrittenRelay) -> None:
    relay.next_segment()
    relay.calls(10)
    with reader_of(spool) as reader:
        assert reader.depth().items == len(CALLS) + 1
        relay.segment(0).unlink()
        found = settle(reader)
        assert (found.ends, found.depth.items) == ([10], 0)
        assert found.depth.lost == len(CALLS)


def crash_after_marks(relay: WrittenRelay) -> None:
    """Every mark is on disk and nothing was taken away yet."""
    marks = b"".join(entry(frame.start, Mark.DONE) for frame in relay.frames() if frame.kind is Kind.END)
    (relay.path / "00000000.done").write_bytes(marks)


def crash_after_the_segment(relay: WrittenRelay) -> None:
    """The segment was taken away, its progress was not."""
    crash_after_marks(relay)
    relay.segment().unlink()


def crash_after_the_owner(relay: WrittenRelay) -> None:
    """The folder itself is all that is left."""
    relay.segment().unlink()
    (relay.path / "owner").unlink()


@pytest.mark.parametrize("crash", [crash_after_marks, crash_after_the_segment, crash_after_the_owner])
def test_a_settler_that_died_between_two_steps_is_followed_by_one_that_settles_nothing_twice(
    spool: Path, relay: WrittenRelay, crash: Callable[[WrittenRelay], None]
) -> None:
    relay.die()
    crash(relay)
    found = settle_all(spool)
    assert found.all == []
    assert (found.depth.lost, found.depth.items) == (0, 0)
    assert relays_left(spool) == []


def test_bodies_of_a_settled_call_that_were_not_taken_away_go_at_the_next_start(spool: Path) -> None:
    with relay_in(spool) as relay:
        relay.end(0, 300_000, beside=True)
        relay.end(1, 300_000, beside=True)
        (relay.path / "00000000.done").write_bytes(entry(relay.frames()[0].start, Mark.DONE))
        with reader_of(spool) as reader:
            assert reader.depth().items == 1
            left = sorted(file.name for file in relay.path.iterdir() if file.suffix in {".q", ".r"})
            assert left == [f"{request_id(1)}.q", f"{request_id(1)}.r"]


@pytest.mark.parametrize("damage", [b"", b"x", b"x" * 15, random.Random(3).randbytes(1000)])
def test_a_damaged_progress_file_settles_again_and_loses_nothing(
    spool: Path, relay: WrittenRelay, damage: bytes
) -> None:
    relay.die()
    (relay.path / "00000000.done").write_bytes(damage)
    assert settle_all(spool).ends == list(CALLS)


def test_a_progress_file_that_is_a_link_is_taken_away_and_not_followed(
    spool: Path, relay: WrittenRelay, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"precious")
    (relay.path / "00000000.done").symlink_to(elsewhere)
    relay.die()
    assert settle_all(spool).ends == list(CALLS)
    assert elsewhere.read_bytes() == b"precious"


def test_texts_of_every_kind_come_back(spool: Path) -> None:
    with relay_in(spool) as relay:
        one = call(0)
        one.tags = {"a\0": "\ud800", "\udfff": "é" * 300}
        one.claude_session_name = "\0\ud83d"
        one.method = "\udcff"
        relay.append(Kind.END, one.id, encode_exchange(one, b"q" * 40, b"r" * 40))
    assert settle_all(spool).ends == [0]


def test_no_word_of_a_call_is_said_of_what_is_refused(spool: Path, relay: WrittenRelay, said: Said) -> None:
    relay.append(Kind.END, request_id(40), b"\x63CANARY")
    relay.die()
    octets = bytearray(relay.segment().read_bytes())
    octets[relay_middle(octets)] ^= 1
    relay.segment().write_bytes(octets)
    settle_all(spool)
    assert "spool_octets_set_aside" in said.events()
    assert "CANARY" not in said.text
    assert KEYRING.key_id.hex() not in said.text


def relay_middle(octets: bytes | bytearray) -> int:
    return octets.rfind(MAGIC, 0, len(octets) // 2) + HEAD_BYTES + 3
