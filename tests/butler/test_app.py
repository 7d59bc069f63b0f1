"""Butler's application: what it answers to whom it does not know, and errors that repeat nothing."""

from __future__ import annotations

import pytest
from fastapi import FastAPI

from steward.butler.access import ANYONE
from steward.butler.app import create_butler
from tests.butler.browser import Asker
from tests.servers.butler import ButlerBench

CANARY = "CANARY-30ad"


@pytest.fixture
def app(butler: ButlerBench) -> FastAPI:
    return create_butler(butler.services)


def test_it_lives_and_is_ready(app: FastAPI) -> None:
    assert (Asker(app).get("/health").text, Asker(app).get("/readyz").text) == ("alive", "ready")


def test_without_its_schema_it_is_not_ready_and_says_what_to_run(butler: ButlerBench, app: FastAPI) -> None:
    butler.postgres.run("DROP TABLE butler.butler_schema")
    answer = Asker(app).get("/api/v1/me", headers={"authorization": "Bearer mdm_cli_x"})
    ready = Asker(app).get("/readyz")
    assert (answer.status_code, ready.status_code) == (401, 503)
    assert Asker(app).get("/health").status_code == 200


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json", "/api/v1/", "/nowhere", "/static/..%2fapp.py"])
def test_there_is_nothing_else(app: FastAPI, path: str) -> None:
    assert Asker(app).get(path).status_code == 404


def test_an_address_that_is_wrong_is_not_repeated(app: FastAPI) -> None:
    answer = Asker(app).get(f"/api/v1/{CANARY}")
    assert answer.status_code == 404
    assert CANARY not in answer.text
    assert Asker(app).post("/api/v1/steward/me").status_code == 405


def test_a_defect_is_a_500_without_a_word_of_it(app: FastAPI, capfd: pytest.CaptureFixture[str]) -> None:
    def broken() -> None:
        raise ValueError(CANARY)

    app.get("/api/broken")(broken)
    app.state.rules = {**app.state.rules, "GET /api/broken": ANYONE}
    answer = Asker(app).get("/api/broken")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert CANARY not in answer.text
    assert CANARY not in "".join(capfd.readouterr())
