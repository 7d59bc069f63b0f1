"""The domain of each string that a row or an export may hold: what `egress.py` is made of, by value.

Refuses whatever is outside its domain: a model is `other`, a method `OTHER`, a path `/{other}`, and a tag that looks
like a credential is dropped at admission and kept nowhere (SECURITY F3). Pure; auditors read this file.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

OTHER_MODEL = "other"
OTHER_METHOD = "OTHER"
OTHER_ROUTE = "/{other}"

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})

MAX_TAGS = 64
"""Tags of one call; the rest are dropped and counted."""

MAX_TAG_CHARS = 1024
"""Characters of a value that the ledger keeps; a longer one is cut and counted."""

MAX_TAG_CHARS_OUT = 256
"""Characters of a value that may leave; a longer one stays in the ledger."""

PREFIX = b"x-majordomo-"

RESERVED = {
    b"x-majordomo-key": None,
    b"x-majordomo-provider": None,
    b"x-majordomo-bedrock-region": None,
    b"x-majordomo-provider-alias": "provider_alias",
    b"x-majordomo-client": "client",
    b"x-majordomo-claudecode-session-id": "claude_session_id",
    b"x-majordomo-claudecode-session-name": "claude_session_name",
}
"""Names that are no tags, and the field of `Admitted` that each fills (None: read elsewhere, or by nobody)."""

CREDENTIAL_PATTERNS = {
    "mdm_": r"mdm_(?:sk|pk|st)_",
    # Not after a letter or digit: `task-`, `risk-` and `disk-` begin ordinary identifiers.
    "sk-": r"(?<![A-Za-z0-9])sk-\S{16}",
    "aiza": r"AIza",
    "akia": r"AKIA",
    # One more character of a key's alphabet: `ASIA` alone is a continent.
    "asia": r"ASIA[A-Z0-9]",
    "bearer ": r"(?i:bearer) ",
    "basic ": r"Basic |^(?i:basic) +[A-Za-z0-9+/]{8,}={0,2}$",
    "eyj": r"eyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]{6,}\.",
    "-----begin ": r"-----BEGIN ",
}
"""What a value that looks like a credential holds, in lower case, and the pattern that then decides: keys of ours, of
OpenAI and Anthropic, of Google, of AWS; credentials as `Authorization` carries them; JWTs; PEM lines. The one table;
`CREDENTIAL_NAMES` is its other column."""

CREDENTIAL_NAMES = ("api-key", "apikey", "token", "secret", "password", "authorization")
"""What the name of a credential is, or ends in, whatever its case."""

_CREDENTIAL = re.compile("|".join(CREDENTIAL_PATTERNS.values()))
_HINTS = tuple(CREDENTIAL_PATTERNS)
_MODEL = re.compile(r"[A-Za-z0-9@][A-Za-z0-9._:/@+-]{0,127}")
_TAG_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def model_name(text: str | None, known: bool) -> str | None:
    """A model's name, else `other`. `known`: to the price book or the alias file, or the provider answered it 2xx."""
    if text is None:
        return None
    if known and _MODEL.fullmatch(text) and not _holds_credential(text):
        return text
    return OTHER_MODEL


def method(text: str) -> str:
    """One of nine, else `OTHER`. Methods are case-sensitive (RFC 9110, 9.1)."""
    return text if text in METHODS else OTHER_METHOD


def route_template(text: str, known: Collection[str]) -> str:
    """A member of the providers' closed list, else `/{other}`; never a path."""
    return text if text in known else OTHER_ROUTE


def tag_name(text: str) -> str | None:
    """A tag's name in Title-Case (`user-id` -> `User-Id`); None when it is none."""
    if not _TAG_NAME.fullmatch(text):
        return None
    if text.replace("-", "").isalpha():
        return text.title()
    return "-".join([part.capitalize() for part in text.split("-")])  # `title` would write `2fa` as `2Fa`.


def tag_value(text: str) -> str | None:
    """A value that may leave: one line, at most 256 characters, no control character. Else None: it stays here."""
    if len(text) > MAX_TAG_CHARS_OUT or _UNPRINTABLE.search(text):
        return None
    return text


def clean_text(text: str, limit: int) -> str:
    """Text that PostgreSQL and JSON take: NUL and lone surrogates become U+FFFD; cut at `limit` characters."""
    return _UNSTORABLE.sub("\ufffd", text[:limit])


def looks_like_credential(name: str, value: str) -> bool:
    """Whether a header of ours was mistyped into a tag that carries a key (SECURITY F3)."""
    return name.lower().endswith(CREDENTIAL_NAMES) or _holds_credential(value)


def _holds_credential(text: str) -> bool:
    """The patterns are asked only where a hint stands: ten times cheaper for what nearly every tag is."""
    lower = text.lower()
    for hint in _HINTS:
        if hint in lower:
            return _CREDENTIAL.search(text) is not None
    return False


@dataclass(frozen=True, slots=True)
class Admitted:
    """What is taken from a call's own `X-Majordomo-*` fields."""

    tags: dict[str, str] = field(default_factory=dict, repr=False)
    dropped: int = 0
    """Tags dropped (too many, repeated, no name, like a credential) or cut."""
    refused: tuple[str, ...] = ()
    """Names of fields that looked like a credential, in Title-Case. Their values are kept nowhere."""
    client: str | None = field(default=None, repr=False)
    provider_alias: str | None = field(default=None, repr=False)
    claude_session_id: str | None = field(default=None, repr=False)
    claude_session_name: str | None = field(default=None, repr=False)


def admit_tags(majordomo_headers: Sequence[tuple[bytes, bytes]]) -> Admitted:
    """Tags and reserved values of a call, from fields whose lower-case names begin with `x-majordomo-`.

    Never raises. The first admitted field of a name wins; what is too long is cut; what looks like a credential is
    dropped and only its name is told, unless the name itself looks like one.
    """
    tags: dict[str, str] = {}
    facts: dict[str, str] = {}
    refused: list[str] = []
    dropped = 0
    for raw_name, raw_value in majordomo_headers:
        reserved = RESERVED.get(raw_name, "")
        if reserved is None:
            continue
        name = tag_name(raw_name[len(PREFIX) :].decode("latin-1"))
        if name is None or (b"sk-" in raw_name and _holds_credential(name.lower())):
            dropped += 1
            continue
        value = _decoded(raw_value)
        if looks_like_credential(name, value):
            dropped += 1
            if name not in refused:
                refused.append(name)
            continue
        into = facts if reserved else tags
        key = reserved or name
        if key in into or (not reserved and len(tags) >= MAX_TAGS):
            dropped += 1
            continue
        if len(value) > MAX_TAG_CHARS:
            value = value[:MAX_TAG_CHARS]
            dropped += 1
        into[key] = value
    return Admitted(
        tags,
        dropped,
        tuple(refused),
        client=facts.get("client") or None,
        provider_alias=facts.get("provider_alias") or None,
        claude_session_id=facts.get("claude_session_id") or None,
        claude_session_name=facts.get("claude_session_name") or None,
    )


def _decoded(value: bytes) -> str:
    """A field value as one printable line: UTF-8, else latin-1; control characters become U+FFFD, a tab a space."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = value.decode("latin-1")
    if text.isascii() and text.isprintable():
        return text
    return _UNPRINTABLE.sub("\ufffd", text.replace("\t", " "))
