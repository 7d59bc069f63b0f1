"""Settings -> Services: Butler's composition root. It decides nothing at call time."""

from __future__ import annotations

from sqlalchemy.engine import Engine

from steward.adapters.postgres_connection import PostgresAddress, open_engine
from steward.butler.services import Services, Site, over
from steward.butler.settings import ButlerSettings
from steward.seal import Keyring
from steward.words import Secret


def open_database(settings: ButlerSettings, most_conns: int = 1) -> tuple[Engine, Keyring]:
    """The engine, not connected yet, and the keyring. Raises SettingError without a key."""
    keyring = Keyring(settings.needed_encryption_key())
    rootcert = settings.postgres_sslrootcert
    address = PostgresAddress(
        host=settings.postgres_host,
        port=settings.postgres_port,
        user=settings.postgres_user,
        password=settings.postgres_password or Secret(""),
        database=settings.postgres_db,
        sslmode=settings.postgres_sslmode,
        sslrootcert=str(rootcert) if rootcert else None,
        max_conns=most_conns,
    )
    return open_engine(address), keyring


def build(settings: ButlerSettings) -> Services:
    """The services of a serving Butler. The database is asked for nothing yet."""
    engine, keyring = open_database(settings, settings.postgres_max_conns)
    return over(engine, keyring, Site(settings.public_url, settings.steward_view_url))
