"""What every page shows around its content: where one is, who one is, what all owners are told.

Refuses to offer what the role may not: a link or a form that would be refused is not there. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from steward.butler.nouns import AuditEntry, Role, Session, StewardToken
from steward.butler.pages import numbers, phrases

LIVE_EVERY_S: Final = 5
THEMES: Final = ("auto", "dark", "light")


@dataclass(frozen=True, slots=True)
class Link:
    """An entry of the navigation; `count` is what waits there."""

    name: str
    href: str
    label: str
    icon: str
    count: int = 0
    count_title: str = ""


@dataclass(frozen=True, slots=True)
class Notice:
    """A line above the content."""

    tone: str
    text: str
    href: str = ""
    link: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """The frame of one page."""

    title: str
    current: str
    path: str
    """Without its query."""
    here: str
    """With it."""
    session: Session | None
    csrf: str
    theme: str
    now: datetime
    nav: tuple[tuple[str, tuple[Link, ...]], ...] = ()
    notices: tuple[Notice, ...] = ()
    live_every: int = 0
    viewer: str | None = None

    @property
    def can_change(self) -> bool:
        """Settings, Stewards, metadata keys."""
        return self._is(Role.ADMIN)

    @property
    def can_make_keys(self) -> bool:
        """API keys."""
        return self._is(Role.MEMBER)

    @property
    def can_manage_people(self) -> bool:
        """Members and their roles."""
        return self._is(Role.OWNER)

    @property
    def asks_password(self) -> bool:
        """The sign-in is too old for what decides over data or trust."""
        return self.session is None or self.now >= self.session.fresh_until

    def _is(self, role: Role) -> bool:
        return self.session is not None and self.session.role.includes(role)


NAV: Final = (
    (
        "Watch",
        (Link("overview", "/", "Overview", "overview"), Link("requests", "/requests", "Requests", "requests")),
    ),
    (
        "Access",
        (
            Link("keys", "/keys", "API keys", "keys"),
            Link("stewards", "/stewards", "Stewards", "stewards"),
            Link("members", "/members", "Members", "members"),
        ),
    ),
    (
        "Settings",
        (
            Link("storage", "/storage", "Storage", "storage"),
            Link("provider-keys", "/provider-keys", "Provider keys", "provider-keys"),
            Link("metadata", "/metadata", "Metadata keys", "metadata"),
        ),
    ),
    ("Record", (Link("audit", "/audit", "Audit", "audit"),)),
)


def behind(stewards: Sequence[StewardToken], now: datetime) -> tuple[Notice, ...]:
    """What is missing of the figures, said at the top: Stewards that are silent or late."""
    found = []
    for each in stewards:
        if each.revoked_at is not None or each.last_seen_at is None:
            continue
        silent, delay = now - each.last_seen_at, phrases.steward_delay(each) or timedelta()
        if silent > phrases.QUIET_AFTER:
            text = (
                f"The Steward {each.name} has not been heard from for {numbers.span(silent)}. Calls since then are not "
                "in these figures yet; it goes on relaying and will report them."
            )
            found.append(Notice("warn", text, "/stewards", "See Stewards"))
        elif delay > phrases.LATE_AFTER:
            text = (
                f"The Steward {each.name} is behind by {numbers.span(delay)}: the newest calls are still missing here."
            )
            found.append(Notice("warn", text, "/stewards", "See Stewards"))
    return tuple(found)


def told(entries: Sequence[AuditEntry], now: datetime) -> tuple[Notice, ...]:
    """What owners are told of changes to storage, provider keys, Steward tokens and people, until they saw the log."""
    if not entries:
        return ()
    newest = entries[0]
    text = (
        f"{phrases.action_words(newest.action)}: {newest.object_name}, by {newest.actor_email}, "
        f"{numbers.ago(newest.at, now).text}."
    )
    more = len(entries) - 1
    more_text = f" And {more} more change{'s' if more > 1 else ''} that owners are told of." if more else ""
    return (Notice("plain", text + more_text, "/audit", "See the audit log"),)
