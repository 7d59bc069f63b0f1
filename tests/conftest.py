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
    "tests/hosts/test_conformance.py",
    "tests/browser/test_dashboard.py",
    "tests/handlers/test_container.py",
    "tests/test_demo.py",
    "tests/hostile/test_sync.py",
    "tests/hosts/test_freezes.py",
    "tests/butler/test_command.py",
    "tests/browser/test_viewer.py",
    "tests/test_lambda_package.py",
    "tests/test_packaging.py",
    "tests/contracts/test_upstream.py",
    "tests/hostile/test_storage_of_a_hostile_butler.py",
    "tests/butler/test_store_explorer.py",
    "tests/handlers/test_aws_lambda_stream.py",
    "tests/butler/pages/test_watching.py",
    "tests/adapters/test_postgres_local.py",
    "tests/browser/test_story.py",
    "tests/butler/pages/test_exploring.py",
    "tests/hostile/test_export.py",
    "tests/hostile/test_metrics.py",
    "tests/adapters/test_s3.py",
    "tests/hostile/test_canaries.py",
    "tests/butler/pages/test_keys.py",
    "tests/hostile/test_butler_canaries.py",
)
"""Files that take longest, as measured: begun first, so that at the end no worker waits for one that began late."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files in the order of LONG, then the others; within a file as they stand. (xdist's own order is by number.)"""
    place = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(LONG)))
