"""What goes to the provider: an address made of parts, no key of ours, and a hash that gives no credential away."""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steward.detect import Detector
from steward.errors import LeakedKey
from steward.exchange import Dialect, Headers, Operation, Origin, Outbound, Route
from steward.providers import facts
from steward.rewrite import KeyedHash, credential, of_the_front, outbound, without
from steward.wire.headers import read_caller_head
from steward.words import Secret

PLAIN = Origin("https", "api.openai.com", 443)
BASED = Origin("https", "gateway.internal", 8443, b"/team/llm")
PATH = b"/v1/chat/completions"
HOST = (b"host", b"steward.test")
OURS = ["mdm_sk_", "mdm_pk_", "mdm_st_"]
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def route(path: bytes = PATH) -> Route:
    """A route to this path."""
    return Route("openai", Dialect.OPENAI, Operation.CHAT, "/v1/chat/completions", path)


def sent(origin: Origin = PLAIN, path: bytes = PATH, query: bytes = b"", *fields: tuple[bytes, bytes]) -> Outbound:
    """What a call with these fields becomes."""
    return outbound(origin, b"POST", route(path), query, read_caller_head([HOST, *fields]))


def test_what_a_front_adds_goes_no_further_and_all_else_stays_in_order() -> None:
    theirs = [(b"x-forwarded-for", b"203.0.113.9"), (b"x-amzn-trace-id", b"Root=1-2")]
    callers = [(b"accept", b"*/*"), (b"x-amz", b"1"), (b"authorization", b"Bearer sk"), (b"accept", b"text/plain")]
    dropped = of_the_front(("x-forwarded-for", "x-amzn-*"))
    assert dropped is not None
    plain = sent(PLAIN, PATH, b"", *callers)
    with_lines = replace(sent(PLAIN, PATH, b"", theirs[0], *callers, theirs[1]), lines=b"all of them")
    left = without(with_lines, dropped)
    assert (left.headers, left.lines, left.target) == (plain.headers, None, plain.target)
    assert without(plain, dropped) is plain
    assert of_the_front(()) is None


# The address


@pytest.mark.parametrize(
    ("origin", "path", "query", "target"),
    [
        (PLAIN, PATH, b"", PATH),
        (PLAIN, PATH, b"a=1&a=2", PATH + b"?a=1&a=2"),
        (BASED, PATH, b"", b"/team/llm/v1/chat/completions"),
        (BASED, PATH, b"x", b"/team/llm/v1/chat/completions?x"),
        (BASED, b"/v1/files/a%2Fb%20c", b"", b"/team/llm/v1/files/a%2Fb%20c"),
        (PLAIN, b"//evil.example/v1", b"", b"//evil.example/v1"),
        (BASED, b"/v1/http://evil.example/", b"", b"/team/llm/v1/http://evil.example/"),
    ],
)
def test_the_target_is_made_of_its_parts(origin: Origin, path: bytes, query: bytes, target: bytes) -> None:
    """Never joined as URLs are: no path leads to another host or out of the base path."""
    made = sent(origin, path, query)
    assert (made.origin, made.method, made.target) == (origin, b"POST", target)


@unhurried
@given(st.binary(max_size=60), st.binary(min_size=1, max_size=60))
def test_no_octet_of_path_and_query_is_touched(path: bytes, query: bytes) -> None:
    made = sent(BASED, b"/" + path, query)
    assert made.target == b"/team/llm/" + path + b"?" + query
    assert made.origin is BASED


QUERIES = [b"key=%41Iza&alt=sse", b"q=+%20%2B", b"a[]=1&&=&b", b"?", b"x=http://evil.example/?y=z", b"%zz=%"]


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_goes_as_it_came(query: bytes) -> None:
    assert sent(PLAIN, PATH, query).target == PATH + b"?" + query


