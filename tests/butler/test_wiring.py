"""Butler's composition root: nothing is connected before it is asked, and no key means no start."""

from __future__ import annotations

import pytest

from steward.butler.settings import load
from steward.butler.wiring import build, open_database
from steward.errors import SettingError
from tests.servers.postgres import Database

KEY = bytes(range(100, 132)).hex()


def test_without_a_key_it_does_not_start() -> None:
    with pytest.raises(SettingError, match="BUTLER_ENCRYPTION_KEY"):
        open_database(load({}, None))


def test_it_is_built_from_settings_alone(butler_postgres: Database) -> None:
    address = butler_postgres.address
    given = {
        "BUTLER_ENCRYPTION_KEY": KEY,
        "BUTLER_POSTGRES_HOST": address.host,
        "BUTLER_POSTGRES_PORT": str(address.port),
        "BUTLER_POSTGRES_USER": address.user,
        "BUTLER_POSTGRES_PASSWORD": address.password.reveal(),
        "BUTLER_POSTGRES_DB": address.database,
        "BUTLER_STEWARD_VIEW_URL": "https://view.example.com",
    }
    services = build(load(given, None))
    try:
        services.database.ready()
        assert (services.public_url, services.steward_view_url) == ("http://127.0.0.1:7690", "https://view.example.com")
        assert services.now().tzinfo is not None
    finally:
        services.database.close()
