"""Fixture for the SDK suites: a provider and a Steward in front of it."""

from __future__ import annotations

import pytest

from tests.sdk.ways import Ways
from tests.servers.socket_provider import Provider
from tests.servers.steward import RunningSteward


@pytest.fixture
def ways(provider: Provider, steward_server: RunningSteward) -> Ways:
    """Directly, and through the Steward."""
    return Ways(provider, steward_server.url, {"X-Majordomo-Key": steward_server.key, "X-Majordomo-Suite": "sdk"})
