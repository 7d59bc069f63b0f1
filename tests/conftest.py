"""Real servers for the tests, each started by the run itself; the fixtures live in `tests/servers/`."""

from __future__ import annotations

import pytest
from hypothesis import settings

pytest_plugins = [
    "tests.servers.corpus",
    "tests.servers.postgres",
    "tests.servers.provider",
    "tests.servers.pubsub",
    "tests.servers.steward",
    "tests.servers.stores",
    "tests.servers.butler",  # after postgres, which it imports
    "tests.servers.butler_process",
    "tests.servers.lambda_rie",
]

# How long one example takes says more of the machine than of the code.
settings.register_profile("steward", deadline=None)
settings.load_profile("steward")

LONG = (
    "tests/test_cli.py",
    "tests/test_packaging.py",
    "tests/test_lambda_package.py",
    "tests/browser/test_viewer.py",
    "tests/butler/test_store_explorer.py",
    "tests/butler/pages/test_watching.py",
    "tests/contracts/test_upstream.py",
    "tests/hostile/test_large_bodies.py",
    "tests/hostile/test_sync.py",
    "tests/api/test_viewer.py",
    "tests/wiring/test_relay.py",
    "tests/faults/test_kills.py",
    "tests/hostile/test_storage_of_a_hostile_butler.py",
    "tests/adapters/test_postgres_local.py",
    "tests/butler/test_access.py",
    "tests/adapters/test_s3.py",
    "tests/contracts/test_ledger.py",
)
"""Files that take longest, as measured: begun first, so that at the end no worker waits for one that began late."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files in the order of LONG, then the others; within a file as they stand. (xdist's own order is by number.)"""
    place = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(LONG)))
