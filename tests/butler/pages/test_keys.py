"""API keys on their page: the secret is shown once, revoking asks and names the key."""

from __future__ import annotations

import re
from html import unescape

import pytest

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


def _many(house: House, number: int) -> list[str]:
    """Names, newest first."""
    for each in range(number):
        house.bench.services.keys.create(house.acme.owner, f"key-{each:04}", None)
    return [f"key-{each:04}" for each in reversed(range(number))]


_NAMED = re.compile(r'<span class="cut">(key-[0-9]{4})</span>')


def test_a_hundred_keys_stand_on_a_page_and_every_key_on_one(empty_house: House) -> None:
    visit, names, path, seen = empty_house.visit(), _many(empty_house, 250), "/keys", []
    revoked = empty_house.bench.services.keys.names(empty_house.acme.owner.org_id)
    gone = [key_id for key_id, name in revoked.items() if name in names[:30]]
    for key_id in gone:
        empty_house.bench.services.keys.revoke(empty_house.acme.owner, key_id)
    pages = []
    while path:
        page = visit.text(path)
        pages.append(len(_NAMED.findall(page)))
        seen += _NAMED.findall(page)
        older = re.search(r'href="(/keys\?[^"]*)" rel="next"', page)
        path = unescape(older[1]) if older else ""
    assert pages == [100, 100, 50]
    assert seen == [*names[30:], *names[:30]]
    assert '<a class="button" href="/keys">First</a>' in page


def test_a_key_is_found_by_a_part_of_its_name(empty_house: House) -> None:
    visit = empty_house.visit()
    _many(empty_house, 130)
    empty_house.bench.services.keys.create(empty_house.acme.owner, "100%_Sure", None)
    assert _NAMED.findall(visit.text("/keys?name=KEY-012")) == [f"key-012{each}" for each in reversed(range(10))]
    page = visit.text("/keys?name=key")
    assert len(_NAMED.findall(page)) == 100 and "name=key&amp;after=active_" in page
    assert "100%_Sure" in visit.text("/keys?name=%25_s") and not _NAMED.findall(visit.text("/keys?name=%25"))
    words = visit.words("/keys?name=nobody")
    assert "No key matches" in words and "No API key yet" not in words and "Create a key" in words


def test_what_is_done_to_a_key_leads_back_to_where_it_stood(empty_house: House) -> None:
    visit = empty_house.visit()
    _many(empty_house, 3)
    key_id = next(iter(empty_house.bench.services.keys.names(empty_house.acme.owner.org_id)))
    assert f'href="/keys?name=key&amp;revoke={key_id}"' in visit.text("/keys?name=key")
    assert 'name="back" value="/keys?name=key"' in visit.text(f"/keys?name=key&revoke={key_id}")
    sent = visit.send(f"/keys/{key_id}/behavior", behavior="warn", back="/keys?name=key")
    assert sent.headers["location"] == "/keys?name=key"
    for led in ("https://evil.example/keys?", "//evil.example/keys?", "/storage", ""):
        assert visit.send(f"/keys/{key_id}/revoke", back=led).headers["location"] == "/keys"


@pytest.mark.parametrize(
    "query", ["after=x", "after=active_2026-99-01T00:00:00Z_" + "0" * 36, "name=%00", "revoke=%27", "name=" + "a" * 900]
)
def test_a_hostile_address_shows_a_page(house: House, query: str) -> None:
    assert "API keys" in house.visit().words(f"/keys?{query}")


def test_every_figure_of_a_narrow_page_says_what_it_is(house: House) -> None:
    page = house.visit().text("/keys")
    cells = re.findall(r'<td class="num k4">(.*?)</td>', page)
    assert len(cells) > 3 and all('<span class="narrow-only"> call' in cell for cell in cells)
