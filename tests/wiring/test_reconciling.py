"""What reconcile compares, as far as it is there."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from steward.adapters.files import FilesBodyStore
from steward.errors import SettingError
from steward.reconcile import NothingKept
from steward.wiring.database import open_database
from steward.wiring.reconciling import compared, open_quarantine
from tests.services import settings


def test_a_quarantine_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="^SPOOL_DIR: "):
        open_quarantine(settings(SPOOL_DIR=str(tmp_path / "missing")))
    assert not (tmp_path / "missing").exists()
    (tmp_path / "spool").mkdir(mode=0o700)
    quarantine = open_quarantine(settings(SPOOL_DIR=str(tmp_path / "spool")))
    assert quarantine.entries() == []
    quarantine.close()


def test_what_is_compared_is_what_is_there(tmp_path: Path) -> None:
    """Rows and bodies always; the spool and what was set aside where there is one. It asks nobody yet."""
    bodies, spool = tmp_path / "bodies", tmp_path / "spool"
    bodies.mkdir()
    given = {"POSTGRES_HOST": "127.0.0.1", "POSTGRES_PORT": "1", "SPOOL_DIR": str(spool)}
    stored = settings(**given, BODY_STORE_URL=bodies.as_uri())
    engine, _ = open_database(stored)
    with ExitStack() as undo:
        with pytest.raises(SettingError, match="^BODY_STORE_URL: "):
            compared(settings(**given), engine, undo)
        _, store, kept = compared(stored, engine, undo)
        assert isinstance(store, FilesBodyStore)
        assert isinstance(kept, NothingKept)
        spool.mkdir(mode=0o700)
        _, _, kept = compared(stored, engine, undo)
        assert not isinstance(kept, NothingKept)
        assert (kept.waiting(), kept.set_aside()) == (set(), set())
    engine.dispose()
