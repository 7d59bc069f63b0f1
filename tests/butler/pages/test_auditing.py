"""The audit log: narrowed, paged, and what owners are told is seen once an owner says so."""

from __future__ import annotations

import re
from html import unescape

import pytest

from steward.butler.nouns import Role
from tests.butler.pages.visits import House, Visit


def test_every_change_is_there_and_can_be_narrowed(house: House) -> None:
    visit = house.visit()
    words = visit.words("/audit")
    assert "API key created" in words and "Metadata key activated" in words and "Steward token created" in words
    narrowed = visit.words("/audit?object=api_key")
    assert "API key created" in narrowed and "Metadata key activated" not in narrowed
    assert "API key created" not in visit.words("/audit?object=storage")
    assert "API key created" in visit.words(f"/audit?actor={house.acme.owner.email}")


@pytest.mark.parametrize(
    "query", ["actor=<script>", "object=%00", "before=2026-99-01T00:00:00Z_x", "before=" + "9" * 500]
)
def test_a_hostile_address_shows_the_whole_log(house: House, query: str) -> None:
    assert "API key created" in house.visit().words(f"/audit?{query}")


def test_the_log_pages_through_every_entry_once(house: House) -> None:
    visit = house.visit()
    for number in range(70):
        visit.send("/metadata/Team/label", label=f"label {number}")
    first = visit.text("/audit?object=metadata_key")
    older = re.search(r'href="(/audit\?[^"]*)" rel="next"', first)
    assert older is not None
    second = visit.text(unescape(older[1]))
    assert first.count("<tr>") + second.count("<tr>") == 70 + 4 + 2  # three activated, one labelled; two heads


def _change_storage(visit: Visit, bucket: str = "acme-bodies") -> None:
    visit.send("/storage/organisation", on="/storage", provider="s3", bucket=bucket, s3_region="eu-central-1")


def _until(visit: Visit) -> str:
    found = re.search(r'name="until" value="([^"]+)"', visit.text("/audit"))
    assert found is not None
    return unescape(found[1])


def test_what_owners_are_told_is_told_until_one_says_that_he_saw_it(house: House) -> None:
    visit = house.visit()
    _change_storage(visit)
    assert "See the audit log" in visit.words("/keys")
    assert "See the audit log" not in house.visit(Role.ADMIN).words("/keys")
    words = visit.words("/audit")
    assert "acme-bodies" in words.split("Mark all as seen")[1].split("Person")[0]
    assert "See the audit log" in visit.words("/keys"), "to look changes nothing"
    assert visit.send("/audit/seen", on="/audit", until=_until(visit)).headers["location"] == "/audit"
    assert "See the audit log" not in visit.words("/keys")
    assert "Mark all as seen" not in visit.words("/audit")


def test_what_came_after_the_button_was_shown_is_not_seen_with_it(house: House) -> None:
    visit = house.visit()
    _change_storage(visit)
    until = _until(visit)
    _change_storage(visit, "acme-later")
    visit.send("/audit/seen", until=until)
    assert "acme-later" in visit.words("/audit").split("Mark all as seen")[1].split("Person")[0]
    visit.send("/audit/seen", until="2999-01-01T00:00:00+00:00")
    _change_storage(visit, "acme-last")
    assert "See the audit log" in visit.words("/keys"), "nobody has seen what is still to come"


def test_another_site_marks_nothing_as_seen(house: House) -> None:
    visit = house.visit()
    _change_storage(visit)
    assert visit.asker.post("/audit/seen", data={"until": _until(visit)}).status_code == 403
    for wrong in ("", "soon", "2026-11-18T12:00:00"):
        assert visit.send("/audit/seen", until=wrong).status_code == 422
    assert "See the audit log" in visit.words("/keys")
