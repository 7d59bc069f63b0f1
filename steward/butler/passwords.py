"""Passwords: hashed with argon2id, compared at a constant cost, a few at a time.

Refuses to tell an unknown account from a wrong password: both cost one hash. Its words on a password are about its
length alone.
"""

from __future__ import annotations

import threading
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from steward.butler.errors import NotAcceptable
from steward.words import Secret

LEAST_CHARS: Final = 12
MOST_CHARS: Final = 512
AT_ONCE: Final = 4
"""Hashes that are made at one time: each takes 64 MiB."""


class Passwords:
    """One hasher and its room. `hasher` with lower costs is for tests."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = PasswordHasher() if hasher is None else hasher
        self._room = threading.BoundedSemaphore(AT_ONCE)
        self._nobody = self._hasher.hash("nobody's")

    def hash(self, password: Secret[str]) -> str:
        """What is kept. Raises NotAcceptable for one that is too short or too long."""
        if not LEAST_CHARS <= len(password.reveal()) <= MOST_CHARS:
            sentence = f"A password has {LEAST_CHARS} to {MOST_CHARS} characters."
            raise NotAcceptable("password", message=sentence)
        with self._room:
            return self._hasher.hash(_octets(password))

    def fits(self, kept: str | None, password: Secret[str]) -> bool:
        """Whether it is the one; for nobody (None) it takes as long and is False."""
        if len(password.reveal()) > MOST_CHARS:
            password = Secret("")
        try:
            with self._room:
                self._hasher.verify(self._nobody if kept is None else kept, _octets(password))
        except (VerificationError, InvalidHashError):
            return False
        return kept is not None

    def is_outdated(self, kept: str) -> bool:
        """Whether it was made at a cost that is no longer ours."""
        return self._hasher.check_needs_rehash(kept)


def _octets(password: Secret[str]) -> bytes:
    return password.reveal().encode("utf-8", "surrogatepass")
