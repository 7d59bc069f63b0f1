"""The contract of the Upstream port: DESIGN 7's nineteen cases, over the pool and over httpx.

Both are opened against a provider that misbehaves on request, plain and inside TLS, straight and through a proxy.
"""

from __future__ import annotations

import asyncio
import random
import re
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

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
from steward.ports import Answer, Upstream
from tests.servers.misbehaving import SCENARIOS, Fate, Provider, Scenario, server_tls
from tests.servers.upstreams import (
    FORWARDED,
    LIMITS,
    POOL,
    POOL_TLS,
    TARGET,
    TUNNEL,
    TUNNEL_ASYNCIO,
    WAYS,
    Bytes,
    Pieces,
    Way,
    call,
    read,
    send,
)
from tests.servers.waiting import eventually_async

SHORT = replace(LIMITS, header_timeout_s=0.4, silence_timeout_s=0.4)
UNSTAGED = [scenario for scenario in SCENARIOS.values() if not scenario.staged]
SERVED = [scenario for scenario in UNSTAGED if scenario.fate is Fate.SERVED]
EVENTUALLY_POISONED = {"late_bytes", "second_answer_next_packet"}
"""Their poison is on its way while the connection looks idle: a call sent into it would be answered by it, and no
client of HTTP/1.1 could tell. They are played apart from other calls."""

every_way = pytest.mark.parametrize("way", WAYS, ids=str)


def of(*names: str) -> pytest.MarkDecorator:
    """Parametrises over these scenarios."""
    return pytest.mark.parametrize("scenario", [SCENARIOS[name] for name in names], ids=list(names))


async def fetch(upstream: Upstream, provider: Provider, play: str = "honest", canary: bytes = b"canary") -> bytes:
    """One whole call."""
    scenario = SCENARIOS[play]
    return await read(await send(upstream, call(provider.origin, play, canary, scenario.method)))


async def closed(provider: Provider) -> None:
    """Waits until no connection stands."""
    await eventually_async(lambda: provider.open == 0)


# The table: what becomes of each scenario, and of the call after it


@every_way
@pytest.mark.parametrize("scenario", SERVED, ids=lambda scenario: scenario.name)
def test_served_and_the_next_call_gets_its_own(way: Way, scenario: Scenario) -> None:
    """Cases 1 to 7: the answer is exactly the answer; the connection serves again only where it may."""

    async def story() -> None:
        async with way.open() as (upstream, provider):
            answer = await send(upstream, call(provider.origin, scenario.name, b"first", scenario.method))
            body = await read(answer)
            assert answer.status == scenario.status
            assert (b"x-echo", b"first") in answer.headers
            bodyless = scenario.method == b"HEAD" or scenario.status in (204, 304)
            assert body == (b"" if bodyless else page_of(b"first"))
            if not scenario.reuse:
                await closed(provider)
            assert await fetch(upstream, provider, "honest", b"second") == page_of(b"second")
            assert provider.connections == (1 if scenario.reuse else 2)

    way.run(story)


def page_of(canary: bytes) -> bytes:
    """The body that belongs to a canary."""
    return b'{"object": "chat.completion", "note": "answer", "canary": "%b"}' % canary


FAILURES = {
    Fate.REFUSED: (UpstreamBadAnswer, 502),
    Fate.LOST: (UpstreamBroke, 502),
    Fate.TIMES_OUT: (UpstreamTimeout, 504),
}


@every_way
@pytest.mark.parametrize(
    "scenario", [each for each in UNSTAGED if each.fate is not Fate.SERVED], ids=lambda scenario: scenario.name
)
def test_failed_and_the_next_call_gets_its_own(way: Way, scenario: Scenario) -> None:
    """Cases 1, 6, 8: a head that is none is refused, a break breaks, silence ends; the connection goes with it."""

    async def story() -> None:
        async with way.open(SHORT) as (upstream, provider):
            error = await failure_of(upstream, provider, scenario)
            kinds = {scenario.fate: FAILURES.get(scenario.fate, ((UpstreamBroke, UpstreamBadAnswer), 502))}
            expected, status = kinds[scenario.fate]
            assert isinstance(error, expected)
            assert error.status == status
            await closed(provider)
            assert await fetch(upstream, provider, "honest", b"second") == page_of(b"second")

    way.run(story)


