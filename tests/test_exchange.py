"""The nouns: frozen, without a credential, and without a word of content in what they print."""

from __future__ import annotations

import dataclasses
import io
import os
import tempfile
from datetime import UTC, datetime
from decimal import Decimal
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from steward import exchange
from steward.exchange import (
    Body,
    BodyState,
    Caller,
    Dialect,
    Exchange,
    Operation,
    Origin,
    Outbound,
    Outcome,
    Record,
    Route,
    UsageSource,
    uuid7,
)

CANARY = "CANARY-prompt"
BYTES = CANARY.encode()
CALLER = Caller(UUID(int=1), UUID(int=2))
ROUTE = Route("openai", Dialect.OPENAI, Operation.CHAT, "/v1/chat/completions", b"/v1/chat/completions")
NOW = datetime(2026, 1, 1, tzinfo=UTC)

NOUNS = [kind for kind in vars(exchange).values() if dataclasses.is_dataclass(kind) and isinstance(kind, type)]


@pytest.mark.parametrize("noun", NOUNS, ids=lambda noun: noun.__name__)
def test_nouns_are_slotted_and_frozen(noun: type) -> None:
    made_anew_for_every_call = {"Body", "Exchange", "Intent", "Outbound", "Timings"}
    assert "__slots__" in vars(noun)
    assert noun.__dataclass_params__.frozen == (noun.__name__ not in made_anew_for_every_call)  # type: ignore[attr-defined]


@pytest.mark.parametrize("noun", NOUNS, ids=lambda noun: noun.__name__)
def test_no_noun_has_a_field_for_a_credential(noun: type) -> None:
    names = {field.name for field in dataclasses.fields(noun)}
    allowed = {
        "provider_api_key_hash",
        "provider_api_key_alias",
        "key_id",
        "api_key_id",
        "body_key",
        "key",
        "secretive",
    }
    suspicious = {
        name
        for name in names - allowed
        if any(word in name for word in ("key", "secret", "authorization", "credential"))
    }
    assert not suspicious


def test_an_exchange_and_a_record_print_no_content() -> None:
    call = Exchange(
        id=UUID(int=3),
        caller=CALLER,
        route=ROUTE,
        requested_at=NOW,
        method="POST",
        outcome=Outcome.COMPLETE,
        request=Body(BYTES, size_bytes=len(BYTES)),
        response=Body(b"", io.BytesIO(BYTES), len(BYTES)),
        request_headers=[(b"x-request-id", BYTES)],
        response_headers=[(b"x-request-id", BYTES)],
        tags={"Feature": CANARY},
        claude_session_name=CANARY,
    )
    row = Record(
        id=UUID(int=3),
        org_id=UUID(int=2),
        api_key_id=UUID(int=1),
        provider="openai",
        request_path="/v1/chat/completions",
        request_method="POST",
        requested_at=NOW,
        outcome=Outcome.COMPLETE,
        body_state=BodyState.NONE,
        usage_source=UsageSource.NONE,
        tags={"Feature": CANARY},
        claude_session_name=CANARY,
    )
    out = Outbound(Origin("https", "host", 443), b"POST", b"/", [(b"authorization", BYTES)])
    assert CANARY not in f"{call!r}{row!r}{out!r}"


@pytest.mark.parametrize(
    ("origin", "authority"),
    [
        (Origin("https", "api.openai.com", 443), b"api.openai.com"),
        (Origin("https", "api.openai.com", 8443), b"api.openai.com:8443"),
        (Origin("http", "10.0.0.1", 80), b"10.0.0.1"),
        (Origin("http", "::1", 80), b"[::1]"),
        (Origin("http", "::1", 443), b"[::1]:443"),
    ],
)
def test_an_authority_names_the_port_unless_it_is_the_schemes(origin: Origin, authority: bytes) -> None:
    assert origin.authority == authority


def test_a_body_in_memory() -> None:
    body = Body(b"abc", size_bytes=5, truncated=True)
    assert (body.kept_bytes, body.content().reveal()) == (3, b"abc")
    body.close()


def test_a_body_in_a_file_is_read_from_its_start_and_given_back() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(b"abcdef")
        file.flush()
        body = Body(file=file, size_bytes=6)
        assert body.kept_bytes == os.fstat(file.fileno()).st_size == 6
        assert body.content().reveal() == body.content().reveal() == b"abcdef"
        body.close()
        body.close()
        assert file.closed
        assert body.file is None


@examples(deadline=None)
@given(st.integers(0, 2**48 - 1), st.binary(min_size=10, max_size=10))
def test_a_request_id_is_a_uuid_of_version_7_that_carries_its_time(unix_ms: int, random: bytes) -> None:
    minted = uuid7(unix_ms, random)
    assert (minted.version, minted.variant) == (7, RFC_4122)
    assert minted.int >> 80 == unix_ms


def test_request_ids_sort_by_time_and_differ_by_chance() -> None:
    assert uuid7(1, b"\xff" * 10) < uuid7(2, b"\0" * 10)
    assert uuid7(1, b"\0" * 10) != uuid7(1, b"\0" * 9 + b"\1")


def test_bounds_are_those_of_the_requirement() -> None:
    assert exchange.MAX_TOKENS == 10**9
    assert Decimal(10_000) == exchange.MAX_COST_USD
