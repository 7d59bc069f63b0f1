"""The connections to one origin: which one serves, for how long, and who waits for it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace

import pytest

from steward.errors import (
    UpstreamBusy,
)
from steward.exchange import Origin
from steward.lane import Lane
from tests.servers.misbehaving import Provider
from tests.servers.pools import (
    LEAPING,
    LONG,
    WITHIN_S,
    both_loops,
    connection_of,
    fetch,
    hold,
    leap,
    pooled,
)
from tests.servers.upstreams import LIMITS, POOL, Way, call, read, send, settle
from tests.servers.waiting import eventually_async

# Which connection, and for how long


@both_loops
def test_the_connection_used_last_serves_first(way: Way) -> None:
    """Of many: so that the others may grow old and go."""

    async def story() -> None:
        async with pooled() as (pool, provider):
            held = [await hold(pool, provider, b"h%d" % number) for number in range(5)]
            provider.go_on.set()
            order = [3, 0, 4, 1, 2]
            for number in order:
                await read(held[number])
                await eventually_async(lambda number=number: held[number].complete)  # type: ignore[misc]
            assert pool.connections() == 5
            # The order in which the answers ended is the provider's; what counts is that the last is taken first.
            for _ in range(4):
                await fetch(pool, provider, b"again")
            assert len({seen.connection for seen in provider.of(b"again")}) == 1
            assert provider.connections == 5

    way.run(story)


@pytest.mark.parametrize(("idle_s", "kept"), [(14.9, True), (15.1, False)])
def test_an_idle_connection_serves_for_fifteen_seconds(idle_s: float, kept: bool) -> None:
    """DESIGN 7, case 12."""

    async def story() -> None:
        async with pooled(LONG) as (pool, provider):
            await fetch(pool, provider, b"first")
            leap(idle_s)
            await fetch(pool, provider, b"second")
            assert (connection_of(provider, b"first") == connection_of(provider, b"second")) == kept
            await eventually_async(lambda: provider.open == 1)
            assert pool.connections() == 1

    LEAPING.run(story, within_s=10_000)


@pytest.mark.parametrize(("age_s", "kept"), [(299.0, True), (301.0, False)])
def test_a_busy_connection_serves_for_five_minutes(age_s: float, kept: bool) -> None:
    """DNS changes; a call that runs is not cut for it."""

    async def story() -> None:
        async with pooled(LONG) as (pool, provider):
            first = await hold(pool, provider, b"first")
            leap(age_s)
            provider.go_on.set()
            await read(first)
            await fetch(pool, provider, b"second")
            assert (connection_of(provider, b"first") == connection_of(provider, b"second")) == kept
            await eventually_async(lambda: provider.open == 1)
            assert pool.connections() == 1

    LEAPING.run(story, within_s=10_000)


def test_idle_connections_go_by_themselves_and_old_ones_with_their_call() -> None:
    async def story() -> None:
        async with pooled(LONG) as (pool, provider):
            held = [await hold(pool, provider, b"h%d" % number) for number in range(4)]
            provider.go_on.set()
            for answer in held:
                await read(answer)
            assert pool.connections() == 4
            leap(16)
            await eventually_async(lambda: provider.open == 0)
            assert pool.connections() == 0

    LEAPING.run(story, within_s=10_000)


def test_one_origin_is_one_lane_however_often_it_is_made() -> None:
    """Equal origins share, others never do."""

    async def story() -> None:
        async with pooled() as (pool, provider), Provider() as other:
            for number in range(6):
                origin = Origin("http", "127.0.0.1", (provider, other)[number % 2].port)
                await read(await send(pool, call(origin, canary=b"n%d" % number)))
            assert (provider.connections, other.connections, pool.connections()) == (1, 1, 2)
            based = replace(provider.origin, base_path=b"/team")
            await read(await send(pool, call(based, canary=b"based")))
            assert len(provider.seen) == 4

    POOL.run(story)


# The queue


def test_those_who_wait_are_served_in_order() -> None:
    async def story() -> None:
        async with pooled(replace(LIMITS, max_conns=1)) as (pool, provider):
            held = await hold(pool, provider)
            waiting = []
            for number in range(8):
                waiting.append(asyncio.ensure_future(fetch(pool, provider, b"w%d" % number)))
                await asyncio.sleep(0)
            provider.go_on.set()
            await read(held)
            await asyncio.gather(*waiting)
            assert [seen.canary for seen in provider.seen] == [b"held", *(b"w%d" % number for number in range(8))]
            assert provider.connections == 1

    POOL.run(story)


def test_a_connection_too_old_for_the_next_in_the_queue_frees_its_place() -> None:
    """It is given up, not forgotten: a saturated pool would lose a place every five minutes."""

    async def story() -> None:
        async with pooled(replace(LONG, max_conns=2)) as (pool, provider):
            held = [await hold(pool, provider, b"h%d" % number) for number in range(2)]
            waiting = [asyncio.ensure_future(fetch(pool, provider, b"w%d" % number)) for number in range(4)]
            await settle()
            leap(301)
            provider.go_on.set()
            for answer in held:
                await read(answer)
            async with asyncio.timeout(400):
                await asyncio.wait_for(asyncio.gather(*waiting), WITHIN_S)
            assert provider.connections == 4
            assert pool.connections() == 2

    LEAPING.run(story, within_s=10_000)


@both_loops
def test_a_waiter_that_gave_up_as_it_was_served_hands_on(way: Way) -> None:
    """The connection was in its hands already: the next in the queue gets it, in the same turn of the loop."""

    async def story() -> None:
        async with pooled(replace(LIMITS, max_conns=1)) as (pool, provider):
            lane = Lane(provider.origin, replace(LIMITS, max_conns=1), None)
            connection = await lane.acquire()
            first, second = (asyncio.ensure_future(lane.acquire()) for _ in range(2))
            await asyncio.sleep(0)
            lane.give_back(connection)
            first.cancel()
            assert await second is connection
            with pytest.raises(asyncio.CancelledError):
                await first
            lane.give_back(connection)
            assert lane.take_idle() is connection
            assert lane.in_use == 1
            lane.close()
            await eventually_async(lambda: lane.in_use == 0)
            assert pool.connections() == 0

    way.run(story)


@both_loops
def test_a_waiter_that_gave_up_as_a_place_came_free_hands_on(way: Way) -> None:
    """The place, not a connection: the next in the queue opens one."""

    async def story() -> None:
        async with Provider() as provider:
            lane = Lane(provider.origin, replace(LIMITS, max_conns=1), None)
            connection = await lane.acquire()
            first, second = (asyncio.ensure_future(lane.acquire()) for _ in range(2))
            await asyncio.sleep(0)
            lane.lost(connection)
            first.cancel()
            taken = await asyncio.wait_for(second, WITHIN_S)
            assert taken is not connection
            assert lane.in_use == 1
            with pytest.raises(asyncio.CancelledError):
                await first
            for each in (connection, taken):
                each.abort()
            await eventually_async(lambda: lane.in_use == 0)

    way.run(story)


@both_loops
def test_a_waiter_that_gave_up_and_lost_the_connection_frees_the_place(way: Way) -> None:
    """Handed over, closed and left in one turn: the next in the queue opens another."""

    async def story() -> None:
        async with Provider() as provider:
            lane = Lane(provider.origin, replace(LIMITS, max_conns=1), None)
            connection = await lane.acquire()
            first, second = (asyncio.ensure_future(lane.acquire()) for _ in range(2))
            await asyncio.sleep(0)
            lane.give_back(connection)
            connection.abort()
            first.cancel()
            assert await asyncio.wait_for(second, WITHIN_S) is not connection
            assert lane.in_use == 1
            lane.close()
            await settle()

    way.run(story)


def test_a_place_is_waited_for_no_longer_than_said() -> None:
    """However often a waiter is woken to find that another was faster."""

    async def story() -> None:
        async with pooled(replace(LIMITS, max_conns=2, queue_timeout_s=0.3)) as (pool, provider):
            await hold(pool, provider)
            loop = asyncio.get_running_loop()
            began = loop.time()
            waiting = asyncio.ensure_future(fetch(pool, provider, b"waiting"))
            second = await hold(pool, provider, b"second")
            stop = asyncio.Event()

            async def elbow() -> None:
                """Takes the second place again and again, as soon as it is free."""
                answer = second
                while not stop.is_set():
                    answer.abort()
                    answer = await hold(pool, provider, b"elbow")
                answer.abort()

            elbowing = asyncio.ensure_future(elbow())
            with suppress(UpstreamBusy):
                await waiting
            assert loop.time() - began < 3.0
            stop.set()
            await elbowing

    POOL.run(story)


def test_opening_a_connection_calls_nobody_from_the_queue() -> None:
    """While a connection is opened its place is taken; having opened it frees none."""

    async def story() -> None:
        async with Provider() as provider:
            lane = Lane(provider.origin, replace(LIMITS, max_conns=1, queue_timeout_s=5), None)
            opening = asyncio.ensure_future(lane.acquire())
            await asyncio.sleep(0)
            waiting = asyncio.ensure_future(lane.acquire())
            await asyncio.sleep(0)
            (place,) = lane._queue
            connection = await opening
            await settle()
            assert list(lane._queue) == [place]
            assert not place.done()
            lane.give_back(connection)
            assert await waiting is connection
            lane.close()
            await settle()

    POOL.run(story)
