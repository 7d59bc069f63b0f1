"""Who is signed in: browsers for at most 12 h, command lines for 90 days; known by the hash of their secret alone.

Each sign-in makes a new session; ending one ends it on the server. Failed sign-ins are counted by account and address
together, and by address; refuses more before a password is looked at, known account or not.
"""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, Literal
from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.engine import Row

from steward.butler.database import Database
from steward.butler.errors import NotAcceptable, NotThere, SignInFailed, TooManyTries
from steward.butler.nouns import Actor, Role, Session
from steward.butler.passwords import Passwords
from steward.butler.secrets_made import CLI_TOKEN, digest, made
from steward.butler.store_audit import Entry, audit
from steward.words import Secret

LASTS: Final = {"browser": timedelta(hours=12), "cli": timedelta(days=90)}
FRESH_FOR: Final = timedelta(minutes=5)
"""After the password was given, until a change of storage, provider key or Steward token asks for it again."""
SEEN_EVERY: Final = timedelta(minutes=1)
WINDOW: Final = timedelta(minutes=15)
TRIES_OF_ACCOUNT: Final = 5
"""Failures of one account from one address in a window."""
TRIES_OF_ADDRESS: Final = 50

Kind = Literal["browser", "cli"]

_USER: Final = text("SELECT id, email, password_hash FROM butler.users WHERE email = :email")
_USER_BY_ID: Final = text("SELECT id, email, password_hash FROM butler.users WHERE id = :id")
_REHASH: Final = text("UPDATE butler.users SET password_hash = :password_hash WHERE id = :id")
_CHANGE_PASSWORD: Final = text("""
    UPDATE butler.users SET password_hash = :password_hash, password_changed_at = clock_timestamp() WHERE id = :id
""")
_HOME: Final = text("""
    SELECT m.org_id FROM butler.memberships m
    LEFT JOIN butler.sessions s ON s.org_id = m.org_id AND s.user_id = m.user_id
    WHERE m.user_id = :user_id AND (CAST(:org_id AS uuid) IS NULL OR m.org_id = CAST(:org_id AS uuid))
    GROUP BY m.org_id, m.created_at ORDER BY max(s.last_seen_at) DESC NULLS LAST, m.created_at, m.org_id LIMIT 1
""")
_ADD: Final = text("""
    INSERT INTO butler.sessions (id, token_hash, kind, name, org_id, user_id, address, created_at, last_seen_at,
        ends_at, fresh_until)
    VALUES (:id, :token_hash, :kind, :name, :org_id, :user_id, :address, :now, :now, :ends_at, :fresh_until)
""")
_SESSION: Final = """
    SELECT s.id, s.kind, s.org_id, o.name AS org_name, s.user_id, u.email, u.name AS user_name, m.role, s.created_at,
        s.ends_at, s.fresh_until, s.name, s.last_seen_at
    FROM butler.sessions s
    JOIN butler.memberships m ON m.org_id = s.org_id AND m.user_id = s.user_id
    JOIN butler.users u ON u.id = s.user_id JOIN butler.organisations o ON o.id = s.org_id
"""
_FIND: Final = text(f"{_SESSION} WHERE s.token_hash = :token_hash AND s.kind = :kind AND s.ends_at > :now")
_ALL: Final = text(f"""
    {_SESSION} WHERE s.org_id = :org_id AND s.user_id = :user_id AND s.ends_at > :now
    ORDER BY s.last_seen_at DESC, s.id
""")
_SEEN: Final = text("UPDATE butler.sessions SET last_seen_at = :now WHERE org_id = :org_id AND id = :id")
_FRESH: Final = text("UPDATE butler.sessions SET fresh_until = :until WHERE org_id = :org_id AND id = :id")
_END: Final = text("""
    DELETE FROM butler.sessions WHERE org_id = :org_id AND user_id = :user_id AND id = :id RETURNING name
""")
_END_OTHERS: Final = text("DELETE FROM butler.sessions WHERE user_id = :user_id AND id <> :id")
_EXPIRED: Final = text("DELETE FROM butler.sessions WHERE ends_at <= :now")
_FORGET: Final = text("DELETE FROM butler.sign_in_failures WHERE window_began_at <= :now")
_TRY: Final = text("""
    INSERT INTO butler.sign_in_failures AS f (subject, window_began_at, failures) VALUES (:subject, :now, 1)
    ON CONFLICT (subject) DO UPDATE SET
        failures = CASE WHEN f.window_began_at <= :before THEN 1 ELSE f.failures + 1 END,
        window_began_at = CASE WHEN f.window_began_at <= :before THEN :now ELSE f.window_began_at END
    RETURNING failures
""")
_UNTRY: Final = text("DELETE FROM butler.sign_in_failures WHERE subject = :subject")
_ONE_LESS: Final = text("""
    UPDATE butler.sign_in_failures SET failures = greatest(failures - 1, 0) WHERE subject = :subject
""")


