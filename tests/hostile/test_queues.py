"""Queues that somebody else writes into and reads (SECURITY F19): each message is one row, ours, or nothing at all.

Whoever may send can make no row and have nothing read with our role; whoever may read finds nothing said in a call; and
what dies or fails on the way loses nothing. Over SQS, whose server checks signatures and policies, and Pub/Sub.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from typing import Any, BinaryIO, cast
from uuid import UUID, uuid4

import pytest

from steward.adapters.memory import MemoryAfterResponse, MemoryLedger
from steward.adapters.memory_bodies import MemoryBodyStore
from steward.adapters.queue_reader import QueueReader, ReaderLimits
from steward.adapters.queue_sender import QueueSender, SenderLimits
from steward.adapters.sqs import SqsCarrier
from steward.carrier import Carrier, MemoryCarrier
from steward.claims import Claims
from steward.errors import LedgerUnavailable, MessageRefused, QueueRefused, QueueUnavailable, StoreUnavailable
from steward.exchange import LOCAL_ORG, Body, Exchange
from steward.ports import Refused
from steward.price import PriceBook, bundled
from steward.queue_command import Wanted, redrive_all
from steward.seal import Keyring
from steward.sealed_message import Claim, MessageSealer
from steward.settling import RoundLimits, Rounds
from steward.words import Secret
from tests.messages import CANARY, KEYRING, LARGE, MOST_TEXT, QUEUE, SMALL, House, call, copied
from tests.said import Said, listening
from tests.servers.stores import S3Server
from tests.servers.waiting import eventually

OTHER_KEY = Keyring(Secret(bytes(range(1, 33))))


@cache
def prices() -> PriceBook:
    return bundled()


@pytest.fixture
def house() -> House:
    return House(prices())


@pytest.fixture(autouse=True)
def said() -> Iterator[Said]:
    with listening() as heard:
        yield heard


@pytest.fixture(params=["sqs", "pubsub"])
def carrier(request: pytest.FixtureRequest) -> Carrier:
    found: Carrier = request.getfixturevalue(f"{request.param}_carrier")
    return found


class Reads(MemoryBodyStore):
    """A store that says what was asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.most: set[int | None] = set()
        """Octets it was to give at most."""

    def get(self, key: str, most_bytes: int | None = None) -> bytes:
        self.asked.append(key)
        self.most.add(most_bytes)
        return super().get(key, most_bytes)


def forgeries(house: House) -> dict[str, tuple[str | bytes, str]]:
    """What somebody with the right to send may put there, and why each is refused."""
    octets = base64.b64decode(house.text(call()))
    at = 41
    swapped = octets[:at] + uuid4().bytes + octets[at + 16 :]
    named = json.dumps({"bucket": "other-bucket", "key": "secret", "sha256": "0" * 64}).encode()
    return {
        "nothing": ("", "not_a_message"),
        "a word": ("hello", "not_a_message"),
        "a claim in clear": (named.decode(), "not_a_message"),
        "a claim in base64": (base64.b64encode(named), "other_version"),
        "10 MB": ("A" * (10 << 20), "other_version"),
        "15 MB": ("A" * (15 << 20), "not_a_message"),
        "not Latin": ("\ud800\0é" * 40, "not_a_message"),
        "cut short": (base64.b64encode(octets[:-7]), "not_sealed_here"),
        "the head alone": (base64.b64encode(octets[:58]), "not_a_message"),
        "another version": (base64.b64encode(b"\2" + octets[1:]), "other_version"),
        "another call's id": (base64.b64encode(swapped), "not_sealed_here"),
        "another form": (base64.b64encode(octets[:57] + b"\2" + octets[58:]), "not_sealed_here"),
        "another key": (House(prices(), keyring=OTHER_KEY).text(call()), "other_key"),
        "another queue's": (House(prices(), queue=QUEUE + "2").text(call()), "not_sealed_here"),
        "another's cloud": (House(prices(), queue="pubsub:" + QUEUE).text(call()), "not_sealed_here"),
    }


