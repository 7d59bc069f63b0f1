"""A person's own account: password, sessions, organisations."""

from __future__ import annotations

from uuid import uuid4

from steward.butler.nouns import Role
from steward.words import Secret
from tests.butler.pages.visits import House, Visit
from tests.servers.butler import PASSWORD


def test_a_new_password_ends_the_other_sessions(empty_house: House) -> None:
    here, there = empty_house.visit(), empty_house.visit()
    wrong = here.send("/account/password", password="not this", new_password="another good password")
    assert wrong.status_code == 401 and "another good password" not in wrong.text
    short = here.send("/account/password", password=PASSWORD, new_password="short")
    assert short.status_code == 422
    changed = here.send("/account/password", password=PASSWORD, new_password="another good password")
    assert changed.headers["location"] == "/account?changed=1"
    assert here.get("/account?changed=1").status_code == 200 and there.get("/").status_code == 303
    assert Visit(empty_house.app).sign_in(empty_house.acme.owner.email).status_code == 401


def test_another_session_is_ended_and_a_strangers_is_not(empty_house: House) -> None:
    here, there, stranger = empty_house.visit(), empty_house.visit(), empty_house.visit(Role.ADMIN)
    owner = empty_house.acme.owner
    assert owner.user_id is not None
    mine = empty_house.bench.services.sessions.all(owner.org_id, owner.user_id, empty_house.bench.clock())
    assert len(mine) == 2
    for each in mine:
        stranger.send(f"/account/sessions/{each.id}/end")
    assert there.get("/").status_code == here.get("/").status_code == 200
    page = here.text("/account")
    (other,) = [each for each in mine if f"/account/sessions/{each.id}/end" in page]
    here.send(f"/account/sessions/{other.id}/end")
    assert there.get("/").status_code == 303 and here.get("/").status_code == 200


def test_a_person_of_two_organisations_changes_between_them(empty_house: House) -> None:
    people, other, email = empty_house.bench.services.people, empty_house.other.owner, empty_house.acme.owner.email
    link = people.invite(other, email, Role.VIEWER, empty_house.bench.clock())
    people.accept(link.plaintext, "", Secret(PASSWORD), empty_house.bench.clock())
    visit = empty_house.visit()
    assert visit.send("/account/organisation", organisation=str(other.org_id)).headers["location"] == "/"
    assert "viewer in other" in visit.words("/account")
    assert visit.send("/account/organisation", on="/account", organisation=str(uuid4())).status_code == 404
    assert visit.send("/account/organisation", on="/account", organisation="all").status_code == 404
