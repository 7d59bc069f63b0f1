"""The record of a call: what goes in comes out, whatever a caller wrote; what is no record is refused."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steward import codec
from steward.codec import (
    Beside,
    Kept,
    decode_exchange,
    decode_intent,
    encode_exchange,
    encode_intent,
)
from steward.exchange import Body, Caller, Dialect, Exchange, Intent, Operation, Outcome, Route, Timings
from tests.exchanges import exchange, route

AT = datetime(2026, 11, 20, 8, 0, 1, 234567, tzinfo=UTC)
ROUTE = Route("openai", Dialect.OPENAI, Operation.CHAT, "/v1/chat/completions", b"/v1/chat/\xff%00", "gpt\0", True)
CALLER = Caller(UUID(int=1), UUID(int=2), UUID(int=3), None)
NASTY = "NUL \0, halves \ud800 \udfff, é, \U0001f600, \x85\u2028\n"
texts = st.text(st.characters(blacklist_categories=()), max_size=20)
maybe = st.one_of(st.none(), texts)
unhurried = settings(deadline=None, max_examples=150)


def whole(text: str = "x", **more: object) -> Exchange:
    """An exchange with something in every field."""
    return Exchange(
        id=UUID("0198c0de-0000-7000-8000-00000000000a"),
        caller=CALLER,
        route=ROUTE,
        requested_at=AT,
        method="POST",
        outcome=Outcome.CLIENT_CANCELLED,
        status=200,
        timings=Timings(1, 2, None, 4),
        request=Body(b"asked", None, 5),
        response=Body(b"\0answ", None, 900, truncated=True),
        request_headers=[(b"content-type", b"text/plain"), (b"x", b"\xff")],
        response_headers=[(b"a", b""), (b"a", b"b")],
        query=[("alt", text), ("alt", "sse")],
        tags={"User-Id": text, text: "v"},
        tags_dropped=2,
        tags_refused=[text],
        provider_api_key_hash="ab" * 32,
        provider_api_key_alias=text,
        client=text,
        claude_session_id=text,
        claude_session_name=text,
        error="upstream_broke",
        bodies_shed=False,
        **more,  # type: ignore[arg-type]
    )


def told(one: Exchange) -> dict[str, object]:
    """Every field, with lists and tuples alike and bodies by what they say."""
    said: dict[str, object] = {}
    for each in fields(one):
        value = getattr(one, each.name)
        if isinstance(value, Body):
            value = (value.data, value.size_bytes, value.truncated)
        said[each.name] = [tuple(pair) for pair in value] if each.name == "query" else value
        if each.name == "tags_refused":
            said[each.name] = list(value)
    return said


def again(one: Exchange) -> Exchange:
    back, request, response = decode_exchange(encode_exchange(one, one.request.data, one.response.data))
    assert (request, response) == (None, None)
    return back


def test_every_field_comes_back() -> None:
    assert told(again(whole())) == told(whole())


def test_an_ordinary_call_comes_back() -> None:
    one = exchange(route("/v1/chat/completions"), {"a": 1}, asked={"b": 2}, coding="gzip")
    assert told(again(one)) == told(one)


def test_no_text_can_hinder_it() -> None:
    assert told(again(whole(NASTY))) == told(whole(NASTY))


@unhurried
@given(texts, maybe, st.dictionaries(texts, texts, max_size=3), st.binary(max_size=20), st.binary(max_size=20))
def test_any_text_and_any_octets_come_back(
    text: str, other: str | None, tags: dict[str, str], octets: bytes, value: bytes
) -> None:
    one = whole(text)
    one.tags, one.client, one.method, one.status = tags, other, text, None
    one.request.data, one.response_headers = octets, [(octets, value), (value, b"")]
    one.route = Route(text, Dialect.GEMINI, Operation.OTHER, text, octets, other)
    assert told(again(one)) == told(one)


@pytest.mark.parametrize("headers", [[], [(b"", b"")], [(b"a", b"b\nc")], [(b"a\n", b"")], [(b"a", b"b")] * 300])
def test_header_fields_come_back(headers: list[tuple[bytes, bytes]]) -> None:
    one = whole()
    one.request_headers, one.response_headers = headers, headers[:1]
    back = again(one)
    assert (back.request_headers, back.response_headers) == (headers, headers[:1])


@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=5, minutes=30))])
def test_the_moment_comes_back(zone: timezone) -> None:
    one = whole()
    one.requested_at = AT.astimezone(zone)
    assert again(one).requested_at == AT


@pytest.mark.parametrize("outcome", Outcome)
def test_every_outcome_comes_back(outcome: Outcome) -> None:
    one = whole()
    one.outcome = outcome
    assert again(one).outcome is outcome


@pytest.mark.parametrize("number", [2**63, 2**64, -(2**70)])
def test_a_number_of_any_size_comes_back(number: int) -> None:
    one = whole()
    one.status = one.request.size_bytes = number
    back = again(one)
    assert (back.status, back.request.size_bytes) == (number, number)


@pytest.mark.parametrize("response", [None, b"", b"inside", Beside(b"k" * 32, 7)])
@pytest.mark.parametrize("request_", [None, b"", b"inside", Beside(b"q" * 32, 1 << 40)])
def test_each_side_is_inside_or_beside(request_: Kept, response: Kept) -> None:
    back, *beside = decode_exchange(encode_exchange(whole(), request_, response))
    for body, said, kept in ((back.request, beside[0], request_), (back.response, beside[1], response)):
        assert body.data == (kept if isinstance(kept, bytes) else b"")
        assert said == (kept if isinstance(kept, Beside) else None)
    assert (back.request.size_bytes, back.response.size_bytes, back.response.truncated) == (5, 900, True)


def test_shed_bodies_stay_shed() -> None:
    one = whole()
    one.bodies_shed = True
    back, _, _ = decode_exchange(encode_exchange(one, None, None))
    assert back.bodies_shed
    assert (back.request.data, back.request.size_bytes) == (b"", 5)


@pytest.mark.parametrize("text", ["POST", NASTY])
def test_an_intent_comes_back(text: str) -> None:
    intent = Intent(UUID(int=5), CALLER, Route("p", Dialect.ANTHROPIC, Operation.FREE, text, b"/\xe9"), AT, text)
    back = decode_intent(encode_intent(intent))
    assert (back.id, back.caller, back.route) == (intent.id, intent.caller, intent.route)
    assert (back.requested_at, back.method) == (AT, text)


def test_a_key_of_a_file_is_not_shown() -> None:
    assert "6b6b" not in repr(Beside(b"k" * 32, 7))
    assert "kkkk" not in repr(Beside(b"k" * 32, 7))


def test_the_format_is_what_it_was() -> None:
    """What a release wrote, every later one reads."""
    intent = bytes.fromhex(INTENT)
    assert encode_intent(Intent(UUID(int=5), CALLER, route("/v1/models"), AT, "GET")) == intent
    assert decode_intent(intent).method == "GET"
    end = bytes.fromhex(END)
    assert encode_exchange(whole(), b"asked", Beside(bytes(32), 3)) == end
    back, request, response = decode_exchange(end)
    assert (told(back)["tags"], request, response) == (whole().tags, None, Beside(bytes(32), 3))


def test_members_that_a_later_release_adds_are_passed_over() -> None:
    data = encode_intent(Intent(UUID(int=5), CALLER, ROUTE, AT, "GET"))
    head = data[5:-1] + b',{"new":1}]'
    assert decode_intent(data[:1] + len(head).to_bytes(4, "big") + head).id == UUID(int=5)


def test_another_version_is_refused() -> None:
    data = encode_exchange(whole(), b"", b"")
    with pytest.raises(ValueError, match="no record"):
        decode_exchange(b"\x02" + data[1:])


def test_what_is_cut_or_longer_is_refused() -> None:
    data = encode_exchange(whole(), b"asked", b"answered")
    for end in range(len(data)):
        with pytest.raises(ValueError):  # noqa: PT011 - any of them says: no record
            decode_exchange(data[:end])
    with pytest.raises(ValueError, match="no record"):
        decode_exchange(data + b"x")


@unhurried
@given(st.binary(max_size=200))
def test_any_octets_are_refused_or_read(data: bytes) -> None:
    for octets in (data, b"\x01" + len(data).to_bytes(4, "big") + data):
        for decode in (decode_exchange, decode_intent):
            with pytest.raises(ValueError):  # noqa: PT011 - any of them says: no record
                decode(octets)


@pytest.mark.parametrize("head", [b"[]", b"{}", b"null", b"7", b'["x"]', b"[" * 50 + b"]" * 50, b"[1,2,3,4,5]"])
def test_a_head_of_another_shape_is_refused(head: bytes) -> None:
    data = b"\x01" + len(head).to_bytes(4, "big") + head
    for decode in (decode_exchange, decode_intent):
        with pytest.raises(ValueError):  # noqa: PT011 - any of them says: no record
            decode(data)


def test_one_kind_is_not_read_as_the_other() -> None:
    with pytest.raises(ValueError, match="no record"):
        decode_exchange(encode_intent(Intent(UUID(int=5), CALLER, ROUTE, AT, "GET")))


INTENT = (
    "010000010e5b2230303030303030302d303030302d303030302d303030302d303030303030303030303035222c5b223030303030303030"
    "2d303030302d303030302d303030302d303030303030303030303031222c2230303030303030302d303030302d303030302d303030302d"
    "303030303030303030303032222c2230303030303030302d303030302d303030302d303030302d303030303030303030303033222c6e75"
    "6c6c5d2c5b226f70656e6169222c226f70656e6169222c226f74686572222c222f76312f6d6f64656c73222c222f76312f6d6f64656c73"
    "222c6e756c6c2c66616c73655d2c22323032362d31312d32305430383a30303a30312e3233343536372b30303a3030222c22474554225d"
)
END = (
    "010000024f5b2230313938633064652d303030302d373030302d383030302d303030303030303030303061222c5b223030303030303030"
    "2d303030302d303030302d303030302d303030303030303030303031222c2230303030303030302d303030302d303030302d303030302d"
    "303030303030303030303032222c2230303030303030302d303030302d303030302d303030302d303030303030303030303033222c6e75"
    "6c6c5d2c5b226f70656e6169222c226f70656e6169222c2263686174222c222f76312f636861742f636f6d706c6574696f6e73222c222f"
    "76312f636861742fc3bf253030222c226770745c7530303030222c747275655d2c22323032362d31312d32305430383a30303a30312e32"
    "33343536372b30303a3030222c22504f5354222c22636c69656e745f63616e63656c6c6564222c3230302c5b312c322c6e756c6c2c345d"
    "2c5b352c66616c73652c355d2c5b3930302c747275652c302c223030303030303030303030303030303030303030303030303030303030"
    "3030303030303030303030303030303030303030303030303030303030303030303030222c335d2c32372c362c5b5b22616c74222c2278"
    "225d2c5b22616c74222c22737365225d5d2c7b22557365722d4964223a2278222c2278223a2276227d2c322c5b2278225d2c2261626162"
    "61626162616261626162616261626162616261626162616261626162616261626162616261626162616261626162616261626162616261"
    "6261626162222c2278222c2278222c2278222c2278222c22757073747265616d5f62726f6b65222c66616c73655d636f6e74656e742d74"
    "7970650a746578742f706c61696e0a780aff610a0a610a6261736b6564"
)


def test_who_sends_long_paths_fills_no_memory_with_them() -> None:
    """A route is remembered by its path: not by one of 60 KB, of which a thousand would be the settler's end."""
    long = whole()
    long.route = replace(ROUTE, path=b"/v1beta/models/" + b"x" * 60_000)
    known = codec._known_route.cache_info().currsize
    for _ in range(2):
        read, _, _ = decode_exchange(encode_exchange(long, b"", b""))
        assert read.route == long.route
    assert codec._known_route.cache_info().currsize == known