def test_a_forged_swapped_or_retargeted_message_makes_no_row_and_has_nothing_read() -> None:
    store = Reads()
    house = House(prices(), store=store)
    good = call()
    for name, (message, reason) in forgeries(house).items():
        text = house.text(copied(good))
        assert house.settle(message, text) == [reason, None], name
    assert len(house.ledger.newest(LOCAL_ORG, 100)) == 1
    assert store.asked == []
    assert house.refused == [reason for _, reason in forgeries(house).values()]


def test_in_a_real_queue_they_end_in_the_dead_letter_queue_and_hold_up_nobody(carrier: Carrier, house: House) -> None:
    sent = {name: message for name, (message, _) in forgeries(house).items() if 0 < len(message) < 100_000}
    del sent["not Latin"]
    for message in sent.values():
        carrier.send(message if isinstance(message, str) else message.decode(), uuid4())
    good = [call() for _ in range(5)]
    for one in good:
        carrier.send(house.text(one), one.id)
    reader = reading(carrier, house)
    rounds = Rounds(reader, house.settler, house.ledger, RoundLimits(idle_s=0.0))
    dead = carrier.dead()
    assert dead is not None

    def over() -> bool:
        rounds.run_once()
        return not reader.depth().items and set(house.rows([one.id for one in good])) == {"stored"}

    eventually(over, 60)
    set_aside: dict[str, str] = {}

    def all_there() -> bool:
        rounds.run_once()
        set_aside.update({each.message_id: each.text for each in dead.receive(100, 0, 60)})
        return len(set_aside) == len(sent)

    eventually(all_there, 60)
    assert len(house.ledger.newest(LOCAL_ORG, 100)) == 5
    assert set(house.refused) <= {"not_a_message", "other_version", "other_key", "not_sealed_here"}
    assert len(house.refused) >= len(sent)
    rounds.close()
    reader.close()
    dead.close()


def reading(carrier: Carrier, house: House, hidden_s: int = 60) -> QueueReader:
    limits = ReaderLimits(failed_s=0, back_s=0, depth_s=0, hidden_s=hidden_s)
    return QueueReader(Lent(carrier), house.claims, house.refused.append, limits)


class Lent(Carrier):
    """A reader closes its carrier; the next one has the same here."""

    def __init__(self, carrier: Carrier) -> None:
        self.carrier = carrier
        self.send, self.receive, self.hide = carrier.send, carrier.receive, carrier.hide  # type: ignore[method-assign]
        self.depth, self.dead = carrier.depth, carrier.dead  # type: ignore[method-assign]

    def done(self, receipts: Any) -> None:
        self.carrier.done(receipts)

    def close(self) -> None:
        """Not now."""


def test_a_claim_whose_object_is_anothers_is_refused_and_what_is_no_claims_is_never_read(said: Said) -> None:
    store = Reads()
    house = House(prices(), store=store)
    mine, other = call(LARGE), call(LARGE)
    message, others = house.text(mine), house.text(other)
    mine_key, other_key = sorted(key for key in store.objects if key.startswith("queued/"))[::1]
    store.objects[mine_key], store.objects[other_key] = store.objects[other_key], store.objects[mine_key]
    assert house.settle(message, others) == ["another_object", "another_object"]
    assert house.rows([mine.id, other.id]) == ["none", "none"]
    for planted in (b"", b"MDQUEUE\n\1", os.urandom(1000)):
        store.objects[mine_key] = store.objects[other_key] = planted
        assert set(house.settle(message, others)) == {"another_object"}
    assert set(store.asked) == {mine_key, other_key}
    assert CANARY not in said.text


def test_of_an_object_that_somebody_made_huge_no_more_is_asked_for_than_the_message_speaks_of() -> None:
    store = Reads()
    house = House(prices(), store=store)
    message = house.text(call(LARGE))
    [key] = store.objects
    was = len(store.objects[key])
    store.objects[key] += bytes(64 << 20)
    assert house.settle(message) == ["another_object"]
    assert store.most == {was}


