"""Fixtures: a house with a day in it, and an empty one."""

from __future__ import annotations

import pytest

from tests.butler.pages.visits import House, house_of
from tests.servers.butler import ButlerBench


@pytest.fixture
def house(butler: ButlerBench) -> House:
    """160 calls of the last day."""
    return house_of(butler)


@pytest.fixture
def empty_house(butler: ButlerBench) -> House:
    """No call ever."""
    return house_of(butler, calls=0)
