"""People and organisations: who belongs where, in which role, and who was invited.

Refuses to leave an organisation without an owner. A change of role, or leaving, ends the person's sessions there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.engine import Connection

from steward.butler.database import Database
from steward.butler.errors import InTheWay, NotAcceptable, NotThere
from steward.butler.nouns import Actor, Invitation, Made, Member, Organisation, Role
from steward.butler.passwords import Passwords
from steward.butler.secrets_made import digest, made
from steward.butler.store_audit import Entry, audit
from steward.words import Secret

INVITED_FOR: Final = timedelta(days=7)

_EMAIL: Final = re.compile(r"[^@\s\x00-\x1f\x7f]{1,64}@[^@\s\x00-\x1f\x7f]{1,189}")

_ORGANISATION: Final = text("SELECT id, name, created_at FROM butler.organisations WHERE id = :org_id")
_ADD_ORGANISATION: Final = text("INSERT INTO butler.organisations (id, name) VALUES (:org_id, :name)")
_RENAME: Final = text("UPDATE butler.organisations SET name = :name WHERE id = :org_id RETURNING id")
_USER: Final = text("SELECT id, email, name, password_hash FROM butler.users WHERE email = :email")
_ADD_USER: Final = text("""
    INSERT INTO butler.users (id, email, name, password_hash) VALUES (:id, :email, :name, :password_hash)
""")
_ADD_MEMBER: Final = text("INSERT INTO butler.memberships (org_id, user_id, role) VALUES (:org_id, :user_id, :role)")
_MEMBERS: Final = text("""
    SELECT m.user_id, u.email, u.name, m.role, m.created_at, max(s.last_seen_at) AS last_seen_at
    FROM butler.memberships m JOIN butler.users u ON u.id = m.user_id
    LEFT JOIN butler.sessions s ON s.org_id = m.org_id AND s.user_id = m.user_id
    WHERE m.org_id = :org_id
    GROUP BY m.user_id, u.email, u.name, m.role, m.created_at ORDER BY u.email
""")
_OF_USER: Final = text("""
    SELECT o.id, o.name, o.created_at, m.role FROM butler.memberships m JOIN butler.organisations o ON o.id = m.org_id
    WHERE m.user_id = :user_id ORDER BY o.name, o.id
""")
_LOCK_MEMBERS: Final = text("""
    SELECT m.user_id, m.role, u.email FROM butler.memberships m JOIN butler.users u ON u.id = m.user_id
    WHERE m.org_id = :org_id ORDER BY m.user_id FOR UPDATE OF m
""")
_ROLE: Final = text("UPDATE butler.memberships SET role = :role WHERE org_id = :org_id AND user_id = :user_id")
_LEAVE: Final = text("DELETE FROM butler.memberships WHERE org_id = :org_id AND user_id = :user_id")
_END_SESSIONS: Final = text("DELETE FROM butler.sessions WHERE org_id = :org_id AND user_id = :user_id")

_INVITE: Final = text("""
    INSERT INTO butler.invitations (id, token_hash, org_id, email, role, invited_by, ends_at)
    VALUES (:id, :token_hash, :org_id, :email, :role, :invited_by, :ends_at)
""")
_INVITATIONS: Final = text("""
    SELECT i.id, i.email, i.role, u.email AS invited_by, i.created_at, i.ends_at
    FROM butler.invitations i JOIN butler.users u ON u.id = i.invited_by
    WHERE i.org_id = :org_id AND i.accepted_at IS NULL AND i.withdrawn_at IS NULL AND i.ends_at > :now
    ORDER BY i.created_at DESC, i.id
""")
_INVITED: Final = text("""
    SELECT i.id, i.org_id, i.email, i.role, o.name AS org_name
    FROM butler.invitations i JOIN butler.organisations o ON o.id = i.org_id
    WHERE i.token_hash = :token_hash AND i.accepted_at IS NULL AND i.withdrawn_at IS NULL AND i.ends_at > :now
    FOR UPDATE OF i
