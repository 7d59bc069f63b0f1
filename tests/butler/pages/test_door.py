"""Who looks at a page: the way back stays here, the theme is one of three, data and trust ask for the password."""

from __future__ import annotations

from datetime import timedelta

import pytest

from steward.butler.nouns import Role
from steward.butler.pages.door import path_of_ours
from tests.butler.pages.visits import House


@pytest.mark.parametrize("path", ["/", "/requests?model=a%2Fb&range=7d", "/requests/0198?x=1", "/a//b"])
def test_a_path_of_ours_is_kept(path: str) -> None:
    assert path_of_ours(path) == path


@pytest.mark.parametrize(
    "said",
    [
        *("", "//evil.example", "https://evil.example/", "/\\evil.example", "javascript:alert(1)", "evil"),
        *("/a\r\nSet-Cookie: x", "/a b", "/<script>", "/" + "a" * 5000, "/\t/evil.example"),
    ],
)
def test_anything_else_leads_to_the_first_page(said: str) -> None:
    assert path_of_ours(said) == "/"


def test_a_theme_is_one_of_three(house: House) -> None:
    visit = house.visit()
    assert "data-theme" not in visit.text("/keys").split("<body")[0]
    visit.send("/theme", theme="dark", next="/keys")
    assert 'data-theme="dark"' in visit.text("/keys")
    visit.asker.cookies.set("butler_theme", '"><script>', domain="127.0.0.1", path="/")
    assert "data-theme=" not in visit.text("/keys").split("<body")[0]


def test_the_password_is_asked_again_after_five_minutes_and_not_before(house: House) -> None:
    visit = house.visit()
    assert "Your password" not in visit.text("/stewards?new=1")
    house.bench.clock.forward(timedelta(minutes=6))
    assert "Your password" in visit.text("/stewards?new=1")
    refused = visit.send("/stewards", name="late", host="")
    assert refused.status_code == 403 and "asks for your password again" in refused.text
    wrong = visit.send("/stewards", name="late", host="", password="not this one")
    assert wrong.status_code == 401 and "mdm_st_" not in wrong.text.replace("mdm_st_…", "")
    assert "late" not in [each.name for each in house.bench.services.stewards.all(house.acme.owner.org_id)]


def test_a_form_without_its_token_changes_nothing(house: House) -> None:
    visit = house.visit(Role.ADMIN)
    for sent in ({}, {"csrf": "0" * 64}, {"csrf": ""}):
        answer = visit.asker.post("/keys", data={**sent, "name": "forged"})
        assert answer.status_code == 403 and "Load the page again" in answer.text
    other = house.visit(Role.ADMIN)
    assert visit.asker.post("/keys", data={"csrf": other.token(), "name": "forged"}).status_code == 403
    crossed = {"headers": {"sec-fetch-site": "cross-site"}}
    assert visit.asker.post("/keys", data={"csrf": visit.token(), "name": "forged"}, **crossed).status_code == 403
    foreign = {"headers": {"origin": "https://evil.example"}}
    assert visit.asker.post("/keys", data={"csrf": visit.token(), "name": "forged"}, **foreign).status_code == 403
    assert "forged" not in visit.text("/keys")
