"""The log of these tests is heard: what runs in the background says what it meets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.said import Said, listening


@pytest.fixture(autouse=True)
def said() -> Iterator[Said]:
    """What the log says."""
    with listening() as heard:
        yield heard
