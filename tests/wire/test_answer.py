"""One answer, however its octets were cut; and nothing that follows it ever counts."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steward.errors import StewardError, UpstreamBadAnswer, UpstreamBroke
from steward.exchange import Headers
from steward.wire.answer import MAX_FIELDS, MAX_HEAD_BYTES, MAX_INTERIM, AnswerReader

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
SIZED = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"
UNSIZED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
CHUNKS = b"2\r\n{}\r\n0\r\n\r\n"
SECOND = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison"


@dataclass(frozen=True)
class Seen:
    """What a reader told of its octets."""

    status: int
    headers: Headers
    length: int | None
    body: bytes
    ended: bool
    reusable: bool
    error: str | None = None


def seen(*pieces: bytes, is_head: bool = False, eof: bool = False) -> Seen:
    """Feeds these pieces one by one, until the reader refuses one."""
    reader = AnswerReader(is_head)
    error = None
    try:
        for piece in pieces:
            reader.feed(piece)
        if eof:
            reader.eof()
    except StewardError as fault:
        error = fault.code
    body = b"".join(reader.pieces)
    return Seen(reader.status, reader.headers, reader.length, body, reader.ended, reader.reusable, error)


def by_octet(octets: bytes) -> list[bytes]:
    """One piece an octet."""
    return [octets[at : at + 1] for at in range(len(octets))]


def cut(octets: bytes, at: list[int]) -> list[bytes]:
    """Pieces of these octets, cut at these places as far as they have them."""
    edges = [0, *sorted({place for place in at if 0 < place < len(octets)}), len(octets)]
    return [octets[start:stop] for start, stop in pairwise(edges)]


ANSWERS = {
    "length": (SIZED + b"hello", 200, 5, b"hello", True),
    "no octets": (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 200, 0, b"", True),
    "line ends alone": (b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n\r\n\r\n", 200, 4, b"\r\n\r\n", True),
    "chunks": (CHUNKED + b"3\r\nabc\r\n" + CHUNKS, 200, None, b"abc{}", True),
    "no chunks": (CHUNKED + b"0\r\n\r\n", 200, None, b"", True),
    "chunk extensions": (CHUNKED + b"2;a=b\r\n{}\r\n0;c\r\n\r\n", 200, None, b"{}", True),
    "trailers": (CHUNKED + b"2\r\n{}\r\n0\r\nset-cookie: a=1\r\nx-empty:\r\n\r\n", 200, None, b"{}", True),
    "chunks of line ends": (CHUNKED + b"4\r\n\r\n\r\n\r\n0\r\n\r\n", 200, None, b"\r\n\r\n", True),
    "no reason": (b"HTTP/1.1 404\r\ncontent-length: 1\r\n\r\nx", 404, 1, b"x", True),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, 0, b"", True),
    "204 with a length": (b"HTTP/1.1 204 No Content\r\ncontent-length: 9\r\n\r\n", 204, 0, b"", True),
    "304 with a length": (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 99\r\n\r\n", 304, 0, b"", True),
    "304 in chunks": (b"HTTP/1.1 304 Not Modified\r\ntransfer-encoding: chunked\r\n\r\n", 304, 0, b"", True),
    "599": (b"HTTP/1.1 599 Hm\r\ncontent-length: 1\r\n\r\nx", 599, 1, b"x", True),
    "interim": (b"HTTP/1.1 100 Continue\r\n\r\n" + SIZED + b"hello", 200, 5, b"hello", True),
    "close": (SIZED.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n") + b"hello", 200, 5, b"hello", False),
    "close, said as to a proxy": (
        SIZED.replace(b"\r\n\r\n", b"\r\nProxy-Connection: close\r\n\r\n") + b"hello",
        200,
        5,
        b"hello",
        False,
    ),
    "1.0": (SIZED.replace(b"1.1", b"1.0") + b"hello", 200, 5, b"hello", False),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer(name: str) -> None:
    """Whole and octet by octet; whether the connection serves again does not hang on the cut."""
    octets, status, length, body, reusable = ANSWERS[name]
    whole, dropwise = seen(octets), seen(*by_octet(octets))
    for each in (whole, dropwise):
        assert (each.status, each.length, each.body, each.ended, each.error) == (status, length, body, True, None)
    assert whole.reusable == dropwise.reusable == reusable


ENDED = [octets for octets, *_, reusable in ANSWERS.values() if reusable]


@unhurried
@given(st.sampled_from(ENDED), st.lists(st.integers(0, 120), max_size=6))
def test_cuts_change_nothing(octets: bytes, at: list[int]) -> None:
    """Whatever the segments: the same answer, the same connection."""
    assert seen(*cut(octets, at)) == seen(octets)


LEFTOVERS = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b"\r\n" * 5,
    b"x",
    b" ",
    b"\x00",
    b"H",
    b"HTTP/1.1 2",
    SECOND,
    SECOND[:-3],
    CHUNKED,
]


@pytest.mark.parametrize("octets", ENDED, ids=[name for name, each in ANSWERS.items() if each[-1]])
@pytest.mark.parametrize("more", LEFTOVERS)
def test_a_connection_with_octets_left_serves_nobody(octets: bytes, more: bytes) -> None:
    """In the same piece, across a cut anywhere, or later; the answer itself is not touched."""
    clean = seen(octets)
    everything = octets + more
    ways = [[everything], [octets, more], by_octet(everything)]
    ways += [[everything[:at], everything[at:]] for at in range(len(octets) - 6, len(everything))]
    for pieces in ways:
        each = seen(*pieces)
        assert (each.status, each.body, each.ended, each.error) == (clean.status, clean.body, True, None), pieces
        assert not each.reusable, pieces


@unhurried
@given(st.sampled_from(ENDED), st.binary(min_size=1, max_size=40), st.lists(st.integers(0, 160), max_size=6))
def test_whatever_is_left(octets: bytes, more: bytes, at: list[int]) -> None:
    each = seen(*cut(octets + more, at))
    assert each.body == seen(octets).body
    assert not each.reusable
    assert each.error is None


def test_the_same_answer_twice_is_one_answer() -> None:
    """Its last octets are as they should be."""
    for octets in ENDED:
        twice = seen(octets * 2)
        assert twice.body == seen(octets).body
        assert not twice.reusable


# HEAD


@pytest.mark.parametrize("octets", [SIZED, CHUNKED, UNSIZED, SIZED + b"hello", CHUNKED + CHUNKS, SIZED + SECOND])
def test_an_answer_to_head_is_its_head(octets: bytes) -> None:
    """Whatever its fields announce and whatever follows; the connection ends with it."""
    for pieces in ([octets], by_octet(octets)):
        each = seen(*pieces, is_head=True)
        assert (each.status, each.length, each.body, each.ended) == (200, 0, b"", True)
        assert (each.reusable, each.error) == (False, None)


# Ends at the close


def test_an_answer_without_length_ends_at_the_close() -> None:
    for pieces in ([UNSIZED + b"data: x\n\n"], by_octet(UNSIZED + b"data: x\n\n")):
        assert not seen(*pieces).ended
        each = seen(*pieces, eof=True)
        assert (each.body, each.ended, each.reusable, each.error) == (b"data: x\n\n", True, False, None)


def test_what_looks_like_an_answer_inside_one_without_length_is_its_body() -> None:
    assert seen(UNSIZED + SECOND, eof=True).body == SECOND


BROKEN = [
    b"",
    b"H",
    SIZED[:-1],
    SIZED,
    SIZED + b"hell",
    CHUNKED,
    CHUNKED + b"5\r\nhe",
    CHUNKED + b"5\r\nhello\r\n",
    CHUNKED + b"5\r\nhello\r\n0\r\n",
    CHUNKED + b"5\r\nhello\r\n0\r\nx-trailer: a",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    UNSIZED[:-2],
]


@pytest.mark.parametrize("octets", BROKEN)
def test_a_close_before_the_end_is_a_break(octets: bytes) -> None:
    """Never a shorter answer."""
    for pieces in ([octets], by_octet(octets)):
        each = seen(*pieces, eof=True)
        assert (each.ended, each.reusable, each.error) == (False, False, UpstreamBroke.code)


def test_a_close_after_the_end_is_none() -> None:
    each = seen(SIZED + b"hello", eof=True)
    assert (each.body, each.ended, each.error) == (b"hello", True, None)


# Interim answers


@pytest.mark.parametrize("status", [b"100 Continue", b"102 Processing", b"103 Early Hints\r\nlink: </x>"])
def test_interim_answers_are_swallowed_and_counted(status: bytes) -> None:
    interim = b"HTTP/1.1 %b\r\n\r\n" % status
    whole = interim * MAX_INTERIM + SIZED + b"hello"
    for pieces in ([whole], by_octet(whole)):
        each = seen(*pieces)
        assert (each.status, each.headers, each.body) == (200, [(b"content-length", b"5")], b"hello")
        assert each.reusable
    assert seen(interim * (MAX_INTERIM + 1) + SIZED + b"hello").error == UpstreamBadAnswer.code


def test_only_100_says_continue() -> None:
    """A hint that comes early does not ask for the body."""
    reader = AnswerReader(is_head=False)
    reader.feed(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n")
    assert (reader.started, reader.continued, reader.head_known) == (True, False, False)
    reader.feed(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert (reader.continued, reader.head_known) == (True, False)


def test_fields_of_an_interim_answer_are_not_the_answers() -> None:
    each = seen(b"HTTP/1.1 103 Hm\r\nset-cookie: a=1\r\ncontent-length: 3\r\n\r\n" + SIZED + b"hello")
    assert (each.headers, each.length, each.body) == ([(b"content-length", b"5")], 5, b"hello")


# What is refused


def framed(*lines: bytes, start: bytes = b"HTTP/1.1 200 OK", body: bytes = CHUNKS) -> bytes:
    """An answer with these lines in its head."""
    return b"\r\n".join((start, *lines, b"", body))


REFUSED = {
    "length and chunks": framed(b"content-length: 12", b"transfer-encoding: chunked"),
    "chunks and length": framed(b"transfer-encoding: chunked", b"content-length: 12"),
    "two lengths": framed(b"content-length: 12", b"content-length: 3"),
    "the same length twice": framed(b"content-length: 12", b"content-length: 12"),
    "a list of lengths": framed(b"content-length: 12, 12"),
    "a signed length": framed(b"content-length: +12"),
    "a negative length": framed(b"content-length: -1"),
    "a hexadecimal length": framed(b"content-length: 0xc"),
    "an empty length": framed(b"content-length: "),
    "a length without end": framed(b"content-length: " + b"9" * 30),
    "a length of 19 digits": framed(b"content-length: 0" + b"9" * 18),
    "gzip": framed(b"transfer-encoding: gzip"),
    "gzip, chunked": framed(b"transfer-encoding: gzip, chunked"),
    "chunked, gzip": framed(b"transfer-encoding: chunked, gzip"),
    "chunked twice": framed(b"transfer-encoding: chunked, chunked"),
    "chunked in two lines": framed(b"transfer-encoding: chunked", b"transfer-encoding: chunked"),
    "identity": framed(b"transfer-encoding: identity"),
    "no coding": framed(b"transfer-encoding: "),
    "NUL in a value": framed(b"x-a: a\x00b"),
    "CR in a value": framed(b"x-a: a\rset-cookie: b"),
    "LF alone": framed(b"x-a: a\nset-cookie: b", b"content-length: 12"),
    "a folded line": framed(b"x-a: a", b"  b", b"content-length: 12"),
    "a space in a name": framed(b"content-length : 12"),
    "an empty name": framed(b": a", b"content-length: 12"),
    "no name, and a length behind it": framed(b":content-length: 12"),
    "no name, and chunks behind it": framed(b"::transfer-encoding: chunked"),
    "no colon": framed(b"novalue", b"content-length: 12"),
    "a control character": framed(b"x-a: a\x01", b"content-length: 12"),
    "an escape": framed(b"x-a: \x1b[2J", b"content-length: 12"),
    "DEL": framed(b"x-a: \x7f", b"content-length: 12"),
    "101": framed(b"upgrade: x", b"connection: upgrade", start=b"HTTP/1.1 101 Switching"),
    "101 without a word": framed(start=b"HTTP/1.1 101 Switching"),
    "99": framed(b"content-length: 12", start=b"HTTP/1.1 099 Hm"),
    "0": framed(b"content-length: 12", start=b"HTTP/1.1 000 Hm"),
    "600": framed(b"content-length: 12", start=b"HTTP/1.1 600 Hm"),
    "999": framed(b"content-length: 12", start=b"HTTP/1.1 999 Hm"),
    "four digits": framed(b"content-length: 12", start=b"HTTP/1.1 2000 Hm"),
    "HTTP/2": framed(b"content-length: 12", start=b"HTTP/2 200"),
    "HTTP/3.0": framed(b"content-length: 12", start=b"HTTP/3.0 200 OK"),
    "not HTTP": b"220 smtp.example ready\r\n\r\n",
    "a request": b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
    "TLS": b"\x15\x03\x01\x00\x02\x02\x46\r\n\r\n",
    "a chunk that is none": CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n",
    "a chunk with a sign": CHUNKED + b"-2\r\n{}\r\n0\r\n\r\n",
    "a chunk without end": CHUNKED + b"f" * 40 + b"\r\n{}\r\n0\r\n\r\n",
    "a chunk longer than said": CHUNKED + b"1\r\n{}\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_plainly_one_answer_is_refused(name: str) -> None:
    octets = REFUSED[name]
    for pieces in ([octets], by_octet(octets)):
        each = seen(*pieces, eof=True)
        assert (each.error, each.ended, each.reusable) == (UpstreamBadAnswer.code, False, False)


def test_pieces_before_a_bad_chunk_stay_good() -> None:
    each = seen(CHUNKED + b"5\r\nhello\r\nzz\r\n")
    assert (each.status, each.body, each.error) == (200, b"hello", UpstreamBadAnswer.code)


# Bounds


def test_a_head_has_a_size() -> None:
    """In one piece as in many."""
    for size, refused in ((MAX_HEAD_BYTES - 1_000, False), (MAX_HEAD_BYTES + 1_000, True)):
        octets = framed(b"content-length: 12", b"x-a: " + b"a" * (size // 2), b"x-b: " + b"a" * (size // 2))
        for pieces in ([octets], cut(octets, [65_536 * n for n in range(1, 5)]), [octets[:-20], octets[-20:]]):
            assert (seen(*pieces).error is not None) == refused


@pytest.mark.parametrize("start", [b"HTTP/1.1 200 OK\r\nx-a: ", b"HTTP/1.1 200 ", b"HTTP/1.1 200 OK\r\n"])
def test_a_head_that_never_ends_is_refused_early(start: bytes) -> None:
    assert fed_until_refused(start, b"a" * 65_536) <= 6 * 65_536


def test_blank_lines_that_never_end_are_refused_early() -> None:
    assert fed_until_refused(b"", b"\r\n" * 4_096) <= 2 * MAX_HEAD_BYTES


def fed_until_refused(start: bytes, piece: bytes) -> int:
    """Octets of this piece, again and again, until the reader refuses them; at most 8 MiB."""
    reader = AnswerReader(is_head=False)
    if start:
        reader.feed(start)
    for count in range(8 * 2**20 // len(piece)):
        try:
            reader.feed(piece)
        except UpstreamBadAnswer:
            assert not reader.ended
            return count * len(piece)
    return 8 * 2**20


def test_a_head_has_a_number_of_fields() -> None:
    lines = [b"x-%d: 1" % number for number in range(MAX_FIELDS)]
    assert len(seen(framed(*lines[1:], b"content-length: 12")).headers) == MAX_FIELDS
    assert seen(framed(*lines, b"content-length: 12")).error == UpstreamBadAnswer.code


@pytest.mark.parametrize("start", [b"x-a: ", b""])
def test_a_trailer_that_never_ends_is_refused(start: bytes) -> None:
    """The parser keeps a field until it is whole: 100 MB of one would be 100 MB here."""
    tracemalloc.start()
    try:
        assert fed_until_refused(CHUNKED + b"2\r\n{}\r\n0\r\n" + start, b"a" * 65_536) < 2 * MAX_HEAD_BYTES
        assert tracemalloc.get_traced_memory()[1] < 4 * MAX_HEAD_BYTES
    finally:
        tracemalloc.stop()


def test_trailers_have_an_end() -> None:
    """They are dropped, but not for ever."""
    assert fed_until_refused(CHUNKED + b"2\r\n{}\r\n0\r\n", b"set-cookie: a\r\n" * 4_000) < 2 * MAX_HEAD_BYTES


def test_a_chunk_extension_that_never_ends_is_refused() -> None:
    assert fed_until_refused(CHUNKED + b"2;", b"a" * 65_536) < 2 * MAX_HEAD_BYTES


@pytest.mark.parametrize("head", [CHUNKED, UNSIZED, SIZED.replace(b": 5", b": 1000000")])
def test_what_was_taken_is_not_held(head: bytes) -> None:
    """A stream may rest for minutes between two events."""
    reader = AnswerReader(is_head=False)
    reader.feed(head)
    tracemalloc.start()
    try:
        for _ in range(3):
            reader.feed(b"%x\r\n%b\r\n" % (100_000, b"x" * 100_000))
            assert sum(map(len, reader.pieces)) >= 100_000
            reader.pieces = []
        assert tracemalloc.get_traced_memory()[0] < 10_000
    finally:
        tracemalloc.stop()


def test_a_body_is_no_head_however_long() -> None:
    """The bounds are the head's."""
    each = seen(CHUNKED, *[b"%x\r\n%b\r\n" % (65_536, b"x" * 65_536)] * 40, b"0\r\n\r\n")
    assert (len(each.body), each.ended, each.error) == (65_536 * 40, True, None)
    large = b"x" * (3 * MAX_HEAD_BYTES)
    head = SIZED.replace(b": 5", b": %d" % len(large))
    assert seen(head + large).body == large


