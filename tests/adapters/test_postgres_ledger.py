"""What the ledger in PostgreSQL does, and says, when the server stops, the schema is old or a row is bad."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from migrations import migrate
from steward.adapters.postgres_connection import mapped, open_engine
from steward.adapters.postgres_ledger import COLUMNS, PostgresLedger
from steward.adapters.postgres_local import LocalPostgres
from steward.errors import LedgerUnavailable, SchemaTooOld, facts
from steward.exchange import MAX_TOKENS, BodyState, Outcome, Record
from steward.ports import Ledger, Refused
from tests.contracts.records import NOON, ORG, a_full_record, a_record
from tests.servers.postgres import KEYRING, Database, address_of

CANARY = "canary-7f3a"


@pytest.fixture
def ledger(postgres: Database) -> PostgresLedger:
    return PostgresLedger(postgres.engine)


def test_the_columns_are_the_records_fields_in_their_order() -> None:
    assert list(COLUMNS) == [field.name for field in fields(Record)]


CALLS: dict[str, Callable[[Ledger], object]] = {
    "record": lambda ledger: ledger.record([a_record(model=CANARY)]),
    "get": lambda ledger: ledger.get(ORG, ORG),
    "newest": lambda ledger: ledger.newest(ORG, 1),
    "ready": lambda ledger: ledger.ready(),
}


def test_without_tables_the_schema_is_too_old(empty_postgres: Database) -> None:
    ledger = PostgresLedger(empty_postgres.engine)
    for call in CALLS.values():
        with pytest.raises(SchemaTooOld, match="steward migrate"):
            call(ledger)


def test_without_a_column_the_schema_is_too_old(postgres: Database, ledger: PostgresLedger) -> None:
    postgres.run("ALTER TABLE llm_requests DROP COLUMN provider_cost")
    for name in ("record", "get", "newest"):
        with pytest.raises(SchemaTooOld):
            CALLS[name](ledger)


def test_an_older_version_is_too_old_and_a_newer_one_is_not(postgres: Database, ledger: PostgresLedger) -> None:
    for version, served in (("0000", False), ("0007", False), ("0008", True), ("0009", True), ("9999", True)):
        postgres.run("UPDATE steward_schema SET version_num = :version", version=version)
        if served:
            ledger.ready()
        else:
            with pytest.raises(SchemaTooOld):
                ledger.ready()
    postgres.run("DELETE FROM steward_schema")
    with pytest.raises(SchemaTooOld):
        ledger.ready()


def test_columns_of_a_later_release_do_no_harm(postgres: Database, ledger: PostgresLedger) -> None:
    before, after = a_full_record(), a_full_record()
    ledger.record([before])
    postgres.run("ALTER TABLE llm_requests ADD COLUMN a_later_column text DEFAULT 'x'")
    assert ledger.record([before, after]) == []
    assert [row.record for row in ledger.newest(ORG, 5)] == [after, before]


def test_a_bad_row_is_named_with_the_servers_own_code(ledger: PostgresLedger) -> None:
    codes: dict[str, dict[str, Any]] = {
        "22P05": {"model": "\0"},
        "22023": {"model": "\ud800"},
        "23514": {"input_tokens": MAX_TOKENS + 1},
        "22003": {"request_bytes": 2**63},
    }
    for code, changes in codes.items():
        record = a_record(**changes)
        assert ledger.record([record]) == [Refused(record.id, code)]


def test_every_row_refused_is_every_row_named(ledger: PostgresLedger) -> None:
    records = [a_record(model="\0") for _ in range(33)]
    assert sorted(refused.id for refused in ledger.record(records)) == [record.id for record in records]


def test_a_long_value_is_a_row_like_any_other(ledger: PostgresLedger) -> None:
    record = a_record(tags={f"Tag-{number}": "x" * 1024 for number in range(64)}, model="m" * 100_000)
    assert ledger.record([record]) == []
    found = ledger.get(ORG, record.id)
    assert found is not None
    assert found.record == record


FAULTS: dict[str, dict[str, Any]] = {
    "constraint": {"input_tokens": -5},
    "type": {"request_bytes": 2**63},
    "untranslatable": {"claude_session_name": f"{CANARY}\0"},
    "unencodable": {"claude_session_name": f"{CANARY}\ud800"},
    "number": {"provider_cost": Decimal("NaN")},
}


def test_no_error_tells_a_word_of_the_row(postgres: Database, ledger: PostgresLedger, caplog: Any, capfd: Any) -> None:
    """The server quotes rows in its messages and the driver passes them on; nothing of it comes through ours."""
    caplog.set_level("DEBUG")
    said: list[str] = []
    for changes in FAULTS.values():
        said.append(repr(ledger.record([a_record(client=CANARY, tags={CANARY: CANARY}, **changes)])))
    postgres.run(f"ALTER TABLE llm_requests ADD CONSTRAINT {CANARY.replace('-', '_')} CHECK (client IS NULL) NOT VALID")
    said.append(repr(ledger.record([a_record(client=CANARY)])))
    postgres.run("ALTER TABLE llm_requests DROP COLUMN client")
    with pytest.raises(SchemaTooOld) as too_old:
        ledger.record([a_record(client=CANARY)])
    said.append(repr(facts(too_old.value)))
    sys.__excepthook__(too_old.type, too_old.value, too_old.tb)
    output = capfd.readouterr()
    assert "steward migrate" in output.err
    log = (postgres.server.data_folder / "postgres.log").read_text()
    assert CANARY not in " ".join([*said, caplog.text, output.out, output.err, log])


def test_a_server_that_stops_is_unavailable_and_comes_back_without_a_new_process(
    server_folder: Path, local_postgres: Callable[..., LocalPostgres]
) -> None:
    server = local_postgres(server_folder, tcp=True)
    server.start()
    address = replace(address_of(server), host="127.0.0.1")
    engine = open_engine(address)
    migrate(engine, KEYRING)
    ledger = PostgresLedger(engine)
    before, during, after = a_record(), a_record(), a_record()
    ledger.record([before])
    server.stop()
    for call in CALLS.values():
        with pytest.raises(LedgerUnavailable):
            call(ledger)
    with pytest.raises(LedgerUnavailable):
        ledger.record([during])
    server.start()
    ledger.ready()
    assert ledger.record([during, after]) == []
    assert [row.record for row in ledger.newest(ORG, 5)] == [after, during, before]
    engine.dispose()


def test_a_session_ended_under_us_costs_no_call(postgres: Database, ledger: PostgresLedger) -> None:
    """An administrator, or a fail-over, closes idle connections: the next call opens one of its own."""
    ledger.ready()
    other = open_engine(postgres.address)
    with mapped(), other.connect() as connection:
        ended = connection.exec_driver_sql(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).scalar_one()
    other.dispose()
    assert ended >= 1
    assert ledger.record([a_record()]) == []


def test_a_read_only_server_is_unavailable_and_its_rows_are_not_to_blame(postgres: Database) -> None:
    name = postgres.address.database
    postgres.run(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    postgres.engine.dispose()
    engine = open_engine(postgres.address)
    ledger = PostgresLedger(engine)
    record = a_record()
    with pytest.raises(LedgerUnavailable) as raised:
        ledger.record([record])
    assert facts(raised.value)["sqlstate"] == "25006"
    with mapped(), engine.begin() as connection:
        connection.exec_driver_sql("SET TRANSACTION READ WRITE")
        connection.exec_driver_sql(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    with pytest.raises(LedgerUnavailable):
        ledger.record([record])
    assert ledger.record([record]) == [], "a connection to a server that cannot write is not used again"
    engine.dispose()


def test_all_connections_taken_is_unavailable_in_bounded_time(postgres: Database) -> None:
    engine = open_engine(replace(postgres.address, max_conns=1), pool_timeout_s=0.1)
    ledger = PostgresLedger(engine)
    with engine.connect(), pytest.raises(LedgerUnavailable):
        ledger.ready()
    ledger.ready()
    engine.dispose()


def test_maintaining_makes_the_next_months_and_is_cheap_to_repeat(postgres: Database, ledger: PostgresLedger) -> None:
    for _ in range(2):
        ledger.maintain(datetime(2031, 12, 31, 23, 59, tzinfo=UTC))
    names = {row[0] for row in postgres.run("SELECT inhrelid::regclass::text FROM pg_inherits")}
    assert {"llm_requests_2031_12", "llm_requests_2032_01"} <= names


def test_a_row_says_who_wrote_last(postgres: Database, ledger: PostgresLedger) -> None:
    """The ranks beside the row are what the database compares; they follow the words."""
    record = a_record(outcome=Outcome.INTERRUPTED, body_state=BodyState.LOST, requested_at=NOON)
    ledger.record([record])
    ledger.record([replace(record, outcome=Outcome.COMPLETE, body_state=BodyState.STORED)])
    assert postgres.run("SELECT outcome_rank, body_rank, revision FROM llm_requests") == [(1, 3, 2)]