async def failure_of(upstream: Upstream, provider: Provider, scenario: Scenario) -> StewardError:
    """The error that a scenario ends in; what came before it is a true beginning of the answer."""
    try:
        answer = await send(upstream, call(provider.origin, scenario.name, b"first"))
    except StewardError as error:
        assert scenario.fate is not Fate.BROKEN
        return error
    assert scenario.fate is not Fate.REFUSED
    with pytest.raises(StewardError) as caught:
        await read(answer)
    assert not answer.complete
    return caught.value


@every_way
@of("cut_in_length", "cut_in_chunk", "cut_between_chunks", "bad_chunk_size", "giant_chunk_size", "silent_in_body")
def test_what_came_before_a_break_is_given_first(way: Way, scenario: Scenario) -> None:
    """Errors are raised after what had arrived before was taken."""

    async def story() -> None:
        async with way.open(SHORT) as (upstream, provider):
            answer = await send(upstream, call(provider.origin, scenario.name, b"first"))
            got = b""
            with suppress(StewardError):
                while (piece := answer.take()) is not None:
                    got += piece
                    await answer.wait()
            assert not answer.complete
            assert len(got) >= 10
            assert page_of(b"first").startswith(got)

    way.run(story)


# 1 to 8, beyond the table


@every_way
def test_trailers_and_words_that_are_ours_are_dropped(way: Way) -> None:
    """Case 7, F9: no trailer becomes a field; `X-Majordomo-*` and hop-by-hop fields end here."""

    async def story() -> None:
        async with way.open() as (upstream, provider):
            for play in ("trailers", "speaks_our_words"):
                answer = await send(upstream, call(provider.origin, play))
                await read(answer)
                names = {name for name, _ in answer.headers}
                assert names <= {b"content-type", b"content-length", b"x-echo"}

    way.run(story)


@every_way
def test_a_byte_on_an_idle_connection_closes_it(way: Way) -> None:
    """Case 5: at once, not at the next call."""

    async def story() -> None:
        async with way.open() as (upstream, provider):
            await fetch(upstream, provider, "blurts_when_told")
            assert provider.open == 1
            provider.go_on.set()
            await closed(provider)

    way.run(story)


@every_way
def test_a_head_just_within_its_limits_passes(way: Way) -> None:
    """Case 8: 250 KiB and 497 fields are a head."""

    async def story() -> None:
        async with way.open() as (upstream, provider):
            answer = await send(upstream, call(provider.origin, "largest_head"))
            await read(answer)
            assert len(answer.headers) == 500
            assert sum(len(name) + len(value) for name, value in answer.headers) > 240 * 1024

    way.run(story)


@every_way
def test_fields_arrive_in_order_with_repeats_and_encoding(way: Way) -> None:
    """Promise 1: nothing is joined, decoded or reordered on the way back."""

    async def story() -> None:
        async with way.open() as (upstream, provider):
            answer = await send(upstream, call(provider.origin, "many_cookies"))
            assert await read(answer) == b"\x1f\x8bnot really gzip"
            assert answer.length == 17
            assert [item for item in answer.headers if item[0] != b"x-echo"] == [
                (b"set-cookie", b"a=1; path=/"),
                (b"x-a", b""),
                (b"set-cookie", b"b=2, c=3"),
                (b"content-encoding", b"gzip"),
                (b"x-latin", b"caf\xe9"),
                (b"content-length", b"17"),
            ]

    way.run(story)


# 9 to 11: both directions at once


@every_way
def test_an_answer_during_the_upload_stops_it(way: Way) -> None:
    """Case 9: the caller is read no more, the answer arrives, the connection goes."""

    async def story() -> None:
        async with way.open() as (upstream, provider):
            body = Pieces([b"x" * 1000], then=Pieces.HANG)
            answer = await send(upstream, call(provider.origin, "early_413", length=10_000), body)
            assert (answer.status, await read(answer)) == (413, page_of(b"canary"))
            await closed(provider)
            assert provider.seen[0].cut

    way.run(story)


@every_way
def test_an_answer_during_an_upload_that_is_not_read(way: Way) -> None:
    """Case 9: the provider answers and lets the upload fill every buffer on the way."""

    async def story() -> None:
        async with way.open() as (upstream, provider):
            body = Pieces(b"x" * 65_536 for _ in range(1_600))
            answer = await send(upstream, call(provider.origin, "early_413_deaf", length=None), body)
            assert (answer.status, await read(answer)) == (413, page_of(b"canary"))
            assert body.given < 1_600
            provider.go_on.set()
            await closed(provider)

    way.run(story)


