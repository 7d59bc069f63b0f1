"""What a command works on is opened, and closed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack

import pytest

from steward.errors import SettingError
from steward.exchange import LOCAL_ORG
from steward.ports import Identity
from steward.settings import Settings, load
from steward.wiring.commands import (
    open_directory,
    open_egress_log,
    open_orgs,
    open_outbox,
    open_reconcile,
    open_register,
    open_view_book,
)
from steward.words import Secret
from tests.contracts.records import ORG
from tests.servers.postgres import Database
from tests.servers.waiting import eventually
from tests.services import settings
from tests.wanted import for_org, s3

WITH_UNDO: tuple[Callable[[Settings, ExitStack], object], ...] = (
    *(open_register, open_egress_log, open_orgs, open_outbox, open_reconcile),
)
ALONE: tuple[Callable[[Settings], AbstractContextManager[object]], ...] = (open_directory, open_view_book)


def test_the_directory_alone_can_be_opened_and_closed(postgres: Database) -> None:
    with open_directory(settings(postgres)) as directory:
        assert directory.list_keys(LOCAL_ORG) == []
        assert _ours(postgres) >= 1
    eventually(lambda: _ours(postgres) == 0, 20)


def test_without_the_key_nothing_is_opened() -> None:
    for alone in ALONE:
        with pytest.raises(SettingError, match="^ENCRYPTION_KEY: "), alone(load({}, None)):
            pass
    for opened in WITH_UNDO:
        with ExitStack() as undo, pytest.raises(SettingError, match="^ENCRYPTION_KEY: "):
            opened(load({}, None), undo)


def test_what_is_opened_is_closed_with_the_command(postgres: Database) -> None:
    """Each of them asked once, so that it holds a connection."""
    given = settings(postgres)
    with ExitStack() as undo:
        register, _ = open_register(given, undo)
        organisations, _ = open_orgs(given, undo)
        assert (register.registrations(), organisations.registrations()) == ([], [])
        assert open_egress_log(given, undo).newest(1) == []
        assert open_outbox(given, undo).keep_local(1, managed=False) == 0
        assert _ours(postgres) >= 4
    with open_view_book(given) as book:
        assert book.tokens() == []
    eventually(lambda: _ours(postgres) == 0, 20)


def _ours(database: Database) -> int:
    """The connections to its database besides its own."""
    ((count,),) = database.run(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    return int(count)


def test_organisations_are_opened_with_what_waits_for_each(postgres: Database) -> None:
    with ExitStack() as undo:
        directory, waiting = open_orgs(settings(postgres, TRUST_WINDOW="0s"), undo)
        made = directory.register(Identity(ORG, ORG, "Acme"), "https://butler.example", Secret("mdm_st_" + "t" * 32))
        directory.replace_storage_configs(made, [for_org(s3())])  # type: ignore[attr-defined]
        assert waiting(made) == {"rows": 0, "approvals": 1}
