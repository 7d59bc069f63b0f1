"""The fleet: whether each Steward is well, its token shown once, what waits for a person inside."""

from __future__ import annotations

import re
from datetime import timedelta

from steward.butler.nouns import Role
from steward.words import Secret
from tests.butler.pages.visits import House

_TOKEN = re.compile(r"mdm_st_[A-Za-z0-9_-]{20,}")


def test_a_token_is_shown_once_with_the_command_that_registers(empty_house: House) -> None:
    visit = empty_house.visit()
    made = visit.send("/stewards", name="staging", host="lambda")
    (token,) = set(_TOKEN.findall(made.text))
    assert f"steward register --token {token} --butler-url http://127.0.0.1:7690" in made.text
    assert not _TOKEN.findall(visit.text("/stewards")) and not _TOKEN.findall(visit.text("/audit"))
    bearer = empty_house.bench.services.stewards.bearer(Secret(token), "x", empty_house.bench.clock())
    assert bearer is not None and bearer.org_id == empty_house.acme.owner.org_id
    assert "AWS Lambda" in visit.words("/stewards")


def test_a_place_that_is_none_of_ours_is_refused(empty_house: House) -> None:
    assert empty_house.visit().send("/stewards", name="x", host="<b>").status_code == 422


def test_a_silent_steward_is_said_here_and_above_the_figures(house: House) -> None:
    visit = house.visit()
    assert "healthy" in visit.words("/stewards")
    house.bench.clock.forward(timedelta(minutes=9))
    assert "silent for 9 min" in visit.words("/stewards").replace("\u00a0", " ")
    for path in ("/", "/requests"):
        words = visit.words(path).replace("\u00a0", " ")
        assert "The Steward prod has not been heard from for 9 min" in words
        assert "it goes on relaying" in words
    assert "has not been heard" not in visit.words("/keys")


def test_revoking_asks_and_says_what_it_does(house: House) -> None:
    visit = house.visit(Role.ADMIN)
    steward_id = house.acme.bearer.steward_id
    words = visit.words(f"/stewards?revoke={steward_id}")
    assert "Revoke the token of “prod”?" in words and "goes on relaying calls" in words
    visit.send(f"/stewards/{steward_id}/revoke")
    assert house.bench.services.stewards.bearer(house.acme.token, "x", house.bench.clock()) is None
    assert "revoked" in visit.words("/stewards")


def test_changes_that_a_person_inside_may_have_to_approve_are_named(house: House) -> None:
    visit = house.visit()
    assert "No storage or provider key was changed" in visit.words("/stewards")
    visit.send("/storage/organisation", on="/storage", provider="s3", bucket="acme-bodies", s3_region="eu-central-1")
    words = visit.words("/stewards")
    assert ("steward approve" in words and "acme-bodies (Storage changed" in words) or "acme-bodies" in words


def test_no_steward_yet_gives_the_command_that_makes_one(house: House) -> None:
    visit = house.visit()
    house.bench.postgres.run("DELETE FROM butler.requests")
    assert "majordomo stewards create" not in visit.words("/stewards")
