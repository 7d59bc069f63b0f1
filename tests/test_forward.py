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
    UpstreamTimeout,
    UpstreamUnreachable,
)
from steward.exchange import Origin
from steward.forward import Pool, PoolLimits, tls_context
from tests.servers.misbehaving import Provider
from tests.servers.pools import (
    both_loops,
    connection_of,
    fetch,
    hold,
    pooled,
)
from tests.servers.upstreams import LIMITS, POOL, Bytes, Pieces, Way, call, read, send
from tests.servers.waiting import eventually_async

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
    """Ten in a row over one place. Only who is to be late has little time: a busy machine makes others late too."""
    play, error = ENDS[name]
    patience_s = 0.2 if error is UpstreamTimeout else LIMITS.header_timeout_s

    async def story() -> None:
        async with pooled(replace(LIMITS, max_conns=1, header_timeout_s=patience_s)) as (pool, provider):
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
