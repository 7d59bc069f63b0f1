"""What PostgreSQL itself refuses of the egress log, and what is seen when somebody got around it."""

from __future__ import annotations

import threading

import pytest

from steward.adapters.postgres_connection import RowsRefused, mapped
from steward.adapters.postgres_egress_log import LOCK_LETTING_GO, PostgresEgressLog
from steward.errors import EgressLogBroken, LedgerFault
from steward.ports import Walked
from steward.seal import Keyring
from steward.words import Secret
from tests.contracts.test_egress_log import LATE, NOW, a_departure, a_question
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
    assert egress_log.walked().first_broken is None
    postgres.run("ALTER TABLE egress_log DISABLE TRIGGER USER")
    postgres.run(sql)
    assert egress_log.walked().first_broken == broken


def test_under_another_key_nothing_holds(postgres: Database, egress_log: PostgresEgressLog) -> None:
    assert PostgresEgressLog(postgres.engine, Keyring(Secret(bytes(32)))).walked().first_broken == 1
    assert egress_log.walked().first_broken is None


def test_a_long_log_is_walked_page_by_page(postgres: Database, egress_log: PostgresEgressLog) -> None:
    for _ in range(1200):
        egress_log.leaving(a_question())
    assert egress_log.walked().first_broken is None
    postgres.run("ALTER TABLE egress_log DISABLE TRIGGER USER")
    postgres.run("UPDATE egress_log SET target = '/other' WHERE number = 1100")
    assert egress_log.walked().first_broken == 1100


def test_rows_are_deleted_as_far_as_the_checkpoint_says_and_it_only_moves_forward(
    postgres: Database, egress_log: PostgresEgressLog
) -> None:
    assert egress_log.let_go(LATE, 3, NOW) == 3
    before, walked = egress_log.newest(10), egress_log.walked()
    for sql in (
        "DELETE FROM egress_log WHERE number = 4",
        "CREATE TEMPORARY TABLE egress_log_checkpoint AS SELECT 9 AS number; DELETE FROM egress_log",
        "TRUNCATE egress_log",
        "DELETE FROM egress_log_checkpoint",
        "TRUNCATE egress_log_checkpoint",
        "UPDATE egress_log_checkpoint SET number = 2",
        "UPDATE egress_log_checkpoint SET made_at = now()",
        "UPDATE egress_log_checkpoint SET number = 4, first_at = now()",
        "UPDATE egress_log_checkpoint SET id = 2",
        "INSERT INTO egress_log_checkpoint SELECT 2, number, chain, first_at, last_at, made_at, mac "
        "FROM egress_log_checkpoint",
    ):
        with pytest.raises(LedgerFault):
            run_as_one(postgres, sql)
        assert (egress_log.newest(10), egress_log.walked()) == (before, walked), sql


def run_as_one(postgres: Database, sql: str) -> None:
    with mapped(), postgres.engine.begin() as connection:
        for each in sql.split("; "):
            connection.exec_driver_sql(each)


UNSEEN_NEVER = {
    "more deleted than let go": ("DELETE FROM egress_log WHERE number <= 4", 5, False),
    "one behind the checkpoint": ("DELETE FROM egress_log WHERE number = 4", 5, False),
    "one in the middle": ("DELETE FROM egress_log WHERE number = 5", 6, False),
    "all that was left": ("DELETE FROM egress_log", 4, False),
    "no checkpoint any more": ("DELETE FROM egress_log_checkpoint", 4, False),
    "moved forward alone": ("UPDATE egress_log_checkpoint SET number = 4", 4, True),
    "moved forward with its rows": (
        "UPDATE egress_log_checkpoint SET number = 4, chain = (SELECT chain FROM egress_log WHERE number = 4); "
        "DELETE FROM egress_log WHERE number = 4",
        5,
        True,
    ),
    "moved backwards": ("UPDATE egress_log_checkpoint SET number = 2", 4, True),
    "an older one put back": (
        "UPDATE egress_log_checkpoint c SET number = k.number, chain = k.chain, first_at = k.first_at, "
        "last_at = k.last_at, made_at = k.made_at, mac = k.mac FROM kept_aside k",
        4,
        False,
    ),
    "another day": ("UPDATE egress_log_checkpoint SET last_at = last_at - interval '1 year'", 4, True),
    "another first day": ("UPDATE egress_log_checkpoint SET first_at = first_at + interval '1 second'", 4, True),
    "another time of it": ("UPDATE egress_log_checkpoint SET made_at = made_at + interval '1 second'", 4, True),
    "a forged one alone": ("DELETE FROM egress_log; UPDATE egress_log_checkpoint SET number = 6", 1, True),
    "no word at all": (
        "ALTER TABLE egress_log_checkpoint DROP CONSTRAINT egress_log_checkpoint_mac_check; "
        "UPDATE egress_log_checkpoint SET mac = 'sé'",
        4,
        True,
    ),
    "a row put back": ("INSERT INTO egress_log SELECT * FROM rows_aside WHERE number = 3", 3, False),
    "a row for all times": ("UPDATE egress_log SET at = 'infinity' WHERE number = 5", 5, False),
}


