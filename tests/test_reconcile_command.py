"""`steward reconcile` over PostgreSQL, a folder of bodies and a spool that a settler works on."""

from __future__ import annotations

import asyncio
import io
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from steward.adapters.files import FilesBodyStore
from steward.adapters.postgres_ledger import PostgresLedger
from steward.adapters.spool import Spool, SpoolLimits
from steward.adapters.spool_reader import SpoolReader
from steward.destination import FilesDestination
from steward.errors import SettingError
from steward.exchange import BodyState, Exchange, Intent, uuid7
from steward.price import bundled
from steward.reconcile_command import run
from steward.seal import Keyring
from steward.settings import Settings, load
from steward.settle import Settler
from steward.settling import RoundLimits, Rounds
from steward.stores import OneStore
from steward.words import Secret
from tests.exchanges import exchange, route
from tests.said import Said, listening
from tests.servers.postgres import Database
from tests.servers.waiting import eventually

CHAT = route("/v1/chat/completions")
CANARY = "CANARY-4b1d"


@pytest.fixture(autouse=True)
def said() -> Iterator[Said]:
    with listening() as heard:
        yield heard


ALL_IS_WELL = {"waiting": 0, "elsewhere": 0, "elsewhere_by_place": {}, "gaps": []}


class House:
    """An installation with its command."""

    def __init__(self, database: Database, folder: Path) -> None:
        key = secrets.token_bytes(32)
        self.keyring = Keyring(Secret(key))
        self.folder = folder
        (folder / "spool").mkdir(mode=0o700)
        address = database.address
        environ = {
            "ENCRYPTION_KEY": key.hex(),
            "POSTGRES_HOST": address.host,
            "POSTGRES_PORT": str(address.port),
            "POSTGRES_USER": address.user,
            "POSTGRES_PASSWORD": address.password.reveal(),
            "POSTGRES_DB": address.database,
            "POSTGRES_SSLMODE": "disable",
            "SPOOL_DIR": str(folder / "spool"),
            "BODY_STORE_URL": f"file://{folder}/bodies",
        }
        self.settings: Settings = load(environ, None)
        self.database = database
        self.ledger = PostgresLedger(database.engine)
        self.spool = Spool(folder / "spool", self.keyring, SpoolLimits())
        self.reader = SpoolReader(folder / "spool", self.keyring)
        assert self.reader.acquire()
        book = bundled({})
        store = FilesBodyStore(FilesDestination(f"{folder}/bodies"))
        self.rounds = Rounds(
            self.reader, Settler(self.ledger, OneStore(store), lambda: book), self.ledger, RoundLimits()
        )

    def call(self, age: timedelta = timedelta(hours=1)) -> Exchange:
        """A relayed call."""
        at = datetime.now(UTC) - age
        made = replace(
            exchange(CHAT, {"id": CANARY}), id=uuid7(int(at.timestamp() * 1000), os.urandom(10)), requested_at=at
        )
        self.spool.intend(Intent(made.id, made.caller, made.route, at, made.method))
        self.spool.submit(made)
        return made

    def settle(self) -> None:
        """Until nothing moves."""
        eventually(lambda: self.rounds.run_once() and not self.rounds.in_hand())

    def body(self, call: Exchange) -> Path:
        """Its object, as it was an hour ago."""
        [path] = self.folder.glob(f"bodies/*/*/{call.id}.json.gz")
        hour_ago = datetime.now(UTC).timestamp() - 3600
        os.utime(path, (hour_ago, hour_ago))
        return path

    def state(self, call: Exchange) -> BodyState:
        found = self.ledger.get(call.caller.org_id, call.id)
        assert found is not None
        return found.record.body_state

    def run(self, fix: bool = False, since: datetime | None = None) -> tuple[int, Any]:
        """The exit code, and what it says as JSON."""
        out = io.StringIO()
        code = run(self.settings, since, fix, True, out)
        assert CANARY not in out.getvalue()
        return code, json.loads(out.getvalue())

    def close(self) -> None:
        self.rounds.close()
        self.reader.close()
        asyncio.run(self.spool.close())


