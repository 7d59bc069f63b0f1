"""Events as requests, and what of them is refused as the container's listener refuses it (SECURITY F9)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.aws_events import ALB_FRONT, REST_FRONT, URL_FRONT, Request, front
from handlers.aws_events import read as read_from
from steward.errors import BadRequest, HeadTooLarge, StewardError, TooLarge, Unsupported
from steward.exchange import Headers
from steward.wire.headers import read_caller_head
from tests.handlers.invoking import alb, rest, url
from tests.handlers.lambda_events import function_url, rest_proxy

BODY = b'{"model":"gpt-4o-mini"}'
PLAIN = {"Host": "steward.internal"}


def read(event: Any, sent_by: Any = None) -> Request:
    told = front(event)
    assert told is not None
    assert sent_by in (None, told)
    return read_from(event, told)


def verdict(event: Any) -> StewardError | None:
    """Of the events' reader, or of the gate that the relay asks next."""
    request = read(event)
    try:
        read_caller_head(request.headers)
    except StewardError as refused:
        return request.refused or refused
    return request.refused


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


FRONTS: dict[str, Callable[..., Any]] = {"url": function_url, "rest": rest_proxy}
each_front = pytest.mark.parametrize("make", FRONTS.values(), ids=FRONTS)
SIGNATURE: Headers = [
    (b"Authorization", b"AWS4-HMAC-SHA256 Credential=AKIA/20260101/eu-central-1/lambda/aws4_request, Signature=0"),
    (b"X-Amz-Date", b"20260101T000000Z"),
    (b"X-Amz-Security-Token", b"canary"),
    (b"X-Amz-Content-Sha256", b"c"),
]


@each_front
def test_what_the_front_set_goes_to_no_provider(make: Any) -> None:
    sent = [(b"Content-Type", b"application/json"), (b"User-Agent", b"sdk/1"), (b"X-Stainless-Os", b"Linux")]
    added = [(b"X-Amz-Cf-Id", b"1"), (b"CloudFront-Viewer-Country", b"DE")]
    asked = read(make("POST", "/v1/chat/completions", [*sent, *added], BODY))
    assert dict(asked.headers).keys() == {b"host", b"content-type", b"user-agent", b"x-stainless-os", b"content-length"}


def test_whom_a_load_balancer_signed_in_no_provider_learns() -> None:
    added = {"X-Amzn-Oidc-Accesstoken": "canary", "X-Amzn-Mtls-Clientcert-Subject": "CN=a", "X-Amzn-Trace-Id": "Root=1"}
    assert dict(read(alb(headers={**PLAIN, **added})).headers).keys() == {b"host", b"content-length"}
    found = {name for name, _ in read(alb()).headers}
    assert not [name for name in found if name.startswith(b"x-forwarded")] and b"authorization" in found


@each_front
@pytest.mark.parametrize("signed", [True, False])
def test_a_signature_for_the_front_goes_to_no_provider(make: Any, signed: bool) -> None:
    """Whether the front has checked it or not: it is nobody else's."""
    asked = read(make("GET", "/v1/models", [*SIGNATURE, (b"X-Api-Key", b"k")], signed=signed))
    assert dict(asked.headers).keys() == {b"host", b"x-api-key"}
    openai = read(make("GET", "/v1/models", [(b"Authorization", b"Bearer sk"), *SIGNATURE[1:]], signed=True))
    assert dict(openai.headers).keys() == {b"host", b"authorization"}


def test_a_signature_on_a_load_balancer_goes_to_no_provider() -> None:
    sent = {name.decode(): value.decode() for name, value in SIGNATURE}
    assert dict(read(alb("", headers={**PLAIN, **sent})).headers).keys() == {b"host"}


@each_front
def test_a_signature_in_the_query_goes_to_no_provider(make: Any) -> None:
    signed = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Security-Token=canary&limit=2&X-Amz-Signature=0"
    assert read(make("GET", f"/v1/files?after=1&{signed}")).query == b"after=1&limit=2"


def test_a_field_that_only_looks_like_one_of_a_signature_stays() -> None:
    asked = read(function_url("GET", "/v1/files?x-amz-meta=1", [(b"X-Amz-Date", b"d")]))
    assert (asked.query, dict(asked.headers)[b"x-amz-date"]) == (b"x-amz-meta=1", b"d")


def test_cookies_of_a_function_url_are_one_field() -> None:
    event = {**url(), "cookies": ["a=1", "b=2"]}
    event["headers"]["cookie"] = "a=1"
    assert [item for item in read(event).headers if item[0] == b"cookie"] == [(b"cookie", b"a=1; b=2")]
    assert isinstance(read({**url(), "cookies": "a=1"}).refused, BadRequest)