def test_of_a_call_larger_than_the_settings_allow_nothing_is_read() -> None:
    store = Reads()
    house = House(prices(), store=store)
    large = 6 << 20
    message = house.text(call(large))
    claims = partial(Claims, house.sealer, house.stores, MOST_TEXT)
    claims(most_kept=large).open(message).request.close()
    store.asked.clear()
    with pytest.raises(MessageRefused) as refused:
        claims(most_kept=512 << 10).open(message)
    assert (refused.value.reason, store.asked) == ("too_large", [])
    assert isinstance(house.sealer.open(message), Claim), "a redrive sends it back all the same"


def test_a_claim_leads_to_the_callers_own_store_alone() -> None:
    """Whatever ids it holds: the key is made of them, and which store is asked follows from who called."""
    house = House(prices())
    sealer = MessageSealer(KEYRING, QUEUE)
    one = call()
    claim = Claim(one.id, one.caller, one.requested_at, uuid4(), "0" * 64, 100, bytes(32))
    for odd in (claim, replace(claim, size_bytes=1 << 40), replace(claim, config_id=UUID(int=0))):
        assert house.settle(sealer.claim(odd)) == ["object_missing"]
    assert claim.object_key.split("/")[:2] == ["queued", str(one.caller.org_id)]


def test_nothing_said_in_a_call_lies_in_queue_or_bucket_or_log(carrier: Carrier, house: House, said: Said) -> None:
    for size in (SMALL, LARGE):
        one = call(size)
        carrier.send(house.text(one), one.id)
    lying = carrier.receive(10, 0, 60)
    assert len(lying) == 2
    objects = [octets for key, octets in house.store.objects.items() if key.startswith("queued/")]
    for octets in [each.text.encode() for each in lying] + objects:
        for form in (octets, base64.b64decode(octets) if octets[:8] != b"MDQUEUE\n" else b""):
            assert CANARY.encode() not in form
            assert b"gpt-4o" not in form
    house.settle(*(each.text for each in lying), "nonsense")
    assert CANARY not in said.text


def test_a_consumer_that_dies_between_row_and_acknowledgement_leaves_one_row_and_one_body(
    carrier: Carrier, house: House
) -> None:
    calls = [call(), call(LARGE), call()]
    for one in calls:
        carrier.send(house.text(one), one.id)

    class Dying(Lent):
        def done(self, receipts: Any) -> None:
            raise SystemExit

    dying = QueueReader(Dying(carrier), house.claims, limits=ReaderLimits(hidden_s=1))
    handed = dying.take(10, 1 << 30)
    house.settler.settle([cast(Exchange, each.item) for each in handed])
    with pytest.raises(SystemExit):
        dying.done(handed)
    assert house.rows([one.id for one in calls]) == ["stored"] * 3
    before = dict(house.store.objects)
    second = reading(carrier, house)
    rounds = Rounds(second, house.settler, house.ledger, RoundLimits(idle_s=0.0))
    came: set[UUID] = set()

    def settled_again() -> bool:
        rounds.run_once()
        came.update(held.exchange.id for held in second._held.values() if held.exchange is not None)
        return len(came) == 3 and not second.depth().items

    eventually(settled_again, 60)
    assert len(house.ledger.newest(LOCAL_ORG, 10)) == 3
    assert house.store.objects == before
    rounds.close()
    second.close()


def test_a_replayed_message_changes_nothing(carrier: Carrier, house: House) -> None:
    one = call()
    text = house.text(one)
    carrier.send(text, one.id)
    [delivery] = carrier.receive(10, 0, 60)
    assert house.settle(delivery.text) == [None]
    carrier.done([delivery.receipt])
    before, objects = house.ledger.newest(LOCAL_ORG, 10), dict(house.store.objects)
    for _ in range(3):
        carrier.send(text, uuid4())
    for delivery in carrier.receive(10, 0, 60):
        assert house.settle(delivery.text) == [None]
    assert (house.ledger.newest(LOCAL_ORG, 10), house.store.objects) == (before, objects)


