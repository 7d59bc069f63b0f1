"""Migrating: once, again, by two at once, under a wrong key, from a newer release; and what old releases still find."""

from __future__ import annotations

import re
import threading
import uuid
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

import migrations
from migrations import MigrateResult, migrate
from steward.adapters.postgres_connection import mapped, open_engine
from steward.adapters.postgres_directory import PostgresDirectory
from steward.adapters.postgres_egress_log import PostgresEgressLog
from steward.adapters.postgres_ledger import COLUMNS, SCHEMA_VERSION, PostgresLedger
from steward.adapters.postgres_partitions import ensure_partitions
from steward.errors import LedgerUnavailable, SealBroken, facts
from steward.ports import Walked
from steward.seal import Keyring
from steward.words import Secret
from tests.contracts.records import NOON, ORG, a_full_record
from tests.contracts.test_directory import a_hash
from tests.contracts.test_egress_log import a_question
from tests.servers.postgres import KEYRING, Database
from tests.servers.waiting import eventually

VERSIONS = Path(migrations.__file__).parent / "steward" / "versions"


def tables(database: Database) -> set[object]:
    return {row[0] for row in database.run("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace")}


def head() -> str:
    config = Config()
    config.set_main_option("script_location", str(VERSIONS.parent))
    config.set_main_option("path_separator", "newline")
    found = ScriptDirectory.from_config(config).get_current_head()
    assert found is not None
    return found


def test_from_nothing_to_all(empty_postgres: Database) -> None:
    assert migrate(empty_postgres.engine, KEYRING) == MigrateResult(None, head())
    PostgresLedger(empty_postgres.engine).ready()
    assert len(PostgresDirectory(empty_postgres.engine, KEYRING).instance_secret("provider_key_hash").reveal()) == 32


def test_again_changes_nothing_and_keeps_everything(empty_postgres: Database) -> None:
    migrate(empty_postgres.engine, KEYRING)
    ledger = PostgresLedger(empty_postgres.engine)
    directory = PostgresDirectory(empty_postgres.engine, KEYRING)
    record = a_full_record()
    ledger.record([record])
    key = directory.create_key(ORG, "one", a_hash())
    secret, before = directory.instance_secret("provider_key_hash"), tables(empty_postgres)
    assert migrate(empty_postgres.engine, KEYRING) == MigrateResult(head(), head())
    assert [row.record for row in ledger.newest(ORG, 5)] == [record]
    assert directory.list_keys(ORG) == [key]
    assert directory.instance_secret("provider_key_hash") == secret
    assert tables(empty_postgres) == before


def test_two_at_once_do_it_once(empty_postgres: Database) -> None:
    engines = [open_engine(empty_postgres.address) for _ in range(3)]
    results: list[MigrateResult | BaseException] = []

    def run(index: int) -> None:
        try:
            results.append(migrate(engines[index], KEYRING))
        except BaseException as failure:
            results.append(failure)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for engine in engines:
        engine.dispose()
    assert sorted(results, key=repr) == sorted(
        [MigrateResult(None, head()), MigrateResult(head(), head()), MigrateResult(head(), head())], key=repr
    )


def test_one_waits_for_another_however_long_it_takes(empty_postgres: Database) -> None:
    """Longer than any statement may take otherwise: the limit is off while the lock is awaited."""
    results: list[MigrateResult] = []
    with empty_postgres.engine.begin() as other:
        other.exec_driver_sql(f"SELECT pg_advisory_xact_lock({migrations.LOCK})")
        thread = threading.Thread(target=lambda: results.append(migrate(empty_postgres.engine, KEYRING)))
        thread.start()
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        eventually(lambda: empty_postgres.run(waiting) == [(1,)], 20)
        assert results == []
    thread.join(60)
    assert results == [MigrateResult(None, head())]


