"""Sans-io facts about providers: one file per dialect, gathered here by name.

It refuses to connect, to choose (that is `detect.py`) and to read bodies (that is `meter.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

from steward.exchange import Dialect, Headers
from steward.providers import anthropic, gemini, openai
from steward.providers.template import OTHER_TEMPLATE, DialectFacts, PathTable

__all__ = ["OTHER_TEMPLATE", "TABLES", "TEMPLATES", "DialectFacts", "PathTable", "dialect_hint", "facts"]

TABLES: Mapping[str, PathTable] = {table.provider: table for table in (openai.TABLE, anthropic.TABLE, gemini.TABLE)}
"""Every provider's paths, by the provider's name."""

TEMPLATES: frozenset[str] = frozenset(
    [OTHER_TEMPLATE, *(template.text for table in TABLES.values() for template in table.templates)]
)
"""The closed list of what may be said of a path (SECURITY F3)."""

_FACTS: Mapping[Dialect, DialectFacts] = {each.FACTS.dialect: each.FACTS for each in (openai, anthropic, gemini)}

_GEMINI_STARTS = (b"/v1beta/", b"/v1alpha/", b"/upload/", b"/resumable/", b"/download/")


def facts(dialect: Dialect) -> DialectFacts:
    """How a dialect carries credentials and spells errors."""
    return _FACTS[dialect]


def dialect_hint(raw_path: bytes, headers: Headers) -> Dialect:
    """The best guess while no route is known, for the shape of an error. Never raises."""
    named = {name: value for name, value in headers if name in _TELLING}
    table = TABLES.get(named.get(b"x-majordomo-provider", b"").strip().lower().decode("latin-1"))
    if table is not None:
        return Dialect.OPENAI if b"/openai/" in raw_path else table.dialect
    if raw_path.startswith((b"/v1/messages", b"/v1/complete")) and not raw_path.startswith(b"/v1/completions"):
        return Dialect.ANTHROPIC
    if raw_path.startswith(_GEMINI_STARTS) or (raw_path.startswith(b"/v1/models/") and b":" in raw_path):
        return Dialect.OPENAI if b"/openai/" in raw_path else Dialect.GEMINI
    if b"x-goog-api-key" in named:
        return Dialect.GEMINI
    if b"anthropic-version" in named or b"x-api-key" in named:
        return Dialect.ANTHROPIC
    return Dialect.OPENAI


_TELLING = frozenset({b"x-majordomo-provider", b"anthropic-version", b"x-api-key", b"x-goog-api-key"})
