"""Managed mode: the token waits sealed, opens for its own assignment alone, and is forgotten once it was taken."""

from __future__ import annotations

from uuid import uuid4

import pytest

from steward.butler.errors import InTheWay, NotThere
from steward.errors import SealBroken
from tests.servers.butler import ButlerBench


def test_one_waits_an_organisation(butler: ButlerBench) -> None:
    acme, managed = butler.tenant("acme"), butler.services.managed
    managed.assign(acme.owner, "hosted")
    with pytest.raises(InTheWay):
        managed.assign(acme.owner, "hosted")
    (waiting,) = managed.pending()
    assert waiting.token.reveal() not in repr(waiting)
    managed.claim(waiting.id, butler.clock())
    assert managed.pending() == []
    assert len(butler.services.stewards.all(acme.bearer.org_id)) == 2
    with pytest.raises(NotThere):
        managed.claim(uuid4(), butler.clock())


def test_a_sealed_token_that_was_moved_does_not_open(butler: ButlerBench) -> None:
    acme, other, managed = butler.tenant("acme"), butler.tenant("other"), butler.services.managed
    managed.assign(acme.owner, "hosted")
    managed.assign(other.owner, "hosted")
    butler.postgres.run(
        "UPDATE butler.managed_assignments a SET sealed_token = b.sealed_token "
        "FROM butler.managed_assignments b WHERE b.id <> a.id"
    )
    with pytest.raises(SealBroken):
        managed.pending()


def test_a_token_that_was_revoked_waits_no_more(butler: ButlerBench) -> None:
    acme, managed = butler.tenant("acme"), butler.services.managed
    butler.services.stewards.revoke(acme.owner, managed.assign(acme.owner, "hosted"))
    assert managed.pending() == []
