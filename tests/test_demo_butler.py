"""The demo's own Butler: made by its own code, spoken to as its command line does, and clear about what fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from steward.adapters.postgres_local import LocalPostgres
from steward.demo_butler import ORGANISATION, DemoButler, Owner, found, own_settings
from steward.errors import StewardError
from steward.words import Secret
from tests.servers.listening import free_port
from tests.servers.running_butler import RunningButler, running_butler


@pytest.fixture
def running(postgres_server: LocalPostgres, tmp_path: Path) -> Iterator[RunningButler]:
    with running_butler(postgres_server, tmp_path) as made:
        yield made


def test_an_owner_is_made_who_can_sign_in_and_make_what_the_story_needs(running: RunningButler) -> None:
    owner = found(running.environ)
    butler = DemoButler(running.port, owner)
    assert butler.listens()
    butler.sign_in()
    assert butler.calls() == 0
    key_id, plaintext = butler.key("search", "Of a team")
    assert plaintext.startswith("mdm_sk_")
    assert butler.steward_token("demo").reveal().startswith("mdm_st_")
    running.token = butler._token or ""
    assert [(each["id"], each["name"]) for each in running.ask("GET", "/keys")] == [(str(key_id), "search")]
    assert running.ask("GET", "/me")["org_name"] == ORGANISATION


def test_what_is_refused_is_said_without_a_secret(running: RunningButler) -> None:
    owner = found(running.environ)
    stranger = DemoButler(running.port, Owner(owner.email, Secret("another password"), owner.org_id))
    with pytest.raises(StewardError) as refused:
        stranger.sign_in()
    assert "401" in refused.value.message
    assert "another password" not in refused.value.message


def test_one_that_does_not_listen_is_no_surprise() -> None:
    owner = Owner("you@example.com", Secret("p"), UUID(int=1))
    away = DemoButler(free_port(), owner)
    assert not away.listens()
    with pytest.raises(StewardError, match="does not answer"):
        away.calls()


def test_it_is_told_of_the_database_and_given_a_key_of_its_own() -> None:
    told = own_settings(7690, {"POSTGRES_HOST": "h", "ENCRYPTION_KEY": "secret"}, "http://localhost:7681")
    assert told["POSTGRES_HOST"] == "h"
    assert "ENCRYPTION_KEY" not in told
    assert len(told["BUTLER_ENCRYPTION_KEY"]) == 64
    assert told["BUTLER_HOST"] == "127.0.0.1"
