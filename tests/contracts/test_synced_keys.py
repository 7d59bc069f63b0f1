"""What every directory promises of keys that Butler sends, over the one in memory and the one in PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from steward.adapters.memory import MemoryDirectory, MemoryTurns
from steward.adapters.postgres_connection import open_engine
from steward.adapters.postgres_directory import PostgresDirectory
from steward.adapters.postgres_sync import PostgresTurns
from steward.errors import LedgerFault
from steward.exchange import LOCAL_ORG
from steward.ports import ApiKey, Directory, Identity, Registration, SentKey, Turns
from steward.words import Secret
from tests.contracts.test_directory import a_hash
from tests.servers.postgres import Database
from tests.servers.waiting import eventually

TOKEN = Secret("mdm_st_" + "t" * 32)
BUTLER = "https://butler.example"
NOW = datetime.now(UTC)
T = [NOW - timedelta(hours=1) + timedelta(minutes=n) for n in range(10)]
"""Moments by Butler's clock, a minute apart."""


@pytest.fixture(params=["memory", "postgres", "installed_postgres"])
def directory(request: pytest.FixtureRequest) -> Directory:
    if request.param == "memory":
        return MemoryDirectory()
    database = request.getfixturevalue(request.param)
    return PostgresDirectory(database.engine, database.keyring)


def registered(directory: Directory, url: str = BUTLER, org_id: UUID | None = None) -> Registration:
    return directory.register(Identity(uuid4(), org_id or uuid4(), "Acme"), url, TOKEN)


@pytest.fixture
def acme(directory: Directory) -> Registration:
    return registered(directory)


def sent(at: datetime = T[0], **facts: object) -> SentKey:
    key = SentKey(
        id=uuid4(), key_hash=a_hash(), name="checkout", is_active=True, created_at=min(at, NOW), updated_at=at
    )
    return replace(key, **facts)  # type: ignore[arg-type]


def found(directory: Directory, key: SentKey) -> ApiKey:
    row = directory.find_key(key.key_hash)
    assert row is not None
    return row


def test_a_new_key_is_its_registration_s(directory: Directory, acme: Registration) -> None:
    key = sent(description="the shop", user_id=uuid4(), deprecated_model_behavior="warn")
    assert directory.apply_keys(acme, [key]).refused == ()
    row = found(directory, key)
    assert (row.id, row.org_id, row.registration_id, row.user_id) == (key.id, acme.org_id, acme.id, key.user_id)
    assert (row.name, row.description, row.is_active, row.revoked_at) == ("checkout", "the shop", True, None)
    assert (row.created_at, row.deprecated_model_behavior) == (key.created_at, "warn")
    assert directory.list_keys(acme.org_id) == [row]
    assert row in directory.changed_keys(), "every replica hears of it by its next poll"


def test_a_later_word_is_believed_and_an_older_one_is_not(directory: Directory, acme: Registration) -> None:
    key = sent(T[2])
    directory.apply_keys(acme, [key])
    directory.apply_keys(acme, [replace(key, name="older", is_active=False, updated_at=T[1])])
    assert (found(directory, key).name, found(directory, key).is_active) == ("checkout", True)
    directory.apply_keys(acme, [replace(key, name="later", is_active=False, updated_at=T[3])])
    row = found(directory, key)
    assert (row.name, row.is_active, row.revoked_at) == ("later", False, None)
    directory.apply_keys(acme, [replace(key, name="again", updated_at=T[3])])
    assert (found(directory, key).name, found(directory, key).is_active) == ("again", True)


def test_what_is_said_again_changes_nothing(directory: Directory, acme: Registration) -> None:
    keys = [sent(T[1]), sent(T[2], revoked_at=T[2], is_active=False)]
    first = directory.apply_keys(acme, keys)
    before = directory.list_keys(acme.org_id)
    assert directory.apply_keys(acme, keys) == first
    assert directory.list_keys(acme.org_id) == before, "also not when it changed: the poll would carry it for ever"


def test_an_id_that_stands_twice_in_a_page_is_taken_once_the_newest(directory: Directory, acme: Registration) -> None:
    key = sent(T[2], name="newest")
    directory.apply_keys(acme, [replace(key, updated_at=T[1], name="older"), key, replace(key, updated_at=T[0])])
    assert [row.name for row in directory.list_keys(acme.org_id)] == ["newest"]


def test_a_revoked_key_is_never_good_again(directory: Directory, acme: Registration) -> None:
    """Revoked inside or by Butler: F11, un-revoke."""
    inside, outside = sent(T[1]), sent(T[1], is_active=False, revoked_at=T[1])
    directory.apply_keys(acme, [inside, outside])
    revoked = directory.revoke_key(acme.org_id, inside.id)
    assert revoked is not None
    for at in (T[2], NOW + timedelta(days=1)):
        later = [
            replace(key, is_active=True, revoked_at=None, updated_at=at, name="undone") for key in (inside, outside)
        ]
        assert directory.apply_keys(acme, later).refused == ()
    for key in (inside, outside):
        row = found(directory, key)
        assert (row.is_active, row.name) == (False, "undone")
        assert row.revoked_at is not None
    assert found(directory, inside).revoked_at == revoked.revoked_at


