"""The way of a request over real sockets: what caller and provider see, and what is handed on of the call.

The listener in front and the pool behind are the real ones; keys and exchanges are kept in memory.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import hmac
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest
import uvloop

from steward.adapters.memory import MemoryAfterResponse, MemoryDirectory
from steward.adapters.spool import Spool, SpoolLimits
from steward.authenticate import Authenticator
from steward.detect import Detector
from steward.errors import InternalError, KeyCheckUnavailable, LedgerUnavailable, NotAccepted
from steward.exchange import LOCAL_ORG, Dialect, Exchange, Intent, Operation, Origin, Outcome
from steward.forward import Pool, PoolLimits
from steward.listener import Listener, ListenerLimits, listener
from steward.ports import ApiKey
from steward.proxy import OUR_PATHS, Chance, Message, Proxy, Receive, Scope, Send, Stages
from steward.refusals import Refusals
from steward.rewrite import KeyedHash, of_the_front
from steward.words import Secret
from tests.servers.listening import Listening, listening
from tests.servers.misbehaving import Provider, Seen, in_thread
from tests.servers.raw_caller import Heard, say
from tests.servers.waiting import eventually
from tests.spooled import KEYRING, files_below, relays, written

CHAT = b"/v1/chat/completions"
MESSAGES = b"/v1/messages"
GENERATE = b"/v1beta/models/gemini-2.5-flash:generateContent"
HASH_KEY = secrets.token_bytes(32)
CREDENTIAL = b"sk-test-credential"
CLOSE = b"Connection: close"
NOWHERE = Origin("http", "127.0.0.1", 9)
SHORT = PoolLimits(connect_timeout_s=5, header_timeout_s=0.3, silence_timeout_s=0.3, queue_timeout_s=0.2)
PATIENT = PoolLimits(connect_timeout_s=5, header_timeout_s=30, silence_timeout_s=30, queue_timeout_s=30)
WITHIN_S = 10.0
STOCK = ["httptools", "h11"]
_numbers = count()


@dataclass
class House:
    """A proxy that listens, the provider behind it, and what was handed on."""

    port: int
    provider: Provider
    after: MemoryAfterResponse
    directory: MemoryDirectory
    own: list[bytes]
    """Raw paths that reached our own application."""
    listening: Listening
    key: bytes
    api_key: ApiKey
    asked: int = 0

    def call(
        self,
        *lines: bytes,
        path: bytes = CHAT,
        play: str = "honest",
        canary: bytes = b"canary",
        method: bytes = b"POST",
        body: bytes | None = b'{"model": "m"}',
        key: bytes | None = None,
        credential: bytes | None = b"Authorization: Bearer " + CREDENTIAL,
        close: bool = True,
    ) -> bytes:
        """The octets of a good call, with lines added."""
        head = [method + b" " + path + b" HTTP/1.1", b"Host: steward.test", *([CLOSE] if close else [])]
        head += [b"X-Majordomo-Key: " + (self.key if key is None else key)] if key != b"" else []
        head += [credential] if credential is not None else []
        head += [b"x-play: " + play.encode(), b"x-canary: " + canary, *lines]
        head += [] if body is None else [b"Content-Length: %d" % len(body)]
        return b"\r\n".join([*head, b"", body or b""])

    def say(self, octets: bytes) -> Heard:
        """Sends these and listens to the end."""
        return say(self.port, octets)

    def exchange(self) -> Exchange:
        """The one exchange handed on since this was asked last."""
        eventually(lambda: len(self.after.submitted) > self.asked)
        new = self.after.submitted[self.asked :]
        self.asked = len(self.after.submitted)
        (found,) = new
        assert [each.id for each in self.after.submitted].count(found.id) == 1
        assert [intent.id for intent in self.after.intended].count(found.id) <= 1
        return found

    def settled(self) -> None:
        """No call runs any more."""
        eventually(lambda: not self.listening.tasks)

    def nothing_was_sent(self, canary: bytes = b"canary") -> bool:
        """The provider never saw a call with this canary."""
        return self.provider.of(canary) == []


@contextmanager
def open_house(
    limits: PoolLimits = PATIENT,
    *,
    after: MemoryAfterResponse | None = None,
    directory: MemoryDirectory | None = None,
    http: type[Listener] | str | None = None,
    origin: Origin | None = None,
    stages: Callable[[Stages], Stages] = lambda stages: stages,
    provider: Provider | None = None,
) -> Iterator[House]:
    """A house of one's own."""
    own: list[bytes] = []
    kept = after or MemoryAfterResponse()
    keys = directory or MemoryDirectory()
    key = b"mdm_sk_" + secrets.token_hex(20).encode()
    api_key = keys.create_key(LOCAL_ORG, "tests", hashlib.sha256(key).hexdigest())

    async def ours(scope: Scope, receive: Receive, send: Send) -> None:
        own.append(scope["raw_path"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"ours", "more_body": False})

    with in_thread(provider or Provider()) as running:
        pool = Pool(limits)
        to = origin or running.origin
        made = Stages(
            authenticator=Authenticator(keys, polled=False),
            detector=Detector(),
            origins={"openai": to, "anthropic": to, "gemini": replace(to, base_path=b"/google")},
            upstream=lambda _: pool,
            after_response=kept,
            credential_hash=lambda: HASHES,
            capture_max_bytes=1 << 20,
        )
        protocol = http or listener(ListenerLimits(linger_s=0.3))
        with listening(Proxy(stages(made), ours), protocol, uvloop.new_event_loop, pool.close) as served:
            yield House(served.port, running, kept, keys, own, served, key, api_key)
        for exchange in kept.submitted:
            exchange.request.close()
            exchange.response.close()


HASHES = KeyedHash(Secret(HASH_KEY))


@pytest.fixture(scope="module")
def shared() -> Iterator[House]:
    """The house of all tests that leave nothing behind."""
    with open_house() as house:
        yield house


@pytest.fixture
def house(shared: House) -> House:
    """The shared house; what was handed on before is not asked for."""
    shared.settled()
    shared.asked = len(shared.after.submitted)
    shared.provider.seen.clear()
    shared.own.clear()
    return shared


def header(heard: Heard, name: bytes) -> list[bytes]:
    """Every value of a field of the answer."""
    lines = heard.octets.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    return [value.strip() for key, _, value in (line.partition(b":") for line in lines) if key.lower() == name]


def content(heard: Heard) -> bytes:
    """The body of an answer, its chunks joined; what came of it when it broke."""
    body = heard.octets.partition(b"\r\n\r\n")[2]
    if not header(heard, b"transfer-encoding"):
        return body
    joined = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        joined, body = joined + body[: int(size, 16)], body[int(size, 16) + 2 :]
    return joined


def refused(heard: Heard, status: int, code: str) -> Any:
    """Our own answer: whole, in JSON, with its code and one request id. Returns the document."""
    assert heard.statuses == [status]
    assert heard.closed
    assert header(heard, b"x-majordomo-error") == [code.encode()]
    assert header(heard, b"content-type") == [b"application/json"]
    (request_id,) = header(heard, b"x-majordomo-request-id")
    assert UUID(request_id.decode()).version == 7
    body = content(heard)
    assert header(heard, b"content-length") == [b"%d" % len(body)]
    return orjson.loads(body)


def connect(house: House) -> socket.socket:
    """A caller's socket."""
    return socket.create_connection(("127.0.0.1", house.port), timeout=WITHIN_S)


def until(sock: socket.socket, end: bytes) -> bytes:
    """Reads as far as this."""
    heard = b""
    while end not in heard:
        got = sock.recv(65_536)
        assert got, heard
        heard += got
    return heard


