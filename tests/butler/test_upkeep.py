"""Upkeep: months ahead, what ended is removed, tags follow; and a database that is away does not end it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from steward.butler.upkeep import Upkeep, run_once
from tests.butler.calls import received
from tests.servers.butler import ButlerBench
from tests.servers.waiting import eventually


def months(butler: ButlerBench) -> list[object]:
    found = butler.postgres.run(
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
        "WHERE i.inhparent = 'butler.requests'::regclass ORDER BY 1"
    )
    return [name for (name,) in found]


def test_the_next_month_is_there_a_week_ahead(butler: ButlerBench) -> None:
    assert run_once(butler.services) is False
    assert months(butler) == ["requests_2026_11", "requests_default"]
    butler.clock.at = datetime(2026, 11, 25, tzinfo=UTC)
    run_once(butler.services)
    assert months(butler) == ["requests_2026_11", "requests_2026_12", "requests_default"]


def test_it_says_whether_more_waits(butler: ButlerBench) -> None:
    acme = butler.tenant("acme")
    batch = [received(requested_at=butler.clock() - timedelta(hours=9 * n), tags={"Team": "a"}) for n in range(3)]
    butler.services.records.ingest(acme.bearer, batch, butler.clock())
    butler.services.metadata_keys.activate(acme.owner, "Team", butler.clock())
    assert [run_once(butler.services) for _ in range(4)] == [True, True, True, False]


def test_it_runs_until_it_is_told_to_stop(butler: ButlerBench) -> None:
    upkeep = Upkeep(butler.services)
    upkeep.start()
    eventually(lambda: "requests_2026_11" in months(butler))
    upkeep.stop()
    assert not upkeep._thread.is_alive()
