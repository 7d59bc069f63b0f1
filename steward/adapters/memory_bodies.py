"""A body store in memory: the twin of the real ones, for tests and for trying things out.

It keeps nothing beyond the process and must not serve where bodies matter.
"""

from __future__ import annotations

from collections.abc import Sequence

from steward.body_object import place
from steward.errors import BodyNotFound, StoreRefused, StoreUnavailable
from steward.exchange import BodyRef
from steward.ports import Put, PutResult


class MemoryBodyStore:
    """Body objects in a dictionary. `fail` makes it behave like a store that is away or says no."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self._fault: type[StoreRefused | StoreUnavailable] | None = None

    def fail(self, fault: type[StoreRefused | StoreUnavailable] | None) -> None:
        """From now on every call meets this fault; None ends it."""
        self._fault = fault

    def put_many(self, puts: Sequence[Put]) -> list[PutResult]:
        return [self._put(put) for put in puts]

    def get(self, key: str) -> bytes:
        place("", key)
        self._meet_fault()
        try:
            return self.objects[key]
        except KeyError:
            raise BodyNotFound from None

    def delete(self, key: str) -> None:
        place("", key)
        self._meet_fault()
        self.objects.pop(key, None)

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
        return PutResult(BodyRef(put.key, f"memory:///{key}", put.sha256, put.size_bytes))
