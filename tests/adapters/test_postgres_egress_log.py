"""What PostgreSQL itself refuses of the egress log, and what is seen when somebody got around it."""

from __future__ import annotations

import pytest

from steward.adapters.postgres_connection import RowsRefused, mapped
from steward.adapters.postgres_egress_log import PostgresEgressLog
from steward.seal import Keyring
from steward.words import Secret
from tests.contracts.test_egress_log import a_departure, a_question
from tests.servers.postgres import Database

FORBIDDEN = {
    "delete": "DELETE FROM egress_log",
    "truncate": "TRUNCATE egress_log",
    "another time": "UPDATE egress_log SET at = now()",
    "another kind": "UPDATE egress_log SET kind = 'Me'",
    "another count": "UPDATE egress_log SET count = 0",
    "another digest": f"UPDATE egress_log SET sha256 = '{'0' * 64}'",
    "another registration": "UPDATE egress_log SET registration_id = NULL",
    "another chain": f"UPDATE egress_log SET chain = '{'0' * 64}'",
    "another answer": "UPDATE egress_log SET answer = 'never_sent'",
    "another body": "UPDATE egress_log SET body = 'x'",
    "a body again": "UPDATE egress_log SET body = 'x' WHERE body IS NULL",
}


@pytest.fixture
def egress_log(postgres: Database) -> PostgresEgressLog:
    made = PostgresEgressLog(postgres.engine, postgres.keyring)
    for number in range(1, 6):
        made.answered(made.leaving(a_departure(body=f"body {number}".encode())), "ok")
    made.leaving(a_question())
    return made


def test_it_is_only_added_to(postgres: Database, egress_log: PostgresEgressLog) -> None:
    before = egress_log.newest(10)
    for what, sql in FORBIDDEN.items():
        with pytest.raises(RowsRefused), mapped():
            postgres.run(sql)
        assert egress_log.newest(10) == before, what


TAMPERED = {
    "changed": ("UPDATE egress_log SET count = 1 WHERE number = 3", 3),
    "told otherwise when": ("UPDATE egress_log SET at = at + interval '1 second' WHERE number = 2", 2),
    "taken out": ("DELETE FROM egress_log WHERE number = 4", 5),
    "beginning cut off": ("DELETE FROM egress_log WHERE number = 1", 2),
    "swapped": (
        "UPDATE egress_log SET sha256 = (SELECT sha256 FROM egress_log WHERE number = 2) WHERE number = 5",
        5,
    ),
    "another body": ("UPDATE egress_log SET body = 'innocent' WHERE number = 4", 4),
    "inserted": (
        "INSERT INTO egress_log (number, at, kind, target, count, bytes, sha256, chain) "
        "SELECT 7, at, kind, target, count, bytes, sha256, chain FROM egress_log WHERE number = 6",
        7,
    ),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_whoever_owns_the_table_and_has_no_key_is_seen(
    what: str, postgres: Database, egress_log: PostgresEgressLog
) -> None:
    sql, broken = TAMPERED[what]
    assert egress_log.first_broken() is None
    postgres.run("ALTER TABLE egress_log DISABLE TRIGGER USER")
    postgres.run(sql)
    assert egress_log.first_broken() == broken


def test_under_another_key_nothing_holds(postgres: Database, egress_log: PostgresEgressLog) -> None:
    assert PostgresEgressLog(postgres.engine, Keyring(Secret(bytes(32)))).first_broken() == 1
    assert egress_log.first_broken() is None


def test_a_long_log_is_walked_page_by_page(postgres: Database, egress_log: PostgresEgressLog) -> None:
    for _ in range(1200):
        egress_log.leaving(a_question())
    assert egress_log.first_broken() is None
    postgres.run("ALTER TABLE egress_log DISABLE TRIGGER USER")
    postgres.run("UPDATE egress_log SET target = '/other' WHERE number = 1100")
    assert egress_log.first_broken() == 1100
