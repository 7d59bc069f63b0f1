"""What errors of the driver, the pool and the server mean to us, and that none of their words comes through."""

from __future__ import annotations

import select
import socket
import sys
import threading
from dataclasses import replace

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from steward.adapters.postgres_connection import (
    RESTED_S,
    PostgresAddress,
    RowsRefused,
    mapped,
    open_engine,
    patient,
    sqlstate,
)
from steward.adapters.postgres_driver import Error
from steward.errors import LedgerFault, LedgerUnavailable, SchemaTooOld, facts
from steward.words import Secret
from tests.servers import postgres_doors as doors
from tests.servers.postgres import Database
from tests.servers.postgres_doors import Door

CANARY = "canary-19c2"


def raise_in_server(postgres: Database, state: str) -> None:
    postgres.run(f"DO $$ BEGIN RAISE EXCEPTION '{CANARY}' USING ERRCODE = '{state}', DETAIL = '{CANARY}'; END $$")


MEANINGS = {
    "08006": LedgerUnavailable,
    "22001": RowsRefused,
    "22P05": RowsRefused,
    "23502": RowsRefused,
    "23505": RowsRefused,
    "23514": RowsRefused,
    "25006": LedgerUnavailable,
    "28P01": LedgerUnavailable,
    "3D000": LedgerUnavailable,
    "3F000": SchemaTooOld,
    "40001": LedgerUnavailable,
    "40P01": LedgerUnavailable,
    "42501": LedgerUnavailable,
    "42601": LedgerUnavailable,
    "42703": SchemaTooOld,
    "42P01": SchemaTooOld,
    "42P10": SchemaTooOld,
    "42883": SchemaTooOld,
    "53100": LedgerUnavailable,
    "53200": LedgerUnavailable,
    "53300": LedgerUnavailable,
    "54000": RowsRefused,
    "55P03": LedgerUnavailable,
    "57014": LedgerUnavailable,
    "57P01": LedgerUnavailable,
    "58030": LedgerUnavailable,
    "XX000": LedgerUnavailable,
    "P0001": LedgerUnavailable,
}


def test_every_sqlstate_has_its_meaning_and_loses_its_words(
    postgres: Database, capfd: pytest.CaptureFixture[str]
) -> None:
    for state, meaning in MEANINGS.items():
        with pytest.raises(LedgerFault) as raised, mapped():
            raise_in_server(postgres, state)
        assert type(raised.value) is meaning, state
        assert facts(raised.value)["sqlstate"] == state
        said = f"{raised.value!r} {raised.value} {facts(raised.value)}"
        sys.__excepthook__(raised.type, raised.value, raised.tb)
        assert CANARY not in said + capfd.readouterr().err, state


def test_an_error_of_our_own_passes_through() -> None:
    with pytest.raises(KeyError), mapped():
        raise KeyError(CANARY)


def test_the_engines_errors_print_no_parameters(postgres: Database) -> None:
    with pytest.raises(Exception, match="division") as raised, postgres.engine.begin() as connection:
        connection.execute(
            text("SELECT CAST(:zero AS int) / CAST(:zero AS int), CAST(:word AS text)"), {"zero": 0, "word": CANARY}
        )
    assert sqlstate(raised.value) == "22012"
    assert CANARY not in str(raised.value)


def test_wrong_words_at_the_door_are_told_by_the_settings_name(postgres: Database) -> None:
    for changes, told in (
        ({"password": Secret("wrong")}, "POSTGRES_PASSWORD"),
        ({"password": Secret("")}, "POSTGRES_PASSWORD"),
        ({"user": CANARY}, "POSTGRES_USER"),
        ({"database": CANARY}, "POSTGRES_DB"),
        ({"port": 1}, "POSTGRES_HOST and POSTGRES_PORT"),
        ({"host": "/nonexistent"}, "POSTGRES_HOST"),
        ({"host": "no-such-host.invalid"}, "POSTGRES_HOST"),
    ):
        engine = open_engine(replace(postgres.tcp, **changes))
        with pytest.raises(LedgerUnavailable, match=told) as raised, mapped():
            engine.connect()
        assert CANARY not in str(raised.value)


def test_whatever_else_listens_there_is_unavailable() -> None:
    for story in (doors.garbage, doors.says_nothing, doors.answers_with_an_error):
        with Door(story) as door:
            engine = open_engine(address_of(door))
            with pytest.raises(LedgerUnavailable), mapped():
                engine.connect()


def address_of(door: Door) -> PostgresAddress:
    return PostgresAddress("127.0.0.1", door.port, "steward", Secret("x"), "postgres", "disable")


def test_the_session_is_set_for_us(postgres: Database) -> None:
    asked = ("statement_timeout", "TimeZone", "client_encoding", "DateStyle", "application_name")
    [row] = postgres.run("SELECT " + ", ".join(f"current_setting('{name}')" for name in asked))
    assert row == ("30s", "UTC", "UTF8", "ISO, MDY", "majordomo-steward")


def endless(postgres: Database) -> None:
    with mapped(), postgres.engine.begin() as connection:
        connection.execute(text("SET LOCAL statement_timeout = '50ms'"))
        connection.execute(text("SELECT pg_sleep(30)"))


def test_an_endless_statement_ends(postgres: Database) -> None:
    with pytest.raises(LedgerUnavailable) as raised:
        endless(postgres)
    assert facts(raised.value)["sqlstate"] == "57014"


