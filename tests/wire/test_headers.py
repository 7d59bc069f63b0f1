"""The gate: what passes, what is refused, and that nothing passes that could split, double or forge a field."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steward.errors import BadRequest, Unsupported, UpstreamBadAnswer
from steward.exchange import Headers
from steward.wire.headers import (
    CREDENTIALS,
    HOP_BY_HOP,
    KEPT,
    KEPT_PREFIXES,
    KEPT_QUERY,
    check,
    from_provider,
    kept,
    kept_query,
    read_caller_head,
)

HOST = (b"host", b"steward.test")
OURS = b"x-majordomo-"
TOKEN = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"

CREDENTIAL_NAMES = sorted(CREDENTIALS)
WITH_NAMES = [*sorted(HOP_BY_HOP), b"host", b"content-length", b"x-majordomo-key", b"x-majordomo-tag", b"expect"]
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
names = st.one_of(
    st.sampled_from([*WITH_NAMES, *CREDENTIAL_NAMES, *sorted(KEPT), b"x-hop", b"x-stays", b"x-ratelimit-left"]),
    st.lists(st.sampled_from(TOKEN), min_size=1, max_size=8).map(bytes),
    st.binary(max_size=6),
)
values = st.one_of(
    st.sampled_from(
        [b"chunked", b"5", b"keep-alive", b"close, x-hop", b"host, content-length, x-hop", b"100-continue"]
    ),
    st.binary(max_size=20),
)
fields = st.lists(st.tuples(names, values), max_size=12)


def with_host(*more: tuple[bytes, bytes]) -> Headers:
    """A head that has its host, and these."""
    return [HOST, *more]


# What may not pass

SPLITS = [b"a\rb", b"a\nb", b"a\r\nb", b"a\x00b", b"\n", b"\r", b"\x00", b"a\r\n x-folded: b"]


@pytest.mark.parametrize("value", SPLITS)
def test_a_value_that_splits_is_refused_from_both_sides(value: bytes) -> None:
    with pytest.raises(BadRequest):
        read_caller_head(with_host((b"x-a", value)))
    with pytest.raises(UpstreamBadAnswer):
        from_provider([(b"x-a", value)])


@pytest.mark.parametrize(
    "name", [b"", b"x a", b"x:", b"x\n", b"x\x00", b"x\r", b"(x)", b"x\xe9", b"x\t", b'"x"', b"x,y"]
)
def test_a_name_that_is_no_token_is_refused_from_both_sides(name: bytes) -> None:
    with pytest.raises(BadRequest):
        read_caller_head(with_host((name, b"1")))
    with pytest.raises(UpstreamBadAnswer):
        from_provider([(name, b"1"), (b"x-b", b"2")])


def test_an_empty_name_beside_good_ones_is_seen() -> None:
    """All names are checked as one string: an empty one must not hide in it."""
    with pytest.raises(BadRequest):
        check([(b"x-a", b"1"), (b"", b"2"), (b"x-b", b"3")], BadRequest)


@pytest.mark.parametrize("value", [b"", b"caf\xe9", b"\xff\xfe", b"tab\there", b"a" * 60_000, b"\x7f\x01\x1f"])
def test_a_value_that_is_odd_and_splits_nothing_passes(value: bytes) -> None:
    assert read_caller_head(with_host((b"x-a", value))).end_to_end == [(b"x-a", value)]
    assert from_provider([(b"x-a", value)]) == [(b"x-a", value)]


@pytest.mark.parametrize(
    "name", [b"host", b"content-length", b"x-majordomo-key", b"expect", b"transfer-encoding", *CREDENTIAL_NAMES]
)
def test_two_of_what_must_be_one_are_refused(name: bytes) -> None:
    """Also when they are the same: another reader may take the first, or the last, or both."""
    value = {b"content-length": b"2", b"transfer-encoding": b"chunked"}.get(name, b"v")
    rest = [] if name == b"host" else [HOST]
    with pytest.raises(BadRequest):
        read_caller_head([*rest, (name, value), (b"x-between", b""), (name, value)])


def test_a_head_without_host_is_refused() -> None:
    with pytest.raises(BadRequest, match="Host"):
        read_caller_head([(b"x-a", b"1")])
    with pytest.raises(BadRequest):
        read_caller_head([])


@pytest.mark.parametrize(
    "value", [b"", b"-1", b"+1", b"1 2", b"1,1", b"0x1", b"1.0", b"\xb2", b"9" * 19, b" 1", b"1\t"]
)
def test_a_length_that_is_no_whole_number_is_refused(value: bytes) -> None:
    with pytest.raises(BadRequest, match="whole number"):
        read_caller_head(with_host((b"content-length", value)))


@pytest.mark.parametrize("value", [b"gzip", b"gzip, chunked", b"chunked, chunked", b"identity", b"", b"xchunked"])
def test_a_transfer_coding_besides_chunked_is_not_supported(value: bytes) -> None:
    with pytest.raises(Unsupported):
        read_caller_head(with_host((b"transfer-encoding", value)))


def test_length_and_chunks_exclude_each_other() -> None:
    both = [(b"content-length", b"0"), (b"transfer-encoding", b"chunked")]
    for order in (both, both[::-1]):
        with pytest.raises(BadRequest, match="exclude"):
            read_caller_head(with_host(*order))


# What is read from a caller's head


@pytest.mark.parametrize(
    ("field", "length", "chunked", "has_body"),
    [
        (None, None, False, False),
        ((b"content-length", b"0"), 0, False, False),
        ((b"content-length", b"007"), 7, False, True),
        ((b"content-length", b"9" * 18), 10**18 - 1, False, True),
        ((b"transfer-encoding", b"chunked"), None, True, True),
        ((b"transfer-encoding", b" Chunked "), None, True, True),
    ],
)
def test_framing(field: tuple[bytes, bytes] | None, length: int | None, chunked: bool, has_body: bool) -> None:
    head = read_caller_head(with_host(*([field] if field else [])))
    assert (head.length, head.chunked, head.has_body) == (length, chunked, has_body)
    assert head.end_to_end == []


def test_ours_are_taken_off_and_the_key_apart() -> None:
    head = read_caller_head(
        with_host(
            (b"x-majordomo-key", b"mdm_sk_1"), (b"x-majordomo-team", b"a"), (b"x-majordomo-", b"b"), (b"x-a", b"c")
        )
    )
    assert head.key == b"mdm_sk_1"
    assert head.majordomo == [(b"x-majordomo-team", b"a"), (b"x-majordomo-", b"b")]
    assert head.end_to_end == [(b"x-a", b"c")]


def test_an_expectation_is_noted_and_goes_on() -> None:
    head = read_caller_head(with_host((b"expect", b"100-Continue "), (b"content-length", b"1")))
    assert head.expects_continue
    assert head.end_to_end == [(b"expect", b"100-Continue ")]
    assert not read_caller_head(with_host((b"expect", b"200-ok"))).expects_continue


def test_order_and_repeats_stay() -> None:
    passed = [(b"b", b"1"), (b"a", b"2"), (b"b", b""), (b"b", b"1"), (b"authorization", b"x"), (b"a", b"3")]
    assert read_caller_head([*passed[:3], HOST, *passed[3:]]).end_to_end == passed
    assert from_provider(passed) == passed


@pytest.mark.parametrize("name", sorted(HOP_BY_HOP - {b"transfer-encoding"}))
def test_hop_by_hop_fields_end_here(name: bytes) -> None:
    given = [(b"x-a", b"1"), (name, b"x-other"), (name, b"x-more"), (b"x-b", b"2")]
    assert read_caller_head([HOST, *given]).end_to_end == [(b"x-a", b"1"), (b"x-b", b"2")]
    assert from_provider(given) == [(b"x-a", b"1"), (b"x-b", b"2")]


def test_a_credential_for_the_hosts_front_goes_to_no_provider() -> None:
    given = [(b"x-serverless-authorization", b"Bearer of-the-front"), (b"authorization", b"Bearer of-the-provider")]
    head = read_caller_head([HOST, *given])
    assert head.end_to_end == head.credentials == given[1:]


CONNECTIONS = [
    ([b"close"], {b"x-hop", b"x-other"}),
    ([b"Keep-Alive"], {b"x-hop", b"x-other"}),
    ([b"close, X-Hop"], {b"x-other"}),
    ([b"x-hop", b"x-other"], set()),
    ([b" , x-hop ,,X-OTHER\t"], set()),
    ([b"close", b"keep-alive, x-hop"], {b"x-other"}),
    ([b"x-ho", b"xhop"], {b"x-hop", b"x-other"}),
]


@pytest.mark.parametrize(("lines", "stay"), CONNECTIONS)
def test_fields_that_connection_names_end_here(lines: list[bytes], stay: set[bytes]) -> None:
    given = [(b"x-hop", b"1"), *((b"connection", line) for line in lines), (b"x-other", b"2")]
    assert {name for name, _ in read_caller_head([HOST, *given]).end_to_end} == stay
    assert {name for name, _ in from_provider(given)} == stay


def test_connection_takes_off_nothing_that_frames() -> None:
    """Whatever it names: the caller's length stays the length, the provider's stays a field."""
    named = (b"connection", b"close, host, content-length, x-majordomo-key")
    head = read_caller_head(with_host(named, (b"content-length", b"5"), (b"x-majordomo-key", b"k")))
    assert (head.length, head.key) == (5, b"k")
    assert from_provider([named, (b"content-length", b"5")]) == [(b"content-length", b"5")]


def test_ours_from_a_provider_are_dropped() -> None:
    given = [(b"x-majordomo-request-id", b"forged"), (b"x-majordomo-key", b"mdm_sk_x"), (b"x-majordom", b"1")]
    assert from_provider(given) == [(b"x-majordom", b"1")]


@unhurried
@given(fields)
def test_whatever_a_caller_sends(given: Headers) -> None:
    """Refused, or: nothing splits, nothing hop-by-hop, nothing of ours, no host, no length; the rest in order."""
    try:
        head = read_caller_head(given)
    except (BadRequest, Unsupported):
        return
    passed = head.end_to_end
    _is_clean(passed)
    assert not {name for name, _ in passed} & {b"host", b"content-length"}
    assert Counter(name for name, _ in passed).keys() & CREDENTIALS == {
        name for name in CREDENTIALS if sum(each == name for each, _ in passed) == 1
    }
    assert [name for name, _ in given].count(b"host") == 1
    assert _is_subsequence(passed, given)
    named = _named(given)
    expected = [item for item in given if _goes_on(item[0], named) and item[0] not in {b"host", b"content-length"}]
    assert passed == expected
    assert head.majordomo == [item for item in given if item[0].startswith(OURS) and item[0] != b"x-majordomo-key"]


@unhurried
@given(fields)
def test_whatever_a_provider_sends(given: Headers) -> None:
    try:
        passed = from_provider(given)
    except UpstreamBadAnswer:
        return
    _is_clean(passed)
    named = _named(given) - {b"host", b"content-length"}
    assert passed == [item for item in given if _goes_on(item[0], named)]


def _named(given: Headers) -> set[bytes]:
    return {token.strip().lower() for name, value in given if name == b"connection" for token in value.split(b",")}


def _goes_on(name: bytes, named: set[bytes]) -> bool:
    return name not in HOP_BY_HOP and not name.startswith(OURS) and name not in named - {b"close", b"keep-alive"}


def _is_clean(passed: Headers) -> None:
    for name, value in passed:
        assert name
        assert not set(name.lower()) - set(TOKEN)
        assert not {0, 10, 13} & set(value)
        assert name not in HOP_BY_HOP
        assert not name.startswith(OURS)


def _is_subsequence(passed: Headers, given: Headers) -> bool:
    left = iter(given)
    return all(item in left for item in passed)


# What is kept

MAY_BE_KEPT = """content-type content-encoding anthropic-version anthropic-beta openai-beta openai-processing-ms
x-request-id request-id retry-after x-should-retry x-ratelimit-limit-requests x-ratelimit-reset
anthropic-ratelimit-tokens-remaining"""
MAY_NOT = """authorization x-api-key x-goog-api-key cookie set-cookie proxy-authorization location user-agent
openai-organization openai-project x-stainless-os x-ratelimit ratelimit-limit x-anthropic-ratelimit-x my-x-ratelimit-a
x-amz-security-token api-key content-type-x date server x-new-header-of-tomorrow"""


@pytest.mark.parametrize("name", MAY_BE_KEPT.split())
def test_a_listed_field_is_kept(name: str) -> None:
    assert kept([(b"x-a", b"1"), (name.encode(), b"v"), (b"x-b", b"2")]) == [(name.encode(), b"v")]


@pytest.mark.parametrize("name", MAY_NOT.split())
def test_any_other_field_is_not(name: str) -> None:
    assert kept([(name.encode(), b"canary")]) == []


def test_kept_values_and_names_have_a_length() -> None:
    assert kept([(b"x-request-id", b"a" * 5_000)]) == [(b"x-request-id", b"a" * 1_024)]
    longest = b"x-ratelimit-" + b"a" * 52
    assert kept([(longest, b"1"), (longest + b"a", b"2")]) == [(longest, b"1")]


@unhurried
@given(fields)
def test_kept_is_the_allow_list(given: Headers) -> None:
    allowed = [item for item in given if item[0] in KEPT or item[0].startswith(KEPT_PREFIXES)]
    assert kept(given) == [(name, value[:1_024]) for name, value in allowed if len(name) <= 64]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (b"", ()),
        (b"alt=sse", (("alt", "sse"),)),
        (b"key=AIzaSecret&alt=sse&api_key=x", (("alt", "sse"),)),
        (
            b"api-version=2024-10-21&beta=true&stream=1",
            (("api-version", "2024-10-21"), ("beta", "true"), ("stream", "1")),
        ),
        (b"alt=sse&alt=json", (("alt", "sse"), ("alt", "json"))),
        (b"ALT=sse&%61lt=sse&alt%3D=x&xalt=1&alt[]=2", ()),
        (b"alt", (("alt", ""),)),
        (b"alt=a=b", (("alt", "a=b"),)),
        (b"alt=%61", (("alt", "%61"),)),
        (b"alt=" + b"a" * 100, (("alt", "a" * 64),)),
        (b"a&" * 64 + b"alt=late", ()),
        (b"beta=\xff", (("beta", "\ufffd"),)),
    ],
)
def test_kept_query(query: bytes, expected: tuple[tuple[str, str], ...]) -> None:
    assert kept_query(query) == expected


@unhurried
@given(st.lists(st.one_of(st.binary(max_size=12), st.sampled_from([b"alt=1", b"key=k", b"beta"])), max_size=80))
def test_kept_query_is_a_closed_list(parts: list[bytes]) -> None:
    found = kept_query(b"&".join(parts))
    assert len(found) <= 64
    assert {name.encode() for name, _ in found} <= KEPT_QUERY
    assert all(len(value) <= 64 for _, value in found)
