"""What the way through an egress proxy adds to the contract: which calls take it, and what the proxy itself may do."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import uvloop

from steward.adapters.httpx_upstream import HttpxUpstream, goes_through_proxy
from steward.errors import BadRequest, SettingError, UpstreamFault, UpstreamTimeout, UpstreamUnreachable
from steward.exchange import Origin
from steward.forward import PoolLimits
from steward.words import Secret
from tests.servers.egress_proxy import EgressProxy
from tests.servers.misbehaving import Provider, client_tls, server_tls
from tests.servers.upstreams import LIMITS, TUNNEL, authority, call, read, send, settle

OPENAI = Origin("https", "api.openai.com", 443)


def at(host: str, port: int = 443, scheme: str = "https") -> Origin:
    """An origin."""
    return Origin(scheme, host, port)


@pytest.mark.parametrize(
    ("origin", "no_proxy", "expected"),
    [
        (OPENAI, "", True),
        (OPENAI, "*", False),
        (OPENAI, "api.openai.com", False),
        (OPENAI, "API.OpenAI.com", False),
        (OPENAI, "openai.com", False),
        (OPENAI, ".openai.com", False),
        (OPENAI, "*.openai.com", False),
        (OPENAI, "openai.com.", False),
        (OPENAI, "ai.com", True),
        (OPENAI, "api.openai.co", True),
        (OPENAI, "com.evil", True),
        (OPENAI, "10.0.0.0/8, api.openai.com ,x", False),
        (OPENAI, "a.example b.example api.openai.com", False),
        (OPENAI, "api.openai.com:443", False),
        (OPENAI, "api.openai.com:8443", True),
        (OPENAI, ",,  ,", True),
        (OPENAI, ".", True),
        (OPENAI, "10.0.0.0/33", True),
        (at("API.openai.com."), "api.openai.com", False),
        (at("openai.com"), ".openai.com", False),
        (at("10.1.2.3"), "10.0.0.0/8", False),
        (at("10.1.2.3"), "10.1.2.3", False),
        (at("10.1.2.3"), "10.1.2.3:443", False),
        (at("10.1.2.3", 8443), "10.1.2.3:443", True),
        (at("10.1.2.3"), "11.0.0.0/8", True),
        (at("10.1.2.3"), "2.3", True),
        (at("10.1.2.3"), "10.1.2.3/8", False),
        (at("fd00::1"), "fd00::/8", False),
        (at("fd00::1"), "fd00:0::1", False),
        (at("fd00::1"), "[fd00::1]:443", False),
        (at("fd00::1"), "[fd00::1]:444", True),
        (at("fd00::1"), "10.0.0.0/8", True),
        (at("127.0.0.1"), "", False),
        (at("127.8.9.1"), "", False),
        (at("::1"), "", False),
        (at("localhost"), "", False),
        (at("llm.internal", 80, "http"), "", False),
    ],
)
def test_which_calls_go_through_the_proxy(origin: Origin, no_proxy: str, expected: bool) -> None:
    """`*`, hosts, suffixes, addresses, ranges, ports; never loopback, never plain http."""
    assert goes_through_proxy(origin, True, no_proxy) is expected
    assert goes_through_proxy(origin, False, no_proxy) is False


def test_without_a_proxy_nothing_goes_through_one() -> None:
    """`NO_PROXY` alone decides nothing."""
    assert goes_through_proxy(OPENAI, False, "") is False


Story = Callable[[], Coroutine[Any, Any, None]]
both_loops = pytest.mark.parametrize("loop", [uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])


def run(story: Story, loop: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop) -> None:
    """Runs a story that must not hang."""
    replace(TUNNEL, loop=loop).run(story, within_s=10)


@asynccontextmanager
async def through(
    proxy: EgressProxy, url: str | None = None, limits: PoolLimits = LIMITS
) -> AsyncIterator[HttpxUpstream]:
    """The upstream through this proxy."""
    upstream = HttpxUpstream(limits, Secret(url or proxy.url), client_tls(authority()))
    try:
        yield upstream
    finally:
        await upstream.close()
        await settle()


def test_credentials_of_the_proxy_go_to_the_proxy_alone() -> None:
    """Percent-decoded, as Basic; the provider's go to the provider alone."""

    async def story() -> None:
        async with Provider(authority()) as provider, EgressProxy("user:p@ss") as proxy:
            url = proxy.url.replace("http://", "http://user:p%40ss@")
            async with through(proxy, url) as upstream:
                outbound = call(provider.origin, headers=[(b"authorization", b"Bearer sk-provider")])
                await read(await send(upstream, outbound))
            credential = base64.b64encode(b"user:p@ss")
            assert b"Basic " + credential in proxy.heads[0]
            assert b"sk-provider" not in proxy.heads[0]
            assert provider.seen[0].get(b"authorization") == b"Bearer sk-provider"
            assert provider.seen[0].get(b"proxy-authorization") is None

    run(story)


