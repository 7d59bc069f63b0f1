"""Metadata keys: found by themselves, labelled, switched on and off."""

from __future__ import annotations

from steward.butler.nouns import Role
from tests.butler.pages.visits import House


def _active(house: House) -> set[str]:
    return {each.name for each in house.bench.services.metadata_keys.all(house.acme.owner.org_id) if each.is_active}


def test_every_tag_that_was_sent_is_there(house: House) -> None:
    words = house.visit().words("/metadata")
    assert all(name in words for name in ("Feature", "Team", "Environment", "User-Id"))


def test_a_key_is_switched_on_and_off(house: House) -> None:
    visit = house.visit(Role.ADMIN)
    assert visit.send("/metadata/User-Id/activate").headers["location"] == "/metadata"
    assert "User-Id" in _active(house) and 'aria-label="User-Id is active"' in visit.text("/metadata")
    visit.send("/metadata/User-Id/deactivate")
    assert "User-Id" not in _active(house)
    assert visit.send("/metadata/Never-Seen/activate").status_code == 404


def test_a_label_is_what_the_overview_says(house: House) -> None:
    visit = house.visit()
    visit.send("/metadata/Team/label", label="<b>Squad</b>")
    page = visit.text("/?tag=Team")
    assert "&lt;b&gt;Squad&lt;/b&gt;, by cost" in page and "<b>Squad</b>" not in page
    visit.send("/metadata/Team/label", label="")
    assert "Team, by cost" in visit.words("/?tag=Team")


def test_none_seen_says_how_to_send_one(empty_house: House) -> None:
    assert "X-Majordomo-Feature: search" in empty_house.visit().words("/metadata")