@every_way
@pytest.mark.parametrize("length", [100, None], ids=["length", "chunked"])
def test_an_upload_cut_short_is_never_ended_cleanly(way: Way, length: int | None) -> None:
    """Case 10: the provider sees a break, not a shorter body."""

    async def story() -> None:
        async with way.open() as (upstream, provider):
            with pytest.raises(CallerGone):
                await send(upstream, call(provider.origin, length=length), Pieces([b"x" * 40], then=Pieces.CUT))
            await closed(provider)
            assert not any(seen.whole for seen in provider.seen)

    way.run(story)


@every_way
def test_a_slow_caller_stops_the_provider(way: Way) -> None:
    """Case 11: of 50 MiB that nobody takes, only what buffers hold leaves the provider; then the rest comes."""

    async def story() -> None:
        async with way.open() as (upstream, provider):
            answer = await send(upstream, call(provider.origin, "fifty_megabytes"))
            await stands_still(lambda: provider.seen[0].sent_bytes)
            assert provider.seen[0].sent_bytes < 25 << 20
            assert len(answer.take() or b"") < 2 << 20
            left = 0
            while (piece := answer.take()) is not None:
                left += len(piece)
                assert len(piece) < 2 << 20
                await answer.wait()
            assert left > 40 << 20

    way.run(story)


@every_way
def test_a_provider_that_does_not_read_stops_the_caller(way: Way) -> None:
    """Case 11, the other way."""

    async def story() -> None:
        async with way.open() as (upstream, provider):
            body = Pieces(b"x" * 65_536 for _ in range(800))
            outbound = call(provider.origin, "deaf_at_first", length=800 * 65_536)
            sending = asyncio.ensure_future(send(upstream, outbound, body))
            await stands_still(lambda: body.given)
            assert 0 < body.given < 400
            provider.go_on.set()
            assert await read(await sending) == page_of(b"canary")
            assert (provider.seen[0].body_bytes, provider.seen[0].whole) == (800 * 65_536, True)

    way.run(story)


async def stands_still(count: Callable[[], int]) -> None:
    """Waits until a count that moved has not moved for a while."""
    last, still = 0, 0

    def settled() -> bool:
        nonlocal last, still
        now = count()
        still = still + 1 if now == last else 0
        last = now
        return now > 0 and still > 40

    await eventually_async(settled, within_s=20)


# 12: which connection, and for how long


@every_way
def test_the_connection_used_last_serves_first(way: Way) -> None:
    """Case 12: LIFO."""

    async def story() -> None:
        async with way.open() as (upstream, provider):
            first = await send(upstream, call(provider.origin, "event_by_event", b"first"))
            await fetch(upstream, provider, "honest", b"second")
            provider.go_on.set()
            await read(first)
            await fetch(upstream, provider, "honest", b"third")
            assert provider.connections == 2
            assert provider.of(b"third")[0].connection == provider.of(b"first")[0].connection

    way.run(story)


@every_way
def test_an_idle_connection_is_given_up(way: Way) -> None:
    """Case 12: after `idle_s`, by itself."""

    async def story() -> None:
        async with way.open(replace(LIMITS, idle_s=0.05)) as (upstream, provider):
            await fetch(upstream, provider)
            await closed(provider)

    way.run(story)


@every_way
def test_what_rests_is_given_up_when_it_is_told_to_and_what_runs_is_not(way: Way) -> None:
    """After a freeze the other side may have gone, and a POST that was written into that is lost."""

    async def story() -> None:
        async with way.open() as (upstream, provider):
            await fetch(upstream, provider)
            upstream.forget_idle()
            await closed(provider)
            await fetch(upstream, provider)
            assert provider.connections == 2
            running = await send(upstream, call(provider.origin, "honest", b"canary"))
            upstream.forget_idle()
            await read(running)
            upstream.forget_idle()
            upstream.forget_idle()

    way.run(story)


@every_way
def test_an_old_connection_is_given_up(way: Way) -> None:
    """Case 12: after `max_age_s` (here: before its first call), however busy."""

    async def story() -> None:
        async with way.open(replace(LIMITS, max_age_s=-1.0)) as (upstream, provider):
            for _ in range(3):
                await fetch(upstream, provider)
            assert provider.connections == 3

    way.run(story)


# 13: nothing is bought twice


@every_way
@of("closes_on_next", "closes_unanswered")
def test_a_post_that_was_written_is_never_sent_twice(way: Way, scenario: Scenario) -> None:
    """Case 13: on a kept connection and on a fresh one."""

    async def story() -> None:
        async with way.open() as (upstream, provider):
            if scenario.name == "closes_on_next":
                await fetch(upstream, provider, "closes_on_next", b"first")
            with pytest.raises(UpstreamBroke):
                await send(upstream, call(provider.origin, "closes_unanswered", b"bought"))
            assert len(provider.of(b"bought")) == 1

    way.run(story)


