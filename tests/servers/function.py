"""Steward as a Cloud Function: the framework's own command in a process group of its own, on a given port."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from steward.adapters.postgres_local import LocalPostgres
from tests.servers.listening import free_port
from tests.servers.steward import REPOSITORY, RunningSteward, running_steward, serving

FRAMEWORK = str(Path(sys.executable).parent / "functions-framework")
SOURCE = str(REPOSITORY / "handlers" / "cloud_function.py")
ON_GOOGLE = {"K_SERVICE": "steward", "K_REVISION": "steward-00001-abc", "K_CONFIGURATION": "steward"}
"""What Cloud Run says of itself, also where it runs a function."""


@contextmanager
def function(environ: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The framework serving our target: gunicorn and a uvicorn worker, or with DEBUG=true its development server."""
    command = (FRAMEWORK, "--source", SOURCE, "--target", "steward")
    with serving(environ, log, command) as process:
        yield process


@contextmanager
def running_function(
    server: LocalPostgres, folder: Path, provider_url: str, settings: Mapping[str, str] | None = None
) -> Iterator[RunningSteward]:
    """As running_steward."""
    given = {**ON_GOOGLE, "PORT": str(free_port()), **(settings or {})}
    with running_steward(server, folder, provider_url, given, function) as running:
        yield running


@contextmanager
def running_on_cloud_run(
    server: LocalPostgres, folder: Path, provider_url: str, settings: Mapping[str, str] | None = None
) -> Iterator[RunningSteward]:
    """The container where K_SERVICE says that it is on Cloud Run, on the port that it is given there."""
    given = {**ON_GOOGLE, "PORT": str(free_port()), **(settings or {})}
    with running_steward(server, folder, provider_url, given) as running:
        yield running
