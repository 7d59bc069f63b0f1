"""Sign-in at a real OpenID provider on a socket: exactly right, or refused."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from steward.adapters.oidc import OidcClient, OidcProvider
from steward.errors import ProviderUnavailable, SignInRefused
from steward.forward import tls_context
from steward.ports import Person
from steward.words import Secret
from tests.servers.egress_proxy import EgressProxy
from tests.servers.openid import CLIENT_ID, CLIENT_SECRET, OpenId, open_id

REDIRECT = "https://view.example.com/sign-in/callback"
VERIFIER = "v" * 43
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()


def client_of(provider: OpenId, issuer: str | None = None) -> OidcProvider:
    secret = None if provider.secret is None else Secret(provider.secret)
    return OidcProvider(OidcClient(issuer or provider.issuer, CLIENT_ID, secret, REDIRECT), tls_context(None))


@pytest.fixture
def provider() -> Iterator[OpenId]:
    with open_id() as running:
        yield running


@pytest.fixture
def client(provider: OpenId) -> Iterator[OidcProvider]:
    made = client_of(provider)
    yield made
    made.close()


def code(client: OidcProvider, nonce: str = "n") -> str:
    """What a browser would bring back."""
    answer = httpx.get(client.address("s", nonce, CHALLENGE), follow_redirects=False, trust_env=False)
    back = {name: values[0] for name, values in parse_qs(urlsplit(answer.headers["location"]).query).items()}
    assert back["state"] == "s"
    return back["code"]


def test_a_browser_is_sent_with_all_that_binds_the_answer_to_it(provider: OpenId, client: OidcProvider) -> None:
    asked = {name: values[0] for name, values in parse_qs(urlsplit(client.address("s", "n", CHALLENGE)).query).items()}
    assert asked == {
        "response_type": "code",
        "client_id": CLIENT_ID,
        "redirect_uri": REDIRECT,
        "scope": "openid profile email",
        "state": "s",
        "nonce": "n",
        "code_challenge": CHALLENGE,
        "code_challenge_method": "S256",
    }


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
@pytest.mark.parametrize("secret", [None, CLIENT_SECRET], ids=["public", "confidential"])
def test_a_person_and_his_groups_come_back(algorithm: str, secret: str | None) -> None:
    with open_id(algorithm, secret) as provider:
        client = client_of(provider)
        assert client.redeem(code(client), VERIFIER, "n") == Person("ada [ada-1]", frozenset({"readers"}))
        (told,) = provider.told
        assert told["code_verifier"] == VERIFIER
        assert CLIENT_SECRET not in json.dumps(told)
        client.close()


def test_a_provider_that_wants_the_secret_in_the_form_has_it_there(provider: OpenId, client: OidcProvider) -> None:
    provider.discovery = {
        "token_endpoint_auth_methods_supported": ["client_secret_post"],
        "scopes_supported": ["openid", "groups"],
    }
    assert "scope=openid+profile+email+groups" in client.address("s", "n", CHALLENGE)
    client.redeem(code(client), VERIFIER, "n")
    assert (provider.told[0]["client_secret"], provider.told[0]["authorization"]) == (CLIENT_SECRET, None)


def test_a_code_is_good_once_and_for_its_own_verifier(provider: OpenId, client: OidcProvider) -> None:
    for given, verifier in (("never", VERIFIER), (code(client), "another")):
        with pytest.raises(SignInRefused):
            client.redeem(given, verifier, "n")
    good = code(client)
    client.redeem(good, VERIFIER, "n")
    with pytest.raises(SignInRefused):
        client.redeem(good, VERIFIER, "n")


NOW = int(time.time())
WRONG: dict[str, dict[str, Any]] = {
    "another issuer": {"iss": "https://evil.example"},
    "the issuer with a slash": {"iss": "SLASH"},
    "no issuer": {"iss": None},
    "another audience": {"aud": "another"},
    "no audience": {"aud": None},
    "two audiences and no azp": {"aud": [CLIENT_ID, "another"]},
    "two audiences, azp another": {"aud": [CLIENT_ID, "another"], "azp": "another"},
    "another nonce": {"nonce": "another"},
    "no nonce": {"nonce": None},
    "a nonce that is no text": {"nonce": 1},
    "expired": {"exp": NOW - 3600},
    "no expiry": {"exp": None},
    "of tomorrow": {"iat": NOW + 86400, "exp": NOW + 90000},
    "not yet": {"nbf": NOW + 3600},
    "no issue time": {"iat": None},
    "no subject": {"sub": None},
    "an empty subject": {"sub": ""},
    "a subject that is no text": {"sub": 7},
}


@pytest.mark.parametrize("claims", WRONG.values(), ids=WRONG.keys())
def test_a_token_that_is_not_exactly_right_is_refused(
    provider: OpenId, client: OidcProvider, claims: dict[str, Any]
) -> None:
    slash = {"iss": f"{provider.issuer}/"}
    provider.claims = slash if claims.get("iss") == "SLASH" else claims
    given = code(client)
    with pytest.raises(SignInRefused):
        client.redeem(given, VERIFIER, "n")


def test_two_audiences_are_good_when_we_are_named(provider: OpenId, client: OidcProvider) -> None:
    provider.claims = {"aud": [CLIENT_ID, "another"], "azp": CLIENT_ID}
    assert client.redeem(code(client), VERIFIER, "n").groups == {"readers"}


def _none(provider: OpenId) -> Callable[[dict[str, Any]], str]:
    return lambda said: jwt.encode(said, None, "none")


def _hs256(provider: OpenId) -> Callable[[dict[str, Any]], str]:
    """The public key, taken for a shared secret."""
    key = provider.keys["first"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def sign(said: dict[str, Any]) -> str:
        head = {"alg": "HS256", "kid": "first"}
        parts = b".".join(base64.urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=") for each in (head, said))
        mac = base64.urlsafe_b64encode(hmac.digest(key, parts, "sha256")).rstrip(b"=")
        return (parts + b"." + mac).decode()

    return sign


def _another_key(provider: OpenId) -> Callable[[dict[str, Any]], str]:
    key = rsa.generate_private_key(65537, 2048)
    return lambda said: jwt.encode(said, key, "RS256", headers={"kid": "first"})


def _key_in_head(provider: OpenId) -> Callable[[dict[str, Any]], str]:
    """A key that the token brings itself."""
    key = rsa.generate_private_key(65537, 2048)
    own = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return lambda said: jwt.encode(
        said, key, "RS256", headers={"kid": "own", "jwk": own, "jku": "https://evil.example"}
    )


def _rs512(provider: OpenId) -> Callable[[dict[str, Any]], str]:
    return lambda said: jwt.encode(said, provider.keys["first"], "RS512", headers={"kid": "first"})


def _cut(provider: OpenId) -> Callable[[dict[str, Any]], str]:
    return lambda said: jwt.encode(said, provider.keys["first"], "RS256", headers={"kid": "first"})[:-4]


def _words(provider: OpenId) -> Callable[[dict[str, Any]], str]:
    return lambda said: "not a token"


def _huge(provider: OpenId) -> Callable[[dict[str, Any]], str]:
    return lambda said: "x" * 70_000


@pytest.mark.parametrize("sign", [_none, _hs256, _another_key, _key_in_head, _rs512, _cut, _words, _huge])
def test_a_signature_that_is_not_the_provider_s_is_refused(
    provider: OpenId, client: OidcProvider, sign: Callable[[OpenId], Callable[[dict[str, Any]], str]]
) -> None:
    provider.sign = sign(provider)
    given = code(client)
    with pytest.raises(SignInRefused):
        client.redeem(given, VERIFIER, "n")


def test_a_new_key_is_learnt_and_an_invented_one_costs_one_look(provider: OpenId, client: OidcProvider) -> None:
    client.redeem(code(client), VERIFIER, "n")
    assert provider.asked.count("/jwks") == 1
    provider.sign = _key_in_head(provider)
    for _ in range(5):
        given = code(client)
        with pytest.raises(SignInRefused):
            client.redeem(given, VERIFIER, "n")
    assert provider.asked.count("/jwks") <= 2
    assert provider.asked.count("/.well-known/openid-configuration") == 1


DISCOVERY: dict[str, dict[str, Any]] = {
    "another issuer": {"issuer": "https://evil.example"},
    "no issuer": {"issuer": None},
    "an address in clear": {"token_endpoint": "http://login.example.com/token"},
    "an address that is none": {"jwks_uri": 7},
    "no address": {"authorization_endpoint": None},
    "an address with a user": {"authorization_endpoint": "https://a@login.example.com"},
    "a script": {"authorization_endpoint": "javascript:alert(1)"},
}


@pytest.mark.parametrize("changes", DISCOVERY.values(), ids=DISCOVERY.keys())
def test_a_provider_that_describes_itself_otherwise_is_not_used(
    provider: OpenId, client: OidcProvider, changes: dict[str, Any]
) -> None:
    provider.discovery = changes
    with pytest.raises(ProviderUnavailable):
        client.address("s", "n", CHALLENGE)


def test_another_spelling_of_the_issuer_is_another_issuer(provider: OpenId) -> None:
    client = client_of(provider, provider.issuer + "/")
    with pytest.raises(ProviderUnavailable):
        client.address("s", "n", CHALLENGE)
    client.close()


def test_a_provider_that_is_away_is_said_to_be(provider: OpenId) -> None:
    client = client_of(provider, "http://127.0.0.1:1")
    for ask in (lambda: client.address("s", "n", CHALLENGE), lambda: client.redeem("c", VERIFIER, "n")):
        with pytest.raises(ProviderUnavailable):
            ask()
    client.close()


GROUPS: dict[str, tuple[Any, set[str]]] = {
    "several": (["a", "b"], {"a", "b"}),
    "none": (None, set()),
    "text": ("readers", set()),
    "mixed": (["a", 1, None, ["b"]], {"a"}),
    "very many": ([str(number) for number in range(5000)], {str(number) for number in range(2000)}),
}


@pytest.mark.parametrize(("claim", "found"), GROUPS.values(), ids=GROUPS.keys())
def test_groups_are_a_list_of_texts(provider: OpenId, client: OidcProvider, claim: Any, found: set[str]) -> None:
    provider.claims = {"groups": claim}
    assert client.redeem(code(client), VERIFIER, "n").groups == found


def test_keys_that_are_none_are_passed_over(provider: OpenId, client: OidcProvider) -> None:
    good = provider.public()
    odd: list[Any] = [
        1,
        {},
        {"kty": "RSA", "kid": "first"},
        {"kty": "oct", "k": "AAAA", "kid": "first"},
        {"kty": "EC", "crv": "?"},
    ]
    provider.publish = [*odd, *good]
    assert client.redeem(code(client), VERIFIER, "n").groups == {"readers"}


def test_the_egress_proxy_leads_to_it_where_there_is_one(provider: OpenId) -> None:
    async def asked() -> list[bytes]:
        async with EgressProxy("user:word") as proxy:
            secret = Secret(proxy.url.replace("://", "://user:word@"))
            oidc = OidcClient(provider.issuer, CLIENT_ID, Secret(CLIENT_SECRET), REDIRECT)
            client = OidcProvider(oidc, tls_context(None), secret)
            assert (await asyncio.to_thread(client.address, "s", "n", CHALLENGE)).startswith(provider.issuer)
            client.close()
            return proxy.asked

    (line,) = asyncio.run(asked())
    assert b"/.well-known/openid-configuration" in line