def test_a_key_that_says_it_is_active_and_revoked_is_revoked(directory: Directory, acme: Registration) -> None:
    key = sent(T[1], is_active=True, revoked_at=NOW + timedelta(days=9))
    directory.apply_keys(acme, [key])
    row = found(directory, key)
    assert row.is_active is False
    assert row.revoked_at is not None
    assert row.revoked_at <= datetime.now(UTC), "no date of the future stands here"


@pytest.mark.parametrize("change", ["key_hash", "user_id", "id"])
def test_whose_a_known_key_is_does_not_change(directory: Directory, acme: Registration, change: str) -> None:
    """F11: the hash of a known id replaced; another user; a known hash under another id."""
    key = sent(T[1], user_id=uuid4())
    other = {"key_hash": a_hash(), "user_id": uuid4(), "id": uuid4()}
    directory.apply_keys(acme, [key])
    before = directory.list_keys(acme.org_id)
    moved = replace(key, updated_at=T[2], name="taken", **{change: other[change]})  # type: ignore[arg-type]
    good = sent(T[3])
    applied = directory.apply_keys(acme, [moved, good])
    assert applied.refused == (moved.id,)
    assert applied.watermark == T[3], "the others of its page are in"
    assert [row for row in directory.list_keys(acme.org_id) if row.key_hash != good.key_hash] == before
    assert directory.apply_keys(acme, [replace(key, user_id=None, updated_at=T[4])]).refused == (key.id,)


def test_a_key_of_another_registration_or_of_nobody_s_is_not_taken_over(
    directory: Directory, acme: Registration
) -> None:
    other = registered(directory, "https://evil.example")
    theirs, local = sent(T[1]), directory.create_key(LOCAL_ORG, "made inside", a_hash())
    directory.apply_keys(other, [theirs])
    before = [directory.list_keys(other.org_id), directory.list_keys(LOCAL_ORG)]
    taken = [
        replace(theirs, updated_at=T[2], name="taken"),
        sent(T[2], key_hash=theirs.key_hash),
        sent(T[2], id=theirs.id),
        sent(T[2], key_hash=local.key_hash),
        sent(T[2], id=local.id),
        sent(T[2], id=local.id, key_hash=local.key_hash),
    ]
    for each in taken:
        assert directory.apply_keys(acme, [each]) == replace(directory.apply_keys(acme, []), refused=(each.id,))
    assert [directory.list_keys(other.org_id), directory.list_keys(LOCAL_ORG)] == before
    assert directory.list_keys(acme.org_id) == []
    assert directory.sync_state(acme, "api_keys").watermark is None, "what is refused moves no watermark"


def test_keys_of_a_former_butler_are_not_the_new_one_s(directory: Directory, acme: Registration) -> None:
    key = sent(T[1])
    directory.apply_keys(acme, [key])
    directory.deregister(acme.org_id)
    moved = registered(directory, "https://other.example", acme.org_id)
    assert directory.apply_keys(moved, [replace(key, updated_at=T[2])]).refused == (key.id,)
    assert found(directory, key).is_active is False


def test_the_watermark_grows_and_never_past_now(directory: Directory, acme: Registration) -> None:
    assert directory.sync_state(acme, "api_keys").watermark is None
    assert directory.apply_keys(acme, [sent(T[3]), sent(T[1])]).watermark == T[3]
    assert directory.apply_keys(acme, [sent(T[2])]).watermark == T[3]
    assert directory.apply_keys(acme, []).watermark == T[3]
    far = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    assert directory.apply_keys(acme, [sent(far), sent(T[4])]).watermark == T[4]
    state = directory.sync_state(acme, "api_keys")
    assert (state.watermark, state.last_full_at) == (T[4], None)
    assert abs(state.read_at - datetime.now(UTC)) < timedelta(minutes=1)


def test_a_date_of_the_future_hides_no_later_word(directory: Directory, acme: Registration) -> None:
    """F11: it holds as of now, and what comes after now is later than it."""
    key = sent(datetime(9999, 1, 1, tzinfo=UTC))
    directory.apply_keys(acme, [key])
    assert found(directory, key).is_active is True
    directory.apply_keys(acme, [replace(key, is_active=False, updated_at=datetime.now(UTC) + timedelta(seconds=1))])
    assert found(directory, key).is_active is False


def test_what_is_missing_in_a_full_pull_rests_and_comes_back(directory: Directory, acme: Registration) -> None:
    other = registered(directory)
    kept, lost, theirs = sent(T[1]), sent(T[1]), sent(T[1])
    directory.apply_keys(acme, [kept, lost])
    directory.apply_keys(other, [theirs])
    since = directory.sync_state(acme, "api_keys").read_at
    assert directory.rest_missing(acme, {kept.id}, since) == 1
    assert [found(directory, key).is_active for key in (kept, lost, theirs)] == [True, False, True]
    assert found(directory, lost).revoked_at is None
    assert found(directory, lost) in directory.changed_keys()
    state = directory.sync_state(acme, "api_keys")
    assert state.last_full_at is not None
    assert state.watermark == T[1]
    directory.apply_keys(acme, [lost])
    assert found(directory, lost).is_active is True, "the same word is no older one"


