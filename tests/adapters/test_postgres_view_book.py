"""The viewer's book in PostgreSQL: what rests there, and that its account only grows."""

from __future__ import annotations

from datetime import timedelta

import pytest

from steward.adapters import postgres_view_book
from steward.adapters.postgres_view_book import PostgresViewBook
from steward.errors import LedgerFault
from steward.ports import ViewAct, ViewEntry
from steward.viewing import digest, new_token
from tests.contracts.records import ORG
from tests.contracts.test_view_book import HOUR, PEER, a_hash
from tests.servers.postgres import Database

FORBIDDEN = {
    "update": "UPDATE view_audit SET who = 'nobody'",
    "delete": "DELETE FROM view_audit",
    "truncate": "TRUNCATE view_audit",
}


@pytest.mark.parametrize("sql", FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_the_account_only_grows(postgres: Database, sql: str) -> None:
    book = PostgresViewBook(postgres.engine)
    session = book.sign_in("ada", [ORG], a_hash(), PEER, HOUR)
    book.note(ViewEntry(ViewAct.OPENED, "ada", PEER, session.id, ORG))
    before = postgres.run("SELECT id, at, act, who FROM view_audit ORDER BY id")
    with pytest.raises(Exception, match="only grows"):
        postgres.run(sql)
    assert postgres.run("SELECT id, at, act, who FROM view_audit ORDER BY id") == before


def test_of_tokens_and_sessions_only_hashes_rest(postgres: Database) -> None:
    book = PostgresViewBook(postgres.engine)
    plaintext, _ = new_token(book, ORG, "ada", HOUR)
    book.sign_in_with_token(digest(plaintext), digest("session-secret"), PEER, HOUR)
    everything = str(
        [postgres.run(f"SELECT t::text FROM {table} AS t") for table in ("view_tokens", "view_sessions", "view_audit")]
    )
    assert plaintext not in everything
    assert plaintext.removeprefix("mdm_vt_") not in everything
    assert "session-secret" not in everything
    assert digest(plaintext) in everything


def test_a_sign_in_forgets_what_expired_a_day_ago(postgres: Database) -> None:
    book = PostgresViewBook(postgres.engine)
    book.sign_in("old", [ORG], a_hash(), PEER, timedelta(days=-2))
    book.sign_in("new", [ORG], a_hash(), PEER, HOUR)
    assert postgres.run("SELECT who FROM view_sessions") == [("new",)]
    assert [each.who for each in book.notes(10)] == ["new", "old"]


def test_a_row_that_the_tables_do_not_take_is_no_session(postgres: Database) -> None:
    book = PostgresViewBook(postgres.engine)
    with pytest.raises(LedgerFault):
        book.sign_in("x" * 301, [ORG], a_hash(), PEER, HOUR)
    with pytest.raises(LedgerFault):
        book.sign_in("ada", [ORG], "not a hash", PEER, HOUR)
    assert book.notes(10) == []


def test_no_statement_reads_columns_it_does_not_name() -> None:
    statements = [
        value for name, value in vars(postgres_view_book).items() if name.isupper() and isinstance(value, str)
    ]
    assert len(statements) > 8
    assert all("*" not in sql for sql in statements)


def test_what_stands_in_the_account_is_told_and_what_does_not_is_not(postgres: Database) -> None:
    told: list[ViewAct] = []
    book = PostgresViewBook(postgres.engine, told.append)
    session = book.sign_in("ada", [ORG], a_hash(), PEER, HOUR)
    for act in (ViewAct.OPENED, ViewAct.DOWNLOADED, ViewAct.REFUSED):
        book.note(ViewEntry(act, "ada", PEER, session.id, ORG))
    assert told == [ViewAct.OPENED, ViewAct.DOWNLOADED, ViewAct.REFUSED]
    with pytest.raises(LedgerFault):
        book.note(ViewEntry(ViewAct.OPENED, "", PEER, session.id, ORG))
    assert len(told) == 3