""")
_ACCEPT: Final = text("UPDATE butler.invitations SET accepted_at = :now WHERE org_id = :org_id AND id = :id")
_WITHDRAW: Final = text("""
    UPDATE butler.invitations SET withdrawn_at = clock_timestamp()
    WHERE org_id = :org_id AND id = :id AND accepted_at IS NULL AND withdrawn_at IS NULL RETURNING email
""")


@dataclass(frozen=True, slots=True)
class NewPerson:
    """Who joins: as the form says it."""

    email: str
    name: str
    password: Secret[str]


@dataclass(frozen=True, slots=True)
class Invited:
    """What an invitation's link opens. `is_known`: the person has a password here already, and joins with it."""

    org_id: UUID
    org_name: str
    email: str
    role: Role
    is_known: bool


class People:
    """The tables `organisations`, `users`, `memberships` and `invitations`."""

    def __init__(self, database: Database, passwords: Passwords) -> None:
        self._database = database
        self._passwords = passwords

    def found(self, org_name: str, owner: NewPerson) -> Actor:
        """A new organisation with its first owner; one who has an account keeps its password. The owner, as actor."""
        org_id, email = uuid4(), email_of(owner.email)
        kept = self._passwords.hash(owner.password)
        with self._database.change() as connection:
            user_id = _user(connection, email, owner.name, kept)
            connection.execute(_ADD_ORGANISATION, {"org_id": org_id, "name": org_name})
            connection.execute(_ADD_MEMBER, {"org_id": org_id, "user_id": user_id, "role": Role.OWNER.value})
            actor = Actor(org_id, user_id, email)
            audit(connection, actor, Entry("organisation.created", org_id, org_name))
        return actor

    def organisation(self, org_id: UUID) -> Organisation:
        """Raises NotThere."""
        row = self._database.one(_ORGANISATION, org_id=org_id)
        if row is None:
            raise NotThere
        return Organisation(**row._mapping)

    def rename(self, actor: Actor, name: str) -> None:
        """The organisation's name, as people and Stewards see it."""
        with self._database.change() as connection:
            if connection.execute(_RENAME, {"org_id": actor.org_id, "name": name}).one_or_none() is None:
                raise NotThere
            audit(connection, actor, Entry("organisation.renamed", actor.org_id, name))

    def organisations_of(self, user_id: UUID) -> list[tuple[Organisation, Role]]:
        """Where a person belongs."""
        rows = self._database.rows(_OF_USER, user_id=user_id)
        return [(Organisation(row.id, row.name, row.created_at), Role(row.role)) for row in rows]

    def members(self, org_id: UUID) -> list[Member]:
        """Everyone in the organisation, by e-mail."""
        rows = self._database.rows(_MEMBERS, org_id=org_id)
        return [Member(**{**row._mapping, "role": Role(row.role)}) for row in rows]

    def change_role(self, actor: Actor, user_id: UUID, role: Role) -> None:
        """Ends his sessions here. Raises NotThere; InTheWay when he is the last owner."""
        with self._database.change() as connection:
            email, before = _other_owner_stays(connection, actor.org_id, user_id, role)
            if before == role:
                return
            facts = {"org_id": actor.org_id, "user_id": user_id}
            connection.execute(_ROLE, {**facts, "role": role.value})
            connection.execute(_END_SESSIONS, facts)
            details = {"before": before.value, "role": role.value}
            audit(connection, actor, Entry("member.role_changed", user_id, email, details, notice=True))

    def remove(self, actor: Actor, user_id: UUID) -> None:
        """He no longer belongs here; his keys stay. Raises NotThere; InTheWay when he is the last owner."""
        with self._database.change() as connection:
            email, _ = _other_owner_stays(connection, actor.org_id, user_id, None)
            connection.execute(_LEAVE, {"org_id": actor.org_id, "user_id": user_id})
            audit(connection, actor, Entry("member.removed", user_id, email, notice=True))

    def invite(self, actor: Actor, email: str, role: Role, now: datetime) -> Made:
        """An invitation of seven days; its link's secret is in the answer and nowhere else."""
        plaintext, invitation_id, address = made(), uuid4(), email_of(email)
        facts = {
            "id": invitation_id,
            "token_hash": digest(plaintext),
            "org_id": actor.org_id,
            "email": address,
            "role": role.value,
            "invited_by": actor.user_id,
            "ends_at": now + INVITED_FOR,
        }
        with self._database.change() as connection:
            connection.execute(_INVITE, facts)
            details = {"role": role.value}
            audit(connection, actor, Entry("member.invited", invitation_id, address, details, notice=True))
        return Made(invitation_id, plaintext)

    def invitations(self, org_id: UUID, now: datetime) -> list[Invitation]:
        """Those that can still be accepted, newest first."""
        rows = self._database.rows(_INVITATIONS, org_id=org_id, now=now)
        return [Invitation(**{**row._mapping, "role": Role(row.role)}) for row in rows]

    def withdraw(self, actor: Actor, invitation_id: UUID) -> None:
        """Raises NotThere, also for one that was accepted."""
        with self._database.change() as connection:
            row = connection.execute(_WITHDRAW, {"org_id": actor.org_id, "id": invitation_id}).one_or_none()
            if row is None:
                raise NotThere
            audit(connection, actor, Entry("member.invitation_withdrawn", invitation_id, row.email))

    def invited(self, token: Secret[str], now: datetime) -> Invited:
        """What the link opens. Raises NotThere for one that is unknown, over, withdrawn or used."""
        row = self._database.one(_INVITED, token_hash=digest(token), now=now)
        if row is None:
            raise NotThere
        known = self._database.one(_USER, email=row.email) is not None
        return Invited(row.org_id, row.org_name, row.email, Role(row.role), known)

    def accept(self, token: Secret[str], name: str, password: Secret[str], now: datetime) -> Actor:
        """Joins. Who has an account gives its password, who has none chooses one. Raises NotThere, NotAcceptable."""
        opened = self.invited(token, now)
        known = self._database.one(_USER, email=opened.email)
        if known is not None and not self._passwords.fits(known.password_hash, password):
            raise NotAcceptable("password", message="This is not your account's password.")
        kept = self._passwords.hash(password) if known is None else known.password_hash
        with self._database.change() as connection:
            row = connection.execute(_INVITED, {"token_hash": digest(token), "now": now}).one_or_none()
            if row is None:
                raise NotThere
            user_id = _user(connection, row.email, name, kept)
            connection.execute(_ADD_MEMBER, {"org_id": row.org_id, "user_id": user_id, "role": row.role})
            connection.execute(_ACCEPT, {"org_id": row.org_id, "id": row.id, "now": now})
            actor = Actor(row.org_id, user_id, row.email)
            audit(connection, actor, Entry("member.joined", user_id, row.email, {"role": row.role}, notice=True))
        return actor


