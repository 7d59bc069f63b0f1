"""Sessions: new at each sign-in, ended on the server, fresh for five minutes, one organisation each."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from steward.butler.errors import NotAcceptable, NotThere, SignInFailed, TooManyTries
from steward.butler.nouns import Role
from steward.butler.store_sessions import FRESH_FOR, LASTS, TRIES_OF_ACCOUNT, TRIES_OF_ADDRESS, Attempt, SignedIn
from steward.words import Secret
from tests.servers.butler import PASSWORD, ButlerBench, Tenant

HERE = "203.0.113.9"


@pytest.fixture
def acme(butler: ButlerBench) -> Tenant:
    return butler.tenant("acme")


def enter(butler: ButlerBench, tenant: Tenant, **said: Any) -> SignedIn:
    facts = {"email": tenant.owner.email, "password": Secret(PASSWORD), "address": HERE, **said}
    return butler.services.sessions.sign_in(Attempt(**facts), butler.clock())


def test_each_sign_in_is_another_session_and_its_secret_is_not_kept(butler: ButlerBench, acme: Tenant) -> None:
    first, second = enter(butler, acme), enter(butler, acme)
    assert first.token != second.token
    kept = str(butler.postgres.run("SELECT s::text FROM butler.sessions s"))
    assert first.token.reveal() not in kept
    assert len(butler.services.sessions.all(acme.bearer.org_id, first.session.user_id, butler.clock())) == 2


@pytest.mark.parametrize("kind", ["browser", "cli"])
def test_it_ends_on_the_server(butler: ButlerBench, acme: Tenant, kind: Any) -> None:
    sessions, signed = butler.services.sessions, enter(butler, acme, kind=kind)
    assert signed.session.ends_at == butler.clock() + LASTS[kind]
    assert sessions.find(signed.token, kind, butler.clock()) is not None
    assert sessions.find(signed.token, "cli" if kind == "browser" else "browser", butler.clock()) is None
    assert sessions.find(signed.token, kind, signed.session.ends_at) is None
    sessions.end(acme.owner, signed.session.id)
    assert sessions.find(signed.token, kind, butler.clock()) is None


def test_somebody_else_s_session_is_not_ended(butler: ButlerBench, acme: Tenant) -> None:
    other = butler.tenant("other")
    signed = enter(butler, acme)
    butler.services.sessions.end(other.owner, signed.session.id)
    assert butler.services.sessions.find(signed.token, "browser", butler.clock()) is not None


def test_the_password_again_is_good_for_five_minutes(butler: ButlerBench, acme: Tenant) -> None:
    sessions, signed = butler.services.sessions, enter(butler, acme)
    later = butler.clock.forward(timedelta(hours=1))
    assert signed.session.fresh_until < later
    fresh = sessions.confirm(signed.session, Secret(PASSWORD), HERE, later)
    assert fresh.fresh_until == later + FRESH_FOR
    for _ in range(TRIES_OF_ACCOUNT):
        with pytest.raises(SignInFailed):
            sessions.confirm(signed.session, Secret("wrong"), HERE, later)
    with pytest.raises(TooManyTries):
        sessions.confirm(signed.session, Secret(PASSWORD), HERE, later)


def test_another_organisation_is_another_session(butler: ButlerBench, acme: Tenant) -> None:
    other, sessions, people, now = (
        butler.tenant("other"),
        butler.services.sessions,
        butler.services.people,
        butler.clock(),
    )
    signed = enter(butler, acme)
    with pytest.raises(NotThere):
        sessions.switch(signed.session, other.bearer.org_id, HERE, now)
    link = people.invite(other.owner, acme.owner.email, Role.VIEWER, now).plaintext
    people.accept(link, "x", Secret(PASSWORD), now)
    later = butler.clock.forward(timedelta(hours=2))
    switched = sessions.switch(signed.session, other.bearer.org_id, HERE, later)
    assert (switched.session.org_name, switched.session.role) == ("other", Role.VIEWER)
    assert switched.session.ends_at == signed.session.ends_at
    assert switched.session.fresh_until <= later
    assert sessions.find(signed.token, "browser", later) is None
    with pytest.raises(SignInFailed):
        enter(butler, other, org_id=acme.bearer.org_id)


def test_a_new_password_ends_all_other_sessions(butler: ButlerBench, acme: Tenant) -> None:
    sessions, now = butler.services.sessions, butler.clock()
    mine, other = enter(butler, acme), enter(butler, acme, kind="cli")
    with pytest.raises(SignInFailed):
        sessions.change_password(mine.session, Secret("wrong"), Secret("a new password"), HERE, now)
    for bad in ("short", PASSWORD):
        with pytest.raises(NotAcceptable):
            sessions.change_password(mine.session, Secret(PASSWORD), Secret(bad), HERE, now)
    sessions.change_password(mine.session, Secret(PASSWORD), Secret("a new password"), HERE, now)
    assert sessions.find(mine.token, "browser", now) is not None
    assert sessions.find(other.token, "cli", now) is None
    with pytest.raises(SignInFailed):
        enter(butler, acme)
    assert enter(butler, acme, password=Secret("a new password")).session.email == acme.owner.email


def test_who_guesses_his_password_locks_out_nobody_else(butler: ButlerBench, acme: Tenant) -> None:
    """Tries were once counted for all who change a password, of whatever organisation."""
    sessions, now, other = butler.services.sessions, butler.clock(), butler.tenant("other")
    mine, theirs = enter(butler, acme), enter(butler, other, address="203.0.113.77")
    for _ in range(TRIES_OF_ADDRESS + 5):
        with pytest.raises((SignInFailed, TooManyTries)):
            sessions.change_password(mine.session, Secret("wrong"), Secret("a new password"), HERE, now)
    sessions.change_password(theirs.session, Secret(PASSWORD), Secret("a new password"), "203.0.113.77", now)
    (row,) = butler.postgres.run("SELECT address FROM butler.audit_log WHERE action = 'user.password_changed'")
    assert row[0] == "203.0.113.77"


def test_what_has_ended_is_forgotten(butler: ButlerBench, acme: Tenant) -> None:
    enter(butler, acme)
    butler.services.sessions.forget_expired(butler.clock.forward(LASTS["browser"]))
    assert butler.postgres.run("SELECT id FROM butler.sessions") == []
    assert butler.postgres.run("SELECT subject FROM butler.sign_in_failures") == []
