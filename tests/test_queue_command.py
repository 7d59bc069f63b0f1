"""`steward queue`: counts and codes, nothing of what is said. Its way through real processes: tests/wiring."""

from __future__ import annotations

from functools import cache

import pytest

from steward.carrier import MemoryCarrier
from steward.errors import QueueUnavailable, SettingError
from steward.price import PriceBook, bundled
from steward.queue_command import Wanted, depth, redrive, redrive_all
from tests.messages import CANARY, House, call
from tests.services import settings


@cache
def prices() -> PriceBook:
    return bundled()


def test_without_a_queue_it_says_which_setting_is_missing() -> None:
    for command in (lambda: depth(settings(), False), lambda: redrive(settings(), None, False, False)):
        with pytest.raises(SettingError, match="AFTER_RESPONSE"):
            command()


def test_one_that_was_sent_and_not_taken_away_is_there_twice_rather_than_lost() -> None:
    house, queue = House(prices()), MemoryCarrier()

    class Dying(MemoryCarrier):
        def done(self, receipts: object) -> None:
            raise QueueUnavailable

    dead = Dying()
    one = call()
    dead.send(house.text(one), one.id)
    with pytest.raises(QueueUnavailable):
        redrive_all(queue, dead, house.sealer, Wanted(None, False, 0))
    assert (queue.depth(), dead.depth()) == (1, 1)


def test_many_say_how_far_it_is_and_never_what_they_hold(capfd: pytest.CaptureFixture[str]) -> None:
    house, queue, dead = House(prices()), MemoryCarrier(), MemoryCarrier()
    for _ in range(120):
        one = call()
        dead.send(house.text(one), one.id)
    assert redrive_all(queue, dead, house.sealer, Wanted(None, False, 0)).moved == 120
    said = capfd.readouterr()
    assert said.err == "100 messages looked at\n"
    assert CANARY not in said.out + said.err
