"""What every case stands on: a loop for provider, load and gates; services of its own; an installation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest

from steward.adapters.postgres_local import LocalPostgres
from tests.faults.bucket import Bucket
from tests.faults.loop_thread import LoopThread
from tests.faults.scene import Scene
from tests.servers.stores import S3Server


@pytest.fixture
def loop_thread() -> Iterator[LoopThread]:
    """Where everything runs that is neither the Steward nor a service of its own."""
    with LoopThread() as running:
        yield running


@pytest.fixture
def bucket(loop_thread: LoopThread, s3_server: S3Server) -> Iterator[Bucket]:
    """A bucket of the test's own, behind its gate."""
    made = Bucket(loop_thread, s3_server)
    yield made
    made.end()


@pytest.fixture
def make_scene(
    loop_thread: LoopThread, tmp_path: Path, postgres_server: LocalPostgres
) -> Iterator[Callable[..., Scene]]:
    """Makes a scene: `make_scene(SETTING="value")`, on the shared PostgreSQL and the files store unless told."""
    numbers = count()
    with ExitStack() as undo:

        def make(server: LocalPostgres | None = None, bucket: Bucket | None = None, **settings: str) -> Scene:
            folder = tmp_path / f"scene-{next(numbers)}"
            folder.mkdir()
            read = None if bucket is None else bucket.read
            told = settings if bucket is None else {**bucket.settings, **settings}
            scene = Scene(loop_thread, server or postgres_server, folder, told, read)
            undo.callback(scene.end)
            return scene

        yield make


@pytest.fixture
def own_postgres(local_postgres: Callable[..., LocalPostgres], server_folder: Path) -> LocalPostgres:
    """A server of the test's own, to stop and start: reached over TCP, as one on another machine."""
    server = local_postgres(server_folder, tcp=True)
    server.start()
    return server
