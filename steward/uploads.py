"""Puts many body objects at a time, in threads that hold nobody up: neither a store's `close` nor the interpreter.

It keeps no threads between two batches, knows no store, and tries nothing again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

P = TypeVar("P")
R = TypeVar("R")


def put_all(put: Callable[[P], R], puts: Sequence[P], parallel: int, name: str) -> list[R]:
    """One result each, in order, once all are known; at most `parallel` at a time. Raises what `put` raises.

    The threads are daemons of our own: Python waits at its exit for those of an executor, and a store that accepts
    and never answers would keep the process for minutes.
    """
    if len(puts) == 1:
        return [put(puts[0])]
    results: dict[int, R] = {}
    faults: list[BaseException] = []
    left = iter(range(len(puts)))
    lock = threading.Lock()

    def work() -> None:
        while not faults:
            with lock:
                at = next(left, None)
            if at is None:
                return
            try:
                results[at] = put(puts[at])
            except BaseException as exc:  # raised where the batch is waited for
                faults.append(exc)

    threads = [
        threading.Thread(target=work, name=f"{name}-{number}", daemon=True)
        for number in range(min(parallel, len(puts)))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]
    return [results[at] for at in range(len(puts))]
