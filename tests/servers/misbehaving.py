"""A provider that misbehaves on request: the call's `x-play` field names the scenario, `x-canary` whose call it is.

Raw sockets, plain or TLS with an authority of its own. It judges nothing: it plays, and keeps what it saw. Every answer
bears the canary of the call it belongs to, poison included, so whoever reads another's canary got another's bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Self, cast

import trustme

from steward.exchange import Origin

PLAY = b"x-play"
CANARY = b"x-canary"
LATE_S = 0.01
"""When late bytes come: after the answer was read, before the connection is given up."""

Fields = list[tuple[bytes, bytes]]


class Fate(Enum):
    """What becomes of the call in the hands of a relay that is not fooled."""

    SERVED = "the whole answer arrives"
    REFUSED = "502, and nothing of the provider's head"
    LOST = "502: the connection ended before a head"
    BROKEN = "the head arrives, then the answer breaks off"
    TIMES_OUT = "504, or a break after the head, when the limit is reached"


@dataclass(slots=True)
class Seen:
    """One request, as it arrived."""

    connection: int
    method: bytes
    target: bytes
    fields: Fields
    head: bytes
    body: bytearray = field(default_factory=bytearray)
    body_bytes: int = 0
    whole: bool = False
    """The body came to its announced end."""
    cut: bool = False
    """The relay's end of the connection closed before the body, or the answer, was over."""
    sent_bytes: int = 0
    """Octets of a long answer that the network took so far."""

    def get(self, name: bytes) -> bytes | None:
        """The first value of a field."""
        return next((value for key, value in self.fields if key.lower() == name), None)

    @property
    def canary(self) -> bytes:
        """Whose call it is."""
        return self.get(CANARY) or b"nobody"


class Conversation:
    """One connection, from the provider's chair."""

    def __init__(self, provider: Provider, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = provider.connections
        self.reader = reader
        self.writer = writer
        self.go_on = provider.go_on
        self.note = provider.seen.append

    async def hear(self) -> Seen | None:
        """The next request's head, or None when the other side is gone."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError, OSError):
            return None
        start, *lines = head[:-4].split(b"\r\n")
        method, target, _ = start.split(b" ", 2)
        fields = [(name, value.strip()) for name, _, value in (line.partition(b":") for line in lines)]
        return Seen(self.number, method, target, fields, head)

    async def hear_body(self, seen: Seen, keep: int = 1 << 20) -> bool:
        """Reads the body to its end; False when it was cut short."""
        try:
            if (seen.get(b"transfer-encoding") or b"").lower() == b"chunked":
                while size := int((await self.reader.readuntil(b"\r\n")).split(b";")[0], 16):
                    await self._hear_piece(seen, size, keep)
                    await self.reader.readexactly(2)
                await self.reader.readuntil(b"\r\n")
            else:
                await self._hear_piece(seen, int(seen.get(b"content-length") or 0), keep)
        except (asyncio.IncompleteReadError, ConnectionError, OSError, ValueError):
            seen.cut = True
            return False
        seen.whole = True
        return True

    async def _hear_piece(self, seen: Seen, size: int, keep: int) -> None:
        while size:
            piece = await self.reader.readexactly(min(size, 65_536))
            size -= len(piece)
            seen.body_bytes += len(piece)
            seen.body += piece[: max(0, keep - len(seen.body))]

    async def say(self, *pieces: bytes) -> None:
        """Sends; each piece in a packet of its own, as far as the network allows."""
        for piece in pieces:
            self.writer.write(piece)
            with contextlib.suppress(ConnectionError):
                await self.writer.drain()

    async def until_left(self, seen: Seen) -> None:
        """Waits for the other side to close, and notes it."""
        with contextlib.suppress(ConnectionError, OSError):
            while await self.reader.read(65_536):
                pass
        seen.cut = True

    def hold(self) -> None:
        """Reads nothing more, whatever comes."""
        cast(asyncio.Transport, self.writer.transport).pause_reading()

    def listen(self) -> None:
        """Reads again."""
        cast(asyncio.Transport, self.writer.transport).resume_reading()

    def reset(self) -> None:
        """Breaks the connection with a TCP reset."""
        sock = self.writer.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def later(self, data: bytes) -> None:
        """Sends something unasked, a moment after."""
        asyncio.get_running_loop().call_later(LATE_S, self._blurt, data)

    def _blurt(self, data: bytes) -> None:
        if not self.writer.is_closing():
            self.writer.write(data)


Play = Callable[[Conversation, Seen], Awaitable[bool]]
"""Answers one request; True when the connection goes on."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One named way to misbehave (or, to compare, to behave)."""

    name: str
    fate: Fate
    play: Play = field(repr=False)
    method: bytes = b"POST"
    reuse: bool = False
    """Whether a relay may use the connection again."""
    status: int = 200
    """The status of the answer, where it is served."""
    staged: bool = False
    """It needs a test that plays along."""


SCENARIOS: dict[str, Scenario] = {}


def scenario(
    fate: Fate, method: bytes = b"POST", reuse: bool = False, status: int = 200, staged: bool = False
) -> Callable[[Play], Play]:
    """Enters a play into the table under its function's name."""

    def enter(play: Play) -> Play:
        name = play.__name__
        SCENARIOS[name] = Scenario(name, fate, play, method, reuse, status, staged)
        return play

    return enter


def page(seen: Seen, note: bytes = b"answer") -> bytes:
    """The body of every answer: whose it is."""
    return b'{"object": "chat.completion", "note": "%b", "canary": "%b"}' % (note, seen.canary)


def answer(seen: Seen, *extra: bytes, status: bytes = b"200 OK", note: bytes = b"answer") -> bytes:
    """A proper answer with a length."""
    body = page(seen, note)
    lines = (b"HTTP/1.1 " + status, b"content-type: application/json", b"content-length: %d" % len(body), *extra)
    return b"\r\n".join(lines) + b"\r\nx-echo: " + seen.canary + b"\r\n\r\n" + body


def chunked(seen: Seen, *trailers: bytes, note: bytes = b"answer") -> bytes:
    """A proper answer in chunks."""
    body = page(seen, note)
    cut = len(body) // 2
    parts = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:cut], body[cut:]))
    head = chunked_head(seen)
    return head + parts + b"0\r\n" + b"".join(line + b"\r\n" for line in trailers) + b"\r\n"


