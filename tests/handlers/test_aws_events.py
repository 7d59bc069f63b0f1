"""Events as requests, and what of them is refused as the container's listener refuses it (SECURITY F9)."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.aws_events import ALB_FRONT, REST_FRONT, URL_FRONT, Response, front, is_text, read, spelled
from steward.errors import BadRequest, HeadTooLarge, StewardError, Unsupported
from steward.wire.headers import read_caller_head
from tests.handlers.invoking import HEADERS, alb, rest, url

PLAIN = {"Host": "steward.internal"}


def test_each_front_is_told_by_its_event() -> None:
    assert (front(alb()), front(url()), front(rest())) == (ALB_FRONT, URL_FRONT, REST_FRONT)
    assert front({**rest(), "version": "1.0"}) is REST_FRONT
    for other in (None, {}, [], {"Records": []}, {"requestContext": {}}, {"source": "aws.events", "detail": {}}):
        assert front(other) is None


@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1beta/models/gemini-1.5%2Fpro:generateContent", "/a%20b", "/%c3%a4", "/"]
)
def test_a_path_is_what_was_sent(path: str) -> None:
    assert read(alb(path=path), ALB_FRONT).raw_path == path.encode()
    assert read(url(path=path), URL_FRONT).raw_path == path.encode()
    assert read(alb(path=path), ALB_FRONT).scope()["raw_path"] == path.encode()


def test_of_an_absolute_target_the_path_counts() -> None:
    assert read(alb(path="http://evil.example/v1/models"), ALB_FRONT).raw_path == b"/v1/models"
    assert read(alb(path="http://evil.example"), ALB_FRONT).raw_path == b"/"
    assert read(alb(path=""), ALB_FRONT).raw_path == b"/"


@pytest.mark.parametrize(
    ("query", "joined"),
    [
        ({}, b""),
        ({"alt": "sse"}, b"alt=sse"),
        ({"a": ["1", "2"], "b": ["3"]}, b"a=1&a=2&b=3"),
        ({"q": "a+b%20c%2F"}, b"q=a+b%20c%2F"),
        ({"empty": ""}, b"empty="),
        ({"none": None}, b"none="),
        ({"%24alt": "j"}, b"%24alt=j"),
    ],
)
def test_a_load_balancers_query_is_joined_without_being_decoded(query: dict[str, Any], joined: bytes) -> None:
    assert read(alb(query=query), ALB_FRONT).query == joined
    if not any(isinstance(value, list) for value in query.values()):
        assert read(alb(query=query, many=False), ALB_FRONT).query == joined


def test_a_function_urls_query_is_taken_as_it_stands() -> None:
    assert read(url(query="a=b%20c+d&&e"), URL_FRONT).query == b"a=b%20c+d&&e"


def test_api_gateways_query_was_decoded_and_is_encoded_again() -> None:
    assert read(rest(query={"q": ["a b+c", "ä&="]}), REST_FRONT).query == b"q=a%20b%2Bc&q=%C3%A4%26%3D"


def test_a_body_is_its_octets() -> None:
    assert read(alb("grüße"), ALB_FRONT).body == "grüße".encode()
    assert read(alb(b"\xff\x00"), ALB_FRONT).body == b"\xff\x00"
    assert read({**alb(), "body": None}, ALB_FRONT).body == b""


def test_a_body_has_its_length_and_no_frame() -> None:
    def lengths(headers: dict[str, Any], body: object = "abc") -> list[tuple[bytes, bytes]]:
        found = read(alb(body, headers={**PLAIN, **headers}), ALB_FRONT).headers
        return [item for item in found if item[0] in (b"content-length", b"transfer-encoding")]

    assert lengths({}) == lengths({"Transfer-Encoding": "chunked"}) == [(b"content-length", b"3")]
    assert lengths({"Content-Length": "3"}) == [(b"content-length", b"3")]
    assert lengths({}, "") == []


def test_the_caller_is_the_last_address_that_the_front_wrote() -> None:
    assert read(alb(), ALB_FRONT).client == "10.0.0.7"
    assert read(url(), URL_FRONT).client == "203.0.113.9"
    assert read(alb(headers=PLAIN), ALB_FRONT).client == ""
    assert read(alb(headers={**PLAIN, "X-Forwarded-For": ["1.1.1.1", "evil, 2.2.2.2"]}), ALB_FRONT).client == "2.2.2.2"


def test_what_the_front_set_or_checked_goes_to_no_provider() -> None:
    found = {name for name, _ in read(alb(), ALB_FRONT).headers}
    assert not [name for name in found if name.startswith(b"x-forwarded")] and b"authorization" in found
    signature = {
        "Authorization": "AWS4-HMAC-SHA256 Credential=AKIA/20260101/eu-central-1/lambda/aws4_request, Signature=0",
        "X-Amz-Date": "20260101T000000Z",
        "X-Amz-Security-Token": "canary",
        "X-Amzn-Trace-Id": "Root=1",
        "X-Api-Key": "sk-ant",
    }
    assert [name for name, _ in read(url("", headers={**PLAIN, **signature}), URL_FRONT).headers] == [
        b"host",
        b"x-api-key",
    ]
    plain = {**signature, "Authorization": "Bearer sk"}
    assert len(read(url("", headers={**PLAIN, **plain}), URL_FRONT).headers) == 5


def test_cookies_of_a_function_url_are_one_field() -> None:
    found = read({**url(), "cookies": ["a=1", "b=2"]}, URL_FRONT).headers
    assert (b"cookie", b"a=1; b=2") in found


def test_space_around_a_value_is_not_part_of_it() -> None:
    assert (b"x", b"a") in read(alb(headers={**PLAIN, "X": " \ta "}), ALB_FRONT).headers


REFUSED: list[tuple[str, dict[str, Any], type[StewardError]]] = [
    ("two hosts", alb(headers={"Host": ["a", "b"]}), BadRequest),
    ("hosts of two spellings", alb(headers={"Host": "a", "host": "b"}), BadRequest),
    ("no host", alb(headers={}), BadRequest),
    ("two keys", alb(headers={**PLAIN, "X-Majordomo-Key": ["a", "b"]}), BadRequest),
    ("two credentials", alb(headers={**PLAIN, "Authorization": ["a", "b"]}), BadRequest),
    ("CR LF in a value", alb(headers={**PLAIN, "X-A": "a\r\nHost: evil"}), BadRequest),
    ("LF in a value", alb(headers={**PLAIN, "X-A": "a\nb"}), BadRequest),
    ("NUL in a value", alb(headers={**PLAIN, "X-A": "a\x00b"}), BadRequest),
    ("DEL in a value", alb(headers={**PLAIN, "X-A": "a\x7f"}), BadRequest),
    ("CR LF in a name", alb(headers={**PLAIN, "X-A\r\nX-B": "a"}), BadRequest),
    ("space in a name", alb(headers={**PLAIN, "X A": "a"}), BadRequest),
    ("colon in a name", alb(headers={**PLAIN, "X:A": "a"}), BadRequest),
    ("no name", alb(headers={**PLAIN, "": "a"}), BadRequest),
    ("beyond latin-1 in a value", alb(headers={**PLAIN, "X-A": "\N{SNOWMAN}"}), BadRequest),
    ("beyond latin-1 in a name", alb(headers={**PLAIN, "X-\N{SNOWMAN}": "a"}), BadRequest),
    ("half a character", alb(headers={**PLAIN, "X-A": "\ud800"}), BadRequest),
    ("a value that is no text", alb(headers={**PLAIN, "X-A": 3}), BadRequest),
    ("a value within a value", alb(headers={**PLAIN, "X-A": [["a"]]}), BadRequest),
    ("headers that are none", {**alb(many=False), "headers": "x"}, BadRequest),
    ("many headers that are none", {**alb(), "multiValueHeaders": []}, BadRequest),
    ("too many fields", alb(headers={**PLAIN, **{f"X-{n}": "a" for n in range(130)}}), HeadTooLarge),
    ("a field too many of one name", alb(headers={**PLAIN, "X-A": ["a"] * 130}), HeadTooLarge),
    ("a head too large", alb(headers={**PLAIN, "X-A": "a" * 66_000}), HeadTooLarge),
    ("a query too large", alb(query={"q": "a" * 66_000}), HeadTooLarge),
    ("an upgrade", alb(headers={**PLAIN, "Connection": "Upgrade", "Upgrade": "websocket"}), Unsupported),
    ("CONNECT", alb(method="CONNECT"), Unsupported),
    ("another transfer coding", alb(headers={**PLAIN, "Transfer-Encoding": "gzip"}), Unsupported),
    ("two transfer codings", alb(headers={**PLAIN, "Transfer-Encoding": ["gzip", "chunked"]}), Unsupported),
    ("two frames", alb(headers={**PLAIN, "Transfer-Encoding": "chunked", "Content-Length": "3"}), BadRequest),
    ("a length that is not the body's", alb("abc", headers={**PLAIN, "Content-Length": "30"}), BadRequest),
    ("a length that is too short", alb("abc", headers={**PLAIN, "Content-Length": "1"}), BadRequest),
    ("two lengths", alb("abc", headers={**PLAIN, "Content-Length": ["3", "3"]}), BadRequest),
    ("a length that is no number", alb("abc", headers={**PLAIN, "Content-Length": "+3"}), BadRequest),
    ("a huge length", alb("abc", headers={**PLAIN, "Content-Length": "9" * 30}), BadRequest),
    ("a method in lower case", alb(method="post"), BadRequest),
    ("a method that splits", alb(method="GET / HTTP/1.1\r\n"), BadRequest),
    ("no method", {**alb(), "httpMethod": None}, BadRequest),
    ("a path that splits", alb(path="/v1/models HTTP/1.1\r\nX: y"), BadRequest),
    ("a path beyond latin-1", alb(path="/\N{SNOWMAN}"), BadRequest),
    ("a path that is no text", {**alb(), "path": 3}, BadRequest),
    ("a query that is none", {**alb(), "multiValueQueryStringParameters": "x"}, BadRequest),
    ("a query value that is no text", alb(query={"q": 3}), BadRequest),
    ("a query beyond latin-1", alb(query={"q": "\N{SNOWMAN}"}), BadRequest),
    ("no base64", {**alb(), "body": "@@@", "isBase64Encoded": True}, BadRequest),
    ("base64 with a line end", {**alb(), "body": "YWJj\nYWJj", "isBase64Encoded": True}, BadRequest),
    ("a body that is no text", {**alb(), "body": {"a": 1}}, BadRequest),
    ("a body of half a character", {**alb(), "body": "\ud800"}, BadRequest),
]


@pytest.mark.parametrize(("event", "kind"), [each[1:] for each in REFUSED], ids=[each[0] for each in REFUSED])
def test_what_the_listener_refuses_is_refused(event: dict[str, Any], kind: type[StewardError]) -> None:
    """By the events' reader, or by the gate that the relay asks next."""
    with pytest.raises(kind):
        read_caller_head(read(event, ALB_FRONT).headers)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda each: st.lists(each) | st.dictionaries(st.text(), each),
)


@given(st.sampled_from([alb(), alb(many=False), url(), rest()]), st.data())
def test_no_event_makes_it_crash(event: dict[str, Any], data: st.DataObject) -> None:
    """Any JSON in any place: a request whose octets are octets, or one of our errors."""
    name = data.draw(st.sampled_from(sorted(event)))
    broken = {**event, name: data.draw(_JSON)}
    sent_by = front(broken)
    if sent_by is None:
        return
    with contextlib.suppress(BadRequest, HeadTooLarge, Unsupported):
        request = read(broken, sent_by)
        assert all(isinstance(part, bytes) for item in request.headers for part in item)


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
    assert HEADERS
