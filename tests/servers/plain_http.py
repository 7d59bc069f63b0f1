"""HTTP/1.1 over a plain socket: the octets of a message, unframed, with fields in their order and their repeats.

It refuses to help: nothing is added, decoded, joined, followed or tried again.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import BinaryIO

Fields = list[tuple[bytes, bytes]]

HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)
FRAMING = HOP_BY_HOP | {b"host", b"content-length"}
"""What promise 1 does not cover: these belong to one connection, not to the message."""
OURS = b"x-majordomo-"
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Head:
    """A first line and its fields, names as they were spelled."""

    first: bytes
    fields: Fields

    def values(self, name: bytes) -> list[bytes]:
        """Every value of one field, `name` in lower case."""
        return [value for key, value in self.fields if key.lower() == name]


@dataclass(frozen=True)
class Message:
    """A whole message: what promise 1 speaks of."""

    head: Head
    body: bytes

    @property
    def status(self) -> int:
        """Of an answer."""
        return int(self.head.first.split(b" ")[1])

    def end_to_end(self) -> Fields:
        """Fields that must be identical: in order, with repeats, lower-case names; ours and the framing left out."""
        named = [(name.lower(), value) for name, value in self.head.fields]
        return [(name, value) for name, value in named if name not in FRAMING and not name.startswith(OURS)]

    def ours(self) -> Fields:
        """The `X-Majordomo-*` fields."""
        return [(name.lower(), value) for name, value in self.head.fields if name.lower().startswith(OURS)]


@dataclass(frozen=True)
class Request:
    """A request to write: the target raw, the fields as they shall stand on the wire; Host and framing are added."""

    method: bytes
    target: bytes
    fields: Fields = field(default_factory=list)
    body: bytes = b""
    chunked: bool = False

    def octets(self, authority: bytes) -> bytes:
        """The whole message."""
        lines = [b"%s %s HTTP/1.1" % (self.method, self.target), b"Host: " + authority]
        lines += [b"%s: %s" % each for each in self.fields]
        if self.chunked:
            half = len(self.body) // 2 + 1
            body = b"".join(chunk(part) for part in (self.body[:half], self.body[half:]) if part) + b"0\r\n\r\n"
            lines.append(b"Transfer-Encoding: chunked")
        else:
            body = self.body
            if body or self.method not in (b"GET", b"DELETE", b"HEAD"):
                lines.append(b"Content-Length: %d" % len(body))
        return b"\r\n".join(lines) + b"\r\n\r\n" + body


class Ended(Exception):
    """The peer closed before the message was complete."""


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def call(port: int, request: Request) -> Message:
    """One request over a connection of its own to 127.0.0.1. Raises Ended when the answer is cut short."""
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as sock:
        sock.sendall(request.octets(b"127.0.0.1:%d" % port))
        with sock.makefile("rb") as stream:
            return read_answer(stream, request.method)


def read_answer(stream: BinaryIO, method: bytes) -> Message:
    """The final answer to one request. Raises Ended."""
    while True:
        head = read_head(stream)
        if head is None:
            raise Ended
        status = int(head.first.split(b" ")[1])
        if status >= 200:
            break
    if method == b"HEAD" or status in (204, 304):
        return Message(head, b"")
    if not head.values(b"content-length") and not head.values(b"transfer-encoding"):
        return Message(head, stream.read())
    return Message(head, read_body(stream, head))


def read_head(stream: BinaryIO) -> Head | None:
    """First line and fields; None when the peer closed before the first octet. Raises Ended."""
    first = stream.readline()
    if not first:
        return None
    fields: Fields = []
    while (line := stream.readline()) != b"\r\n":
        if not line:
            raise Ended
        name, _, value = line.partition(b":")
        fields.append((name, value.strip(b" \t\r\n")))
    return Head(first.rstrip(b"\r\n"), fields)


def read_body(stream: BinaryIO, head: Head) -> bytes:
    """The body's octets without their framing; empty where there is no length. Raises Ended."""
    if any(b"chunked" in value.lower() for value in head.values(b"transfer-encoding")):
        return _read_chunks(stream)
    lengths = head.values(b"content-length")
    return _exactly(stream, int(lengths[0])) if lengths else b""


def _read_chunks(stream: BinaryIO) -> bytes:
    body = bytearray()
    while size := int(_line(stream).split(b";")[0], 16):
        body += _exactly(stream, size)
        _line(stream)
    while _line(stream) != b"\r\n":
        pass
    return bytes(body)


def _line(stream: BinaryIO) -> bytes:
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise Ended
    return line


def _exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise Ended
    return data
