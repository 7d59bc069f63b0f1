"""Queues with both ends, for tests of what crosses them: who sends, who reads, and what stands behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from steward.adapters.memory import MemoryLedger
from steward.adapters.memory_bodies import MemoryBodyStore
from steward.claims import Claims
from steward.consuming import Around, Consumer
from steward.exchange import Body, Exchange
from steward.metrics import CallMetrics
from steward.ports import Ledger, Stores
from steward.price import PriceBook
from steward.seal import Keyring
from steward.sealed_message import MessageSealer
from steward.settle import Settler
from steward.stores import OneStore
from steward.words import Secret
from tests.exchanges import exchange, route

KEYRING = Keyring(Secret(bytes(range(32))))
QUEUE = "sqs:us-east-1:123456789012/calls"
CANARY = "CANARY-4e55a9e"
ANSWER = {"model": "gpt-4o-mini", "usage": {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}}
SMALL, LARGE = 10, 300_000
MOST_TEXT = 192 << 10


def call(size: int = SMALL, request_id: UUID | None = None) -> Exchange:
    """One that ended well; what was asked begins with the canary."""
    asked = (CANARY + "q" * size).encode()
    one = exchange(route("/v1/chat/completions"), ANSWER, asked=asked)
    one.id = request_id or uuid4()
    one.request.size_bytes, one.response.size_bytes = len(asked), len(one.response.data)
    return one


def copied(one: Exchange) -> Exchange:
    """The same call once more, for who takes over its files."""
    again = call(request_id=one.id)
    again.request = Body(one.request.data, None, one.request.size_bytes)
    return again


@dataclass
class House:
    """All that stands behind a queue, in memory unless told otherwise."""

    prices: PriceBook
    ledger: Ledger = field(default_factory=MemoryLedger)
    store: MemoryBodyStore = field(default_factory=MemoryBodyStore)
    stores: Stores | None = None
    queue: str = QUEUE
    keyring: Keyring = KEYRING
    refused: list[str] = field(default_factory=list)
    exports: list[float] = field(default_factory=list)
    export: Callable[[float], None] | None = None
    metrics: CallMetrics | None = None

    def __post_init__(self) -> None:
        self.stores = self.stores or OneStore(self.store)
        self.sealer = MessageSealer(self.keyring, self.queue)
        self.claims = Claims(self.sealer, self.stores, MOST_TEXT)
        self.settler = Settler(self.ledger, self.stores, lambda: self.prices, metrics=self.metrics)
        around = Around(export=self.export or self.exports.append, refused=self.refused.append)
        self.consumer = Consumer(self.claims, self.settler, self.ledger.ready, around)

    def text(self, one: Exchange) -> str:
        """Its message; its object is stored where it needs one."""
        letter = self.claims.message(one)
        try:
            text = letter.text()
        finally:
            letter.close()
        assert text is not None
        return text

    def settle(self, *texts: str | bytes) -> list[str | None]:
        """What the consumer says of each, in order."""
        said = self.consumer.settle([(str(number), text) for number, text in enumerate(texts)])
        return [said[str(number)] for number in range(len(texts))]

    def rows(self, ids: Sequence[UUID]) -> list[str]:
        """Where the body of each is, by its row."""
        found = [self.ledger.get(UUID(int=0), each) for each in ids]
        return [str(row.record.body_state) if row is not None else "none" for row in found]

    def bodies(self) -> list[str]:
        """Keys of the body objects, without those on their way."""
        return sorted(key for key in self.store.objects if not key.startswith("queued/"))
