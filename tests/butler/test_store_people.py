"""People: invitations that open once, e-mail as one spelling, and never an organisation without an owner."""

from __future__ import annotations

from datetime import timedelta

import pytest

from steward.butler.errors import InTheWay, NotAcceptable, NotThere
from steward.butler.nouns import Role
from steward.butler.store_people import INVITED_FOR, NewPerson, email_of
from steward.words import Secret
from tests.servers.butler import PASSWORD, ButlerBench


def test_an_invitation_opens_once_and_for_a_week(butler: ButlerBench) -> None:
    acme, people, now = butler.tenant("acme"), butler.services.people, butler.clock()
    link = people.invite(acme.owner, "New@Acme.Example", Role.MEMBER, now).plaintext
    late = people.invite(acme.owner, "late@acme.example", Role.MEMBER, now).plaintext
    opened = people.invited(link, now)
    assert (opened.email, opened.org_name, opened.role, opened.is_known) == (
        "new@acme.example",
        "acme",
        "member",
        False,
    )
    joined = people.accept(link, "New", Secret(PASSWORD), now)
    assert joined.org_id == acme.bearer.org_id
    for token, at in ((link, now), (late, now + INVITED_FOR), (Secret("x"), now)):
        with pytest.raises(NotThere):
            people.accept(token, "New", Secret(PASSWORD), at)
    assert [each.email for each in people.invitations(acme.bearer.org_id, now)] == ["late@acme.example"]


def test_a_withdrawn_invitation_opens_nothing(butler: ButlerBench) -> None:
    acme, people, now = butler.tenant("acme"), butler.services.people, butler.clock()
    made = people.invite(acme.owner, "new@acme.example", Role.OWNER, now)
    people.withdraw(acme.owner, made.id)
    with pytest.raises(NotThere):
        people.accept(made.plaintext, "New", Secret(PASSWORD), now)
    with pytest.raises(NotThere):
        people.withdraw(acme.owner, made.id)


def test_who_has_an_account_joins_with_its_password_and_keeps_it(butler: ButlerBench) -> None:
    acme, other, people, now = butler.tenant("acme"), butler.tenant("other"), butler.services.people, butler.clock()
    link = people.invite(acme.owner, other.owner.email, Role.VIEWER, now).plaintext
    assert people.invited(link, now).is_known
    with pytest.raises(NotAcceptable):
        people.accept(link, "Someone else", Secret("another password"), now)
    joined = people.accept(link, "Someone else", Secret(PASSWORD), now)
    assert joined.user_id == other.owner.user_id
    found = people.organisations_of(other.owner.user_id)  # type: ignore[arg-type]
    assert [(each.name, role) for each, role in found] == [("acme", Role.VIEWER), ("other", Role.OWNER)]
    assert [each.name for each in people.members(acme.bearer.org_id)] == ["Owner of acme", "Owner of other"]


def test_there_is_always_an_owner(butler: ButlerBench) -> None:
    acme, people = butler.tenant("acme"), butler.services.people
    assert acme.owner.user_id is not None
    for role in (Role.ADMIN, Role.VIEWER):
        with pytest.raises(InTheWay, match="owner"):
            people.change_role(acme.owner, acme.owner.user_id, role)
    second = butler.member(acme, Role.ADMIN)
    people.change_role(acme.owner, second.user_id, Role.OWNER)  # type: ignore[arg-type]
    people.remove(second, acme.owner.user_id)
    assert [each.email for each in people.members(acme.bearer.org_id)] == [second.email]


def test_a_second_organisation_of_one_person_keeps_his_password(butler: ButlerBench) -> None:
    acme, people = butler.tenant("acme"), butler.services.people
    people.found("second", NewPerson(acme.owner.email.upper(), "X", Secret("quite another one")))
    assert len(people.organisations_of(acme.owner.user_id)) == 2  # type: ignore[arg-type]
    assert butler.postgres.run("SELECT count(*)::int FROM butler.users") == [(1,)]
    people.rename(acme.owner, "Acme & Söhne")
    assert people.organisation(acme.bearer.org_id).name == "Acme & Söhne"


@pytest.mark.parametrize("wrong", ["", "x", "@", "a@", "@b", "a b@c", "a@b\n", "a\0@b", f"{'a' * 65}@b", "a@b@c"])
def test_what_is_no_address_is_refused(wrong: str) -> None:
    with pytest.raises(NotAcceptable):
        email_of(f"{wrong}\x01" if wrong == "a@b\n" else wrong)
    assert email_of(" A@B.Co ") == "a@b.co"
    assert timedelta(days=7) == INVITED_FOR
