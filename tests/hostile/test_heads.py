"""F14: heads and bodies without end, too many, or that never come. The right answer each, in time, in little memory.

Sizes are tried on a real Steward; limits of time on the same listener with shorter ones.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain, repeat
from pathlib import Path
from statistics import median
from typing import Any

import orjson
import pytest
import uvicorn

from steward.adapters.postgres_local import LocalPostgres
from steward.listener import ListenerLimits, listener
from steward.proxy import Message, Receive, Scope, Send
from tests.servers.misbehaving import Provider, in_thread
from tests.servers.raw_caller import Heard, say
from tests.servers.steward import RunningSteward, running_steward
from tests.servers.waiting import eventually

START = b"POST /v1/chat/completions HTTP/1.1\r\nHost: steward.test\r\n"
TWO = b"Content-Length: 2\r\n\r\n{}"
MIB = 1 << 20


@pytest.fixture(scope="module")
def steward(postgres_server: LocalPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSteward]:
    """One Steward for this file."""
    folder = tmp_path_factory.mktemp("heads")
    with in_thread(Provider()) as provider, running_steward(postgres_server, folder, provider.url) as running:
        yield running


def rss_bytes(steward: RunningSteward) -> int:
    """Memory of the process now."""
    pages = int(Path(f"/proc/{steward.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def read_bytes(steward: RunningSteward) -> int:
    """Octets the process has read so far, from files and sockets alike."""
    return int(Path(f"/proc/{steward.process.pid}/io").read_text().split()[1])


def with_key(steward: RunningSteward, *lines: bytes) -> bytes:
    """A good head's beginning; ends before the blank line."""
    return START + b"".join(line + b"\r\n" for line in (b"X-Majordomo-Key: " + steward.key.encode(), *lines))


def is_well(steward: RunningSteward) -> bool:
    """A proper call is served."""
    octets = with_key(steward, b"Authorization: Bearer sk", b"Connection: close") + TWO
    return say(steward.port, octets).status == 200


def refused(heard: Heard, status: int) -> None:
    """This status, in JSON, once; and the connection ends."""
    assert heard.statuses == [status]
    assert heard.closed
    assert b"connection: close" in heard.head
    assert orjson.loads(heard.octets.partition(b"\r\n\r\n")[2])["error"]["message"]


# Sizes, on a real Steward

