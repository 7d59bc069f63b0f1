"""The copy: exact, bounded, nameless once it is on disk, and never in the way of what it copies."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steward.capture import MEMORY_BYTES, Capture
from steward.exchange import Body

NO_LIMIT = 1 << 40
unhurried = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])


def captured(*pieces: bytes, limit: int = NO_LIMIT) -> Body:
    """What is kept of these."""
    capture = Capture(limit)
    for piece in pieces:
        capture.add(piece)
    return capture.body()


def told(body: Body) -> tuple[bytes, int, int, bool]:
    """(kept, octets kept, octets that crossed, truncated); the file goes back."""
    kept = body.content().reveal()
    facts = (kept, body.kept_bytes, body.size_bytes, body.truncated)
    body.close()
    return facts


def test_nothing() -> None:
    body = captured()
    assert body.file is None
    assert told(body) == (b"", 0, 0, False)
    assert told(captured(b"", b"")) == (b"", 0, 0, False)


def test_pieces_are_joined_as_they_came() -> None:
    assert told(captured(b"a", b"", b"bc", b"\x00\xff")) == (b"abc\x00\xff", 5, 5, False)


@pytest.mark.parametrize("step", [1, 1_000, 65_536, MEMORY_BYTES])
def test_up_to_the_bound_it_stays_in_memory(step: int) -> None:
    data = os.urandom(MEMORY_BYTES)
    body = captured(*(data[at : at + step] for at in range(0, len(data), step)))
    assert body.file is None
    assert told(body) == (data, MEMORY_BYTES, MEMORY_BYTES, False)


@pytest.mark.parametrize("sizes", [[MEMORY_BYTES, 1], [MEMORY_BYTES + 1], [1, MEMORY_BYTES], [100_000] * 9, [5 << 20]])
def test_beyond_the_bound_it_is_a_file(sizes: list[int]) -> None:
    pieces = [os.urandom(size) for size in sizes]
    body = captured(*pieces)
    assert body.file is not None
    assert body.data == b""
    assert told(body) == (b"".join(pieces), sum(sizes), sum(sizes), False)


def test_the_file_has_no_name() -> None:
    """Not while it is written, and not afterwards: nobody can open it by a path."""
    before = set(_named_files())
    capture = Capture(NO_LIMIT)
    for _ in range(4):
        capture.add(b"x" * MEMORY_BYTES)
        assert set(_named_files()) <= before
    body = capture.body()
    assert body.file is not None
    number = body.file.fileno()
    assert os.fstat(number).st_nlink == 0
    assert os.readlink(f"/proc/self/fd/{number}").endswith(" (deleted)")
    assert os.fstat(number).st_mode & 0o077 == 0
    assert not os.get_inheritable(number)
    body.close()


def _named_files() -> Iterator[str]:
    """Files of the temporary folder that this process has open by a name."""
    folder = os.path.realpath(tempfile.gettempdir())
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{number}")
            if os.path.dirname(target) == folder and os.path.exists(target):
                yield target


LIMITS = [0, 1, 10, MEMORY_BYTES - 1, MEMORY_BYTES, MEMORY_BYTES + 1, 2 * MEMORY_BYTES]


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("step", [1 << 20, 70_001])
def test_the_limit_is_exact(limit: int, step: int) -> None:
    """To the octet, however the pieces fall; what crossed is counted to the end."""
    data = os.urandom(3 * MEMORY_BYTES)
    body = captured(*(data[at : at + step] for at in range(0, len(data), step)), limit=limit)
    assert told(body) == (data[:limit], limit, len(data), True)


@pytest.mark.parametrize("limit", [0, 5, MEMORY_BYTES + 5])
def test_just_the_limit_is_not_truncated(limit: int) -> None:
    assert told(captured(b"x" * limit, b"", limit=limit)) == (b"x" * limit, limit, limit, False)


def test_nothing_more_is_kept_after_the_limit() -> None:
    """A small piece behind one that did not fit would leave a hole between the two."""
    assert told(captured(b"abc", b"defgh", b"i", b"", limit=5)) == (b"abcde", 5, 9, True)


@unhurried
@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=8), st.integers(0, 320))
def test_cuts_change_nothing(data: bytes, cuts: list[int], limit: int) -> None:
    edges = [0, *sorted(cut for cut in cuts if cut <= len(data)), len(data)]
    pieces = [data[start:stop] for start, stop in pairwise(edges)]
    kept = min(limit, len(data))
    assert told(captured(*pieces, limit=limit)) == (data[:limit], kept, len(data), len(data) > limit)


@pytest.mark.parametrize("size", [10, MEMORY_BYTES + 1])
def test_what_nobody_takes_is_given_back(size: int) -> None:
    capture = Capture(NO_LIMIT)
    capture.add(b"x" * size)
    body = capture.body()
    capture.discard()
    capture.discard()
    assert body.file is None or body.file.closed


# Where the queue behind the call makes the file


class Spilt(io.BytesIO):
    """A queue's file with room for so much."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def write(self, data: Any) -> int:
        """All of it or an error."""
        if self.tell() + len(data) > self.room:
            raise OSError(122, "full")
        return super().write(data)


