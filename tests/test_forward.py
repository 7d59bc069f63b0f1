"""The pool's own: which connection serves, for how long, who waits for it, and that a place is never lost.

What any way to the provider promises, the nineteen cases, is in `tests/contracts/test_upstream.py`.
"""

from __future__ import annotations

import asyncio
import os
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from steward.errors import (
    CallerGone,
    StewardError,
    UpstreamBadAnswer,
    UpstreamBroke,
    UpstreamBusy,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from steward.exchange import Origin
from steward.forward import Lane, Pool, PoolLimits, tls_context
from steward.ports import Answer
from tests.servers.misbehaving import Provider
from tests.servers.upstreams import LIMITS, POOL, POOL_ASYNCIO, Bytes, Pieces, Way, call, read, send, settle
from tests.servers.waiting import eventually_async

WITHIN_S = 20.0
LONG = PoolLimits(connect_timeout_s=500, header_timeout_s=1_000, silence_timeout_s=1_000, queue_timeout_s=1_000)
"""The limits of production for idle and old connections; the others out of the way of a clock that leaps."""


class LeapingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock a test sets forward."""

    leapt_s = 0.0

    def time(self) -> float:
        """Later than it is."""
        return super().time() + self.leapt_s


LEAPING = replace(POOL_ASYNCIO, name="leaping", loop=LeapingLoop)
both_loops = pytest.mark.parametrize("way", [POOL, POOL_ASYNCIO], ids=str)


def leap(seconds: float) -> None:
    """Sets the clock forward."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, LeapingLoop)
    loop.leapt_s += seconds


@asynccontextmanager
async def pooled(limits: PoolLimits = LIMITS) -> AsyncIterator[tuple[Pool, Provider]]:
    """A pool, and a provider of its own."""
    async with Provider() as provider:
        pool = Pool(limits)
        try:
            yield pool, provider
        finally:
            await pool.close()
            await settle()
            assert pool.connections() == 0


async def fetch(pool: Pool, provider: Provider, canary: bytes = b"canary", play: str = "honest") -> None:
    """One call; its answer is its own."""
    got = await read(await send(pool, call(provider.origin, play, canary)))
    assert got.count(b'"canary": "%b"' % canary) == got.count(b'"canary": ') == 1


async def hold(pool: Pool, provider: Provider, canary: bytes = b"held") -> Answer:
    """A call whose answer goes on until `provider.go_on`."""
    return await send(pool, call(provider.origin, "event_by_event", canary))


def connection_of(provider: Provider, canary: bytes) -> int:
    """Over which of its connections a call came."""
    (seen,) = provider.of(canary)
    return seen.connection


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


# Places, given back whatever happens

ENDS = {
    "refused": ("garbage", UpstreamBadAnswer),
    "lost": ("closes_unanswered", UpstreamBroke),
    "giant": ("giant_head", UpstreamBadAnswer),
    "late": ("silent", UpstreamTimeout),
}


@both_loops
@pytest.mark.parametrize("name", ENDS)
def test_a_failed_call_gives_its_place_back(way: Way, name: str) -> None:
    """Ten in a row over one place."""
    play, error = ENDS[name]

    async def story() -> None:
        async with pooled(replace(LIMITS, max_conns=1, header_timeout_s=0.05)) as (pool, provider):
            for _ in range(10):
                with pytest.raises(error):
                    await send(pool, call(provider.origin, play))
            await fetch(pool, provider)
            assert pool.connections() == 1

    way.run(story)


@both_loops
def test_a_connection_that_cannot_be_opened_gives_its_place_back(way: Way) -> None:
    """Refused, unknown, and not TLS at all; those in the queue are told for themselves."""

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()

    async def story() -> None:
        async with scripted(plain) as origin:
            pool = Pool(replace(LIMITS, max_conns=1), tls_context(None))
            nobody = Origin("http", "127.0.0.1", 9)
            for away in (nobody, Origin("http", "a..invalid", 80), replace(origin, scheme="https")):
                calls = [send(pool, call(away)) for _ in range(4)]
                done = await asyncio.gather(*calls, return_exceptions=True)
                assert [type(each) for each in done] == [UpstreamUnreachable] * 4
                assert pool.connections() == 0
            await pool.close()

    way.run(story)


@both_loops
def test_a_call_cancelled_while_it_connects_gives_its_place_back(way: Way) -> None:
    """Nothing of the half-open connection stays."""

    async def story() -> None:
        async with pooled(replace(LIMITS, max_conns=2)) as (pool, provider):
            for turns in range(12):
                calls = [asyncio.ensure_future(send(pool, call(provider.origin, "silent"))) for _ in range(4)]
                for _ in range(turns):
                    await asyncio.sleep(0)
                for each in calls:
                    each.cancel()
                await asyncio.gather(*calls, return_exceptions=True)
                await eventually_async(lambda: pool.connections() == 0)
            await fetch(pool, provider)

    way.run(story)


def test_a_caller_who_leaves_his_upload_gives_the_place_back() -> None:
    async def story() -> None:
        async with pooled(replace(LIMITS, max_conns=1)) as (pool, provider):
            for _ in range(5):
                with pytest.raises(CallerGone):
                    await send(pool, call(provider.origin, length=100), Pieces([b"ab"], then=Pieces.CUT))
            await fetch(pool, provider)
            assert all(seen.cut for seen in provider.seen[:-1])

    POOL.run(story)


# One connection, two calls


@both_loops
@pytest.mark.parametrize("places", [1, 3])
def test_calls_on_one_connection_never_mix(way: Way, places: int) -> None:
    """Sixty calls over few connections; some cancelled, some aborted, some slow to take: to each his own."""
    plays = ["honest", "honest_chunked", "honest_drop_by_drop", "says_continue_first", "extra_bytes", "cut_in_chunk"]

    async def one(pool: Pool, provider: Provider, number: int) -> int:
        chance = random.Random(number)
        canary = b"caller-%d" % number
        outbound = call(provider.origin, chance.choice(plays), canary)
        body = Bytes(b"{}") if chance.random() < 0.5 else Pieces([b"{", b"}"])
        try:
            answer = await send(pool, outbound, body)
            assert (b"x-echo", canary) in answer.headers
            for _ in range(chance.randrange(20)):
                await asyncio.sleep(0)
            if chance.random() < 0.2:
                answer.abort()
            got = await read(answer)
        except StewardError:
            return 0
        assert got.count(b"caller-") == got.count(canary) == 1
        return 1

    async def story() -> None:
        async with pooled(replace(LIMITS, max_conns=places)) as (pool, provider):
            calls = [asyncio.ensure_future(one(pool, provider, number)) for number in range(60)]
            chance = random.Random(places)
            for each in chance.sample(calls, 12):
                for _ in range(chance.randrange(30)):
                    await asyncio.sleep(0)
                each.cancel()
            done = await asyncio.gather(*calls, return_exceptions=True)
            wrong = [each for each in done if isinstance(each, AssertionError)]
            assert not wrong
            assert sum(each for each in done if isinstance(each, int)) > 20
            await eventually_async(lambda: pool.connections() <= places)
            await fetch(pool, provider, b"last")

    way.run(story)


@both_loops
def test_an_answer_that_nobody_took_stays_its_callers(way: Way) -> None:
    """Its connection serves the next call meanwhile; taking it late touches that one in nothing."""

    async def story() -> None:
        async with pooled(replace(LIMITS, max_conns=1)) as (pool, provider):
            first = await send(pool, call(provider.origin, canary=b"first"))
            await fetch(pool, provider, b"second")
            third = await hold(pool, provider, b"third")
            assert b"first" in await read(first)
            first.abort()
            provider.go_on.set()
            assert b"third" in await read(third)
            assert provider.connections == 1

    way.run(story)


def test_two_calls_at_once_take_two_connections() -> None:
    """An idle connection is given to one of them alone."""

    async def story() -> None:
        async with pooled() as (pool, provider):
            await fetch(pool, provider, b"first")
            await asyncio.gather(*(fetch(pool, provider, b"n%d" % number) for number in range(2)))
            assert connection_of(provider, b"n0") != connection_of(provider, b"n1")

    POOL.run(story)


# Deadlines

Play = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def scripted(play: Play) -> AsyncIterator[Origin]:
    """A provider that does this on every connection."""
    tasks: set[asyncio.Task[None]] = set()

    async def met(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with suppress(asyncio.CancelledError, ConnectionError):
            await play(reader, writer)
        writer.transport.abort()

    server = await asyncio.start_server(met, "127.0.0.1", 0)
    try:
        yield Origin("http", "127.0.0.1", server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def turn(seconds: float) -> None:
    """Lets the loop go on for a while."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.call_later(seconds, future.set_result, None)
    await future


@pytest.mark.parametrize(
    "drops", [b"x-a: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", b"\r\nHTTP/1.1 103 X\r\n"]
)
def test_the_head_has_its_time_however_alive_it_looks(drops: bytes) -> None:
    """`header_timeout_s` is to the head's end: octets before it do not lengthen it, nor do interim answers."""

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 103 X\r\n")
        while True:
            for octet in drops:
                writer.write(bytes([octet]))
                await turn(0.02)

    async def story() -> None:
        async with scripted(drip) as origin:
            pool = Pool(replace(LIMITS, header_timeout_s=0.2, silence_timeout_s=10))
            async with asyncio.timeout(2.0):
                with pytest.raises(UpstreamTimeout):
                    await send(pool, call(origin))
            await pool.close()

    POOL.run(story)


def test_a_body_has_no_total_time() -> None:
    """Silence alone ends it: what drips goes on."""

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 40\r\n\r\n")
        for _ in range(40):
            writer.write(b"x")
            await turn(0.02)
        await reader.read()

    async def story() -> None:
        async with scripted(drip) as origin:
            pool = Pool(replace(LIMITS, header_timeout_s=0.2, silence_timeout_s=0.3))
            assert await read(await send(pool, call(origin))) == b"x" * 40
            await pool.close()

    POOL.run(story)


def test_a_caller_who_does_not_take_is_not_the_providers_silence() -> None:
    """While nothing is read from the provider, its time does not run; then it begins anew."""

    async def story() -> None:
        async with pooled(replace(LIMITS, silence_timeout_s=0.2)) as (pool, provider):
            answer = await send(pool, call(provider.origin, "fifty_megabytes"))
            await turn(0.8)
            size = 0
            while (piece := answer.take()) is not None:
                size += len(piece)
                await answer.wait()
            assert size == 52_428_800

    POOL.run(story)


def test_deadlines_are_looked_at_as_often_as_the_shortest_needs() -> None:
    assert PoolLimits().sweep_s == 1.0
    assert PoolLimits(header_timeout_s=0.4).sweep_s == pytest.approx(0.1)
    assert PoolLimits(silence_timeout_s=0.4).sweep_s == pytest.approx(0.1)
    assert PoolLimits(idle_s=0.4).sweep_s == pytest.approx(0.1)


# TLS


def test_tls_is_verified_and_new(tmp_path: Path) -> None:
    """1.2 and up, names checked, HTTP/1.1 alone; one's own authorities where a file names them."""
    context = tls_context(None)
    assert (context.minimum_version, context.verify_mode) == (ssl.TLSVersion.TLSv1_2, ssl.CERT_REQUIRED)
    assert context.check_hostname
    authority = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(os.fspath(authority))
    own = tls_context(str(authority))
    assert [each["issuer"] for each in own.get_ca_certs()] == [own.get_ca_certs()[0]["subject"]]
    assert own.check_hostname