@every_way
@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS"], ids=bytes.decode)
def test_an_idempotent_call_is_sent_once_more(way: Way, method: bytes) -> None:
    """Case 13: on a fresh connection, when no octet of an answer came."""

    async def story() -> None:
        async with way.open() as (upstream, provider):
            await fetch(upstream, provider, "closes_on_next", b"first")
            answer = await send(upstream, call(provider.origin, "honest", b"again", method))
            await read(answer)
            assert answer.status == 200
            assert [seen.connection for seen in provider.of(b"again")] == [1, 2]

    way.run(story)


@every_way
def test_an_idempotency_key_allows_a_second_try(way: Way) -> None:
    """Case 13: the provider will know the call again."""

    async def story() -> None:
        async with way.open() as (upstream, provider):
            await fetch(upstream, provider, "closes_on_next", b"first")
            outbound = call(provider.origin, "honest", b"again", headers=[(b"idempotency-key", b"k")])
            assert await read(await send(upstream, outbound)) == page_of(b"again")
            assert len(provider.of(b"again")) == 2

    way.run(story)


@every_way
def test_a_second_try_is_the_last(way: Way) -> None:
    """Case 13: once more, not for ever."""

    async def story() -> None:
        async with way.open() as (upstream, provider):
            with pytest.raises(UpstreamBroke):
                await send(upstream, call(provider.origin, "closes_unanswered", b"again", b"GET", length=0))
            assert len(provider.of(b"again")) <= 2

    way.run(story)


@every_way
def test_no_second_try_once_an_octet_of_the_answer_came(way: Way) -> None:
    """Case 13: the provider has begun to work."""

    async def story() -> None:
        async with way.open() as (upstream, provider):
            await fetch(upstream, provider, "begins_on_next", b"first")
            with pytest.raises((UpstreamBroke, UpstreamBadAnswer)):
                await send(upstream, call(provider.origin, "honest", b"again", b"GET"))
            assert len(provider.of(b"again")) == 1

    way.run(story)


@every_way
def test_no_second_try_when_the_body_is_not_held(way: Way) -> None:
    """Case 13: what was streamed is gone."""

    async def story() -> None:
        async with way.open() as (upstream, provider):
            await fetch(upstream, provider, "closes_on_next", b"first")
            outbound = call(provider.origin, "honest", b"again", b"PUT", length=4)
            with pytest.raises(UpstreamBroke):
                await send(upstream, outbound, Pieces([b"ab", b"cd"]))
            assert len(provider.of(b"again")) == 1

    way.run(story)


@every_way
def test_a_connection_found_closed_costs_a_post_nothing(way: Way) -> None:
    """Case 13: the provider closed while it was idle; nothing was written, a fresh connection serves."""

    async def story() -> None:
        async with way.open() as (upstream, provider):
            await fetch(upstream, provider, "closes_idle_when_told", b"first")
            provider.go_on.set()
            await closed(provider)
            assert await fetch(upstream, provider, "honest", b"second") == page_of(b"second")
            assert len(provider.of(b"second")) == 1

    way.run(story)


# 14, 15: the way there


class Resolving(asyncio.SelectorEventLoop):
    """A loop whose names have two addresses, of which the first refuses, and one name that has none."""

    async def getaddrinfo(self, host: object, port: object, **kwargs: object) -> list[tuple[object, ...]]:  # type: ignore[override]
        """As the operating system's, but for what it says."""
        if host == "nowhere.test":
            raise socket.gaierror(socket.EAI_NONAME, "not known")
        stream = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*stream, ("127.0.0.2", port)), (*stream, ("127.0.0.1", port))]


@pytest.mark.parametrize("way", [POOL, POOL_TLS, TUNNEL], ids=str)
def test_an_address_that_refuses_is_passed_over(way: Way) -> None:
    """Case 14: any of the host's addresses will do (through a proxy: the proxy's)."""
    way = replace(way, loop=Resolving)

    async def story() -> None:
        async with way.open() as (upstream, provider):
            assert await fetch(upstream, provider) == page_of(b"canary")

    way.run(story)


