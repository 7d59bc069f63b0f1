"""Members: roles, removal, invitations; the last owner stays."""

from __future__ import annotations

from steward.butler.nouns import Role
from tests.butler.pages.visits import House


def _roles(house: House) -> dict[str, Role]:
    return {each.email: each.role for each in house.bench.services.people.members(house.acme.owner.org_id)}


def test_a_role_is_changed_and_ends_that_persons_sessions(empty_house: House) -> None:
    owner, member = empty_house.visit(), empty_house.bench.member(empty_house.acme, Role.MEMBER)
    owner.send(f"/members/{member.user_id}/role", role="admin")
    assert _roles(empty_house)[member.email] is Role.ADMIN
    assert owner.send(f"/members/{member.user_id}/role", role="emperor").status_code == 422


def test_the_last_owner_stays(empty_house: House) -> None:
    owner = empty_house.visit()
    answer = owner.send(f"/members/{empty_house.acme.owner.user_id}/role", role="viewer")
    assert answer.status_code == 409
    assert _roles(empty_house)[empty_house.acme.owner.email] is Role.OWNER


def test_removing_asks_names_the_person_and_signs_him_out(empty_house: House) -> None:
    owner = empty_house.visit()
    visit = empty_house.visit(Role.ADMIN)
    person = next(
        each
        for each in empty_house.bench.services.people.members(empty_house.acme.owner.org_id)
        if each.role == Role.ADMIN
    )
    assert f"Remove {person.email}?" in owner.words(f"/members?remove={person.user_id}")
    owner.send(f"/members/{person.user_id}/remove")
    assert person.email not in _roles(empty_house) and visit.get("/").status_code == 303


def test_an_invitation_can_be_withdrawn(empty_house: House) -> None:
    owner = empty_house.visit()
    owner.send("/members/invite", email="late@acme.example", role="viewer")
    (waiting,) = empty_house.bench.services.people.invitations(empty_house.acme.owner.org_id, empty_house.bench.clock())
    assert "late@acme.example" in owner.words("/members")
    owner.send(f"/members/invitations/{waiting.id}/withdraw")
    assert "Invitations that wait" not in owner.words("/members")
    assert owner.send("/members/invite", email="no address", role="viewer").status_code == 422


def test_what_each_role_may_is_said(empty_house: House) -> None:
    words = empty_house.visit(Role.VIEWER).words("/members")
    assert "Sees every page, changes nothing." in words and "Invite a person" not in words
