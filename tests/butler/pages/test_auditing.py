"""The audit log: narrowed, paged, and what owners are told is seen when it is opened."""

from __future__ import annotations

import re
from html import unescape

import pytest

from steward.butler.nouns import Role
from tests.butler.pages.visits import House


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


def test_what_owners_are_told_is_told_until_the_log_is_opened(house: House) -> None:
    visit = house.visit()
    visit.send("/storage/organisation", on="/storage", provider="s3", bucket="acme-bodies", s3_region="eu-central-1")
    assert "See the audit log" in visit.words("/keys")
    assert "See the audit log" not in house.visit(Role.ADMIN).words("/keys")
    visit.text("/audit")
    assert "See the audit log" not in visit.words("/keys")
