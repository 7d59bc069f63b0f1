"""Fixture: one stand-in for all three providers, the recordings where they are and the examples written by hand.

A test names a recording by the field `x-recording-id`; any other call is answered by `examples.respond`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers.examples import respond
from tests.servers.replay import recordings, replay
from tests.servers.socket_provider import Answer, Provider, Received

__all__ = ["Answer", "Provider", "Received", "provider"]


@pytest.fixture(scope="session")
def provider() -> Iterator[Provider]:
    """Records what it is sent: `take()` gives and forgets it."""
    server = Provider(replay(recordings(), respond))
    yield server
    server.close()
