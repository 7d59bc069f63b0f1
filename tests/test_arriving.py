"""What is kept when a set arrives: whatever came before and comes after, what is in force was allowed."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from steward.arriving import Arrived, Circumstances, all_in_force, approved_already, arrived, in_force, pending, said
from steward.policy import NOTHING_SAID, Local, fingerprint, names
from steward.sent import KeptConfig, StorageConfig
from tests.contracts.records import ORG, OTHER_ORG
from tests.wanted import OTHER_USER, USER, VARIANTS, for_org, for_user, s3

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
AFTER = Local(window_s=0)
GOOD = fingerprint(ORG, names(for_org(s3())))


def arrive(
    *configs: StorageConfig,
    before: tuple[KeptConfig, ...] = (),
    since_s: float | None = None,
    at: datetime = NOON,
    room: int = 9,
) -> Arrived:
    under = Circumstances(NOTHING_SAID, lambda printed: printed == GOOD, at, since_s, room)
    return arrived(ORG, configs, before, under)


def test_an_owner_has_two_at_most_what_is_said_and_what_was_in_force() -> None:
    kept = arrive(for_org(s3())).kept
    for hour, variant in enumerate([*VARIANTS.values(), s3("one"), s3("two")]):
        kept = arrive(for_org(variant), before=kept, at=NOON + timedelta(hours=hour)).kept
        assert [(each.current, each.destination) for each in kept] == [(True, variant), (False, s3())]
        found = in_force(kept, AFTER)
        assert found is not None
        assert found.decided.destination == s3()


def test_the_day_on_which_it_was_said_stays_while_it_is_said() -> None:
    first = arrive(for_org(s3())).kept
    again = arrive(for_org(s3(secret="renewed-secret")), before=first, at=NOON + timedelta(hours=1)).kept
    assert [each.said_at for each in again] == [NOON]
    assert [each.destination for each in again] == [s3(secret="renewed-secret")]


def test_only_what_arrives_in_the_window_is_pinned() -> None:
    inside = arrive(for_org(s3("new")), for_user(s3("new", endpoint="https://e.example")), since_s=10.0)
    assert [each.destination for each in inside.pinned] == [s3("new")]
    assert arrive(for_org(s3("new")), since_s=100_000.0).pinned == ()
    assert arrive(for_org(s3("new"))).pinned == ()
    assert arrive(for_org(s3("new"), OTHER_ORG), since_s=10.0) == Arrived((), ())


def test_no_more_is_pinned_than_there_is_room_for() -> None:
    """Else a Butler that names another place every tick of the first day leaves rows without end."""
    came = arrive(for_org(s3("new")), for_user(s3("new")), for_user(s3("new"), OTHER_USER), since_s=10.0, room=2)
    assert [each.owner_id for each in came.pinned] == [ORG, USER]
    assert [each.approved for each in came.kept] == [True, True, False]
    assert in_force(came.kept[2:], NOTHING_SAID) is None


owners = st.sampled_from([for_org(None), for_user(None), for_user(None, OTHER_USER)])
places = st.sampled_from([s3(), *VARIANTS.values()])
sets = st.lists(st.builds(lambda owner, place: replace(owner, destination=place), owners, places), max_size=3)


@given(st.lists(sets, max_size=6))
def test_after_the_first_day_only_what_was_approved_is_followed(
    said_sets: list[list[StorageConfig]],
) -> None:
    kept: tuple[KeptConfig, ...] = ()
    for configs in said_sets:
        unique = {(each.owner_type, each.owner_id): each for each in configs}
        kept = arrive(*unique.values(), before=kept).kept
        followed = list(all_in_force(kept, AFTER))
        assert all((each.config.owner_id, each.decided.destination) == (ORG, s3()) for each in followed)
        waits = {each.fingerprint for each in pending(kept, AFTER)}
        assert waits == {each.fingerprint for each in kept if each.current and each.fingerprint != GOOD}


def test_what_is_said_again_of_a_kept_one_is_what_was_said() -> None:
    [kept] = arrive(for_user(s3())).kept
    assert said(kept) == for_user(s3(), USER)
    assert approved_already(kept).reason == "approved"
