"""The head's frame by itself: its bounds, its codings, and the one length that its body has."""

from __future__ import annotations

import pytest

from handlers.aws_framing import HEAD_BYTES, HEAD_FIELDS, bodiless, check, framed
from steward.errors import BadRequest, HeadTooLarge, StewardError, Unsupported
from steward.exchange import Headers

CHUNKED = (b"transfer-encoding", b"chunked")


def length(value: bytes) -> tuple[bytes, bytes]:
    return b"content-length", value


def verdict(method: str, target: bytes, headers: Headers) -> type[StewardError] | None:
    try:
        check(method, target, headers)
    except StewardError as refused:
        return type(refused)
    return None


REFUSED: list[tuple[bytes, Headers, type[StewardError]]] = [
    (b"/", [(b"a", b"")] * (HEAD_FIELDS + 1), HeadTooLarge),
    (b"/" * HEAD_BYTES, [], HeadTooLarge),
    (b"/", [(b"a", b"b" * HEAD_BYTES)], HeadTooLarge),
    (b"/\n", [], BadRequest),
    (b"/", [(b"a", b"b\rc: d")], BadRequest),
    (b"/", [(b"upgrade", b"h2c"), (b"connection", b"x, Upgrade")], Unsupported),
    (b"/", [(b"transfer-encoding", b"gzip, chunked")], Unsupported),
    (b"/", [CHUNKED, CHUNKED], BadRequest),
    (b"/", [CHUNKED, length(b"2")], BadRequest),
]


@pytest.mark.parametrize(("target", "headers", "kind"), REFUSED)
def test_a_head_that_could_be_read_in_two_ways_is_refused(
    target: bytes, headers: Headers, kind: type[StewardError]
) -> None:
    assert verdict("POST", target, headers) is kind


def test_a_head_within_its_bounds_is_not() -> None:
    assert verdict("POST", b"/v1/models?a=b", [(b"a", b"\t\xe4"), CHUNKED, (b"upgrade", b"h2c")]) is None
    assert verdict("GET", b"/", [(b"a", b"")] * HEAD_FIELDS) is None


def test_a_body_has_its_length_and_no_other() -> None:
    assert framed([(b"a", b"b"), CHUNKED], b"{}") == [(b"a", b"b"), length(b"2")]
    assert framed([CHUNKED], b"") == [length(b"0")]
    assert framed([], b"") == []
    assert framed([length(b"2")], b"{}") == [length(b"2")]
    with pytest.raises(BadRequest):
        framed([length(b"3")], b"{}")


@pytest.mark.parametrize("odd", [[length(b"+2")], [length(b"2"), length(b"2")], [length(b"2" * 19)]])
def test_a_length_that_the_gate_refuses_is_left_for_it(odd: Headers) -> None:
    assert framed(odd, b"{}") == odd == bodiless(odd)


def test_a_call_whose_body_cannot_be_had_is_asked_for_one() -> None:
    given = [(b"a", b"b"), length(b"2000"), (b"expect", b"100-continue"), CHUNKED]
    assert bodiless(given) == [(b"a", b"b"), length(b"1")]
    assert bodiless([]) == [length(b"1")]
