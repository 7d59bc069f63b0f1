"""The customer's OpenID provider over HTTP: discovery, the code's redemption, an ID token that must be right.

Refuses an issuer that is not octet for octet the one that was set, a signature by anything but RS256 or ES256 of the
provider's own keys, another audience, another nonce, and answers without bound. Follows no redirect.
"""

from __future__ import annotations

import hmac
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote_plus, urlencode

import httpx
import jwt
import orjson

from steward import values
from steward.adapters.oidc_keys import KNOWN_FOR_S, MAX_TOKEN, SigningKeys, read_bounded
from steward.errors import ProviderUnavailable, SignInRefused
from steward.ports import IdentityProvider, Person
from steward.words import Secret

_ALGORITHMS: Final = ("RS256", "ES256")
_MAX_GROUPS: Final = 2000
_TIMEOUT_S: Final = 10.0
_ASK_AGAIN_S: Final = 30.0
"""A key that is not known is looked for at the provider no more often."""
_LEEWAY_S: Final = 60
_REQUIRED: Final = ("iss", "sub", "aud", "exp", "iat", "nonce")


@dataclass(frozen=True, slots=True)
class OidcClient:
    """Who we are to the provider."""

    issuer: str
    client_id: str
    client_secret: Secret[str] | None
    redirect_uri: str


@dataclass(frozen=True, slots=True)
class _Found:
    """What discovery said."""

    authorization: str
    token: str
    jwks: str
    posts_secret: bool
    offers_groups: bool
    at: float


class OidcProvider(IdentityProvider):
    """One provider."""

    def __init__(self, client: OidcClient, tls: ssl.SSLContext, proxy_url: Secret[str] | None = None) -> None:
        """`proxy_url`: the egress proxy that leads to it; it may hold Basic credentials."""
        self._client = client
        proxy = None if proxy_url is None else httpx.Proxy(proxy_url.reveal())
        self._http = httpx.Client(verify=tls, trust_env=False, follow_redirects=False, timeout=_TIMEOUT_S, proxy=proxy)
        self._lock = threading.Lock()
        self._found: _Found | None = None
        self._keys = SigningKeys(lambda: self._ask("GET", self._endpoints().jwks), _ALGORITHMS, _ASK_AGAIN_S)

    def address(self, state: str, nonce: str, challenge: str) -> str:
        found = self._discovered()
        asked = {
            "response_type": "code",
            "client_id": self._client.client_id,
            "redirect_uri": self._client.redirect_uri,
            "scope": "openid profile email" + (" groups" if found.offers_groups else ""),
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        at = found.authorization
        return f"{at}{'&' if '?' in at else '?'}{urlencode(asked)}"

    def redeem(self, code: str, verifier: str, nonce: str) -> Person:
        found = self._discovered()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._client.redirect_uri,
            "code_verifier": verifier,
        }
        headers: dict[str, str] = {}
        secret = self._client.client_secret
        if secret is None or found.posts_secret:
            form["client_id"] = self._client.client_id
        if secret is not None and found.posts_secret:
            form["client_secret"] = secret.reveal()
        elif secret is not None:
            pair = httpx.BasicAuth(quote_plus(self._client.client_id), quote_plus(secret.reveal()))
            headers["authorization"] = next(pair.auth_flow(httpx.Request("GET", found.token))).headers["authorization"]
        answer = self._ask("POST", found.token, form, headers)
        token = answer.get("id_token")
        if not isinstance(token, str) or len(token) > MAX_TOKEN:
            raise SignInRefused
        return self._person(token, nonce)

    def close(self) -> None:
        self._http.close()

    def _person(self, token: str, nonce: str) -> Person:
        """Raises SignInRefused for whatever is not exactly right."""
        try:
            head = jwt.get_unverified_header(token)
            with self._lock:
                key = self._keys.key(head.get("kid"), head.get("alg"))
            said = jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm_name],
                audience=self._client.client_id,
                issuer=self._client.issuer,
                leeway=_LEEWAY_S,
                options={"require": list(_REQUIRED)},
            )
        except jwt.PyJWTError:
            raise SignInRefused from None
        audience = said["aud"]
        if isinstance(audience, list) and len(audience) > 1 and said.get("azp") != self._client.client_id:
            raise SignInRefused
        if not isinstance(said["nonce"], str) or not hmac.compare_digest(said["nonce"].encode(), nonce.encode()):
            raise SignInRefused
        groups = said.get("groups")
        listed = groups[:_MAX_GROUPS] if isinstance(groups, list) else []
        return Person(_who(said), frozenset(each for each in listed if isinstance(each, str)))

    def _discovered(self) -> _Found:
        with self._lock:
            return self._endpoints()

    def _endpoints(self) -> _Found:
        """Raises ProviderUnavailable: it does not answer, or names itself otherwise than it was set."""
        if self._found is not None and time.monotonic() - self._found.at < KNOWN_FOR_S:
            return self._found
        said = self._ask("GET", f"{self._client.issuer.rstrip('/')}/.well-known/openid-configuration")
        if said.get("issuer") != self._client.issuer:
            raise ProviderUnavailable
        methods = said.get("token_endpoint_auth_methods_supported")
        scopes = said.get("scopes_supported")
        self._found = _Found(
            self._endpoint(said.get("authorization_endpoint")),
            self._endpoint(said.get("token_endpoint")),
            self._endpoint(said.get("jwks_uri")),
            isinstance(methods, list) and "client_secret_basic" not in methods and "client_secret_post" in methods,
            isinstance(scopes, list) and "groups" in scopes,
            time.monotonic(),
        )
        return self._found

    def _endpoint(self, said: object) -> str:
        """An address that the provider names: https, or http on loopback where the provider itself is there."""
        try:
            parts = values.web_address(said if isinstance(said, str) else "")
        except ValueError:
            raise ProviderUnavailable from None
        plain = self._client.issuer.startswith("http://") and values.is_loopback(parts.hostname or "")
        if parts.scheme != "https" and not plain:
            raise ProviderUnavailable
        return parts.geturl()

    def _ask(
        self, method: str, url: str, form: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
    ) -> Mapping[str, Any]:
        """A JSON object. Raises ProviderUnavailable; SignInRefused where the code is refused."""
        status, body = read_bounded(self._http, method, url, form, headers)
        if status in (400, 401, 403) and method == "POST":
            raise SignInRefused
        try:
            said = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise ProviderUnavailable from None
        if status != 200 or not isinstance(said, dict):
            raise ProviderUnavailable
        return said


def _who(said: Mapping[str, Any]) -> str:
    """The subject, which is never given to another, and a name to know it by."""
    name = next((said[each] for each in ("preferred_username", "email", "name") if isinstance(said.get(each), str)), "")
    subject = said["sub"] if isinstance(said["sub"], str) else ""
    if not subject:
        raise SignInRefused
    return f"{name[:150]} [{subject[:120]}]" if name else subject[:120]