@pytest.mark.parametrize("way", [POOL, TUNNEL], ids=str)
@pytest.mark.parametrize("host", ["nowhere.test", "127.0.0.1"], ids=["unknown", "refuses"])
def test_no_address_at_all(way: Way, host: str) -> None:
    """Case 14: unknown to the resolver, or nobody listens."""
    way = replace(way, loop=Resolving)

    async def story() -> None:
        async with way.open() as (upstream, provider):
            away = replace(provider.origin, host=host, port=free_port())
            with pytest.raises(UpstreamUnreachable):
                await send(upstream, call(away))

    way.run(story)


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@pytest.mark.parametrize("way", [POOL, TUNNEL, TUNNEL_ASYNCIO], ids=str)
def test_connecting_has_its_time(way: Way) -> None:
    """Case 14: an address that never answers is given up within the connect limit."""

    async def story() -> None:
        with socket.socket() as deaf, socket.socket() as guest:
            deaf.bind(("127.0.0.1", 0))
            deaf.listen(0)
            guest.setblocking(False)
            with suppress(BlockingIOError):
                guest.connect(deaf.getsockname())
            origin = Origin("https" if way.tls else "http", "127.0.0.1", deaf.getsockname()[1])
            async with way.upstream(replace(LIMITS, connect_timeout_s=0.3)) as upstream:
                with pytest.raises(UpstreamTimeout):
                    await send(upstream, call(origin))

    way.run(story)


TLS_WAYS = pytest.mark.parametrize("way", [POOL_TLS, TUNNEL, TUNNEL_ASYNCIO], ids=str)


@TLS_WAYS
def test_tls_names_the_host_and_speaks_http_1_1(way: Way) -> None:
    """Case 15: SNI, ALPN `http/1.1` though the provider would rather speak h2."""
    asked: list[str | None] = []

    async def story() -> None:
        tls = server_tls(authority())
        tls.sni_callback = lambda _socket, name, _context: asked.append(name)
        async with Provider(tls=tls) as provider, way.upstream() as upstream:
            outbound = call(replace(provider.origin, host="localhost"))
            assert await read(await send(upstream, outbound)) == page_of(b"canary")
            assert provider.protocols == ["http/1.1"]
            assert provider.seen[0].get(b"host") == b"localhost:%d" % provider.port

    way.run(story)
    assert asked == ["localhost"]


def authority() -> trustme.CA:
    """The authority that every way trusts."""
    from tests.servers.upstreams import authority as shared

    return shared()


def too_old() -> ssl.SSLContext:
    """A server that knows nothing newer than TLS 1.1."""
    tls = server_tls(authority())
    tls.set_ciphers("ALL:@SECLEVEL=0")
    tls.minimum_version = ssl.TLSVersion.TLSv1
    tls.maximum_version = ssl.TLSVersion.TLSv1_1
    return tls


@TLS_WAYS
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize(
    "tls",
    [lambda: server_tls(trustme.CA()), lambda: server_tls(authority(), "api.other.example"), too_old],
    ids=["unknown authority", "another's name", "TLS 1.1"],
)
def test_tls_that_is_not_the_providers_is_refused(way: Way, tls: Callable[[], ssl.SSLContext]) -> None:
    """Case 15: and not one octet of the call is sent."""

    async def story() -> None:
        async with Provider(tls=tls()) as provider, way.upstream(replace(LIMITS, max_conns=2)) as upstream:
            for _ in range(4):  # more often than there are places: a failure gives its place back
                with pytest.raises(UpstreamUnreachable):
                    await send(upstream, call(provider.origin))
            assert provider.seen == []

    way.run(story)


# 16, 17: places, and giving them back


@every_way
def test_a_call_waits_for_a_place_and_gets_it(way: Way) -> None:
    """Case 16: the queue."""

    async def story() -> None:
        async with way.open(replace(LIMITS, max_conns=1)) as (upstream, provider):
            first = await send(upstream, call(provider.origin, "event_by_event", b"first"))
            second = asyncio.ensure_future(fetch(upstream, provider, "honest", b"second"))
            await eventually_async(lambda: len(provider.seen) == 1 and not second.done())
            provider.go_on.set()
            await read(first)
            assert await second == page_of(b"second")
            assert provider.connections == 1

    way.run(story)


@every_way
def test_a_call_that_waits_too_long_for_a_place_is_told_so(way: Way) -> None:
    """Case 16: 503 after `queue_timeout_s`; another provider's places are its own."""

    async def story() -> None:
        limits = replace(LIMITS, max_conns=2, queue_timeout_s=0.1)
        async with way.open(limits) as (upstream, provider), Provider(provider_authority(way)) as other:
            held = [await send(upstream, call(provider.origin, "event_by_event")) for _ in range(2)]
            with pytest.raises(UpstreamBusy) as caught:
                await send(upstream, call(provider.origin))
            assert caught.value.status == 503
            assert len(provider.seen) == 2
            assert await fetch(upstream, other) == page_of(b"canary")
            for answer in held:
                answer.abort()
            assert await fetch(upstream, provider) == page_of(b"canary")

    way.run(story)


