"""Keys and tokens: made from chance, shown once, known afterwards by their SHA-256 alone."""

from __future__ import annotations

import hashlib
import secrets
from typing import Final

from steward.words import Secret

API_KEY: Final = "mdm_sk_"
STEWARD_TOKEN: Final = "mdm_st_"  # noqa: S105 - a prefix
CLI_TOKEN: Final = "mdm_cli_"  # noqa: S105 - a prefix
HINT_CHARS: Final = 4


def made(prefix: str = "") -> Secret[str]:
    """The prefix and 256 bits of chance."""
    return Secret(prefix + secrets.token_urlsafe(32))


def digest(plaintext: Secret[str]) -> str:
    """What is kept of it: SHA-256, hex. 256 bits of chance need no slow hash."""
    return hashlib.sha256(plaintext.reveal().encode("utf-8", "surrogatepass")).hexdigest()


def hint(plaintext: Secret[str]) -> str:
    """Its last four characters, by which a person tells one from another."""
    return plaintext.reveal()[-HINT_CHARS:]