def test_space_around_a_value_is_not_part_of_it() -> None:
    assert (b"x", b"a") in read(alb(headers={**PLAIN, "X": " \ta "}), ALB_FRONT).headers


def test_a_value_that_the_front_has_decoded_is_octets_again() -> None:
    assert (b"x", "K\N{SNOWMAN}".encode()) in read(alb(headers={**PLAIN, "X": " K\N{SNOWMAN}"})).headers
    assert (b"x", b"K\xf6ln") in read(alb(headers={**PLAIN, "X": "K\xf6ln"})).headers


def test_a_function_url_says_path_and_query_as_they_were_sent() -> None:
    asked = read(function_url("POST", "/v1beta/models/gemini-1.5%2Fpro:x?alt=sse&q=a%20b+c&alt=%2f", body=BODY))
    assert asked.raw_path == b"/v1beta/models/gemini-1.5%2Fpro:x"
    assert asked.scope()["path"] == "/v1beta/models/gemini-1.5%2Fpro:x"
    assert asked.query == b"alt=sse&q=a%20b+c&alt=%2f"
    assert (asked.method, asked.body, asked.refused, asked.body_fault) == ("POST", BODY, None, None)


def test_the_gateway_has_decoded_the_query_and_it_is_written_anew() -> None:
    repeats = [(b"X-A", b"1"), (b"X-A", b"2")]
    asked = read(rest_proxy("GET", "/v1/files/a%2Fb?limit=2&after=a%20b&after=%26%3D", repeats))
    assert (asked.raw_path, asked.query) == (b"/v1/files/a%2Fb", b"limit=2&after=a%20b&after=%26%3D")
    assert [item for item in asked.headers if item[0] == b"x-a"] == [(b"x-a", b"1"), (b"x-a", b"2")]


def test_a_path_that_the_gateway_has_decoded_is_one_again() -> None:
    event = rest_proxy("GET", "/v1/files") | {"path": "/v1/files/a b\u00e9{}?x"}
    assert read(event).raw_path == b"/v1/files/a%20b%C3%A9{}?x", "the detector refuses the question mark"


@each_front
def test_the_callers_address_is_the_one_that_the_front_saw(make: Any) -> None:
    asked = read(make("GET", "/v1/models", [(b"X-Forwarded-For", b"6.6.6.6, 203.0.113.9")]))
    assert asked.scope()["client"] == ("203.0.113.9", 0)


@pytest.mark.parametrize("path", ["/", "/healthz", "/health"])
def test_a_load_balancers_own_check_is_answered_for_the_process(path: str) -> None:
    """It has no Host. What no provider has is our `/health` then; a provider's path stays one."""
    for many in (True, False):
        check = alb("", path, {"user-agent": "ELB-HealthChecker/2.0"}, method="GET", many=many)
        request = read(check)
        assert (request.raw_path, request.refused) == (b"/health", None)


def test_a_check_is_one_of_the_load_balancers_alone() -> None:
    checker = {"user-agent": "ELB-HealthChecker/2.0"}
    assert read(alb("", "/v1/models", checker, method="GET")).raw_path == b"/v1/models"
    assert isinstance(verdict(alb("", "/v1/models", checker, method="GET")), BadRequest)
    assert read(alb("", "/", {**PLAIN, **checker}, method="GET")).raw_path == b"/"
    assert read(alb("", "/", {"user-agent": "curl"}, method="GET")).raw_path == b"/"
    assert read(url("", "/", checker, method="GET")).raw_path == b"/"


@pytest.mark.parametrize("body", [BODY, b"\x00\xff\xfe" * 999, "é€😀".encode()])
def test_a_body_as_text_and_as_base64(body: bytes) -> None:
    as_base64 = read(function_url("POST", "/v1/x", body=body))
    assert (as_base64.body, as_base64.body_fault) == (body, None)
    if b"\xff" not in body:
        event = function_url("POST", "/v1/x", body=body) | {"body": body.decode(), "isBase64Encoded": False}
        assert read(event).body == body


def test_a_body_without_a_length_gets_one() -> None:
    event = function_url("POST", "/v1/x", body=BODY)
    del event["headers"]["content-length"]
    assert (b"content-length", b"%d" % len(BODY)) in read(event).headers
    assert b"content-length" not in dict(read(function_url("GET", "/v1/x")).headers)


