"""The listener alone, over real sockets: what a caller may send, what he gets, and that his leaving is told once.

Sizes and times on a real Steward, and each bound of time with a shorter one, are in `tests/hostile/test_heads.py`.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise, product

import orjson
import pytest

from steward.listener import Listener, listener
from steward.proxy import Receive, Scope, Send
from tests.servers.listening import Listening
from tests.servers.plays import (
    CLOSE,
    LIMITS,
    LOOPS,
    PLAYS,
    WITHIN_S,
    Told,
    bodies,
    body_of,
    connect,
    echo,
    echoed,
    house,
    piece,
    play,
    refused,
    request,
    rest,
    start,
    to_the_end,
    until,
    whole,
)
from tests.servers.raw_caller import Heard, say
from tests.servers.waiting import eventually


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[Listening, Told]]:
    """One house for tests that leave nothing behind."""
    with house() as made:
        yield made


@pytest.fixture
def port(shared: tuple[Listening, Told]) -> int:
    """Of the shared house."""
    return shared[0].port


# What the application sees

HEADS = {
    "plain": (request(b"/echo?a=1&b=%20", b"X-A: 1", b"x-b:  two words ", b"X-a: 3"), b"{}"),
    "no body": (request(body=None, method=b"GET"), b""),
    "an empty body": (request(body=b""), b""),
    "in chunks": (
        request(b"/echo", b"Transfer-Encoding: chunked", body=None) + b"3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n",
        b"abc0123456789",
    ),
    "trailers": (
        request(b"/echo", b"Trailer: X-Late", b"Transfer-Encoding: chunked", body=None)
        + b"1\r\nx\r\n0\r\nX-Late: evil\r\nX-Majordomo-Key: mdm_sk_x\r\nX-Majordomo-Team: late\r\n\r\n",
        b"x",
    ),
    "absolute": (request(b"http://evil.example:99/echo?x=/y"), b"{}"),
    "line ends before": (b"\r\n\r\n" + request(), b"{}"),
    "line ends within": (request(body=b"\r\n\r\n\x00\xff"), b"\r\n\r\n\x00\xff"),
    "a request within": (request(body=request(b"/smuggled")), request(b"/smuggled")),
    "HTTP/1.0": (request(version=b"1.0"), b"{}"),
    "latin-1": (request(b"/echo", b"X-A: caf\xe9"), b"{}"),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_request_arrives_as_it_is(port: int, name: str) -> None:
    """Raw path and query, fields in order with repeats, version, body; no trailer among the fields."""
    octets, body = HEADS[name]
    heard = say(port, octets.replace(b"Host: x", b"Host: x\r\nConnection: close", 1))
    assert heard.statuses == [200]
    assert heard.closed
    saw = echoed(heard)
    first, *lines = (
        octets.lstrip(b"\r\n").partition(b"\r\n\r\n")[0].replace(b"Host: x", b"Host: x\r\n" + CLOSE, 1).split(b"\r\n")
    )
    sent = [[part.strip(b" ").decode("latin-1") for part in line.split(b":", 1)] for line in lines]
    assert [[name, value.strip(" ")] for name, value in saw["headers"]] == [
        [name.lower(), value] for name, value in sent
    ]
    assert saw["body"] == body.decode("latin-1")
    target = first.split(b" ")[1].replace(b"http://evil.example:99", b"")
    assert (saw["raw_path"], saw["query_string"]) == tuple(target.decode().partition("?")[::2])
    assert (saw["method"], saw["http_version"], saw["root_path"]) == (
        first.split(b" ")[0].decode(),
        first[-3:].decode(),
        "",
    )


@pytest.mark.parametrize("loop", LOOPS)
def test_octet_by_octet_it_arrives_the_same(loop: str) -> None:
    """Each octet is read before the next is sent."""
    arrived = threading.Semaphore(0)

    class Counting(listener(replace(LIMITS, head_fields=30))):  # type: ignore[misc]
        """Tells when something was read."""

        def data_received(self, data: bytes) -> None:
            """As it is, and told."""
            super().data_received(data)
            for _ in data:
                arrived.release()

    with house(loop=loop, http=Counting) as (running, _):
        for name in ("plain", "no body", "in chunks", "trailers", "absolute", "a request within"):
            octets = HEADS[name][0].replace(b"Host: x", b"Host: x\r\nConnection: close", 1)
            with connect(running.port) as sock:
                for at in range(len(octets)):
                    sock.sendall(octets[at : at + 1])
                    assert arrived.acquire(timeout=WITHIN_S)
                heard = rest(sock)
            assert heard == say(running.port, octets).octets, name
            while arrived.acquire(blocking=False):
                pass


ODD = {
    "plain": request(),
    "no length": request(body=None),
    "an empty body": request(body=b""),
    "more than its length": request() + b"x",
    "less than its length": request()[:-1],
    "a second request": request() + request(b"/echo?second"),
    "two lengths": request(b"/echo", b"Content-Length: 5"),
    "a length and chunks": request(b"/echo", b"Transfer-Encoding: chunked"),
    "a length in hexadecimal": request(b"/echo", b"Content-Length: 0x2", body=None),
    "a tab in a length": request(b"/echo", b"Content-Length:\t0", body=None),
    "a length with a sign": request(b"/echo", b"Content-Length: +0", body=None),
    "a field twice": request(b"/echo", b"X-A: 1", b"X-A: 2"),
    "keep-alive": request(b"/echo", b"Connection: keep-alive"),
    "keep-alive and more": request(b"/echo", b"Connection: keep-alive, x-a", b"X-A: 1"),
    "close": request(b"/echo", CLOSE),
    "space around a value": request(b"/echo", b"X-A: \t 1 \t", b"X-B:2", b"X-C:"),
    "a folded line": request(b"/echo", b"X-A: 1", b" 2"),
    "a space in a name": request(b"/echo", b"X-A : 1"),
    "no colon": request(b"/echo", b"X-A"),
    "LF in a value": request(b"/echo", b"X-A: 1\nX-B: 2"),
    "CR in a value": request(b"/echo", b"X-A: 1\rX-B: 2"),
    "NUL in a value": request(b"/echo", b"X-A: 1\x002"),
    "a control character in a value": request(b"/echo", b"X-A: 1\x012"),
    "DEL in a value": request(b"/echo", b"X-A: 1\x7f2"),
    "no name, and a key behind it": request(b"/echo", b":X-Majordomo-Key: mdm_sk_x"),
    "close, said as to a proxy": request(b"/echo", b"Proxy-Connection: close"),
    "latin-1 in a name": request(b"/echo", b"X-\xe9: 1"),
    "a fragment": request(b"/echo#x"),
    "a tab in the target": request(b"/echo\t"),
    "latin-1 in the target": request(b"/echo\xe9"),
    "another version": request(version=b"1.2"),
    "an unknown method": request(method=b"BREW"),
    "HEAD": request(method=b"HEAD", body=None),
    "CONNECT": request(b"x:443", method=b"CONNECT", body=None),
    "not HTTP": b"\x16\x03\x01\x00\r\n\r\n",
}


@pytest.mark.parametrize("name", ODD)
def test_in_one_piece_or_in_two_it_is_the_same_request(name: str) -> None:
    """A request that is plainly whole is read without the parser; nobody can tell, and nothing can be hidden so.

    On a connection that has served already, as it is in its second piece that an attacker's request would come.
    """
    seen: list[Seen] = []

    class Seen(listener(LIMITS)):  # type: ignore[misc]
        """Tells how much was read."""

        read = 0

        def connection_made(self, transport: asyncio.Transport) -> None:
            """As it is, and told."""
            super().connection_made(transport)
            seen.append(self)

        def data_received(self, data: bytes) -> None:
            """As it is, and told."""
            super().data_received(data)
            self.read += len(data)

        def done(self, count: int) -> bool:
            """Nothing more will be said before more is heard; or nothing more is heard."""
            newest = self.cycle
            waits = newest is None or newest.response_complete or newest.more_body
            return self.flow.read_paused or (self.read >= count and waits)

    def heard(port: int, *pieces: bytes) -> bytes:
        seen.clear()
        with connect(port) as sock:
            sent = 0
            for each in (request(b"/echo", b"X-First: 1"), *pieces):
                sock.sendall(each)
                sent += len(each)
                eventually(lambda: bool(seen) and seen[0].done(sent))  # noqa: B023 - called here alone
            sock.shutdown(socket.SHUT_WR)
            return rest(sock)

    with house(http=Seen) as (running, _):
        octets = ODD[name]
        assert heard(running.port, octets) == heard(running.port, octets[:1], octets[1:])


def test_cuts_change_nothing(port: int) -> None:
    """Five requests on one connection, cut anywhere."""
    octets = b"".join(HEADS[name][0] for name in ("plain", "in chunks", "no body", "trailers")) + request(
        b"/echo", CLOSE
    )
    expected = say(port, octets).octets
    assert expected.count(b"HTTP/1.1 200 ") == 5
    chance = random.Random(5)
    for _ in range(20):
        edges = sorted({0, len(octets), *(chance.randrange(len(octets)) for _ in range(6))})
        with connect(port) as sock:
            for at, end in pairwise(edges):
                sock.sendall(octets[at:end])
            assert rest(sock) == expected


def test_the_path_of_an_absolute_target_ends_where_its_query_begins(port: int) -> None:
    """Whoever stands before us and reads it properly must not see another path than we do."""
    for target, expected in (
        (b"http://x.test?a=/admin/keys", ("/", "a=/admin/keys")),
        (b"http://x.test", ("/", "")),
        (b"http://x.test/a?b=http://c/d", ("/a", "b=http://c/d")),
    ):
        saw = echoed(say(port, request(target, CLOSE)))
        assert (saw["raw_path"], saw["query_string"]) == expected


# Heads with a size


def padded(size: int, *, close: bool = True) -> bytes:
    """A request whose head's fields are this long, as the listener counts them."""
    lines = [b"Host: x", b"Content-Length: 0", *([CLOSE] if close else [])]
    length = sum(len(line.replace(b": ", b"")) + 4 for line in lines) + len(b"/echo")
    line = b"X: " + b"p" * (size - length - 5)
    return b"\r\n".join((b"POST /echo HTTP/1.1", *lines, line, b"", b""))


