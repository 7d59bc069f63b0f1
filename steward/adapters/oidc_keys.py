"""The public keys that an issuer's tokens are signed with: fetched in bounds, kept an hour, asked for again rarely.

It believes no key that a token brings along, and no algorithm but those its user names. An answer without any usable
key takes none away: it is more likely a broken issuer's, or not his, than his last word.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import httpx
import jwt

from steward import log
from steward.errors import ProviderUnavailable

KNOWN_FOR_S: Final = 3600.0
MAX_TOKEN: Final = 64 << 10
_MAX_ANSWER_BYTES: Final = 512 << 10
_MAX_KEYS: Final = 100
_FAILED_FOR_S: Final = 5.0
"""An issuer that did not answer is left alone so long."""


class SigningKeys:
    """One issuer's. `fetch` gives its JSON Web Key Set, or raises ProviderUnavailable.

    `ask_again_s`: a key that is not known is looked for no more often, whoever invents one.
    """

    def __init__(
        self,
        fetch: Callable[[], Mapping[str, Any]],
        algorithms: Sequence[str],
        ask_again_s: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch = fetch
        self._algorithms = frozenset(algorithms)
        self._ask_again_s = ask_again_s
        self._now = now
        self._lock = threading.Lock()
        self._keys: Mapping[str, jwt.PyJWK] = {}
        self._fetched_at = self._failed_at = -math.inf

    def key(self, kid: object, algorithm: object) -> jwt.PyJWK:
        """The issuer's key of this id, of this algorithm and no other.

        Raises jwt.InvalidTokenError: there is none. ProviderUnavailable: nobody can say.
        """
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            raise jwt.InvalidAlgorithmError
        wanted = kid if isinstance(kid, str) else ""
        if not self._suffices(wanted):
            with self._lock:  # who bears a known key does not wait for those who bear none
                if not self._suffices(wanted):
                    self._look()
        keys = self._keys
        key = keys.get(wanted, next(iter(keys.values())) if not wanted and len(keys) == 1 else None)
        if key is None or key.algorithm_name != algorithm:
            raise jwt.InvalidTokenError
        return key

    def _suffices(self, wanted: str) -> bool:
        """What is known is young, and holds what is wanted or was asked for too lately to be asked for again."""
        age = self._now() - self._fetched_at
        return age <= KNOWN_FOR_S and (wanted in self._keys or age <= self._ask_again_s)

    def _look(self) -> None:
        now = self._now()
        if now - self._failed_at <= _FAILED_FOR_S:
            raise ProviderUnavailable
        try:
            found = _readable(self._fetch(), self._algorithms)
            if self._keys and not found:
                log.say("signing_keys_missing", logging.ERROR, count=len(self._keys))
                raise ProviderUnavailable
        except BaseException:
            self._failed_at = self._now()  # from its end on: whoever waited for it meanwhile does not ask in turn
            raise
        self._keys, self._fetched_at, self._failed_at = found, now, -math.inf


def read_bounded(
    http: httpx.Client,
    method: str,
    url: str,
    form: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, bytes]:
    """Status and body of an answer, at most 512 KiB. Raises ProviderUnavailable."""
    body = bytearray()
    sent = {"accept": "application/json", "accept-encoding": "identity", **(headers or {})}
    try:
        with http.stream(method, url, data=form, headers=sent) as answer:
            for piece in answer.iter_raw(64 << 10):
                body += piece
                if len(body) > _MAX_ANSWER_BYTES:
                    raise ProviderUnavailable
            return answer.status_code, bytes(body)
    except httpx.HTTPError:
        raise ProviderUnavailable from None


def _readable(said: Mapping[str, Any], algorithms: frozenset[str]) -> dict[str, jwt.PyJWK]:
    """Those that sign, by id; what is not understood is passed over."""
    found: dict[str, jwt.PyJWK] = {}
    listed = said.get("keys")
    for each in listed[:_MAX_KEYS] if isinstance(listed, list) else []:
        if not isinstance(each, dict) or each.get("use", "sig") != "sig":
            continue
        try:
            key = jwt.PyJWK(each)
        except (jwt.PyJWTError, ValueError, TypeError, KeyError):
            continue
        if key.algorithm_name in algorithms:
            found[each["kid"] if isinstance(each.get("kid"), str) else ""] = key
    return found
