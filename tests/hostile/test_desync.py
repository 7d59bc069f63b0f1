"""F9, end to end: what callers and providers send to make one connection serve two callers, and what comes of it.

A real Steward between raw sockets and a provider that misbehaves by name. Every call bears a canary of its own.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import orjson
import pytest

from steward.adapters.postgres_local import LocalPostgres
from steward.exchange import BodyState, Outcome, Record
from tests.servers.function import running_function
from tests.servers.misbehaving import SCENARIOS, Fate, Provider, Scenario, in_thread
from tests.servers.raw_caller import Caller, Heard, Reply, say
from tests.servers.steward import RunningSteward, running_steward
from tests.servers.waiting import eventually

PATH = b"/v1/chat/completions"
START = b"POST " + PATH + b" HTTP/1.1"
UNSTAGED = [scenario for scenario in SCENARIOS.values() if not scenario.staged]
PLAYED_APART = {"late_bytes", "second_answer_next_packet"}
"""See tests/contracts/test_upstream.py: no client can tell poison that is on its way from the answer it awaits."""
_numbers = count()


@dataclass(frozen=True)
class House:
    """A Steward, and the provider behind it."""

    steward: RunningSteward
    provider: Provider
    routed: bool = False
    """Calls come by a framework's own router."""

    def head(self, canary: bytes, *extra: bytes, start: bytes = START, host: bool = True, key: bool = True) -> bytes:
        """A good head, with lines added; `host=False` and `key=False` leave theirs out. Ends before the blank line."""
        lines = [start]
        if host:
            lines.append(b"Host: steward.test")
        if key:
            lines.append(b"X-Majordomo-Key: " + self.steward.key.encode())
        lines += [b"Authorization: Bearer sk-test", b"x-canary: " + canary, *extra]
        return b"\r\n".join(lines) + b"\r\n"

    def whole(
        self,
        canary: bytes,
        *extra: bytes,
        body: bytes = b"{}",
        start: bytes = START,
        host: bool = True,
        key: bool = True,
    ) -> bytes:
        """A good request, with lines added."""
        framed = (*extra, b"Content-Length: %d" % len(body))
        return self.head(canary, *framed, start=start, host=host, key=key) + b"\r\n" + body

    def say(self, octets: bytes) -> Heard:
        """Sends this and listens to the end."""
        return say(self.steward.port, octets)

    def is_well(self) -> bool:
        """A proper call is served."""
        canary = fresh()
        heard = self.say(self.whole(canary, b"Connection: close"))
        return heard.status == 200 and canary in heard.octets


def fresh() -> bytes:
    """A canary."""
    return b"caller-%d-0" % next(_numbers)


