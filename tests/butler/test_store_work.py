"""Work: one waiting item a Steward and kind, claimed for a minute, ended once."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest

from steward.butler.errors import NotThere
from steward.butler.store_work import Ended
from tests.servers.butler import ButlerBench


def test_every_steward_of_the_organisation_gets_its_own_item(butler: ButlerBench) -> None:
    acme, work, now = butler.tenant("acme"), butler.services.work, butler.clock()
    second = butler.services.stewards.create(acme.owner, "second").id
    butler.services.keys.create(acme.owner, "k")
    for steward_id in (acme.bearer.steward_id, second):
        (item,) = work.claim(acme.bearer.org_id, steward_id, 10, now)
        assert item.job_type == "sync_api_keys"


def test_a_change_while_one_is_claimed_makes_another(butler: ButlerBench) -> None:
    acme, work, now = butler.tenant("acme"), butler.services.work, butler.clock()
    butler.services.keys.create(acme.owner, "a")
    (first,) = work.claim(acme.bearer.org_id, acme.bearer.steward_id, 10, now)
    butler.services.keys.create(acme.owner, "b")
    butler.services.keys.create(acme.owner, "c")
    (second,) = work.claim(acme.bearer.org_id, acme.bearer.steward_id, 10, now)
    assert first.job_id != second.job_id


def test_an_item_is_ended_by_its_own_steward_alone(butler: ButlerBench) -> None:
    acme, work, now = butler.tenant("acme"), butler.services.work, butler.clock()
    second = butler.services.stewards.create(acme.owner, "second").id
    butler.services.keys.create(acme.owner, "k")
    (item,) = work.claim(acme.bearer.org_id, acme.bearer.steward_id, 10, now)
    for steward_id, job_id in ((second, item.job_id), (acme.bearer.steward_id, uuid4())):
        with pytest.raises(NotThere):
            work.end(acme.bearer.org_id, steward_id, Ended(job_id, True, now))
    (waiting,) = work.claim(acme.bearer.org_id, second, 10, now)
    with pytest.raises(NotThere):
        work.end(acme.bearer.org_id, acme.bearer.steward_id, Ended(waiting.job_id, True, now))
    work.end(acme.bearer.org_id, acme.bearer.steward_id, Ended(item.job_id, True, now))
    assert work.claim(acme.bearer.org_id, acme.bearer.steward_id, 10, now + timedelta(hours=1)) == []


def test_a_limit_is_kept_and_the_oldest_come_first(butler: ButlerBench) -> None:
    from steward.butler.nouns import StorageSettings

    acme, work, now = butler.tenant("acme"), butler.services.work, butler.clock()
    butler.services.keys.create(acme.owner, "k")
    butler.services.storage.set(acme.owner, "org", StorageSettings("s3", "acme-bodies"))
    claimed = [work.claim(acme.bearer.org_id, acme.bearer.steward_id, 1, now)[0].job_type for _ in range(2)]
    assert claimed == ["sync_api_keys", "sync_cloud_storage"]
