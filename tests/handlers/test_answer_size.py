"""The size that is counted is never less than what the runtime writes, and not much more."""

from __future__ import annotations

import json

import pytest
import simplejson
from hypothesis import given
from hypothesis import strategies as st

from handlers.answer_size import AnswerSize
from handlers.aws_answers import Response, spelled
from handlers.aws_events import ALB_FRONT
from steward.exchange import Headers
from tests.handlers.invoking import alb

JSON: Headers = [(b"content-type", b"application/json"), (b"x-request-id", b'a"b\\')]


def counted(body: bytes, pieces: int, headers: Headers, ascii_only: bool) -> AnswerSize:
    size = AnswerSize(headers, ascii_only)
    step = max(1, len(body) // pieces)
    for at in range(0, len(body), step):
        size.add(body[at : at + step])
    size.end()
    return size


def written(body: bytes, size: AnswerSize, headers: Headers, ascii_only: bool) -> int:
    """As awslambdaric writes it."""
    answer = spelled(Response(200, headers, body), alb(), ALB_FRONT, size.is_text)
    return len(simplejson.dumps(answer, ensure_ascii=ascii_only).encode())


BODIES = (
    st.binary()
    | st.text().map(str.encode)
    | st.text('"\\\n\x00\x1f\u2028\u2029ä\N{SNOWMAN}\N{PILE OF POO}').map(str.encode)
)


@given(BODIES, st.integers(1, 7), st.booleans(), st.sampled_from([JSON, [(b"content-type", b"image/png")], []]))
def test_it_is_never_too_small(body: bytes, pieces: int, ascii_only: bool, headers: Headers) -> None:
    size = counted(body, pieces, headers, ascii_only)
    assert size.bytes >= written(body, size, headers, ascii_only)


@pytest.mark.parametrize("ascii_only", [True, False])
def test_it_is_exact_but_for_a_few_hundred_octets(ascii_only: bool) -> None:
    for body in (b"x" * 100_000, "ä\n".encode() * 50_000, b"\xff" * 100_000, json.dumps({"a": '"' * 50_000}).encode()):
        size = counted(body, 9, JSON, ascii_only)
        assert written(body, size, JSON, ascii_only) <= size.bytes <= written(body, size, JSON, ascii_only) + 700


def test_the_smaller_spelling_is_taken() -> None:
    assert counted(b"abc" * 100, 3, JSON, False).is_text
    assert not counted(b'"' * 300, 3, JSON, False).is_text
    assert not counted(b"\xff" * 3, 1, JSON, False).is_text


def test_half_a_character_in_the_end_is_no_text() -> None:
    assert not counted("ä".encode()[:1] * 1, 1, JSON, False).is_text
