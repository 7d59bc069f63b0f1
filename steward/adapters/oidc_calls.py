"""Calls that a cloud makes in a service account's name (Pub/Sub's push, Cloud Scheduler): whether their token is right.

Right is an RS256 signature by the issuer's own keys, the issuer and the audience octet for octet as set, and the
account's e-mail address, verified: Google signs for every project's accounts, so an audience alone opens for anybody
(SECURITY F19). It reads no other claim and says of a wrong token nothing but that it is wrong.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx
import jwt
import orjson

from steward.adapters.oidc_keys import MAX_TOKEN, SigningKeys, read_bounded
from steward.errors import ProviderUnavailable
from steward.words import Secret

_ALGORITHMS: Final = ("RS256",)
_ASK_AGAIN_S: Final = 60.0
_TIMEOUT_S: Final = 5.0
_LEEWAY_S: Final = 60
_REQUIRED: Final = ("iss", "aud", "exp", "iat", "email", "email_verified")


@dataclass(frozen=True, slots=True)
class SignedCaller:
    """Who may call, and how he is known."""

    account: str
    audience: str
    issuer: str
    keys_url: str


class SignedCalls:
    """The tokens of one account. `proxy_url`: the egress proxy that leads to the keys."""

    def __init__(
        self,
        caller: SignedCaller,
        tls: ssl.SSLContext,
        proxy_url: Secret[str] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._caller = caller
        proxy = None if proxy_url is None else httpx.Proxy(proxy_url.reveal())
        self._http = httpx.Client(verify=tls, trust_env=False, follow_redirects=False, timeout=_TIMEOUT_S, proxy=proxy)
        self._keys = SigningKeys(self._fetch, _ALGORITHMS, _ASK_AGAIN_S, now)

    def right(self, token: str) -> bool:
        """Whether it is exactly right. Raises ProviderUnavailable: the issuer's keys cannot be had now."""
        if len(token) > MAX_TOKEN:
            return False
        caller = self._caller
        try:
            if not self._is_his(jwt.decode(token, options={"verify_signature": False})):
                return False  # nobody is asked for a key because of it
            head = jwt.get_unverified_header(token)
            said = jwt.decode(
                token,
                self._keys.key(head.get("kid"), head.get("alg")).key,
                algorithms=list(_ALGORITHMS),
                audience=caller.audience,
                issuer=caller.issuer,
                leeway=_LEEWAY_S,
                options={"require": list(_REQUIRED)},
            )
        except (jwt.PyJWTError, ValueError):
            return False
        return self._is_his(said)

    def close(self) -> None:
        """Gives its connections back."""
        self._http.close()

    def _is_his(self, said: Mapping[str, Any]) -> bool:
        caller = self._caller
        return (
            said.get("aud") == caller.audience
            and said.get("iss") == caller.issuer
            and said.get("email") == caller.account
            and said.get("email_verified") is True
        )

    def _fetch(self) -> Mapping[str, Any]:
        status, body = read_bounded(self._http, "GET", self._caller.keys_url)
        try:
            said = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise ProviderUnavailable from None
        if status != 200 or not isinstance(said, dict):
            raise ProviderUnavailable
        return said
