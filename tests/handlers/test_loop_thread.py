"""One loop for all calls: work goes on between them, and what takes too long is given up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from handlers.loop_thread import LoopThread


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    thread = LoopThread()
    yield thread
    thread.close()


async def _running() -> tuple[asyncio.AbstractEventLoop, int]:
    return asyncio.get_running_loop(), threading.get_ident()


def test_every_call_runs_on_the_same_loop_and_not_here(loop: LoopThread) -> None:
    first, second = loop.run(_running()), loop.run(_running())
    assert first == second and first[1] != threading.get_ident()


def test_work_goes_on_between_two_calls(loop: LoopThread) -> None:
    ended = threading.Event()

    async def begun() -> asyncio.Task[None]:
        async def later() -> None:
            await asyncio.sleep(0)
            ended.set()

        return asyncio.ensure_future(later())

    task = loop.run(begun())
    assert ended.wait(10) and task is not None


def test_what_it_raises_comes_through(loop: LoopThread) -> None:
    async def fails() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        loop.run(fails())


def test_what_takes_too_long_is_cancelled(loop: LoopThread) -> None:
    cancelled = threading.Event()

    async def endless() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cancelled.set()

    with pytest.raises(TimeoutError):
        loop.run(endless(), 0.01)
    assert cancelled.wait(10)


def test_closing_cancels_what_is_left() -> None:
    thread, cancelled = LoopThread(), threading.Event()

    async def endless() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cancelled.set()

    async def begin() -> asyncio.Task[None]:
        task = asyncio.ensure_future(endless())
        await asyncio.sleep(0)
        return task

    task = thread.run(begin())
    thread.close()
    assert cancelled.is_set() and task.cancelled() and not thread.loop.is_running()