def provider_authority(way: Way) -> trustme.CA | None:
    """What a provider on this way is made with."""
    return authority() if way.tls else None


@every_way
@of("silent", "silent_in_head", "deaf_at_first")
def test_a_cancelled_call_ends_its_connection(way: Way, scenario: Scenario) -> None:
    """Case 17: while it waits for the head; the provider sees the close within a second, the place is free."""

    async def story() -> None:
        async with way.open(replace(LIMITS, max_conns=1)) as (upstream, provider):
            sending = asyncio.ensure_future(send(upstream, call(provider.origin, scenario.name)))
            await eventually_async(lambda: len(provider.seen) == 1)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            provider.go_on.set()
            await eventually_async(lambda: provider.open == 0, within_s=1.0)
            assert await fetch(upstream, provider, "honest", b"second") == page_of(b"second")

    way.run(story)


@every_way
@pytest.mark.parametrize("play", ["event_by_event", "fifty_megabytes", "silent_in_body"])
def test_an_aborted_answer_ends_its_connection(way: Way, play: str) -> None:
    """Case 17: while the body comes; twice is once."""

    async def story() -> None:
        async with way.open(replace(LIMITS, max_conns=1)) as (upstream, provider):
            answer = await send(upstream, call(provider.origin, play))
            answer.abort()
            answer.abort()
            provider.go_on.set()
            await eventually_async(lambda: provider.open == 0, within_s=1.0)
            assert await fetch(upstream, provider, "honest", b"second") == page_of(b"second")

    way.run(story)


@every_way
def test_calls_cancelled_in_the_queue_take_no_place(way: Way) -> None:
    """Cases 16 and 17 together: whoever leaves the queue leaves it whole."""

    async def story() -> None:
        async with way.open(replace(LIMITS, max_conns=1)) as (upstream, provider):
            first = await send(upstream, call(provider.origin, "event_by_event", b"first"))
            waiting = [asyncio.ensure_future(fetch(upstream, provider, "honest", b"w%d" % n)) for n in range(6)]
            await asyncio.sleep(0)
            for task in waiting[:3]:
                task.cancel()
            provider.go_on.set()
            await read(first)
            waiting[3].cancel()
            done = await asyncio.gather(*waiting, return_exceptions=True)
            assert done[4:] == [page_of(b"w4"), page_of(b"w5")]
            assert await fetch(upstream, provider, "honest", b"last") == page_of(b"last")

    way.run(story)


@every_way
def test_an_abort_after_the_end_does_no_harm(way: Way) -> None:
    """`abort` is safe at any time: the connection may be another's by then."""

    async def story() -> None:
        async with way.open() as (upstream, provider):
            first = await send(upstream, call(provider.origin, "honest", b"first"))
            await read(first)
            second = await send(upstream, call(provider.origin, "event_by_event", b"second"))
            first.abort()
            provider.go_on.set()
            assert await read(second) == page_of(b"second")
            assert provider.connections == 1

    way.run(story)


@every_way
def test_close_ends_every_connection(way: Way) -> None:
    """Running calls and idle ones."""

    async def story() -> None:
        async with way.open() as (upstream, provider):
            running = await send(upstream, call(provider.origin, "silent_in_body"))
            await fetch(upstream, provider)
            await upstream.close()
            await eventually_async(lambda: provider.open == 0, within_s=1.0)
            with pytest.raises(StewardError):
                await read(running)

    way.run(story)


# 18, 19: what the provider sees


@every_way
def test_the_request_is_what_was_given_and_nothing_else(way: Way) -> None:
    """Case 18, promise 1: `host` is the provider's, framing is ours, the rest as given; no library's own fields."""

    async def story() -> None:
        async with way.open() as (upstream, provider):
            given = [(b"x-b", b"1"), (b"accept-encoding", b"br"), (b"x-a", b"caf\xe9"), (b"x-b", b"2"), (b"x-e", b"")]
            outbound = call(provider.origin, headers=given)
            await read(await send(upstream, outbound))
            seen = provider.seen[0]
            authority = (b"host", b"127.0.0.1:%d" % provider.port)
            assert seen.fields == [authority, *outbound.headers, (b"content-length", b"2")]
            assert (seen.method, seen.target, bytes(seen.body)) == (b"POST", TARGET, b"{}")

    way.run(story)


