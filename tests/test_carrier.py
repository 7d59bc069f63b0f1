"""What every carrier of messages promises: what is sent is there, what is done is gone, what fails is set aside."""

from __future__ import annotations

import base64
from uuid import uuid4

import pytest

from steward.carrier import Carrier, Delivery, MemoryCarrier
from tests.servers.waiting import eventually


@pytest.fixture(params=["memory", "sqs", "pubsub", "emulated"])
def carrier(request: pytest.FixtureRequest) -> Carrier:
    if request.param == "memory":
        return MemoryCarrier(3, MemoryCarrier())
    found: Carrier = request.getfixturevalue(f"{request.param}_carrier")
    return found


def came(carrier: Carrier, count: int, hidden_s: int = 60) -> list[Delivery]:
    """So many, however often one has to ask."""
    found: list[Delivery] = []

    def enough() -> bool:
        found.extend(carrier.receive(count - len(found), 0, hidden_s))
        return len(found) == count

    eventually(enough, 60)
    return found


def test_what_is_sent_comes_once_while_it_is_hidden(carrier: Carrier) -> None:
    texts = {base64.b64encode(f"message {number}".encode()).decode() for number in range(25)}
    for text in texts:
        carrier.send(text, uuid4())
    found = came(carrier, 25)
    assert {each.text for each in found} == texts
    assert len({each.message_id for each in found}) == len({each.receipt for each in found}) == 25
    assert carrier.receive(10, 0, 60) == []
    assert carrier.depth() in {25, None}
    carrier.done([each.receipt for each in found])
    assert carrier.depth() in {0, None}


def test_what_is_given_back_comes_again_and_what_is_done_never(carrier: Carrier) -> None:
    for text in ("Zmlyc3Q=", "c2Vjb25k"):
        carrier.send(text, uuid4())
    found = came(carrier, 2)
    carrier.done([found[0].receipt])
    carrier.hide([found[1].receipt], 0)
    [again] = came(carrier, 1)
    assert (again.text, again.message_id) == (found[1].text, found[1].message_id)
    carrier.done([again.receipt])
    assert carrier.receive(10, 0, 60) == []


def test_saying_it_again_or_saying_nothing_is_no_error(carrier: Carrier) -> None:
    carrier.done([])
    carrier.hide([], 10)
    carrier.send("dGV4dA==", uuid4())
    [one] = came(carrier, 1)
    for _ in range(2):
        carrier.done([one.receipt])
        carrier.hide([one.receipt], 60)


def test_what_fails_again_and_again_is_set_aside(carrier: Carrier) -> None:
    dead = carrier.dead()
    assert dead is not None
    carrier.send("cG9pc29u", uuid4())
    set_aside: list[str] = []

    def looked() -> bool:
        carrier.hide([each.receipt for each in carrier.receive(10, 0, 60)], 0)
        set_aside.extend(each.text for each in dead.receive(10, 0, 60))
        return bool(set_aside)

    eventually(looked, 60)
    assert set_aside == ["cG9pc29u"]
    dead.close()


def test_closing_twice_is_no_error(carrier: Carrier) -> None:
    carrier.close()
    carrier.close()
