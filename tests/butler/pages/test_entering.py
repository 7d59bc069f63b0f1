"""Sign-in, sign-out, invitations, themes and static files."""

from __future__ import annotations

import re

import pytest

from steward.butler.nouns import Role
from tests.butler.pages.visits import House, Visit


def test_a_person_signs_in_and_comes_back_to_where_she_was(empty_house: House) -> None:
    visit = Visit(empty_house.app)
    answer = visit.sign_in(empty_house.acme.owner.email, then="/requests?range=7d")
    assert (answer.status_code, answer.headers["location"]) == (303, "/requests?range=7d")
    cookie = next(each for each in answer.headers.get_list("set-cookie") if "session" in each)
    assert "HttpOnly" in cookie and "SameSite=lax" in cookie and "Path=/" in cookie
    assert visit.get("/sign-in").headers["location"] == "/"


@pytest.mark.parametrize("then", ["//evil.example", "https://evil.example/", "/\\evil.example", "javascript:alert(1)"])
def test_a_sign_in_never_leads_away(empty_house: House, then: str) -> None:
    assert Visit(empty_house.app).sign_in(empty_house.acme.owner.email, then=then).headers["location"] == "/"
    page = Visit(empty_house.app).get(f"/sign-in?next={then}").text
    assert 'name="next" value="/"' in page


def test_a_wrong_password_and_an_unknown_address_are_one_answer(empty_house: House) -> None:
    visit = Visit(empty_house.app)
    wrong = visit.sign_in(empty_house.acme.owner.email, "not this password")
    unknown = visit.sign_in("nobody@acme.example", "not this password")
    assert wrong.status_code == unknown.status_code == 401
    assert "The e-mail address or the password is wrong." in wrong.text and "not this password" not in wrong.text

    def masked(text: str) -> str:
        return re.sub(r"[0-9a-f]{64}|owner@acme.example|nobody@acme.example", "", text)

    assert masked(wrong.text) == masked(unknown.text)


def test_many_wrong_passwords_are_slowed_down(empty_house: House) -> None:
    visit = Visit(empty_house.app)
    answers = [visit.sign_in(empty_house.acme.owner.email, "wrong") for _ in range(40)]
    assert answers[-1].status_code == 429 and "Too many sign-ins failed" in answers[-1].text


def test_a_sign_in_form_of_another_browser_is_refused(empty_house: House) -> None:
    mine, theirs = Visit(empty_house.app), Visit(empty_house.app)
    theirs.get("/sign-in")
    fields = {"email": empty_house.acme.owner.email, "password": "correct horse battery", "next": "/"}
    assert theirs.asker.post("/sign-in", data={"csrf": mine.token("/sign-in"), **fields}).status_code == 403


def test_signing_out_ends_the_session_on_the_server(empty_house: House) -> None:
    visit = empty_house.visit()
    kept = dict(visit.asker.cookies)
    assert visit.send("/sign-out").headers["location"] == "/sign-in"
    visit.asker.cookies.update(kept)
    assert visit.get("/").status_code == 303


def test_an_invited_person_joins_with_the_role_and_a_link_works_once(empty_house: House) -> None:
    owner = empty_house.visit()
    page = owner.send("/members/invite", on="/members?new=1", email="grace@acme.example", role="member").text
    link = re.search(r"http://127\.0\.0\.1:7690(/invitations\?token=[A-Za-z0-9_-]+)", page)
    assert link is not None
    visit = Visit(empty_house.app)
    assert "Join acme" in visit.words(link[1]) and "grace@acme.example" in visit.words(link[1])
    token = link[1].partition("token=")[2]
    short = visit.send("/invitations", on=link[1], token=token, name="Grace", password="short")
    assert short.status_code == 422 and "Join acme" in short.text
    joined = visit.send("/invitations", on=link[1], token=token, name="Grace", password="a long enough one")
    assert joined.headers["location"] == "/sign-in"
    assert visit.get(link[1]).status_code == 404
    assert visit.sign_in("grace@acme.example", "a long enough one").status_code == 303
    members = empty_house.bench.services.people.members(empty_house.acme.owner.org_id)
    assert {each.email: each.role for each in members}["grace@acme.example"] is Role.MEMBER


def test_a_file_is_kept_for_ever_under_the_address_that_pages_have(empty_house: House) -> None:
    visit = Visit(empty_house.app)
    address = re.search(r'href="(/static/butler\.css\?v=[0-9a-f]{16})"', visit.text("/sign-in"))
    assert address is not None
    assert "immutable" in visit.get(address[1]).headers["cache-control"]
    assert visit.get("/static/butler.css?v=0").headers["cache-control"] == "no-cache"
    assert visit.get("/static/butler.js").headers["content-type"].startswith("text/javascript")
    assert visit.get("/static/site.py").status_code == 404