@dataclass(frozen=True, slots=True)
class Attempt:
    """Someone at the door. `name`: the browser or machine, as it calls itself."""

    email: str
    password: Secret[str]
    address: str
    kind: Kind = "browser"
    name: str = "browser"
    org_id: UUID | None = None
    """None: where the person was last."""


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A session that was just made, and the secret by which it is known."""

    session: Session
    token: Secret[str]


class Sessions:
    """The tables `sessions` and `sign_in_failures`."""

    def __init__(self, database: Database, passwords: Passwords) -> None:
        self._database = database
        self._passwords = passwords

    def sign_in(self, attempt: Attempt, now: datetime) -> SignedIn:
        """A new session. Raises SignInFailed, the same whatever was wrong; TooManyTries."""
        email = attempt.email.strip().lower()
        self._count(email, attempt.address, now)
        user = self._database.one(_USER, email=email) if "\0" not in email else None
        if not self._passwords.fits(None if user is None else user.password_hash, attempt.password) or user is None:
            raise SignInFailed
        home = self._database.one(_HOME, user_id=user.id, org_id=attempt.org_id)
        if home is None:
            raise SignInFailed
        self._succeeded(email, attempt.address)
        if self._passwords.is_outdated(user.password_hash):
            with self._database.change() as connection:
                connection.execute(_REHASH, {"id": user.id, "password_hash": self._passwords.hash(attempt.password)})
        return self._open(attempt, home.org_id, user, now)

    def find(self, token: Secret[str], kind: Kind, now: datetime) -> Session | None:
        """Who it is; None for nobody, and for a session that ended."""
        row = self._database.one(_FIND, token_hash=digest(token), kind=kind, now=now)
        if row is None:
            return None
        if now - row.last_seen_at >= SEEN_EVERY:
            with self._database.change() as connection:
                connection.execute(_SEEN, {"org_id": row.org_id, "id": row.id, "now": now})
        return _session(row)

    def confirm(self, session: Session, password: Secret[str], address: str, now: datetime) -> Session:
        """The password, given again: what asks for it is free for five minutes. Raises SignInFailed, TooManyTries."""
        self._check(session, password, address, now)
        until = now + FRESH_FOR
        with self._database.change() as connection:
            connection.execute(_FRESH, {"org_id": session.org_id, "id": session.id, "until": until})
        return replace(session, fresh_until=until)

    def switch(self, session: Session, org_id: UUID, address: str, now: datetime) -> SignedIn:
        """A new session in another of the person's organisations; the old one ends. Raises NotThere."""
        home = self._database.one(_HOME, user_id=session.user_id, org_id=org_id)
        user = self._database.one(_USER_BY_ID, id=session.user_id)
        if home is None or user is None:
            raise NotThere
        attempt = Attempt(user.email, Secret(""), address, session.kind, session.name, org_id)
        opened = self._open(attempt, org_id, user, now, ends_at=session.ends_at)
        self.end(session.actor(address), session.id)
        return opened

    def all(self, org_id: UUID, user_id: UUID, now: datetime) -> list[Session]:
        """The person's own sessions in the organisation, newest use first."""
        return [_session(row) for row in self._database.rows(_ALL, org_id=org_id, user_id=user_id, now=now)]

    def end(self, actor: Actor, session_id: UUID) -> None:
        """One of the actor's own. Again, it changes nothing."""
        with self._database.change() as connection:
            facts = {"org_id": actor.org_id, "user_id": actor.user_id, "id": session_id}
            row = connection.execute(_END, facts).one_or_none()
            if row is not None:
                audit(connection, actor, Entry("session.ended", session_id, row.name))

    def change_password(
        self, session: Session, old: Secret[str], new: Secret[str], address: str, now: datetime
    ) -> None:
        """Ends all other sessions of the person, everywhere. Raises SignInFailed, TooManyTries, NotAcceptable."""
        self._check(session, old, address, now)
        if old == new:
            raise NotAcceptable("password", message="The new password is the old one.")
        kept = self._passwords.hash(new)
        with self._database.change() as connection:
            connection.execute(_CHANGE_PASSWORD, {"id": session.user_id, "password_hash": kept})
            connection.execute(_END_OTHERS, {"user_id": session.user_id, "id": session.id})
            audit(connection, session.actor(address), Entry("user.password_changed", session.user_id, session.email))

    def forget_expired(self, now: datetime) -> None:
        """Removes what has ended."""
        with self._database.change() as connection:
            connection.execute(_EXPIRED, {"now": now})
            connection.execute(_FORGET, {"now": now - WINDOW})

    def _open(
        self, attempt: Attempt, org_id: UUID, user: Row[Any], now: datetime, ends_at: datetime | None = None
    ) -> SignedIn:
        token = made(CLI_TOKEN if attempt.kind == "cli" else "")
        session_id = uuid4()
        facts = {
            "id": session_id,
            "token_hash": digest(token),
            "kind": attempt.kind,
            "name": attempt.name[:200] or attempt.kind,
            "org_id": org_id,
            "user_id": user.id,
            "address": attempt.address,
            "now": now,
            "ends_at": ends_at or now + LASTS[attempt.kind],
            "fresh_until": now if ends_at else now + FRESH_FOR,
        }
        with self._database.change() as connection:
            connection.execute(_ADD, facts)
            actor = Actor(org_id, user.id, user.email, attempt.address)
            audit(connection, actor, Entry("session.began", session_id, facts["name"], {"kind": attempt.kind}))
        found = self.find(token, attempt.kind, now)
        if found is None:
            raise SignInFailed
        return SignedIn(found, token)

    def _check(self, session: Session, password: Secret[str], address: str, now: datetime) -> None:
        self._count(session.email, address, now)
        user = self._database.one(_USER_BY_ID, id=session.user_id)
        if user is None or not self._passwords.fits(user.password_hash, password):
            raise SignInFailed
        self._succeeded(session.email, address)

    def _count(self, email: str, address: str, now: datetime) -> None:
        """Counts the attempt before it is looked at, so that many at once are no way around it. Raises TooManyTries."""
        facts = {"now": now, "before": now - WINDOW}
        with self._database.change() as connection:
            of_account = connection.execute(_TRY, {**facts, "subject": _pair(email, address)}).scalar_one()
            of_address = connection.execute(
                _TRY, {**facts, "subject": _subject("address", _network(address))}
            ).scalar_one()
        if of_account > TRIES_OF_ACCOUNT or of_address > TRIES_OF_ADDRESS:
            raise TooManyTries

    def _succeeded(self, email: str, address: str) -> None:
        with self._database.change() as connection:
            connection.execute(_UNTRY, {"subject": _pair(email, address)})
            connection.execute(_ONE_LESS, {"subject": _subject("address", _network(address))})


def _pair(email: str, address: str) -> str:
    return _subject("account", email, _network(address))


def _network(address: str) -> str:
    """An IPv6 host has a whole /64 to call from."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else address


def _subject(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def _session(row: Row[Any]) -> Session:
    return Session(**{**row._mapping, "role": Role(row.role)})
