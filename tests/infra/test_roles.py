"""roles.sql on a real server: the role that serves does all that serving does, and alters neither tables nor logs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DatabaseError

from migrations import migrate
from steward.adapters.postgres_connection import open_engine
from steward.adapters.postgres_ledger import PostgresLedger
from steward.errors import LedgerFault
from tests.contracts.records import a_full_record, a_record
from tests.infra.manifests import FOLDER
from tests.servers.postgres import KEYRING, Database

ROLES = (FOLDER / "base" / "roles.sql").read_text()
NOW = datetime(2026, 5, 17, 12, tzinfo=UTC)


def administer(database: Database) -> None:
    """What a person at `psql -f roles.sql` does."""
    with database.engine.connect() as connection:
        raw = connection.connection.dbapi_connection
        assert raw is not None
        for statement in parts(ROLES):
            connection.exec_driver_sql(statement)
        connection.commit()


def parts(sql: str) -> list[str]:
    """The statements of a file, none of which is cut within its dollar quotes."""
    bare = re.sub(r"(?m)^--.*$", "", sql)
    found = re.findall(r"(?s)\s*((?:[^;$]|\$(\w+)\$.*?\$\2\$|\$)+);", bare)
    return [each[0].strip() for each in found]


@pytest.fixture
def engines(empty_postgres: Database) -> Iterator[dict[str, Engine]]:
    """As each role, after the steps that the file's own head tells."""
    administer(empty_postgres)
    roles = ("steward_owner", "steward_serve")
    made = {role: open_engine(replace(empty_postgres.address, user=role)) for role in roles}
    migrate(made["steward_owner"], KEYRING)
    administer(empty_postgres)
    yield made
    for engine in made.values():
        engine.dispose()


@pytest.fixture
def serve(engines: dict[str, Engine]) -> Engine:
    return engines["steward_serve"]


def test_the_file_is_safe_to_repeat(empty_postgres: Database, engines: dict[str, Engine]) -> None:
    administer(empty_postgres)
    before = migrate(engines["steward_owner"], KEYRING)
    assert before.before == before.after


def test_an_administrator_who_is_no_superuser_can_run_it(empty_postgres: Database) -> None:
    """RDS and Cloud SQL give nobody a superuser: their administrator makes roles and databases."""
    who, name = f"admin_{uuid4().hex}", empty_postgres.address.database
    empty_postgres.run("DROP ROLE IF EXISTS steward_serve")
    empty_postgres.run("DROP ROLE IF EXISTS steward_owner")
    empty_postgres.run(f"CREATE ROLE {who} LOGIN CREATEROLE CREATEDB")
    empty_postgres.run(f'ALTER DATABASE "{name}" OWNER TO {who}')
    empty_postgres.run(f"ALTER SCHEMA public OWNER TO {who}")  # before PostgreSQL 15 it is not the database's owner's
    engines = {
        role: open_engine(replace(empty_postgres.address, user=role))
        for role in (who, "steward_owner", "steward_serve")
    }
    try:
        administer(replace(empty_postgres, engine=engines[who]))
        migrate(engines["steward_owner"], KEYRING)
        administer(replace(empty_postgres, engine=engines[who]))
        PostgresLedger(engines["steward_serve"]).record([a_record()])
        query = text("SELECT pg_has_role(current_user, 'steward_owner', 'USAGE')")
        with engines[who].begin() as connection:
            assert connection.execute(query).scalar_one() is False, "it keeps the owner's rights"
    finally:
        for engine in engines.values():
            engine.dispose()


def test_who_serves_writes_calls_and_reads_them(serve: Engine) -> None:
    ledger = PostgresLedger(serve)
    ledger.ready()
    full = a_full_record()
    ledger.record([full, a_record()])
    ledger.record([full])
    with serve.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM llm_requests")).scalar_one() == 2


def test_with_partitions_made_ahead_there_is_nothing_left_for_it_to_make(serve: Engine) -> None:
    with serve.begin() as connection:
        now = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    PostgresLedger(serve).maintain(now)
    with serve.begin() as connection:
        query = text("SELECT count(*) FROM pg_inherits WHERE inhparent = 'llm_requests'::regclass")
        assert connection.execute(query).scalar_one() == 3


def test_without_them_it_says_so_and_rows_are_kept_all_the_same(serve: Engine) -> None:
    ledger = PostgresLedger(serve)
    with pytest.raises(LedgerFault):
        ledger.maintain(datetime.now(UTC) + timedelta(days=400))
    ledger.record([a_record()])
    assert ledger.newest(a_record().org_id, 10)


def test_what_rests_in_every_table_can_be_read_by_who_serves(serve: Engine) -> None:
    with serve.begin() as connection:
        names = connection.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).scalars().all()
    assert len(names) > 10
    for name in names:
        if not name.startswith("llm_requests_"):
            with serve.begin() as connection:
                assert connection.execute(text(f'SELECT count(*) FROM "{name}"')).scalar_one() >= 0


DENIED = {
    "a table": "CREATE TABLE planted (id integer)",
    "a column": "ALTER TABLE llm_requests ADD COLUMN planted text",
    "a trigger": "ALTER TABLE egress_log DISABLE TRIGGER ALL",
    "calls": "DELETE FROM llm_requests",
    "all calls": "TRUNCATE llm_requests",
    "the egress log": "DELETE FROM egress_log",
    "a row of the egress log": "UPDATE egress_log SET target = 'elsewhere'",
    "the audit": "DELETE FROM view_audit",
    "a row of the audit": "UPDATE view_audit SET who = 'nobody'",
    "the schema's version": "UPDATE steward_schema SET version_num = '9999'",
    "the installation's secrets": "DELETE FROM instance_secrets",
    "another secret": "INSERT INTO instance_secrets VALUES ('planted', '')",
    "an approval": "DELETE FROM approvals",
    "keys": "DELETE FROM api_keys",
    "a role": "CREATE ROLE planted",
    "the owner": "SET ROLE steward_owner",
}


@pytest.mark.parametrize("what", list(DENIED))
def test_who_serves_can_not(what: str, serve: Engine) -> None:
    with pytest.raises(DatabaseError, match="42501"), serve.begin() as connection:
        connection.execute(text(DENIED[what]))


def test_nobody_else_comes_in(empty_postgres: Database, engines: dict[str, Engine]) -> None:
    empty_postgres.run(f"CREATE ROLE stranger_{uuid4().hex} LOGIN")
    rights = "SELECT has_database_privilege(rolname, current_database(), 'CONNECT') FROM pg_roles WHERE rolname LIKE "
    assert empty_postgres.run(rights + "'stranger_%'") == [(False,)]
    assert empty_postgres.run(rights + "'steward_%' ORDER BY rolname") == [(True,), (True,)]
    assert engines