def rest(sock: socket.socket) -> bytes:
    """All until the other side closes, however it does."""
    heard = b""
    try:
        while got := sock.recv(65_536):
            heard += got
    except ConnectionError:
        return heard
    return heard


def seen_of(house: House, canary: bytes = b"canary") -> Seen:
    """The one call with this canary, as the provider saw it."""
    eventually(lambda: house.provider.of(canary))
    (seen,) = house.provider.of(canary)
    return seen


def fresh() -> bytes:
    """A canary."""
    return b"canary-%d-" % next(_numbers)


# A call that goes well


def test_a_call_and_what_is_handed_on(house: House) -> None:
    """Everything that settle needs, once; an intent before, of the same call."""
    before = datetime.now(UTC)
    intents = len(house.after.intended)
    tags = (b"X-Majordomo-Team: blue", b"x-majordomo-client: cli", b"X-Majordomo-Provider-Alias: main")
    session = (b"X-Majordomo-ClaudeCode-Session-Id: s-1", b"X-Majordomo-ClaudeCode-Session-Name: n")
    lines = (*tags, *session, b"Content-Type: application/json", b"X-Other: 1")
    heard = house.say(house.call(*lines, path=CHAT + b"?stream=1&key=x&alt=sse"))
    assert heard.statuses == [200]
    exchange = house.exchange()
    assert header(heard, b"x-majordomo-request-id") == [str(exchange.id).encode()]
    assert exchange.id.version == 7
    assert exchange.caller == house.api_key.caller()
    route = exchange.route
    assert (route.provider, route.dialect, route.operation) == ("openai", Dialect.OPENAI, Operation.CHAT)
    assert (exchange.method, exchange.outcome, exchange.status, exchange.error) == ("POST", Outcome.COMPLETE, 200, None)
    assert before - timedelta(seconds=1) <= exchange.requested_at <= datetime.now(UTC)
    assert exchange.requested_at.tzinfo is UTC
    assert exchange.id.int >> 80 == int(exchange.requested_at.timestamp() * 1000)
    assert exchange.request.content().reveal() == b'{"model": "m"}'
    assert exchange.response.content().reveal() == content(heard)
    assert (exchange.request.truncated, exchange.response.truncated) == (False, False)
    assert exchange.request_headers == [(b"content-type", b"application/json")]
    assert exchange.response_headers == [(b"content-type", b"application/json")]
    assert exchange.query == (("stream", "1"), ("alt", "sse"))
    assert exchange.tags == {"Team": "blue"}
    assert (exchange.client, exchange.provider_api_key_alias) == ("cli", "main")
    assert (exchange.claude_session_id, exchange.claude_session_name) == ("s-1", "n")
    assert exchange.provider_api_key_hash == hmac.new(HASH_KEY, CREDENTIAL, hashlib.sha256).hexdigest()
    assert house.after.intended[intents:] == house.after.intended[-1:]
    intent = house.after.intended[-1]
    assert (intent.id, intent.caller, intent.route) == (exchange.id, exchange.caller, exchange.route)
    assert (intent.requested_at, intent.method) == (exchange.requested_at, "POST")


def test_its_times_are_in_order(house: House) -> None:
    house.say(house.call(play="honest_drop_by_drop"))
    times = house.exchange().timings
    found = [times.sent_us, times.head_us, times.first_byte_us, times.last_byte_us]
    assert None not in found
    assert found == sorted(found, key=lambda each: each or 0)


def test_what_a_load_balancer_adds_goes_no_further_and_is_not_taken_for_the_callers() -> None:
    fronts = of_the_front(("x-forwarded-*", "x-amzn-trace-id"))
    added = (b"X-Forwarded-For: 203.0.113.9", b"X-Amzn-Trace-Id: Root=1-2")
    with open_house(stages=lambda made: replace(made, of_the_front=fronts)) as house:
        for _ in range(2):  # the second time the head is known
            house.say(house.call(b"X-Mine: 1", *added, body=b"{}"))
            names = {name.lower() for name, _ in seen_of(house).fields}
            assert b"x-mine" in names
            assert not names & {b"x-forwarded-for", b"x-amzn-trace-id"}
            house.provider.seen.clear()


def test_fields_go_both_ways_as_they_were(house: House) -> None:
    """In order with repeats; ours and hop-by-hop taken off; a coded body untouched."""
    mine = (
        b"X-B: 1",
        b"x-a: caf\xe9",
        b"X-b:",
        b"Cookie: a=1",
        b"X-Hop: 1",
        b"TE: trailers",
        b"Accept: a",
        b"accept: b",
    )
    heard = house.say(house.call(*mine, b"Connection: x-hop, te", play="many_cookies", body=b"{}"))
    seen = seen_of(house)
    sent = [(name.lower(), value) for name, value in seen.fields]
    expected = [
        (b"x-b", b"1"),
        (b"x-a", b"caf\xe9"),
        (b"x-b", b""),
        (b"cookie", b"a=1"),
        (b"accept", b"a"),
        (b"accept", b"b"),
    ]
    assert [item for item in sent if item[0] in {b"x-a", b"x-b", b"cookie", b"accept"}] == expected
    names = {name for name, _ in sent}
    assert names == {
        b"host",
        b"authorization",
        b"x-play",
        b"x-canary",
        *(name for name, _ in expected),
        b"content-length",
    }
    assert (seen.method, seen.target, bytes(seen.body)) == (b"POST", CHAT, b"{}")
    assert seen.get(b"host") == b"127.0.0.1:%d" % house.provider.port
    assert header(heard, b"set-cookie") == [b"a=1; path=/", b"b=2, c=3"]
    assert (header(heard, b"x-a"), header(heard, b"x-latin")) == ([b""], [b"caf\xe9"])
    assert content(heard) == b"\x1f\x8bnot really gzip"
    assert house.exchange().response.content().reveal() == b"\x1f\x8bnot really gzip"


def test_a_providers_words_that_are_ours_do_not_arrive(house: House) -> None:
    """Exactly one request id, and it is not the forged one."""
    heard = house.say(house.call(play="speaks_our_words"))
    ours = [line.partition(b":")[0] for line in heard.head.split(b"\r\n") if line.startswith(b"x-majordomo-")]
    assert ours == [b"x-majordomo-request-id"]
    assert header(heard, b"x-majordomo-request-id") == [str(house.exchange().id).encode()]


TARGETS = [
    (b"/chat/completions?a=%2F&b=+", "openai", b"/v1/chat/completions?a=%2F&b=+"),
    (b"/v1/files/a%2Fb%20c", "openai", b"/v1/files/a%2Fb%20c"),
    (MESSAGES + b"?beta=true", "anthropic", MESSAGES + b"?beta=true"),
    (GENERATE + b"?key=AIza&alt=sse", "gemini", b"/google" + GENERATE + b"?key=AIza&alt=sse"),
    (b"http://evil.example/v1/chat/completions?x", "openai", b"/v1/chat/completions?x"),
]


@pytest.mark.parametrize(("path", "provider", "target"), TARGETS)
def test_the_target_goes_where_settings_say(house: House, path: bytes, provider: str, target: bytes) -> None:
    assert house.say(house.call(path=path)).statuses == [200]
    assert seen_of(house).target == target
    assert house.exchange().route.provider == provider


