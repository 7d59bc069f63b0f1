"""Large bodies: sealed while they are written, exact from any place, refused where anything was changed."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steward.adapters.spool_files import Folder, open_spool
from steward.adapters.spool_sealed import (
    HEADER,
    PIECE_BYTES,
    SealedReader,
    SealedWriter,
    open_beside,
    sealed_bytes,
)
from steward.codec import Beside
from steward.errors import SealBroken
from steward.exchange import Body

ID = UUID("0198c0de-0000-7000-8000-00000000000a")
SIZES = [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 5 * PIECE_BYTES, 5 * PIECE_BYTES + 17]


class Room:
    """Counts what is taken, and says no above a bound."""

    def __init__(self, bound: int = 1 << 40) -> None:
        self.bound = bound
        self.taken = 0

    def __call__(self, size: int) -> None:
        if self.taken + size > self.bound:
            raise OSError(errno.EDQUOT, "full")
        self.taken += size


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    made = open_spool(tmp_path / "spool")
    yield made
    made.close()


def made(folder: Folder, data: bytes, step: int = 100_000) -> Beside:
    folder.remove(f"{ID}.q")
    writer = SealedWriter(folder, ID, "q", Room())
    for at in range(0, len(data), step):
        assert writer.write(memoryview(data)[at : at + step]) == len(data[at : at + step])
    beside = writer.finish()
    writer.close()
    return beside


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("step", [1 << 20, PIECE_BYTES, 70_001])
def test_what_is_written_comes_back(folder: Folder, size: int, step: int) -> None:
    data = os.urandom(size)
    beside = made(folder, data, step)
    assert beside.size_bytes == size
    assert folder.size(f"{ID}.q") == sealed_bytes(size)
    with open_beside(folder, ID, "q", beside) as file:
        assert file.read() == data
        assert file.read() == b""


def test_it_reads_from_any_place(folder: Folder) -> None:
    data = os.urandom(3 * PIECE_BYTES + 5)
    beside = made(folder, data)
    with open_beside(folder, ID, "q", beside) as file:
        assert (file.readable(), file.seekable(), file.writable()) == (True, True, False)
        for at in (len(data) - 3, 0, PIECE_BYTES - 1, PIECE_BYTES, 2 * PIECE_BYTES + 7, len(data), len(data) + 9):
            assert file.seek(at) == file.tell() == at
            assert file.read(2) in {data[at : at + 2], data[at : at + 1]}
        assert file.seek(-4, io.SEEK_END) == len(data) - 4
        assert file.seek(1, io.SEEK_CUR) == len(data) - 3
        with pytest.raises(ValueError, match="before"):
            file.seek(-1)
        body = Body(b"", file, len(data))
        assert (body.kept_bytes, body.content().reveal()) == (len(data), data)


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 200_000), st.integers(0, 100_000)), max_size=10))
def test_any_reading_gives_what_a_plain_file_gives(folder: Folder, reads: list[tuple[int, int]]) -> None:
    data = bytes(range(256)) * 800
    beside = made(folder, data)
    with open_beside(folder, ID, "q", beside) as file:
        buffered = io.BufferedReader(file)  # type: ignore[type-var]
        plain = io.BytesIO(data)
        for at, size in reads:
            buffered.seek(at)
            plain.seek(at)
            assert buffered.read(size) == plain.read(size)


def test_no_octet_in_clear_and_no_key(folder: Folder, tmp_path: Path) -> None:
    data = b"canary-in-a-body" * 20_000
    beside = made(folder, data)
    octets = (tmp_path / "spool" / f"{ID}.q").read_bytes()
    assert b"canary" not in octets
    assert beside.key not in octets
    again = made(folder, data)
    assert again.key != beside.key
    assert (tmp_path / "spool" / f"{ID}.q").read_bytes()[len(HEADER) :] != octets[len(HEADER) :]


PLACES = [0, len(HEADER) - 1, len(HEADER), len(HEADER) + 500, sealed_bytes(PIECE_BYTES) - 1, sealed_bytes(PIECE_BYTES)]


@pytest.mark.parametrize("place", PLACES)
def test_a_changed_octet_is_refused(folder: Folder, tmp_path: Path, place: int) -> None:
    beside = made(folder, os.urandom(2 * PIECE_BYTES))
    path = tmp_path / "spool" / f"{ID}.q"
    octets = bytearray(path.read_bytes())
    octets[place] ^= 1
    path.write_bytes(octets)
    with pytest.raises(SealBroken), open_beside(folder, ID, "q", beside) as file:
        file.read()


def test_pieces_that_change_places_are_refused(folder: Folder, tmp_path: Path) -> None:
    beside = made(folder, os.urandom(2 * PIECE_BYTES))
    path = tmp_path / "spool" / f"{ID}.q"
    octets = path.read_bytes()
    middle = sealed_bytes(PIECE_BYTES)
    path.write_bytes(HEADER + octets[middle:] + octets[len(HEADER) : middle])
    with pytest.raises(SealBroken), open_beside(folder, ID, "q", beside) as file:
        file.read()


@pytest.mark.parametrize("left", [0, 5, len(HEADER), sealed_bytes(PIECE_BYTES) - 1, sealed_bytes(2 * PIECE_BYTES) - 1])
def test_a_file_that_was_cut_is_refused_before_it_is_read(folder: Folder, tmp_path: Path, left: int) -> None:
    beside = made(folder, os.urandom(2 * PIECE_BYTES))
    os.truncate(tmp_path / "spool" / f"{ID}.q", left)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(SealBroken):
        open_beside(folder, ID, "q", beside)
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_it_opens_as_no_other_call_or_side(folder: Folder) -> None:
    beside = made(folder, b"said")
    for request_id, side in ((UUID(int=7), "q"), (ID, "r")):
        descriptor = folder.open(f"{ID}.q")
        with SealedReader(descriptor, request_id, side, beside) as file, pytest.raises(SealBroken):
            file.read()


def test_there_may_be_none(folder: Folder) -> None:
    with pytest.raises(FileNotFoundError):
        open_beside(folder, ID, "q", Beside(bytes(32), 5))


def test_it_never_takes_anothers_place(folder: Folder) -> None:
    made(folder, b"said")
    with pytest.raises(FileExistsError):
        SealedWriter(folder, ID, "q", Room())


@pytest.mark.parametrize("finished", [False, True])
def test_what_is_given_up_leaves_nothing(folder: Folder, finished: bool) -> None:
    room = Room()
    writer = SealedWriter(folder, ID, "q", room)
    writer.write(b"x" * 3 * PIECE_BYTES)
    assert room.taken == writer.disk_bytes >= 3 * PIECE_BYTES
    if finished:
        writer.finish()
        writer.discard()
    writer.close()
    writer.close()
    assert (folder.names(), room.taken) == ([], 0)


def test_nothing_is_added_once_it_is_finished(folder: Folder) -> None:
    writer = SealedWriter(folder, ID, "q", Room())
    writer.write(b"abc")
    beside = writer.finish()
    with pytest.raises(OSError, match="finished"):
        writer.write(b"d")
    assert writer.finish() == beside
    os.close(writer.release())
    writer.close()
    assert folder.names() == [f"{ID}.q"]


def test_the_format_is_what_it_was(folder: Folder) -> None:
    """A body that a release left behind, the next one stores."""
    handle = folder.create(f"{ID}.q")
    os.write(handle, bytes.fromhex(FILE))
    os.close(handle)
    with open_beside(folder, ID, "q", Beside(bytes(range(32)), 4)) as file:
        assert file.read() == b"said"


FILE = "4d44424f44590d0a017ddddcba70a79f2eae8e777ab66b55b3fac8f17e"


def test_without_room_it_does_not_begin(folder: Folder) -> None:
    room = Room(3)
    with pytest.raises(OSError, match="full"):
        SealedWriter(folder, ID, "q", room)
    assert (folder.names(), room.taken) == ([], 0)


def test_where_room_ends_it_says_what_it_kept(folder: Folder) -> None:
    """Whole pieces, and what was held of the next is gone: the caller's copy ends there."""
    data = os.urandom(5 * PIECE_BYTES)
    room = Room(sealed_bytes(2 * PIECE_BYTES) + 100)
    writer = SealedWriter(folder, ID, "q", room)
    with pytest.raises(OSError, match="full"):
        writer.write(data)
    assert writer.tell() == 2 * PIECE_BYTES
    beside = writer.finish()
    writer.close()
    assert beside.size_bytes == 2 * PIECE_BYTES
    assert room.taken == sealed_bytes(2 * PIECE_BYTES)
    with open_beside(folder, ID, "q", beside) as file:
        assert file.read() == data[: 2 * PIECE_BYTES]


def test_an_end_that_does_not_fit_is_cut_off(folder: Folder) -> None:
    room = Room(sealed_bytes(PIECE_BYTES))
    writer = SealedWriter(folder, ID, "q", room)
    writer.write(os.urandom(PIECE_BYTES + 10))
    assert writer.tell() == PIECE_BYTES + 10
    assert writer.finish().size_bytes == PIECE_BYTES
    writer.close()