@pytest.fixture(scope="module", params=[running_steward, running_function], ids=["container", "cloud function"])
def house(
    postgres_server: LocalPostgres, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[House]:
    """One Steward for this file on each host; its limits short, its connections few."""
    settings = {"STREAM_HEADER_TIMEOUT": "400ms", "UPSTREAM_TIMEOUT": "400ms", "UPSTREAM_MAX_CONNS": "16"}
    folder = tmp_path_factory.mktemp("desync")
    with (
        in_thread(Provider()) as provider,
        request.param(postgres_server, folder, provider.url, settings) as steward,
    ):
        yield House(steward, provider, request.param is running_function)


# What a caller may not send


def _line(*lines: bytes) -> list[bytes]:
    return list(lines)


REFUSED: dict[str, tuple[int, list[bytes], bytes]] = {
    "length and chunks": (400, _line(b"Content-Length: 5", b"Transfer-Encoding: chunked"), b"0\r\n\r\n"),
    "chunks and length": (400, _line(b"Transfer-Encoding: chunked", b"Content-Length: 5"), b"0\r\n\r\n"),
    "two lengths": (400, _line(b"Content-Length: 2", b"Content-Length: 3"), b"{}"),
    "the same length twice": (400, _line(b"Content-Length: 2", b"Content-Length: 2"), b"{}"),
    "a list of lengths": (400, _line(b"Content-Length: 2, 2"), b"{}"),
    "a signed length": (400, _line(b"Content-Length: +2"), b"{}"),
    "a negative length": (400, _line(b"Content-Length: -2"), b"{}"),
    "a hexadecimal length": (400, _line(b"Content-Length: 0x2"), b"{}"),
    "a length with a space": (400, _line(b"Content-Length: 1 2"), b"{}"),
    "an empty length": (400, _line(b"Content-Length:"), b""),
    "a length without end": (400, _line(b"Content-Length: " + b"9" * 40), b""),
    "gzip, chunked": (501, _line(b"Transfer-Encoding: gzip, chunked"), b"0\r\n\r\n"),
    "gzip": (501, _line(b"Transfer-Encoding: gzip"), b""),
    "identity": (501, _line(b"Transfer-Encoding: identity"), b""),
    "chunked twice": (400, _line(b"Transfer-Encoding: chunked, chunked"), b"0\r\n\r\n"),
    "chunked in two lines": (400, _line(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"), b"0\r\n\r\n"),
    "gzip and chunked in two lines": (
        501,
        _line(b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked"),
        b"0\r\n\r\n",
    ),
    "a disguised chunked": (501, _line(b"Transfer-Encoding: xchunked"), b""),
    "a folded line": (400, _line(b"x-a: 1", b"  2", b"Content-Length: 0"), b""),
    "a folded transfer coding": (400, _line(b"Transfer-Encoding:", b" chunked"), b"0\r\n\r\n"),
    "a space before the colon": (400, _line(b"Content-Length : 2"), b"{}"),
    "a space in a name": (400, _line(b"x a: 2"), b""),
    "an empty name": (400, _line(b": 2"), b""),
    "a line without a colon": (400, _line(b"novalue"), b""),
    "a name of no token": (400, _line(b"x(a): 2"), b""),
    "a NUL in a value": (400, _line(b"x-a: 1\x002"), b""),
    "a bare CR in a value": (400, _line(b"x-a: 1\rx-b: 2"), b""),
    "a bare LF between lines": (400, _line(b"x-a: 1\nx-b: 2"), b""),
    "a websocket": (501, _line(b"Connection: Upgrade", b"Upgrade: websocket"), b""),
    "HTTP/2 by upgrade": (
        501,
        _line(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AA"),
        b"",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_head_that_could_be_read_in_two_ways_is_refused(house: House, name: str) -> None:
    """In JSON, with the connection; nothing of it reaches the provider, nor does what follows it."""
    status, lines, body = REFUSED[name]
    canary, follower = fresh(), fresh()
    heard = house.say(house.head(canary, *lines) + b"\r\n" + body + house.whole(follower))
    assert heard.statuses == [status]
    refused_for_good(heard)
    assert house.provider.of(canary) == house.provider.of(follower) == []
    assert house.is_well()


def refused_for_good(heard: Heard) -> None:
    """Our own words, in JSON, and the connection ends with them."""
    assert heard.closed
    assert b"connection: close" in heard.head
    assert b"x-majordomo-error: " in heard.head
    assert orjson.loads(heard.octets.partition(b"\r\n\r\n")[2])["error"]["message"]


@pytest.mark.parametrize(
    "line", [b"Host: other.test", b"x-majordomo-key: mdm_sk_other", b"authorization: Bearer sk-other"]
)
def test_two_of_what_must_be_one_are_refused(house: House, line: bytes) -> None:
    """Two hosts, keys, credentials: whoever stands before or behind us may have read the other one."""
    canary = fresh()
    heard = house.say(house.whole(canary, line, b"Connection: close"))
    assert heard.statuses == [400]
    refused_for_good(heard)
    assert house.provider.of(canary) == []
    assert house.is_well()


STARTS = {
    "no version": b"POST " + PATH,
    "HTTP/2": b"POST " + PATH + b" HTTP/2.0",
    "HTTP/0.9 disguised": b"POST " + PATH + b" HTTP/0.9",
    "a tab": b"POST\t" + PATH + b" HTTP/1.1",
    "a method of no token": b"PO(ST " + PATH + b" HTTP/1.1",
    "a NUL in the target": b"POST " + PATH + b"\x00 HTTP/1.1",
    "dots": b"POST /v1/../admin/keys HTTP/1.1",
    "encoded dots": b"POST /v1/%2e%2E/admin HTTP/1.1",
    "half encoded dots": b"POST /v1/.%2e/admin HTTP/1.1",
    "a dot": b"POST /v1/./chat/completions HTTP/1.1",
    "dots at the end": b"POST /v1/chat/completions/.. HTTP/1.1",
    "dots behind an encoded slash": b"POST /v1/files/a%2f..%2fb HTTP/1.1",
    "another's host": b"POST //evil.example/v1/chat/completions HTTP/1.1",
    "a backslash": b"POST /v1\\chat\\completions HTTP/1.1",
    "a fragment": b"POST " + PATH + b"#x HTTP/1.1",
    "absolute with dots": b"POST http://x.test/v1/../admin HTTP/1.1",
    "an asterisk": b"OPTIONS * HTTP/1.1",
}


@pytest.mark.parametrize("name", STARTS)
def test_a_first_line_that_could_lead_elsewhere_is_refused(house: House, name: str) -> None:
    """400: nothing is normalised, joined or guessed. (A framework's router in front may not know what is no path.)"""
    canary = fresh()
    heard = house.say(house.whole(canary, b"Connection: close", start=STARTS[name]))
    assert heard.statuses == [404 if name == "an asterisk" and house.routed else 400]
    assert heard.closed
    assert house.provider.of(canary) == []
    assert house.is_well()


def test_no_host_is_refused(house: House) -> None:
    """RFC 9112, 3.2."""
    heard = house.say(house.whole(fresh(), b"Connection: close", host=False))
    assert heard.statuses == [400]


def test_http2_without_asking_is_refused(house: House) -> None:
    """The preface of HTTP/2."""
    heard = house.say(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert heard.status == 400
    assert heard.closed


def test_tls_on_the_plain_port_is_refused(house: House) -> None:
    """A ClientHello is no request."""
    heard = house.say(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64))
    assert heard.status == 400
    assert heard.closed


BAD_CHUNKS = {
    "no number": b"zz\r\n{}\r\n0\r\n\r\n",
    "a sign": b"+2\r\n{}\r\n0\r\n\r\n",
    "0x": b"0x2\r\n{}\r\n0\r\n\r\n",
    "a space": b"2 2\r\n{}\r\n0\r\n\r\n",
    "without end": b"f" * 40 + b"\r\n{}\r\n0\r\n\r\n",
    "too short a size": b"1\r\n{}\r\n0\r\n\r\n",
    "a bare LF": b"2\n{}\n0\n\n",
    "nothing": b"\r\n{}\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("name", BAD_CHUNKS)
def test_a_chunk_that_is_none_ends_the_connection(house: House, name: str) -> None:
    """The call is begun by then: it is cut or refused, and never ended cleanly upstream; what follows is not read."""
    canary, follower = fresh(), fresh()
    octets = house.head(canary, b"Transfer-Encoding: chunked") + b"\r\n" + BAD_CHUNKS[name] + house.whole(follower)
    heard = house.say(octets)
    assert heard.closed
    assert heard.statuses in ([], [400])
    assert not any(seen.whole for seen in house.provider.of(canary))
    assert house.provider.of(follower) == []
    assert house.is_well()


# What is harmless, and how it is made so


def test_an_absolute_target_goes_where_settings_say(house: House) -> None:
    """Its host is ignored; so is the caller's `Host`."""
    canary = fresh()
    start = b"POST http://evil.example/v1/chat/completions?x=1 HTTP/1.1"
    heard = house.say(house.whole(canary, b"Connection: close", start=start))
    assert heard.statuses == [200]
    (seen,) = house.provider.of(canary)
    assert seen.target == PATH + b"?x=1"
    assert seen.get(b"host") == b"127.0.0.1:%d" % house.provider.port
    assert b"evil" not in seen.head
    assert b"steward.test" not in seen.head


def test_connection_cannot_take_off_what_is_ours(house: House) -> None:
    """`Connection` may name fields of the caller's own; host and length towards the provider are ours."""
    canary = fresh()
    named = b"Connection: close, host, content-length, x-hop, x-majordomo-key"
    heard = house.say(house.whole(canary, named, b"x-hop: 1", b"x-stays: 2"))
    assert heard.statuses == [200]
    (seen,) = house.provider.of(canary)
    assert (seen.get(b"content-length"), seen.body_bytes, seen.get(b"x-hop")) == (b"2", 2, None)
    assert seen.get(b"x-stays") == b"2"
    assert seen.get(b"host") == b"127.0.0.1:%d" % house.provider.port
    assert b"majordomo" not in seen.head.lower()


def test_hop_by_hop_fields_end_here(house: House) -> None:
    """Credentials for proxies, `TE`, `Keep-Alive`: not the provider's business."""
    canary = fresh()
    extra = (b"TE: trailers", b"Keep-Alive: 5", b"Proxy-Authorization: Basic x", b"Proxy-Connection: keep-alive")
    assert house.say(house.whole(canary, b"Connection: close, TE", *extra)).statuses == [200]
    (seen,) = house.provider.of(canary)
    names = {name.lower() for name, _ in seen.fields}
    assert names.isdisjoint({b"te", b"keep-alive", b"proxy-authorization", b"proxy-connection", b"connection"})


def test_a_tag_after_the_body_is_no_tag(house: House) -> None:
    """Fields that come after the head are dropped: not sent on, not in the row."""
    canary = fresh()
    trailers = b"X-Majordomo-Team: smuggled\r\nX-Majordomo-Provider: gemini\r\nAuthorization: Bearer sk-late\r\n"
    octets = house.head(canary, b"X-Majordomo-Team: true", b"Trailer: X-Majordomo-Team", b"Transfer-Encoding: chunked")
    heard = house.say(octets + b"Connection: close\r\n\r\n2\r\n{}\r\n0\r\n" + trailers + b"\r\n")
    assert heard.statuses == [200]
    (seen,) = house.provider.of(canary)
    assert b"smuggled" not in seen.head
    assert b"sk-late" not in seen.head
    assert seen.whole
    record = row_of(house, heard)
    assert record.tags == {"Team": "true"}
    assert record.provider == "openai"


def row_of(house: House, heard: Heard | Reply) -> Record:
    """The settled row of an answered call."""
    found = re.search(rb"x-majordomo-request-id: ([0-9a-f-]{36})", heard.head)
    assert found is not None
    return house.steward.settled(found[1])


def test_a_key_after_the_body_opens_nothing(house: House) -> None:
    """401, from the head alone."""
    canary = fresh()
    octets = house.head(canary, b"Transfer-Encoding: chunked", b"Connection: close", key=False)
    trailer = b"X-Majordomo-Key: " + house.steward.key.encode()
    heard = house.say(octets + b"\r\n2\r\n{}\r\n0\r\n" + trailer + b"\r\n\r\n")
    assert heard.statuses == [401]
    assert house.provider.of(canary) == []


def test_pipelined_calls_are_answered_in_order(house: House) -> None:
    """Six at once, of which the third fails, the fourth is chunked and one has no key."""
    names = [fresh() for _ in range(6)]
    octets = b"".join(
        (
            house.whole(names[0]),
            house.whole(names[1], b"x-play: honest_chunked"),
            house.whole(names[2], b"x-play: garbage"),
            house.head(names[3], b"Transfer-Encoding: chunked") + b"\r\n2\r\n{}\r\n0\r\n\r\n",
            house.whole(names[4], body=b"GET /v1/models HTTP/1.1\r\nHost: smuggled\r\n\r\n"),
            house.whole(names[5], b"Connection: close"),
        )
    )
    heard = house.say(octets)
    assert heard.statuses == [200, 200, 502, 200, 200, 200]
    found = [heard.octets.find(b'"canary": "%b"' % name) for name in names]
    assert found[2] == -1
    served = [found[i] for i in (0, 1, 3, 4, 5)]
    assert served == sorted(served)
    assert min(served) > 0


def test_each_call_of_a_connection_has_its_own_key(house: House) -> None:
    """The second call is not let in by the first one's key."""
    first, second = fresh(), fresh()
    heard = house.say(house.whole(first) + house.whole(second, b"Connection: close", key=False))
    assert heard.statuses == [200, 401]
    assert house.provider.of(second) == []


def test_an_expectation_with_a_bad_key_is_refused_unheard(house: House) -> None:
    """401 without 100, before any octet of the body."""
    heard = house.say(house.head(fresh(), b"Expect: 100-continue", b"Content-Length: 5", key=False) + b"\r\n")
    assert heard.statuses == [401]
    assert heard.closed


def test_an_expectation_is_met_by_the_provider(house: House) -> None:
    """The provider's 100 comes before the caller's, and the answer after the body."""
    canary = fresh()
    head = house.head(canary, b"Expect: 100-continue", b"Content-Length: 2", b"x-play: says_continue_first")
    interim = say(house.steward.port, head + b"\r\n", until=b"\r\n\r\n")
    assert interim.octets == b"HTTP/1.1 100 Continue\r\n\r\n"


# What a provider may not do


def expected(scenario: Scenario, canary: bytes, reply: Reply) -> None:
    """What a caller sees of each scenario."""
    words = reply.head + reply.body
    assert set(OTHERS.findall(words)) <= {canary}
    if scenario.fate is Fate.SERVED:
        assert (reply.status, reply.whole) == (scenario.status, True)
        assert b"x-echo: " + canary in reply.head
        assert b"mdm_sk" not in words
        assert b"set-cookie" not in reply.head
    elif scenario.fate is Fate.BROKEN or scenario.name == "silent_in_body":
        assert (reply.status, reply.whole) == (200, False)
    else:
        assert reply.status == (504 if scenario.fate is Fate.TIMES_OUT else 502)
        assert reply.whole
        assert b"x-majordomo-error: upstream_" in reply.head
        assert canary not in words


OTHERS = re.compile(rb"caller-\d+-\d+")
OUTCOMES = {
    Fate.SERVED: Outcome.COMPLETE,
    Fate.REFUSED: Outcome.UPSTREAM_FAILED,
    Fate.LOST: Outcome.UPSTREAM_FAILED,
    Fate.BROKEN: Outcome.UPSTREAM_FAILED,
    Fate.TIMES_OUT: Outcome.TIMED_OUT,
}


@pytest.mark.parametrize("scenario", UNSTAGED, ids=lambda scenario: scenario.name)
def test_a_provider_that_misbehaves_hurts_its_own_call_alone(house: House, scenario: Scenario) -> None:
    """The caller sees a whole answer, a break or an error; the row says which; the next call is well."""
    canary = fresh()

    async def story() -> Reply:
        async with Caller(house.steward.port) as caller:
            return await caller.call(play(house, scenario, canary), scenario.method)

    reply = asyncio.run(story())
    expected(scenario, canary, reply)
    record = row_of(house, reply)
    assert record.outcome is OUTCOMES[scenario.fate]
    assert record.status_code == reply.status
    if scenario.name in PLAYED_APART:
        eventually(lambda: not poisoned(house))
    assert house.is_well()


def poisoned(house: House) -> bool:
    """Whether a connection that was poisoned stands yet."""
    last = {seen.connection: seen.get(b"x-play") for seen in list(house.provider.seen)}
    apart = {name.encode() for name in PLAYED_APART}
    return any(last[number] in apart for number in set(house.provider.standing) & last.keys())


def play(house: House, scenario: Scenario, canary: bytes) -> bytes:
    """A call to a scenario, with the canary in its body too."""
    body = b'{"model": "gpt-4o", "messages": [{"role": "user", "content": "%b"}]}' % canary
    start = scenario.method + b" " + PATH + b" HTTP/1.1"
    return house.whole(
        canary, b"x-play: " + scenario.name.encode(), b"Content-Type: application/json", start=start, body=body
    )


CALLERS, TURNS = 50, 6


def test_fifty_callers_see_only_their_own(house: House) -> None:
    """Over 16 connections to the provider, every scenario in every order; the body objects hold one canary each."""
    plays = [scenario for scenario in UNSTAGED if scenario.name not in PLAYED_APART]
    mine = [fresh() for _ in range(CALLERS)]

    async def caller(number: int) -> list[Reply]:
        chance = random.Random(number)
        replies = []
        async with Caller(house.steward.port) as each:
            for turn in range(TURNS):
                canary = mine[number] + b"%d" % turn
                scenario = chance.choice(plays)
                reply = await each.call(play(house, scenario, canary), scenario.method)
                assert set(OTHERS.findall(reply.head + reply.body)) <= {canary}
                replies.append(reply)
        return replies

    async def story() -> list[list[Reply]]:
        return await asyncio.gather(*(caller(number) for number in range(CALLERS)))

    replies = [reply for replies in asyncio.run(story()) for reply in replies]
    assert len(replies) == CALLERS * TURNS
    assert sum(reply.whole and reply.status == 200 for reply in replies) > CALLERS
    rows = [row_of(house, reply) for reply in replies if reply.head]
    for row in rows:
        if row.body_state is BodyState.STORED:
            assert len(set(OTHERS.findall(orjson.dumps(house.steward.body(row))))) == 1
    assert house.is_well()


@pytest.mark.parametrize("name", sorted(PLAYED_APART))
def test_poisoned_connections_serve_nobody(house: House, name: str) -> None:
    """Four answers with poison on their heels, each followed by a crowd: everyone gets his own."""

    async def crowd(scenario: Scenario, size: int) -> None:
        async def one(canary: bytes) -> None:
            async with Caller(house.steward.port) as caller:
                expected(scenario, canary, await caller.call(play(house, scenario, canary)))

        await asyncio.gather(*(one(fresh()) for _ in range(size)))

    for _ in range(4):
        asyncio.run(crowd(SCENARIOS[name], 1))
        eventually(lambda: not poisoned(house))
        asyncio.run(crowd(SCENARIOS["honest"], 16))