def in_steps(octets: bytes, step: int) -> list[bytes]:
    """Pieces of this size."""
    return [octets[at : at + step] for at in range(0, len(octets), step)]


@pytest.mark.parametrize("step", [100_000, 500, 7])
def test_a_head_has_a_size(port: int, step: int) -> None:
    """However it is cut; half way through a name, a value, a line end."""
    assert say(port, in_steps(padded(1_900), step)).statuses == [200]
    refused(say(port, in_steps(padded(2_200), step)), 431, "head_too_large")
    refused(say(port, in_steps(padded(9_000), step)), 431, "head_too_large")


def test_a_target_has_a_size(port: int) -> None:
    refused(say(port, request(b"/" + b"a" * 3_000)), 431, "head_too_large")


@pytest.mark.parametrize("step", [100_000, 9])
def test_a_head_has_a_number_of_fields(port: int, step: int) -> None:
    """Eight here, the framing's among them."""
    lines = [b"x-%d: 1" % number for number in range(5)]
    assert say(port, in_steps(request(b"/echo", CLOSE, *lines), step)).statuses == [200]
    refused(say(port, in_steps(request(b"/echo", CLOSE, *lines, b"x: 1"), step)), 431, "head_too_large")


@pytest.mark.parametrize("pieces", [1, 2])
def test_a_second_head_has_the_same_size(port: int, pieces: int) -> None:
    """On a connection that was good once, also where its start came with the first."""
    good, bad = padded(1_900, close=False), padded(2_200)
    with connect(port) as sock:
        sock.sendall(good)
        first = until(sock, b'"body":""}')
        sock.sendall(padded(1_900, close=False))
        first = until(sock, b'"body":""}')
        for part in in_steps(bad, len(bad) // pieces + 1):
            sock.sendall(part)
        second = rest(sock)
    assert first.startswith(b"HTTP/1.1 200 ")
    assert second.startswith(b"HTTP/1.1 431 ")


def test_a_body_is_no_head(port: int) -> None:
    """What comes with the head in one piece, or behind it, is not counted with it."""
    body = b"x" * 30_000
    assert echoed(say(port, request(b"/echo", CLOSE, body=body)))["body"] == body.decode()


IN_CHUNKS = request(b"/echo", b"Transfer-Encoding: chunked", body=None)
ENDLESS = {
    "a trailer": (b"1\r\nx\r\n0\r\nx-late: ", b"a" * 16_384),
    "trailers": (b"1\r\nx\r\n0\r\n", b"x-late: 1\r\n" * 1_000),
    "a chunk's extension": (b"1;", b"a" * 16_384),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_what_is_no_body_does_not_go_on_for_ever(name: str) -> None:
    """The parser keeps a field until it is whole: 100 MB of one would be 100 MB here."""
    first, fill = ENDLESS[name]
    with house() as (running, told):
        heard = say(running.port, [IN_CHUNKS + first, *([fill] * 600)])
        assert heard.sent_bytes < 4_000_000
        refused(heard, 431, "head_too_large")
        eventually(lambda: not told.running)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("path", [b"/echo", b"/raises_when_lost"])
def test_a_body_in_bad_chunks_is_refused(path: bytes, loop: str) -> None:
    """In one piece with its head, when nothing has run yet, and in the middle of the call."""
    octets = IN_CHUNKS.replace(b"/echo", path)
    with house(loop=loop) as (running, told):
        refused(say(running.port, octets + b"zz\r\n"), 400, "bad_request")
        with connect(running.port) as sock:
            sock.sendall(octets + b"1\r\nx\r\n")
            eventually(lambda: told.running)
            sock.sendall(b"zz\r\n" + request())
            refused(Heard(to_the_end(sock), 0, closed=True), 400, "bad_request")
        eventually(lambda: not running.tasks and not running.connections)


@play
async def answers_while_it_reads(_told: Told, _scope: Scope, receive: Receive, send: Send) -> None:
    """Half an answer before the body, the rest after."""
    await start(send)
    await piece(send, b"half", more=True)
    await body_of(receive)
    await piece(send, b"")


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_a_body_in_bad_chunks_breaks_an_answer_that_has_begun(version: bytes, loop: str) -> None:
    """With a reset: nothing of it could be taken for whole, or for an answer of ours."""
    with house(loop=loop) as (running, _), connect(running.port) as sock:
        sock.sendall(
            request(b"/answers_while_it_reads", b"Transfer-Encoding: chunked", body=None, version=version)
            + b"1\r\nx\r\n"
        )
        until(sock, b"half")
        sock.sendall(b"zz\r\n")
        with pytest.raises(ConnectionResetError):
            rest(sock)
        eventually(lambda: not running.tasks)


# What is refused

NOT_HTTP = {
    "noise": b"\x00\x01\x02\r\n\r\n",
    "another protocol": b"HELO mail.example\r\n\r\n",
    "no version": b"GET /echo\r\n\r\n",
    "no colon": request(b"/echo", b"novalue"),
    "a length with a sign": request(b"/echo", b"Content-Length: +2", body=None) + b"{}",
    "two lengths": request(b"/echo", b"Content-Length: 2"),
    "both framings": request(b"/echo", b"Transfer-Encoding: chunked"),
    "a NUL": request(b"/echo", b"x-a: \x00"),
}


@pytest.mark.parametrize("name", NOT_HTTP)
def test_what_is_no_request_is_refused(port: int, name: str) -> None:
    """Whole and octet by octet."""
    refused(say(port, NOT_HTTP[name]), 400, "bad_request")
    refused(say(port, in_steps(NOT_HTTP[name], 1)), 400, "bad_request")


UNSUPPORTED = {
    "a websocket": request(b"/echo", b"Connection: Upgrade", b"Upgrade: websocket", body=None, method=b"GET"),
    "another protocol": request(b"/echo", b"Connection: keep-alive, upgrade", b"Upgrade: h2c"),
    "a tunnel": b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n",
    "gzip": request(b"/echo", b"Transfer-Encoding: gzip", body=None),
    "gzip in chunks": request(b"/echo", b"Transfer-Encoding: gzip, chunked", body=None) + b"0\r\n\r\n",
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_not_supported(port: int, name: str) -> None:
    refused(say(port, UNSUPPORTED[name] + request(b"/smuggled")), 501, "not_supported")
    refused(say(port, in_steps(UNSUPPORTED[name], 1)), 501, "not_supported")


def test_an_upgrade_that_nobody_asked_for_here_is_a_field(port: int) -> None:
    """`Upgrade` without `Connection: upgrade` asks this hop for nothing."""
    assert say(port, request(b"/echo", b"Upgrade: h2c", CLOSE)).statuses == [200]


def test_after_a_refusal_nothing_is_read() -> None:
    with house() as (running, told):
        heard = say(running.port, NOT_HTTP["noise"] + request())
        assert heard.statuses == [400]
        with connect(running.port) as sock:
            sock.sendall(NOT_HTTP["noise"])
            until(sock, b"}}")
            sock.sendall(request())
            assert b"200" not in to_the_end(sock)
        assert told.calls == []


def test_one_connection_too_many_is_told_when_to_come_back() -> None:
    with house(replace(LIMITS, max_connections=1)) as (running, _), connect(running.port) as sock:
        sock.sendall(request())
        until(sock, b'"body":"{}"}')
        heard = say(running.port, request())
        refused(heard, 503, "too_many_connections")
        assert b"\r\nretry-after: 1" in heard.head


# One after the other


@play
async def slow(told: Told, scope: Scope, receive: Receive, send: Send) -> None:
    """Answers when it is told to."""
    await body_of(receive)
    await told.pause()
    await whole(send, b"slow " + scope["query_string"])


def test_pipelined_calls_are_answered_one_after_the_other() -> None:
    """In order, though the later ones would be ready first; no two run at once; each with its own body."""
    with house() as (running, told), connect(running.port) as sock:
        many = b"".join(request(b"/echo?%d" % number, body=b"%d" % number) for number in range(20))
        sock.sendall(request(b"/slow?first") + many + request(b"/echo?last", CLOSE))
        assert told.reached.wait(WITHIN_S)
        assert told.calls == ["/slow"]
        told.go_on.set()
        answers = bodies(Heard(rest(sock), 0, closed=True))
    assert answers[0] == b"slow first"
    assert [orjson.loads(each)["query_string"] for each in answers[1:]] == [*map(str, range(20)), "last"]
    assert [orjson.loads(each)["body"] for each in answers[1:-1]] == [*map(str, range(20))]
    assert told.most_running == 1


def test_a_large_body_behind_a_running_call_waits_and_is_whole() -> None:
    """Reading stops meanwhile, and goes on afterwards."""
    with house() as (running, told), connect(running.port) as sock:
        body = random.Random(1).randbytes(2_000_000)
        sender = threading.Thread(target=sock.sendall, args=(request(b"/slow") + request(b"/echo", CLOSE, body=body),))
        sender.start()
        assert told.reached.wait(WITHIN_S)
        told.go_on.set()
        answers = bodies(Heard(rest(sock), 0, closed=True))
        sender.join(WITHIN_S)
    assert orjson.loads(answers[1])["body"] == body.decode("latin-1")


@play
async def reads_nothing(_told: Told, _scope: Scope, _receive: Receive, send: Send) -> None:
    """Answers at its second turn, its body unread."""
    await asyncio.sleep(0)
    await whole(send, b"unread")


def test_a_body_that_nobody_read_does_not_stop_the_next_call() -> None:
    """Where all of it has come, the connection goes on; however much of it there was."""
    with house() as (running, _), connect(running.port) as sock:
        for size in (100, 70_000, 120_000, 100):
            sock.sendall(request(b"/reads_nothing", body=b"x" * size))
            head = until(sock, b"unread")
            if b"connection: close" in head:
                break
        else:
            sock.sendall(request(b"/echo", CLOSE))
            assert rest(sock).startswith(b"HTTP/1.1 200 ")
            return
        assert size > 65_536
        assert rest(sock) == b""


def test_a_long_pipeline_is_served_to_its_end() -> None:
    """More than may wait at once, in pieces that come one by one."""
    with house() as (running, told), connect(running.port) as sock:
        sock.sendall(request(b"/slow"))
        assert told.reached.wait(WITHIN_S)
        for number in range(40):
            sock.sendall(request(b"/echo?%d" % number, body=b"x" * 3_000))
        sock.sendall(request(b"/echo?last", CLOSE))
        told.go_on.set()
        answers = bodies(Heard(rest(sock), 0, closed=True))
    assert [orjson.loads(each)["query_string"] for each in answers[1:]] == [*map(str, range(40)), "last"]
    assert told.most_running == 1


def test_nothing_is_served_behind_a_close(port: int) -> None:
    """The connection ends with the call that said so."""
    heard = say(port, request(b"/echo?1", CLOSE) + request(b"/echo?2"))
    assert heard.statuses == [200]
    assert heard.closed


@pytest.mark.parametrize("field", [b"Connection", b"proxy-connection"])
@pytest.mark.parametrize("loop", LOOPS)
def test_nothing_is_served_behind_a_close_in_a_trailer(loop: str, field: bytes) -> None:
    """Least of all a body that looks like a request: the parser passes over what follows, and its head with it."""
    smuggled = request(b"/smuggled")
    outer = request(b"/outer", body=smuggled)
    chunks = request(b"/echo", b"Transfer-Encoding: chunked", body=None) + b"1\r\nx\r\n0\r\n%b: close\r\n\r\n" % field
    with house(loop=loop) as (running, told), connect(running.port) as sock:
        sock.sendall(chunks)
        heard = rest(sock)
        with suppress(ConnectionError):
            sock.sendall(outer.removesuffix(smuggled))
            sock.sendall(smuggled)
        assert b"\r\nconnection: close\r\n" in heard
        assert told.calls == ["/echo"]


def test_a_call_longer_than_the_rest_is_not_cut() -> None:
    """Deadlines of a connection at rest are not those of a call; half a head behind it has its own time."""
    limits = replace(LIMITS, keep_alive_s=0.1, head_timeout_s=0.2)
    with house(limits) as (running, told), connect(running.port) as sock:
        sock.sendall(request(b"/slow") + b"POST /ec")
        assert told.reached.wait(WITHIN_S)
        sock.settimeout(0.6)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        sock.settimeout(WITHIN_S)
        told.go_on.set()
        heard = Heard(rest(sock), 0, closed=True)
    assert heard.statuses == [200, 408]


# Answers before the request's end


@play
async def early(_told: Told, scope: Scope, _receive: Receive, send: Send) -> None:
    """A long answer, at once."""
    size = int(scope["query_string"])
    await start(send, (b"content-length", b"%d" % size), status=413)
    left = size
    while left:
        step = min(left, 200_000)
        left -= step
        await piece(send, b"e" * step, more=left > 0)


def test_an_answer_before_the_bodys_end_can_be_read(port: int) -> None:
    """The caller is told why, though he goes on sending; then the connection ends for good."""
    with connect(port) as sock:
        sock.sendall(request(b"/early?1000", b"Content-Length: 100000000", body=None) + b"b" * 200_000)
        heard = Heard(to_the_end(sock), 0, closed=True)
        assert heard.statuses == [413]
        assert b"\r\nconnection: close" in heard.head
        assert heard.octets.endswith(b"e" * 1_000)


def test_a_caller_who_goes_on_sending_is_not_heard_for_ever() -> None:
    """The rest of the body is not read, however long the caller sends."""
    with house() as (running, told), connect(running.port) as sock:
        sock.sendall(request(b"/early?10", b"Content-Length: 1000000000", body=None))
        until(sock, b"e" * 10)
        assert _sent_until_cut(sock) < 100_000_000
        eventually(lambda: not running.connections)
        assert told.calls == ["/early"]


def _sent_until_cut(sock: socket.socket) -> int:
    """Octets that the network took before the other side was gone; at most a gigabyte."""
    sent = 0
    while sent < 1_000_000_000:
        try:
            sock.sendall(b"b" * 50_000)
        except ConnectionError:
            break
        sent += 50_000
    return sent


def test_a_long_answer_before_the_bodys_end_is_not_cut_for_a_slow_reader() -> None:
    """The moment of grace is for the caller to read our last octets, not to have read the first."""
    with house(replace(LIMITS, linger_s=0.5)) as (running, _), connect(running.port) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        sock.sendall(request(b"/early?8000000", b"Content-Length: 1000000", body=None))
        heard = len(until(sock, b"\r\n\r\n").partition(b"\r\n\r\n")[2])
        assert not threading.Event().wait(1.2)
        while got := sock.recv(1_000_000):
            heard += len(got)
    assert heard == 8_000_000


# The caller leaves


@play
async def waits(told: Told, scope: Scope, receive: Receive, _send: Send) -> None:
    """Reads the body, then waits for the caller to leave."""
    await body_of(receive)
    await told.until_lost(scope)


@play
async def streams(told: Told, scope: Scope, receive: Receive, send: Send) -> None:
    """Half an answer, then waits for the caller to leave."""
    await body_of(receive)
    await start(send)
    await piece(send, b"half", more=True)
    await told.until_lost(scope)
    await piece(send, b"to nobody", more=True)
    await piece(send, b"")


@play
async def uploads(told: Told, scope: Scope, receive: Receive, _send: Send) -> None:
    """Notes each message of a body until there is none."""
    scope["extensions"]["steward"].on_lost = lambda: told.lost.append(scope["path"])
    while (message := await receive())["type"] == "http.request":
        told.messages.append(message)
        told.reached.set()
    told.messages.append(message)


@pytest.mark.parametrize("loop", LOOPS)
def test_leaving_is_told_at_once(loop: str) -> None:
    """Once, whatever was sent before: large bodies stop the reading, and it must go on."""
    with house(loop=loop) as (running, told):
        for size, path in product((0, 2, 70_000, 250_000, 2_000_000), (b"/waits", b"/streams")):
            told.lost.clear()
            told.reached.clear()
            with connect(running.port) as sock:
                sock.sendall(request(path, body=b"x" * size))
                assert told.reached.wait(WITHIN_S), (size, path)
            eventually(lambda: told.lost, within_s=1.0)
            eventually(lambda: not running.connections and not running.tasks)
            assert told.lost == [path.decode()]


def test_a_reset_is_leaving_too() -> None:
    with house() as (running, told):
        sock = connect(running.port)
        sock.sendall(request(b"/waits"))
        assert told.reached.wait(WITHIN_S)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        eventually(lambda: told.lost == ["/waits"], within_s=1.0)


def test_leaving_during_the_upload_is_told_and_cuts_the_body() -> None:
    """`http.disconnect`, never an end of the body."""
    with house() as (running, told):
        with connect(running.port) as sock:
            sock.sendall(request(b"/uploads", b"Content-Length: 100", body=None) + b"half")
            assert told.reached.wait(WITHIN_S)
        eventually(lambda: not running.tasks)
        assert told.lost == ["/uploads"]
        assert [message["type"] for message in told.messages] == ["http.request", "http.disconnect"]
        assert (told.messages[0]["body"], told.messages[0]["more_body"]) == (b"half", True)


def test_leaving_in_the_middle_of_a_chunk_cuts_the_body() -> None:
    with house() as (running, told):
        with connect(running.port) as sock:
            head = request(b"/uploads", b"Transfer-Encoding: chunked", body=None)
            sock.sendall(head + b"5\r\nhello\r\n5\r\nhe")
            eventually(lambda: b"".join(m["body"] for m in told.messages) == b"hellohe")
        eventually(lambda: not running.tasks)
        assert told.messages[-1]["type"] == "http.disconnect"
        assert all(message.get("more_body", True) for message in told.messages)


def test_leaving_is_told_to_the_running_call_of_a_pipeline() -> None:
    """Not only to those that wait behind it; those never run."""
    with house() as (running, told):
        with connect(running.port) as sock:
            sock.sendall(request(b"/streams") + request(b"/echo") + request(b"/echo"))
            assert told.reached.wait(WITHIN_S)
            until(sock, b"half")
        eventually(lambda: told.lost == ["/streams"], within_s=2.0)
        eventually(lambda: not running.tasks)
        assert told.calls == ["/streams"]


BROKEN = {
    "noise": (b"\x00garbage\r\n\r\n", 400, "bad_request"),
    "a head too large": (b"POST /echo HTTP/1.1\r\nX: " + b"p" * 9_000, 431, "head_too_large"),
    "an upgrade": (UNSUPPORTED["a websocket"], 501, "not_supported"),
    "a body that breaks": (
        request(b"/never", b"Transfer-Encoding: chunked", body=None) + b"zz\r\n",
        400,
        "bad_request",
    ),
}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("name", BROKEN)
def test_what_came_whole_is_served_before_a_refusal(name: str, loop: str) -> None:
    """One octet too many behind good calls takes none of their answers, and is answered in its turn."""
    octets, status, code = BROKEN[name]
    for between in (0, 1, 3):
        with house(replace(LIMITS, head_timeout_s=0.2, body_window_s=0.2), loop) as (running, told):
            with connect(running.port) as sock:
                sock.sendall(request(b"/slow") + request(b"/echo") * between + octets)
                assert told.reached.wait(WITHIN_S)
                sock.settimeout(0.6)
                with pytest.raises(TimeoutError):
                    sock.recv(1)
                sock.settimeout(WITHIN_S)
                sock.sendall(request(b"/behind"))
                told.go_on.set()
                heard = Heard(rest(sock), 0, closed=True)
            assert heard.statuses == [200] * (between + 1) + [status]
            assert b"\r\nx-majordomo-error: " + code.encode() in heard.octets
            assert told.calls == ["/slow", *["/echo"] * between]


def test_leaving_is_told_behind_a_refusal_that_waits() -> None:
    with house() as (running, told):
        with connect(running.port) as sock:
            sock.sendall(request(b"/streams") + request(b"/echo") + b"\x00garbage\r\n\r\n")
            until(sock, b"half")
            assert told.reached.wait(WITHIN_S)
        eventually(lambda: told.lost == ["/streams"], within_s=2.0)
        eventually(lambda: not running.tasks)
        assert told.calls == ["/streams"]


def test_what_comes_behind_a_refusal_that_waits_is_not_read_for_ever() -> None:
    with house() as (running, told), connect(running.port) as sock:
        sock.sendall(request(b"/slow") + b"\x00garbage\r\n\r\n")
        assert told.reached.wait(WITHIN_S)
        sock.settimeout(0.5)
        with pytest.raises(TimeoutError):
            sock.sendall(b"b" * 100_000_000)
        told.go_on.set()


@play
async def stops(_told: Told, scope: Scope, receive: Receive, send: Send) -> None:
    """The process is told to end while this runs."""
    await body_of(receive)
    scope["extensions"]["steward"]._connection.stop()
    await whole(send, b"stopped")


def test_a_process_that_ends_begins_nothing_more() -> None:
    """Neither what waits in the pipeline nor what would be refused after it."""
    for behind in (request(b"/echo") * 2, b"\x00garbage\r\n\r\n"):
        with house() as (running, told), connect(running.port) as sock:
            sock.sendall(request(b"/stops") + behind)
            heard = Heard(rest(sock), 0, closed=True)
            assert heard.statuses == [200]
            assert b"\r\nconnection: close" in heard.head
            assert told.calls == ["/stops"]


def test_a_process_that_ends_leaves_no_connection_at_rest() -> None:
    with house() as (running, _), connect(running.port) as sock, connect(running.port) as silent:
        sock.sendall(request())
        until(sock, b'"body":"{}"}')
        for each in list(running.server.server_state.connections):
            assert isinstance(each, Listener)
            each.loop.call_soon_threadsafe(each.stop)
        assert rest(sock) == rest(silent) == b""


def test_a_whole_answer_is_not_lost_afterwards() -> None:
    """Leaving after the last octet is no leaving."""

    async def answers(told: Told, scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"]["steward"].on_lost = lambda: told.lost.append(scope["path"])
        await echo(told, scope, receive, send)

    PLAYS["/answers"] = answers
    with house() as (running, told):
        with connect(running.port) as sock:
            for _ in range(3):
                sock.sendall(request(b"/answers"))
                until(sock, b'"body":"{}"}')
        assert say(running.port, request(b"/answers", CLOSE)).statuses == [200]
        eventually(lambda: not running.connections)
        assert told.lost == []


# Callers who do not read


@play
async def floods(told: Told, scope: Scope, receive: Receive, send: Send) -> None:
    """A long answer; `messages` counts what was taken of it."""
    await body_of(receive)
    scope["extensions"]["steward"].on_lost = lambda: told.lost.append(scope["path"])
    await start(send)
    for _ in range(2_000):
        await piece(send, b"f" * 65_536, more=True)
        told.messages.append({})
        if told.lost:
            return
    await piece(send, b"")


def test_a_caller_who_stops_reading_is_cut() -> None:
    """After `stall_s`; by then only what buffers hold was taken from the application."""
    with house(replace(LIMITS, stall_s=0.4, linger_s=0.1)) as (running, told), connect(running.port) as sock:
        sock.sendall(request(b"/floods"))
        until(sock, b"fff")
        eventually(lambda: told.lost == ["/floods"])
        assert len(told.messages) < 500
        eventually(lambda: not running.connections)
        assert told.lost == ["/floods"]


def test_a_caller_who_reads_again_is_not() -> None:
    with house(replace(LIMITS, stall_s=1.0, linger_s=0.1)) as (running, told), connect(running.port) as sock:
        sock.sendall(request(b"/floods", CLOSE))
        heard, pause = 0, threading.Event()
        for _ in range(4):
            pause.wait(0.4)
            heard += len(sock.recv(5_000_000, socket.MSG_WAITALL))
        while got := sock.recv(1_000_000):
            heard += len(got)
        assert heard > 2_000 * 65_536
        assert told.lost == []


def test_a_caller_who_does_not_read_the_end_is_cut_too() -> None:
    """The last octets, too few to stop anyone from writing, must not hold a connection for ever."""

    async def ends_full(told: Told, scope: Scope, receive: Receive, send: Send) -> None:
        await body_of(receive)
        await start(send)
        transport = scope["extensions"]["steward"]._connection.transport
        while not transport.get_write_buffer_size():
            await piece(send, b"x" * 4_096, more=True)
        told.reached.set()
        await piece(send, b"the end")

    PLAYS["/ends_full"] = ends_full
    with house(replace(LIMITS, stall_s=0.3, linger_s=0.1)) as (running, told), connect(running.port) as sock:
        sock.sendall(request(b"/ends_full", CLOSE))
        assert told.reached.wait(WITHIN_S)
        eventually(lambda: not running.connections)
        assert told.calls == ["/ends_full"]


# Slow bodies

HASTE = replace(LIMITS, body_window_s=0.3, body_min_bytes_per_s=1_000, linger_s=0.2)


@play
async def raises_when_lost(_told: Told, _scope: Scope, receive: Receive, _send: Send) -> None:
    """As frameworks do: a body that is cut short is an exception."""
    while (message := await receive())["type"] == "http.request" and message["more_body"]:
        pass
    if message["type"] == "http.disconnect":
        raise RuntimeError


@pytest.mark.parametrize("loop", LOOPS)
def test_a_body_that_does_not_come_is_answered_once(loop: str) -> None:
    """408, whatever the application makes of it."""
    with house(HASTE, loop) as (running, _):
        for path in (b"/echo", b"/raises_when_lost"):
            refused(say(running.port, request(path, b"Content-Length: 100000", body=None)), 408, "request_timeout")
            eventually(lambda: not running.tasks and not running.connections)


def test_a_body_that_nobody_reads_is_not_slow() -> None:
    """The application's pace is not the caller's fault."""
    with house(HASTE) as (running, told), connect(running.port) as sock:
        sock.sendall(request(b"/reads_when_told", CLOSE, b"Content-Length: 5", body=None))
        assert told.reached.wait(WITHIN_S)
        sock.settimeout(0.8)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        sock.settimeout(WITHIN_S)
        sock.sendall(b"hello")
        told.go_on.set()
        assert rest(sock).endswith(b"\r\n\r\nhello")


def test_a_body_that_stops_during_the_answer_breaks_it() -> None:
    """What has begun cannot be refused any more."""

    async def answers_first(_told: Told, _scope: Scope, receive: Receive, send: Send) -> None:
        await start(send)
        await piece(send, b"half", more=True)
        await body_of(receive)

    PLAYS["/answers_first"] = answers_first
    with house(HASTE) as (running, _):
        heard = say(running.port, request(b"/answers_first", b"Content-Length: 100000", body=None))
        assert heard.statuses == [200]
        assert heard.closed
        assert not heard.octets.endswith(b"0\r\n\r\n")


# Many


def test_a_crowd_gets_its_own() -> None:
    """Two hundred calls over twenty connections at once: each answer is of its own request."""

    async def caller(port: int, number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for turn in range(10):
            body = b"%d-%d" % (number, turn)
            writer.write(request(b"/echo?" + body, body=body))
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            saw = orjson.loads(await reader.readexactly(length))
            assert (saw["body"], saw["query_string"]) == (body.decode(), body.decode())
        writer.close()
        await writer.wait_closed()

    async def crowd(port: int) -> None:
        await asyncio.gather(*(caller(port, number) for number in range(20)))

    with house() as (running, told):
        asyncio.run(crowd(running.port))
        assert len(told.calls) == 200
        eventually(lambda: not running.connections)