@pytest.mark.parametrize(
    ("play", "method", "status", "kept"),
    [
        ("head_with_length", b"HEAD", 200, b""),
        ("head_with_body", b"HEAD", 200, b""),
        ("no_content_with_body", b"POST", 204, b""),
        ("not_modified_with_length", b"GET", 304, b""),
        ("until_end_of_file", b"POST", 200, None),
        ("says_continue_first", b"POST", 200, None),
        ("trailers", b"POST", 200, None),
        ("redirects", b"POST", 302, None),
        ("http_1_0", b"POST", 200, None),
    ],
)
def test_every_kind_of_answer_is_whole(house: House, play: str, method: bytes, status: int, kept: bytes | None) -> None:
    """And the connection to the caller goes on."""
    first = house.call(play=play, method=method, close=False, body=None if method != b"POST" else b"{}")
    heard = house.say(first + house.call(canary=b"second"))
    assert heard.statuses == [status, 200]
    house.settled()
    exchange = house.after.submitted[house.asked]
    assert (exchange.outcome, exchange.status) == (Outcome.COMPLETE, status)
    page = exchange.response.content().reveal()
    assert page == kept if kept is not None else b"canary" in page
    assert len(house.after.submitted) == house.asked + 2


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_a_large_body_goes_through_and_is_kept_as_far_as_said(house: House, framing: str) -> None:
    """Three megabytes up; one is kept."""
    body = secrets.token_bytes(3 << 20)
    octets = house.call(body=body)
    if framing == "chunks":
        pieces = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in _parts(body, 100_000))
        octets = house.call(b"Transfer-Encoding: chunked", body=None) + pieces + b"0\r\n\r\n"
    assert house.say(octets).statuses == [200]
    seen = seen_of(house)
    assert (seen.body_bytes, seen.whole) == (len(body), True)
    assert bytes(seen.body) == body[: 1 << 20]
    exchange = house.exchange()
    assert (exchange.request.size_bytes, exchange.request.truncated) == (len(body), True)
    assert exchange.request.content().reveal() == body[: 1 << 20]


def test_a_large_body_is_sealed_from_its_first_octet_where_a_spool_waits(tmp_path: Path) -> None:
    """Two megabytes up and down: no plain octet of them below the spool's folder, while the call runs or after."""
    spool = Spool(tmp_path / "spool", KEYRING, SpoolLimits(max_bytes=64 << 20, reserve_bytes=1 << 16))
    canary = b"canary-of-a-large-body"
    body = canary * 100_000
    seen: list[bytes] = []
    with open_house(stages=lambda made: replace(made, after_response=spool, spill=spool.spill)) as house:
        octets = house.call(b"Content-Length: %d" % len(body), body=None)
        with connect(house) as sock:
            sock.sendall(octets + body[: 1 << 20])
            eventually(lambda: any(name.suffix == ".q" for name, _ in files_below(tmp_path)))
            seen += [held for _, held in files_below(tmp_path)]
            sock.sendall(body[1 << 20 :])
            assert b" 200 " in sock.recv(100)
        (relay,) = relays(tmp_path / "spool")
        eventually(lambda: written(relay).ends)
        seen += [held for _, held in files_below(tmp_path)]
        assert not [held for held in seen if canary in held]
        (end,) = written(relay).ends
        assert [each.id for each in written(relay).intents] == [end.id]
        assert (end.outcome, end.request.kept_bytes, end.request.truncated) == (Outcome.COMPLETE, 1 << 20, True)
        assert end.request.content().reveal() == body[: 1 << 20]
        end.request.close()
    asyncio.run(spool.close())


def _parts(body: bytes, size: int) -> Iterable[bytes]:
    return (body[at : at + size] for at in range(0, len(body), size))


class Slow(MemoryAfterResponse):
    """Accepts an exchange only when a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.accept = threading.Event()

    def submit(self, exchange: Exchange) -> Awaitable[None] | None:
        """Kept at once, accepted later."""
        super().submit(exchange)

        async def accepted() -> None:
            await asyncio.to_thread(self.accept.wait, WITHIN_S)

        return accepted()


@pytest.mark.parametrize("play", ["honest", "honest_chunked", "no_content_with_body"])
def test_the_last_piece_waits_until_the_call_is_accepted(play: str) -> None:
    """What reached a caller whole is never lost: the answer cannot end before its exchange is in safe hands."""
    after = Slow()
    with open_house(after=after) as house, connect(house) as sock:
        sock.sendall(house.call(play=play, close=False))
        eventually(lambda: len(after.submitted) == 1)
        sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            assert b"}" not in sock.recv(65_536) + sock.recv(65_536)
        sock.settimeout(WITHIN_S)
        after.accept.set()
        assert sock.recv(65_536)
        assert after.submitted[0].outcome is Outcome.COMPLETE


def _until_the_caller_has(sock: socket.socket, last: bytes) -> bytes:
    """What came up to and with this."""
    heard = b""
    while last not in heard:
        piece = sock.recv(65_536)
        assert piece, heard
        heard += piece
    return heard


def test_where_the_end_waits_alone_all_data_goes_first() -> None:
    """A stream's last octets came with its end: the caller has them before anything is accepted, and waits for no more
    than the mark of the end."""
    after = Slow()
    with (
        open_house(after=after, stages=lambda stages: replace(stages, end_alone=True)) as house,
        connect(house) as sock,
    ):
        sock.sendall(house.call(play="honest_chunked", close=False))
        heard = _until_the_caller_has(sock, b"}")
        assert b"transfer-encoding: chunked" in heard and not heard.endswith(b"0\r\n\r\n")
        assert len(after.submitted) == 1 and not after.accept.is_set()
        sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            assert not sock.recv(65_536).strip()
        sock.settimeout(WITHIN_S)
        after.accept.set()
        assert _until_the_caller_has(sock, b"0\r\n\r\n")


def test_where_the_end_waits_alone_a_counted_answer_waits_whole() -> None:
    """Its last octet is its end, for the caller and for the host that takes the processor away."""
    after = Slow()
    with (
        open_house(after=after, stages=lambda stages: replace(stages, end_alone=True)) as house,
        connect(house) as sock,
    ):
        sock.sendall(house.call(play="honest", close=False))
        eventually(lambda: len(after.submitted) == 1)
        sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            assert b"}" not in sock.recv(65_536) + sock.recv(65_536)
        sock.settimeout(WITHIN_S)
        after.accept.set()
        assert b"}" in sock.recv(65_536)


class SlowToKeep(MemoryAfterResponse):
    """Keeps an intent when a test says so, or says that it cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = threading.Event()
        self.refuses = False

    def intend(self, intent: Intent) -> Awaitable[None]:  # type: ignore[override]  # the port's; the memory one is never slow
        """Known at once, kept later."""
        super().intend(intent)

        async def kept() -> None:
            await asyncio.to_thread(self.answer.wait, WITHIN_S)
            if self.refuses:
                raise NotAccepted

        return kept()


def test_nothing_goes_to_the_provider_before_the_intent_is_kept() -> None:
    after = SlowToKeep()
    with open_house(after=after) as house, connect(house) as sock:
        sock.sendall(house.call(close=True))
        eventually(lambda: len(after.intended) == 1)
        sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        assert house.provider.seen == []
        sock.settimeout(WITHIN_S)
        after.answer.set()
        assert sock.recv(65_536).startswith(b"HTTP/1.1 200 ")
        assert house.exchange().outcome is Outcome.COMPLETE


def test_an_intent_that_is_refused_late_is_a_call_that_was_never_sent() -> None:
    after = SlowToKeep()
    after.refuses = True
    after.answer.set()
    with open_house(after=after) as house:
        refused(house.say(house.call()), 503, "not_accepted")
        assert house.nothing_was_sent()
        assert house.exchange().error == "not_accepted"


