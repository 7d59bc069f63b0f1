"""Waits for a condition with a deadline; never for a time to pass. Says nothing of what is waited for."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

STEP_S = 0.005


def eventually(condition: Callable[[], object], within_s: float = 20.0) -> None:
    """Returns once `condition()` is true; AssertionError when it is not within `within_s`."""
    until = time.monotonic() + within_s
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < until, f"not within {within_s} s"
        pause.wait(STEP_S)


async def eventually_async(condition: Callable[[], object], within_s: float = 20.0) -> None:
    """The same on an event loop, which goes on running."""
    loop = asyncio.get_running_loop()
    until = loop.time() + within_s
    while not condition():
        assert loop.time() < until, f"not within {within_s} s"
        turn = loop.create_future()
        loop.call_later(STEP_S, turn.set_result, None)
        await turn
