"""An event loop in a thread of its own: the provider, the load and the gates run there while a test does its worst.

It refuses to share state by itself: what a test reads of it is asked for on the loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

import uvloop

T = TypeVar("T")
WITHIN_S = 60.0


async def paced(seconds: float) -> None:
    """The pace at which a load comes or a server answers; nothing is waited for by it."""
    loop = asyncio.get_running_loop()
    turn = loop.create_future()
    handle = loop.call_later(seconds, lambda: turn.done() or turn.set_result(None))
    try:
        await turn
    finally:
        handle.cancel()


def say(writer: asyncio.StreamWriter, octets: bytes) -> None:
    """Writes to a peer. Raises ConnectionResetError when he is gone: uvloop's own word for that is RuntimeError."""
    if writer.transport.is_closing():
        raise ConnectionResetError
    writer.write(octets)


class LoopThread:
    """Runs until the block ends; then whatever still runs there is cancelled."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="faults", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.do(self._cancel_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def do(self, coroutine: Coroutine[Any, Any, T], within_s: float = WITHIN_S) -> T:
        """Runs it to its end on the loop; its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(within_s)

    def ask(self, question: Callable[[], T]) -> T:
        """Calls it on the loop, between two of its turns; its result."""

        async def asked() -> T:
            return question()

        return self.do(asked())

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    async def _cancel_all(self) -> None:
        running = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
