"""What a command works on: one book or two, on a database of its own, and how they are closed.

It does nothing with them; the command does, once, and ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from steward.carrier import Carrier
from steward.ports import BodyBook, BodyStore, Directory, EgressLog, Outbox, ViewBook
from steward.reconcile import Kept
from steward.registering import OpenButler, Waiting, counting
from steward.seal import Keyring
from steward.sealed_message import MessageSealer
from steward.settings import Settings
from steward.wiring.butlers import logged_butlers
from steward.wiring.database import directory_on, open_database
from steward.wiring.queues import open_queue, queue_sealer
from steward.wiring.reconciling import compared


@contextmanager
def open_directory(settings: Settings) -> Iterator[Directory]:
    """The directory alone, for the key commands. Raises SettingError."""
    engine, keyring = open_database(settings)
    try:
        yield directory_on(settings, engine, keyring)
    finally:
        engine.dispose()


def open_register(settings: Settings, undo: ExitStack) -> tuple[Directory, OpenButler]:
    """The directory, and how a Butler is asked whose a token is; `undo` closes it. Raises SettingError."""
    from steward.adapters.postgres_egress_log import PostgresEgressLog

    engine, keyring = open_database(settings)
    undo.callback(engine.dispose)
    return directory_on(settings, engine, keyring), logged_butlers(settings, PostgresEgressLog(engine, keyring))


def open_egress_log(settings: Settings, undo: ExitStack) -> EgressLog:
    """What left for Butler; `undo` closes it. Raises SettingError."""
    from steward.adapters.postgres_egress_log import PostgresEgressLog

    engine, keyring = open_database(settings)
    undo.callback(engine.dispose)
    return PostgresEgressLog(engine, keyring)


def open_orgs(settings: Settings, undo: ExitStack) -> tuple[Directory, Waiting]:
    """The organisations and what waits for each; `undo` closes it. Raises SettingError."""
    from steward.adapters.postgres_outbox import PostgresOutbox

    engine, keyring = open_database(settings)
    undo.callback(engine.dispose)
    directory = directory_on(settings, engine, keyring)
    return directory, counting(PostgresOutbox(engine), directory)


def open_outbox(settings: Settings, undo: ExitStack) -> Outbox:
    """What waits to be exported; `undo` closes it. Raises SettingError."""
    from steward.adapters.postgres_outbox import PostgresOutbox

    engine, _ = open_database(settings)
    undo.callback(engine.dispose)
    return PostgresOutbox(engine)


@contextmanager
def open_view_book(settings: Settings) -> Iterator[ViewBook]:
    """The viewer's book alone, for its commands. Raises SettingError."""
    from steward.adapters.postgres_view_book import PostgresViewBook

    engine, _ = open_database(settings)
    try:
        yield PostgresViewBook(engine)
    finally:
        engine.dispose()


def open_reconcile(settings: Settings, undo: ExitStack) -> tuple[BodyBook, BodyStore, Kept]:
    """What reconcile compares; `undo` closes it. Connects to nothing yet. Raises SettingError."""
    engine, _ = open_database(settings)
    undo.callback(engine.dispose)
    return compared(settings, engine, undo)


def open_carrier(settings: Settings, undo: ExitStack) -> tuple[Carrier, MessageSealer]:
    """The queue of AFTER_RESPONSE, and what opens its messages; `undo` closes it. Raises SettingError."""
    carrier = open_queue(settings)
    undo.callback(carrier.close)
    return carrier, queue_sealer(settings, Keyring(settings.needed_encryption_key()))
