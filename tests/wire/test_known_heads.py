"""Heads known by their octets: what is remembered is what reading anew would say, and nothing doubtful is."""

from __future__ import annotations

import httptools
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steward.exchange import Headers
from steward.wire.headers import read_caller_head, read_lines
from steward.wire.known_heads import ENTRIES, ENTRY_BYTES, ENTRY_FIELDS, KnownHeads

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

PLAIN = (
    b"Host: x",
    b"Connection: keep-alive",
    b"X-Majordomo-Key: mdm_sk_0123456789abcdef",
    b"X-Majordomo-Team: blue",
    b"Authorization: Bearer sk-1",
    b"Content-Length: 12",
    b"Traceparent: 00-1",
)


def lines(*fields: bytes) -> bytes:
    """As they stand on the wire."""
    return b"".join(field + b"\r\n" for field in fields)


def test_what_is_remembered_is_what_was_read() -> None:
    """The first time, the second, and before a body of another length."""
    heads = KnownHeads()
    for length in (12, 12, 7, 0, 123_456_789):
        octets = lines(*PLAIN).replace(b": 12", b": %d" % length)
        fields = read_lines(octets)
        assert fields is not None
        assert heads.read(octets, 100) == (fields, read_caller_head(fields, octets))


def test_a_head_without_length_is_not_the_same_with_one() -> None:
    """In either order: whether there is a length is read from this head, not from the one before."""
    without = tuple(field for field in PLAIN if not field.startswith(b"Content-Length"))
    for order in ((without, PLAIN), (PLAIN, without)):
        heads = KnownHeads()
        for fields in order * 2:
            found = heads.read(lines(*fields), 100)
            assert found is not None
            assert found[1].length == (12 if fields is PLAIN else None)
            assert ((b"content-length", b"12") in found[0]) == (fields is PLAIN)


def test_where_the_length_stands_is_kept() -> None:
    heads = KnownHeads()
    for at in range(1, len(PLAIN)):
        fields = [field for field in PLAIN if not field.startswith(b"Content-Length")]
        fields.insert(at, b"content-length: 3")
        found = heads.read(lines(*fields), 100)
        assert found is not None
        assert [name for name, _ in found[0]].index(b"content-length") == at


UNPLAIN = {
    "two lengths": (*PLAIN, b"Content-Length: 12"),
    "two lengths, one written otherwise": (*PLAIN, b"content-length:3"),
    "a length in another way": (b"Host: x", b"Content-Length:3"),
    "a length first": (b"Content-Length: 3", b"Host: x"),
    "a signed length": (b"Host: x", b"Content-Length: +3"),
    "a length with a space": (b"Host: x", b"Content-Length: 3 "),
    "a length of ten digits": (b"Host: x", b"Content-Length: 1234567890"),
    "an empty length": (b"Host: x", b"Content-Length: "),
    "a length of other digits": (b"Host: x", "Content-Length: ³".encode()),
    "chunks": (b"Host: x", b"Transfer-Encoding: chunked"),
    "length and chunks": (*PLAIN, b"Transfer-Encoding: chunked"),
    "expect": (*PLAIN, b"Expect: 100-continue"),
    "upgrade": (*PLAIN, b"Upgrade: h2c"),
    "close": (b"Host: x", b"Connection: close"),
    "named in Connection": (b"Host: x", b"Connection: keep-alive, x-a", b"X-A: 1"),
    "a name twice": (*PLAIN, b"Traceparent: 00-2"),
    "two hosts": (*PLAIN, b"host: y"),
    "no host": PLAIN[1:],
    "a folded line": (*PLAIN, b" X: 1"),
    "no colon": (*PLAIN, b"x"),
    "no name": (*PLAIN, b": x"),
    "no name, and a field behind it": (b"Host: x", b":X-Majordomo-Key: mdm_sk_0123456789abcdef"),
    "no name, and a length behind it": (b"Host: x", b"::Content-Length: 3"),
    "a space in a name": (*PLAIN, b"X-A : 1"),
    "NUL": (*PLAIN, b"X-A: \x00"),
    "CR": (*PLAIN, b"X-A: a\rX-B: b"),
    "LF": (*PLAIN, b"X-A: a\nContent-Length: 3"),
    "LF before the name": (*PLAIN, b"\nContent-Length: 3"),
    "a control character": (*PLAIN, b"X-A: \x01"),
    "an escape": (*PLAIN, b"X-A: \x1b[2J"),
    "DEL": (*PLAIN, b"X-A: \x7f"),
    "close, said as to a proxy": (*PLAIN, b"Proxy-Connection: close"),
}


@pytest.mark.parametrize("name", UNPLAIN)
def test_what_is_not_plain_is_left_to_the_parser(name: str) -> None:
    """Also after the plain part of it is known."""
    heads = KnownHeads()
    heads.read(lines(*PLAIN), 100)
    heads.read(lines(*(field for field in PLAIN if not field.startswith(b"Content-Length"))), 100)
    for _ in range(2):
        assert heads.read(lines(*UNPLAIN[name]), 100) is None


