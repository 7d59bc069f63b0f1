"""A whole answer, spelled as each front wants it."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from typing import Any

import pytest

from handlers.aws_answers import Response, is_text, spelled
from handlers.aws_events import ALB_FRONT, REST_FRONT, URL_FRONT, front
from tests.handlers.invoking import alb, rest, url
from tests.servers.steward import REPOSITORY

ANSWER = Response(
    200, [(b"content-type", b"application/json"), (b"set-cookie", b"a"), (b"set-cookie", b"b")], b'{"a":1}'
)


def test_an_answer_has_the_fronts_own_spelling() -> None:
    many = spelled(ANSWER, alb(), ALB_FRONT)
    assert many["multiValueHeaders"] == {"content-type": ["application/json"], "set-cookie": ["a", "b"]}
    assert (many["statusCode"], many["body"], many["isBase64Encoded"]) == (200, '{"a":1}', False)
    one = spelled(ANSWER, alb(many=False), ALB_FRONT)
    assert {name.lower() for name in one["headers"]} == {"content-type", "set-cookie"} and len(one["headers"]) == 3
    assert spelled(ANSWER, url(), URL_FRONT)["cookies"] == ["a", "b"]
    assert spelled(ANSWER, rest(), REST_FRONT)["multiValueHeaders"] == {"set-cookie": ["a", "b"]}


@pytest.mark.parametrize("event", [alb(), alb(many=False), url(), rest()], ids=["many", "one", "url", "rest"])
@pytest.mark.parametrize(
    ("kind", "coding", "body", "text"),
    [
        (b"application/json", b"", b"{}", True),
        (b"text/event-stream; charset=utf-8", b"", "data: grüße\n\n".encode(), True),
        (b"application/x-ndjson", b"", b"{}\n", True),
        (b"application/problem+json", b"", b"{}", True),
        (b"application/json", b"gzip", b"\x1f\x8b", False),
        (b"application/json", b"identity", b"{}", True),
        (b"application/json", b"", b"\xff", False),
        (b"audio/mpeg", b"", b"abc", False),
        (b"multipart/form-data", b"", b"abc", False),
    ],
)
def test_a_body_goes_as_text_or_as_base64_and_is_the_same(
    event: dict[str, Any], kind: bytes, coding: bytes, body: bytes, text: bool
) -> None:
    sent_by = front(event)
    assert sent_by is not None
    headers = [(b"content-type", kind), *([(b"content-encoding", coding)] if coding else [])]
    answer = json.loads(json.dumps(spelled(Response(200, headers, body), event, sent_by)))
    assert answer["isBase64Encoded"] is not text
    assert (base64.b64decode(answer["body"]) if answer["isBase64Encoded"] else answer["body"].encode()) == body
    assert is_text(headers) or not text


def test_a_header_beyond_ascii_does_not_break_an_answer() -> None:
    answer = spelled(Response(200, [(b"x-name", b"K\xf6ln")], b""), alb(), ALB_FRONT)
    assert answer["multiValueHeaders"]["x-name"] == ["Köln"]


def test_a_length_that_is_not_the_bodys_is_not_told() -> None:
    for length, told in ((b"7", True), (b"1234", False)):
        answer = spelled(Response(200, [*ANSWER.headers, (b"content-length", length)], ANSWER.body), alb(), ALB_FRONT)
        assert ("content-length" in answer["multiValueHeaders"]) is told


def test_base64_can_be_asked_for() -> None:
    assert spelled(ANSWER, alb(), ALB_FRONT, as_text=False)["isBase64Encoded"]


def test_events_are_read_without_mangum() -> None:
    """The streaming runtime reads them, and writes no whole answer."""
    program = "import sys, handlers.aws_events; sys.exit('mangum' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY).returncode == 0
