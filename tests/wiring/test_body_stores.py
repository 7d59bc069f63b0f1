"""Each destination has its store, and bodies go where they are allowed to."""

from __future__ import annotations

from uuid import uuid4

import pytest

from steward.adapters.files import FilesBodyStore
from steward.adapters.gcs import GcsBodyStore
from steward.adapters.postgres_directory import PostgresDirectory
from steward.adapters.s3 import S3BodyStore
from steward.destination import Destination
from steward.exchange import Caller
from steward.policy import Local
from steward.ports import BodyStore, Identity
from steward.wiring.body_stores import decided_stores, open_store
from steward.wiring.relay import build
from steward.words import Secret
from tests.contracts.records import ORG
from tests.servers.postgres import Database
from tests.servers.waiting import eventually_async
from tests.services import run, settings
from tests.wanted import USER, for_org, for_user, provider_key, s3


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("", None),
        ("s3://bucket/prefix", S3BodyStore),
        ("gs://bucket", GcsBodyStore),
        ("file:///tmp/bodies", FilesBodyStore),
    ],
)
def test_each_destination_has_its_store(url: str, kind: type[BodyStore] | None) -> None:
    destination: Destination | None = settings(BODY_STORE_URL=url).body_store
    store = open_store(destination)
    assert store is None if kind is None else isinstance(store, kind)
    if store is not None:
        store.close()


def test_what_waits_for_a_person_is_counted_and_what_is_allowed_is_where_bodies_go(postgres: Database) -> None:
    services = build(settings(postgres, BODY_STORE_ALLOW="s3://acme-prompts@eu-west-1", AFTER_RESPONSE="inline"))
    directory = PostgresDirectory(postgres.engine, postgres.keyring, Local(window_s=0))
    token = Secret("mdm_st_" + "t" * 32)
    made = directory.register(Identity(ORG, ORG, "Acme"), "https://butler.example", token)
    directory.replace_storage_configs(made, [for_org(s3()), for_user(s3("other"))])
    directory.replace_provider_keys(made, [provider_key()])
    stores = decided_stores(services.settings, directory)

    async def story() -> None:
        await eventually_async(lambda: services.health.approvals_pending == 1, 20)
        assert services.relay_state(0, 0).approvals_pending == 1, "the other bucket is refused, and waits for nobody"

    run(services, story)
    assert stores.look()
    place = stores.of(Caller(uuid4(), ORG, USER))
    assert place is not None
    assert isinstance(place.store, S3BodyStore)
    assert place.store.url("k") == "s3://acme-prompts/k"
    stores.close()
