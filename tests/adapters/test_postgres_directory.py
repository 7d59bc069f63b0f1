"""What PostgreSQL itself refuses of keys, whoever asks, and what a wrong key opens."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from uuid import uuid4

import pytest

from steward.adapters import postgres_directory, postgres_ledger, postgres_outbox
from steward.adapters.postgres_connection import RowsRefused, mapped, open_engine
from steward.adapters.postgres_directory import PostgresDirectory
from steward.errors import LedgerUnavailable, SchemaTooOld, SealBroken
from steward.ports import ApiKey, Directory, Identity
from steward.seal import Keyring
from steward.words import Secret
from tests.contracts.records import ORG
from tests.contracts.test_directory import a_hash
from tests.servers.postgres import Database

WITHOUT_ORGANISATION = {"FIND_KEY", "CHANGED_KEYS", "CONFIRM_KEYS", "REGISTRATIONS", "LOWER", "RESEND"}
"""They list the organisations, find out whose a key is (a look-up by hash, and the poll over all that is cached), or
are asked for by a person inside, who means all."""


def statements() -> dict[str, str]:
    """Every SQL constant of the three adapters, by name."""
    modules = (postgres_directory, postgres_ledger, postgres_outbox)
    found = {name: value for module in modules for name, value in vars(module).items() if name.isupper()}
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, str) and re.search(r"^\s*(WITH|SELECT|INSERT|UPDATE|DELETE)\b", value)
    }


def test_every_statement_on_a_tenants_table_names_the_organisation() -> None:
    tenants = {
        name: sql for name, sql in statements().items() if re.search(r"\b(llm_requests|api_keys|registrations)\b", sql)
    }
    assert {"UPSERT", "GET", "NEWEST", "CREATE_KEY", "LIST_KEYS", "REVOKE_KEY", "GET_KEY"} <= tenants.keys()
    lacking = {
        name for name, sql in tenants.items() if not re.search(r"org_id = (:org_id|excluded\.org_id)|:org_id", sql)
    }
    assert lacking == WITHOUT_ORGANISATION


def test_no_statement_reads_columns_it_does_not_name() -> None:
    assert all("*" not in sql for sql in statements().values())


@pytest.fixture
def directory(postgres: Database) -> PostgresDirectory:
    return PostgresDirectory(postgres.engine, postgres.keyring)


@pytest.fixture
def key(directory: PostgresDirectory) -> ApiKey:
    return directory.create_key(ORG, "one", a_hash())


FORBIDDEN = {
    "delete": "DELETE FROM api_keys",
    "truncate": "TRUNCATE api_keys",
    "another hash": f"UPDATE api_keys SET key_hash = '{'a' * 64}'",
    "another id": "UPDATE api_keys SET id = gen_random_uuid()",
    "another organisation": "UPDATE api_keys SET org_id = gen_random_uuid()",
    "another user": "UPDATE api_keys SET user_id = gen_random_uuid()",
    "another registration": "UPDATE api_keys SET registration_id = gen_random_uuid()",
    "active and revoked": "UPDATE api_keys SET revoked_at = now()",
    "no hash": "UPDATE api_keys SET key_hash = 'mdm_sk_plaintext'",
    "no name": "UPDATE api_keys SET name = ''",
}
REVIVALS = {
    "active again": "UPDATE api_keys SET is_active = true",
    "never revoked": "UPDATE api_keys SET revoked_at = NULL",
    "wholly revived": "UPDATE api_keys SET is_active = true, revoked_at = NULL",
    "revoked at another time": "UPDATE api_keys SET revoked_at = now()",
    "by an upsert": (
        "INSERT INTO api_keys (id, org_id, key_hash, name) SELECT id, org_id, key_hash, name FROM api_keys "
        "ON CONFLICT (org_id, id) DO UPDATE SET is_active = true, revoked_at = NULL"
    ),
}


def test_a_key_can_neither_vanish_nor_move(postgres: Database, directory: PostgresDirectory, key: ApiKey) -> None:
    for what, sql in FORBIDDEN.items():
        with pytest.raises(RowsRefused), mapped():
            postgres.run(sql)
        assert directory.list_keys(ORG) == [key], what


def test_a_revoked_key_cannot_be_revived(postgres: Database, directory: PostgresDirectory, key: ApiKey) -> None:
    revoked = directory.revoke_key(ORG, key.id)
    for what, sql in REVIVALS.items():
        with pytest.raises(RowsRefused), mapped():
            postgres.run(sql)
        assert directory.find_key(key.key_hash) == revoked, what


def test_updated_at_is_the_databases_own(postgres: Database, directory: PostgresDirectory, key: ApiKey) -> None:
    """A date in 9999 would hide every later change from the poll; one long past, the change itself."""
    for moment in ("9999-01-01", "1970-01-01"):
        postgres.run(f"UPDATE api_keys SET name = 'two', updated_at = '{moment}'")
        [changed] = directory.changed_keys()
        assert changed.name == "two"
        [(recent,)] = postgres.run("SELECT abs(extract(epoch FROM clock_timestamp() - updated_at)) < 60 FROM api_keys")
        assert recent is True
    postgres.run(
        "INSERT INTO api_keys (id, org_id, key_hash, name, updated_at) "
        f"VALUES (gen_random_uuid(), '{ORG}', '{a_hash()}', 'three', '1970-01-01')"
    )
    assert {found.name for found in directory.changed_keys()} == {"two", "three"}


def test_the_poll_forgets_what_changed_long_ago(postgres: Database, directory: PostgresDirectory, key: ApiKey) -> None:
    postgres.run("ALTER TABLE api_keys DISABLE TRIGGER USER")
    postgres.run("UPDATE api_keys SET updated_at = clock_timestamp() - interval '61 seconds'")
    assert directory.changed_keys() == []
    postgres.run("UPDATE api_keys SET updated_at = clock_timestamp() - interval '55 seconds'")
    assert [found.id for found in directory.changed_keys()] == [key.id]


def test_a_wrong_encryption_key_is_told(postgres: Database) -> None:
    other = PostgresDirectory(postgres.engine, Keyring(Secret(bytes(32))))
    with pytest.raises(SealBroken):
        other.instance_secret("provider_key_hash")


def test_an_instance_secret_rests_sealed(postgres: Database, directory: PostgresDirectory) -> None:
    secret = directory.instance_secret("provider_key_hash").reveal()
    [(sealed,)] = postgres.run("SELECT sealed FROM instance_secrets")
    assert isinstance(sealed, bytes)
    assert secret not in sealed


WHO = Identity(uuid4(), uuid4(), "Acme")
BUTLER = "https://butler.example"
TOKEN = Secret("mdm_st_" + "t" * 32)


def test_a_token_rests_sealed_and_opens_for_its_organisation_and_butler_alone(
    postgres: Database, directory: PostgresDirectory
) -> None:
    """SECURITY F18: whoever writes to the database can move it, and then it opens for nobody."""
    directory.register(WHO, BUTLER, TOKEN)
    [(sealed,)] = postgres.run("SELECT token FROM registrations")
    assert isinstance(sealed, bytes)
    assert TOKEN.reveal().encode() not in sealed
    [made] = directory.registrations()
    other = uuid4()
    moved = ("butler_url = 'https://evil.example'", "id = gen_random_uuid()", f"org_id = '{other}'")
    for change in moved:
        postgres.run(f"UPDATE registrations SET {change}")
        with pytest.raises(SealBroken):
            directory.token(other if "org_id" in change else WHO.org_id)
        assert len(directory.registrations()) == 1, "it is still listed, so that it can be deregistered"
        postgres.run(f"UPDATE registrations SET butler_url = '{BUTLER}', id = '{made.id}', org_id = '{WHO.org_id}'")
    token = directory.token(WHO.org_id)
    assert token is not None
    assert token.reveal() == TOKEN.reveal()
    with pytest.raises(SealBroken):  # an address that stood there only while registrations were listed
        directory.token(WHO.org_id, replace(made, butler_url="https://evil.example"))


def test_the_keys_of_a_deregistered_organisation_rest_and_others_do_not(
    postgres: Database, directory: PostgresDirectory
) -> None:
    made = directory.register(WHO, BUTLER, TOKEN)
    other = directory.register(replace(WHO, org_id=uuid4()), BUTLER, TOKEN)
    for each in (made, other):
        postgres.run(
            "INSERT INTO api_keys (id, org_id, key_hash, name, registration_id) "
            f"VALUES (gen_random_uuid(), '{each.org_id}', '{a_hash()}', 'synced', '{each.id}')"
        )
    local = directory.create_key(WHO.org_id, "made inside", a_hash())
    directory.deregister(WHO.org_id)
    active = {(key.org_id, key.name): key.is_active for org in (made, other) for key in directory.list_keys(org.org_id)}
    assert active == {
        (made.org_id, "synced"): False,
        (made.org_id, local.name): True,
        (other.org_id, "synced"): True,
    }
    assert len(directory.changed_keys()) == 3, "every replica hears of it by its next poll"


CALLS: list[Callable[[Directory], object]] = [
    lambda directory: directory.create_key(ORG, "one", a_hash()),
    lambda directory: directory.list_keys(ORG),
    lambda directory: directory.revoke_key(ORG, ORG),
    lambda directory: directory.find_key(a_hash()),
    lambda directory: directory.changed_keys(),
    lambda directory: directory.confirm_keys([a_hash()]),
    lambda directory: directory.instance_secret("provider_key_hash"),
    lambda directory: directory.register(WHO, BUTLER, TOKEN),
    lambda directory: directory.registrations(),
    lambda directory: directory.token(WHO.org_id),
    lambda directory: directory.deregister(WHO.org_id),
]


def test_without_tables_the_schema_is_too_old(empty_postgres: Database) -> None:
    directory = PostgresDirectory(empty_postgres.engine, empty_postgres.keyring)
    for call in CALLS:
        with pytest.raises(SchemaTooOld):
            call(directory)


def test_without_a_server_nothing_is_said_of_any_key(postgres: Database) -> None:
    engine = open_engine(replace(postgres.address, host="/nonexistent"))
    directory = PostgresDirectory(engine, postgres.keyring)
    for call in CALLS:
        with pytest.raises(LedgerUnavailable):
            call(directory)
    engine.dispose()
