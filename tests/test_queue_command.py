"""`steward queue`: counts and codes, nothing of what is said. Its way through real processes: tests/wiring."""

from __future__ import annotations

from functools import cache

import pytest

from steward.carrier import Delivery, MemoryCarrier
from steward.errors import QueueUnavailable, SettingError
from steward.price import PriceBook, bundled
from steward.queue_command import Wanted, depth, redrive, redrive_all, told
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


class Repeating(MemoryCarrier):
    """Hands out some of what it handed out before once more, whether it was taken away or not, as queues may."""

    def __init__(self, repeats: list[int]) -> None:
        """How many of the first messages come again, in each answer from the second on; then it is done."""
        super().__init__()
        self.repeats = repeats
        self.first: list[Delivery] = []

    def receive(self, most: int, wait_s: float, hidden_s: int) -> list[Delivery]:
        if self.first and self.repeats and (count := self.repeats.pop(0)):
            return self.first[:count]
        found = super().receive(most, wait_s, hidden_s)
        self.first = self.first or found
        return found


@pytest.mark.parametrize("repeats", [[10], [10, 0, 10, 10, 0, 3], [10] * 20])
def test_what_comes_again_meanwhile_does_not_end_it_and_is_not_sent_twice(repeats: list[int]) -> None:
    house, queue, dead = House(prices()), MemoryCarrier(), Repeating(repeats)
    for _ in range(45):
        one = call()
        dead.send(house.text(one), one.id)
    assert redrive_all(queue, dead, house.sealer, Wanted(None, False, 0)).moved == 45
    assert (queue.depth(), dead.depth()) == (45, 0)


class Unhidden(MemoryCarrier):
    """What is handed out comes again at once, after all else: a long look outlasts what a queue hides."""

    def receive(self, most: int, wait_s: float, hidden_s: int) -> list[Delivery]:
        found = super().receive(most, wait_s, 0)
        out = self._kept[: len(found)]
        self._kept = self._kept[len(found) :] + out
        return found


def test_it_ends_once_all_that_stays_was_looked_at_however_often_it_comes_again() -> None:
    house, queue, dead = House(prices()), MemoryCarrier(), Unhidden()
    for number in range(130):
        one = call()
        dead.send("forged" if number < 30 else house.text(one), one.id)
    redriven = redrive_all(queue, dead, house.sealer, Wanted(None, False, 0))
    assert (redriven.moved, len(redriven.stay), redriven.more) == (100, 30, False)
    assert (queue.depth(), dead.depth()) == (100, 30)


@pytest.mark.parametrize(
    ("wanted", "forged", "last"),
    [
        (Wanted(None, False, 0), 0, "The dead-letter queue is empty."),
        (Wanted(None, False, 0), 2, "All dead letters were looked at; 2 stay."),
        (Wanted(None, True, 0), 2, "All dead letters were looked at; none was moved."),
        (Wanted(2, False, 0), 0, "Stopped: as many as were asked for; there may be more dead letters."),
    ],
)
def test_the_last_line_says_how_it_ended(wanted: Wanted, forged: int, last: str) -> None:
    house, queue, dead = House(prices()), MemoryCarrier(), MemoryCarrier()
    for number in range(3):
        one = call()
        dead.send("forged" if number < forged else house.text(one), one.id)
    said = told(redrive_all(queue, dead, house.sealer, wanted), wanted.dry_run)
    assert said.splitlines()[-1] == last
    assert said.count("stays: not_a_message") == forged