TOO_LARGE: dict[str, Callable[[], Iterable[bytes]]] = {
    "one field of 100 MB": lambda: chain([START, b"x-a: "], repeat(b"a" * 65_536, 1_600)),
    "400,000 fields": lambda: chain([START], (b"a: b\r\n" * 1_000 for _ in range(400))),
    "a name of 100 MB": lambda: chain([START], repeat(b"a" * 65_536, 1_600)),
    "a target of 100 MB": lambda: chain([b"POST /v1/"], repeat(b"a" * 65_536, 1_600)),
    "65 KiB in one piece": lambda: [START + b"x-a: " + b"a" * 66_000 + b"\r\n\r\n"],
    "129 fields in one piece": lambda: [START + b"".join(b"x-%d: 1\r\n" % i for i in range(128)) + b"\r\n"],
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_head_that_is_too_large_is_refused_early(steward: RunningSteward, name: str) -> None:
    """431; of what could not be a head, little is taken and nothing kept."""
    assert is_well(steward)
    before = rss_bytes(steward)
    heard = say(steward.port, TOO_LARGE[name]())
    refused(heard, 431)
    assert heard.sent_bytes < 32 * MIB
    assert rss_bytes(steward) - before < 20 * MIB
    assert is_well(steward)


def test_a_method_without_end_is_none(steward: RunningSteward) -> None:
    """400."""
    before = rss_bytes(steward)
    refused(say(steward.port, repeat(b"a" * 65_536, 1_600)), 400)
    assert rss_bytes(steward) - before < 20 * MIB


def test_a_head_just_within_its_limits_is_served(steward: RunningSteward) -> None:
    """128 fields, 62 KiB."""
    lines = [b"Authorization: Bearer sk", b"Content-Length: 2", b"Connection: close"]
    lines += [b"x-%03d: " % i + b"v" * 500 for i in range(123)]
    heard = say(steward.port, with_key(steward, *lines) + b"\r\n{}")
    assert heard.statuses == [200]


def test_many_small_calls_on_one_connection_are_not_one_large_head(steward: RunningSteward) -> None:
    """The bound is a head's, not a connection's."""
    octets = with_key(steward, b"Authorization: Bearer sk", b"x-pad: " + b"p" * 8_000) + TWO
    last = octets.replace(b"x-pad", b"Connection: close\r\nx-pad")
    assert say(steward.port, octets * 20 + last).statuses == [200] * 21


@pytest.mark.parametrize("key", [b"mdm_sk_" + b"0" * 40, b"", None], ids=["unknown", "empty", "none"])
def test_a_body_without_a_key_is_not_read(steward: RunningSteward, key: bytes | None) -> None:
    """401 from the head alone: the caller is told before he has sent any of it, and 200 MB never arrive."""
    assert is_well(steward)
    lines = [b"Content-Length: 200000000"] + ([b"X-Majordomo-Key: " + key] if key is not None else [])
    head = START + b"".join(line + b"\r\n" for line in lines) + b"\r\n"
    refused(say(steward.port, [head]), 401)
    before, read_before = rss_bytes(steward), read_bytes(steward)
    heard = say(steward.port, chain([head], repeat(b"x" * 16_384, 12_000)))
    assert heard.closed
    assert heard.status in (0, 401)  # a caller who goes on sending may lose the answer to the reset
    assert heard.sent_bytes < 16 * MIB
    assert read_bytes(steward) - read_before < MIB
    assert rss_bytes(steward) - before < 20 * MIB
    assert is_well(steward)


SLOW_HEADS = 2_000


def test_two_thousand_slow_heads_beside_a_live_load(steward: RunningSteward) -> None:
    """Half a head each: memory within 20 MB; calls go on as before."""
    alone = times_of_calls(steward)
    before = rss_bytes(steward)
    with ExitStack() as undo:
        for _ in range(SLOW_HEADS):
            sock = undo.enter_context(socket.create_connection(("127.0.0.1", steward.port)))
            sock.sendall(START + b"x-half: ")
        beside = times_of_calls(steward)
        assert rss_bytes(steward) - before < 20 * MIB
    assert median(beside) < 5 * median(alone)
    assert sorted(beside)[-2] < 20 * max(alone)
    assert is_well(steward)


def times_of_calls(steward: RunningSteward) -> list[float]:
    """How long each of a hundred calls took; each must be served."""
    took = []
    for _ in range(100):
        began = time.monotonic()
        assert is_well(steward)
        took.append(time.monotonic() - began)
    return took


# Times, on the same listener with shorter limits

LIMITS = ListenerLimits(
    head_timeout_s=0.3, body_window_s=0.3, body_min_bytes_per_s=1_000, keep_alive_s=0.5, linger_s=0.2
)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads the body, then says how long it was."""
    count, more = 0, True
    while more:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            return
        count += len(message.get("body", b""))
        more = message.get("more_body", False)
    answer: dict[str, Any] = {"headers": [(b"content-length", b"9")], "type": "http.response.start", "status": 200}
    await send(answer)
    await send({"type": "http.response.body", "body": b"%09d" % count})


@contextmanager
def listening(limits: ListenerLimits) -> Iterator[int]:
    """The listener with these limits, in front of `echo`, on a thread of its own. Gives its port."""
    config = uvicorn.Config(
        echo, http=listener(limits), loop="uvloop", lifespan="off", ws="none", log_config=None, interface="asgi3"
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        thread = threading.Thread(target=server.run, args=([sock],))
        thread.start()
        try:
            eventually(lambda: server.started)
            yield sock.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(10)


@pytest.fixture(scope="module")
def impatient() -> Iterator[int]:
    """The port of a listener with short limits."""
    with listening(LIMITS) as port:
        yield port


def slowly(sock: socket.socket, octets: bytes, pause_s: float) -> bytes:
    """Sends octet by octet, listening in between; what came back once the other side spoke or closed."""
    sock.settimeout(pause_s)
    for octet in octets:
        try:
            sock.sendall(bytes([octet]))
            return sock.recv(65_536) + rest(sock)
        except TimeoutError:
            continue
    return rest(sock)


def rest(sock: socket.socket) -> bytes:
    """All until the other side closes."""
    sock.settimeout(10.0)
    heard = b""
    try:
        while piece := sock.recv(65_536):
            heard += piece
    except ConnectionError:
        return heard
    return heard


def one_answer(sock: socket.socket) -> None:
    """Reads the answer to a body of two octets."""
    heard = b""
    while not heard.endswith(b"\r\n\r\n000000002"):
        piece = sock.recv(65_536)
        assert piece
        heard += piece
    assert heard.startswith(b"HTTP/1.1 200 ")


def test_blank_lines_for_ever_end(impatient: int) -> None:
    """They may stand before a head (RFC 9112, 2.2), not instead of one."""
    heard = say(impatient, repeat(b"\r\n" * 1_000))
    assert heard.closed
    assert heard.status in (0, 400, 408, 431)


HALVES = {
    "half a first line": b"POST /v1/ch",
    "half a head": START + b"x-half: ",
    "all but the blank line": START,
}


@pytest.mark.parametrize("name", HALVES)
def test_half_a_head_and_silence(impatient: int, name: str) -> None:
    """408."""
    refused(say(impatient, HALVES[name]), 408)


def test_a_head_octet_by_octet(impatient: int) -> None:
    """The time is the head's, however alive it looks."""
    with socket.create_connection(("127.0.0.1", impatient)) as sock:
        heard = slowly(sock, START + b"x-a: " + b"a" * 400, pause_s=0.01)
    assert heard.startswith(b"HTTP/1.1 408 ")


def test_a_connection_that_says_nothing_is_closed(impatient: int) -> None:
    """Nobody asked: nothing is answered."""
    heard = say(impatient, b"")
    assert heard.closed
    assert heard.octets == b""


def test_a_connection_at_rest_is_closed(impatient: int) -> None:
    """After an answer, when `keep_alive_s` is over; and not before the next call comes."""
    with socket.create_connection(("127.0.0.1", impatient)) as sock:
        for _ in range(3):
            sock.sendall(START + TWO)
            one_answer(sock)
        assert rest(sock) == b""


def test_a_second_head_has_its_own_time(impatient: int) -> None:
    """On a connection that was good once."""
    heard = say(impatient, START + TWO + START)
    assert heard.statuses == [200, 408]
    assert heard.closed


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 100000", b"Transfer-Encoding: chunked"], ids=["length", "chunks"]
)
def test_a_body_that_does_not_come(impatient: int, framing: bytes) -> None:
    """408."""
    refused(say(impatient, START + framing + b"\r\n\r\n"), 408)


