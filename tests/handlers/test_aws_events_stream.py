"""What the streaming runtime reads of an event: every octet the caller sent, none that the front added, or an error."""

from __future__ import annotations

import base64
from typing import Any

import orjson
import pytest

from handlers.aws_events_stream import REQUEST_MAX_BYTES, Asked, NotHttp, read_event
from steward.errors import BadRequest
from steward.exchange import Headers
from tests.handlers.lambda_events import function_url, rest_proxy

BODY = b'{"model":"gpt-4o-mini"}'


def read(event: Any) -> Asked:
    return read_event(orjson.dumps(event))


def fields(asked: Asked) -> Headers:
    found: Headers = asked.scope["headers"]
    return found


def test_a_function_url_says_path_and_query_as_they_were_sent() -> None:
    asked = read(function_url("POST", "/v1beta/models/gemini-1.5%2Fpro:x?alt=sse&q=a%20b+c&alt=%2f", body=BODY))
    assert asked.scope["raw_path"] == b"/v1beta/models/gemini-1.5%2Fpro:x"
    assert asked.scope["path"] == "/v1beta/models/gemini-1.5%2Fpro:x"
    assert asked.scope["query_string"] == b"alt=sse&q=a%20b+c&alt=%2f"
    assert (asked.scope["method"], asked.body, asked.multi_value) == ("POST", BODY, False)
    assert (asked.refused, asked.body_fault) == (None, None)


def test_the_gateway_has_decoded_the_query_and_it_is_written_anew() -> None:
    asked = read(
        rest_proxy("GET", "/v1/files/a%2Fb?limit=2&after=a%20b&after=%26%3D", [(b"X-A", b"1"), (b"X-A", b"2")])
    )
    assert asked.scope["raw_path"] == b"/v1/files/a%2Fb"
    assert asked.scope["query_string"] == b"limit=2&after=a%20b&after=%26%3D"
    assert [item for item in fields(asked) if item[0] == b"x-a"] == [(b"x-a", b"1"), (b"x-a", b"2")]
    assert asked.multi_value


def test_a_path_that_the_gateway_has_decoded_is_one_again() -> None:
    event = rest_proxy("GET", "/v1/files") | {"path": "/v1/files/a b\u00e9{}?x"}
    assert read(event).scope["raw_path"] == b"/v1/files/a%20b%C3%A9{}?x", "the detector refuses the question mark"


@pytest.mark.parametrize("make", [function_url, rest_proxy])
def test_the_callers_address_is_the_one_that_the_front_saw(make: Any) -> None:
    asked = read(make("GET", "/v1/models", [(b"X-Forwarded-For", b"6.6.6.6, 203.0.113.9")]))
    assert asked.scope["client"] == ("203.0.113.9", 0)


@pytest.mark.parametrize("make", [function_url, rest_proxy])
def test_what_the_front_added_is_taken_out_again(make: Any) -> None:
    sent = [(b"Content-Type", b"application/json"), (b"User-Agent", b"sdk/1"), (b"X-Stainless-Os", b"Linux")]
    asked = read(make("POST", "/v1/chat/completions", sent, BODY))
    assert dict(fields(asked)).keys() == {b"host", b"content-type", b"user-agent", b"x-stainless-os", b"content-length"}


@pytest.mark.parametrize("make", [function_url, rest_proxy])
def test_a_signature_that_the_front_has_checked_goes_to_no_provider(make: Any) -> None:
    signature = (b"Authorization", b"AWS4-HMAC-SHA256 Credential=A/B")
    about = [(b"X-Amz-Date", b"d"), (b"X-Amz-Security-Token", b"t"), (b"X-Amz-Content-Sha256", b"c")]
    asked = read(make("GET", "/v1/models", [signature, *about, (b"X-Api-Key", b"k")], signed=True))
    assert dict(fields(asked)).keys() == {b"host", b"x-api-key"}
    openai = read(make("GET", "/v1/models", [(b"Authorization", b"Bearer sk")], signed=True))
    assert (b"authorization", b"Bearer sk") in fields(openai)
    unchecked = read(make("GET", "/v1/models", [signature]))
    assert any(name == b"authorization" for name, _ in fields(unchecked))


def test_cookies_of_a_function_url_are_one_field_again() -> None:
    event = function_url("GET", "/v1/models") | {"cookies": ["a=1", "b=2"]}
    assert (b"cookie", b"a=1; b=2") in fields(read(event))


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
    assert (b"content-length", b"%d" % len(BODY)) in fields(read(event))
    assert b"content-length" not in dict(fields(read(function_url("GET", "/v1/x"))))


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "no base64": ({"body": "%%%", "isBase64Encoded": True}, "bad_request"),
    "another length": ({"body": "{}", "isBase64Encoded": False}, "bad_request"),
    "no text": ({"body": {"a": 1}}, "bad_request"),
    "too large": ({"body": base64.b64encode(bytes(REQUEST_MAX_BYTES)).decode()}, "request_too_large"),
}


