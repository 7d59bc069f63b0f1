"""What every directory promises, over the one in memory and the one in PostgreSQL (two versions of it)."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import replace
from datetime import UTC
from uuid import UUID, uuid4

import pytest

from steward.adapters.memory import MemoryDirectory
from steward.adapters.postgres_directory import PostgresDirectory
from steward.errors import BadRequest, LedgerFault, SchemaTooOld
from steward.exchange import LOCAL_ORG, Caller
from steward.ports import Directory, Identity, Registration
from steward.words import Secret
from tests.contracts.records import ORG, OTHER_ORG

_numbers = itertools.count()


def a_hash() -> str:
    return hashlib.sha256(f"mdm_sk_{next(_numbers)}".encode()).hexdigest()


@pytest.fixture(params=["memory", "postgres", "installed_postgres"])
def directory(request: pytest.FixtureRequest) -> Directory:
    if request.param == "memory":
        return MemoryDirectory()
    database = request.getfixturevalue(request.param)
    return PostgresDirectory(database.engine, database.keyring)


def test_a_key_is_found_by_its_hash(directory: Directory) -> None:
    key_hash = a_hash()
    key = directory.create_key(ORG, "production", key_hash, "for the web shop")
    assert (key.org_id, key.key_hash, key.name, key.description) == (ORG, key_hash, "production", "for the web shop")
    assert (key.is_active, key.revoked_at, key.user_id, key.registration_id) == (True, None, None, None)
    assert key.updated_at >= key.created_at
    assert key.created_at.tzinfo == UTC
    assert directory.find_key(key_hash) == key
    assert key.caller() == Caller(key.id, ORG)


def test_an_unknown_hash_is_none(directory: Directory) -> None:
    directory.create_key(ORG, "one", a_hash())
    assert directory.find_key(a_hash()) is None
    assert directory.find_key("") is None
    assert directory.find_key("' OR true --") is None


def test_an_organisation_lists_its_own_keys_newest_first(directory: Directory) -> None:
    mine = [directory.create_key(ORG, name, a_hash()) for name in ("a", "b", "c")]
    theirs = directory.create_key(OTHER_ORG, "a", a_hash())
    assert directory.list_keys(ORG) == mine[::-1]
    assert directory.list_keys(OTHER_ORG) == [theirs]
    assert directory.list_keys(LOCAL_ORG) == []


def test_a_hash_stays_with_the_organisation_that_had_it_first(directory: Directory) -> None:
    key_hash = a_hash()
    key = directory.create_key(ORG, "one", key_hash)
    for org_id in (ORG, OTHER_ORG):
        with pytest.raises(LedgerFault, match="this hash"):
            directory.create_key(org_id, "two", key_hash)
    assert directory.find_key(key_hash) == key
    assert directory.list_keys(OTHER_ORG) == []


def test_a_revoked_key_is_found_revoked_and_stays_so(directory: Directory) -> None:
    key = directory.create_key(ORG, "one", a_hash())
    revoked = directory.revoke_key(ORG, key.id)
    assert revoked is not None
    assert revoked.is_active is False
    assert revoked.revoked_at is not None
    assert revoked.updated_at > key.updated_at
    assert directory.revoke_key(ORG, key.id) == revoked
    assert directory.find_key(key.key_hash) == revoked
    assert directory.list_keys(ORG) == [revoked]


def test_a_key_of_another_organisation_is_not_there_to_be_revoked(directory: Directory) -> None:
    key = directory.create_key(ORG, "one", a_hash())
    assert directory.revoke_key(OTHER_ORG, key.id) is None
    assert directory.revoke_key(ORG, uuid4()) is None
    assert directory.find_key(key.key_hash) == key


def test_what_changed_is_seen_by_the_poll(directory: Directory) -> None:
    keys = [directory.create_key(ORG, "one", a_hash()), directory.create_key(OTHER_ORG, "two", a_hash())]
    assert {key.id for key in directory.changed_keys()} == {key.id for key in keys}
    revoked = directory.revoke_key(ORG, keys[0].id)
    assert revoked in directory.changed_keys()


def test_many_keys_are_confirmed_at_once(directory: Directory) -> None:
    keys = [directory.create_key(org, "name", a_hash()) for org in (ORG, OTHER_ORG, ORG)]
    revoked = directory.revoke_key(ORG, keys[2].id)
    asked = [keys[0].key_hash, keys[1].key_hash, keys[2].key_hash, keys[0].key_hash, a_hash(), "'"]
    confirmed = {key.key_hash: key for key in directory.confirm_keys(asked)}
    assert confirmed == {keys[0].key_hash: keys[0], keys[1].key_hash: keys[1], keys[2].key_hash: revoked}
    assert directory.confirm_keys([]) == []
    assert len(directory.confirm_keys(iter([key.key_hash for key in keys] + [a_hash() for _ in range(5000)]))) == 3


def test_names_are_clean_text_of_1_to_200_characters(directory: Directory) -> None:
    names = {"x" * 200: "x" * 200, " Büro 😀 ": "Büro 😀", "a\0b": "a\ufffdb", "\ud800": "\ufffd", "%s :x": "%s :x"}
    for given, kept in names.items():
        key = directory.create_key(ORG, given, a_hash(), given)
        assert (key.name, key.description) == (kept, kept)
        assert directory.find_key(key.key_hash) == key
    for refused in ("", " ", "x" * 201):
        with pytest.raises(BadRequest):
            directory.create_key(ORG, refused, a_hash())


def test_an_instance_secret_is_random_and_stays(directory: Directory) -> None:
    secret = directory.instance_secret("provider_key_hash")
    assert len(secret.reveal()) == 32
    assert len(set(secret.reveal())) > 8
    assert directory.instance_secret("provider_key_hash") == secret
    with pytest.raises(SchemaTooOld):
        directory.instance_secret("no such secret")


TOKEN = Secret("mdm_st_" + "t" * 32)
BUTLER = "https://butler.example"


def someone(name: str = "Acme") -> Identity:
    return Identity(uuid4(), uuid4(), name)


def token_of(directory: Directory, org_id: UUID) -> str | None:
    token = directory.token(org_id)
    return None if token is None else token.reveal()


def known(directory: Directory, org_id: UUID) -> Registration | None:
    return next((each for each in directory.registrations() if each.org_id == org_id), None)


def test_a_registration_is_kept_with_its_token(directory: Directory) -> None:
    who = someone()
    made = directory.register(who, BUTLER, TOKEN)
    assert (made.org_id, made.steward_id, made.org_name, made.butler_url) == (
        who.org_id,
        who.steward_id,
        who.org_name,
        BUTLER,
    )
    assert known(directory, who.org_id) == made
    assert token_of(directory, who.org_id) == TOKEN.reveal()


def test_the_token_of_a_new_butler_is_not_for_the_one_before(directory: Directory) -> None:
    who = someone()
    former = directory.register(who, BUTLER, TOKEN)
    assert directory.token(who.org_id, former) == TOKEN
    directory.deregister(who.org_id)
    new = directory.register(who, "https://other.example", Secret("mdm_st_" + "n" * 32))
    assert directory.token(who.org_id, former) is None
    assert directory.token(who.org_id, new) == Secret("mdm_st_" + "n" * 32)


def test_registered_again_it_is_the_same_with_a_new_token(directory: Directory) -> None:
    who = someone()
    first = directory.register(who, BUTLER, TOKEN)
    other = Secret("mdm_st_" + "u" * 32)
    again = directory.register(replace(who, org_name="Acme & Co"), BUTLER, other)
    assert (again.id, again.org_name) == (first.id, "Acme & Co")
    assert again.registered_at >= first.registered_at
    assert token_of(directory, who.org_id) == other.reveal()


def test_at_another_butler_it_is_refused_until_it_is_deregistered(directory: Directory) -> None:
    who = someone()
    first = directory.register(who, BUTLER, TOKEN)
    with pytest.raises(LedgerFault, match="deregister"):
        directory.register(who, "https://evil.example", TOKEN)
    assert known(directory, who.org_id) == first
    ended = directory.deregister(who.org_id)
    assert ended is not None
    assert ended.deregistered_at is not None
    assert token_of(directory, who.org_id) is None
    assert directory.deregister(who.org_id) == ended, "safe to repeat"
    moved = directory.register(who, "https://other.example", TOKEN)
    assert (moved.butler_url, moved.deregistered_at) == ("https://other.example", None)
    assert moved.id != first.id, "what belonged to the first Butler is not the other's"
    directory.deregister(who.org_id)
    assert directory.register(who, "https://other.example", TOKEN).id == moved.id


def test_who_was_never_registered_cannot_be_deregistered(directory: Directory) -> None:
    assert directory.deregister(uuid4()) is None


def test_organisations_stand_beside_each_other(directory: Directory) -> None:
    one, other = someone("One"), someone("Other")
    directory.register(one, BUTLER, TOKEN)
    directory.register(other, "https://other.example", TOKEN)
    directory.deregister(one.org_id)
    assert (token_of(directory, one.org_id), token_of(directory, other.org_id)) == (None, TOKEN.reveal())
