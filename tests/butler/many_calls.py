"""Any number of calls of four months, made by the server itself; what it does for a page of them.

Refuses nothing: the tests ask it for a million, `make bench` for ten.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.engine import Connection, Engine

from steward.adapters.postgres_connection import patient
from steward.butler.partitions import ensure_month
from steward.butler.services import Services
from steward.butler.store_explorer import statement_of
from steward.butler.views import Cursor, Filter

ORG, OTHER = UUID(int=0xA), UUID(int=0xB)
SINCE = datetime(2026, 11, 1, tzinfo=UTC)
UNTIL = datetime(2026, 12, 1, tzinfo=UTC)
MONTHS = (8, 9, 10, 11, 12)
SPAN_S = 10_000_000
"""From the first call to the last: 115 days."""

_MAKE = """
    CREATE TABLE butler.requests_{name}
        (LIKE butler.requests INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED)
"""
_FILL = """
    INSERT INTO butler.requests_{name} (org_id, id, requested_at, revision, steward_id, received_at, api_key_id,
        provider, model, request_path, request_method, response_time_ms, status_code, outcome, error_message,
        usage_source, input_tokens, output_tokens, total_cost, model_alias_found, tags, body_state)
    SELECT CASE WHEN mod(n, 10) = 0 THEN CAST(:other AS uuid) ELSE CAST(:org AS uuid) END,
        CAST(lpad(to_hex(n), 32, '0') AS uuid), at, 1,
        CAST(:org AS uuid), at, CAST(lpad(to_hex(mod(n, 1000)), 32, '0') AS uuid),
        CASE WHEN mod(n, 100) = 7 THEN 'gemini' ELSE 'openai' END, 'model-' || mod(n, 500), '/v1/chat/completions',
        'POST', mod(n, 5000), CASE WHEN mod(n, 200) = 3 THEN 429 ELSE 200 END,
        CASE WHEN mod(n, 1000) = 9 THEN 'client_cancelled' ELSE 'complete' END,
        CASE WHEN mod(n, 200) = 3 THEN 'rate_limited' END, 'provider', 100, 10, 0.01, true,
        jsonb_build_object('Team', 'team-' || mod(n, 300)), 'stored'
    FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS n
    CROSS JOIN LATERAL (SELECT CAST('2026-08-20' AS timestamptz) + n * CAST(:step AS interval) AS at) AS clock
    WHERE at >= :low AND at < :high
"""
_ATTACH = "ALTER TABLE butler.requests ATTACH PARTITION butler.requests_{name} FOR VALUES FROM ('{low}') TO ('{high}')"
_TAGS = """
    INSERT INTO butler.request_tags (org_id, name, value, requested_at, id)
    SELECT org_id, 'Team', tags ->> 'Team', requested_at, id FROM butler.requests
    WHERE requested_at >= '2026-10-25' AND requested_at < '2026-11-30'
"""
_BEGAN = datetime(2026, 8, 20, tzinfo=UTC)


def fill(engine: Engine, services: Services, rows: int, tell: Callable[[str], None] = lambda said: None) -> None:
    """Puts `rows` calls into a database that has none, at even distances; one in ten is another organisation's."""
    for name, low, high in _months():  # filled before they have indexes: a third of the time
        first, last = (round((at - _BEGAN).total_seconds() * rows / SPAN_S) for at in (low, high))
        facts = {"first": max(1, first - 1), "last": min(rows, last + 1), "step": f"{SPAN_S / rows:.6f} seconds"}
        with _unhurried(engine) as connection:
            connection.execute(text(_MAKE.format(name=name)))
            made = connection.execute(
                text(_FILL.format(name=name)), {**facts, "org": ORG, "other": OTHER, "low": low, "high": high}
            )
            connection.execute(text(_ATTACH.format(name=name, low=low.isoformat(), high=high.isoformat())))
            tell(f"{name.replace('_', '-')}: {made.rowcount:,} calls, indexed")
    for month in MONTHS:
        ensure_month(services.database, (2026, month), UNTIL)
    with _unhurried(engine) as connection:
        tell(f"tags: {connection.execute(text(_TAGS)).rowcount:,}, indexed")
    with engine.connect() as connection, patient(connection):
        alone = connection.execution_options(isolation_level="AUTOCOMMIT")
        alone.execute(text("SET statement_timeout = 0"))
        for table in ("requests", "request_tags"):
            alone.execute(text(f"VACUUM ANALYZE butler.{table}"))
        connection.invalidate()  # its time without end is no other's
    tell("vacuumed and analysed")


@contextmanager
def _unhurried(engine: Engine) -> Iterator[Connection]:
    """A transaction that may take hours."""
    with engine.begin() as connection, patient(connection):
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        yield connection


def _months() -> Iterator[tuple[str, datetime, datetime]]:
    for month in MONTHS:
        low = datetime(2026, month, 1, tzinfo=UTC)
        yield f"2026_{month:02}", low, datetime(2026 + month // 12, month % 12 + 1, 1, tzinfo=UTC)


def explained(engine: Engine, which: Filter, cursor: Cursor | None, limit: int) -> str:
    """How PostgreSQL went about a page."""
    statement, facts = statement_of(ORG, which, cursor, limit)
    with engine.connect() as connection:
        rows = connection.execute(
            text(f"EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF, SUMMARY OFF) {statement}"), facts
        )
        return "\n".join(str(row[0]) for row in rows)


def rows_read(plan: str) -> int:
    """Rows that scans of tables and indexes gave, and those that a filter threw away after reading them."""
    read = 0
    for line in plan.splitlines():
        scan = re.search(r"(?:Index|Seq|Bitmap Heap)[\w ]* Scan.*actual (?:time=\S+ )?rows=([0-9.]+) loops=(\d+)", line)
        if scan:
            read += round(float(scan[1]) * int(scan[2]))
        thrown = re.search(r"Rows Removed by Filter: (\d+)", line)
        read += int(thrown[1]) if thrown else 0
    return read


def pages_read(plan: str) -> int:
    """Pages of 8 KiB that the plan's execution touched: also those of an index that it walked to find its beginning."""
    touched = re.search(r"Buffers: shared((?: \w+=\d+)+)", plan)
    assert touched is not None, plan
    found = dict(each.split("=") for each in touched[1].split())
    return int(found.get("hit", 0)) + int(found.get("read", 0))