@pytest.mark.parametrize(
    ("fields", "length", "has_length", "expects"),
    [
        ([], 0, False, False),
        ([(b"content-length", b"0")], 0, True, False),
        ([(b"content-length", b"12")], 12, True, False),
        ([(b"transfer-encoding", b"chunked")], None, False, False),
        ([(b"content-length", b"12"), (b"expect", b"100-continue")], 12, True, True),
        ([(b"transfer-encoding", b"chunked"), (b"expect", b"100-continue")], None, False, True),
        ([(b"content-length", b"0"), (b"expect", b"100-continue")], 0, True, False),
        ([(b"expect", b"100-continue")], 0, False, False),
    ],
)
def test_framing(fields: Headers, length: int | None, has_length: bool, expects: bool) -> None:
    """Nobody waits for leave to send a body that there is not."""
    made = sent(PLAIN, PATH, b"", *fields)
    assert (made.length, made.has_length, made.expects_continue) == (length, has_length, expects)


def test_fields_go_as_the_gate_let_them_pass() -> None:
    passed = [(b"x-b", b"1"), (b"authorization", b"Bearer sk"), (b"x-b", b"2"), (b"x-a", b"")]
    ours = [(b"x-majordomo-key", b"mdm_sk_x"), (b"x-majordomo-team", b"a"), (b"connection", b"close")]
    assert sent(PLAIN, PATH, b"", *ours, *passed).headers == passed


# The credential


def found(dialect: Dialect, fields: Headers, query: bytes = b"") -> bytes | None:
    """The credential of a call with these fields."""
    return credential(read_caller_head([HOST, *fields]), query, facts(dialect))


BEARER = (b"authorization", b"Bearer sk-bearer")
X_KEY = (b"x-api-key", b"sk-ant")
GOOGLE = (b"x-goog-api-key", b"AIza-header")
QUERY = b"alt=sse&key=AIza-query"


@pytest.mark.parametrize(
    ("dialect", "fields", "query", "expected"),
    [
        (Dialect.OPENAI, [BEARER], b"", b"sk-bearer"),
        (Dialect.OPENAI, [X_KEY, GOOGLE, BEARER], QUERY, b"sk-bearer"),
        (Dialect.OPENAI, [X_KEY, GOOGLE], QUERY, None),
        (Dialect.OPENAI, [(b"authorization", b"bEaReR  x ")], b"", b" x "),
        (Dialect.OPENAI, [(b"authorization", b"Basic dTpw")], b"", b"Basic dTpw"),
        (Dialect.OPENAI, [(b"authorization", b"Bearer")], b"", b"Bearer"),
        (Dialect.OPENAI, [], b"", None),
        (Dialect.ANTHROPIC, [X_KEY], b"", b"sk-ant"),
        (Dialect.ANTHROPIC, [BEARER], b"", b"sk-bearer"),
        (Dialect.ANTHROPIC, [GOOGLE], QUERY, None),
        (Dialect.GEMINI, [GOOGLE], b"", b"AIza-header"),
        (Dialect.GEMINI, [BEARER], b"", b"sk-bearer"),
        (Dialect.GEMINI, [], QUERY, b"AIza-query"),
        (Dialect.GEMINI, [GOOGLE], QUERY, b"AIza-header"),
        (Dialect.GEMINI, [X_KEY], QUERY, b"AIza-query"),
        (Dialect.GEMINI, [], b"xkey=1&KEY=2&key2=3", None),
        (Dialect.GEMINI, [], b"key=first&key=second", b"first"),
        (Dialect.GEMINI, [], b"key=a%3Db=c", b"a%3Db=c"),
    ],
)
def test_where_a_dialect_carries_it(dialect: Dialect, fields: Headers, query: bytes, expected: bytes | None) -> None:
    assert found(dialect, fields, query) == expected


@pytest.mark.parametrize("name", [b"authorization", b"x-api-key", b"x-goog-api-key", b"api-key"])
@pytest.mark.parametrize("dialect", list(Dialect))
@pytest.mark.parametrize("prefix", OURS)
def test_a_key_of_ours_in_a_header_does_not_leave(name: bytes, dialect: Dialect, prefix: str) -> None:
    """Wherever a credential may stand, whatever the dialect, however it is wrapped."""
    for value in ("%sabc", "Bearer %sabc", "session=x; token=%sabc", " %s"):
        with pytest.raises(LeakedKey):
            found(dialect, [(b"x-before", b"1"), (name, (value % prefix).encode())])


