"""What takes calls over once they are relayed, as the settings say it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

from sqlalchemy import text

from steward.exchange import LOCAL_ORG, Intent
from steward.wiring.relay import build
from tests.exchanges import exchange, route
from tests.servers.postgres import Database
from tests.servers.waiting import eventually_async
from tests.services import becomes, run, settings


def test_who_relays_has_his_spool_written_by_the_turns_of_his_loop(tmp_path: Path) -> None:
    """Services that only look (no loop runs) write each record by itself."""
    found = settings(
        **{"AFTER_RESPONSE": "spool", "SPOOL_DIR": str(tmp_path / "spool"), "SPOOL_MAX_BYTES": "64MiB"},
        **{"POSTGRES_HOST": "127.0.0.1", "POSTGRES_PORT": "1"},
    )
    call = replace(exchange(route("/v1/chat/completions"), {"a": 1}), id=uuid4())
    intent = Intent(call.id, call.caller, call.route, call.requested_at, call.method)

    async def story() -> bool:
        services = build(found)
        assert services.after_response.intend(intent) is None
        held = services.after_response.submit(call) is not None
        await services.stop()
        return held

    assert asyncio.run(story())


def test_the_budget_of_the_setting_is_what_a_caller_waits(postgres: Database) -> None:
    """While someone holds the table, the last piece waits no longer than that."""
    services = build(settings(postgres, AFTER_RESPONSE_BUDGET="50ms"))

    async def story() -> None:
        await becomes(services, "ready")
        with postgres.engine.connect() as other:
            other.execute(text("LOCK TABLE llm_requests IN ACCESS EXCLUSIVE MODE"))
            call = replace(exchange(route("/v1/chat/completions"), {}), id=uuid4())
            services.after_response.intend(
                Intent(call.id, call.caller, call.route, call.requested_at, call.method),
            )
            waits = services.after_response.submit(call)
            assert waits is not None
            await waits
            assert postgres.run("SELECT count(*) FROM pg_locks WHERE NOT granted") != [(0,)]
            other.rollback()
        await eventually_async(lambda: services.ledger.get(LOCAL_ORG, call.id), 20)

    run(services, story)