def test_the_queues_own_file_takes_what_is_too_large() -> None:
    """Asked for once, for this side of this call, when it is needed."""
    asked: list[tuple[UUID, str, UUID]] = []

    def spill(*whose: Any) -> BinaryIO:
        asked.append(whose)
        return Spilt(NO_LIMIT)

    whose = (UUID(int=1), "r", UUID(int=2))
    capture = Capture(NO_LIMIT, spill, whose)
    capture.add(b"x" * MEMORY_BYTES)
    assert asked == []
    capture.add(b"y" * 10)
    capture.add(b"z")
    assert asked == [whose]
    assert isinstance(capture.body().file, Spilt)
    size = MEMORY_BYTES + 11
    assert told(capture.body()) == (b"x" * MEMORY_BYTES + b"y" * 10 + b"z", size, size, False)


@pytest.mark.parametrize("room", [0, MEMORY_BYTES, MEMORY_BYTES + 15])
def test_a_queue_without_room_truncates(room: int) -> None:
    capture = Capture(NO_LIMIT, lambda *_: Spilt(room), (UUID(int=1), "q", UUID(int=2)))
    capture.add(b"x" * MEMORY_BYTES)
    for _ in range(3):
        capture.add(b"y" * 10)
    kept = {0: 0, MEMORY_BYTES: MEMORY_BYTES, MEMORY_BYTES + 15: MEMORY_BYTES + 10}[room]
    content = (b"x" * MEMORY_BYTES + b"y" * 10)[:kept]
    assert told(capture.body()) == (content, kept, MEMORY_BYTES + 30, True)


# Disks that take nothing more, in a process of its own whose limits are real

FULL = f"""
import json, resource, sys
from steward.capture import Capture

def told(capture):
    body = capture.body()
    kept = body.content().reveal()
    return [len(kept), body.kept_bytes, body.size_bytes, body.truncated, kept[-3:].hex()]

def filled(*sizes):
    capture = Capture(1 << 40)
    for number, size in enumerate(sizes):
        capture.add(bytes([number]) * size)
    return told(capture)

kind, bound = sys.argv[1], int(sys.argv[2])
resource.setrlimit(getattr(resource, kind), (bound, resource.getrlimit(getattr(resource, kind))[1]))
first = filled(10, {MEMORY_BYTES}, 100_000, 100_000, 5)
again = filled(100)
print(json.dumps([first, again]))
"""
SIZES = 10 + MEMORY_BYTES + 200_005


def under(kind: str, bound: int) -> Any:
    """What is kept under this limit of the operating system."""
    command = [sys.executable, "-c", FULL, kind, str(bound)]
    done = subprocess.run(command, capture_output=True, check=False, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("bound", [MEMORY_BYTES + 10 + 50_000, MEMORY_BYTES, 4_096])
def test_a_full_disk_truncates(bound: int) -> None:
    """What the disk took is kept, to the octet; nobody is told but the copy itself."""
    (kept, kept_bytes, size_bytes, truncated, _), again = under("RLIMIT_FSIZE", bound)
    assert (kept, kept_bytes, size_bytes, truncated) == (bound, bound, SIZES, True)
    assert again == [100, 100, 100, False, "000000"]


def test_no_file_to_be_had_truncates() -> None:
    """What was in memory by then is kept."""
    (kept, kept_bytes, size_bytes, truncated, end), again = under("RLIMIT_NOFILE", 3)
    assert (kept, kept_bytes, size_bytes, truncated, end) == (10, 10, SIZES, True, "000000")
    assert again == [100, 100, 100, False, "000000"]
