"""POSTGRES_SSLMODE, mode by mode, before doors that are honest, of another name, of an unknown CA, or without TLS."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from steward.adapters.postgres_connection import mapped, open_engine
from steward.adapters.postgres_tls import SSLMODES, PostgresAddress, dial
from steward.errors import LedgerUnavailable
from steward.words import Secret
from tests.servers import postgres_doors as doors
from tests.servers.postgres import Database
from tests.servers.postgres_doors import SSL_REQUEST, Door

HERE = "127.0.0.1"
ANYWHERE = "0.0.0.0"
"""Reaches this machine, and is no loopback address by its words: stands for a host that is not local."""
PASSWORD = "canary-password"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def bundle(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


def context(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(made)
    return made


def address(door: Door, mode: str, host: str = HERE, bundle: str | None = None) -> PostgresAddress:
    return PostgresAddress(host, door.port, "steward", Secret(PASSWORD), "postgres", mode, bundle)


TABLE = {
    # mode: (honest, other name, unknown CA, no TLS), without a bundle and with one
    "disable": ("plain plain plain plain", "plain plain plain plain"),
    "prefer": ("tls tls tls plain", "tls tls plain plain"),
    "require": ("tls tls tls refused", "tls tls refused refused"),
    "verify-ca": ("refused refused refused refused", "tls tls refused refused"),
    "verify-full": ("refused refused refused refused", "tls refused refused refused"),
}


@pytest.fixture
def four_doors(authority: trustme.CA, postgres: Database) -> Iterator[dict[str, Door]]:
    backend = (HERE, postgres.tcp.port)
    with (
        Door(doors.tls, context(authority, HERE), backend) as honest,
        Door(doors.tls, context(authority, "db.example"), backend) as other_name,
        Door(doors.tls, context(trustme.CA(), HERE), backend) as unknown_ca,
        Door(doors.no_tls, None, backend) as no_tls,
    ):
        yield {"honest": honest, "other name": other_name, "unknown CA": unknown_ca, "no TLS": no_tls}


def outcome(where: PostgresAddress) -> str:
    try:
        dialled = dial(where)
    except LedgerUnavailable:
        return "refused"
    with dialled.sock as sock:
        return "tls" if isinstance(sock, ssl.SSLSocket) else "plain"


def test_each_mode_means_what_libpq_means(four_doors: dict[str, Door], bundle: str) -> None:
    seen = {
        mode: tuple(
            " ".join(outcome(address(door, mode, bundle=given)) for door in four_doors.values())
            for given in (None, bundle)
        )
        for mode in SSLMODES
    }
    assert seen == TABLE


def test_a_refusal_tells_the_server_nothing(four_doors: dict[str, Door], bundle: str) -> None:
    """Neither our name nor the database's: of the start-up packet nothing crossed but the request for TLS."""
    for door in four_doors.values():
        for mode in ("verify-ca", "verify-full", "require"):
            for given in (None, bundle):
                outcome(address(door, mode, bundle=given))
    for door in four_doors.values():
        assert door.in_clear
        assert set(door.in_clear) <= {SSL_REQUEST, b""}


def test_a_server_without_tls_hears_eight_octets() -> None:
    for mode in ("require", "verify-ca", "verify-full"):
        with Door(doors.no_tls) as door:
            engine = open_engine(address(door, mode))
            with pytest.raises(LedgerUnavailable, match=f"POSTGRES_SSLMODE={mode}"), mapped():
                engine.connect()
        assert b"".join(door.in_clear) == SSL_REQUEST


def test_the_database_is_used_over_tls(four_doors: dict[str, Door], postgres: Database, bundle: str) -> None:
    door = four_doors["honest"]
    tls = replace(postgres.tcp, port=door.port, sslmode="verify-full", sslrootcert=bundle)
    engine = open_engine(tls)
    with mapped(), engine.begin() as connection:
        assert connection.exec_driver_sql("SELECT current_database()").scalar_one() == postgres.address.database
    engine.dispose()
    assert b"".join(door.in_clear) == SSL_REQUEST


def test_prefer_goes_on_in_plain_text_where_tls_fails(postgres: Database) -> None:
    for story in (doors.hangs_up_on_tls, doors.no_tls):
        with Door(story, None, (HERE, postgres.tcp.port)) as door:
            engine = open_engine(replace(postgres.tcp, port=door.port, sslmode="prefer"))
            with mapped(), engine.begin() as connection:
                assert connection.exec_driver_sql("SELECT 1").scalar_one() == 1
            engine.dispose()


def test_answers_that_are_none_are_refused() -> None:
    for story in (doors.answers_with_an_error, doors.says_nothing, doors.garbage, doors.hangs_up_on_tls):
        for mode in ("require", "verify-full"):
            with Door(story) as door:
                assert outcome(address(door, mode)) == "refused"
            assert door.in_clear[0] == SSL_REQUEST
            assert b"steward" not in b"".join(door.in_clear)


def test_a_bundle_that_is_none_is_told_before_anything_is_dialled(tmp_path: Path) -> None:
    nonsense = tmp_path / "ca.pem"
    nonsense.write_text("this is no certificate")
    with Door(doors.no_tls) as door:
        for path in (str(nonsense), str(tmp_path / "missing.pem")):
            with pytest.raises(LedgerUnavailable, match="POSTGRES_SSLROOTCERT"):
                dial(address(door, "verify-full", bundle=path))
    assert door.in_clear == []


@pytest.mark.parametrize("mode", ["disable", "prefer"])
def test_a_password_asked_for_in_clear_is_not_sent(mode: str) -> None:
    with Door(doors.asks_in_clear) as door:
        engine = open_engine(address(door, mode, ANYWHERE))
        with pytest.raises(LedgerUnavailable, match="in clear"), mapped():
            engine.connect()
    assert b"steward" in b"".join(door.in_clear), "it came as far as the start-up packet"
    assert PASSWORD.encode() not in b"".join(door.in_clear)


def test_a_password_may_go_where_nobody_else_reads(authority: trustme.CA, bundle: str) -> None:
    """Within TLS, and to a loopback address: as libpq does (an identity service's token is such a password)."""
    with Door(doors.asks_within_tls, context(authority, ANYWHERE)) as door:
        engine = open_engine(address(door, "verify-full", ANYWHERE, bundle))
        with pytest.raises(LedgerUnavailable), mapped():
            engine.connect()
    assert PASSWORD.encode() in b"".join(door.in_private)
    with Door(doors.asks_in_clear) as door:
        engine = open_engine(address(door, "disable"))
        with pytest.raises(LedgerUnavailable), mapped():
            engine.connect()
    assert PASSWORD.encode() in b"".join(door.in_clear)


def test_the_password_is_in_no_description() -> None:
    where = PostgresAddress(HERE, 5432, "steward", Secret(PASSWORD), "postgres", "disable")
    assert PASSWORD not in f"{where!r} {open_engine(where)!r} {open_engine(where).url}"
