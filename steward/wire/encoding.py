"""Content codings, undone in small steps on the copy that is metered; what goes to the caller is never touched.

It refuses bombs: 64 MiB, 200 to 1 beyond the first MiB, and two codings are the end (SECURITY F15).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import IO, cast

import brotli  # type: ignore[import-untyped]
import zstandard

MAX_DECODED_BYTES = 64 * 1024 * 1024
MAX_RATIO = 200
FREE_BYTES = 1024 * 1024
"""The ratio counts beyond this much."""
MAX_CODINGS = 2
MAX_MEMBERS = 1024
"""Concatenated gzip members or zstd frames."""

_STEP = 64 * 1024
_ZSTD_WINDOW = 8 * 1024 * 1024
"""RFC 9659: what a sender of the `zstd` content coding may ask of a receiver."""

Pieces = Iterator[bytes]


class Undecodable(Exception):
    """The octets are not what their coding says, or the coding is unknown."""


class TooMuch(Undecodable):
    """A bound was reached: most likely a bomb."""


def codings(fields: Iterable[bytes]) -> list[bytes]:
    """The codings that `content-encoding` fields name, in the order they were applied, without `identity`.

    Raises Undecodable for an unknown one, TooMuch for more than two.
    """
    names = [name.strip().lower() for field in fields for name in field.split(b",")]
    applied = [name for name in names if name not in (b"", b"identity")]
    if len(applied) > MAX_CODINGS:
        raise TooMuch
    if any(name not in _DECODERS for name in applied):
        raise Undecodable
    return applied


def decoded(pieces: Iterable[bytes], applied: Sequence[bytes]) -> Pieces:
    """The octets before the codings were applied, in steps of about 64 KiB.

    A cut body yields what can be had of it. Raises Undecodable and TooMuch, after what came before was yielded.
    """
    if not applied:
        return iter(pieces)
    gauge = _Gauge()
    stream = gauge.counted(iter(pieces))
    for name in reversed(applied):
        stream = gauge.bounded(_DECODERS[name](stream))
    return stream


class _Gauge:
    """Counts what came over the wire, and holds what each decoder makes of it against that."""

    def __init__(self) -> None:
        self._taken = 0

    def counted(self, source: Pieces) -> Pieces:
        """The source, counted, in pieces small enough to count by."""
        for piece in source:
            for start in range(0, len(piece), _STEP):
                part = piece[start : start + _STEP]
                self._taken += len(part)
                yield part

    def bounded(self, decoder: Pieces) -> Pieces:
        """The decoder's output, until it is too much."""
        given = 0
        for piece in decoder:
            given += len(piece)
            if given > MAX_DECODED_BYTES or given > FREE_BYTES + MAX_RATIO * self._taken:
                raise TooMuch
            yield piece


def _gzip(source: Pieces) -> Pieces:
    """RFC 1952, members one after another; what follows the last and is no member is let go."""
    inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)
    members = 1
    for piece in source:
        data = piece
        while data:
            yield from _inflate(inflater, data)
            data = b""
            if inflater.eof:
                data = inflater.unused_data
                if data and not b"\x1f\x8b".startswith(data[:2]):
                    return
                members += 1
                if members > MAX_MEMBERS:
                    raise TooMuch
                inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)


def _deflate(source: Pieces) -> Pieces:
    """RFC 9110 8.4.1.2 means zlib; some servers send the bare stream. The first two octets tell."""
    head = b""
    inflater = None
    for piece in source:
        data = piece
        if inflater is None:
            head += piece
            if len(head) < 2:
                continue
            wrapped = head[0] & 0x0F == zlib.DEFLATED and int.from_bytes(head[:2], "big") % 31 == 0
            inflater = zlib.decompressobj(zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS)
            data = head
        yield from _inflate(inflater, data)
        if inflater.eof:
            return


def _inflate(inflater: zlib._Decompress, data: bytes) -> Pieces:
    try:
        while data:
            out = inflater.decompress(data, _STEP)
            data = inflater.unconsumed_tail
            if out:
                yield out
    except zlib.error:
        raise Undecodable from None


def _brotli(source: Pieces) -> Pieces:
    """RFC 7932. A decoder that takes more input may still hold output: it is asked until it gives none."""
    decoder = brotli.Decompressor()
    try:
        for piece in source:
            if decoder.is_finished():
                return
            out = decoder.process(piece, output_buffer_limit=_STEP)
            while out:
                yield out
                out = decoder.process(b"", output_buffer_limit=_STEP)
    except brotli.error:
        raise Undecodable from None


class _Reader:
    """A file of sorts over pieces, as zstandard wants one."""

    def __init__(self, source: Pieces) -> None:
        self._source = source
        self._rest = b""

    def read(self, size: int) -> bytes:
        """At most `size` octets; none at the end."""
        if not self._rest:
            self._rest = next(self._source, b"")
        part, self._rest = self._rest[:size], self._rest[size:]
        return part


def _zstd(source: Pieces) -> Pieces:
    """RFC 8878, frames one after another."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    reader = decompressor.stream_reader(cast("IO[bytes]", _Reader(source)), read_across_frames=True)
    try:
        while out := reader.read(_STEP):
            yield out
    except zstandard.ZstdError:
        raise Undecodable from None


_DECODERS: Mapping[bytes, Callable[[Pieces], Pieces]] = {
    b"gzip": _gzip,
    b"x-gzip": _gzip,
    b"deflate": _deflate,
    b"br": _brotli,
    b"zstd": _zstd,
}