def test_who_leaves_while_his_intent_is_written_is_one_call_that_was_never_sent() -> None:
    after = SlowToKeep()
    with open_house(after=after) as house:
        with connect(house) as sock:
            sock.sendall(house.call(close=False))
            eventually(lambda: len(after.intended) == 1)
        eventually(lambda: len(after.submitted) == 1)
        after.answer.set()
        exchange = house.exchange()
        assert (exchange.outcome, exchange.status, exchange.timings.sent_us) == (Outcome.CLIENT_CANCELLED, None, None)
        assert house.provider.seen == []


# Who may call, and where to

DIALECTS = {CHAT: Dialect.OPENAI, MESSAGES: Dialect.ANTHROPIC, GENERATE: Dialect.GEMINI}


def in_dialect(document: Any, dialect: Dialect, status: int, message_part: str) -> None:
    """The document is an error as this dialect's SDK knows it."""
    error = document["error"]
    assert message_part in error["message"]
    if dialect is Dialect.ANTHROPIC:
        assert document["type"] == "error"
        assert set(error) == {"type", "message"}
    elif dialect is Dialect.GEMINI:
        assert (error["code"], set(error)) == (status, {"code", "message", "status"})
    else:
        assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("path", DIALECTS)
@pytest.mark.parametrize(
    ("key", "code"),
    [
        (b"", "missing_key"),
        (b"nonsense", "invalid_key"),
        (b"mdm_sk_short", "invalid_key"),
        (b"mdm_pk_" + b"a" * 40, "invalid_key"),
        (b"mdm_sk_" + b"a" * 40, "invalid_key"),
        (b"mdm_sk_" + b"a" * 30_000, "invalid_key"),
        (b"mdm_sk_\xff\xfe" + b"a" * 40, "invalid_key"),
    ],
)
def test_a_key_that_is_none_is_refused(house: House, path: bytes, key: bytes, code: str) -> None:
    """401 in the dialect of the path; the provider sees nothing, and no call is handed on."""
    heard = house.say(house.call(path=path, key=key))
    in_dialect(refused(heard, 401, code), DIALECTS[path], 401, "X-Majordomo-Key")
    house.settled()
    assert house.nothing_was_sent()
    assert len(house.after.submitted) == house.asked


def test_a_revoked_key_is_refused_and_another_is_not(house: House) -> None:
    key = b"mdm_sk_" + secrets.token_hex(20).encode()
    row = house.directory.create_key(LOCAL_ORG, "gone", hashlib.sha256(key).hexdigest())
    assert house.directory.revoke_key(LOCAL_ORG, row.id) is not None
    for path, dialect in DIALECTS.items():
        document = refused(house.say(house.call(path=path, key=key)), 401, "revoked_key")
        in_dialect(document, dialect, 401, "revoked")
    assert house.nothing_was_sent()
    assert house.say(house.call()).statuses == [200]


def test_a_refused_caller_is_not_asked_for_his_body(house: House) -> None:
    heard = house.say(house.call(b"Expect: 100-continue", b"Content-Length: 100000", body=None, key=b""))
    refused(heard, 401, "missing_key")


class Away(MemoryDirectory):
    """A database that cannot say."""

    def find_key(self, key_hash: str) -> ApiKey | None:
        """Never."""
        raise LedgerUnavailable


def test_an_outage_is_never_a_refusal() -> None:
    """503 with `Retry-After`: the key may be good."""
    with open_house(directory=Away()) as house:
        for path, dialect in DIALECTS.items():
            heard = house.say(house.call(path=path))
            in_dialect(refused(heard, 503, "key_check_unavailable"), dialect, 503, "cannot be checked")
            assert header(heard, b"retry-after") == [b"2"]
        assert house.nothing_was_sent()
        assert (house.after.submitted, house.after.intended) == ([], [])


def test_without_the_secret_no_call_is_let_in() -> None:
    """A row whose credential has no hash would be a row that lies."""

    def unheard() -> KeyedHash:
        raise KeyCheckUnavailable

    with open_house(stages=lambda stages: replace(stages, credential_hash=unheard)) as house:
        refused(house.say(house.call()), 503, "key_check_unavailable")
        assert house.nothing_was_sent()
        assert (house.after.submitted, house.after.intended) == ([], [])


UNKNOWN = [
    (b"/nowhere", (), "unknown_route", "X-Majordomo-Provider"),
    (b"/", (), "unknown_route", "X-Majordomo-Provider"),
    (b"/v2/chat/completions", (), "unknown_route", "X-Majordomo-Provider"),
    (CHAT, (b"X-Majordomo-Provider: nobody",), "unknown_provider", "does not know"),
    (b"/v1/../admin", (), "bad_request", "dot segment"),
    (b"//evil.example/v1/chat/completions", (), "bad_request", "path"),
    (CHAT, (b"Host: other",), "bad_request", "Host"),
    (CHAT, (b"X-Majordomo-Key: mdm_sk_other",), "bad_request", "more than once"),
    (CHAT, (b"X-Majordomo-Provider: openai", b"x-majordomo-provider: gemini"), "bad_request", "twice"),
    (CHAT, (b"X-Api-Key: a", b"x-api-key: b"), "bad_request", "more than once"),
]


@pytest.mark.parametrize(("path", "lines", "code", "words"), UNKNOWN)
def test_a_call_that_leads_nowhere_is_refused(
    house: House, path: bytes, lines: tuple[bytes, ...], code: str, words: str
) -> None:
    """400 with a sentence that helps; without a route there is no row."""
    document = refused(house.say(house.call(*lines, path=path)), 400, code)
    assert words in document["error"]["message"]
    house.settled()
    assert house.nothing_was_sent()
    assert len(house.after.submitted) == house.asked
    assert house.own == []


LEAKS = [
    (CHAT, b"Authorization: Bearer mdm_sk_" + b"a" * 40, b""),
    (CHAT, b"Authorization: Bearer mdm_pk_" + b"a" * 40, b""),
    (MESSAGES, b"x-api-key: mdm_sk_" + b"a" * 40, b""),
    (GENERATE, b"x-goog-api-key: mdm_st_" + b"a" * 40, b""),
    (GENERATE, b"Authorization: Bearer fine", b"?key=mdm_sk_aaa"),
    (CHAT, b"Authorization: Bearer fine", b"?key=%6ddm_sk_aaa"),
    (CHAT, b"api-key: mdm_sk_" + b"a" * 40, b""),
]


@pytest.mark.parametrize(("path", "line", "query"), LEAKS)
def test_a_key_of_ours_never_leaves(house: House, path: bytes, line: bytes, query: bytes) -> None:
    """400 in the dialect; the provider sees nothing; the call has its row, without the key."""
    heard = house.say(house.call(path=path + query, credential=line))
    document = refused(heard, 400, "majordomo_key_as_credential")
    in_dialect(document, DIALECTS[path], 400, "X-Majordomo-Key")
    assert house.nothing_was_sent()
    exchange = house.exchange()
    assert (exchange.outcome, exchange.status, exchange.error) == (Outcome.COMPLETE, 400, "majordomo_key_as_credential")
    assert exchange.provider_api_key_hash is None
    assert b"mdm_" not in everything(exchange)
    assert exchange.id not in {intent.id for intent in house.after.intended}


class Refusing(MemoryAfterResponse):
    """Cannot keep so much as an intent."""

    def intend(self, intent: Intent) -> None:
        """Never."""
        raise NotAccepted