def test_space_around_a_length_is_not_the_length() -> None:
    """RFC 9110, 5.5."""
    each = seen(b"HTTP/1.1 200 OK\r\ncontent-length:  5 \t\r\n\r\nhello")
    assert (each.length, each.body, each.reusable) == (5, b"hello", True)


# Whatever comes

TOKENS = [
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 100 Continue\r\n",
    b"HTTP/1.1 101 X\r\nupgrade: x\r\nconnection: upgrade\r\n",
    b"HTTP/1.1 204 X\r\n",
    b"HTTP/1.0 200\r\n",
    b"content-length: 3\r\n",
    b"transfer-encoding: chunked\r\n",
    b"upgrade: h2c\r\nconnection: upgrade\r\n",
    b"connection: close\r\n",
    b"\r\n",
    b"\n",
    b"\r",
    b"abc",
    b"3\r\nabc\r\n",
    b"0\r\n",
    b"x-a: b\r\n",
    b"\x00",
    b":",
]
streams = st.lists(st.one_of(st.sampled_from(TOKENS), st.binary(max_size=5)), max_size=12).map(b"".join)


@unhurried
@given(streams, st.lists(st.integers(0, 200), max_size=8), st.booleans())
def test_any_octets_in_any_cut(octets: bytes, at: list[int], is_head: bool) -> None:
    """No other error than these two; the cut changes nothing but doubt; what is reusable has ended."""
    whole = seen(octets, is_head=is_head, eof=True)
    pieces = seen(*cut(octets, at), is_head=is_head, eof=True)
    assert whole.error in (None, UpstreamBadAnswer.code, UpstreamBroke.code)
    assert (pieces.status, pieces.headers, pieces.length) == (whole.status, whole.headers, whole.length)
    assert (pieces.body, pieces.ended, pieces.error) == (whole.body, whole.ended, whole.error)
    for each in (whole, pieces):
        assert each.ended or not each.reusable
        assert (each.ended and each.error is None) or not each.reusable


@unhurried
@given(st.binary(max_size=200))
def test_noise(octets: bytes) -> None:
    assert seen(octets, eof=True).error in (UpstreamBadAnswer.code, UpstreamBroke.code)