def test_a_wrong_key_is_told_and_changes_nothing(postgres: Database) -> None:
    before = postgres.run("SELECT name, sealed FROM instance_secrets")
    with pytest.raises(SealBroken):
        migrate(postgres.engine, Keyring(Secret(bytes(32))))
    assert postgres.run("SELECT name, sealed FROM instance_secrets") == before
    assert migrate(postgres.engine, KEYRING) == MigrateResult(head(), head())


def test_a_schema_newer_than_this_release_is_left_alone(postgres: Database) -> None:
    postgres.run("UPDATE steward_schema SET version_num = '9999'")
    assert migrate(postgres.engine, KEYRING) == MigrateResult("9999", "9999")
    assert postgres.run("SELECT version_num FROM steward_schema") == [("9999",)]


def test_what_fails_half_way_leaves_nothing(empty_postgres: Database) -> None:
    empty_postgres.run("CREATE TABLE instance_secrets (of_somebody_else int)")
    with pytest.raises(LedgerUnavailable) as raised:
        migrate(empty_postgres.engine, KEYRING)
    assert facts(raised.value)["sqlstate"] == "42P07"
    assert tables(empty_postgres) == {"instance_secrets"}


def test_a_role_that_may_not_is_told(empty_postgres: Database) -> None:
    role = f"reader_{uuid.uuid4().hex}"
    empty_postgres.run(f"CREATE ROLE {role} LOGIN")
    empty_postgres.run("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    engine = open_engine(replace(empty_postgres.address, user=role))
    with pytest.raises(LedgerUnavailable, match="may not") as raised:
        migrate(engine, KEYRING)
    assert facts(raised.value)["sqlstate"] == "42501"
    engine.dispose()
    empty_postgres.run(f"DROP ROLE {role}")


def test_a_server_that_is_not_there_is_told(postgres: Database) -> None:
    engine = open_engine(replace(postgres.address, host="/nonexistent"))
    with pytest.raises(LedgerUnavailable, match="POSTGRES_HOST"):
        migrate(engine, KEYRING)


def test_the_ledger_and_the_versions_agree() -> None:
    assert head() == SCHEMA_VERSION
    names = sorted(path.stem for path in VERSIONS.glob("[0-9]*.py"))
    assert [name[:4] for name in names] == ["0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008"]


def test_the_table_has_the_columns_of_the_ledger_with_their_types(postgres: Database) -> None:
    rows = postgres.run(
        "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute "
        "WHERE attrelid = 'llm_requests'::regclass AND attnum > 0"
    )
    types = {name: {"timestamp with time zone": "timestamptz"}.get(str(kind), kind) for name, kind in rows}
    assert {name: types[name] for name in COLUMNS} == COLUMNS
    exported = {"exported_revision", "export_state", "export_code", "claimed_until"}
    assert types.keys() - COLUMNS.keys() == {"revision", "outcome_rank", "body_rank", *exported}


def test_only_tables_that_this_release_uses(postgres: Database) -> None:
    mine = {
        str(name)
        for name in tables(postgres)
        if not re.search(r"_pkey$|_key$|_local$|_newest|_export$|_idx\d*$|_changed|_pk|_20\d\d_", str(name))
    }
    assert mine == {
        "llm_requests",
        "llm_requests_default",
        "api_keys",
        "registrations",
        "egress_log",
        "egress_log_checkpoint",
        "sync_state",
        "instance_secrets",
        "storage_configs",
        "provider_keys",
        "price_list",
        "llm_requests_pending",
        "approvals",
        "steward_schema",
        "view_tokens",
        "view_sessions",
        "view_sessions_expiring",
        "view_audit",
        "view_audit_id_seq",
    }


def test_the_statements_of_the_first_release_run_on_the_newest_schema(postgres: Database) -> None:
    """What release 0001 sends, word by word. A later version of the schema must not break replicas still running it."""
    with mapped():
        postgres.run(
            """
            INSERT INTO llm_requests AS t (id, org_id, api_key_id, provider, request_path, request_method, requested_at,
                outcome, body_state, usage_source, model_alias_found, streamed, tags, tags_dropped, request_bytes,
                response_bytes, truncated)
            SELECT b.id, b.org_id, b.api_key_id, 'openai', '/v1/chat/completions', 'POST', now(), 'complete', 'none',
                'none', false, false, '{}', 0, 0, 0, false
            FROM jsonb_to_recordset(CAST(:batch AS jsonb)) AS b(id uuid, org_id uuid, api_key_id uuid)
            ON CONFLICT (id) DO UPDATE SET outcome = excluded.outcome, revision = t.revision + 1
            WHERE excluded.outcome_rank >= t.outcome_rank AND excluded.body_rank >= t.body_rank
            """,
            batch=f'[{{"id": "{ORG}", "org_id": "{ORG}", "api_key_id": "{ORG}"}}]',
        )
        postgres.run(
            "INSERT INTO api_keys (id, org_id, key_hash, name, description) VALUES (:id, :id, :hash, 'one', NULL)",
            id=ORG,
            hash=a_hash(),
        )
        postgres.run("UPDATE api_keys SET is_active = false, revoked_at = clock_timestamp() WHERE org_id = :id", id=ORG)
    assert postgres.run("SELECT revision, outcome_rank, body_rank FROM llm_requests") == [(1, 1, 0)]


def test_calls_of_before_the_export_stay_inside_and_none_is_written_anew(empty_postgres: Database) -> None:
    """0003 on a ledger that is full: columns of the catalogue, not of the rows."""
    engine = empty_postgres.engine
    with engine.begin() as connection:
        command.upgrade(migrations._config(connection), "0002")
        ensure_partitions(connection, NOON)
    for record in [a_full_record() for _ in range(5)]:  # as that release wrote them
        empty_postgres.run(
            "INSERT INTO llm_requests (id, org_id, api_key_id, provider, request_path, request_method, requested_at, "
            "outcome, body_state, usage_source, model_alias_found, streamed, tags, tags_dropped, request_bytes, "
            "response_bytes, truncated) VALUES (:id, :id, :id, 'openai', '/v1/models', 'GET', :at, 'complete', "
            "'none', 'none', false, false, '{}', 0, 0, 0, false)",
            id=record.id,
            at=record.requested_at,
        )
    where = "SELECT id, ctid::text, tableoid FROM llm_requests ORDER BY id"
    before = empty_postgres.run(where)
    files = (
        "SELECT pg_relation_filenode(inhrelid) FROM pg_inherits WHERE inhparent = 'llm_requests'::regclass ORDER BY 1"
    )
    stood = empty_postgres.run(files)
    assert migrate(engine, KEYRING) == MigrateResult("0002", head())
    assert (empty_postgres.run(where), empty_postgres.run(files)) == (before, stood)
    told = "SELECT DISTINCT exported_revision, export_state FROM llm_requests"
    assert empty_postgres.run(told) == [(0, "local")]
    late = a_full_record()
    PostgresLedger(engine).record([late])
    assert empty_postgres.run("SELECT export_state FROM llm_requests WHERE id = :id", id=late.id) == [(None,)]


def test_a_log_of_before_the_checkpoint_is_whole_and_may_be_let_go(empty_postgres: Database) -> None:
    """0007 on a log that is full: its rows stand as they were."""
    engine = empty_postgres.engine
    with engine.begin() as connection:
        command.upgrade(migrations._config(connection), "0006")
    egress_log = PostgresEgressLog(engine, KEYRING)
    for _ in range(3):
        egress_log.leaving(a_question())
    before = egress_log.newest(5)
    assert migrate(engine, KEYRING) == MigrateResult("0006", head())
    assert (egress_log.newest(5), egress_log.walked()) == (before, Walked(None))
    late = before[-1].at + timedelta(days=1)
    assert egress_log.let_go(late, 10, late) == 2
    assert egress_log.newest(5) == before[2:]