@pytest.mark.parametrize("http", [None, *STOCK])
def test_what_cannot_be_recorded_is_not_sent(http: str | None) -> None:
    with open_house(after=Refusing(), http=http) as house:
        heard = house.say(house.call())
        refused(heard, 503, "not_accepted")
        assert header(heard, b"retry-after") == [b"2"]
        assert house.nothing_was_sent()
        exchange = house.exchange()
        assert (exchange.outcome, exchange.status, exchange.error) == (Outcome.COMPLETE, 503, "not_accepted")


def test_a_defect_of_ours_is_an_error_of_ours(capfd: pytest.CaptureFixture[str]) -> None:
    """500 in the dialect; its words nowhere."""

    class Broken(MemoryAfterResponse):
        """Fails as no port may."""

        def intend(self, intent: Intent) -> None:
            """A defect."""
            raise RuntimeError("canary in the words")

    with open_house(after=Broken()) as house:
        heard = house.say(house.call(path=MESSAGES))
        in_dialect(refused(heard, 500, InternalError.code), Dialect.ANTHROPIC, 500, "failed")
        assert house.nothing_was_sent()
        exchange = house.exchange()
        assert (exchange.status, exchange.error) == (500, InternalError.code)
    said = "".join(capfd.readouterr())
    assert "relay_failed" in said
    assert "canary in" not in said


def test_one_key_has_so_many_calls_and_no_more() -> None:
    """429 for the next; another key has its own; a call that ended makes room, however it ended."""
    with open_house(stages=lambda stages: replace(stages, key_max_inflight=2)) as house:
        other = b"mdm_sk_" + secrets.token_hex(20).encode()
        house.directory.create_key(LOCAL_ORG, "other", hashlib.sha256(other).hexdigest())
        with connect(house) as first, connect(house) as second:
            for number, sock in enumerate((first, second)):
                sock.sendall(house.call(play="silent", canary=b"held-%d-" % number))
            eventually(lambda: len(house.provider.seen) == 2)
            heard = house.say(house.call(canary=b"third"))
            refused(heard, 429, "too_many_calls")
            assert header(heard, b"retry-after") == [b"1"]
            assert house.nothing_was_sent(b"third")
            exchange = house.exchange()
            assert (exchange.outcome, exchange.status, exchange.error) == (Outcome.COMPLETE, 429, "too_many_calls")
            assert house.say(house.call(key=other)).statuses == [200]
        eventually(lambda: len(house.after.submitted) == 4)
        for _ in range(3):
            assert house.say(house.call(play="garbage")).statuses == [502]
            refused(house.say(house.call(credential=b"Authorization: mdm_sk_aaa")), 400, "majordomo_key_as_credential")
        assert house.say(house.call(close=False) + house.call()).statuses == [200, 200]


# Our own paths

OWN = [*sorted(OUR_PATHS), b"/admin/keys", b"/admin/keys/x?y=z", b"/api/v1/proxy-keys", b"/api/v1/requests/1/body"]
NOT_OWN = [
    b"/%61dmin/keys",
    b"/%61dmin",
    b"/admin%2fkeys",
    b"/%2fadmin/keys",
    b"/ADMIN/keys",
    b"/Health",
    b"/health/",
    b"/healthz",
    b"/health%00",
    b"/./health",
    b"/x/../admin/keys",
    b"/v1/%2e%2e/admin/keys",
    b"//admin/keys",
    b"/api/v1/%70roxy-keys",
    b"/api//v1/requests",
    b"/api/v1/request",
    b"/openapi.json/",
    b"/docs#x",
    b"/;/admin/keys",
    b"http://x.test/%61dmin/keys",
    b"http://x.test//admin/keys",
]


@pytest.mark.parametrize("path", OWN)
def test_our_paths_never_go_upstream(house: House, path: bytes) -> None:
    """Whatever provider the caller names, with a key or without, and in absolute form."""
    for line in (b"X-A: 1", b"X-Majordomo-Provider: openai"):
        for key in (None, b""):
            heard = house.say(house.call(line, path=path, key=key))
            assert heard.octets.endswith(b"\r\n\r\nours")
    assert house.say(house.call(path=b"http://evil.example" + path)).octets.endswith(b"\r\n\r\nours")
    assert house.own == [path.partition(b"?")[0]] * 5
    house.settled()
    assert house.nothing_was_sent()
    assert len(house.after.submitted) == house.asked


def test_a_path_is_ours_where_the_host_says_so_and_in_that_spelling_alone(house: House) -> None:
    """`/tasks/settle` is a provider's, or nobody's, where nobody may push; elsewhere it is compared as it was sent."""
    reached: list[bytes] = []

    async def own(scope: Scope, receive: Receive, send: Send) -> None:
        reached.append(scope["raw_path"])

    async def story() -> None:
        async def gone() -> Message:
            return {"type": "http.disconnect"}

        async def heard(message: Message) -> None:
            reached.append(b"refused")

        stages = Stages(
            authenticator=Authenticator(house.directory, polled=False),
            detector=Detector(),
            origins={},
            upstream=lambda _: Pool(PATIENT),
            after_response=house.after,
            credential_hash=lambda: HASHES,
            capture_max_bytes=0,
        )
        for proxy in (Proxy(stages, own, frozenset({b"/tasks/settle"})), Proxy(stages, own)):
            for path in (b"/tasks/settle", b"/tasks/%73ettle", b"/tasks/settle/", b"/x/../tasks/settle"):
                scope = {"type": "http", "method": "POST", "raw_path": path, "query_string": b"", "headers": []}
                await proxy(scope, gone, heard)

    asyncio.run(story())
    assert [path for path in reached if path != b"refused"] == [b"/tasks/settle"]


@pytest.mark.parametrize("path", NOT_OWN)
def test_nothing_else_reaches_our_application(house: House, path: bytes) -> None:
    """Raw paths are compared, before any decoding: no spelling opens a door that another one guards."""
    assert house.say(house.call(path=path)).statuses == [400]
    assert house.own == []


# Providers that fail


@dataclass(frozen=True)
class Failure:
    """A way to fail before the head, and what is said of it."""

    play: str
    status: int
    error: str
    outcome: Outcome


FAILURES = [
    Failure("closes_unanswered", 502, "upstream_broke", Outcome.UPSTREAM_FAILED),
    Failure("garbage", 502, "upstream_bad_answer", Outcome.UPSTREAM_FAILED),
    Failure("giant_head", 502, "upstream_bad_answer", Outcome.UPSTREAM_FAILED),
    Failure("nul_in_value", 502, "upstream_bad_answer", Outcome.UPSTREAM_FAILED),
    Failure("switches", 502, "upstream_bad_answer", Outcome.UPSTREAM_FAILED),
    Failure("silent", 504, "upstream_timeout", Outcome.TIMED_OUT),
    Failure("silent_in_head", 504, "upstream_timeout", Outcome.TIMED_OUT),
]


@pytest.fixture(scope="module")
def hasty() -> Iterator[House]:
    """A house whose limits are short."""
    with open_house(SHORT) as house:
        yield house


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.play)
@pytest.mark.parametrize("path", DIALECTS)
def test_a_provider_that_fails_before_its_head(hasty: House, failure: Failure, path: bytes) -> None:
    """Our error, in the dialect; nothing of his head; the call has its row."""
    canary = fresh()
    heard = hasty.say(hasty.call(path=path, play=failure.play, canary=canary))
    in_dialect(refused(heard, failure.status, failure.error), DIALECTS[path], failure.status, "provider")
    assert canary not in heard.octets
    exchange = hasty.exchange()
    assert (exchange.outcome, exchange.status, exchange.error) == (failure.outcome, failure.status, failure.error)
    assert exchange.request.content().reveal() == b'{"model": "m"}'
    assert exchange.response.size_bytes == 0
    assert exchange.response_headers == []
    assert exchange.timings.head_us is None
    assert exchange.id == hasty.after.intended[-1].id


