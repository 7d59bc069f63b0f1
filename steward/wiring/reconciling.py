"""What is compared with what, to find what went wrong: rows, bodies, and what lies in the spool or beside it.

It compares nothing itself: `steward/reconcile.py` does.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from steward.errors import SettingError
from steward.ports import BodyBook, BodyStore
from steward.reconcile import Kept, NothingKept
from steward.seal import Keyring
from steward.settings import Settings
from steward.wiring.body_stores import open_store

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from steward.adapters.spool_quarantine import Quarantine


def compared(settings: Settings, engine: Engine, undo: ExitStack) -> tuple[BodyBook, BodyStore, Kept]:
    """What reconcile compares; `undo` closes it, but for the engine. Connects to nothing yet. Raises SettingError."""
    from steward.adapters.postgres_body_book import PostgresBodyBook

    store = open_store(settings.body_store)
    if store is None:
        raise SettingError("BODY_STORE_URL: not set; there are no bodies to compare rows with")
    undo.callback(store.close)
    if not settings.spool_dir.is_dir():
        return PostgresBodyBook(engine), store, NothingKept()
    quarantine = open_quarantine(settings)
    undo.callback(quarantine.close)
    return PostgresBodyBook(engine), store, _SpoolKept(settings.spool_dir, quarantine)


def open_quarantine(settings: Settings) -> Quarantine:
    """What was set aside, for the spool commands. Raises SettingError; a folder that is missing is not made."""
    from steward.adapters.spool_quarantine import Quarantine

    keyring = Keyring(settings.needed_encryption_key())
    if not settings.spool_dir.is_dir():
        raise SettingError("SPOOL_DIR: there is no such folder")
    return Quarantine(settings.spool_dir, keyring)


class _SpoolKept:
    """See reconcile.Kept: of a spool that a settler may be working on."""

    def __init__(self, folder: Path, quarantine: Quarantine) -> None:
        self._folder = folder
        self._quarantine = quarantine

    def waiting(self) -> set[UUID]:
        from steward.adapters.spool_waiting import waiting

        return waiting(self._folder)

    def set_aside(self) -> set[UUID]:
        return {entry.id for entry in self._quarantine.entries()}

    def try_again(self, request_id: UUID) -> None:
        self._quarantine.retry(request_id)