def email_of(given: str) -> str:
    """As it is kept and compared: in lower case. Raises NotAcceptable."""
    email = given.strip().lower()
    if not _EMAIL.fullmatch(email) or not email.isprintable():
        raise NotAcceptable("email")
    return email


def _user(connection: Connection, email: str, name: str, password_hash: str) -> UUID:
    """The person's id; made when there was none. Whoever has an account keeps his name and password."""
    known = connection.execute(_USER, {"email": email}).one_or_none()
    if known is not None:
        user_id: UUID = known.id
        return user_id
    user_id = uuid4()
    facts = {"id": user_id, "email": email, "name": name, "password_hash": password_hash}
    connection.execute(_ADD_USER, facts)
    return user_id


def _other_owner_stays(connection: Connection, org_id: UUID, user_id: UUID, role: Role | None) -> tuple[str, Role]:
    """The person's e-mail and present role, all memberships locked. Raises NotThere, InTheWay."""
    members = connection.execute(_LOCK_MEMBERS, {"org_id": org_id}).all()
    found = next((each for each in members if each.user_id == user_id), None)
    if found is None:
        raise NotThere
    owners = [each.user_id for each in members if each.role == Role.OWNER]
    if owners == [user_id] and role is not Role.OWNER:
        raise InTheWay("An organisation has at least one owner.")
    return found.email, Role(found.role)
