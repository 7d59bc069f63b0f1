"""Storage settings: by scope, write-only, the password asked again, and what the Stewards say of bodies."""

from __future__ import annotations

from datetime import timedelta

import pytest

from steward.butler.nouns import Role
from tests.butler.pages.visits import House
from tests.servers.butler import PASSWORD

_S3 = {
    **{"provider": "s3", "bucket": "acme-bodies", "s3_region": "eu-central-1"},
    **{"s3_access_key_id": "AKIAIOSFODNN7EXAMPLE", "s3_secret": "the-secret-of-the-bucket"},
}


def test_a_bucket_is_set_and_its_secret_never_shown_again(house: House) -> None:
    visit = house.visit()
    answer = visit.send("/storage/organisation", on="/storage", **_S3)
    assert answer.headers["location"] == "/storage?saved=organisation"
    words = visit.words("/storage?saved=organisation")
    assert "acme-bodies" in words and "set; nobody can read it back here" in words and "steward approve" in words
    for path in ("/storage", "/audit", "/stewards"):
        assert "the-secret-of-the-bucket" not in visit.text(path)
    (sent,) = house.bench.services.storage.sent(house.acme.owner.org_id)
    assert sent.secret is not None and sent.secret.reveal() == "the-secret-of-the-bucket"


def test_an_empty_secret_keeps_the_one_that_is_set(house: House) -> None:
    visit = house.visit()
    visit.send("/storage/organisation", on="/storage", **_S3)
    visit.send("/storage/organisation", on="/storage", **{**_S3, "s3_secret": "", "s3_region": "eu-central-1"})
    (sent,) = house.bench.services.storage.sent(house.acme.owner.org_id)
    assert sent.secret is not None and sent.secret.reveal() == "the-secret-of-the-bucket"


def test_a_member_sets_his_own_and_not_the_organisations(house: House) -> None:
    visit = house.visit(Role.MEMBER)
    assert visit.send("/storage/personal", on="/storage", **_S3).status_code == 303
    assert visit.send("/storage/organisation", on="/storage", **_S3).status_code == 403
    (config,) = house.bench.services.storage.all(house.acme.owner.org_id)
    assert config.owner_type == "user"
    assert "Personal settings of others" in house.visit().words("/storage")


def test_a_late_change_asks_for_the_password(house: House) -> None:
    visit = house.visit()
    house.bench.clock.forward(timedelta(minutes=10))
    refused = visit.send("/storage/organisation", on="/storage", **_S3)
    assert refused.status_code == 403 and 'value="acme-bodies"' in refused.text
    assert "the-secret-of-the-bucket" not in refused.text
    assert visit.send("/storage/organisation", on="/storage", **_S3, password=PASSWORD).status_code == 303


def test_removing_says_where_bodies_go_then(house: House) -> None:
    visit = house.visit()
    visit.send("/storage/organisation", on="/storage", **_S3)
    assert "New bodies go to the Steward's BODY_STORE_URL" in visit.words("/storage")
    visit.send("/storage/organisation/remove", on="/storage")
    assert house.bench.services.storage.all(house.acme.owner.org_id) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"bucket": ""},
        {"bucket": "../etc"},
        {"s3_region": "eu\x00"},
        {"s3_endpoint": "javascript:alert(1)"},
        {"bucket": "a" * 400},
    ],
)
def test_what_can_be_no_bucket_is_refused_and_said(house: House, wrong: dict[str, str]) -> None:
    answer = house.visit().send("/storage/organisation", on="/storage", **{**_S3, **wrong})
    assert answer.status_code == 422 and 'role="alert"' in answer.text
    assert house.bench.services.storage.all(house.acme.owner.org_id) == []


def test_an_unknown_scope_is_not_there(house: House) -> None:
    assert house.visit().send("/storage/everyone", on="/storage", **_S3).status_code == 404


def test_what_the_stewards_say_of_bodies_is_counted(house: House) -> None:
    assert "stored: The request and response lie in your bucket." in house.visit().words("/storage")