def test_a_provider_that_is_not_there() -> None:
    with open_house(origin=NOWHERE) as house:
        document = refused(house.say(house.call(path=MESSAGES)), 502, "upstream_unreachable")
        in_dialect(document, Dialect.ANTHROPIC, 502, "reached")
        exchange = house.exchange()
        assert (exchange.outcome, exchange.status, exchange.error) == (
            Outcome.UPSTREAM_FAILED,
            502,
            "upstream_unreachable",
        )
        assert exchange.timings.sent_us is None


def test_a_provider_with_no_place_left() -> None:
    """503 with `Retry-After`."""
    with open_house(replace(PATIENT, max_conns=1, queue_timeout_s=0.1)) as house, connect(house) as sock:
        sock.sendall(house.call(play="silent", canary=b"held"))
        seen_of(house, b"held")
        heard = house.say(house.call(canary=b"second"))
        refused(heard, 503, "upstream_busy")
        assert header(heard, b"retry-after") == [b"1"]
        exchange = house.exchange()
        assert (exchange.outcome, exchange.status, exchange.error) == (Outcome.UPSTREAM_FAILED, 503, "upstream_busy")
        assert exchange.timings.sent_us is None
        assert house.nothing_was_sent(b"second")


BREAKS = {
    "cut_in_length": (Outcome.UPSTREAM_FAILED, "upstream_broke"),
    "cut_in_chunk": (Outcome.UPSTREAM_FAILED, "upstream_broke"),
    "cut_between_chunks": (Outcome.UPSTREAM_FAILED, "upstream_broke"),
    "bad_chunk_size": (Outcome.UPSTREAM_FAILED, "upstream_bad_answer"),
    "reset_in_body": (Outcome.UPSTREAM_FAILED, "upstream_broke"),
    "silent_in_body": (Outcome.TIMED_OUT, "upstream_timeout"),
}


@pytest.mark.parametrize("play", BREAKS)
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_a_provider_that_breaks_half_way(hasty: House, play: str, version: bytes) -> None:
    """The caller's answer breaks too: no clean end; what had come reached him and is kept."""
    outcome, error = BREAKS[play]
    octets = hasty.call(play=play, close=False).replace(b" HTTP/1.1", b" HTTP/" + version, 1)
    with connect(hasty) as sock:
        sock.sendall(octets + hasty.call(canary=b"follower"))
        heard, reset = b"", False
        try:
            while got := sock.recv(65_536):
                heard += got
        except ConnectionResetError:
            reset = True
    answer = Heard(heard, 0, closed=True)
    exchange = hasty.exchange()
    assert (exchange.outcome, exchange.status, exchange.error) == (outcome, 200, error)
    kept = exchange.response.content().reveal()
    assert kept.startswith(b'{"object"'[: len(kept)])
    assert answer.statuses in ([200], []) if version == b"1.0" else answer.statuses == [200]
    if header(answer, b"content-length"):
        assert len(content(answer)) < int(header(answer, b"content-length")[0])
    elif version == b"1.1":
        assert not heard.endswith(b"0\r\n\r\n")
    else:
        assert reset
    assert hasty.nothing_was_sent(b"follower")


# Callers who leave


@pytest.mark.parametrize("body", [b"", b"{}", b"x" * 200_000, b"x" * 2_000_000], ids=len)
@pytest.mark.parametrize("play", ["silent", "silent_in_head"])
def test_a_caller_who_leaves_before_the_head(house: House, play: str, body: bytes) -> None:
    """The provider's side is closed within a second; the row says so, and that no answer was given."""
    canary = fresh()
    with connect(house) as sock:
        sock.sendall(house.call(play=play, canary=canary, body=body))
        eventually(lambda: seen_of(house, canary).whole)
    eventually(lambda: seen_of(house, canary).cut, within_s=1.0)
    exchange = house.exchange()
    assert (exchange.outcome, exchange.status, exchange.error) == (Outcome.CLIENT_CANCELLED, None, "client_cancelled")
    assert exchange.request.size_bytes == len(body)
    assert exchange.timings.head_us is None


@pytest.mark.parametrize("body", [b"{}", b"x" * 2_000_000], ids=len)
def test_a_caller_who_leaves_during_the_answer(house: House, body: bytes) -> None:
    """What had come is kept."""
    canary = fresh()
    with connect(house) as sock:
        sock.sendall(house.call(play="silent_in_body", canary=canary, body=body))
        until(sock, b'{"object"')
    eventually(lambda: seen_of(house, canary).cut, within_s=1.0)
    exchange = house.exchange()
    assert (exchange.outcome, exchange.status, exchange.error) == (Outcome.CLIENT_CANCELLED, 200, "client_cancelled")
    assert exchange.response.content().reveal().startswith(b'{"object"')
    assert exchange.response_headers == [(b"content-type", b"application/json")]


@pytest.mark.parametrize("framing", [b"Content-Length: 1000000", b"Transfer-Encoding: chunked"])
def test_a_caller_who_leaves_during_his_upload(house: House, framing: bytes) -> None:
    """The provider sees a break, never a shorter body."""
    canary = fresh()
    with connect(house) as sock:
        sock.sendall(house.call(framing, canary=canary, body=None) + b"5\r\nhello\r\n")
        seen_of(house, canary)
    eventually(lambda: seen_of(house, canary).cut, within_s=1.0)
    assert not seen_of(house, canary).whole
    exchange = house.exchange()
    assert (exchange.outcome, exchange.status, exchange.error) == (Outcome.CLIENT_CANCELLED, None, "client_cancelled")
    assert b"hello" in exchange.request.content().reveal()


def test_a_caller_who_leaves_the_queue() -> None:
    """No place is taken by him, nothing is sent, and there is a row."""
    with open_house(replace(PATIENT, max_conns=1)) as house, connect(house) as held:
        held.sendall(house.call(play="silent", canary=b"held"))
        seen_of(house, b"held")
        with connect(house) as sock:
            intents = len(house.after.intended)
            sock.sendall(house.call(canary=b"queued"))
            eventually(lambda: len(house.after.intended) == intents + 1)
        exchange = house.after.submitted
        eventually(lambda: len(exchange) == 1)
        assert (exchange[0].outcome, exchange[0].status) == (Outcome.CLIENT_CANCELLED, None)
        held.close()
        assert house.say(house.call(canary=b"last")).statuses == [200]
        assert house.nothing_was_sent(b"queued")


def test_a_caller_who_leaves_a_pipeline_leaves_the_running_call(house: House) -> None:
    canary, behind = fresh(), fresh()
    with connect(house) as sock:
        sock.sendall(house.call(play="silent", canary=canary, close=False) + house.call(canary=behind))
        eventually(lambda: seen_of(house, canary).whole)
    eventually(lambda: seen_of(house, canary).cut, within_s=1.0)
    assert house.exchange().outcome is Outcome.CLIENT_CANCELLED
    assert house.nothing_was_sent(behind)


def test_a_caller_who_leaves_with_all_of_it_is_not_one_who_left(house: House) -> None:
    for _ in range(5):
        with connect(house) as sock:
            sock.sendall(house.call())
            until(sock, b'"canary"}')
        assert house.exchange().outcome is Outcome.COMPLETE


# Callers who are refused in the middle


CHUNKED = b"Transfer-Encoding: chunked"