def test_more_fields_than_allowed_are_not_known() -> None:
    assert KnownHeads().read(lines(*PLAIN), len(PLAIN) - 1) is None
    assert KnownHeads().read(lines(*PLAIN), len(PLAIN)) is not None


def test_memory_is_bounded() -> None:
    """Callers who never say the same twice, and one who says much."""
    heads = KnownHeads()
    for number in range(3 * ENTRIES):
        assert heads.read(lines(*PLAIN, b"X-Id: %d" % number), 100) is not None
    assert heads.read(lines(*PLAIN, b"X-Long: " + b"x" * ENTRY_BYTES), 100) is not None
    assert heads.entries <= ENTRIES


def test_a_head_of_many_fields_is_read_anew() -> None:
    """Each field costs more here than on the wire: a caller without a key must not fill the memory with them."""
    heads = KnownHeads()
    fields = [b"Host: x", *(b"X-%d: 1" % number for number in range(ENTRY_FIELDS))]
    assert heads.read(lines(*fields), 100) is not None
    assert heads.entries == 0
    assert heads.read(lines(*fields[:-1]), 100) is not None
    assert heads.entries == 1


@pytest.mark.parametrize("fields", [PLAIN, (b"Host: x", b"X-A: 1")])
def test_what_one_call_does_to_its_fields_is_no_other_calls(fields: tuple[bytes, ...]) -> None:
    heads = KnownHeads()
    for _ in range(3):
        found = heads.read(lines(*fields), 100)
        assert found is not None
        assert len(found[0]) == len(fields)
        found[0].append((b"x-late", b"1"))


class Parsed:
    """What the parser makes of one request without a body."""

    def __init__(self, octets: bytes) -> None:
        self.headers: Headers = []
        self.keep_alive = False
        self.ends = 0
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(octets)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field."""
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is whole."""
        assert not self._parser.should_upgrade()
        self.keep_alive = self._parser.should_keep_alive()

    def on_message_complete(self) -> None:
        """The request is whole."""
        self.ends += 1


bodyless = st.sampled_from(
    [
        *(b"%b\r\n" % field for field in PLAIN if not field.startswith(b"Content-Length")),
        b"Content-Length: 0\r\n",
        b"content-length:0\r\n",
        b"Upgrade: h2c\r\n",
        b"Proxy-Connection: close\r\n",
    ]
)
octets_between = st.one_of(
    st.just(b""), st.sampled_from([b":", b"\r", b"\n", b"\r\n", b" ", b"\t", b","]), st.binary(max_size=2)
)


@unhurried
@given(st.lists(st.tuples(bodyless, octets_between, st.integers(0, 60)), min_size=1, max_size=6))
def test_what_is_plain_the_parser_reads_the_same(fields: list[tuple[bytes, bytes, int]]) -> None:
    """Whatever octets stand anywhere in it: nothing is plain that the parser would refuse or read otherwise."""
    octets = b"".join(field[:at] + put + field[at:] for field, put, at in fields)
    end = (octets + b"\r\n").find(b"\r\n\r\n") + 2
    found = KnownHeads().read(octets[:end], 100)
    if found is not None:
        parsed = Parsed(b"GET / HTTP/1.1\r\n" + octets[:end] + b"\r\n")
        assert (parsed.headers, parsed.keep_alive, parsed.ends) == (found[0], True, 1)


parts = st.lists(
    st.sampled_from(
        [*PLAIN, *{field for fields in UNPLAIN.values() for field in fields}, b"X-\xe9: 1", b"A:", b"A: \t1\t"]
    ),
    max_size=7,
)


@unhurried
@given(st.lists(parts, min_size=1, max_size=5))
def test_it_never_says_what_reading_anew_would_not(heads_in_turn: list[list[bytes]]) -> None:
    known = KnownHeads()
    for fields in heads_in_turn:
        octets = lines(*fields)
        found = known.read(octets, 100)
        if found is not None:
            anew = read_lines(octets)
            assert anew is not None
            assert found == (anew, read_caller_head(anew, octets))


def test_the_lines_that_go_on_are_the_fields_that_go_on() -> None:
    """Joined once for all calls with that head: what is sent is what the list says, whatever the length."""
    known = KnownHeads()
    for length in (b"3", b"14"):
        read = known.read(
            b"host: a\r\nx-one: 1\r\ncontent-length: " + length + b"\r\nX-Two:  b \r\nx-majordomo-key: k\r\n", 64
        )
        assert read is not None
        head = read[1]
        assert head.wire == b"".join(b"%b: %b\r\n" % item for item in head.end_to_end) == b"x-one: 1\r\nx-two: b \r\n"
