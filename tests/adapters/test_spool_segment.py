"""The segment in hand and the octets kept back: whole frames or none, no number twice, room when there is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from steward.adapters.spool_files import SEGMENT_HEADER_BYTES, Folder, open_segment, open_spool
from steward.adapters.spool_segment import RESERVE_STEP_BYTES, Reserve, SegmentWriter
from steward.wire.frames import MAX_PAYLOAD_BYTES, Frame, Kind, decode
from tests.spooled import KEYRING

ROOT = Path(__file__).parents[2]
ID = bytes(range(16))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    made = open_spool(tmp_path / "spool")
    yield made
    made.close()


def test_a_frame_is_in_the_file_when_it_is_appended(folder: Folder, tmp_path: Path) -> None:
    segment = SegmentWriter(folder, KEYRING, 3)
    path = tmp_path / "spool" / "00000003.seg"
    assert path.stat().st_size == segment.size == SEGMENT_HEADER_BYTES
    sizes = [segment.append(Kind.END, ID, plain) for plain in (b"one", b"", b"x" * 70_000)]
    data = path.read_bytes()
    assert len(data) == segment.size == SEGMENT_HEADER_BYTES + sum(sizes)
    seal = open_segment(KEYRING, "spool", 3, data[:SEGMENT_HEADER_BYTES])
    frames, _ = decode(data[SEGMENT_HEADER_BYTES:])
    assert [seal.open(frame) for frame in frames if isinstance(frame, Frame)] == [b"one", b"", b"x" * 70_000]
    os.close(segment.descriptor)


def test_a_record_that_no_reader_takes_is_not_written(folder: Folder) -> None:
    segment = SegmentWriter(folder, KEYRING, 0)
    with pytest.raises(OSError, match="record"):
        segment.append(Kind.END, ID, b"x" * MAX_PAYLOAD_BYTES)
    assert segment.size == SEGMENT_HEADER_BYTES
    os.close(segment.descriptor)


def test_a_segment_never_takes_anothers_place(folder: Folder) -> None:
    os.close(SegmentWriter(folder, KEYRING, 0).descriptor)
    with pytest.raises(FileExistsError):
        SegmentWriter(folder, KEYRING, 0)


CUT = """
import json, os, resource, sys
from pathlib import Path
from steward.adapters.spool_files import SEGMENT_HEADER_BYTES, open_segment, open_spool
from steward.adapters.spool_segment import SegmentWriter
from steward.wire.frames import decode
from tests.spooled import KEYRING

folder = open_spool(Path(sys.argv[1]))
segment = SegmentWriter(folder, KEYRING, 0)
segment.append(2, bytes(16), b"before")
bound = segment.size + 60
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (bound, limits[1]))
sizes = []
for plain in (b"x" * 500, b"y" * 500):
    try:
        segment.append(2, bytes(16), plain)
    except OSError as exc:
        sizes.append(os.fstat(segment.descriptor).st_size - segment.size)
resource.setrlimit(resource.RLIMIT_FSIZE, limits)
segment.append(2, bytes(16), b"after")
frames, used = decode(Path(sys.argv[1], "00000000.seg").read_bytes()[SEGMENT_HEADER_BYTES:], ended=True)
numbers = [[frame.number for frame in frames]]
resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
segment = SegmentWriter(folder, KEYRING, 1)
try:
    segment.append(2, bytes(16), b"too early")
except OSError as exc:
    sizes.append(os.fstat(segment.descriptor).st_size)
resource.setrlimit(resource.RLIMIT_FSIZE, limits)
segment.append(2, bytes(16), b"later")
data = Path(sys.argv[1], "00000001.seg").read_bytes()
seal = open_segment(KEYRING, folder.name, 1, data[:SEGMENT_HEADER_BYTES])
frames, used = decode(data[SEGMENT_HEADER_BYTES:], ended=True)
print(json.dumps([sizes, numbers[0], [seal.open(frame).decode() for frame in frames]]))
"""


def test_half_a_frame_is_cut_off_and_its_number_is_not_given_again(tmp_path: Path) -> None:
    """In a process of its own, whose limits are real. A header that does not fit is written with the first record."""
    ran = subprocess.run(
        [sys.executable, "-c", CUT, str(tmp_path / "spool")], cwd=ROOT, capture_output=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == [[0, 0, 0], [0, 3], ["later"]]


def test_what_is_kept_back_is_given_step_by_step_and_made_whole(folder: Folder, tmp_path: Path) -> None:
    size = 2 * RESERVE_STEP_BYTES + 1000
    reserve = Reserve(folder, size)
    path = tmp_path / "spool" / "reserve"
    assert reserve.whole
    assert path.stat().st_blocks * 512 >= size == path.stat().st_size
    left = []
    while reserve.spend():
        left.append(path.stat().st_size)
        assert not reserve.whole
    assert left == [RESERVE_STEP_BYTES + 1000, 1000, 0]
    reserve.restore()
    reserve.restore()
    assert (reserve.whole, path.stat().st_size) == (True, size)
    reserve.close()


def test_what_no_disk_has_is_not_kept_back(folder: Folder) -> None:
    reserve = Reserve(folder, 1 << 60)
    assert not reserve.whole
    assert not reserve.spend()
    reserve.restore()
    assert (reserve.whole, folder.size("reserve")) == (False, 0)
    reserve.close()
