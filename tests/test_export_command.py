"""`steward export backfill`, over an outbox in memory."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from steward.adapters.memory import MemoryDirectory, MemoryLedger
from steward.adapters.memory_outbox import MemoryOutbox
from steward.errors import LedgerFault
from steward.exchange import LOCAL_ORG
from steward.export_command import backfill
from steward.ports import Identity, Lane
from steward.words import Secret
from tests.contracts.records import a_record, new_id

NOW = datetime.now(UTC)


def test_old_calls_go_out_once_they_are_asked_for() -> None:
    ledger, directory = MemoryLedger(), MemoryDirectory()
    outbox = MemoryOutbox(ledger, directory)
    old = [a_record(id=new_id(NOW - timedelta(days=days)), org_id=LOCAL_ORG) for days in (1, 2, 3)]
    ledger.record(old)
    mine = directory.register(
        Identity(uuid4(), uuid4(), "Acme"), "https://butler.example", Secret("mdm_st_" + "t" * 32)
    )
    assert outbox.keep_local(9, managed=False) == 3
    out = io.StringIO()
    assert backfill(outbox, NOW - timedelta(days=2, hours=1), True, out) == 0
    assert json.loads(out.getvalue())["rows"] == 2
    there = Lane(mine.id, mine.org_id, local=True)
    assert {row.record.id for row in outbox.claim(there, 9, 1.0)} == {record.id for record in old[:2]}
    out = io.StringIO()
    assert backfill(outbox, NOW - timedelta(days=9), False, out) == 0
    assert out.getvalue().startswith("1 calls since ")


def test_without_exactly_one_registration_it_is_refused() -> None:
    outbox = MemoryOutbox(MemoryLedger(), MemoryDirectory())
    with pytest.raises(LedgerFault, match="exactly one"):
        backfill(outbox, NOW, False, io.StringIO())