@pytest.mark.parametrize("what", UNSEEN_NEVER)
def test_whoever_shortens_it_without_the_key_is_seen(
    what: str, postgres: Database, egress_log: PostgresEgressLog
) -> None:
    postgres.run("CREATE TABLE rows_aside AS SELECT * FROM egress_log")
    assert egress_log.let_go(LATE, 1, NOW) == 1
    postgres.run("CREATE TABLE kept_aside AS SELECT * FROM egress_log_checkpoint")
    assert egress_log.let_go(LATE, 2, NOW) == 2
    assert egress_log.walked().first_broken is None
    for table in ("egress_log", "egress_log_checkpoint"):
        postgres.run(f"ALTER TABLE {table} DISABLE TRIGGER USER")
    sql, broken, forged = UNSEEN_NEVER[what]
    for each in sql.split("; "):
        postgres.run(each)
    for table in ("egress_log", "egress_log_checkpoint"):
        postgres.run(f"ALTER TABLE {table} ENABLE TRIGGER USER")
    found = egress_log.walked()
    assert (found.first_broken, found.forged) == (broken, forged)
    left = egress_log.newest(10)
    if left and what != "one in the middle" and "for all times" not in what:
        with pytest.raises(EgressLogBroken):
            egress_log.let_go(LATE, 1, NOW)
    assert egress_log.newest(10) == left


def test_a_checkpoint_that_was_never_ours_is_seen_where_nothing_was_let_go(
    postgres: Database, egress_log: PostgresEgressLog
) -> None:
    postgres.run(
        "INSERT INTO egress_log_checkpoint SELECT 1, number, chain, at, at, at, chain FROM egress_log WHERE number = 3"
    )
    assert egress_log.walked() == Walked(1, forged=True)
    postgres.run("DELETE FROM egress_log WHERE number <= 3")
    assert egress_log.walked() == Walked(4, forged=True)


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE egress_log SET count = 1 WHERE number = 2",
        "UPDATE egress_log SET count = 1 WHERE number = 4",
        "UPDATE egress_log SET body = 'innocent' WHERE number = 3",
        "DELETE FROM egress_log WHERE number = 1",
    ],
)
def test_what_somebody_changed_is_not_let_go(sql: str, postgres: Database, egress_log: PostgresEgressLog) -> None:
    """Nobody would see it any more. The row behind the last that would go counts: it proves that one."""
    postgres.run("ALTER TABLE egress_log DISABLE TRIGGER USER")
    postgres.run(sql)
    postgres.run("ALTER TABLE egress_log ENABLE TRIGGER USER")
    before = egress_log.newest(10)
    with pytest.raises(EgressLogBroken):
        egress_log.let_go(LATE, 3, NOW)
    assert egress_log.newest(10) == before
    assert postgres.run("SELECT count(*) FROM egress_log_checkpoint") == [(0,)]


def test_one_process_at_a_time_lets_go_and_no_writer_waits(postgres: Database, egress_log: PostgresEgressLog) -> None:
    with postgres.engine.begin() as other:
        other.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK_LETTING_GO})")
        assert egress_log.let_go(LATE, 10, NOW) == 0
        assert egress_log.leaving(a_question()) == 7
    assert egress_log.let_go(LATE, 10, NOW) == 6


def test_a_walk_sees_one_moment_while_rows_are_let_go(postgres: Database, egress_log: PostgresEgressLog) -> None:
    for _ in range(2200):
        egress_log.leaving(a_question())
    ended = threading.Event()

    def let_go() -> None:
        while egress_log.let_go(LATE, 50, NOW):
            pass
        ended.set()

    thread = threading.Thread(target=let_go)
    thread.start()
    found = [egress_log.walked()]
    while not ended.is_set():
        found.append(egress_log.walked())
    thread.join(60)
    assert {each.first_broken for each in [*found, egress_log.walked()]} == {None}
    assert len(egress_log.newest(10)) == 1
