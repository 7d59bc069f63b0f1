"""A body store in memory: the twin of the real ones, for tests and for trying things out.

It keeps nothing beyond the process and must not serve where bodies matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime

from steward.body_object import key_facts, place
from steward.errors import BodyNotFound, BodyTooLarge, StoreRefused, StoreUnavailable
from steward.exchange import BodyRef
from steward.ports import Put, PutResult, StoredObject


class MemoryBodyStore:
    """Body objects in a dictionary. `fail` makes it behave like a store that is away or says no."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self._stored_at: dict[str, datetime] = {}
        self._fault: type[StoreRefused | StoreUnavailable] | None = None

    def fail(self, fault: type[StoreRefused | StoreUnavailable] | None) -> None:
        """From now on every call meets this fault; None ends it."""
        self._fault = fault

    def put_many(self, puts: Sequence[Put]) -> list[PutResult]:
        return [self._put(put) for put in puts]

    def get(self, key: str, most_bytes: int | None = None) -> bytes:
        place("", key)
        self._meet_fault()
        try:
            octets = self.objects[key]
        except KeyError:
            raise BodyNotFound from None
        if most_bytes is not None and len(octets) > most_bytes:
            raise BodyTooLarge
        return octets

    def delete(self, key: str) -> None:
        place("", key)
        self._meet_fault()
        self.objects.pop(key, None)

    def listed(self, since: date) -> Iterator[StoredObject]:
        self._meet_fault()
        for key, octets in list(self.objects.items()):
            facts = key_facts(key)
            if facts is not None and facts.day >= since:
                yield StoredObject(key, len(octets), self._stored_at[key])

    def url(self, key: str) -> str:
        return f"memory:///{place('', key)}"

    def close(self) -> None:
        """There is nothing to give back."""

    def _meet_fault(self) -> None:
        if self._fault is not None:
            raise self._fault

    def _put(self, put: Put) -> PutResult:
        try:
            key = place("", put.key)
        except ValueError:
            return PutResult(None, refused=True, code="InvalidKey")
        if self._fault is not None:
            return PutResult(None, issubclass(self._fault, StoreRefused), self._fault.code)
        if isinstance(put.source, bytes):
            octets = put.source
        else:
            put.source.seek(0)
            octets = put.source.read()
        self.objects[key] = octets
        self._stored_at[key] = datetime.now(UTC)
        return PutResult(BodyRef(put.key, self.url(key), put.sha256, put.size_bytes))
