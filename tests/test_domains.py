"""Every value that may leave lies in its domain, whatever was sent; what looks like a credential is kept nowhere."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from steward import domains
from steward.domains import admit_tags, clean_text, looks_like_credential, tag_name, tag_value
from tests.servers.corpus import Recording

KEY = b"0123456789abcdef"

CREDENTIALS = [
    "mdm_sk_" + "a" * 32,
    "mdm_pk_x",
    "prefix mdm_st_x",
    "sk-" + "a" * 16,
    "sk-proj-0123456789abcdefghij",
    "sk-ant-api03-0123456789abcdef",
    "key=sk-0123456789abcdef",
    "AIza" + "B" * 35,
    "AKIAIOSFODNN7EXAMPLE",
    "ASIAIOSFODNN7EXAMPLE",
    "Bearer abc",
    "bearer abc",
    "Basic dXNlcjpwYXNz",
    "basic dXNlcjpwYXNz",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln",
    "-----BEGIN PRIVATE KEY-----",
    "-----BEGIN RSA PRIVATE KEY-----MIIE",
]

ORDINARY = [
    "",
    "prod",
    "user-123",
    "ASIA",
    "ASIA-PACIFIC",
    "task-550e8400-e29b-41d4-a716-446655440000",
    "risk-assessment-department",
    "sk-short",
    "a basic plan",
    "eyJ",
    "forbearer",
    "2026-11-20T08:00:00Z",
]


@pytest.mark.parametrize("value", CREDENTIALS)
def test_a_value_that_looks_like_a_credential_is_kept_nowhere(value: str) -> None:
    assert looks_like_credential("Note", value)
    admitted = admit_tags([(b"x-majordomo-note", value.encode()), (b"x-majordomo-user-id", b"u")])
    assert admitted.tags == {"User-Id": "u"}
    assert admitted.refused == ("Note",)
    assert admitted.dropped == 1


@pytest.mark.parametrize("value", ORDINARY)
def test_an_ordinary_value_is_a_tag(value: str) -> None:
    assert admit_tags([(b"x-majordomo-note", value.encode())]).tags == {"Note": value}


@pytest.mark.parametrize(
    "name",
    [
        "api-key",
        "my-api-key",
        "apikey",
        "openai-apikey",
        "token",
        "session-token",
        "secret",
        "password",
        "authorization",
    ],
)
def test_a_name_that_looks_like_a_credential_s_is_refused(name: str) -> None:
    admitted = admit_tags([(b"x-majordomo-" + name.encode(), b"harmless")])
    assert admitted.tags == {}
    assert admitted.refused == (tag_name(name),)
    assert looks_like_credential(name.upper(), "")


@pytest.mark.parametrize("name", ["tokens", "key-api", "secrets-count", "passwordless", "tokenizer"])
def test_a_name_that_only_resembles_one_is_a_tag(name: str) -> None:
    assert len(admit_tags([(b"x-majordomo-" + name.encode(), b"1")]).tags) == 1


def test_a_credential_as_a_name_is_not_even_told() -> None:
    admitted = admit_tags([(b"x-majordomo-sk-" + KEY, b"1"), (b"x-majordomo-mdm_sk_" + KEY, b"1")])
    assert (admitted.tags, admitted.refused, admitted.dropped) == ({}, (), 2)


def test_reserved_names_are_no_tags() -> None:
    admitted = admit_tags(
        [
            (b"x-majordomo-key", b"mdm_sk_x"),
            (b"x-majordomo-provider", b"openai"),
            (b"x-majordomo-bedrock-region", b"eu-west-1"),
            (b"x-majordomo-provider-alias", b"team-a"),
            (b"x-majordomo-client", b"cli/1.0"),
            (b"x-majordomo-claudecode-session-id", b"s-1"),
            (b"x-majordomo-claudecode-session-name", "Änderung".encode()),
        ]
    )
    assert (admitted.tags, admitted.dropped, admitted.refused) == ({}, 0, ())
    assert admitted.provider_alias == "team-a"
    assert admitted.client == "cli/1.0"
    assert admitted.claude_session_id == "s-1"
    assert admitted.claude_session_name == "Änderung"


@pytest.mark.parametrize("name", [b"provider-alias", b"client", b"claudecode-session-id", b"claudecode-session-name"])
def test_a_credential_in_a_reserved_field_is_dropped_too(name: bytes) -> None:
    admitted = admit_tags([(b"x-majordomo-" + name, b"Bearer abc")])
    facts = (admitted.provider_alias, admitted.client, admitted.claude_session_id, admitted.claude_session_name)
    assert facts == (None, None, None, None)
    assert admitted.refused == (tag_name(name.decode()),)


def test_names_are_written_in_title_case() -> None:
    names = [b"user-id", b"a", b"2fa-state", b"a--b", b"x1-y2z"]
    tags = admit_tags([(b"x-majordomo-" + name, b"v") for name in names]).tags
    assert list(tags) == ["User-Id", "A", "2fa-State", "A--B", "X1-Y2z"]


def test_the_first_field_of_a_name_wins() -> None:
    admitted = admit_tags([(b"x-majordomo-a", b"1"), (b"x-majordomo-a", b"2"), (b"x-majordomo-client", b"c")])
    assert (admitted.tags, admitted.dropped, admitted.client) == ({"A": "1"}, 1, "c")


def test_sixty_four_tags_and_no_more() -> None:
    admitted = admit_tags([(b"x-majordomo-t%d" % n, b"v") for n in range(100)])
    assert len(admitted.tags) == domains.MAX_TAGS
    assert admitted.dropped == 36
    assert "T63" in admitted.tags
    assert "T64" not in admitted.tags


def test_a_long_value_is_cut_and_counted() -> None:
    admitted = admit_tags([(b"x-majordomo-a", "ü".encode() * 1025), (b"x-majordomo-b", b"b" * 1024)])
    assert admitted.tags == {"A": "ü" * 1024, "B": "b" * 1024}
    assert admitted.dropped == 1


def test_a_credential_beyond_the_cut_is_still_one() -> None:
    assert admit_tags([(b"x-majordomo-a", b"x" * 2000 + b" Bearer abc")]).refused == ("A",)


@pytest.mark.parametrize("name", [b"", b"-a", b"a_b", b"a" * 65, b"a.b", "ü".encode(), b"a b"])
def test_what_is_no_name_is_dropped(name: bytes) -> None:
    admitted = admit_tags([(b"x-majordomo-" + name, b"v")])
    assert (admitted.tags, admitted.dropped, admitted.refused) == ({}, 1, ())


def test_values_are_one_printable_line() -> None:
    tags = admit_tags([(b"x-majordomo-a", b"a\x00b\tc\x7f"), (b"x-majordomo-b", b"caf\xe9")]).tags
    assert tags == {"A": "a\ufffdb c\ufffd", "B": "café"}


def test_nothing_admitted_is_described() -> None:
    admitted = admit_tags([(b"x-majordomo-a", b"canary"), (b"x-majordomo-client", b"canary")])
    assert "canary" not in repr(admitted)


Fields = st.lists(
    st.tuples(
        st.one_of(
            st.binary(max_size=20), st.sampled_from([name.removeprefix(domains.PREFIX) for name in domains.RESERVED])
        ),
        st.one_of(st.binary(max_size=1200), st.sampled_from([value.encode() for value in CREDENTIALS + ORDINARY])),
    ),
    max_size=80,
)


@settings(deadline=None)
@given(Fields)
def test_whatever_is_sent_every_value_lies_in_its_domain(fields: list[tuple[bytes, bytes]]) -> None:
    admitted = admit_tags([(domains.PREFIX + name, value) for name, value in fields])
    assert len(admitted.tags) <= domains.MAX_TAGS
    assert admitted.dropped <= 2 * len(fields)
    for name in (*admitted.tags, *admitted.refused):
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}", name)
    facts = (admitted.client, admitted.provider_alias, admitted.claude_session_id, admitted.claude_session_name)
    for value in (*admitted.tags.values(), *(fact for fact in facts if fact is not None)):
        assert len(value) <= domains.MAX_TAG_CHARS
        assert not re.search("[\x00-\x1f\x7f-\x9f\ud800-\udfff]", value)
        assert not looks_like_credential("", value)
        assert json.loads(json.dumps(value)) == value


@settings(deadline=None)
@given(st.text())
@example("gpt-4o\n")
@example("a" * 129)
def test_a_model_is_a_name_or_other(text: str) -> None:
    assert domains.model_name(text, known=False) == "other"
    named = domains.model_name(text, known=True)
    assert named == "other" or (named == text and re.fullmatch(r"[A-Za-z0-9@][A-Za-z0-9._:/@+-]{0,127}", text))


@pytest.mark.parametrize(
    "name", ["gpt-4o-2024-08-06", "@cf/meta/llama-3", "models/gemini-2.5-pro", "ft:gpt-4o:a::b", "a"]
)
def test_a_known_model_is_named(name: str) -> None:
    assert domains.model_name(name, known=True) == name


def test_a_model_that_is_none_stays_none_and_one_that_is_a_key_is_other() -> None:
    assert domains.model_name(None, known=True) is None
    assert domains.model_name("sk-0123456789abcdefghij", known=True) == "other"
    assert domains.model_name("mdm_sk_0123", known=True) == "other"


def test_the_grammar_keeps_the_recorded_models(corpus: list[Recording]) -> None:
    models = {str(recording.truth["model"]) for recording in corpus if recording.truth["model"]}
    assert models
    assert not {model for model in models if domains.model_name(model, known=True) != model}


@settings(deadline=None)
@given(st.text())
@example("get")
def test_a_method_is_one_of_nine_or_other(text: str) -> None:
    assert domains.method(text) in {*domains.METHODS, "OTHER"}
    assert domains.method(text) == (text if text in domains.METHODS else "OTHER")
    assert len(domains.METHODS) == 9


def test_a_path_is_a_template_or_other() -> None:
    known = {"/v1/files/{id}"}
    assert domains.route_template("/v1/files/{id}", known) == "/v1/files/{id}"
    assert domains.route_template("/v1/files/file-secret", known) == "/{other}"


@settings(deadline=None)
@given(st.text(max_size=300))
@example("a" * 257)
@example("two\nlines")
@example("two\u2028lines")
def test_a_tag_value_that_leaves_is_one_short_line(text: str) -> None:
    value = tag_value(text)
    assert value is None or (value == text and len(text) <= 256 and text.splitlines() in ([], [text]))


def test_a_tag_value_of_256_characters_may_leave() -> None:
    assert tag_value("é" * 256) == "é" * 256
    assert tag_value("a" * 257) is None
    assert tag_value("a\x00") is None


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=())), st.integers(0, 50))
@example("\ud800", 5)
@example("a\x00b", 5)
def test_cleaned_text_can_be_stored(text: str, limit: int) -> None:
    cleaned = clean_text(text, limit)
    assert len(cleaned) == min(len(text), limit)
    assert "\x00" not in cleaned
    assert cleaned.encode().decode() == cleaned
