"""The frame of pages: what a role is offered, what is said above the content."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from steward.butler.nouns import AuditEntry, Role, Session, StewardToken
from steward.butler.pages import frame

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
STEWARD = StewardToken(
    id=uuid4(),
    org_id=uuid4(),
    name="prod",
    host=None,
    token_hint="abcd",
    created_at=NOW,
    revoked_at=None,
    first_seen_at=NOW,
    last_seen_at=NOW,
    version="1.0.0",
    last_ingest_at=NOW,
    newest_record_at=NOW - timedelta(seconds=3),
    records=1,
    waiting_work=0,
)


def _page(role: Role, fresh_until: datetime = NOW) -> frame.Page:
    session = Session(
        *(uuid4(), "browser", uuid4(), "Acme", uuid4(), "a@acme.example", "A", role, NOW, NOW, fresh_until)
    )
    return frame.Page("Title", "keys", "/keys", "/keys", session, "", "auto", NOW)


@pytest.mark.parametrize(
    ("role", "offered"),
    [
        (Role.OWNER, (True, True, True)),
        (Role.ADMIN, (True, True, False)),
        (Role.MEMBER, (False, True, False)),
        (Role.VIEWER, (False, False, False)),
    ],
)
def test_a_role_is_offered_what_it_may(role: Role, offered: tuple[bool, bool, bool]) -> None:
    page = _page(role)
    assert (page.can_change, page.can_make_keys, page.can_manage_people) == offered


def test_the_password_is_asked_once_the_sign_in_is_old() -> None:
    assert _page(Role.OWNER).asks_password and not _page(Role.OWNER, NOW + timedelta(seconds=1)).asks_password
    assert (
        replace(_page(Role.OWNER), session=None).asks_password
        and not replace(_page(Role.OWNER), session=None).can_change
    )


def test_a_healthy_fleet_is_not_spoken_of() -> None:
    gone = replace(STEWARD, revoked_at=NOW, last_seen_at=NOW - timedelta(days=9))
    never = replace(STEWARD, last_seen_at=None)
    assert frame.behind([STEWARD, gone, never], NOW) == ()


def test_a_silent_and_a_late_steward_are_said() -> None:
    silent = replace(STEWARD, last_seen_at=NOW - timedelta(minutes=30))
    late = replace(STEWARD, name="eu", newest_record_at=NOW - timedelta(minutes=7))
    first, second = frame.behind([silent, late], NOW)
    assert "prod has not been heard from for 30\u00a0min" in first.text and first.tone == "warn"
    assert "eu is behind by 7\u00a0min" in second.text and second.href == "/stewards"


def test_owners_are_told_in_one_line() -> None:
    entry = AuditEntry(uuid4(), NOW, None, "a@b.example", "-", "storage.changed", "storage", "1", "bucket", {}, True)
    (one,) = frame.told([entry], NOW)
    assert one.text == "Storage changed: bucket, by a@b.example, just now."
    (many,) = frame.told([entry] * 3, NOW)
    assert many.text.endswith("And 2 more changes that owners are told of.") and frame.told([], NOW) == ()


def test_every_page_of_the_navigation_is_named_once() -> None:
    links = [link for _, group in frame.NAV for link in group]
    assert len({link.href for link in links}) == len(links) == 9
