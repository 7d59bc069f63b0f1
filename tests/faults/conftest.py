"""What every case stands on: a loop for provider, load and gates; services of its own; an installation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from steward.adapters.postgres_local import LocalPostgres
from tests.faults.loop_thread import LoopThread
from tests.faults.scene import Scene


@pytest.fixture
def loop_thread() -> Iterator[LoopThread]:
    """Where everything runs that is neither the Steward nor a service of its own."""
    with LoopThread() as running:
        yield running


@pytest.fixture
def make_scene(
    loop_thread: LoopThread, tmp_path: Path, postgres_server: LocalPostgres
) -> Iterator[Callable[..., Scene]]:
    """Makes one scene: `make_scene(SETTING="value")`, on the shared PostgreSQL and the files store, unless told."""
    with ExitStack() as undo:

        def make(server: LocalPostgres | None = None, folder: Path | None = None, **settings: str) -> Scene:
            scene = Scene(loop_thread, server or postgres_server, folder or tmp_path, settings)
            undo.callback(scene.end)
            return scene

        yield make


@pytest.fixture
def own_postgres(local_postgres: Callable[..., LocalPostgres], server_folder: Path) -> LocalPostgres:
    """A server of the test's own, to stop and start: reached over TCP, as one on another machine."""
    server = local_postgres(server_folder, tcp=True)
    server.start()
    return server