class OneRefuses(MemoryLedger):
    """Refuses one call's row, as if the database could not take it."""

    poison: object = None

    def record(self, batch: object) -> list[Refused]:
        rows = list(batch)  # type: ignore[call-overload]
        bad = [row for row in rows if row.id == self.poison]
        super().record([row for row in rows if row.id != self.poison])
        return [Refused(row.id, "22021") for row in bad]


def test_poison_ends_among_the_dead_letters_and_comes_back_by_a_redrive(carrier: Carrier) -> None:
    ledger = OneRefuses()
    house = House(prices(), ledger)
    bad, good = call(), call()
    ledger.poison = bad.id
    carrier.send(house.text(bad), bad.id)
    carrier.send(house.text(good), good.id)
    dead = carrier.dead()
    assert dead is not None
    dead_texts: list[str] = []

    def set_aside() -> bool:
        for each in carrier.receive(10, 0, 60):
            if house.settle(each.text) == [None]:
                carrier.done([each.receipt])
            else:
                carrier.hide([each.receipt], 0)
        letters = dead.receive(10, 0, 60)
        dead.hide([each.receipt for each in letters], 0)
        dead_texts.extend(each.text for each in letters)
        return bool(dead_texts)

    eventually(set_aside, 60)
    assert house.rows([bad.id, good.id]) == ["none", "stored"]
    ledger.poison = None
    assert redrive_all(carrier, dead, house.sealer, Wanted(None, True, 0)).moved == 1
    assert carrier.receive(10, 0, 0) == []
    redriven = redrive_all(carrier, dead, house.sealer, Wanted(None, False, 0))
    assert (redriven.moved, redriven.stay) == (1, [])
    [back] = carrier.receive(10, 0, 60)
    assert house.settle(back.text) == [None]
    assert house.rows([bad.id]) == ["stored"]
    dead.close()


def test_a_redrive_sends_back_what_opens_and_names_what_does_not(house: House) -> None:
    twin, behind = MemoryCarrier(), MemoryCarrier()
    for _ in range(25):
        one = call()
        behind.send(house.text(one), one.id)
    for message, _ in list(forgeries(house).values())[1:4]:
        behind.send(message if isinstance(message, str) else message.decode(), uuid4())
    redriven = redrive_all(twin, behind, house.sealer, Wanted(10, False, 0))
    assert (redriven.moved, twin.depth(), behind.depth()) == (10, 10, 18)
    redriven = redrive_all(twin, behind, house.sealer, Wanted(None, False, 0))
    assert (redriven.moved, twin.depth(), behind.depth()) == (15, 25, 3)
    assert sorted(reason for _, reason in redriven.stay) == ["not_a_message", "not_a_message", "other_version"]
    assert len(behind.receive(10, 0, 0)) == 3, "what stays may be looked at, at once"


# who sends


async def handed_over(sender: QueueSender, *calls: Exchange) -> None:
    for one in calls:
        accepted = sender.submit(one)
        if accepted is not None:
            await accepted


def sent(carrier: Carrier, house: House, calls: list[Exchange], accept_s: float = 20.0) -> set[UUID]:
    """Submits and closes; the ids that the fallback was given."""
    fallback = MemoryAfterResponse()

    async def story() -> None:
        sender = QueueSender(Lent(carrier), house.claims, fallback, SenderLimits(accept_s=accept_s))
        await handed_over(sender, *calls)
        await sender.close()

    asyncio.run(story())
    return {each.id for each in fallback.submitted}


@pytest.mark.parametrize("fault", [QueueUnavailable(), QueueRefused(), ValueError("garbage")])
def test_a_queue_that_fails_costs_no_call(house: House, fault: Exception, said: Said) -> None:
    queue = MemoryCarrier()
    queue.fault = fault
    calls = [call() for _ in range(5)]
    assert sent(queue, house, calls) == {one.id for one in calls}
    assert CANARY not in said.text


