"""The progress file: fixed entries, torn or damaged ones count as never written."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steward.adapters.spool_files import Folder
from steward.adapters.spool_progress import ENTRY_BYTES, Mark, Progress, entry, marks

KNOWN = bytes.fromhex("0000000001234567520000005ca9125b")
"""Offset 0x1234567, mark R."""


def test_the_format_is_for_ever() -> None:
    assert entry(0x1234567, Mark.RECORDED) == KNOWN
    assert marks(KNOWN) == {0x1234567: Mark.RECORDED}


def progress_of(path: Path) -> Progress:
    return Progress(Folder(os.open(path.parent, os.O_RDONLY), path.parent.name), path.name)


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.sampled_from(Mark))))
def test_the_later_mark_wins_in_whatever_order_they_stand(written: list[tuple[int, Mark]]) -> None:
    found = marks(b"".join(entry(offset, mark) for offset, mark in written))
    assert found.keys() == {offset for offset, _ in written}
    for offset, mark in found.items():
        assert (mark is Mark.DONE) == ((offset, Mark.DONE) in written)


@given(st.binary(max_size=200))
def test_random_octets_are_passed_over(octets: bytes) -> None:
    assert marks(octets) == {}


@given(st.integers(0, 3 * ENTRY_BYTES - 1), st.integers(1, 255))
def test_a_flipped_octet_costs_one_entry_alone(at: int, flip: int) -> None:
    octets = bytearray(b"".join(entry(offset, Mark.DONE) for offset in (7, 8, 9)))
    octets[at] ^= flip
    assert marks(bytes(octets)).keys() == {7, 8, 9} - {7 + at // ENTRY_BYTES}


def test_no_file_is_no_marks_and_nothing_written_makes_none(tmp_path: Path) -> None:
    progress = progress_of(tmp_path / "00000000.done")
    assert progress.load() == {}
    assert progress.write([])
    assert list(tmp_path.iterdir()) == []
    progress.remove()


def test_what_is_written_is_read_again_by_another_and_the_file_is_ours_alone(tmp_path: Path) -> None:
    path = tmp_path / "00000000.done"
    progress = progress_of(path)
    assert progress.write([(1, Mark.RECORDED), (2, Mark.DONE)])
    assert progress.write([(1, Mark.DONE)])
    assert progress_of(path).load() == {1: Mark.DONE, 2: Mark.DONE}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    progress.remove()
    assert progress_of(path).load() == {}


@pytest.mark.parametrize("torn", range(1, ENTRY_BYTES))
def test_a_torn_entry_is_cut_off_before_the_next_is_written(tmp_path: Path, torn: int) -> None:
    path = tmp_path / "00000000.done"
    path.write_bytes(entry(1, Mark.DONE) + entry(2, Mark.DONE)[:torn])
    assert progress_of(path).load() == {1: Mark.DONE}
    progress_of(path).write([(3, Mark.DONE)])
    assert progress_of(path).load() == {1: Mark.DONE, 3: Mark.DONE}
    assert path.stat().st_size == 2 * ENTRY_BYTES


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"")
    (tmp_path / "00000000.done").symlink_to(elsewhere)
    progress = progress_of(tmp_path / "00000000.done")
    with pytest.raises(OSError, match="symbolic"):
        progress.load()
    with pytest.raises(OSError, match="symbolic"):
        progress.write([(1, Mark.DONE)])
    assert elsewhere.read_bytes() == b""


def test_on_a_full_disk_marks_wait_and_go_with_the_next(tmp_path: Path) -> None:
    path = tmp_path / "00000000.done"
    progress_of(path).write([(1, Mark.DONE)])
    whole = _in_child_with_file_limit(path, ENTRY_BYTES + 5)
    assert whole == b"full then whole"
    assert progress_of(path).load() == {1: Mark.DONE, 2: Mark.DONE, 3: Mark.DONE}
    assert path.stat().st_size == 3 * ENTRY_BYTES


def _in_child_with_file_limit(path: Path, most: int) -> bytes:
    """Writes in a process of its own whose files cannot grow beyond `most` octets, then can."""
    import resource
    import signal

    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
            progress = progress_of(path)
            first = progress.write([(2, Mark.DONE)])
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            second = progress.write([(3, Mark.DONE)])
            os.write(write, b"full then whole" if (first, second) == (False, True) else b"no")
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as said:
        answer = said.read()
    os.waitpid(child, 0)
    return answer