@every_way
@pytest.mark.parametrize(
    "target",
    [
        b"/v1/files/a%2Fb%2e%2E",
        b"/v1/x/../y/./z",
        b"//evil.example/v1",
        b"/v1//chat///completions/",
        b"/v1/m?q=%20&q=+&empty=&=x&&a[]=1|2",
        b"/v1/m?next=http://evil.example/?x#y",
        b'/v1/caf%C3%A9/~user/;p=1/{id}/"quoted"/`tick`/^',
    ],
)
def test_the_target_is_not_rewritten(way: Way, target: bytes) -> None:
    """Case 19: not one octet; whether a target may pass is decided before."""

    async def story() -> None:
        async with way.open() as (upstream, provider):
            await read(await send(upstream, call(provider.origin, target=target)))
            assert provider.seen[0].target == target

    way.run(story)


@every_way
def test_a_redirect_is_not_followed(way: Way) -> None:
    """Case 18: it is the caller's to follow."""

    async def story() -> None:
        async with way.open() as (upstream, provider):
            answer = await send(upstream, call(provider.origin, "redirects"))
            assert (b"location", b"http://169.254.169.254/latest/meta-data") in answer.headers
            await read(answer)
            assert len(provider.seen) == 1

    way.run(story)


@every_way
def test_two_providers_share_no_connection(way: Way) -> None:
    """Case 18: the key of the pool is the origin, its port included."""

    async def story() -> None:
        async with way.open() as (upstream, provider), Provider(provider_authority(way)) as other:
            for _ in range(2):
                for each in (provider, other):
                    await fetch(upstream, each)
            assert [len(provider.seen), len(other.seen)] == [2, 2]
            assert [provider.connections, other.connections] == [1, 1]

    way.run(story)


# Bodies on their way


@every_way
@pytest.mark.parametrize("method", [b"GET", b"DELETE", b"HEAD"], ids=bytes.decode)
def test_a_message_without_a_length_gets_none(way: Way, method: bytes) -> None:
    """Promise 1: a GET without body stays one."""

    async def story() -> None:
        async with way.open() as (upstream, provider):
            await read(await send(upstream, call(provider.origin, method=method, length=0, has_length=False)))
            assert provider.seen[0].get(b"content-length") is None
            assert provider.seen[0].get(b"transfer-encoding") is None

    way.run(story)


@every_way
def test_a_post_of_nothing_says_so(way: Way) -> None:
    """A caller's `content-length: 0` arrives."""

    async def story() -> None:
        async with way.open() as (upstream, provider):
            await read(await send(upstream, call(provider.origin, length=0)))
            assert provider.seen[0].get(b"content-length") == b"0"

    way.run(story)


@every_way
@pytest.mark.parametrize("length", [300_003, None], ids=["length", "chunked"])
@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
def test_a_body_arrives_as_it_was(way: Way, length: int | None, streamed: bool) -> None:
    """With its length, or in chunks when nobody knows it."""
    data = random.Random(1).randbytes(300_003)

    async def story() -> None:
        async with way.open() as (upstream, provider):
            body = Pieces(data[i : i + 7_777] for i in range(0, len(data), 7_777)) if streamed else Bytes(data)
            assert await read(await send(upstream, call(provider.origin, length=length), body)) == page_of(b"canary")
            seen = provider.seen[0]
            assert bytes(seen.body) == data
            assert (seen.get(b"transfer-encoding") == b"chunked") == (length is None)
            assert await fetch(upstream, provider) == page_of(b"canary")
            assert provider.connections == 1

    way.run(story)


@every_way
def test_an_expectation_holds_the_body_back(way: Way) -> None:
    """RFC 9110, 10.1.1: the caller is asked for his body only once the provider said 100; its refusal spares it."""

    async def story() -> None:
        async with way.open() as (upstream, provider):
            expect = [(b"expect", b"100-continue")]
            body = Pieces([b"{}"])
            outbound = call(provider.origin, "says_continue_first", headers=expect, expects_continue=True)
            assert await read(await send(upstream, outbound, body)) == page_of(b"canary")
            assert body.given == 1
            spared = Pieces([b"{}"])
            outbound = call(provider.origin, "early_413", headers=expect, expects_continue=True)
            answer = await send(upstream, outbound, spared)
            assert (answer.status, await read(answer)) == (413, page_of(b"canary"))
            assert spared.given == 0

    way.run(story)