def chunked_head(seen: Seen, *extra: bytes) -> bytes:
    """The head of an answer in chunks."""
    lines = (b"HTTP/1.1 200 OK", b"content-type: application/json", b"transfer-encoding: chunked", *extra)
    return b"\r\n".join(lines) + b"\r\nx-echo: " + seen.canary + b"\r\n\r\n"


async def _hear_and(talk: Conversation, seen: Seen, *pieces: bytes) -> bool:
    """Reads the request to its end, then says its piece."""
    if not await talk.hear_body(seen):
        return False
    await talk.say(*pieces)
    return True


# Proper answers, to compare with


@scenario(Fate.SERVED, reuse=True)
async def honest(talk: Conversation, seen: Seen) -> bool:
    """One length, one body."""
    return await _hear_and(talk, seen, answer(seen))


@scenario(Fate.SERVED, reuse=True)
async def honest_chunked(talk: Conversation, seen: Seen) -> bool:
    """Chunks to the last."""
    return await _hear_and(talk, seen, chunked(seen))


@scenario(Fate.SERVED, reuse=True)
async def honest_drop_by_drop(talk: Conversation, seen: Seen) -> bool:
    """Chunks, every octet written by itself."""
    whole = chunked(seen)
    return await _hear_and(talk, seen, *(whole[i : i + 1] for i in range(len(whole))))


@scenario(Fate.SERVED, reuse=True)
async def says_continue_first(talk: Conversation, seen: Seen) -> bool:
    """100, then the answer."""
    await talk.say(b"HTTP/1.1 100 Continue\r\n\r\n")
    return await _hear_and(talk, seen, answer(seen))