@pytest.mark.parametrize("sent", [b"", b"5\r\nhello\r\n"])
@pytest.mark.parametrize("at_once", [True, False])
def test_a_caller_whose_body_breaks_is_answered_and_so_says_the_row(house: House, sent: bytes, at_once: bool) -> None:
    """As he saw it: our own refusal, whole. The provider sees a break, never a shorter body."""
    canary = fresh()
    octets = house.call(CHUNKED, canary=canary, body=None) + sent
    with connect(house) as sock:
        if at_once:
            sock.sendall(octets + b"zz\r\n")
        else:
            sock.sendall(octets)
            eventually(lambda: house.provider.of(canary) or (not sent and house.listening.tasks))
            sock.sendall(b"zz\r\n")
        heard = Heard(rest(sock), 0, closed=True)
    assert heard.statuses == [400]
    assert header(heard, b"x-majordomo-error") == [b"bad_request"]
    exchange = house.exchange()
    assert (exchange.outcome, exchange.status, exchange.error) == (Outcome.COMPLETE, 400, "bad_request")
    house.settled()
    assert not any(seen.whole for seen in house.provider.of(canary))


def test_a_caller_whose_body_is_slow_is_answered_and_so_says_the_row() -> None:
    limits = ListenerLimits(linger_s=0.3, body_window_s=0.3, body_min_bytes_per_s=1_000)
    with open_house(http=listener(limits)) as house:
        for framing in (b"Content-Length: 100000", CHUNKED):
            canary = fresh()
            heard = house.say(house.call(framing, canary=canary, body=None) + b"5\r\nhello\r\n")
            assert heard.statuses == [408]
            exchange = house.exchange()
            assert (exchange.outcome, exchange.status, exchange.error) == (Outcome.COMPLETE, 408, "request_timeout")
            assert b"hello" in exchange.request.content().reveal()
            eventually(lambda canary=canary: seen_of(house, canary).cut)  # type: ignore[misc]


def test_a_caller_without_a_key_whose_body_breaks_is_counted_once() -> None:
    """Nobody knows him, so there is no row."""
    refusals = Refusals()
    with open_house(stages=lambda stages: replace(stages, refusals=refusals)) as alone:
        heard = alone.say(alone.call(CHUNKED, body=None, key=b"") + b"zz\r\n")
        assert heard.statuses == [400]
        alone.settled()
        assert alone.after.submitted == []
        assert refusals.total == 1


def test_a_call_is_whole_though_nonsense_comes_behind_it(house: House) -> None:
    heard = house.say(house.call(close=False) + b"\x00garbage\r\n\r\n")
    assert heard.statuses == [200, 400]
    exchange = house.exchange()
    assert (exchange.outcome, exchange.status) == (Outcome.COMPLETE, 200)


# Tags, secrets, credentials


def test_tags_are_admitted_and_counted(house: House) -> None:
    """F3: a credential among them is dropped, and told by its name alone."""
    many = [b"X-Majordomo-T%02d: v" % number for number in range(64)]
    bad = [
        b"X-Majordomo-Api-Key: mdm_sk_canary_canary_canary",
        b"X-Majordomo-Note: Bearer canary",
        b"x-majordomo-a_b: 1",
    ]
    assert house.say(house.call(*bad, *many, b"X-Majordomo-Last: 1")).statuses == [200]
    exchange = house.exchange()
    assert exchange.tags == {f"T{number:02d}": "v" for number in range(64)}
    assert exchange.tags_dropped == 4
    assert list(exchange.tags_refused) == ["Api-Key", "Note"]
    assert b"canary_canary" not in everything(exchange)


@pytest.mark.parametrize(
    ("path", "lines"),
    [
        (b"/v1/realtime/client_secrets", (b"X-Majordomo-Provider: openai",)),
        (b"/v1/organization/admin_api_keys", (b"X-Majordomo-Provider: openai",)),
        (b"/v1/organizations/api_keys", ()),
    ],
)
def test_routes_that_hand_out_secrets_keep_no_body(house: House, path: bytes, lines: tuple[bytes, ...]) -> None:
    """F16: their sizes are counted, their octets kept nowhere; the caller gets them."""
    heard = house.say(house.call(*lines, path=path, body=b"secret request"))
    assert heard.statuses == [200]
    assert b"canary" in content(heard)
    exchange = house.exchange()
    assert exchange.route.secretive
    for side, size in ((exchange.request, 14), (exchange.response, len(content(heard)))):
        assert (side.content().reveal(), side.size_bytes, side.truncated) == (b"", size, True)


