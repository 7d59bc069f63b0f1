"""`steward export backfill` and `resend`, over an outbox in memory."""

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
from steward.export_command import backfill, resend
from steward.ports import Identity, Lane, SetAside
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


def test_what_was_set_aside_is_tried_again() -> None:
    ledger, directory = MemoryLedger(), MemoryDirectory()
    outbox = MemoryOutbox(ledger, directory)
    mine = directory.register(
        Identity(uuid4(), uuid4(), "Acme"), "https://butler.example", Secret("mdm_st_" + "t" * 32)
    )
    made = [a_record(id=new_id(NOW), org_id=mine.org_id, registration_id=mine.id) for _ in range(2)]
    ledger.record(made)
    there = Lane(mine.id, mine.org_id)
    outbox.set_aside(there, [SetAside(record.id, 1, "butler_rejected") for record in made])
    out = io.StringIO()
    assert resend(outbox, NOW - timedelta(hours=1), True, out) == 0
    assert json.loads(out.getvalue())["rows"] == 2
    assert outbox.waiting(there, 9).rows == 2