@pytest.fixture
def house(postgres: Database, tmp_path: Path) -> Iterator[House]:
    it = House(postgres, tmp_path)
    yield it
    it.close()


def test_without_a_gap_it_says_so_and_exits_with_0(house: House) -> None:
    for _ in range(5):
        house.call()
    house.settle()
    code, report = house.run()
    assert (code, report) == (
        0,
        {"rows": 5, "objects": 5, **ALL_IS_WELL},
    )


def test_gaps_are_shown_and_mended_beside_a_settler_at_work(house: House, said: Said) -> None:
    fine, gone, orphan, waits = (house.call() for _ in range(4))
    house.settle()
    house.body(gone).unlink()
    house.body(orphan)
    house.database.run("DELETE FROM llm_requests WHERE id = :id", id=orphan.id)
    house.body(waits).unlink()
    late = house.call()
    house.ledger.record([replace(_row(house, fine), id=late.id, body_state=BodyState.PENDING)])
    house.database.run(
        "UPDATE llm_requests SET body_state = 'pending', body_key = NULL, body_url = NULL WHERE id = :id", id=waits.id
    )
    code, report = house.run()
    assert code == 1
    kinds = {gap["id"]: gap["kind"] for gap in report["gaps"]}
    assert kinds == {str(gone.id): "missing", str(orphan.id): "no_row", str(waits.id): "stuck"}
    assert report["waiting"] == 1, "the one in the spool"
    assert {gap["remedy"] for gap in report["gaps"]} == {None}
    code, report = house.run(fix=True)
    remedies = {gap["id"]: gap["remedy"] for gap in report["gaps"]}
    assert (code, remedies) == (1, {str(gone.id): "marked", str(orphan.id): "left", str(waits.id): "marked"})
    assert (house.state(gone), house.state(waits)) == (BodyState.LOST, BodyState.FAILED)
    assert house.state(late) is BodyState.PENDING
    house.settle()
    assert house.state(late) is BodyState.STORED
    assert [gap["kind"] for gap in house.run()[1]["gaps"]] == ["no_row"]
    assert house.body(orphan).exists()
    assert CANARY not in said.text


def _row(house: House, call: Exchange) -> Any:
    found = house.ledger.get(call.caller.org_id, call.id)
    assert found is not None
    return replace(found.record, body_key=None, body_url=None, body_sha256=None, body_bytes=None)


def test_what_the_quarantine_has_is_put_again_and_stored(house: House) -> None:
    call = house.call()
    [handed] = house.reader.take(1, 1 << 20)
    house.ledger.record([Settler(house.ledger, OneStore(None), lambda: bundled({})).meter(call, again=True).record])
    house.database.run("UPDATE llm_requests SET body_state = 'pending'")
    house.reader.keep_body(handed, "AccessDenied")
    code, report = house.run(fix=True)
    assert (code, [gap["remedy"] for gap in report["gaps"]]) == (1, ["again"])
    house.settle()
    assert house.state(call) is BodyState.STORED
    assert house.run() == (
        0,
        {"rows": 1, "objects": 1, **ALL_IS_WELL},
    )


def test_the_table_names_every_gap_and_no_word_of_a_call(house: House) -> None:
    call = house.call()
    house.settle()
    house.body(call).unlink()
    out = io.StringIO()
    assert run(house.settings, datetime.now(UTC) - timedelta(days=1), False, False, out) == 1
    lines = out.getvalue().splitlines()
    assert lines[0].split() == ["rows", "1"]
    assert any(line.split() == ["row", "without", "its", "body", "1"] for line in lines)
    assert any(str(call.id) in line and "row without its body" in line for line in lines)
    assert CANARY not in out.getvalue()


def test_since_leaves_out_what_is_older(house: House) -> None:
    call = house.call(timedelta(days=3))
    house.settle()
    house.body(call).unlink()
    assert house.run()[0] == 1
    assert house.run(since=datetime.now(UTC) - timedelta(days=1))[0] == 0


def test_without_a_store_there_is_nothing_to_compare(house: House) -> None:
    with pytest.raises(SettingError, match="BODY_STORE_URL"):
        run(replace(house.settings, body_store=None), None, False, False)
