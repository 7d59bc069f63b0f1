"""A way to a server on which calls get lost: before the server hears of them, or after it has done what they ask."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.servers.plain_http import Ended, Message, Request, read_answer, read_body, read_head


@dataclass
class BadWeather:
    """What became of the calls so far; `fails` may change at any time."""

    port: int
    fails: float
    """The share of calls that are lost: half of them before, half after the server applied them."""
    met: Counter[str] = field(default_factory=Counter)
    """`heard`, and of those `before`, `after`, `away` (the server was), `passed`."""
    dice: random.Random = field(default_factory=lambda: random.Random(7))
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def fate(self) -> str:
        """Of the next call."""
        with self.lock:
            fate = self.dice.choice(("before", "after")) if self.dice.random() < self.fails else "passed"
            return fate

    def note(self, *names: str) -> None:
        with self.lock:
            self.met.update(names)


@contextmanager
def bad_weather(target_port: int, fails: float) -> Iterator[BadWeather]:
    """Listens until the block ends. A call that is lost is a connection that ends without an answer."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as server:
        made = BadWeather(server.getsockname()[1], fails)

        def meet(caller: socket.socket) -> None:
            with caller, caller.makefile("rb") as stream, contextlib.suppress(OSError, Ended):
                while (head := read_head(stream)) is not None:
                    answer = _carried(made, target_port, Message(head, read_body(stream, head)))
                    if answer is None:
                        return
                    caller.sendall(_octets(answer))

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=meet, args=(server.accept()[0],), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield made
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


def _carried(weather: BadWeather, port: int, asked: Message) -> Message | None:
    """The server's answer; None when it is lost on one of the two ways."""
    weather.note("heard")
    fate = weather.fate()
    if fate != "before":
        method, target, _ = asked.head.first.split(b" ")
        fields = [each for each in asked.head.fields if each[0].lower() not in {b"content-length", b"host"}]
        request = Request(method, target, fields, asked.body)
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=30) as there, there.makefile("rb") as stream:
                there.sendall(request.octets(b"127.0.0.1:%d" % port))
                answer = read_answer(stream, method)
        except (OSError, Ended):
            weather.note("away")
            return None
        weather.note(fate)
        return answer if fate == "passed" else None
    weather.note(fate)
    return None


def _octets(answer: Message) -> bytes:
    left_out = {b"content-length", b"transfer-encoding"}
    lines = [answer.head.first, *(b"%s: %s" % each for each in answer.head.fields if each[0].lower() not in left_out)]
    return b"\r\n".join([*lines, b"Content-Length: %d" % len(answer.body)]) + b"\r\n\r\n" + answer.body
