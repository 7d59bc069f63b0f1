"""Many at a time: in order, within bounds, and nobody is held up by one that hangs."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from steward.ports import Put, PutResult
from steward.uploads import put_all

PUTS = [Put(f"k{number}", b"", "00", 0) for number in range(40)]


def test_results_come_in_order_and_no_thread_stays() -> None:
    results = put_all(lambda put: PutResult(None, code=put.key), PUTS, 8, "upload")
    assert [result.code for result in results] == [put.key for put in PUTS]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("upload")]
    assert put_all(lambda put: PutResult(None), [], 8, "upload") == []


@pytest.mark.parametrize(("puts", "most"), [(PUTS, 4), (PUTS[:3], 3)])
def test_no_more_at_a_time_than_it_was_told(puts: list[Put], most: int) -> None:
    together = threading.Barrier(most)
    lock = threading.Lock()
    inside: list[int] = [0, 0]

    def put(put: Put) -> PutResult:
        with lock:
            inside[0] += 1
            inside[1] = max(inside)
        if puts.index(put) < most:
            together.wait(20)
        with lock:
            inside[0] -= 1
        return PutResult(None)

    put_all(put, puts, 4, "upload")
    assert inside == [0, most]


def test_what_is_raised_is_raised_where_the_batch_is_waited_for() -> None:
    def put(put: Put) -> PutResult:
        raise ValueError(put.key)

    for puts in (PUTS, PUTS[:1]):
        with pytest.raises(ValueError, match="k"):
            put_all(put, puts, 4, "upload")


HANGING = """
import sys, threading
from steward.ports import Put
from steward.uploads import put_all
started = threading.Barrier(5)
def put(put):
    started.wait(20)
    threading.Event().wait()
puts = [Put(f"k{number}", b"", "00", 0) for number in range(9)]
threading.Thread(target=put_all, args=(put, puts, 4, "upload"), daemon=True).start()
started.wait(20)
print("ends")
"""


def test_an_upload_that_hangs_does_not_hold_the_interpreter() -> None:
    ran = subprocess.run([sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=30, check=False)
    assert (ran.returncode, ran.stdout) == (0, "ends\n"), ran.stderr[-2000:]