def test_what_changed_during_a_full_pull_does_not_rest(directory: Directory, acme: Registration) -> None:
    since = directory.sync_state(acme, "api_keys").read_at
    key = sent(T[1])
    directory.apply_keys(acme, [key])
    assert directory.rest_missing(acme, set(), since) == 0
    assert found(directory, key).is_active is True


def test_keys_that_rest_with_their_registration_come_back_with_it_and_revoked_ones_do_not(
    directory: Directory, acme: Registration
) -> None:
    key, revoked = sent(T[1]), sent(T[1])
    directory.apply_keys(acme, [key, revoked])
    directory.revoke_key(acme.org_id, revoked.id)
    directory.deregister(acme.org_id)
    assert found(directory, key).is_active is False
    again = registered(directory, org_id=acme.org_id)
    assert again.id == acme.id
    assert directory.apply_keys(again, [key, revoked]).refused == ()
    assert (found(directory, key).is_active, found(directory, revoked).is_active) == (True, False)


def test_nothing_is_applied_for_who_is_not_registered_any_more(directory: Directory, acme: Registration) -> None:
    key = sent(T[1])
    directory.apply_keys(acme, [key])
    directory.deregister(acme.org_id)
    for change in (lambda: directory.apply_keys(acme, [key]), lambda: directory.rest_missing(acme, set(), NOW)):
        with pytest.raises(LedgerFault, match="not registered"):
            change()
    assert found(directory, key).is_active is False


def test_when_butler_was_heard_and_why_not(directory: Directory, acme: Registration) -> None:
    def known() -> Registration:
        return next(each for each in directory.registrations() if each.org_id == acme.org_id)

    assert (known().heard_at, known().fault) == (None, None)
    directory.heard(acme, None)
    heard_at = known().heard_at
    assert heard_at is not None
    directory.heard(acme, None)
    assert known().heard_at == heard_at, "not written every tick"
    directory.heard(acme, "butler_denied")
    assert (known().heard_at, known().fault) == (heard_at, "butler_denied")
    directory.heard(acme, None)
    assert known().fault is None
    assert known().heard_at != heard_at


def test_many_are_taken_over_at_once_and_one_that_is_elsewhere_is_not(directory: Directory, acme: Registration) -> None:
    elsewhere = registered(directory, "https://other.example")
    new, other_token = Identity(uuid4(), uuid4(), "New"), Secret("mdm_st_" + "u" * 32)
    again = Identity(acme.steward_id, acme.org_id, "Acme & Co")
    given = [(new, TOKEN), (Identity(uuid4(), elsewhere.org_id, "Evil"), other_token), (again, other_token)]
    made = {each.org_id: each for each in directory.take_over(given, BUTLER)}
    assert made.keys() == {new.org_id, acme.org_id}
    known = {each.org_id: each for each in directory.registrations()}
    assert (known[new.org_id], known[elsewhere.org_id]) == (made[new.org_id], elsewhere)
    stays = known[acme.org_id]
    assert (stays.id, stays.registered_at, stays.org_name) == (acme.id, acme.registered_at, "Acme & Co")
    tokens = [directory.token(each) for each in (new.org_id, elsewhere.org_id, acme.org_id)]
    assert tokens == [TOKEN, TOKEN, other_token]
    assert directory.take_over([], BUTLER) == []


@pytest.fixture(params=["memory", "postgres"])
def turns(request: pytest.FixtureRequest) -> Iterator[list[Turns]]:
    """Three replicas' turns."""
    if request.param == "memory":
        holders: dict[UUID, object] = {}
        made: list[Turns] = [MemoryTurns(holders) for _ in range(3)]
    else:
        database: Database = request.getfixturevalue("postgres")
        made = [PostgresTurns(open_engine(replace(database.address, max_conns=1))) for _ in range(3)]
    yield made
    for each in made:
        each.close()


def test_one_of_three_has_the_turn_until_it_lets_go(turns: list[Turns]) -> None:
    one, other = uuid4(), uuid4()
    assert [each.hold(one) for each in turns] == [True, False, False]
    assert [each.hold(one) for each in turns] == [True, False, False], "safe to repeat"
    assert [each.hold(other) for each in turns[::-1]] == [True, False, False]
    turns[1].let_go(one)
    assert [each.hold(one) for each in turns] == [True, False, False], "who does not hold it cannot let go of it"
    turns[0].let_go(one)
    assert [each.hold(one) for each in turns[::-1]] == [True, False, False]
    turns[2].close()
    eventually(lambda: turns[0].hold(one) and turns[1].hold(other))
    assert [each.hold(one) for each in turns[:2]] == [True, False], "what ended holds nothing"