@pytest.mark.parametrize("way", [POOL, TUNNEL], ids=str)
def test_an_expectation_that_nobody_meets_ends(way: Way) -> None:
    """After a second the body goes all the same."""

    async def story() -> None:
        async with way.open() as (upstream, provider):
            expect = [(b"expect", b"100-continue")]
            outbound = call(provider.origin, "honest", headers=expect, expects_continue=True)
            assert await read(await send(upstream, outbound, Pieces([b"{}"]))) == page_of(b"canary")

    way.run(story)


# The answer's own promises


@every_way
def test_take_never_waits_and_what_is_there_is_given(way: Way) -> None:
    """The first half arrives while the second does not exist yet."""

    async def story() -> None:
        async with way.open() as (upstream, provider):
            answer = await send(upstream, call(provider.origin, "event_by_event"))
            await answer.wait()
            half = answer.take()
            assert half
            assert page_of(b"canary").startswith(half)
            assert answer.take() == b""
            assert not answer.complete
            provider.go_on.set()
            assert half + await read(answer) == page_of(b"canary")
            assert answer.take() is None

    way.run(story)


@every_way
def test_complete_is_known_with_the_last_piece(way: Way) -> None:
    """Whoever relays must know before he sends it."""

    async def story() -> None:
        async with way.open() as (upstream, provider):
            answer = await send(upstream, call(provider.origin, "honest"))
            got = b""
            while not answer.complete:
                await answer.wait()
                got += answer.take() or b""
            assert got == page_of(b"canary")

    way.run(story)


@pytest.mark.parametrize("way", [way for way in WAYS if way is not FORWARDED], ids=str)
def test_on_sent_is_told_when_the_first_octet_goes_out(way: Way) -> None:
    """And not before there is a connection."""

    async def story() -> None:
        told: list[int] = []
        async with way.open() as (upstream, provider):
            await read(await send(upstream, call(provider.origin), on_sent=lambda: told.append(len(provider.seen))))
            assert told == [0]
            away = replace(provider.origin, port=free_port())
            with pytest.raises(UpstreamUnreachable):
                await send(upstream, call(away), on_sent=lambda: told.append(-1))
            assert told == [0]

    way.run(story)


# Fifty callers


OTHERS = re.compile(rb"caller-\d+-\d+")


@every_way
def test_fifty_callers_among_every_scenario_see_only_their_own(way: Way) -> None:
    """F9: over few connections, in every order; whatever arrives is the caller's own or nothing."""
    plays = [each for each in UNSTAGED if each.name not in EVENTUALLY_POISONED]

    async def caller(upstream: Upstream, provider: Provider, number: int) -> int:
        chance = random.Random(number)
        served = 0
        for turn in range(6):
            scenario = chance.choice(plays)
            canary = b"caller-%d-%d" % (number, turn)
            got: list[bytes] = []
            with suppress(StewardError):
                answer = await send(upstream, call(provider.origin, scenario.name, canary, scenario.method))
                got += [name + value for name, value in answer.headers]
                got += [await taken(answer)]
                served += 1
            assert set(OTHERS.findall(b"\n".join(got))) <= {canary}
        return served

    async def story() -> None:
        async with way.open(replace(LIMITS, header_timeout_s=1.0, silence_timeout_s=1.0, max_conns=16)) as (
            upstream,
            provider,
        ):
            served = await asyncio.gather(*(caller(upstream, provider, number) for number in range(50)))
            assert sum(served) > 75

    way.run(story, within_s=120)


async def taken(answer: Answer) -> bytes:
    """What arrives before the end, or before the break."""
    got = b""
    with suppress(StewardError):
        while (piece := answer.take()) is not None:
            got += piece
            await answer.wait()
    return got


@every_way
@of(*sorted(EVENTUALLY_POISONED))
def test_fifty_idle_connections_poisoned_at_once_serve_nobody(way: Way, scenario: Scenario) -> None:
    """F9: late bytes end the connections they came on."""

    async def story() -> None:
        async with way.open() as (upstream, provider):
            names = [b"caller-%d-0" % number for number in range(50)]
            plays = [send(upstream, call(provider.origin, scenario.name, name)) for name in names]
            answers = await asyncio.gather(*plays)
            assert await asyncio.gather(*map(read, answers)) == [page_of(name) for name in names]
            await closed(provider)
            again = [fetch(upstream, provider, "honest", name) for name in names]
            assert await asyncio.gather(*again) == [page_of(name) for name in names]

    way.run(story)
