"""What every trust book promises, over `steward.adapters.memory_trust` and `steward.adapters.postgres_trust`.

How rows of the latter stand is `steward.adapters.postgres_trust_rows`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from steward.adapters.memory import MemoryDirectory
from steward.adapters.postgres_directory import PostgresDirectory
from steward.arriving import InForce, all_in_force
from steward.body_store_allow import allow_list
from steward.errors import LedgerFault
from steward.policy import NOTHING_SAID, Local
from steward.ports import Directory, Identity, Registration
from steward.sent import KeptConfig, OwnerType, Wanted
from steward.words import Secret
from tests.contracts.records import ORG, OTHER_ORG
from tests.wanted import EVIL, OTHER_USER, USER, VARIANTS, for_org, for_user, gcs, provider_key, s3

TOKEN = Secret("mdm_st_" + "t" * 32)
AFTER = Local(window_s=0)
"""The first day is over."""

Opener = Callable[[Local], Directory]


@pytest.fixture(params=["memory", "postgres"])
def opener(request: pytest.FixtureRequest) -> Opener:
    """The same book under other settings, as other processes have it."""
    if request.param == "memory":
        one = MemoryDirectory()

        def again(local: Local) -> Directory:
            one._local = local
            return one

        return again
    database = request.getfixturevalue("postgres")
    return lambda local: PostgresDirectory(database.engine, database.keyring, local)


def register(directory: Directory, org_id: UUID = ORG) -> Registration:
    return directory.register(Identity(uuid4(), org_id, "Acme"), "https://butler.example", TOKEN)


def followed(directory: Directory, local: Local = AFTER) -> dict[UUID, InForce]:
    return {each.config.owner_id: each for each in all_in_force(directory.kept_configs(), local)}


def bucket_of(directory: Directory, owner: UUID = ORG, local: Local = AFTER) -> str | None:
    found = followed(directory, local).get(owner)
    return None if found is None else found.decided.destination.bucket


def test_in_the_first_day_a_destination_is_pinned_as_it_arrives(opener: Opener) -> None:
    directory = opener(NOTHING_SAID)
    registration = register(directory)
    directory.replace_storage_configs(registration, [for_org(s3()), for_user(gcs("personal"))])
    assert directory.pending_approvals() == []
    assert (bucket_of(directory), bucket_of(directory, USER)) == ("acme-prompts", "personal")
    assert {each.destination for each in directory.kept_configs()} == {s3(), gcs("personal")}
    assert bucket_of(opener(AFTER)) == "acme-prompts", "what was pinned stays approved"


def test_a_custom_endpoint_is_never_pinned(opener: Opener) -> None:
    directory = opener(NOTHING_SAID)
    directory.replace_storage_configs(register(directory), [for_org(s3(endpoint=EVIL))])
    assert bucket_of(directory) is None
    [waits] = directory.pending_approvals()
    assert (waits.reason, waits.approvable, waits.names["endpoint"]) == ("custom_endpoint", True, EVIL)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_after_that_day_nothing_takes_the_place_of_what_is_in_force(opener: Opener, variant: str) -> None:
    directory = opener(NOTHING_SAID)
    registration = register(directory)
    directory.replace_storage_configs(registration, [for_org(s3())])
    later = opener(AFTER)
    for _ in range(2):
        later.replace_storage_configs(registration, [for_org(VARIANTS[variant])])
        found = followed(later)
        assert found[ORG].decided.destination == s3()
        [waits] = later.pending_approvals()
        assert waits.fingerprint != found[ORG].config.fingerprint
        later.replace_storage_configs(registration, [for_org(s3("yet-another"))])
        assert bucket_of(later) == "acme-prompts"
    later.replace_storage_configs(registration, [for_org(s3())])
    assert later.pending_approvals() == []


def test_once_approved_it_is_followed_and_the_former_is_forgotten(opener: Opener) -> None:
    directory = opener(NOTHING_SAID)
    registration = register(directory)
    directory.replace_storage_configs(registration, [for_org(s3())])
    later = opener(AFTER)
    new = [for_org(s3("new-prompts", endpoint="https://minio.example"))]
    later.replace_storage_configs(registration, new)
    mark = later.storage_mark()
    [waits] = later.pending_approvals(ORG)
    approved = later.approve(waits.fingerprint, "alice")
    assert approved is not None
    assert approved.fingerprint == waits.fingerprint
    assert later.storage_mark() != mark
    assert (bucket_of(later), later.pending_approvals()) == ("new-prompts", [])
    again = later.approve(waits.fingerprint, "alice")
    assert again is not None, "safe to repeat"
    assert later.approve("0" * 64, "alice") is None
    later.replace_storage_configs(registration, [for_org(s3("third-prompts"))])
    assert bucket_of(later) == "new-prompts", "the last one that was in force, not the first"


def test_with_an_allow_list_nothing_else_is_used_and_nothing_approved(opener: Opener) -> None:
    local = Local(allow=allow_list("s3://acme-prompts@eu-west-1/123456789012"), window_s=86_400)
    directory = opener(local)
    registration = register(directory)
    directory.replace_storage_configs(registration, [for_org(s3())])
    assert bucket_of(directory, ORG, local) == "acme-prompts"
    directory.replace_storage_configs(registration, [for_org(s3("evil-prompts"))])
    assert bucket_of(directory, ORG, local) == "acme-prompts"
    [waits] = directory.pending_approvals()
    assert (waits.reason, waits.approvable) == ("not_in_allow_list", False)
    with pytest.raises(LedgerFault, match="BODY_STORE_ALLOW"):
        directory.approve(waits.fingerprint, "alice")
    assert bucket_of(directory, ORG, local) == "acme-prompts"
    opener(AFTER).approve(waits.fingerprint, "alice")
    assert bucket_of(directory, ORG, local) == "acme-prompts", "an approval from before does not count either"


def test_what_is_no_longer_in_the_set_is_gone(opener: Opener) -> None:
    directory = opener(NOTHING_SAID)
    registration = register(directory)
    other = register(directory, OTHER_ORG)
    directory.replace_storage_configs(other, [for_org(s3("theirs"), OTHER_ORG)])
    directory.replace_storage_configs(registration, [for_org(s3()), for_user(gcs()), for_user(gcs(), OTHER_USER)])
    directory.replace_storage_configs(registration, [for_user(gcs())])
    assert set(followed(directory)) == {USER, OTHER_ORG}
    directory.replace_storage_configs(registration, [])
    assert set(followed(directory)) == {OTHER_ORG}


def test_the_same_set_again_changes_nothing(opener: Opener) -> None:
    directory = opener(NOTHING_SAID)
    registration = register(directory)
    said = [for_org(s3()), for_user(gcs()), for_user(s3(endpoint=EVIL), OTHER_USER), for_user(None, uuid4())]
    directory.replace_storage_configs(registration, said)
    mark, kept = directory.storage_mark(), by_id(directory)
    directory.replace_storage_configs(registration, said[::-1])
    assert (directory.storage_mark(), by_id(directory)) == (mark, kept)


def by_id(directory: Directory) -> dict[UUID, KeptConfig]:
    return {each.id: each for each in directory.kept_configs()}


def test_a_secret_is_renewed_without_an_approval(opener: Opener) -> None:
    directory = opener(NOTHING_SAID)
    registration = register(directory)
    directory.replace_storage_configs(registration, [for_org(s3())])
    mark, before = directory.storage_mark(), by_id(directory)
    later = opener(AFTER)
    later.replace_storage_configs(registration, [for_org(s3(secret="renewed-secret"))])
    assert later.storage_mark() != mark
    assert followed(later)[ORG].decided.destination == s3(secret="renewed-secret")
    assert by_id(later).keys() == before.keys()


def test_a_row_of_another_organisation_is_refused_alone(opener: Opener) -> None:
    directory = opener(NOTHING_SAID)
    registration = register(directory)
    theirs = register(directory, OTHER_ORG)
    directory.replace_storage_configs(theirs, [for_org(s3("theirs"), OTHER_ORG), for_user(s3("personal"))])
    directory.replace_storage_configs(registration, [for_org(s3("evil"), OTHER_ORG), for_org(s3()), for_user(gcs())])
    kept = {(each.org_id, each.owner_id): each.destination for each in directory.kept_configs()}
    assert kept == {
        (OTHER_ORG, OTHER_ORG): s3("theirs"),
        (OTHER_ORG, USER): s3("personal"),
        (ORG, ORG): s3(),
        (ORG, USER): gcs(),
    }, "a user of two organisations has a place of his own in each"


def test_an_approval_is_for_one_organisation_and_owner(opener: Opener) -> None:
    directory = opener(AFTER)
    ours, theirs = register(directory), register(directory, OTHER_ORG)
    directory.replace_storage_configs(ours, [for_org(s3()), for_user(s3())])
    directory.replace_storage_configs(theirs, [for_org(s3(), OTHER_ORG), for_user(s3())])
    waiting = directory.pending_approvals()
    assert len({each.fingerprint for each in waiting}) == 4
    assert len(directory.pending_approvals(ORG)) == 2
    [mine] = [each for each in waiting if (each.org_id, each.owner_type) == (ORG, OwnerType.USER)]
    directory.approve(mine.fingerprint, "alice")
    assert [(each.config.org_id, each.config.owner_id) for each in all_in_force(directory.kept_configs(), AFTER)] == [
        (ORG, USER)
    ]


@pytest.mark.parametrize("again", [True, False], ids=["at_another_butler", "nowhere"])
def test_a_late_word_of_a_butler_that_was_deregistered_counts_no_more(opener: Opener, again: bool) -> None:
    directory = opener(NOTHING_SAID)
    former = register(directory)
    directory.deregister(ORG)
    if again:
        new = directory.register(Identity(uuid4(), ORG, "Acme"), "https://other.example", TOKEN)
        directory.replace_storage_configs(new, [for_org(s3())])
        directory.replace_provider_keys(new, [provider_key()])
    before = directory.kept_configs(), directory.provider_keys()
    with pytest.raises(LedgerFault):
        directory.replace_storage_configs(former, [for_org(s3("evil-prompts")), for_user(s3("evil-too"))])
    with pytest.raises(LedgerFault):
        directory.replace_provider_keys(former, [])
    assert (directory.kept_configs(), directory.provider_keys()) == before
    assert directory.pending_approvals() == [] or again


def test_what_butler_assigned_by_itself_opens_no_window(opener: Opener) -> None:
    directory = opener(NOTHING_SAID)
    [made] = directory.take_over([(Identity(uuid4(), ORG, "Acme"), TOKEN)], "https://butler.example")
    directory.replace_storage_configs(made, [for_org(s3())])
    assert bucket_of(directory) is None
    assert [each.reason for each in directory.pending_approvals()] == ["not_approved"]


def test_a_provider_key_of_butlers_is_used_once_it_is_approved(opener: Opener) -> None:
    directory = opener(NOTHING_SAID)
    registration = register(directory)
    sent = provider_key()
    directory.replace_provider_keys(registration, [sent])
    assert directory.job_key(ORG, "openai") is None, "not even in the first day"
    [waits] = directory.pending_approvals()
    assert (waits.wanted, waits.names["provider"]) == (Wanted.PROVIDER_KEY, "openai")
    assert directory.approve(waits.fingerprint, "alice") is not None
    assert directory.job_key(ORG, "openai") == sent.key
    assert directory.pending_approvals() == []
    assert (directory.job_key(ORG, "anthropic"), directory.job_key(OTHER_ORG, "openai")) == (None, None)
    directory.replace_provider_keys(registration, [replace(sent, key=Secret("sk-another-account"))])
    assert directory.job_key(ORG, "openai") is None, "the known id with another key is another key"
    directory.replace_provider_keys(registration, [sent])
    assert directory.job_key(ORG, "openai") == sent.key
    directory.replace_provider_keys(registration, [])
    assert (directory.job_key(ORG, "openai"), directory.provider_keys()) == (None, [])


def test_a_local_key_wins_and_then_butlers_is_not_stored(opener: Opener) -> None:
    directory = opener(NOTHING_SAID)
    registration = register(directory)
    directory.replace_provider_keys(registration, [provider_key()])
    mine = Secret("sk-entered-inside")
    made = directory.set_provider_key(ORG, "openai", mine)
    assert (made.local, made.usable, directory.provider_keys(ORG)) == (True, True, [made])
    directory.replace_provider_keys(registration, [provider_key(), provider_key(provider="anthropic")])
    kept = {each.provider: each.local for each in directory.provider_keys(ORG)}
    assert kept == {"openai": True, "anthropic": False}
    assert directory.job_key(ORG, "openai") == mine
    renewed = Secret("sk-entered-inside-again")
    directory.set_provider_key(ORG, "openai", renewed)
    assert directory.job_key(ORG, "openai", USER) == renewed
    assert directory.provider_keys(OTHER_ORG) == []
    assert directory.remove_provider_key(OTHER_ORG, "openai") is False
    assert [directory.remove_provider_key(ORG, "openai") for _ in range(2)] == [True, False]
    assert directory.job_key(ORG, "openai") is None


def test_a_users_key_serves_his_jobs_alone(opener: Opener) -> None:
    directory = opener(NOTHING_SAID)
    registration = register(directory)
    own = provider_key("sk-key-of-one-user", owner_type=OwnerType.USER, owner_id=USER)
    theirs = provider_key(owner_type=OwnerType.ORG, owner_id=OTHER_ORG, org_id=OTHER_ORG)
    directory.replace_provider_keys(registration, [own, theirs])
    assert [each.owner_id for each in directory.provider_keys()] == [USER]
    for waits in directory.pending_approvals():
        directory.approve(waits.fingerprint, "alice")
    assert directory.job_key(ORG, "openai", USER) == own.key
    assert (directory.job_key(ORG, "openai", OTHER_USER), directory.job_key(ORG, "openai")) == (None, None)
