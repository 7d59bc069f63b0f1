"""The driver's connection: fewer round trips, remembered conversions, and the same answers as before."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from steward.adapters.postgres_driver import Connection, Error
from steward.adapters.postgres_tls import PostgresAddress, dial
from steward.errors import LedgerUnavailable
from steward.words import Secret
from tests.servers import postgres_doors as doors
from tests.servers.postgres import Database
from tests.servers.postgres_doors import Door


@pytest.fixture
def connection(postgres: Database) -> Iterator[Connection]:
    where = postgres.address
    opened = Connection(where.user, where.password, where.database, dial(where).sock, private=True)
    yield opened
    opened.close()


def fetch(connection: Connection, sql: str, *values: object) -> list[list[object]]:
    cursor = connection.cursor()
    cursor.execute(sql, values)
    rows: list[list[object]] = cursor.fetchall()
    return [list(row) for row in rows]


def test_values_go_as_parameters_also_a_second_time(connection: Connection) -> None:
    for value in ("a", "it's", "%s", "$1"):
        assert fetch(connection, "SELECT %s || '!', CAST(%s AS int)", value, 7) == [[f"{value}!", 7]]
    assert fetch(connection, "SELECT 'no parameters'") == [["no parameters"]]


def test_what_is_committed_stays_and_what_is_rolled_back_does_not(connection: Connection, postgres: Database) -> None:
    connection.rollback()
    fetch(connection, "CREATE TABLE kept (n int); SELECT 1")
    connection.commit()
    fetch(connection, "INSERT INTO kept VALUES (%s) RETURNING n", 1)
    connection.commit()
    fetch(connection, "INSERT INTO kept VALUES (%s) RETURNING n", 2)
    connection.rollback()
    assert postgres.run("SELECT n FROM kept") == [(1,)]


def test_a_failed_transaction_is_over_after_its_rollback(connection: Connection) -> None:
    with pytest.raises(Error):
        fetch(connection, "SELECT 1 / CAST(%s AS int)", 0)
    connection.rollback()
    assert fetch(connection, "SELECT CAST(%s AS int)", 1) == [[1]]


def test_a_closed_connection_says_so(connection: Connection) -> None:
    cursor = connection.cursor()
    connection.close()
    with pytest.raises(Error, match="closed"):
        cursor.execute("SELECT 1")


def address(door: Door) -> PostgresAddress:
    return PostgresAddress("127.0.0.1", door.port, "steward", Secret("x"), "postgres", "disable")


def test_an_idle_connection_hears_the_servers_farewell(connection: Connection, postgres: Database) -> None:
    assert not connection.spoke_while_idle()
    [[pid]] = fetch(connection, "SELECT pg_backend_pid() + CAST(%s AS int)", 0)
    connection.commit()
    assert not connection.spoke_while_idle()
    postgres.run("SELECT pg_terminate_backend(:pid, 5000)", pid=pid)
    assert connection.spoke_while_idle()


def test_a_password_asked_for_in_clear_is_for_private_streams_only() -> None:
    for private in (True, False):
        with Door(doors.asks_in_clear) as door:
            sock = dial(address(door)).sock
            with pytest.raises(Error if private else LedgerUnavailable):
                Connection("steward", Secret("canary-password"), "postgres", sock, private=private)
            sock.close()
        assert (b"canary-password" in b"".join(door.in_clear)) is private
