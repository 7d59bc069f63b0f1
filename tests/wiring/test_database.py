"""The database of each process: its share of connections, its key, and a directory that knows of trust."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from steward.adapters.postgres_connection import mapped
from steward.adapters.postgres_egress_log import PostgresEgressLog
from steward.errors import LedgerUnavailable, SettingError
from steward.settings import load
from steward.wiring.database import open_database, pooled, relay_conns, settler_conns
from steward.wiring.relay import build
from steward.wiring.settler import build_settler
from steward.wiring.watching import maintain
from steward.words import Secret
from tests.contracts.test_egress_log import a_question
from tests.servers.postgres import Database
from tests.services import settings

ROOT = Path(__file__).parents[2]


def test_the_database_gets_the_connections_of_the_setting_shared_by_the_processes() -> None:
    """Inline, the relaying ones have all but one; with the spool two each, and the settling one the rest but one.

    That one tells which process syncs what.
    """
    for most, workers, each in ((10, 1, 9), (10, 3, 2), (10, 10, 1), (2, 64, 1)):
        found = settings(POSTGRES_MAX_CONNS=str(most), WORKERS=str(workers))
        assert relay_conns(found) == each
        engine, _ = open_database(found, relay_conns(found))
        assert engine.pool.size() == each  # type: ignore[attr-defined]
        engine.dispose()
    for most, workers, rest in ((10, 1, 7), (10, 4, 1), (9, 4, 1), (2, 64, 1)):
        found = settings(AFTER_RESPONSE="spool", POSTGRES_MAX_CONNS=str(most), WORKERS=str(workers))
        assert (relay_conns(found), settler_conns(found)) == (2, rest)


def test_every_directory_knows_what_the_settings_say_of_trust() -> None:
    """One that does not would pin what BODY_STORE_ALLOW does not name."""
    files = sorted((ROOT / "steward" / "wiring").glob("*.py"))
    made = [(file.name, line) for file in files for line in re.findall(r"PostgresDirectory\(.*", file.read_text())]
    assert made == [("database.py", "PostgresDirectory(engine, keyring, trust_of(settings))")]


def test_without_the_key_there_is_none() -> None:
    with pytest.raises(SettingError, match="^ENCRYPTION_KEY: "):
        open_database(load({}, None))


def test_a_role_signs_in_where_the_setting_says_so() -> None:
    with pytest.raises(SettingError, match="^POSTGRES_IAM_AUTH: "):
        open_database(settings(POSTGRES_IAM_AUTH="on", POSTGRES_HOST="/run/postgresql"))
    engine, _ = open_database(settings(POSTGRES_IAM_AUTH="on", POSTGRES_HOST="db.abc.eu-central-1.rds.amazonaws.com"))
    engine.dispose()


def test_a_password_that_its_host_knows_the_place_of_goes_before_the_settings_own(postgres: Database) -> None:
    class Kept:
        def __call__(self) -> Secret[str]:
            return postgres.tcp.password

        def refused(self, secret: Secret[str]) -> bool:
            return False

    tcp = postgres.tcp  # by its socket the server asks nobody for a password
    given = replace(settings(postgres, POSTGRES_PASSWORD="old"), postgres_host=tcp.host, postgres_port=tcp.port)
    with pytest.raises(LedgerUnavailable), mapped():
        open_database(given)[0].connect()
    engine, _ = open_database(replace(given, postgres_sign_in=Kept()))
    with engine.connect():
        assert pooled(engine) == (1, 0)
    engine.dispose()


def test_connections_of_the_pool_are_told_in_use_and_idle(postgres: Database) -> None:
    engine, _ = open_database(settings(postgres), 2)
    assert pooled(engine) == (0, 0)
    with engine.connect():
        assert pooled(engine) == (1, 0)
    assert pooled(engine) == (0, 1)
    engine.dispose()


@pytest.mark.parametrize("after", ["inline", "spool"])
def test_whoever_settles_keeps_the_egress_log_as_long_as_the_settings_say(
    after: str, postgres: Database, tmp_path: Path
) -> None:
    (spool := tmp_path / "spool").mkdir(mode=0o700)
    egress_log = PostgresEgressLog(postgres.engine, postgres.keyring)
    for _ in range(3):
        egress_log.leaving(a_question())
    year = egress_log.newest(1)[0].at + timedelta(days=365)
    for given, at, left in (
        ({"EGRESS_LOG_RETENTION": "0"}, year + timedelta(days=3000), 3),
        ({}, year - timedelta(days=1), 3),
        ({"EGRESS_LOG_RETENTION": "30d"}, year - timedelta(days=1), 1),
    ):
        found = settings(postgres, AFTER_RESPONSE=after, SPOOL_DIR=str(spool), **given)
        if after == "inline":
            relay = build(found)
            [kept] = [each.args[0] for each in relay.background if isinstance(each, partial) and each.func is maintain]
            kept(at)
            relay.close()
        else:
            settler = build_settler(found)
            settler.maintain(at)
            settler.close()
        assert len(egress_log.newest(10)) == left
    assert egress_log.walked().first_broken is None