def everything(value: object) -> bytes:
    """Each octet and character that an exchange holds, its bodies' too, however deep."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, dict):
        return b"\n".join(everything(each) for item in value.items() for each in item)
    if isinstance(value, list | tuple | set | frozenset):
        return b"\n".join(map(everything, value))
    if dataclasses.is_dataclass(value):
        fields = [getattr(value, each.name) for each in dataclasses.fields(value)]
        extra = value.content().reveal() if hasattr(value, "content") else b""
        return b"\n".join([repr(value).encode(), extra, *map(everything, fields)])
    return repr(value).encode()


WHERE = {
    "authorization": b"Authorization: Bearer sk-%b",
    "x-api-key": b"x-api-key: sk-ant-%b",
    "x-goog-api-key": b"x-goog-api-key: AIza%b",
    "api-key": b"api-key: %b",
    "cookie": b"Cookie: session=%b",
    "proxy": b"Proxy-Authorization: Basic %b",
    "mistyped": b"X-Majordomo-Authorization: Bearer %b",
    "mistyped key": b"X-Majordomo-Api-Key: %b",
    "new": b"X-New-Header-Of-Tomorrow: %b",
    "signature": b"x-amz-security-token: %b",
    "url": b"Referer: https://x.test/?key=%b",
    "agent": b"User-Agent: %b",
}


@pytest.mark.parametrize("path", DIALECTS)
def test_no_credential_stays_in_an_exchange(house: House, path: bytes) -> None:
    """F16: in every place that a dialect allows and in some that none does; also where the call fails."""
    word = b"zq" + secrets.token_hex(8).encode()
    lines = [line % word for line in WHERE.values()]
    target = path + b"?key=AIza%b&access_token=%b&stream=%b&alt=sse" % (word, word, b"true")
    for play in ("honest", "many_cookies", "garbage", "cut_in_length"):
        house.say(house.call(*lines, path=target, play=play, credential=None))
        exchange = house.exchange()
        held = everything(exchange)
        assert word not in held
        assert house.key not in held
        assert HASH_KEY not in held
        assert exchange.provider_api_key_hash is not None
        assert b"a=1; path=/" not in everything(exchange.response_headers)
        seen = house.provider.seen[-1]
        assert seen.head.count(word) == len(lines) - 3 + 2  # all but proxy's and ours reach the provider, as they must


def test_no_credential_is_fine_too(house: House) -> None:
    """Then there is no hash; the provider will say what he thinks."""
    assert house.say(house.call(credential=None)).statuses == [200]
    assert house.exchange().provider_api_key_hash is None


# Expectations


def test_the_providers_leave_comes_before_ours(house: House) -> None:
    canary = fresh()
    with connect(house) as sock:
        head = house.call(
            b"Expect: 100-continue", b"Content-Length: 5", play="says_continue_first", canary=canary, body=None
        )
        sock.sendall(head)
        assert until(sock, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert seen_of(house, canary).get(b"expect") == b"100-continue"
        sock.sendall(b"hello")
        assert b"HTTP/1.1 200 " in rest(sock)
    assert seen_of(house, canary).body == b"hello"
    assert house.exchange().request.content().reveal() == b"hello"


def test_a_provider_that_refuses_the_expectation_spares_the_body(house: House) -> None:
    canary = fresh()
    heard = house.say(
        house.call(b"Expect: 100-continue", b"Content-Length: 5", play="early_413", canary=canary, body=None)
    )
    assert heard.statuses == [413]
    exchange = house.exchange()
    assert (exchange.outcome, exchange.status, exchange.request.size_bytes) == (Outcome.COMPLETE, 413, 0)


def test_an_answer_during_the_upload_reaches_the_caller(house: House) -> None:
    """And ends his connection; what he had sent is kept."""
    canary = fresh()
    with connect(house) as sock:
        sock.sendall(
            house.call(b"Content-Length: 10000000", play="early_413", canary=canary, body=None) + b"x" * 50_000
        )
        heard = Heard(rest(sock), 0, closed=True)
    assert heard.statuses == [413]
    assert canary in content(heard)
    assert header(heard, b"connection") == [b"close"]
    exchange = house.exchange()
    assert (exchange.outcome, exchange.status) == (Outcome.COMPLETE, 413)
    assert 0 < exchange.request.size_bytes < 10_000_000


# The end of the process


@pytest.mark.parametrize("play", ["silent", "silent_in_body"])
def test_the_end_of_the_grace_is_told(play: str) -> None:
    """503 before the head, a break after it; the row says `interrupted`."""
    answers: list[bytes] = []
    with open_house() as house:
        sock = connect(house)
        sock.sendall(house.call(play=play))
        if play == "silent_in_body":
            answers.append(until(sock, b'{"object"'))
        eventually(lambda: seen_of(house).whole)
    with sock:
        heard = Heard(b"".join(answers) + rest(sock), 0, closed=True)
    (exchange,) = house.after.submitted
    assert exchange.outcome is Outcome.INTERRUPTED
    if play == "silent":
        refused(heard, 503, "shutting_down")
        assert exchange.status == 503
    else:
        assert exchange.status == 200
        assert len(content(heard)) < int(header(heard, b"content-length")[0])


@pytest.mark.parametrize("play", ["silent", "silent_in_body"])
def test_at_the_end_of_the_grace_nothing_more_is_begun(play: str) -> None:
    """What waits behind the call that is cut never goes out."""
    behind = fresh()
    with open_house() as house:
        sock = connect(house)
        sock.sendall(house.call(play=play, close=False) + house.call(canary=behind) * 2)
        eventually(lambda: seen_of(house).whole)
    with sock:
        heard = Heard(rest(sock), 0, closed=True)
    assert heard.statuses == ([503] if play == "silent" else [200])
    assert [exchange.outcome for exchange in house.after.submitted] == [Outcome.INTERRUPTED]
    assert house.nothing_was_sent(behind)


# Servers that are not ours


@pytest.fixture(scope="module", params=STOCK)
def stock(request: pytest.FixtureRequest) -> Iterator[House]:
    """The same proxy behind a server that tells no one when a caller leaves."""
    with open_house(SHORT, http=request.param) as house:
        yield house


@pytest.fixture(scope="module", params=STOCK)
def patient_stock(request: pytest.FixtureRequest) -> Iterator[House]:
    """The same, in no hurry."""
    with open_house(http=request.param) as house:
        yield house


def test_elsewhere_a_call_is_served(stock: House) -> None:
    canary = fresh()
    for body in (b"{}", b"x" * 500_000):
        heard = stock.say(stock.call(b"X-Majordomo-Team: a", canary=canary, body=body))
        assert heard.statuses == [200]
        assert len(header(heard, b"x-majordomo-request-id")) == 1
        exchange = stock.exchange()
        assert (exchange.outcome, exchange.status, exchange.tags) == (Outcome.COMPLETE, 200, {"Team": "a"})
        assert exchange.request.size_bytes == len(body)
        assert canary in exchange.response.content().reveal()


@pytest.mark.parametrize("path", [path for path in NOT_OWN if b"#" not in path])
def test_elsewhere_nothing_else_reaches_our_application(stock: House, path: bytes) -> None:
    """A server that is not ours may refuse by itself, and may decode `path`: `raw_path` counts."""
    stock.own.clear()
    assert 200 not in stock.say(stock.call(path=path)).statuses
    assert stock.own == []
    stock.settled()


def test_elsewhere_our_paths_are_ours(stock: House) -> None:
    assert stock.say(stock.call(path=b"/admin/keys")).octets.endswith(b"ours")
    stock.own.clear()


def test_elsewhere_a_get_is_served(stock: House) -> None:
    assert stock.say(stock.call(path=b"/v1/models", method=b"GET", body=None)).statuses == [200]
    assert stock.exchange().outcome is Outcome.COMPLETE


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.play)
def test_elsewhere_a_provider_fails(stock: House, failure: Failure) -> None:
    refused(stock.say(stock.call(play=failure.play)), failure.status, failure.error)
    exchange = stock.exchange()
    assert (exchange.outcome, exchange.status, exchange.error) == (failure.outcome, failure.status, failure.error)


@pytest.mark.parametrize("play", ["cut_in_chunk", "cut_in_length", "silent_in_body"])
def test_elsewhere_a_provider_breaks(stock: House, play: str) -> None:
    heard = stock.say(stock.call(play=play))
    assert heard.statuses == [200]
    assert not heard.octets.endswith(b"0\r\n\r\n")
    if header(heard, b"content-length"):
        assert len(content(heard)) < int(header(heard, b"content-length")[0])
    exchange = stock.exchange()
    assert (exchange.outcome, exchange.error) == BREAKS[play]


@pytest.mark.parametrize("play", ["silent", "silent_in_body"])
@pytest.mark.parametrize("body", [None, b"{}", b"x" * 500_000], ids=["none", "small", "large"])
def test_elsewhere_a_caller_leaves(patient_stock: House, play: str, body: bytes | None) -> None:
    """Before the head and after it: a task of ours watches."""
    house, canary = patient_stock, fresh()
    with connect(house) as sock:
        sock.sendall(house.call(play=play, canary=canary, body=body))
        eventually(lambda: seen_of(house, canary).whole)
        if play == "silent_in_body":
            until(sock, b'{"object"')
    eventually(lambda: seen_of(house, canary).cut, within_s=1.0)
    exchange = house.exchange()
    assert exchange.outcome is Outcome.CLIENT_CANCELLED
    assert exchange.status == (200 if play == "silent_in_body" else None)


def test_elsewhere_a_caller_leaves_his_upload(patient_stock: House) -> None:
    house, canary = patient_stock, fresh()
    with connect(house) as sock:
        sock.sendall(house.call(b"Content-Length: 1000000", canary=canary, body=None) + b"hello")
        seen_of(house, canary)
    eventually(lambda: seen_of(house, canary).cut, within_s=1.0)
    assert not seen_of(house, canary).whole
    assert house.exchange().outcome is Outcome.CLIENT_CANCELLED


def test_chance_gives_nothing_twice() -> None:
    """Octets come from the system in larger pieces."""
    chance = Chance()
    given = [chance(10) for _ in range(2_000)]
    assert len(set(given)) == len(given)
    assert {len(each) for each in given} == {10}
    assert len(chance(10_000)) == 10_000


def test_a_copy_of_the_process_draws_its_own_chance() -> None:
    code = (
        "import os, sys; from steward.proxy import Chance; chance = Chance(); chance(10); child = os.fork(); "
        "os.write(1, chance(10).hex().encode() + b'\\n'); os._exit(0) if not child else os.waitpid(child, 0)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60).stdout.split()
    assert len(said) == len(set(said)) == 2
