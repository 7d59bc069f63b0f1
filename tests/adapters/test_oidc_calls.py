"""A cloud's own signed calls: the one account's token exactly, and no other of all that the same issuer signs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from steward.adapters.oidc_calls import SignedCaller, SignedCalls
from steward.errors import ProviderUnavailable
from steward.forward import tls_context
from steward.words import Secret
from tests.servers.egress_proxy import EgressProxy
from tests.servers.openid import OpenId, open_id
from tests.servers.signed_calls import ACCOUNT, AUDIENCE, WRONG_CLAIMS, WRONG_SIGNATURES, Sign, claims, right


@pytest.fixture(scope="module")
def issuer() -> Iterator[OpenId]:
    with open_id() as running:
        yield running


def calls_of(issuer: OpenId, keys_url: str | None = None, proxy: Secret[str] | None = None) -> SignedCalls:
    caller = SignedCaller(ACCOUNT, AUDIENCE, issuer.issuer, keys_url or f"{issuer.issuer}/jwks")
    return SignedCalls(caller, tls_context(None), proxy)


@pytest.fixture
def calls(issuer: OpenId) -> Iterator[SignedCalls]:
    made = calls_of(issuer)
    yield made
    made.close()


def test_the_account_s_token_opens_and_its_key_is_fetched_once(issuer: OpenId, calls: SignedCalls) -> None:
    issuer.asked.clear()
    assert all(calls.right(right(issuer)) for _ in range(20))
    assert issuer.asked == ["/jwks"]


@pytest.mark.parametrize("changes", WRONG_CLAIMS.values(), ids=WRONG_CLAIMS)
def test_a_token_that_says_anything_else_does_not(issuer: OpenId, calls: SignedCalls, changes: dict[str, Any]) -> None:
    assert not calls.right(right(issuer, **changes))


@pytest.mark.parametrize("sign", WRONG_SIGNATURES)
def test_a_signature_that_is_not_the_issuer_s_does_not(issuer: OpenId, calls: SignedCalls, sign: Sign) -> None:
    assert not calls.right(sign(issuer, claims(issuer)))


def test_nobody_is_asked_for_a_key_because_of_another_s_token(issuer: OpenId, calls: SignedCalls) -> None:
    issuer.asked.clear()
    for account in ("other@a-project.iam.gserviceaccount.com", ""):
        assert not calls.right(right(issuer, email=account))
    assert issuer.asked == []


def test_keys_that_cannot_be_had_are_no_verdict(issuer: OpenId) -> None:
    for url in ("http://127.0.0.1:1/jwks", f"{issuer.issuer}/nothing"):
        calls = calls_of(issuer, url)
        with pytest.raises(ProviderUnavailable):
            calls.right(right(issuer))
        calls.close()


def test_the_egress_proxy_leads_to_the_keys_where_there_is_one(issuer: OpenId) -> None:
    async def asked() -> list[bytes]:
        async with EgressProxy("user:word") as proxy:
            calls = calls_of(issuer, proxy=Secret(proxy.url.replace("://", "://user:word@")))
            assert await asyncio.to_thread(calls.right, right(issuer))
            calls.close()
            return proxy.asked

    (line,) = asyncio.run(asked())
    assert b"/jwks" in line