def test_a_silent_server_is_unavailable_and_its_connection_is_gone(postgres: Database) -> None:
    """The peer vanished: no answer, no end. The read gives up, and the next call has a connection of its own."""
    with mapped(), postgres.engine.begin() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.wait_at_most(0.05)
    with pytest.raises(LedgerUnavailable), mapped():
        postgres.run("SELECT pg_sleep(30)")
    assert postgres.run("SELECT 1") == [(1,)]


def test_a_connection_that_rested_must_answer_before_it_is_used(postgres: Database) -> None:
    """A sandbox slept, and a middle box forgot the stream: nothing arrived, and nothing ever will."""
    asleep, lives = threading.Event(), []

    def falls_silent(door: Door, sock: socket.socket) -> None:
        lives.append(sock)
        if len(lives) > 1:
            door.relay(sock)
            return
        with socket.create_connection(("127.0.0.1", postgres.tcp.port)) as behind:
            pairs = {sock: behind, behind: sock}
            while not asleep.is_set():
                for ready in select.select(list(pairs), [], [], 0.01)[0]:
                    pairs[ready].sendall(ready.recv(65536))
            door.read_to_the_end(sock)

    now = [1000.0]
    with Door(falls_silent, backend=("127.0.0.1", postgres.tcp.port)) as door:
        engine = open_engine(replace(postgres.tcp, port=door.port, max_conns=1), now=lambda: now[0])

        def backend() -> object:
            with mapped(), engine.begin() as connection:
                return connection.execute(text("SELECT pg_backend_pid()")).scalar()

        first = backend()
        now[0] += RESTED_S
        assert backend() == first, "it did not rest for long"
        now[0] += RESTED_S + 1
        assert backend() == first, "it answered"
        asleep.set()
        now[0] += RESTED_S + 1
        assert backend() != first
        driver = engine.raw_connection().driver_connection
        assert driver is not None and driver._usock.gettimeout() == 35
        engine.dispose()


class Words:
    """A SignIn that says one word after the other: the next once the one before was refused."""

    def __init__(self, *words: Secret[str]) -> None:
        self.left = list(words)
        self.said: list[Secret[str]] = []

    def __call__(self) -> Secret[str]:
        self.said.append(self.left[0])
        return self.left[0]

    def refused(self, secret: Secret[str]) -> bool:
        assert secret == self.left[0]
        self.left = self.left[1:] or self.left
        return self.left[0] != secret


def test_what_signs_in_is_asked_for_with_each_connection(postgres: Database) -> None:
    token = Words(postgres.tcp.password)
    made = token.said
    address = replace(postgres.tcp, password=Secret("none"), sign_in=token, max_conns=1)
    engine = open_engine(address)
    for _ in range(2):
        with mapped(), engine.begin() as connection:
            assert connection.execute(text("SELECT 1")).scalar() == 1
        assert len(made) == 1, "one connection, one token"
    engine.dispose()
    with mapped(), engine.begin() as connection:
        connection.execute(text("SELECT 1"))
    assert len(made) == 2
    engine.dispose()
    assert "Words" not in f"{address!r}"


def test_what_cannot_sign_in_fails_in_our_words_alone(postgres: Database) -> None:
    """A role's credentials are renewed while a token is made, by a vendor's SDK, whose errors may quote anything."""

    class Fails(Words):
        def __call__(self) -> Secret[str]:
            raise ValueError(CANARY)

    with pytest.raises(LedgerUnavailable) as fault, mapped():
        open_engine(replace(postgres.tcp, sign_in=Fails())).connect()
    assert CANARY not in f"{fault.value!r}{fault.value.__cause__!r}"


def test_a_password_that_was_changed_is_tried_once_more(postgres: Database) -> None:
    right = postgres.tcp.password
    for words, tries, works in (
        ((Secret("old"), right), 2, True),
        ((Secret("old"),), 1, False),
        ((Secret("old"), Secret("older"), right), 2, False),
    ):
        sign_in = Words(*words)
        engine = open_engine(replace(postgres.tcp, password=Secret("none"), sign_in=sign_in))
        if works:
            with mapped(), engine.connect():
                pass
        else:
            with pytest.raises(LedgerUnavailable, match="POSTGRES_PASSWORD"), mapped():
                engine.connect()
        assert len(sign_in.said) == tries
        engine.dispose()


def test_a_password_is_not_asked_for_again_because_of_anything_else(postgres: Database) -> None:
    for changes in ({"database": CANARY}, {"port": 1}):
        sign_in = Words(postgres.tcp.password, Secret("new"))
        with pytest.raises(LedgerUnavailable), mapped():
            open_engine(replace(postgres.tcp, sign_in=sign_in, **changes)).connect()
        assert len(sign_in.left) == 2


def test_patience_is_for_its_own_time_only(postgres: Database) -> None:
    with mapped(), postgres.engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        before = driver._usock.gettimeout()
        with patient(connection):
            assert driver._usock.gettimeout() is None
        assert driver._usock.gettimeout() == before == 35


def test_the_pool_never_grows_beyond_its_bound(postgres: Database) -> None:
    engine = open_engine(replace(postgres.address, max_conns=2), pool_timeout_s=0.05)
    with engine.connect(), engine.connect(), pytest.raises(LedgerUnavailable), mapped():
        engine.connect()
    engine.dispose()


def test_a_drivers_error_has_no_state_of_its_own_making() -> None:
    for foreign in (Error("a", "b"), OperationalError("SELECT", {}, Error({"C": 5})), OSError("x"), Error()):
        assert sqlstate(foreign) is None
