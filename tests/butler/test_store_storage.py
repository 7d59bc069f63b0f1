"""Storage configs: one a scope and owner, a secret for one destination, and what records say of bodies."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from steward.butler.errors import NotAcceptable, NotThere
from steward.butler.nouns import Actor, Role, StorageSettings
from steward.words import Secret
from tests.butler.calls import received
from tests.servers.butler import ButlerBench

S3 = StorageSettings("s3", "acme-bodies", "eu-central-1", None, "AKIA123", secret=Secret("s3cr3t"))
GCS = StorageSettings("gcs", "acme-other", gcs_project_id="acme-1", secret=Secret('{"type": "x"}'))


def test_one_for_the_organisation_and_one_each(butler: ButlerBench) -> None:
    acme, storage = butler.tenant("acme"), butler.services.storage
    member = butler.member(acme, Role.MEMBER)
    first = storage.set(acme.owner, "org", S3)
    mine = storage.set(member, "user", GCS)
    assert storage.set(acme.owner, "org", GCS) == first != mine
    assert [(each.owner_type, each.gcs_bucket, each.owner_email) for each in storage.all(acme.bearer.org_id)] == [
        ("org", "acme-other", None),
        ("user", "acme-other", member.email),
    ]
    assert storage.owner(acme.bearer.org_id, mine) == ("user", member.user_id)
    sent = {each.config.owner_type: each.secret.reveal() for each in storage.sent(acme.bearer.org_id) if each.secret}
    assert sent == {"org": '{"type": "x"}', "user": '{"type": "x"}'}
    storage.remove(acme.owner, first)
    with pytest.raises(NotThere):
        storage.remove(acme.owner, first)


def test_a_secret_stays_for_the_same_destination_alone(butler: ButlerBench) -> None:
    acme, storage = butler.tenant("acme"), butler.services.storage
    with pytest.raises(NotAcceptable):
        storage.set(acme.owner, "org", replace(S3, secret=None))
    storage.set(acme.owner, "org", S3)
    storage.set(acme.owner, "org", replace(S3, secret=None))
    (sent,) = storage.sent(acme.bearer.org_id)
    assert sent.secret == Secret("s3cr3t")
    with pytest.raises(NotAcceptable):
        storage.set(acme.owner, "org", replace(S3, secret=None, s3_endpoint="https://evil.example"))
    storage.set(acme.owner, "org", replace(S3, secret=None, s3_access_key_id=None))
    (sent,) = storage.sent(acme.bearer.org_id)
    assert (sent.secret, sent.config.has_secret) == (None, False)


def test_the_server_itself_has_no_personal_config(butler: ButlerBench) -> None:
    acme = butler.tenant("acme")
    with pytest.raises(NotAcceptable):
        butler.services.storage.set(Actor(acme.bearer.org_id, None, "server"), "user", S3)


def test_what_the_records_say_of_bodies(butler: ButlerBench) -> None:
    acme, at = butler.tenant("acme"), butler.clock() - timedelta(minutes=5)
    batch = [received(requested_at=at, body_state=state) for state in ("stored", "stored", "failed", None)]
    butler.services.records.ingest(acme.bearer, batch, butler.clock())
    said = butler.services.storage.body_states(acme.bearer.org_id, at - timedelta(hours=1), butler.clock())
    assert said.counts == {"stored": 2, "failed": 1}
    assert (said.newest_stored_at, said.newest_failed_at) == (at, at)
