"""What is on a schedule: where it runs, by what settings, and that it does its work there."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from steward.adapters.memory import MemoryDirectory
from steward.adapters.postgres_directory import PostgresDirectory
from steward.adapters.postgres_ledger import PostgresLedger
from steward.exchange import LOCAL_ORG
from steward.ports import Identity, Lane, Waiting
from steward.registering import register
from steward.wiring.butlers import butler_opener
from steward.wiring.commands import open_directory, open_egress_log, open_outbox, open_register
from steward.wiring.relay import build
from steward.wiring.schedule import open_managed, open_syncer, open_turns, whole_sets
from steward.wiring.settler import build_settler
from steward.words import Secret
from tests.contracts.records import a_record, new_id
from tests.servers.butler_stub import Organisation as Dashboard
from tests.servers.butler_stub import stub_butler
from tests.servers.ingest_butler import IngestButler, Organisation, serving
from tests.servers.postgres import Database
from tests.servers.waiting import eventually_async
from tests.services import run, settings


def test_what_is_on_a_schedule_runs_where_calls_are_settled(tmp_path: Path) -> None:
    away = {"POSTGRES_HOST": "127.0.0.1", "POSTGRES_PORT": "1", "SPOOL_DIR": str(tmp_path / "spool")}
    (tmp_path / "spool").mkdir(mode=0o700)
    relay, inline = build(settings(**away, AFTER_RESPONSE="spool")), build(settings(**away))
    settler = build_settler(settings(**away, AFTER_RESPONSE="spool"))
    assert [[task.name for task in each.clockwork.tasks] for each in (relay, inline, settler)] == [
        [],
        ["export", "sync"],
        ["export", "sync"],
    ]
    for each in (relay, inline, settler):
        each.close()
    master = {"MANAGED_MASTER_TOKEN": "mdm_st_" + "m" * 32, "MANAGED_BUTLER_URL": "https://butler.example"}
    managing = build_settler(settings(**away, **master, AFTER_RESPONSE="spool", MANAGED_ENABLED="on"))
    assert [task.name for task in managing.clockwork.tasks] == ["export", "sync", "managed"]
    managing.close()


def test_what_syncs_has_its_settings_and_a_connection_of_its_own(postgres: Database) -> None:
    found = settings(postgres, WORK_TICK_INTERVAL="2s", WORK_TICK_LIMIT="7")
    acme = Dashboard()
    with stub_butler(acme) as butler, open_directory(found) as directory:
        directory.register(Identity(acme.steward_id, acme.id, "Acme"), butler.url, Secret(acme.token))
        acme.key("shop")
        opener = butler_opener(found)
        acme.storage.append({"owner_type": "user", "owner_id": str(acme.steward_id), "provider": "s3"})
        sets = whole_sets(directory)  # type: ignore[arg-type]
        syncer = open_syncer(
            found, directory, open_turns(found), lambda each, token: opener(each.butler_url, token), sets
        )
        syncer.run_once()
        syncer.finish(10)
        kept = [each.owner_id for each in directory.kept_configs()]  # type: ignore[attr-defined]
        assert kept == [acme.steward_id]
        assert butler.targets("/work") == ["/api/v1/steward/work?limit=7"]
        assert [key.name for key in PostgresDirectory(postgres.engine, postgres.keyring).list_keys(acme.id)] == ["shop"]


def test_managed_mode_is_there_when_it_is_set() -> None:
    directory, opener = MemoryDirectory(), butler_opener(settings())
    assert open_managed(settings(), directory, opener) is None
    given = {"MANAGED_MASTER_TOKEN": "mdm_st_" + "m" * 32, "MANAGED_BUTLER_URL": "https://butler.example"}
    assert open_managed(settings(**given), directory, opener) is None
    made = open_managed(settings(**given, MANAGED_ENABLED="on", MANAGED_POLL_INTERVAL="7s"), directory, opener)
    assert made is not None
    assert (made.url, made.every_s, made.master.reveal()) == (
        "https://butler.example",
        7,
        given["MANAGED_MASTER_TOKEN"],
    )


def test_what_settles_here_exports_here_and_ends_with_it(postgres: Database) -> None:
    """From a registration by the command's own means to the record at Butler, in one process."""
    butler = IngestButler([Organisation("mdm_st_0" + "t" * 32)])
    with serving(butler), ExitStack() as undo:
        given = settings(postgres, BATCH_INTERVAL="50ms")
        directory, opener = open_register(given, undo)
        token = Secret(butler.organisations[0].token)
        made = register(directory, opener, butler.url, token)
        record = a_record(id=new_id(datetime.now(UTC)), org_id=LOCAL_ORG, model="gpt-4o")
        services = build(given)

        async def story() -> None:
            assert isinstance(services.ledger, PostgresLedger)
            await asyncio.to_thread(services.ledger.record, [record])
            await eventually_async(lambda: butler.taken() == 1)

        run(services, story)
        (sent,) = butler.organisations[0].records.values()
        assert (sent["id"], sent["org_id"]) == (str(record.id), str(made.org_id))
        assert [path for path, _ in butler.heard].count("/api/v1/steward/me") == 2
        log = open_egress_log(given, undo)
        told = [(row.kind, row.answer, row.registration_id) for row in log.newest(50)]
        assert [each for each in told if each[0] in {"Me", "Ingest"}] == [
            ("Me", "ok", None),
            ("Me", "ok", made.id),
            ("Ingest", "ok", made.id),
        ]
        assert open_outbox(given, undo).waiting(Lane(made.id, made.org_id, local=True), 9) == Waiting()


def test_in_managed_mode_calls_of_keys_made_inside_are_exported_nowhere(postgres: Database) -> None:
    """Also while one organisation alone is registered: what is the operator's is not that one's."""
    butler = IngestButler([Organisation("mdm_st_0" + "t" * 32)])
    master = {"MANAGED_MASTER_TOKEN": "mdm_st_" + "m" * 32, "MANAGED_BUTLER_URL": "https://butler.example"}
    with serving(butler), ExitStack() as undo:
        given = settings(postgres, **master, MANAGED_ENABLED="on", BATCH_INTERVAL="50ms")
        directory, opener = open_register(given, undo)
        register(directory, opener, butler.url, Secret(butler.organisations[0].token))
        record = a_record(id=new_id(datetime.now(UTC)), org_id=LOCAL_ORG, model="gpt-4o")
        PostgresLedger(postgres.engine).record([record])
        services = build(given)
        export = next(task for task in services.clockwork.tasks if task.name == "export")
        for _ in range(5):
            export.run_once()
        export.finish(5)
        services.close()
        assert butler.taken() == 0
        assert postgres.run("SELECT export_state FROM llm_requests") == [("local",)]
