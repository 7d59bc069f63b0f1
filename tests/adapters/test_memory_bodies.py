"""The store in memory behaves like one that is away, or says no, when it is told to."""

from __future__ import annotations

import pytest

from steward.adapters.memory_bodies import MemoryBodyStore
from steward.errors import StoreRefused, StoreUnavailable
from steward.ports import Put, PutResult

PUT = Put("a/b", b"body", "00", 4)


@pytest.mark.parametrize(("fault", "refused"), [(StoreUnavailable, False), (StoreRefused, True)])
def test_it_fails_as_told_and_recovers(fault: type[StoreRefused | StoreUnavailable], refused: bool) -> None:
    store = MemoryBodyStore()
    store.fail(fault)
    assert store.put_many([PUT]) == [PutResult(None, refused, fault.code)]
    for call in (store.get, store.delete):
        with pytest.raises(fault):
            call("a/b")
    assert store.objects == {}
    store.fail(None)
    [result] = store.put_many([PUT])
    assert result.ref is not None
    assert store.objects == {"a/b": b"body"}
