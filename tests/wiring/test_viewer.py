"""A viewer put together: who signs people in, and that it holds nothing once it is closed."""

from __future__ import annotations

import threading

import pytest

from steward.adapters.oidc import OidcProvider
from steward.errors import SettingError
from steward.settings import Settings, load
from steward.wiring.viewer import build_viewer, identity_provider
from tests.servers.postgres import Database
from tests.servers.waiting import eventually
from tests.services import settings

OIDC = {
    "VIEW_AUTH": "oidc",
    "VIEW_URL": "https://viewer.example",
    "VIEW_OIDC_ISSUER": "https://idp.example",
    "VIEW_OIDC_CLIENT_ID": "steward",
    "VIEW_OIDC_GROUPS": "readers=local",
}


def by_token() -> Settings:
    return settings(VIEW_AUTH="token", VIEW_URL="https://viewer.example", POSTGRES_HOST="127.0.0.1", POSTGRES_PORT="1")


def test_it_connects_to_nothing_before_it_is_asked() -> None:
    services = build_viewer(by_token())
    assert services.provider is None
    services.close()


def test_people_sign_in_at_the_provider_of_the_settings_alone() -> None:
    assert identity_provider(by_token()) is None
    provider = identity_provider(settings(**OIDC))
    assert isinstance(provider, OidcProvider)
    provider.close()


def test_without_the_key_nothing_is_put_together() -> None:
    with pytest.raises(SettingError, match="^ENCRYPTION_KEY: "):
        build_viewer(load({}, None))


def test_it_gives_everything_back(postgres: Database) -> None:
    before = set(threading.enumerate())
    services = build_viewer(settings(postgres, VIEW_AUTH="token", VIEW_URL="https://viewer.example"))
    services.looking.start()
    services.close()
    left = [thread for thread in set(threading.enumerate()) - before if thread.is_alive()]
    assert not left
    others = "datname = current_database() AND pid <> pg_backend_pid()"
    eventually(lambda: postgres.run(f"SELECT count(*) FROM pg_stat_activity WHERE {others}") == [(0,)], 20)
