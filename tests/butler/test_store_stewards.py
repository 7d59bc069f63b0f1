"""Steward tokens: whose they are by their hash alone, what is seen of their bearers, and revoked for ever."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest

from steward.butler.errors import NotThere
from steward.words import Secret
from tests.servers.butler import ButlerBench


def test_the_version_is_what_the_user_agent_says_and_nothing_else(butler: ButlerBench) -> None:
    acme, stewards = butler.tenant("acme"), butler.services.stewards
    made = stewards.create(acme.owner, "eu", "ECS in Frankfurt")
    (seen,) = [each for each in stewards.all(acme.bearer.org_id) if each.id == made.id]
    assert (seen.host, seen.version, seen.first_seen_at, seen.token_hint) == (
        "ECS in Frankfurt",
        None,
        None,
        made.plaintext.reveal()[-4:],
    )
    for agent, version in (
        ("curl/8", None),
        ("majordomo-steward/1.2.3", "1.2.3"),
        ("majordomo-steward/1.2.3 x", "1.2.3"),
    ):
        now = butler.clock.forward(timedelta(minutes=1))
        assert stewards.bearer(made.plaintext, agent, now) is not None
        (seen,) = [each for each in stewards.all(acme.bearer.org_id) if each.id == made.id]
        assert (seen.version, seen.last_seen_at) == (version, now)


def test_a_steward_that_calls_often_is_noted_now_and_then(butler: ButlerBench) -> None:
    acme, stewards, first = butler.tenant("acme"), butler.services.stewards, butler.clock()
    stewards.bearer(acme.token, "majordomo-steward/1.2.3", butler.clock.forward(timedelta(seconds=4)))
    (seen,) = stewards.all(acme.bearer.org_id)
    assert seen.last_seen_at == first


def test_revoked_is_nobody_s_and_its_work_is_over(butler: ButlerBench) -> None:
    acme, other, stewards = butler.tenant("acme"), butler.tenant("other"), butler.services.stewards
    butler.services.keys.create(acme.owner, "k")
    with pytest.raises(NotThere):
        stewards.revoke(other.owner, acme.bearer.steward_id)
    stewards.revoke(acme.owner, acme.bearer.steward_id)
    stewards.revoke(acme.owner, acme.bearer.steward_id)
    assert stewards.bearer(acme.token, "", butler.clock()) is None
    (seen,) = stewards.all(acme.bearer.org_id)
    assert (seen.waiting_work, seen.revoked_at is not None) == (0, True)
    with pytest.raises(NotThere):
        stewards.revoke(acme.owner, uuid4())


@pytest.mark.parametrize("token", ["", "mdm_st_", "\ud800", "x" * 10_000, "' OR true --"])
def test_what_is_no_token_is_nobody_s(butler: ButlerBench, token: str) -> None:
    butler.tenant("acme")
    assert butler.services.stewards.bearer(Secret(token), "", butler.clock()) is None
