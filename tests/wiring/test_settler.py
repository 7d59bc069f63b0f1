"""A settling process put together: what relays handed over is there, for one of them at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from uuid import uuid4

from steward import metrics
from steward.adapters.memory import MemoryLedger
from steward.adapters.memory_bodies import MemoryBodyStore
from steward.exchange import BodyState, Intent
from steward.metrics import CallMetrics
from steward.stores import OneStore
from steward.wiring.prices import price_book
from steward.wiring.relay import build
from steward.wiring.settler import build_settler, open_settler
from tests.exchanges import exchange, route
from tests.services import run, settings


def test_with_the_spool_a_relay_needs_no_database_and_no_bucket_to_hand_a_call_over(tmp_path: Path) -> None:
    """It opens neither; what it hands over is there for the process that settles."""
    found = settings(
        **{"AFTER_RESPONSE": "spool", "SPOOL_DIR": str(tmp_path / "spool"), "BODY_STORE_URL": "s3://bucket/prefix"},
        **{"POSTGRES_HOST": "127.0.0.1", "POSTGRES_PORT": "1", "SPOOL_MAX_BYTES": "64MiB", "WORKERS": "2"},
    )
    services = build(found)
    call = replace(exchange(route("/v1/chat/completions"), {"a": 1}), id=uuid4())

    async def story() -> None:
        services.after_response.intend(Intent(call.id, call.caller, call.route, call.requested_at, call.method))
        accepted = services.after_response.submit(call)
        if accepted is not None:
            await accepted

    assert services.prices is None
    run(services, story)
    settler = build_settler(found)
    assert settler.acquire()
    assert settler.rounds.depth().items == 1
    other = build_settler(found)
    assert not other.acquire()
    settler.close()
    assert other.acquire()
    other.close()


def test_whoever_settles_keeps_bodies_as_the_setting_says_and_prices_by_his_book() -> None:
    """Without a process of its own: what calls are handed to is the same wherever they come from."""
    answer = {"model": "gpt-4o-mini", "usage": {"prompt_tokens": 10, "completion_tokens": 2}}
    for capture, state in (("full", BodyState.STORED), ("metadata", BodyState.OFF)):
        given, ledger, store = settings(CAPTURE=capture), MemoryLedger(), MemoryBodyStore()
        board = metrics.prepare(None)
        book = price_book(given)
        settler = open_settler(given, ledger, OneStore(store), lambda book=book: book, CallMetrics(board))
        call = replace(exchange(route("/v1/chat/completions"), answer), id=uuid4())
        (settled,) = settler.settle([call])
        assert settled.record.body_state is state
        assert bool(store.objects) is (state is BodyState.STORED)
        row = ledger.get(call.caller.org_id, call.id)
        assert row is not None and row.record.total_cost is not None
        board.close()
