"""The dialects, gathered: closed templates, credentials, and a guess that never fails."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steward.exchange import Dialect, Headers
from steward.providers import OTHER_TEMPLATE, TABLES, TEMPLATES, dialect_hint, facts


def test_templates_are_closed_and_plain() -> None:
    """What is logged and exported for a path: nothing a caller wrote fits in."""
    for text in TEMPLATES:
        assert re.fullmatch(r"(/[A-Za-z0-9_]*(\{(id|model|other)\})?(:[A-Za-z]+)?)+", text), text
    assert OTHER_TEMPLATE in TEMPLATES
    assert set(TABLES) == {"openai", "anthropic", "gemini"}


def test_no_template_stands_twice_in_a_table() -> None:
    for table in TABLES.values():
        texts = [template.text for template in table.templates]
        assert sorted(texts) == sorted(set(texts))


def test_every_template_fits_itself() -> None:
    for table in TABLES.values():
        for template in table.templates:
            fit = table.fit(template.text.replace("{id}", "7x").replace("{model}", "m-1").encode())
            assert fit is not None
            assert fit.template is template


@pytest.mark.parametrize(
    ("dialect", "headers", "query"),
    [
        (Dialect.OPENAI, (b"authorization",), ()),
        (Dialect.ANTHROPIC, (b"x-api-key", b"authorization"), ()),
        (Dialect.GEMINI, (b"x-goog-api-key", b"authorization"), (b"key",)),
    ],
)
def test_where_the_credential_travels(dialect: Dialect, headers: tuple[bytes, ...], query: tuple[bytes, ...]) -> None:
    assert facts(dialect).dialect is dialect
    assert facts(dialect).credential_headers == headers
    assert facts(dialect).credential_query == query


@pytest.mark.parametrize(
    ("path", "headers", "dialect"),
    [
        (b"/v1/chat/completions", [], Dialect.OPENAI),
        (b"/nowhere", [], Dialect.OPENAI),
        (b"/v1/messages", [], Dialect.ANTHROPIC),
        (b"/v1/messages/batches", [], Dialect.ANTHROPIC),
        (b"/v1/complete", [], Dialect.ANTHROPIC),
        (b"/v1/completions", [], Dialect.OPENAI),
        (b"/v1beta/models/m:generateContent", [], Dialect.GEMINI),
        (b"/v1/models/m:generateContent", [], Dialect.GEMINI),
        (b"/upload/v1beta/files", [], Dialect.GEMINI),
        (b"/v1beta/openai/chat/completions", [], Dialect.OPENAI),
        (b"/v1/models", [(b"x-api-key", b"x")], Dialect.ANTHROPIC),
        (b"/v1/models", [(b"anthropic-version", b"x")], Dialect.ANTHROPIC),
        (b"/v1/models", [(b"x-goog-api-key", b"x")], Dialect.GEMINI),
        (b"/foo", [(b"x-majordomo-provider", b"Gemini")], Dialect.GEMINI),
        (b"/foo", [(b"x-majordomo-provider", b"\xff")], Dialect.OPENAI),
        (b"/v1beta/openai/models", [(b"x-majordomo-provider", b"gemini")], Dialect.OPENAI),
    ],
)
def test_the_guess(path: bytes, headers: Headers, dialect: Dialect) -> None:
    assert dialect_hint(path, headers) is dialect


@given(st.binary(max_size=40), st.binary(max_size=20))
def test_the_guess_never_fails(path: bytes, value: bytes) -> None:
    assert dialect_hint(path, [(b"x-majordomo-provider", value)]) in Dialect
