"""Tokens as Google signs them for a service account, by an issuer of our own on loopback. It asserts nothing."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.servers.openid import OpenId

ACCOUNT = "pusher@a-project.iam.gserviceaccount.com"
AUDIENCE = "https://steward.example.com/tasks"

Sign = Callable[[OpenId, dict[str, Any]], str]


def signed_settings(issuer: OpenId) -> dict[str, str]:
    """What makes Steward know them."""
    return {
        "TASKS_SERVICE_ACCOUNT": ACCOUNT,
        "TASKS_AUDIENCE": AUDIENCE,
        "TASKS_ISSUER": issuer.issuer,
        "TASKS_KEYS_URL": f"{issuer.issuer}/jwks",
    }


def claims(issuer: OpenId, **changes: Any) -> dict[str, Any]:
    """What is right, and what the test says; None takes a claim away."""
    now = int(time.time())
    said = {
        "iss": issuer.issuer,
        "aud": AUDIENCE,
        "azp": "1234567890",
        "sub": "1234567890",
        "email": ACCOUNT,
        "email_verified": True,
        "iat": now,
        "exp": now + 3600,
        **changes,
    }
    return {name: value for name, value in said.items() if value is not None}


def signed(issuer: OpenId, said: dict[str, Any]) -> str:
    """By the issuer's newest key."""
    kid, key = next(iter(issuer.keys.items()))
    return jwt.encode(said, key, "RS256", headers={"kid": kid})


def right(issuer: OpenId, **changes: Any) -> str:
    """A token that opens, but for the changes."""
    return signed(issuer, claims(issuer, **changes))


NOW = int(time.time())
WRONG_CLAIMS: dict[str, dict[str, Any]] = {
    "another issuer": {"iss": "https://evil.example"},
    "no issuer": {"iss": None},
    "another audience": {"aud": "https://steward.example.com"},
    "the audience with a slash": {"aud": AUDIENCE + "/"},
    "the audience among others": {"aud": [AUDIENCE, "https://other.example"]},
    "the audience in a list": {"aud": [AUDIENCE]},
    "no audience": {"aud": None},
    "another account": {"email": "pusher@another-project.iam.gserviceaccount.com"},
    "the account in capitals": {"email": ACCOUNT.upper()},
    "an account that ends like it": {"email": "x" + ACCOUNT},
    "no account": {"email": None},
    "an account nobody verified": {"email_verified": False},
    "a text for a yes": {"email_verified": "true"},
    "no word of verification": {"email_verified": None},
    "expired": {"iat": NOW - 7200, "exp": NOW - 3600},
    "no expiry": {"exp": None},
    "no issue time": {"iat": None},
    "of tomorrow": {"iat": NOW + 86400, "exp": NOW + 90000},
    "not yet": {"nbf": NOW + 3600},
}


def unsigned(issuer: OpenId, said: dict[str, Any]) -> str:
    return jwt.encode(said, None, "none")


def by_public_key(issuer: OpenId, said: dict[str, Any]) -> str:
    """The public key, taken for a shared secret."""
    kid, key = next(iter(issuer.keys.items()))
    secret = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head = {"alg": "HS256", "kid": kid, "typ": "JWT"}
    parts = b".".join(base64.urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=") for each in (head, said))
    mac = base64.urlsafe_b64encode(hmac.digest(secret, parts, "sha256")).rstrip(b"=")
    return (parts + b"." + mac).decode()


def by_unknown_key(issuer: OpenId, said: dict[str, Any]) -> str:
    return jwt.encode(said, rsa.generate_private_key(65537, 2048), "RS256", headers={"kid": "unknown"})


def by_another_key(issuer: OpenId, said: dict[str, Any]) -> str:
    """Under the id of the right one."""
    return jwt.encode(said, rsa.generate_private_key(65537, 2048), "RS256", headers={"kid": next(iter(issuer.keys))})


def by_its_own_key(issuer: OpenId, said: dict[str, Any]) -> str:
    """A key that the token brings along."""
    key = rsa.generate_private_key(65537, 2048)
    own = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return jwt.encode(said, key, "RS256", headers={"kid": "own", "jwk": own, "jku": "https://evil.example"})


def by_rs512(issuer: OpenId, said: dict[str, Any]) -> str:
    kid, key = next(iter(issuer.keys.items()))
    return jwt.encode(said, key, "RS512", headers={"kid": kid})


def tampered(issuer: OpenId, said: dict[str, Any]) -> str:
    """Another's token, the right claims written over his."""
    head, _, mac = signed(issuer, {**said, "email": "other@a-project.iam.gserviceaccount.com"}).split(".")
    body = base64.urlsafe_b64encode(json.dumps(said).encode()).rstrip(b"=").decode()
    return f"{head}.{body}.{mac}"


def cut(issuer: OpenId, said: dict[str, Any]) -> str:
    return signed(issuer, said)[:-6]


def words(issuer: OpenId, said: dict[str, Any]) -> str:
    return "not a token"


def huge(issuer: OpenId, said: dict[str, Any]) -> str:
    return "x" * 70_000


WRONG_SIGNATURES: list[Sign] = [
    *(unsigned, by_public_key, by_unknown_key, by_another_key, by_its_own_key, by_rs512, tampered, cut, words, huge),
]
