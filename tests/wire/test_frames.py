"""Frames: whole ones are found wherever they stand, whatever stands between them; nothing else is."""

from __future__ import annotations

from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steward.wire.frames import (
    FRAME_BYTES,
    HEAD,
    HEAD_BYTES,
    MAGIC,
    MAX_PAYLOAD_BYTES,
    Frame,
    Gap,
    Kind,
    decode,
    encode,
)

ID = bytes(range(16))
unhurried = settings(deadline=None, max_examples=200)


def frames(*payloads: bytes) -> list[bytes]:
    return [encode(1 + number % 2, number, ID, payload) for number, payload in enumerate(payloads)]


def told(parts: list[Frame | Gap]) -> list[object]:
    """Payload of each frame; (start, end) of each gap."""
    return [part.payload if isinstance(part, Frame) else (part.start, part.end) for part in parts]


def test_the_format_is_what_it_was() -> None:
    """A format is for ever: what a release wrote, every later one reads."""
    octets = bytes.fromhex("f54d461a 02 00000007 00000005 000102030405060708090a0b0c0d0e0f 68656c6c6f beb90268")
    written = encode(Kind.END, 7, ID, b"hello")
    assert written == octets
    (frame,), used = decode(written)
    assert isinstance(frame, Frame)
    assert (frame.kind, frame.number, frame.id, frame.payload) == (Kind.END, 7, UUID(bytes=ID), b"hello")
    assert (frame.start, frame.end, used) == (0, len(written), len(written))
    assert len(written) == FRAME_BYTES + 5


def test_nothing_is_nothing() -> None:
    assert decode(b"") == decode(b"", ended=True) == ([], 0)


def test_frames_are_found_in_order_with_their_places() -> None:
    first, second = frames(b"one", b"")
    parts, used = decode(first + second, 100)
    assert told(parts) == [b"one", b""]
    assert [(part.start, part.end) for part in parts] == [(100, 136), (136, 136 + FRAME_BYTES)]
    assert used == len(first + second)


@pytest.mark.parametrize("cut", range(1, FRAME_BYTES + 3))
def test_half_a_frame_waits_until_nothing_more_comes(cut: int) -> None:
    first, second = frames(b"one", b"two")
    half = second[:cut]
    parts, used = decode(first + half)
    assert (told(parts), used) == ([b"one"], len(first))
    parts, used = decode(first + half, ended=True)
    assert (told(parts), used) == ([b"one", (len(first), len(first) + cut)], len(first) + cut)
    assert told(decode(first + second)[0]) == [b"one", b"two"]


def test_byte_by_byte_it_is_the_same() -> None:
    data = b"xx" + b"".join(frames(b"a", b"b" * 300, MAGIC, b"")) + b"junk" + frames(b"last")[0]
    held, at = b"", 0
    found: list[object] = []
    for octet in data:
        held += bytes((octet,))
        parts, used = decode(held, at)
        found += [part.payload for part in parts if isinstance(part, Frame)]
        held, at = held[used:], at + used
    assert found == [b"a", b"b" * 300, MAGIC, b"", b"last"]
    assert held == b""


@pytest.mark.parametrize("junk", [b"\0", b"junk" * 10, MAGIC, MAGIC * 3, MAGIC[:3], MAGIC + b"\x01" + b"\xff" * 40])
def test_reading_resumes_behind_what_is_no_frame(junk: bytes) -> None:
    first, second = frames(b"one", b"two")
    parts, used = decode(first + junk + second, ended=True)
    assert told(parts) == [b"one", (len(first), len(first + junk)), b"two"]
    assert used == len(first + junk + second)
    assert told(decode(first + junk + second)[0]) == told(parts)


@pytest.mark.parametrize("at", range(FRAME_BYTES + 3))
def test_a_changed_octet_costs_one_frame(at: int) -> None:
    first, second, third = frames(b"one", b"two", b"three")
    broken = bytearray(second)
    broken[at] ^= 0x41
    parts, _ = decode(first + bytes(broken) + third)
    assert told(parts) == [b"one", (len(first), len(first + second)), b"three"]


def test_a_length_beyond_every_writer_is_damage_at_once() -> None:
    head = HEAD.pack(MAGIC, 1, 0, MAX_PAYLOAD_BYTES + 1, ID)
    _, used = decode(head + b"x" * 10)
    assert used > 0
    head = HEAD.pack(MAGIC, 1, 0, MAX_PAYLOAD_BYTES, ID)
    assert decode(head + b"x" * 10) == ([], 0)


def test_a_wrong_length_does_not_hide_the_frames_behind_it() -> None:
    """While the writer lives more may come: what is whole behind the damage is found all the same."""
    damaged = HEAD.pack(MAGIC, 1, 0, 100_000, ID)
    (second,) = frames(b"two")
    parts, used = decode(damaged + second)
    assert told(parts) == [(0, HEAD_BYTES), b"two"]
    assert used == len(damaged + second)


def test_foreign_kinds_are_no_frames() -> None:
    parts, _ = decode(encode(9, 0, ID, b"later release") + frames(b"one")[0])
    assert told(parts)[1:] == [b"one"]


@unhurried
@given(st.binary(max_size=400))
def test_any_octets_are_read_to_their_end(data: bytes) -> None:
    parts, used = decode(data, ended=True)
    assert used == len(data)
    assert [part.start for part in parts[1:]] == [part.end for part in parts[:-1]]
    assert not data or (parts[0].start, parts[-1].end) == (0, len(data))
    waiting, used = decode(data)
    assert used <= len(data)
    assert all(before.end == after.start for before, after in pairwise(waiting))


@unhurried
@given(
    st.lists(st.one_of(st.binary(max_size=60), st.just(MAGIC), st.binary(max_size=20).map(lambda b: MAGIC + b))),
    st.lists(st.binary(max_size=50), min_size=1, max_size=5),
    st.lists(st.integers(0, 500), max_size=6),
)
def test_however_it_is_cut_the_same_frames_are_found(junk: list[bytes], payloads: list[bytes], cuts: list[int]) -> None:
    made = frames(*payloads)
    data = b"".join(each for pair in zip(junk + [b""] * len(made), made, strict=False) for each in pair)
    edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    held, at, found = b"", 0, []
    for start, end in pairwise(edges):
        held += data[start:end]
        parts, used = decode(held, at, ended=end == len(data))
        found += [part.payload for part in parts if isinstance(part, Frame)]
        held, at = held[used:], at + used
    assert found == payloads