CHUNKED = {"Transfer-Encoding": "chunked"}
FAULTS: dict[str, dict[str, Any]] = {
    "no base64": {**alb(), "body": "@@@", "isBase64Encoded": True},
    "base64 with a line end": {**alb(), "body": "YWJj\nYWJj", "isBase64Encoded": True},
    "no text": {**alb(), "body": {"a": 1}},
    "half a character": {**alb(), "body": "\ud800"},
    "a length too long": alb("abc", headers={**PLAIN, "Content-Length": "30"}),
    "a length too short": alb("abc", headers={**PLAIN, "Content-Length": "1"}),
    "a length of nothing": alb("abc", headers={**PLAIN, "Content-Length": "0"}),
    "in chunks": {**alb(headers={**PLAIN, **CHUNKED}), "body": 3},
    "where leave is asked first": {**alb(headers={**PLAIN, "Expect": "100-continue"}), "body": 3},
    "without a length": {**alb(headers=PLAIN), "body": 3},
}


@pytest.mark.parametrize("event", FAULTS.values(), ids=FAULTS)
def test_a_body_that_cannot_be_taken_is_the_calls_own_fault(event: dict[str, Any]) -> None:
    """The call is admitted, so that it has a row; its head says that a body comes, so that it is asked for."""
    request = read(event)
    assert request.refused is None
    assert isinstance(request.body_fault, BadRequest)
    head = read_caller_head(request.headers)
    assert head.has_body and not head.expects_continue


def test_a_body_can_be_too_large_for_a_host() -> None:
    without = read(alb(headers={**PLAIN, **CHUNKED})).without_body(TooLarge())
    assert isinstance(without.body_fault, TooLarge) and without.body == b""
    assert read_caller_head(without.headers).length == 1


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
    ("an octet that no parser takes", alb(headers={**PLAIN, "X-A": "a\x1b[2J"}), BadRequest),
    ("chunked twice", alb(headers={**PLAIN, "Transfer-Encoding": "chunked, chunked"}), BadRequest),
    ("chunked in two fields", alb(headers={**PLAIN, "Transfer-Encoding": ["chunked", "chunked"]}), BadRequest),
    ("chunked, folded by the front", url(headers={**PLAIN, "Transfer-Encoding": "chunked,chunked"}), BadRequest),
    ("gzip, chunked", url(headers={**PLAIN, "Transfer-Encoding": "gzip, chunked"}), Unsupported),
    ("a disguised chunked", url(headers={**PLAIN, "Transfer-Encoding": "xchunked"}), Unsupported),
    ("no method of a Function URL", {"version": "2.0", "requestContext": {}, "rawPath": "/"}, BadRequest),
    ("a method that is no token", url(method="PO(ST"), BadRequest),
    ("a number for a path", {**url(), "rawPath": 7}, BadRequest),
    ("a list for headers", {**url(), "headers": [1]}, BadRequest),
    ("a number for a value", rest_proxy("GET", "/") | {"multiValueHeaders": {"Host": [1]}}, BadRequest),
    ("a text for many values", rest_proxy("GET", "/") | {"multiValueQueryStringParameters": "a=b"}, BadRequest),
    ("half a character in a path", rest_proxy("GET", "/") | {"path": "/\ud800"}, BadRequest),
    ("half a character in a query", rest_proxy("GET", "/") | {"queryStringParameters": {"a": "\ud800"}}, BadRequest),
]


@pytest.mark.parametrize(("event", "kind"), [each[1:] for each in REFUSED], ids=[each[0] for each in REFUSED])
def test_what_the_listener_refuses_is_refused(event: dict[str, Any], kind: type[StewardError]) -> None:
    assert isinstance(verdict(event), kind)


HEADS: dict[str, tuple[Headers, int]] = {
    "an empty host is one": ([(b"Host", b"")], 0),
    "two hosts": ([(b"Host", b"a"), (b"Host", b"b")], 400),
    "two keys": ([(b"X-Majordomo-Key", b"a"), (b"X-Majordomo-Key", b"b")], 400),
    "two credentials": ([(b"X-Api-Key", b"a"), (b"x-api-key", b"b")], 400),
    "a length and chunks": ([(b"Content-Length", b"0"), (b"Transfer-Encoding", b"chunked")], 400),
    "an upgrade": ([(b"Connection", b"keep-alive, Upgrade"), (b"Upgrade", b"websocket")], 501),
    "too many fields": ([(b"X-%d" % n, b"1") for n in range(128)], 431),
}


@pytest.mark.parametrize(("sent", "status"), HEADS.values(), ids=HEADS)
def test_the_same_head_by_api_gateway(sent: Headers, status: int) -> None:
    refused = verdict(rest_proxy("GET", "/v1/models", sent))
    assert (0 if refused is None else refused.status) == status


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
    request = read_from(broken, sent_by)
    assert isinstance(request.refused, BadRequest | HeadTooLarge | Unsupported | None)
    assert all(isinstance(part, bytes) for item in request.headers for part in item)
