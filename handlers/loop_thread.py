"""One event loop on a thread of its own, for as long as the process lives, for hosts that call in from outside.

Connections to providers are bound to their loop: a loop for every call would open them anew. What runs on it goes on
between calls as far as the host lets the process. It knows nothing of calls.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from steward import log

T = TypeVar("T")


class LoopThread:
    """Made once a process, and after any fork."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(log.loop_fault)
        self._thread = threading.Thread(target=self.loop.run_forever, name="steward-loop", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], within_s: float | None = None) -> T:
        """What the work returns or raises, from another thread. Raises TimeoutError: then the work is cancelled."""
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result(within_s)
        except concurrent.futures.TimeoutError:
            future.cancel()
            raise TimeoutError from None

    def close(self) -> None:
        """Ends the thread; what still runs on the loop is cancelled."""
        self.run(_cancel_others(), 5.0)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5.0)
        self.loop.close()


async def _cancel_others() -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()