def test_a_proxy_that_wants_other_credentials() -> None:
    """407 is ours to bear, not the caller's: 502, and nothing of the call was sent."""

    async def story() -> None:
        async with Provider(authority()) as provider, EgressProxy("user:other") as proxy, through(proxy) as upstream:
            with pytest.raises(UpstreamUnreachable, match="egress proxy"):
                await send(upstream, call(provider.origin))
            assert provider.connections == 0

    run(story)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"HTTP/1.1 403 Forbidden\r\ncontent-length: 6\r\n\r\nnobody", UpstreamUnreachable),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", UpstreamUnreachable),
        (b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", UpstreamTimeout),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000, UpstreamUnreachable),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", UpstreamUnreachable),
    ],
    ids=["refuses", "is none", "answers itself", "never ends its head", "switches"],
)
@both_loops
def test_a_proxy_that_makes_no_tunnel(
    said: bytes, error: type[UpstreamFault], loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """Whatever it says instead: no call is sent into it, no octet of it is taken for an answer."""

    async def story() -> None:
        async with Provider(authority()) as provider, EgressProxy(connect_answer=said) as proxy:
            async with through(proxy, limits=replace(LIMITS, connect_timeout_s=0.3)) as upstream:
                with pytest.raises(error):
                    await send(upstream, call(provider.origin))
            assert provider.connections == 0
            assert [head.split(b" ")[0] for head in proxy.heads] == [b"CONNECT"]

    run(story, loop)


def test_a_proxy_that_says_nothing() -> None:
    """The connect limit covers the tunnel."""

    async def story() -> None:
        limits = replace(LIMITS, connect_timeout_s=0.2)
        async with EgressProxy(connect_answer=b"HTTP/1.1 200 OK\r\n") as proxy:
            upstream = HttpxUpstream(limits, Secret(proxy.url), client_tls(authority()))
            with pytest.raises(UpstreamTimeout):
                await send(upstream, call(OPENAI))
            await upstream.close()

    run(story)


def test_a_proxy_that_is_not_there() -> None:
    """502."""

    async def story() -> None:
        async with EgressProxy() as proxy:
            pass
        async with through(proxy) as upstream:
            with pytest.raises(UpstreamUnreachable):
                await send(upstream, call(OPENAI))

    run(story)


@both_loops
def test_a_proxy_that_is_itself_reached_by_tls(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """TLS inside TLS."""

    async def story() -> None:
        async with Provider(authority()) as provider, EgressProxy(tls=server_tls(authority())) as proxy:
            async with through(proxy) as upstream:
                for _ in range(2):
                    await read(await send(upstream, call(provider.origin)))
            assert len(proxy.asked) == 1
            assert provider.connections == 1

    run(story, loop)


@pytest.mark.parametrize(
    "url",
    ["socks5://u:hunter2@proxy.test:1080", "proxy.test:3128", "ftp://u:hunter2@p", "http://", "http://[::1:hunter2"],
)
def test_a_proxy_url_that_is_none(url: str) -> None:
    """Says which setting is wrong, never what it was."""
    with pytest.raises(SettingError) as caught:
        HttpxUpstream(LIMITS, Secret(url), client_tls(authority()))
    assert "HTTPS_PROXY" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_what_h11_will_not_write_is_the_callers_fault() -> None:
    """A control character in a field: 400, and the connection is not left half used."""

    async def story() -> None:
        async with Provider(authority()) as provider, EgressProxy() as proxy, through(proxy) as upstream:
            with pytest.raises(BadRequest):
                await send(upstream, call(provider.origin, headers=[(b"x-tab", b"a\x0bb")]))
            await read(await send(upstream, call(provider.origin, canary=b"next")))
            assert [seen.canary for seen in provider.seen] == [b"next"]

    run(story)


def test_nothing_of_a_call_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """F4: httpcore would write heads and targets at DEBUG."""

    async def story() -> None:
        async with Provider(authority()) as provider, EgressProxy() as proxy, through(proxy) as upstream:
            outbound = call(provider.origin, canary=b"CANARY-9", target=b"/v1/CANARY-9")
            await read(await send(upstream, outbound))

    with caplog.at_level(logging.DEBUG):
        run(story)
    assert "CANARY-9" not in caplog.text


def test_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy is the one given, whatever the environment says by now."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "*")

    async def story() -> None:
        async with Provider(authority()) as provider, EgressProxy() as proxy, through(proxy) as upstream:
            await read(await send(upstream, call(provider.origin)))
            assert len(proxy.asked) == 1

    run(story)
