"""Metadata keys: found, labelled, made filters; earlier calls follow piece by piece."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from steward.butler.errors import NotThere
from steward.butler.views import Filter
from tests.butler.calls import received
from tests.servers.butler import ButlerBench, Tenant


@pytest.fixture
def acme(butler: ButlerBench) -> Tenant:
    acme = butler.tenant("acme")
    batch = [
        received(requested_at=butler.clock() - timedelta(hours=5 * number), tags={"Team": "a"}) for number in range(6)
    ]
    butler.services.records.ingest(acme.bearer, batch, butler.clock())
    return acme


def found(butler: ButlerBench, tenant: Tenant) -> int:
    which = Filter(butler.clock() - timedelta(days=9), butler.clock() + timedelta(days=1), tags=(("Team", "a"),))
    return len(butler.services.explorer.page(tenant.bearer.org_id, which).rows)


def test_earlier_calls_follow_newest_first(butler: ButlerBench, acme: Tenant) -> None:
    keys = butler.services.metadata_keys
    assert (keys.backfill(), found(butler, acme)) == (False, 0)
    keys.activate(acme.owner, "Team", butler.clock())
    counts = []
    while keys.backfill():
        counts.append(found(butler, acme))
    assert counts == [1, 2, 3, 4, 5, 6]
    (key,) = keys.all(acme.bearer.org_id)
    assert key.is_active and key.indexed_since is not None and key.indexed_since < key.first_seen_at


def test_a_call_that_comes_late_is_found_too(butler: ButlerBench, acme: Tenant) -> None:
    keys = butler.services.metadata_keys
    keys.activate(acme.owner, "Team", butler.clock())
    while keys.backfill():
        pass
    late = received(requested_at=butler.clock() - timedelta(days=3), tags={"Team": "a"})
    butler.services.records.ingest(acme.bearer, [late, replace(late, revision=2)], butler.clock())
    while keys.backfill():
        pass
    assert found(butler, acme) == 7


def test_what_came_while_it_rested_is_found_once_it_is_active_again(butler: ButlerBench, acme: Tenant) -> None:
    keys, span = butler.services.metadata_keys, timedelta(days=9)
    keys.activate(acme.owner, "Team", butler.clock())
    while keys.backfill():
        pass
    keys.deactivate(acme.owner, "Team")
    butler.services.records.ingest(acme.bearer, [received(tags={"Team": "a"})], butler.clock())
    assert found(butler, acme) == 6
    keys.activate(acme.owner, "Team", butler.clock())
    while keys.backfill():
        pass
    assert found(butler, acme) == 7
    sums = butler.postgres.run("SELECT sum(calls)::int FROM butler.tag_hours")
    assert (sums, span.days) == ([(7,)], 9)


def test_only_a_name_that_was_seen_can_be_changed(butler: ButlerBench, acme: Tenant) -> None:
    keys, other = butler.services.metadata_keys, butler.tenant("other")
    for actor, name in ((acme.owner, "Nobody"), (other.owner, "Team")):
        with pytest.raises(NotThere):
            keys.label(actor, name, "x")
        with pytest.raises(NotThere):
            keys.activate(actor, name, butler.clock())
        with pytest.raises(NotThere):
            keys.deactivate(actor, name)
    keys.label(acme.owner, "Team", "Which team")
    (key,) = keys.all(acme.bearer.org_id)
    assert (key.label, key.calls, key.distinct_values) == ("Which team", 6, 1)