@pytest.mark.parametrize(
    "query",
    [
        b"key=mdm_sk_abc",
        b"alt=sse&key=mdm_pk_abc",
        b"key=mdm%5Fst%5Fabc",
        b"key=%6d%64%6D_sk_abc",
        b"%6bey=mdm_sk_",
        b"anything=xmdm_sk_abc",
        b"mdm_sk_abc",
        b"a=%zz&b=mdm_sk%5F",
    ],
)
@pytest.mark.parametrize("dialect", list(Dialect))
def test_a_key_of_ours_in_the_query_does_not_leave(dialect: Dialect, query: bytes) -> None:
    with pytest.raises(LeakedKey):
        found(dialect, [BEARER], query)


def test_a_second_credential_does_not_hide_one_of_ours() -> None:
    """The dialect's own comes first and is good; the other would leave all the same."""
    for fields in ([BEARER, (b"x-api-key", b"mdm_sk_abc")], [(b"x-goog-api-key", b"mdm_pk_a"), BEARER]):
        with pytest.raises(LeakedKey):
            found(Dialect.OPENAI, fields)


@pytest.mark.parametrize("value", [b"sk-mdm_", b"mdm-sk-x", b"mdm_xk_abc", b"MDM_SK_abc", b"mdm_sk"])
def test_what_only_looks_like_one_leaves(value: bytes) -> None:
    assert found(Dialect.OPENAI, [(b"authorization", b"Bearer " + value)], b"key=" + value) == value


def test_a_key_of_ours_in_its_own_place_is_none_of_theirs() -> None:
    fields = [(b"x-majordomo-key", b"mdm_sk_abc"), BEARER]
    assert found(Dialect.OPENAI, fields) == b"sk-bearer"


def test_every_dialects_credential_is_one_that_is_looked_at() -> None:
    """A dialect added later with a header of its own must be known to the gate."""
    detector = Detector()
    assert detector.route(b"POST", PATH, b"", [HOST]).dialect is Dialect.OPENAI
    for dialect in Dialect:
        for name in facts(dialect).credential_headers:
            assert found(dialect, [(name, b"canary")]) == b"canary"


# Its hash


@unhurried
@given(st.binary(min_size=1, max_size=300), st.binary(min_size=32, max_size=32))
def test_the_hash_is_hmac_sha_256(value: bytes, key: bytes) -> None:
    keyed = KeyedHash(Secret(key))
    expected = hmac.new(key, value, hashlib.sha256).hexdigest()
    assert [keyed.of(value), keyed.of(value)] == [expected, expected]


def test_no_credential_has_no_hash() -> None:
    keyed = KeyedHash(Secret(os.urandom(32)))
    assert keyed.of(None) is None
    assert keyed.of(b"") is None


def test_many_credentials_keep_their_own() -> None:
    """More than any memory of recent ones holds."""
    key = os.urandom(32)
    keyed = KeyedHash(Secret(key))
    values = [b"sk-%d" % number for number in range(600)]
    for value in [*values, *values[::-7]]:
        assert keyed.of(value) == hmac.new(key, value, hashlib.sha256).hexdigest()


def test_an_endless_credential_is_hashed_as_far_as_16_kib() -> None:
    key = os.urandom(32)
    keyed = KeyedHash(Secret(key))
    assert keyed.of(b"x" * 60_000) == hmac.new(key, b"x" * 16_384, hashlib.sha256).hexdigest()


def test_two_installations_hash_apart() -> None:
    assert KeyedHash(Secret(os.urandom(32))).of(b"sk-1") != KeyedHash(Secret(os.urandom(32))).of(b"sk-1")
    assert "sk-canary" not in repr(KeyedHash(Secret(b"sk-canary" * 4)))


@pytest.mark.parametrize("name", [b"cookie", b"x-note", b"openai-organization"])
def test_a_key_of_ours_leaves_in_no_field_at_all(name: bytes) -> None:
    head = read_caller_head(
        [(b"host", b"x"), (b"x-majordomo-key", b"mdm_sk_" + b"a" * 20), (name, b"a=mdm_sk_" + b"b" * 20)]
    )
    with pytest.raises(LeakedKey):
        credential(head, b"", facts(Dialect.OPENAI))