@pytest.mark.parametrize(("changed", "code"), FAULTS.values(), ids=FAULTS)
def test_a_body_that_cannot_be_taken_is_the_calls_own_fault(changed: dict[str, Any], code: str) -> None:
    asked = read(function_url("POST", "/v1/x", body=BODY) | changed)
    assert asked.refused is None
    assert asked.body_fault is not None
    assert asked.body_fault.code == code


REFUSED: dict[str, tuple[Headers, int]] = {
    "an empty host is one": ([(b"Host", b"")], 0),
    "two hosts": ([(b"Host", b"a"), (b"Host", b"b")], 400),
    "two keys": ([(b"X-Majordomo-Key", b"a"), (b"X-Majordomo-Key", b"b")], 400),
    "two credentials": ([(b"X-Api-Key", b"a"), (b"x-api-key", b"b")], 400),
    "a line end in a value": ([(b"X-A", b"a\r\nX-Majordomo-Key: b")], 400),
    "an octet that no parser takes": ([(b"X-A", b"a\x1b[2J")], 400),
    "a zero octet": ([(b"X-A", b"a\x00")], 400),
    "a name that is no token": ([(b"X A", b"1")], 400),
    "a length and chunks": ([(b"Content-Length", b"0"), (b"Transfer-Encoding", b"chunked")], 400),
    "another coding": ([(b"Transfer-Encoding", b"gzip, chunked")], 501),
    "an upgrade": ([(b"Connection", b"keep-alive, Upgrade"), (b"Upgrade", b"websocket")], 501),
    "too many fields": ([(b"X-%d" % n, b"1") for n in range(128)], 431),
    "too large a head": ([(b"X-A", b"a" * 66_000)], 431),
}


@pytest.mark.parametrize(("sent", "status"), REFUSED.values(), ids=REFUSED)
def test_what_our_listener_refuses_is_refused_here(sent: Headers, status: int) -> None:
    refused = read(rest_proxy("GET", "/v1/models", sent)).refused
    assert (0 if refused is None else refused.status) == status


def test_a_head_without_a_host_is_refused() -> None:
    event = rest_proxy("GET", "/v1/models")
    del event["multiValueHeaders"]["Host"], event["headers"]
    refused = read(event).refused
    assert refused is not None
    assert refused.status == 400


OTHERS: dict[str, Any] = {
    "a queue": {"Records": [{"eventSource": "aws:sqs", "body": "x"}]},
    "a schedule": {"source": "aws.events", "detail-type": "Scheduled Event", "detail": {}},
    "a test": {},
    "a list": [1],
    "nothing": None,
    "a load balancer": {"requestContext": {"elb": {}}, "httpMethod": "GET", "path": "/", "headers": {}},
    "no path": {"version": "2.0", "requestContext": {"http": {"method": "GET"}}},
    "a number for a path": {"version": "2.0", "requestContext": {"http": {"method": "GET"}}, "rawPath": 7},
    "a list for headers": {
        "version": "2.0",
        "requestContext": {"http": {"method": "GET"}},
        "rawPath": "/",
        "headers": [1],
    },
    "an odd method": {"version": "2.0", "requestContext": {"http": {"method": "GET /x"}}, "rawPath": "/"},
    "a number for a value": rest_proxy("GET", "/") | {"multiValueHeaders": {"Host": [1]}},
    "a text for many values": rest_proxy("GET", "/") | {"multiValueQueryStringParameters": "a=b"},
}


@pytest.mark.parametrize("event", OTHERS.values(), ids=OTHERS)
def test_what_is_no_http_request_is_said_to_be_none(event: Any) -> None:
    with pytest.raises(NotHttp) as refused:
        read(event)
    assert refused.value.message.endswith(".")


@pytest.mark.parametrize("octets", [b"", b"{", b"\xff", b'{"a":"\\ud800"}', b"[" * 100_000])
def test_what_is_no_json_is_said_to_be_none(octets: bytes) -> None:
    with pytest.raises(NotHttp):
        read_event(octets)


@pytest.mark.parametrize("make", [function_url, rest_proxy])
def test_a_length_of_thousands_of_digits_is_refused_and_ends_no_process(make: Any) -> None:
    asked = read(make("POST", "/v1/chat/completions", [(b"Content-Length", b"9" * 5000)], BODY))
    assert isinstance(asked.body_fault, BadRequest)
