"""Ids of counted calls outlive a killed process, are bounded, and cost nothing but themselves on a full disk."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest

from steward.counted_calls import PLACES, CountedCalls
from steward.settling import RoundLimits

ROOT = Path(__file__).parents[1]
COUNTS = (
    "import sys\nfrom pathlib import Path\nfrom uuid import UUID\n"
    "from steward.counted_calls import CountedCalls\n"
    "counted = CountedCalls(Path(sys.argv[1]))\n"
    "for number in range(1, 10**9):\n"
    "    counted.is_new(UUID(int=number))\n"
    "    if number % 1000 == 0: print(number, flush=True)\n"
)


def test_within_one_life_every_call_is_new(tmp_path: Path) -> None:
    counted = CountedCalls(tmp_path / "counted")
    assert all(counted.is_new(UUID(int=number)) for number in (1, 2, 3))
    counted.close()


def test_what_a_killed_process_counted_is_known(tmp_path: Path) -> None:
    command = [sys.executable, "-c", COUNTS, str(tmp_path / "counted")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(20):
            said = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        said = max([said, *(int(line) for line in process.stdout.read().split())])
    counted = CountedCalls(tmp_path / "counted")
    known = [number for number in range(1, said + 2000) if not counted.is_new(UUID(int=number))]
    counted.close()
    assert known == list(range(1, len(known) + 1))
    assert len(known) >= said


def test_the_newest_are_kept(tmp_path: Path) -> None:
    first = CountedCalls(tmp_path / "counted", places=100)
    for number in range(1, 251):
        first.is_new(UUID(int=number))
    first.close()
    second = CountedCalls(tmp_path / "counted", places=100)
    assert [number for number in range(1, 251) if not second.is_new(UUID(int=number))] == list(range(151, 251))
    second.close()


def test_what_comes_again_to_the_same_process_is_known_as_long_as_it_is_kept(tmp_path: Path) -> None:
    counted = CountedCalls(tmp_path / "counted", places=100, comes_again=True)
    assert all(counted.is_new(UUID(int=number)) for number in range(1, 151))
    assert not any(counted.is_new(UUID(int=number)) for number in range(51, 151))
    assert counted.is_new(UUID(int=1)), "the oldest made room"
    counted.close()


def test_they_are_read_when_first_asked_not_when_made(tmp_path: Path) -> None:
    waits, works = CountedCalls(tmp_path / "counted"), CountedCalls(tmp_path / "counted")
    works.is_new(UUID(int=1))
    works.close()
    assert not waits.is_new(UUID(int=1))
    waits.close()


def test_as_many_are_kept_as_may_be_metered_ahead_of_the_ledger() -> None:
    limits = RoundLimits()
    assert limits.ahead + 10 * limits.batch < PLACES


@pytest.mark.parametrize("octets", [b"", b"\xff" * 64, b"\xff" * 5000])
def test_whatever_stands_in_the_file(tmp_path: Path, octets: bytes) -> None:
    (tmp_path / "counted").write_bytes(octets)
    counted = CountedCalls(tmp_path / "counted", places=100)
    assert all(counted.is_new(UUID(int=number)) for number in range(1, 300))
    counted.close()


def test_without_room_or_right_every_call_is_new(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"kept")
    (tmp_path / "counted").symlink_to(elsewhere)
    counted = CountedCalls(tmp_path / "counted")
    assert counted.is_new(UUID(int=1))
    assert elsewhere.read_bytes() == b"kept"
    program = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))\n"
    program += "from pathlib import Path\nfrom uuid import UUID\nfrom steward.counted_calls import CountedCalls\n"
    program += f"print(CountedCalls(Path({str(tmp_path / 'full')!r})).is_new(UUID(int=1)))"
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout) == (0, "True\n")
