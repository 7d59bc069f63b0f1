"""Passwords: argon2id, one cost for known and unknown, and bounds."""

from __future__ import annotations

import pytest
from argon2 import PasswordHasher, extract_parameters
from argon2.low_level import Type

from steward.butler.errors import NotAcceptable
from steward.butler.passwords import LEAST_CHARS, MOST_CHARS, Passwords
from steward.words import Secret
from tests.servers.butler import CHEAP

GOOD = Secret("correct horse battery")


def test_what_is_kept_is_argon2id_at_the_costs_of_rfc_9106() -> None:
    kept = Passwords().hash(GOOD)
    found = extract_parameters(kept)
    assert (found.type, found.memory_cost >= 64 * 1024, found.time_cost >= 3) == (Type.ID, True, True)
    assert GOOD.reveal() not in kept


def test_only_the_right_one_fits_and_nobody_has_none() -> None:
    passwords = Passwords(CHEAP)
    kept = passwords.hash(GOOD)
    assert passwords.fits(kept, GOOD)
    assert not passwords.fits(kept, Secret("wrong"))
    assert not passwords.fits(None, GOOD)
    assert not passwords.fits(None, Secret("nobody's"))
    assert not passwords.fits("no hash", GOOD)
    assert not passwords.fits(kept, Secret("x" * 100_000))
    assert not passwords.fits(kept, Secret("\ud800"))


@pytest.mark.parametrize("length", [0, LEAST_CHARS - 1, MOST_CHARS + 1])
def test_too_short_and_too_long_are_refused(length: int) -> None:
    with pytest.raises(NotAcceptable, match="characters"):
        Passwords(CHEAP).hash(Secret("x" * length))


def test_a_hash_of_lower_costs_is_outdated() -> None:
    kept = Passwords(CHEAP).hash(GOOD)
    assert Passwords(PasswordHasher(time_cost=2, memory_cost=16, parallelism=1)).is_outdated(kept)
    assert not Passwords(CHEAP).is_outdated(kept)