def test_a_body_octet_by_octet(impatient: int) -> None:
    """Slower than the least rate: 408, however alive it looks."""
    with socket.create_connection(("127.0.0.1", impatient)) as sock:
        sock.sendall(START + b"Content-Length: 100000\r\n\r\n")
        heard = slowly(sock, b"a" * 400, pause_s=0.003)
    assert heard.startswith(b"HTTP/1.1 408 ")


def test_a_body_that_is_slow_but_comes(impatient: int) -> None:
    """Faster than the least rate, longer than the window: served."""
    body = b"a" * 500
    pieces = chain([START + b"Content-Length: 40000\r\nConnection: close\r\n\r\n"], repeat(body, 79))
    with socket.create_connection(("127.0.0.1", impatient)) as sock:
        sock.settimeout(0.01)
        for piece in pieces:
            sock.sendall(piece)
            with pytest.raises(TimeoutError):
                sock.recv(1)
        sock.sendall(body)
        heard = rest(sock)
    assert heard.startswith(b"HTTP/1.1 200 ")
    assert heard.endswith(b"000040000")


def test_one_connection_too_many() -> None:
    """503 for it; those that stand are not disturbed."""
    with listening(ListenerLimits(max_connections=2)) as port, ExitStack() as undo:
        kept = [undo.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(2)]
        for sock in kept:
            sock.sendall(START + TWO)
            one_answer(sock)
        refused(say(port, START + TWO), 503)
        kept[0].sendall(START + TWO)
        one_answer(kept[0])
