"""Heads known by their octets: what is remembered is what reading anew would say, and nothing doubtful is."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steward.wire.headers import read_caller_head, read_lines
from steward.wire.known_heads import ENTRIES, ENTRY_BYTES, KnownHeads

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
    "a space in a name": (*PLAIN, b"X-A : 1"),
    "NUL": (*PLAIN, b"X-A: \x00"),
    "CR": (*PLAIN, b"X-A: a\rX-B: b"),
    "LF": (*PLAIN, b"X-A: a\nContent-Length: 3"),
    "LF before the name": (*PLAIN, b"\nContent-Length: 3"),
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
