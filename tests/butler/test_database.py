"""Transactions: whole or not at all, and the server's words stay behind."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from steward.butler.database import Database, RowsRefused
from steward.butler.errors import InTheWay
from steward.errors import SchemaTooOld
from tests.servers.butler import ButlerBench
from tests.servers.postgres import Database as Served

ADD = text("INSERT INTO butler.organisations (id, name) VALUES (CAST(:id AS uuid), :name)")
ONE = "00000000-0000-0000-0000-000000000001"


def test_a_change_is_whole_or_not_at_all(butler: ButlerBench) -> None:
    def change() -> None:
        with butler.services.database.change() as connection:
            connection.execute(ADD, {"id": ONE, "name": "one"})
            connection.execute(ADD, {"id": "00000000-0000-0000-0000-000000000002", "name": ""})

    with pytest.raises(RowsRefused):
        change()
    assert butler.postgres.run("SELECT id FROM butler.organisations") == []


def test_what_stands_there_already_is_in_the_way(butler: ButlerBench) -> None:
    with butler.services.database.change() as connection:
        connection.execute(ADD, {"id": ONE, "name": "one"})
    with pytest.raises(InTheWay), butler.services.database.change() as connection:
        connection.execute(ADD, {"id": ONE, "name": "two"})


def test_before_migrate_it_says_which_command_mends_it(empty_postgres: Served) -> None:
    with pytest.raises(SchemaTooOld, match="steward butler migrate"):
        Database(empty_postgres.engine).ready()


def test_a_schema_of_a_release_before_is_too_old(butler: ButlerBench) -> None:
    butler.services.database.ready()
    butler.postgres.run("UPDATE butler.butler_schema SET version_num = '0000'")
    with pytest.raises(SchemaTooOld, match="steward butler migrate"):
        butler.services.database.ready()
