"""A listener in front of small applications, and what a caller says to it and hears.

An application is a play; the path of a call chooses it. It refuses to relay: there is no provider here.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import uvloop

from steward.listener import Listener, ListenerLimits, listener
from steward.proxy import Message, Receive, Scope, Send
from tests.servers.listening import Listening, listening
from tests.servers.raw_caller import Heard

LIMITS = ListenerLimits(
    head_bytes=2_048, head_fields=8, head_timeout_s=5.0, keep_alive_s=5.0, linger_s=0.4, stall_s=5.0
)
JSON = (b"content-type", b"application/json")
WITHIN_S = 10.0
LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


class Told:
    """What an application saw, kept for the test; and what the test lets it do."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.lost: list[str] = []
        self.messages: list[Message] = []
        self.running = 0
        self.most_running = 0
        self.go_on = threading.Event()
        self.reached = threading.Event()

    async def pause(self) -> None:
        """Tells the test that this place is reached, and waits for it."""
        self.reached.set()
        await asyncio.to_thread(self.go_on.wait, WITHIN_S)

    async def until_lost(self, scope: Scope) -> None:
        """Waits for the caller to leave, as the relay does: by the listener's own word."""
        gone = asyncio.Event()
        cycle = scope["extensions"]["steward"]

        def lost() -> None:
            self.lost.append(scope["path"])
            gone.set()

        cycle.on_lost = lost
        self.reached.set()
        async with asyncio.timeout(WITHIN_S):
            await gone.wait()


Play = Callable[[Told, Scope, Receive, Send], Awaitable[None]]
PLAYS: dict[str, Play] = {}


def play(function: Play) -> Play:
    """Enters a play under its name; the path of a call chooses it."""
    PLAYS["/" + function.__name__] = function
    return function


async def body_of(receive: Receive) -> bytes:
    """The whole body; what came of it when the caller left."""
    pieces = []
    while (message := await receive())["type"] == "http.request":
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            break
    return b"".join(pieces)


async def start(send: Send, *fields: tuple[bytes, bytes], status: int = 200, hold: bool = False) -> None:
    """The head of an answer."""
    await send({"type": "http.response.start", "status": status, "headers": [*fields], "steward.hold": hold})


async def piece(send: Send, body: bytes, more: bool = False) -> None:
    """A piece of its body, the last one by default."""
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def whole(send: Send, body: bytes, status: int = 200) -> None:
    """An answer with a length."""
    await start(send, JSON, (b"content-length", b"%d" % len(body)), status=status)
    await piece(send, body)


@play
async def echo(_told: Told, scope: Scope, receive: Receive, send: Send) -> None:
    """Says what came."""
    body = await body_of(receive)
    names = ("method", "path", "http_version", "type", "scheme", "root_path")
    said: dict[str, Any] = {name: scope[name] for name in names}
    said |= {name: scope[name].decode("latin-1") for name in ("raw_path", "query_string")}
    said["headers"] = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]]
    await whole(send, orjson.dumps(said | {"body": body.decode("latin-1")}))


@play
async def reads_when_told(told: Told, _scope: Scope, receive: Receive, send: Send) -> None:
    """Reads the body only when it is told to."""
    await told.pause()
    await whole(send, await body_of(receive))


@contextmanager
def house(
    limits: ListenerLimits = LIMITS, loop: str = "uvloop", http: type[Listener] | None = None
) -> Iterator[tuple[Listening, Told]]:
    """A listener in front of the plays."""
    told = Told()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        told.calls.append(scope["path"])
        told.running += 1
        told.most_running = max(told.most_running, told.running)
        try:
            await PLAYS.get(scope["path"], echo)(told, scope, receive, send)
        finally:
            told.running -= 1

    with listening(app, http or listener(limits), LOOPS[loop]) as running:
        yield running, told
        told.go_on.set()


def request(
    path: bytes = b"/echo", *lines: bytes, body: bytes | None = b"{}", method: bytes = b"POST", version: bytes = b"1.1"
) -> bytes:
    """A good request, with lines added."""
    framing = [] if body is None else [b"Content-Length: %d" % len(body)]
    first = method + b" " + path + b" HTTP/" + version
    return b"\r\n".join((first, b"Host: x", *lines, *framing, b"", body or b""))


CLOSE = b"Connection: close"


def bodies(heard: Heard) -> list[bytes]:
    """The bodies of all answers with a length."""
    left, found = heard.octets, []
    while left:
        head, _, left = left.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        found.append(left[:length])
        left = left[length:]
    return found


def echoed(heard: Heard) -> dict[str, Any]:
    """What `echo` said."""
    found: dict[str, Any] = orjson.loads(bodies(heard)[0])
    return found


def refused(heard: Heard, status: int, code: str) -> None:
    """Our own words, once, in JSON; the connection ends with them."""
    assert heard.statuses == [status]
    assert heard.closed
    assert b"\r\nconnection: close" in heard.head
    assert b"\r\nx-majordomo-error: " + code.encode() in heard.head
    assert b"\r\ncontent-type: application/json" in heard.head
    error = orjson.loads(bodies(heard)[0])["error"]
    assert (error["code"], bool(error["message"])) == (code, True)


def connect(port: int) -> socket.socket:
    """A caller's socket; nothing of his waits to be joined with more."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=WITHIN_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def rest(sock: socket.socket) -> bytes:
    """All until the other side closes. Raises ConnectionResetError when it does so without grace."""
    heard = b""
    while got := sock.recv(65_536):
        heard += got
    return heard


def until(sock: socket.socket, end: bytes) -> bytes:
    """Reads as far as this."""
    heard = b""
    while end not in heard:
        got = sock.recv(65_536)
        assert got, heard
        heard += got
    return heard


def to_the_end(sock: socket.socket) -> bytes:
    try:
        return rest(sock)
    except ConnectionError:
        return b""
