"""Seals what must rest encrypted: AES-256-GCM under one subkey per purpose, bound to the row it belongs to.

Refuses to open a value that was moved to another row, owner, organisation, destination or purpose, or changed in one
bit (SECURITY F18); `ENCRYPTION_KEY` itself encrypts nothing. No network, no environment, no clock.

A sealed value is: version (1 octet, 0x01), key id (8 octets), nonce (12), ciphertext with its tag (16). The format is
for ever: a later one gets another version, and this one stays readable.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from steward.errors import SealBroken
from steward.words import Secret

KEY_BYTES: Final = 32
VERSION: Final = 1
KEY_ID_BYTES: Final = 8
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
OVERHEAD_BYTES: Final = 1 + KEY_ID_BYTES + NONCE_BYTES + TAG_BYTES
"""What sealing adds to the length."""

_INFO: Final = b"majordomo-steward/1/"
"""Starts the HKDF `info` of every subkey; the purpose's name follows."""


class Purpose(StrEnum):
    """What a subkey is for. A value sealed for one never opens for another."""

    SECRETS = "secrets"
    SPOOL = "spool"
    QUEUE = "queue"
    APPROVALS = "approvals"
    PROVIDER_KEY_HASH = "provider-key-hash"
    SYSTEM_PROMPT_HASH = "system-prompt-hash"
    EGRESS_LOG = "egress-log"
    BUTLER = "butler"
    """What our own Butler keeps; it has a key of its own besides."""


@dataclass(frozen=True, slots=True)
class SealFacts:
    """Where a sealed value belongs; it opens nowhere else. An absent fact is empty, and differs from every other."""

    row_id: str
    org_id: UUID | None = None
    owner: str = ""
    """Who owns the value within the organisation: a key's id, a user's, or `instance`."""
    provider: str = ""
    destination: str = ""
    """Where the value may be sent: an origin, a bucket's endpoint."""


class Keyring:
    """The installation's key and what is derived from it."""

    __slots__ = ("_ciphers", "_key", "key_id")

    key_id: bytes
    """Eight octets that name the key and tell nothing of it."""

    def __init__(self, key: Secret[bytes]) -> None:
        """`key` has 32 octets, else ValueError."""
        if len(key.reveal()) != KEY_BYTES:
            raise ValueError("an encryption key has 32 octets")
        self._key = key
        self._ciphers: dict[Purpose, AESGCM] = {}
        self.key_id = self._derive(b"key-id", KEY_ID_BYTES)

    def subkey(self, purpose: Purpose) -> Secret[bytes]:
        """The 32 octets that serve this purpose alone: HKDF-SHA-256, no salt (RFC 5869)."""
        return Secret(self._derive(b"subkey/" + purpose.value.encode(), KEY_BYTES))

    def seal(self, purpose: Purpose, plaintext: bytes, facts: SealFacts, nonce: bytes | None = None) -> bytes:
        """The sealed form, 37 octets longer. `nonce` is for known answers; without it, 12 random octets.

        Random nonces allow 2^32 values a purpose: for rows, not for bulk data, which takes a data key of its own.
        """
        nonce = os.urandom(NONCE_BYTES) if nonce is None else nonce
        if len(nonce) != NONCE_BYTES:
            raise ValueError("a nonce has 12 octets")
        sealed = self._cipher(purpose).encrypt(nonce, plaintext, _associated(purpose, facts))
        return bytes((VERSION,)) + self.key_id + nonce + sealed

    def open(self, purpose: Purpose, sealed: bytes, facts: SealFacts) -> Secret[bytes]:
        """The plaintext. Raises SealBroken, which does not tell a wrong key from a moved or changed value."""
        nonce_at, text_at = 1 + KEY_ID_BYTES, 1 + KEY_ID_BYTES + NONCE_BYTES
        if len(sealed) < OVERHEAD_BYTES or sealed[0] != VERSION or sealed[1:nonce_at] != self.key_id:
            raise SealBroken
        try:
            plaintext = self._cipher(purpose).decrypt(
                sealed[nonce_at:text_at], sealed[text_at:], _associated(purpose, facts)
            )
        except InvalidTag:
            raise SealBroken from None
        return Secret(plaintext)

    def __repr__(self) -> str:
        return f"Keyring({self.key_id.hex()})"

    def _derive(self, label: bytes, length: int) -> bytes:
        return HKDF(SHA256(), length, salt=None, info=_INFO + label).derive(self._key.reveal())

    def _cipher(self, purpose: Purpose) -> AESGCM:
        """Kept: deriving costs more than sealing a short value."""
        cipher = self._ciphers.get(purpose)
        if cipher is None:
            cipher = self._ciphers[purpose] = AESGCM(self.subkey(purpose).reveal())
        return cipher


def _associated(purpose: Purpose, facts: SealFacts) -> bytes:
    """Version, then each fact behind its length in four octets: no two sets of facts give the same octets."""
    org = b"" if facts.org_id is None else facts.org_id.bytes
    texts = (purpose.value, facts.owner, facts.row_id, facts.provider, facts.destination)
    parts = [org, *(text.encode() for text in texts)]
    return bytes((VERSION,)) + b"".join(len(part).to_bytes(4, "big") + part for part in parts)
