"""API keys on their page: the secret is shown once, revoking asks and names the key."""

from __future__ import annotations

import re

from steward.butler.nouns import Role
from steward.butler.secrets_made import digest
from steward.words import Secret
from tests.butler.pages.visits import House

_SECRET = re.compile(r"mdm_sk_[A-Za-z0-9_-]{20,}")


def test_a_key_is_shown_once_with_a_line_that_uses_it(empty_house: House) -> None:
    visit = empty_house.visit(Role.MEMBER)
    made = visit.send("/keys", name="checkout", description="The till", behavior="warn")
    (secret,) = set(_SECRET.findall(made.text))
    assert made.status_code == 200 and "Copy it now" in made.text and f"X-Majordomo-Key: {secret}" in made.text
    assert not _SECRET.findall(visit.text("/keys")) and "checkout" in visit.text("/keys")
    (use,) = empty_house.bench.services.keys.all(empty_house.acme.owner.org_id, empty_house.bench.clock())
    assert (use.key.key_hash, use.key.deprecated_model_behavior) == (digest(Secret(secret)), "warn")
    assert not _SECRET.findall(visit.text("/audit"))


def test_revoking_asks_first_and_names_the_key(house: House) -> None:
    visit = house.visit()
    assert house.day is not None
    key_id = house.day.keys["data-platform"]
    words = visit.words(f"/keys?revoke={key_id}")
    assert "Revoke “data-platform”?" in words and "15 seconds" in words
    assert house.bench.services.keys.get(house.acme.owner.org_id, key_id).is_active
    assert visit.send(f"/keys/{key_id}/revoke").headers["location"] == "/keys"
    assert not house.bench.services.keys.get(house.acme.owner.org_id, key_id).is_active
    assert "Revoke “data-platform”?" not in visit.words(f"/keys?revoke={key_id}")


def test_what_is_wrong_is_said_beside_what_was_written(empty_house: House) -> None:
    visit = empty_house.visit()
    answer = visit.send("/keys", name="", description="kept", behavior="passthrough")
    assert answer.status_code == 422 and "Name is missing." in answer.text and 'value="kept"' in answer.text
    assert visit.send("/keys", name="x", behavior="explode").status_code == 422
    assert "No API key yet" in visit.words("/keys")


def test_deprecated_models_are_set_for_each_key(house: House) -> None:
    visit = house.visit()
    assert house.day is not None
    key_id = house.day.keys["mobile-beta"]
    visit.send(f"/keys/{key_id}/behavior", behavior="redirect")
    known = house.bench.services.keys.get(house.acme.owner.org_id, key_id)
    assert known.deprecated_model_behavior == "redirect"
    assert visit.send(f"/keys/{key_id}/behavior", behavior="no").status_code == 422


def test_a_viewer_is_offered_nothing_that_he_may_not(house: House) -> None:
    page = house.visit(Role.VIEWER).text("/keys?new=1")
    assert "Create a key" not in page and ">Revoke<" not in page and "checkout-production" in page


def test_a_key_shows_what_it_called_and_cost(house: House) -> None:
    assert house.day is not None
    uses = house.bench.services.keys.all(house.acme.owner.org_id, house.bench.clock())
    words = house.visit().words("/keys")
    assert sum(use.calls for use in uses) == 160
    assert all(f"{use.calls:,}" in words for use in uses)
