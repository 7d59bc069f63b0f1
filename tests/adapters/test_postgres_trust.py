"""Whoever writes to the database, and has no key: what he edits, copies or forges takes no effect, and is said."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from steward.adapters import postgres_trust
from steward.adapters.postgres_connection import open_engine
from steward.adapters.postgres_directory import PostgresDirectory
from steward.arriving import all_in_force
from steward.errors import LedgerUnavailable, SchemaTooOld
from steward.policy import NOTHING_SAID, Local
from steward.ports import Directory, Identity, Registration
from steward.words import Secret
from tests.contracts.records import ORG, OTHER_ORG
from tests.said import listening
from tests.servers.postgres import Database
from tests.wanted import USER, for_org, for_user, gcs, provider_key, s3

AFTER = Local(window_s=0)
TOKEN = Secret("mdm_st_" + "t" * 32)
MADE = Registration(uuid4(), ORG, "Acme", uuid4(), "https://butler.example", datetime.now(UTC))


def register(directory: Directory) -> Registration:
    return directory.register(Identity(uuid4(), ORG, "Acme"), "https://butler.example", TOKEN)


@pytest.fixture
def directory(postgres: Database) -> PostgresDirectory:
    return PostgresDirectory(postgres.engine, postgres.keyring)


@pytest.fixture
def registration(directory: PostgresDirectory) -> Registration:
    made = register(directory)
    directory.replace_storage_configs(made, [for_org(s3()), for_user(gcs())])
    return made


def buckets(postgres: Database, local: Local = AFTER) -> dict[str, str]:
    directory = PostgresDirectory(postgres.engine, postgres.keyring, local)
    found = all_in_force(directory.kept_configs(), local)
    return {str(each.config.owner_type): each.decided.destination.bucket for each in found}


EDITS = {
    "bucket": "bucket = 'evil-prompts'",
    "endpoint": "endpoint = 'https://evil.example'",
    "region": "region = 'us-east-1'",
    "principal": "principal = 'AKIAEVIL'",
    "vendor": "vendor = 'gcs'",
    "id": "id = gen_random_uuid()",
    "organisation": f"owner_id = '{OTHER_ORG}', org_id = '{OTHER_ORG}'",
    "owner": f"owner_type = 'user', owner_id = '{OTHER_ORG}'",
    "sealed": "sealed = decode('00', 'hex')",
    "another's sealed": "sealed = (SELECT sealed FROM storage_configs WHERE owner_type = 'user')",
}


@pytest.mark.parametrize("what", EDITS, ids=str)
def test_an_edited_destination_is_not_used_and_said(postgres: Database, registration: Registration, what: str) -> None:
    assert buckets(postgres) == {"org": "acme-prompts", "user": "acme-prompts"}
    mark = PostgresDirectory(postgres.engine, postgres.keyring).storage_mark()
    postgres.run(f"UPDATE storage_configs SET {EDITS[what]} WHERE owner_type = 'org'")
    directory = PostgresDirectory(postgres.engine, postgres.keyring)
    assert directory.storage_mark() != mark, "every replica looks again"
    with listening() as said:
        assert buckets(postgres) == {"user": "acme-prompts"}
    assert "storage_config_broken" in said.events()
    [waits] = directory.pending_approvals()
    assert (waits.reason, waits.approvable) == ("broken", False)
    directory.replace_storage_configs(registration, [for_org(s3()), for_user(gcs())])
    assert buckets(postgres) == {"org": "acme-prompts", "user": "acme-prompts"}, "the next pull mends it"


FORGERIES = {
    "a MAC of zeros": "decode(repeat('00', 32), 'hex')",
    "no MAC": "decode('', 'hex')",
    "that of another approval": "(SELECT mac FROM approvals WHERE kind = 'storage' LIMIT 1)",
}


@pytest.mark.parametrize("what", FORGERIES, ids=str)
def test_a_forged_approval_is_ignored_and_said(postgres: Database, registration: Registration, what: str) -> None:
    later = PostgresDirectory(postgres.engine, postgres.keyring, AFTER)
    later.replace_storage_configs(registration, [for_org(s3("evil-prompts")), for_user(gcs())])
    [waits] = later.pending_approvals()
    postgres.run(
        "INSERT INTO approvals (org_id, kind, fingerprint, how, approved_by, approved_at, names, mac) "
        f"VALUES ('{ORG}', 'storage', '{waits.fingerprint}', 'person', 'alice', now(), '', {FORGERIES[what]})"
    )
    with listening() as said:
        assert buckets(postgres) == {"org": "acme-prompts", "user": "acme-prompts"}
        assert [each.fingerprint for each in later.pending_approvals()] == [waits.fingerprint]
    assert "approval_forged" in said.events()
    later.approve(waits.fingerprint, "alice")
    assert buckets(postgres) == {"org": "evil-prompts", "user": "acme-prompts"}, "a person's own word mends it"


def test_an_approval_moved_to_another_fingerprint_is_none(postgres: Database, registration: Registration) -> None:
    later = PostgresDirectory(postgres.engine, postgres.keyring, AFTER)
    later.replace_storage_configs(registration, [for_org(s3("evil-prompts"))])
    [waits] = later.pending_approvals()
    postgres.run(f"UPDATE approvals SET fingerprint = '{waits.fingerprint}' WHERE names LIKE '%\"org\"%'")
    assert buckets(postgres) == {}
    for column in ("how = 'window'", "approved_by = 'mallory'", "approved_at = now()", "names = '{}'"):
        later.approve(waits.fingerprint, "alice")
        assert buckets(postgres) == {"org": "evil-prompts"}
        postgres.run(f"UPDATE approvals SET {column} WHERE fingerprint = '{waits.fingerprint}'")
        assert buckets(postgres) == {}, column


def test_the_first_day_cannot_be_renewed_by_a_date(postgres: Database) -> None:
    short = Local(window_s=0.000001)
    directory = PostgresDirectory(postgres.engine, postgres.keyring, short)
    registration = register(directory)
    postgres.run("UPDATE registrations SET registered_at = now() + interval '1 hour'")
    postgres.run("UPDATE approvals SET approved_at = now() WHERE kind = 'registration'")
    day = PostgresDirectory(postgres.engine, postgres.keyring, NOTHING_SAID)
    [renewed] = day.registrations()
    day.replace_storage_configs(renewed, [for_org(s3("evil-prompts"))])
    assert buckets(postgres) == {}
    again = register(day)
    assert again.id == registration.id
    day.replace_storage_configs(again, [for_org(s3())])
    assert buckets(postgres) == {"org": "acme-prompts"}, "a person who registers anew opens it"


def test_secrets_rest_sealed_and_the_rest_in_clear(postgres: Database, registration: Registration) -> None:
    rows = postgres.run("SELECT bucket, principal, sealed FROM storage_configs ORDER BY owner_type")
    assert [row[:2] for row in rows] == [
        ("acme-prompts", "AKIAEXAMPLE"),
        ("acme-prompts", "writer@acme.iam.gserviceaccount.com"),
    ]
    for _, _, sealed in rows:
        assert isinstance(sealed, bytes)
        assert b"secret" not in sealed
        assert b"PRIVATE" not in sealed


KEY_EDITS = {
    "provider": "provider = 'anthropic'",
    "made local": "source = 'local'",
    "another's": f"owner_type = 'user', owner_id = '{USER}'",
    "another organisation's": f"org_id = '{OTHER_ORG}', owner_id = '{OTHER_ORG}'",
    "id": "id = gen_random_uuid()",
}


@pytest.mark.parametrize("what", KEY_EDITS, ids=str)
def test_a_moved_provider_key_opens_nowhere(
    postgres: Database, directory: PostgresDirectory, registration: Registration, what: str
) -> None:
    directory.replace_provider_keys(registration, [provider_key()])
    [(sealed,)] = postgres.run("SELECT sealed FROM provider_keys")
    assert isinstance(sealed, bytes)
    assert b"sk-provider" not in sealed
    [waits] = directory.pending_approvals()
    directory.approve(waits.fingerprint, "alice")
    assert directory.job_key(ORG, "openai") is not None
    postgres.run(f"UPDATE provider_keys SET {KEY_EDITS[what]}")
    places = [(org, name, who) for org in (ORG, OTHER_ORG) for name in ("openai", "anthropic") for who in (None, USER)]
    assert [directory.job_key(*place) for place in places] == [None] * len(places)
    assert directory.provider_keys() == []


def test_the_next_pull_mends_a_key_that_was_tampered_with(
    postgres: Database, directory: PostgresDirectory, registration: Registration
) -> None:
    sent = provider_key()
    directory.replace_provider_keys(registration, [sent])
    postgres.run("UPDATE provider_keys SET sealed = decode('00', 'hex')")
    assert directory.provider_keys() == []
    directory.replace_provider_keys(registration, [sent])
    [kept] = directory.provider_keys()
    directory.approve(kept.fingerprint, "alice")
    assert directory.job_key(ORG, "openai") == sent.key


def test_a_key_of_butlers_with_an_edited_fingerprint_waits(
    postgres: Database, directory: PostgresDirectory, registration: Registration
) -> None:
    good, bad = provider_key(), provider_key("sk-account-of-mallory")
    directory.replace_provider_keys(registration, [good])
    [waits] = directory.pending_approvals()
    directory.approve(waits.fingerprint, "alice")
    directory.replace_provider_keys(registration, [bad])
    postgres.run(f"UPDATE provider_keys SET fingerprint = '{waits.fingerprint}'")
    assert directory.job_key(ORG, "openai") is None


LISTS_ALL = {"ALL_CONFIGS", "ALL_APPROVALS", "ALL_KEYS", "MARK"}
"""For operators, and for the poll of the stores, over all organisations."""


def test_every_statement_names_the_organisation_and_its_columns() -> None:
    found = {
        name: value
        for name, value in vars(postgres_trust).items()
        if name.isupper() and isinstance(value, str) and re.search(r"\b(FROM|INTO) (storage|provider|approv)", value)
    }
    assert len(found) >= 12
    assert {name for name, sql in found.items() if ":org_id" not in sql} == LISTS_ALL
    assert not [name for name, sql in found.items() if "*" in sql.replace("(*)", "")]


CALLS: list[Callable[[PostgresDirectory], object]] = [
    lambda directory: directory.replace_storage_configs(MADE, [for_org(s3())]),
    lambda directory: directory.replace_provider_keys(MADE, [provider_key()]),
    lambda directory: directory.storage_mark(),
    lambda directory: directory.kept_configs(),
    lambda directory: directory.pending_approvals(),
    lambda directory: directory.approve("0" * 64, "alice"),
    lambda directory: directory.provider_keys(),
    lambda directory: directory.set_provider_key(ORG, "openai", Secret("sk-one-two-three")),
    lambda directory: directory.remove_provider_key(ORG, "openai"),
    lambda directory: directory.job_key(ORG, "openai"),
]


def test_without_tables_the_schema_is_too_old(empty_postgres: Database) -> None:
    directory = PostgresDirectory(empty_postgres.engine, empty_postgres.keyring)
    for call in CALLS:
        with pytest.raises(SchemaTooOld):
            call(directory)


def test_without_a_server_nothing_is_known(postgres: Database) -> None:
    engine = open_engine(replace(postgres.address, host="/nonexistent"))
    directory = PostgresDirectory(engine, postgres.keyring)
    for call in CALLS:
        with pytest.raises(LedgerUnavailable):
            call(directory)
    engine.dispose()
