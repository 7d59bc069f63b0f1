"""An issuer's keys: kept an hour, asked for again rarely, in bounds, whoever invents key ids."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import jwt
import pytest

from steward.adapters.oidc_keys import KNOWN_FOR_S, SigningKeys, read_bounded
from steward.errors import ProviderUnavailable
from tests.said import listening
from tests.servers.openid import OpenId
from tests.servers.stores import Said, scripted

AGAIN_S = 60.0


class Issuer:
    """What a fetch finds, and how often it was made."""

    def __init__(self) -> None:
        self.keys = OpenId()
        self.keys.new_key("first")
        self.fetched = 0
        self.away = False
        self.said: Any = None
        self.now = 1000.0

    def fetch(self) -> Any:
        self.fetched += 1
        if self.away:
            raise ProviderUnavailable
        return {"keys": self.keys.public()} if self.said is None else self.said

    def known(self) -> SigningKeys:
        return SigningKeys(self.fetch, ("RS256",), AGAIN_S, lambda: self.now)


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


def test_they_are_kept_an_hour(issuer: Issuer) -> None:
    keys = issuer.known()
    for _ in range(10):
        assert keys.key("first", "RS256").key_id == "first"
    assert issuer.fetched == 1
    issuer.now += KNOWN_FOR_S + 1
    assert keys.key("first", "RS256").key_id == "first"
    assert issuer.fetched == 2


def test_an_invented_id_costs_one_look_a_minute(issuer: Issuer) -> None:
    keys = issuer.known()
    for number in range(50):
        with pytest.raises(jwt.InvalidTokenError):
            keys.key(f"invented-{number}", "RS256")
    assert issuer.fetched == 1
    issuer.now += AGAIN_S + 1
    issuer.keys.new_key("second")
    assert keys.key("second", "RS256").key_id == "second"
    assert issuer.fetched == 2


def test_an_issuer_that_is_away_is_left_alone_for_a_moment(issuer: Issuer) -> None:
    keys = issuer.known()
    issuer.away = True
    for _ in range(5):
        with pytest.raises(ProviderUnavailable):
            keys.key("first", "RS256")
    assert issuer.fetched == 1
    issuer.away = False
    issuer.now += 6
    assert keys.key("first", "RS256").key_id == "first"


def test_who_waited_for_an_issuer_that_did_not_answer_does_not_ask_in_turn(issuer: Issuer) -> None:
    def slow() -> Any:
        issuer.fetched += 1
        issuer.now += 10
        raise ProviderUnavailable

    keys = SigningKeys(slow, ("RS256",), AGAIN_S, lambda: issuer.now)
    for _ in range(5):
        with pytest.raises(ProviderUnavailable):
            keys.key("first", "RS256")
    assert issuer.fetched == 1


def test_an_old_key_opens_nothing_while_the_issuer_is_away(issuer: Issuer) -> None:
    keys = issuer.known()
    keys.key("first", "RS256")
    issuer.away = True
    issuer.now += KNOWN_FOR_S + 1
    with pytest.raises(ProviderUnavailable):
        keys.key("first", "RS256")


@pytest.mark.parametrize("algorithm", ["none", "HS256", "RS512", "ES256", None, 7, [], {}])
def test_another_algorithm_is_not_even_looked_for(issuer: Issuer, algorithm: object) -> None:
    with pytest.raises(jwt.InvalidAlgorithmError):
        issuer.known().key("first", algorithm)
    assert issuer.fetched == 0


def test_without_an_id_the_only_key_counts_and_of_two_none(issuer: Issuer) -> None:
    assert issuer.known().key(None, "RS256").key_id == "first"
    issuer.keys.new_key("second")
    with pytest.raises(jwt.InvalidTokenError):
        issuer.known().key(None, "RS256")


@pytest.mark.parametrize("said", [{}, {"keys": None}, {"keys": 1}, {"keys": [1, {}, {"kty": "oct", "k": "AAAA"}]}])
def test_what_holds_no_key_is_passed_over(issuer: Issuer, said: Any) -> None:
    issuer.said = said
    with pytest.raises(jwt.InvalidTokenError):
        issuer.known().key("first", "RS256")


@pytest.mark.parametrize("said", [{}, {"keys": []}, {"keys": [{"kty": "oct", "k": "AAAA"}]}])
def test_an_answer_without_a_usable_key_takes_none_away_and_is_said(issuer: Issuer, said: Any) -> None:
    keys = issuer.known()
    keys.key("first", "RS256")
    issuer.said = said
    issuer.now += AGAIN_S + 1
    with listening() as heard:
        for _ in range(3):
            with pytest.raises(ProviderUnavailable):
                keys.key("second", "RS256")
            assert keys.key("first", "RS256").key_id == "first"
    assert (issuer.fetched, heard.text.count("signing_keys_missing")) == (2, 1)
    issuer.now += KNOWN_FOR_S
    with pytest.raises(ProviderUnavailable):
        keys.key("first", "RS256")
    issuer.said = None
    issuer.now += 6
    assert keys.key("first", "RS256").key_id == "first"


def test_of_very_many_keys_a_hundred_are_read(issuer: Issuer) -> None:
    [good] = issuer.keys.public()
    issuer.said = {"keys": [{**good, "kid": str(number)} for number in range(200)]}
    keys = issuer.known()
    assert keys.key("99", "RS256").key_id == "99"
    with pytest.raises(jwt.InvalidTokenError):
        keys.key("100", "RS256")


def test_who_bears_a_known_key_does_not_wait_for_who_bears_none(issuer: Issuer) -> None:
    asked, may_answer = threading.Event(), threading.Event()

    def slow() -> Any:
        if issuer.fetched:
            asked.set()
            assert may_answer.wait(30)
        return issuer.fetch()

    keys = SigningKeys(slow, ("RS256",), AGAIN_S, lambda: issuer.now)
    keys.key("first", "RS256")
    issuer.now += AGAIN_S + 1
    with ThreadPoolExecutor(1) as other:
        unknown = other.submit(keys.key, "invented", "RS256")
        assert asked.wait(30)
        assert keys.key("first", "RS256").key_id == "first"
        may_answer.set()
        with pytest.raises(jwt.InvalidTokenError):
            unknown.result(30)


def test_an_answer_is_read_in_bounds() -> None:
    with httpx.Client(trust_env=False) as http, scripted() as script:
        script.answer = lambda asked: Said(200, body=b"x" * int(asked.path[1:]))
        assert read_bounded(http, "GET", f"{script.address}/{512 << 10}") == (200, b"x" * (512 << 10))
        with pytest.raises(ProviderUnavailable):
            read_bounded(http, "GET", f"{script.address}/{(512 << 10) + 1}")
    with httpx.Client(trust_env=False) as http, pytest.raises(ProviderUnavailable):
        read_bounded(http, "GET", "http://127.0.0.1:1/")