def test_a_queue_that_hangs_keeps_a_caller_no_longer_than_it_may(house: House) -> None:
    hangs = threading.Event()

    class Hanging(MemoryCarrier):
        def send(self, text: str, request_id: UUID) -> None:
            assert hangs.wait(60)
            super().send(text, request_id)

    calls = [call() for _ in range(5)]
    began = time.monotonic()
    assert sent(Hanging(), house, calls, accept_s=0.2) == {one.id for one in calls}
    assert time.monotonic() - began < 30
    hangs.set()


def test_a_large_call_that_no_store_takes_is_settled_at_once(house: House) -> None:
    queue = MemoryCarrier()
    for stores in (House(prices(), store=house.store), house):
        stores.store.fail(StoreUnavailable)
        one = call(LARGE)
        assert sent(queue, stores, [one, call()]) == {one.id}
        stores.store.fail(None)
    assert queue.depth() == 2


def test_a_call_whose_relay_is_cut_off_while_the_queue_answers_is_not_lost(house: House) -> None:
    queue, may = MemoryCarrier(), threading.Event()

    class Slow(Lent):
        def __init__(self) -> None:
            super().__init__(queue)
            self.send = self.slowly  # type: ignore[method-assign]

        def slowly(self, text: str, request_id: UUID) -> None:
            assert may.wait(60)
            queue.send(text, request_id)

    async def story() -> None:
        sender = QueueSender(Slow(), house.claims, MemoryAfterResponse(), SenderLimits(accept_s=60))
        accepted = sender.submit(call())
        assert accepted is not None
        waiting = asyncio.ensure_future(accepted)
        await asyncio.sleep(0)
        waiting.cancel()
        may.set()
        await sender.close()

    asyncio.run(story())
    assert queue.depth() == 1


def test_body_files_are_given_back_when_the_queue_has_the_call(house: House) -> None:
    file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 - the body closes it
    file.write(CANARY.encode() * 40_000)
    one = call()
    one.request = Body(b"", file, 40_000 * len(CANARY))
    queue = MemoryCarrier()
    assert sent(queue, house, [one]) == set()
    assert file.closed
    [delivery] = queue.receive(1, 0, 60)
    assert house.settle(delivery.text) == [None]
    assert house.rows([one.id]) == ["stored"]


# rights


def test_who_may_only_send_can_read_nothing_and_a_wrong_secret_nothing_at_all(
    host_role: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = host_role.queue()
    arn = f"arn:aws:sqs:us-east-1:{queue.name.replace('/', ':')}"
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sqs:SendMessage", "Resource": arn}]}
    key, secret = host_role.user(policy)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    with contextlib.closing(SqsCarrier(queue)) as relay:
        relay.send("x", uuid4())
        for forbidden in (lambda: relay.receive(1, 0, 1), relay.depth, lambda: relay.done(["x"])):
            with pytest.raises(QueueRefused):
                forbidden()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with contextlib.closing(SqsCarrier(queue)) as stranger, pytest.raises(QueueRefused):
        stranger.send("x", uuid4())


def test_while_the_database_is_away_no_message_uses_up_its_tries(carrier: Carrier) -> None:
    """Held in hand, hidden from others; three tries would be gone in a moment otherwise."""

    class Away(MemoryLedger):
        away = True

        def record(self, batch: Any) -> list[Refused]:
            if self.away:
                raise LedgerUnavailable
            return super().record(batch)

    ledger = Away()
    house = House(prices(), ledger)
    calls = [call() for _ in range(3)]
    for one in calls:
        carrier.send(house.text(one), one.id)
    reader = reading(carrier, house)
    rounds = Rounds(reader, house.settler, ledger, RoundLimits(idle_s=0.0, backoff_s=0.01, backoff_max_s=0.02))
    for _ in range(50):
        rounds.run_once()
        reader.keep_hidden()
    ledger.away = False

    def over() -> bool:
        rounds.run_once()
        return not reader.depth().items and set(house.rows([one.id for one in calls])) == {"stored"}

    eventually(over, 60)
    dead = carrier.dead()
    assert dead is not None and dead.receive(10, 0, 0) == []
    dead.close()
    rounds.close()
    reader.close()
