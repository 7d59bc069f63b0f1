"""Pages for what went wrong: what failed, what still works, what to do; never more than a fixed sentence."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

from sqlalchemy.engine import Engine

from steward.adapters.postgres_connection import PostgresAddress, open_engine
from steward.butler.access import ANYONE
from steward.butler.app import create_butler
from steward.butler.nouns import Role
from steward.butler.passwords import Passwords
from steward.butler.services import Site, over
from tests.butler.pages.visits import House, Visit
from tests.servers.butler import BUTLER_KEYRING


def _nowhere(address: PostgresAddress) -> Engine:
    return open_engine(replace(address, host="127.0.0.1", port=1))


def test_a_database_that_does_not_answer_is_said_and_what_still_works(house: House) -> None:
    visit = house.visit()
    engine = _nowhere(house.bench.postgres.address)
    services = over(engine, BUTLER_KEYRING, Site("http://127.0.0.1:7690"), Passwords(), house.bench.clock)
    broken = Visit(create_butler(services))
    broken.asker.cookies = visit.asker.cookies
    answer = broken.get("/requests")
    engine.dispose()
    assert answer.status_code == 503 and "<h1>Not available</h1>" in answer.text
    assert "go on relaying calls" in answer.text and 'href="/requests"' in answer.text
    assert "127.0.0.1:1" not in answer.text and "Traceback" not in answer.text


def test_somebody_whose_session_ended_comes_back_after_signing_in(house: House) -> None:
    visit = Visit(house.app)
    assert visit.get("/keys").headers["location"] == "/sign-in?next=%2Fkeys"
    assert visit.get("/").headers["location"] == "/sign-in"


def test_a_form_that_is_too_long_is_not_read(house: House) -> None:
    visit = house.visit()
    answer = visit.asker.post("/keys", data={"csrf": visit.token(), "name": "x" * 100_000})
    assert answer.status_code == 413 and "<h1>Too long</h1>" in answer.text


def test_whoever_is_signed_in_finds_the_way_on_from_what_went_wrong(house: House) -> None:
    visit = house.visit(Role.VIEWER)

    def broken() -> None:
        raise ValueError("CANARY")

    house.app.get("/broken")(broken)
    house.app.state.rules = {**house.app.state.rules, "GET /broken": ANYONE}
    missing, defect = visit.get("/nowhere"), visit.get("/broken")
    refused = visit.asker.post("/stewards", data={"csrf": visit.token("/account")})
    unknown = visit.get(f"/requests/{uuid4()}")
    assert [each.status_code for each in (missing, defect, refused, unknown)] == [404, 500, 403, 404]
    for answer in (missing, defect, refused, unknown):
        assert 'aria-label="Pages"' in answer.text and 'href="/requests"' in answer.text, answer.status_code
        assert "acme" in answer.text and "CANARY" not in answer.text
    assert visit.send("/theme", on="/nowhere", theme="dark", next="/nowhere").status_code == 303


def test_nobody_is_shown_the_navigation_and_led_to_the_sign_in(house: House) -> None:
    visit = Visit(house.app)
    answer = visit.get("/nowhere?a=1")
    assert answer.status_code == 404 and 'aria-label="Pages"' not in answer.text
    assert 'href="/sign-in?next=%2Fnowhere%3Fa%3D1"' in answer.text
    assert "<title>Not found · Butler</title>" in answer.text