@scenario(Fate.SERVED, reuse=True)
async def eight_interim(talk: Conversation, seen: Seen) -> bool:
    """As many interim answers as are borne."""
    return await _hear_and(talk, seen, b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" * 8 + answer(seen))


@scenario(Fate.SERVED, status=302, reuse=True)
async def redirects(talk: Conversation, seen: Seen) -> bool:
    """Points elsewhere; nobody must follow."""
    away = b"location: http://169.254.169.254/latest/meta-data"
    return await _hear_and(talk, seen, answer(seen, away, status=b"302 Found"))


@scenario(Fate.SERVED, reuse=True)
async def speaks_our_words(talk: Conversation, seen: Seen) -> bool:
    """Sends `X-Majordomo-*` and hop-by-hop fields, and one that `Connection` names."""
    extra = (b"X-Majordomo-Key: mdm_sk_x", b"x-majordomo-request-id: forged", b"keep-alive: timeout=5")
    named = (b"connection: keep-alive, x-hop", b"x-hop: 1", b"proxy-authenticate: Basic")
    return await _hear_and(talk, seen, answer(seen, *extra, *named))


@scenario(Fate.SERVED, reuse=True)
async def largest_head(talk: Conversation, seen: Seen) -> bool:
    """500 fields and 250 KiB."""
    return await _hear_and(talk, seen, answer(seen, *(b"x-%03d: " % i + b"p" * 500 for i in range(497))))


@scenario(Fate.SERVED, reuse=True, staged=True)
async def many_cookies(talk: Conversation, seen: Seen) -> bool:
    """Fields with repeats, out of order, empty and in Latin-1; a coded body."""
    lines = (b"HTTP/1.1 200 OK", b"Set-Cookie: a=1; path=/", b"X-A:", b"set-cookie: b=2, c=3")
    more = (b"Content-Encoding: gzip", b"x-latin: caf\xe9", b"content-length: 17", b"\r\n\x1f\x8bnot really gzip")
    return await _hear_and(talk, seen, b"\r\n".join(lines + more))


# Ends


@scenario(Fate.SERVED)
async def extra_bytes(talk: Conversation, seen: Seen) -> bool:
    """Something follows the answer, in the same packet."""
    return await _hear_and(talk, seen, answer(seen) + b"and more " + seen.canary)


@scenario(Fate.SERVED)
async def second_answer(talk: Conversation, seen: Seen) -> bool:
    """A second answer follows the first, in the same packet."""
    return await _hear_and(talk, seen, answer(seen) + answer(seen, note=b"poison"))


@scenario(Fate.SERVED)
async def second_answer_just_the_same(talk: Conversation, seen: Seen) -> bool:
    """The same answer twice, in the same packet: its last octets are as they should be."""
    return await _hear_and(talk, seen, answer(seen) * 2)


@scenario(Fate.SERVED)
async def second_answer_in_chunks(talk: Conversation, seen: Seen) -> bool:
    """Two answers in chunks, in the same packet."""
    return await _hear_and(talk, seen, chunked(seen) + chunked(seen, note=b"poison"))


@scenario(Fate.SERVED)
async def second_answer_next_packet(talk: Conversation, seen: Seen) -> bool:
    """A second answer in a packet (and a TLS record) of its own, at once."""
    return await _hear_and(talk, seen, answer(seen), answer(seen, note=b"poison"))


@scenario(Fate.SERVED)
async def late_bytes(talk: Conversation, seen: Seen) -> bool:
    """A second answer on the idle connection."""
    going = await _hear_and(talk, seen, answer(seen))
    talk.later(answer(seen, note=b"poison"))
    return going


@scenario(Fate.SERVED, method=b"HEAD")
async def head_with_length(talk: Conversation, seen: Seen) -> bool:
    """An answer to HEAD: a length, no body."""
    return await _hear_and(talk, seen, answer(seen)[: -len(page(seen))])


@scenario(Fate.SERVED, method=b"HEAD")
async def head_with_body(talk: Conversation, seen: Seen) -> bool:
    """An answer to HEAD, with the body."""
    return await _hear_and(talk, seen, answer(seen))


def _bare(seen: Seen, status: bytes, *extra: bytes) -> bytes:
    return b"\r\n".join((b"HTTP/1.1 " + status, *extra)) + b"\r\nx-echo: " + seen.canary + b"\r\n\r\n"


@scenario(Fate.SERVED, status=204)
async def no_content_with_body(talk: Conversation, seen: Seen) -> bool:
    """204 with a length and the octets for it."""
    return await _hear_and(talk, seen, _bare(seen, b"204 No Content", b"content-length: 5") + b"hello")


@scenario(Fate.SERVED, status=304, reuse=True)
async def not_modified_with_length(talk: Conversation, seen: Seen) -> bool:
    """304 with the length of what it does not send, as it may."""
    return await _hear_and(talk, seen, _bare(seen, b"304 Not Modified", b"content-length: 1234"))


@scenario(Fate.SERVED, status=304)
async def not_modified_with_chunks(talk: Conversation, seen: Seen) -> bool:
    """304 that says chunked and sends chunks."""
    said = _bare(seen, b"304 Not Modified", b"transfer-encoding: chunked")
    return await _hear_and(talk, seen, said + b"5\r\nhello\r\n0\r\n\r\n")


@scenario(Fate.SERVED)
async def until_end_of_file(talk: Conversation, seen: Seen) -> bool:
    """Neither length nor chunks: the end is the end of the connection."""
    await _hear_and(talk, seen, _bare(seen, b"200 OK") + page(seen)[:10], page(seen)[10:])
    return False


@scenario(Fate.SERVED)
async def says_close(talk: Conversation, seen: Seen) -> bool:
    """`connection: close`, and the connection left open."""
    return await _hear_and(talk, seen, answer(seen, b"connection: close"))


@scenario(Fate.SERVED)
async def http_1_0(talk: Conversation, seen: Seen) -> bool:
    """An answer of HTTP/1.0."""
    await _hear_and(talk, seen, answer(seen).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
    return False


@scenario(Fate.SERVED)
async def half_closes(talk: Conversation, seen: Seen) -> bool:
    """Ends its own side right after the answer, and listens on."""
    await _hear_and(talk, seen, answer(seen))
    if talk.writer.can_write_eof():
        talk.writer.write_eof()
        await talk.until_left(Seen(0, b"", b"", [], b""))
    return False


@scenario(Fate.SERVED)
async def closes_after(talk: Conversation, seen: Seen) -> bool:
    """Closes at once after an answer that promised to keep the connection."""
    await _hear_and(talk, seen, answer(seen))
    return False


@scenario(Fate.SERVED, reuse=True)
async def trailers(talk: Conversation, seen: Seen) -> bool:
    """Fields after the body."""
    return await _hear_and(talk, seen, chunked(seen, b"Set-Cookie: a=" + seen.canary, b"X-Majordomo-Key: mdm_sk_evil"))


# Uploads


@scenario(Fate.SERVED, status=413, staged=True)
async def early_413(talk: Conversation, seen: Seen) -> bool:
    """Refuses at the head, then hears whatever still comes."""
    await talk.say(answer(seen, status=b"413 Content Too Large"))
    await talk.until_left(seen)
    return False


@scenario(Fate.SERVED, status=413, staged=True)
async def early_413_deaf(talk: Conversation, seen: Seen) -> bool:
    """Refuses at the head and reads no more, until it is told to."""
    talk.hold()
    await talk.say(answer(seen, status=b"413 Content Too Large"))
    await talk.go_on.wait()
    talk.listen()
    await talk.until_left(seen)
    return False


# Behaviour that the other end must wait for


@scenario(Fate.SERVED, reuse=True, staged=True)
async def deaf_at_first(talk: Conversation, seen: Seen) -> bool:
    """Reads no body until it is told to."""
    talk.hold()
    await talk.go_on.wait()
    talk.listen()
    return await _hear_and(talk, seen, answer(seen))


@scenario(Fate.SERVED, reuse=True, staged=True)
async def event_by_event(talk: Conversation, seen: Seen) -> bool:
    """The first half of an answer in chunks; the second when it is told to."""
    whole = chunked(seen)
    cut = len(chunked_head(seen)) + 20
    await _hear_and(talk, seen, whole[:cut])
    await talk.go_on.wait()
    await talk.say(whole[cut:])
    return True


@scenario(Fate.SERVED, reuse=True, staged=True)
async def fifty_megabytes(talk: Conversation, seen: Seen) -> bool:
    """A long answer; `sent_bytes` tells how far it came."""
    if not await talk.hear_body(seen):
        return False
    await talk.say(_bare(seen, b"200 OK", b"content-length: 52428800"))
    for _ in range(800):
        talk.writer.write(b"x" * 65_536)
        await talk.writer.drain()
        seen.sent_bytes += 65_536
    return True


@scenario(Fate.SERVED, reuse=True, staged=True)
async def closes_on_next(talk: Conversation, seen: Seen) -> bool:
    """Answers, keeps the connection, and closes it when the next request has come whole."""
    await _hear_and(talk, seen, answer(seen))
    if (following := await talk.hear()) is not None:
        talk.note(following)
        await talk.hear_body(following)
    return False


@scenario(Fate.SERVED, reuse=True, staged=True)
async def begins_on_next(talk: Conversation, seen: Seen) -> bool:
    """Answers; of the next answer it sends the first octets, and closes."""
    await _hear_and(talk, seen, answer(seen))
    if (following := await talk.hear()) is not None:
        talk.note(following)
        await _hear_and(talk, following, b"HTTP/1.1 2")
    return False


@scenario(Fate.SERVED, reuse=True, staged=True)
async def closes_idle_when_told(talk: Conversation, seen: Seen) -> bool:
    """Answers, and closes the idle connection when it is told to."""
    await _hear_and(talk, seen, answer(seen))
    await talk.go_on.wait()
    return False


# Breaks


@scenario(Fate.SERVED, staged=True)
async def blurts_when_told(talk: Conversation, seen: Seen) -> bool:
    """Answers, and sends one octet on the idle connection when it is told to."""
    await _hear_and(talk, seen, answer(seen))
    await talk.go_on.wait()
    await talk.say(b"H")
    await talk.until_left(seen)
    return False


@scenario(Fate.LOST)
async def closes_unanswered(talk: Conversation, seen: Seen) -> bool:
    """Hears the request whole and closes without a word."""
    await talk.hear_body(seen)
    return False


@scenario(Fate.BROKEN)
async def cut_in_length(talk: Conversation, seen: Seen) -> bool:
    """Closes inside the announced length."""
    await _hear_and(talk, seen, answer(seen)[:-10])
    return False


@scenario(Fate.BROKEN)
async def cut_in_chunk(talk: Conversation, seen: Seen) -> bool:
    """Closes inside a chunk."""
    await _hear_and(talk, seen, chunked_head(seen) + b"40\r\n" + page(seen)[:20])
    return False


@scenario(Fate.BROKEN)
async def cut_between_chunks(talk: Conversation, seen: Seen) -> bool:
    """Closes after a chunk, before the last one."""
    await _hear_and(talk, seen, chunked_head(seen) + b"a\r\n" + page(seen)[:10] + b"\r\n")
    return False


@scenario(Fate.BROKEN)
async def bad_chunk_size(talk: Conversation, seen: Seen) -> bool:
    """A good chunk, then a size that is no number."""
    return await _hear_and(talk, seen, chunked_head(seen) + b"a\r\n" + page(seen)[:10] + b"\r\n", b"zz\r\nhello\r\n")


@scenario(Fate.BROKEN)
async def giant_chunk_size(talk: Conversation, seen: Seen) -> bool:
    """A good chunk, then a size that overflows."""
    good = chunked_head(seen) + b"a\r\n" + page(seen)[:10] + b"\r\n"
    return await _hear_and(talk, seen, good, b"f" * 40 + b"\r\nhello\r\n")


@scenario(Fate.BROKEN)
async def reset_in_body(talk: Conversation, seen: Seen) -> bool:
    """A TCP reset inside the body, once the start of it was read."""
    await _hear_and(talk, seen, answer(seen)[:-10])
    asyncio.get_running_loop().call_later(LATE_S, talk.reset)
    await talk.until_left(seen)
    return False


@scenario(Fate.TIMES_OUT)
async def silent_in_body(talk: Conversation, seen: Seen) -> bool:
    """Half an answer, and nothing more."""
    await _hear_and(talk, seen, answer(seen)[:-10])
    await talk.until_left(seen)
    return False


@scenario(Fate.TIMES_OUT)
async def silent_in_head(talk: Conversation, seen: Seen) -> bool:
    """Half a head, and nothing more."""
    await _hear_and(talk, seen, b"HTTP/1.1 200 OK\r\nx-half: ")
    await talk.until_left(seen)
    return False


@scenario(Fate.TIMES_OUT)
async def silent(talk: Conversation, seen: Seen) -> bool:
    """No answer at all."""
    await talk.hear_body(seen)
    await talk.until_left(seen)
    return False


# Heads that are not one


@scenario(Fate.REFUSED)
async def nine_interim(talk: Conversation, seen: Seen) -> bool:
    """One interim answer too many."""
    return await _hear_and(talk, seen, b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" * 9 + answer(seen))


@scenario(Fate.REFUSED)
async def switches(talk: Conversation, seen: Seen) -> bool:
    """101, unasked."""
    return await _hear_and(talk, seen, b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n")


@scenario(Fate.REFUSED)
async def giant_head(talk: Conversation, seen: Seen) -> bool:
    """A head of over 256 KiB in fields of 4 KiB."""
    padding = [b"x-pad-%d: " % i + b"p" * 4096 for i in range(66)]
    return await _hear_and(talk, seen, answer(seen, *padding))


@scenario(Fate.REFUSED)
async def giant_field(talk: Conversation, seen: Seen) -> bool:
    """One field of over 256 KiB."""
    return await _hear_and(talk, seen, answer(seen, b"x-pad: " + b"p" * 270_000))


@scenario(Fate.REFUSED)
async def many_fields(talk: Conversation, seen: Seen) -> bool:
    """Over 500 fields."""
    return await _hear_and(talk, seen, answer(seen, *(b"x-f%d: 1" % i for i in range(501))))


@scenario(Fate.REFUSED)
async def garbage(talk: Conversation, seen: Seen) -> bool:
    """Not HTTP."""
    return await _hear_and(talk, seen, b"\x16\x03\x01 220 smtp.example ready " + seen.canary + b"\r\n\r\n")


@scenario(Fate.REFUSED)
async def another_protocol(talk: Conversation, seen: Seen) -> bool:
    """HTTP/2's words on an HTTP/1.1 connection."""
    return await _hear_and(talk, seen, b"HTTP/2 200\r\ncontent-length: 2\r\n\r\nok")


@scenario(Fate.REFUSED)
async def status_99(talk: Conversation, seen: Seen) -> bool:
    """A status below all classes."""
    return await _hear_and(talk, seen, answer(seen, status=b"099 Hm"))


@scenario(Fate.REFUSED)
async def status_600(talk: Conversation, seen: Seen) -> bool:
    """A status above all classes."""
    return await _hear_and(talk, seen, answer(seen, status=b"600 Hm"))


@scenario(Fate.REFUSED)
async def length_and_chunks(talk: Conversation, seen: Seen) -> bool:
    """Two ways to tell the end at once."""
    return await _hear_and(talk, seen, chunked_head(seen, b"content-length: 5") + b"5\r\nhello\r\n0\r\n\r\n")


@scenario(Fate.REFUSED)
async def two_lengths(talk: Conversation, seen: Seen) -> bool:
    """Two lengths that differ."""
    return await _hear_and(talk, seen, answer(seen, b"content-length: 3"))


@scenario(Fate.REFUSED)
async def signed_length(talk: Conversation, seen: Seen) -> bool:
    """A length with a sign."""
    return await _hear_and(talk, seen, answer(seen).replace(b"content-length: ", b"content-length: +", 1))


@scenario(Fate.REFUSED)
async def gzip_coding(talk: Conversation, seen: Seen) -> bool:
    """A transfer coding besides chunked."""
    said = chunked(seen).replace(b"transfer-encoding: chunked", b"transfer-encoding: gzip, chunked", 1)
    return await _hear_and(talk, seen, said)


@scenario(Fate.REFUSED)
async def chunked_then_gzip(talk: Conversation, seen: Seen) -> bool:
    """Chunked, but not last."""
    said = chunked(seen).replace(b"transfer-encoding: chunked", b"transfer-encoding: chunked, gzip", 1)
    await _hear_and(talk, seen, said)
    return False


@scenario(Fate.REFUSED)
async def nul_in_value(talk: Conversation, seen: Seen) -> bool:
    """A NUL inside a field."""
    return await _hear_and(talk, seen, answer(seen, b"x-split: a\x00b"))


@scenario(Fate.REFUSED)
async def bare_cr_in_value(talk: Conversation, seen: Seen) -> bool:
    """A carriage return that ends no line."""
    return await _hear_and(talk, seen, answer(seen, b"x-split: a\rset-cookie: evil=1"))


@scenario(Fate.REFUSED)
async def space_in_name(talk: Conversation, seen: Seen) -> bool:
    """A space before the colon."""
    return await _hear_and(talk, seen, answer(seen, b"content-length : 3"))


class Provider:
    """The server. `seen` holds every request in order of arrival."""

    def __init__(
        self, authority: trustme.CA | None = None, default: str = "honest", tls: ssl.SSLContext | None = None
    ) -> None:
        self.seen: list[Seen] = []
        self.connections = 0
        self.standing: set[int] = set()
        """The numbers of the connections that are open."""
        self._default = default
        self._tls = tls or (server_tls(authority) if authority else None)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.go_on: asyncio.Event
        """Set by a test to let a waiting scenario proceed."""
        self.protocols: list[str | None] = []
        """What ALPN chose, by connection."""
        self.port = 0

    async def __aenter__(self) -> Self:
        self.go_on = asyncio.Event()
        self._server = await asyncio.start_server(self._meet, "127.0.0.1", 0, ssl=self._tls, limit=1 << 20)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def origin(self) -> Origin:
        """Where it listens."""
        return Origin("https" if self._tls else "http", "127.0.0.1", self.port)

    @property
    def open(self) -> int:
        """How many connections stand."""
        return len(self.standing)

    @property
    def url(self) -> str:
        """The base URL."""
        return f"{self.origin.scheme}://127.0.0.1:{self.port}"

    def of(self, canary: bytes) -> list[Seen]:
        """The requests that bore this canary."""
        return [seen for seen in self.seen if seen.canary == canary]

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        inside = writer.get_extra_info("ssl_object")
        self.protocols.append(inside.selected_alpn_protocol() if inside else None)
        talk = Conversation(self, reader, writer)
        self.standing.add(talk.number)
        try:
            while (seen := await talk.hear()) is not None:
                self.seen.append(seen)
                name = (seen.get(PLAY) or self._default.encode()).decode()
                if not await SCENARIOS[name].play(talk, seen):
                    break
        except (ConnectionError, OSError):
            pass
        except asyncio.CancelledError:
            # The server closes: the connection's task ends here, as asyncio's streams want no cancelled ones.
            writer.transport.abort()
        finally:
            self.standing.discard(talk.number)
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError, OSError, ssl.SSLError):
                await writer.wait_closed()


def server_tls(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    """A server's TLS with a certificate for these names (default: the loopback address and `localhost`)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*(names or ("127.0.0.1", "localhost"))).configure_cert(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    """A client's TLS that trusts this authority alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    authority.configure_trust(context)
    return context


@contextlib.contextmanager
def in_thread(provider: Provider) -> Iterator[Provider]:
    """Runs the provider on a loop of its own, for tests whose callers are blocking or whose Steward is a process."""
    loop = asyncio.new_event_loop()
    started, stop = threading.Event(), asyncio.Event()

    async def run() -> None:
        async with provider:
            started.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),), name=f"misbehaving-{os.getpid()}")
    thread.start()
    try:
        assert started.wait(10)
        yield provider
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()
