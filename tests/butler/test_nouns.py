"""Nouns: roles in their order, secrets that are not shown by accident."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from uuid import UUID

from steward.butler import nouns
from steward.butler.nouns import Made, Role, Session, StorageSettings
from steward.words import Secret

NOW = datetime(2026, 11, 18, tzinfo=UTC)


def test_a_role_includes_itself_and_all_below() -> None:
    table = {each: {other for other in Role if each.includes(other)} for each in Role}
    assert [len(table[each]) for each in (Role.OWNER, Role.ADMIN, Role.MEMBER, Role.VIEWER)] == [4, 3, 2, 1]
    assert table[Role.VIEWER] == {Role.VIEWER}


def test_no_secret_is_in_a_noun_s_text() -> None:
    assert "s3cr3t" not in repr(StorageSettings("s3", "b", secret=Secret("s3cr3t")))
    assert "s3cr3t" not in repr(Made(UUID(int=1), Secret("s3cr3t")))


def test_every_noun_is_frozen() -> None:
    kinds = [each for each in vars(nouns).values() if isinstance(each, type) and dataclasses.is_dataclass(each)]
    assert len(kinds) > 12
    assert all(each.__dataclass_params__.frozen for each in kinds)  # type: ignore[attr-defined]


def test_a_session_acts_for_its_organisation() -> None:
    ids = UUID(int=1), UUID(int=2)
    session = Session(ids[0], "cli", ids[0], "Acme", ids[1], "a@b.co", "A", Role.OWNER, NOW, NOW, NOW)
    actor = session.actor("203.0.113.9")
    assert (actor.org_id, actor.user_id, actor.email, actor.address) == (*ids, "a@b.co", "203.0.113.9")
