"""Keys and tokens: long enough, of the alphabet that is expected, and known by their hash."""

from __future__ import annotations

import hashlib
import re

import pytest

from steward import values
from steward.butler.secrets_made import API_KEY, CLI_TOKEN, STEWARD_TOKEN, digest, hint, made
from steward.words import Secret


@pytest.mark.parametrize("prefix", [API_KEY, STEWARD_TOKEN, CLI_TOKEN, ""])
def test_each_is_new_and_hard_to_guess(prefix: str) -> None:
    found = {made(prefix).reveal() for _ in range(50)}
    assert len(found) == 50
    assert all(re.fullmatch(re.escape(prefix) + r"[A-Za-z0-9_-]{43}", each) for each in found)


def test_a_stewards_token_is_one_that_stewards_take() -> None:
    token = made(STEWARD_TOKEN)
    assert values.steward_token(token.reveal()) == token


def test_the_hash_is_the_wires() -> None:
    key = Secret("mdm_sk_abc")
    assert digest(key) == hashlib.sha256(b"mdm_sk_abc").hexdigest()
    assert hint(key) == "_abc"
