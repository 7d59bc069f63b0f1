"""Ingest: what Stewards send of calls, each (organisation, id) once in its newest revision, and summed as it comes.

A batch is one transaction under the organisation's lock: rows, hourly sums, tag index and metadata keys agree at every
moment, and a batch that is sent again changes nothing. Refuses a revision that is not higher. A later revision leaves
`requested_at` as it was first told: it says which partition holds the row.
"""
# ruff: noqa: S608 - statements are put together from the constants of this file alone

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.engine import Connection

from steward.butler import distinct
from steward.butler.database import Database
from steward.butler.partitions import ensure_month
from steward.butler.reading import Received
from steward.butler.store_stewards import Bearer
from steward.butler.sums import Change, Seen, hours, latencies, tag_hours

MAX_METADATA_KEYS: Final = 500
"""Names of one organisation that are discovered; the rest stay in their rows."""

_KINDS: Final = {
    "id": "uuid",
    "revision": "bigint",
    "requested_at": "timestamptz",
    "user_id": "uuid",
    "api_key_id": "uuid",
    "proxy_key_id": "uuid",
    "provider_api_key_hash": "text",
    "provider_api_key_alias": "text",
    "provider": "text",
    "model": "text",
    "original_model": "text",
    "request_path": "text",
    "request_method": "text",
    "responded_at": "timestamptz",
    "response_time_ms": "bigint",
    "ttft_ms": "bigint",
    "status_code": "integer",
    "outcome": "text",
    "error_message": "text",
    "usage_source": "text",
    "input_tokens": "bigint",
    "output_tokens": "bigint",
    "cached_tokens": "bigint",
    "cache_creation_tokens": "bigint",
    "price_source": "text",
    "input_cost": "numeric",
    "output_cost": "numeric",
    "total_cost": "numeric",
    "model_alias_found": "boolean",
    "tags": "jsonb",
    "body_state": "text",
    "body_s3_key": "text",
    "experiment_id": "uuid",
    "experiment_arm_id": "uuid",
}
"""Every field of `Received`, in its order, and the column's type."""

_NAMES: Final = ", ".join(_KINDS)
_BATCH: Final = f"jsonb_to_recordset(CAST(:batch AS jsonb)) AS b({', '.join(f'{n} {k}' for n, k in _KINDS.items())})"
_CHANGING: Final = [name for name in _KINDS if name not in {"id", "requested_at"}]

_LOCK: Final = text("SELECT pg_advisory_xact_lock(hashtextextended('butler.requests/' || CAST(:org_id AS text), 0))")

_KNOWN: Final = text(f"""
    SELECT {_NAMES} FROM butler.requests
    WHERE org_id = :org_id AND id IN (SELECT CAST(jsonb_array_elements_text(CAST(:ids AS jsonb)) AS uuid))
""")

_INSERT: Final = text(f"""
    INSERT INTO butler.requests (org_id, steward_id, received_at, {_NAMES})
    SELECT :org_id, :steward_id, :now, {", ".join(f"b.{name}" for name in _KINDS)} FROM {_BATCH}
""")

_UPDATE: Final = text(f"""
    UPDATE butler.requests r SET steward_id = :steward_id, received_at = :now,
        {", ".join(f"{name} = b.{name}" for name in _CHANGING)}
    FROM {_BATCH}
    WHERE r.org_id = :org_id AND r.id = b.id AND r.requested_at = b.requested_at AND r.revision < b.revision
""")

_ACTIVE: Final = text("SELECT name FROM butler.metadata_keys WHERE org_id = :org_id AND is_active")

_TAGGED: Final = text("""
    SELECT id, name, value FROM butler.request_tags
    WHERE org_id = :org_id AND id IN (SELECT CAST(jsonb_array_elements_text(CAST(:ids AS jsonb)) AS uuid))
""")

_UNTAG: Final = text("""
    DELETE FROM butler.request_tags t USING
        jsonb_to_recordset(CAST(:batch AS jsonb)) AS b(name text, value text, requested_at timestamptz, id uuid)
    WHERE t.org_id = :org_id AND t.name = b.name AND t.value = b.value AND t.requested_at = b.requested_at
        AND t.id = b.id
""")

_TAG: Final = text("""
    INSERT INTO butler.request_tags (org_id, name, value, requested_at, id)
    SELECT :org_id, b.name, b.value, b.requested_at, b.id
    FROM jsonb_to_recordset(CAST(:batch AS jsonb)) AS b(name text, value text, requested_at timestamptz, id uuid)
    ON CONFLICT DO NOTHING
""")

_SUMMED: Final = ("calls", "errors", "input_tokens", "output_tokens", "cached_tokens", "cost", "unmetered", "unpriced")
_SUM_KINDS: Final = ", ".join(f"{name} {'numeric' if name == 'cost' else 'bigint'}" for name in _SUMMED)
_ADDED: Final = ", ".join(f"{name} = t.{name} + excluded.{name}" for name in _SUMMED)

_HOURS: Final = text(f"""
    INSERT INTO butler.hours AS t (org_id, hour, provider, model, api_key_id, {", ".join(_SUMMED)})
    SELECT :org_id, b.hour, b.provider, b.model, b.api_key_id, {", ".join(f"b.{name}" for name in _SUMMED)}
    FROM jsonb_to_recordset(CAST(:batch AS jsonb))
        AS b(hour timestamptz, provider text, model text, api_key_id uuid, {_SUM_KINDS})
    ON CONFLICT (org_id, hour, provider, model, api_key_id) DO UPDATE SET {_ADDED}
""")

_TAG_HOURS: Final = text(f"""
    INSERT INTO butler.tag_hours AS t (org_id, hour, name, value, {", ".join(_SUMMED)})
    SELECT :org_id, b.hour, b.name, b.value, {", ".join(f"b.{name}" for name in _SUMMED)}
    FROM jsonb_to_recordset(CAST(:batch AS jsonb)) AS b(hour timestamptz, name text, value text, {_SUM_KINDS})
    ON CONFLICT (org_id, name, hour, value) DO UPDATE SET {_ADDED}
""")

_LATENCIES: Final = text("""
    INSERT INTO butler.hour_latencies AS t (org_id, hour, provider, model, kind, bucket, calls)
    SELECT :org_id, b.hour, b.provider, b.model, b.kind, b.bucket, b.calls
    FROM jsonb_to_recordset(CAST(:batch AS jsonb))
        AS b(hour timestamptz, provider text, model text, kind text, bucket smallint, calls bigint)
    ON CONFLICT (org_id, hour, kind, provider, model, bucket) DO UPDATE SET calls = t.calls + excluded.calls
""")

_REGISTERS: Final = text("""
    SELECT name, registers FROM butler.metadata_keys
    WHERE org_id = :org_id AND name IN (SELECT jsonb_array_elements_text(CAST(:names AS jsonb)))
""")
"""Of the batch's names alone: all of an organisation's are half a MiB."""

_NAMES_KNOWN: Final = text("SELECT count(*) FROM butler.metadata_keys WHERE org_id = :org_id")

_DISCOVERED: Final = text("""
    INSERT INTO butler.metadata_keys AS k
        (org_id, name, calls, distinct_values, registers, first_seen_at, last_seen_at)
    SELECT :org_id, b.name, b.calls, b.distinct_values, decode(b.registers, 'hex'), b.first_seen_at, b.last_seen_at
    FROM jsonb_to_recordset(CAST(:batch AS jsonb)) AS b(name text, calls bigint, distinct_values bigint,
        registers text, first_seen_at timestamptz, last_seen_at timestamptz)
    ON CONFLICT (org_id, name) DO UPDATE SET
        calls = k.calls + excluded.calls, distinct_values = excluded.distinct_values, registers = excluded.registers,
        first_seen_at = least(k.first_seen_at, excluded.first_seen_at),
        last_seen_at = greatest(k.last_seen_at, excluded.last_seen_at)
""")

_NOTED: Final = text("""
    UPDATE butler.steward_tokens SET
        last_ingest_at = greatest(last_ingest_at, :now), records = records + :records,
        newest_record_at = greatest(newest_record_at, :newest)
    WHERE org_id = :org_id AND id = :steward_id
""")


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of a batch: new rows, rows that went to a higher revision, and those that changed nothing."""

    added: int
    changed: int
    ignored: int


def lock_records(connection: Connection, org_id: UUID) -> None:
    """To the end of the transaction, nobody else changes this organisation's records and sums."""
    connection.execute(_LOCK, {"org_id": org_id})


class Records:
    """The table `requests` and what is summed of it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def ingest(self, bearer: Bearer, batch: Sequence[Received], now: datetime) -> Applied:
        """All of the batch or, when the database refuses it, nothing. Raises RowsRefused, LedgerUnavailable."""
        newest = _newest_each(batch)
        for month in sorted({(each.requested_at.year, each.requested_at.month) for each in newest}):
            ensure_month(self._database, month, now)
        with self._database.change() as connection:
            lock_records(connection, bearer.org_id)
            changes = _changes(connection, bearer.org_id, newest)
            fresh = [each.new for each in changes if each.old is None]
            facts = {"org_id": bearer.org_id, "steward_id": bearer.steward_id, "now": now}
            _run(connection, _INSERT, facts, fresh)
            _run(connection, _UPDATE, facts, [each.new for each in changes if each.old is not None])
            _sum(connection, bearer.org_id, changes)
            _index(connection, bearer.org_id, changes)
            _discover(connection, bearer.org_id, fresh)
            # A clock that is ahead would hide for ever how far behind the Steward is.
            newest_at = max((min(each.requested_at, now) for each in newest), default=None)
            connection.execute(_NOTED, {**facts, "records": len(fresh), "newest": newest_at})
        return Applied(len(fresh), len(changes) - len(fresh), len(batch) - len(changes))


def _newest_each(batch: Sequence[Received]) -> list[Received]:
    """One record an id: the highest revision, the first of equals."""
    kept: dict[UUID, Received] = {}
    for each in batch:
        if each.id not in kept or kept[each.id].revision < each.revision:
            kept[each.id] = each
    return list(kept.values())


def _changes(connection: Connection, org_id: UUID, batch: Sequence[Received]) -> list[Change]:
    """What this batch really changes: rows unknown so far, and known ones of a lower revision."""
    ids = orjson.dumps([each.id for each in batch]).decode()
    known = {row.id: Received(**row._mapping) for row in connection.execute(_KNOWN, {"org_id": org_id, "ids": ids})}
    changes = []
    for each in batch:
        old = known.get(each.id)
        if old is None:
            changes.append(Change(None, each))
        elif old.revision < each.revision:
            changes.append(Change(old, replace(each, requested_at=old.requested_at)))
    return changes


def _sum(connection: Connection, org_id: UUID, changes: Sequence[Change]) -> None:
    facts = {"org_id": org_id}
    _run(connection, _HOURS, facts, hours(changes))
    _run(connection, _LATENCIES, facts, latencies(changes))


def _index(connection: Connection, org_id: UUID, changes: Sequence[Change]) -> None:
    """The tags of active keys, and those that stand in the index already, of rows that change."""
    facts = {"org_id": org_id}
    active = frozenset(connection.execute(_ACTIVE, facts).scalars())
    ids = orjson.dumps([each.new.id for each in changes if each.old is not None]).decode()
    before: dict[UUID, dict[str, str]] = defaultdict(dict)
    for row in connection.execute(_TAGGED, {**facts, "ids": ids}) if ids != "[]" else ():
        before[row.id][row.name] = row.value
    seen = [Seen(each, before[each.new.id], _indexed(each.new.tags, active, before[each.new.id])) for each in changes]
    _run(connection, _UNTAG, facts, _rows(seen, gone=True))
    _run(connection, _TAG, facts, _rows(seen, gone=False))
    _run(connection, _TAG_HOURS, facts, tag_hours(seen))


def _indexed(tags: Mapping[str, str], active: frozenset[str], before: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in tags.items() if name in active or name in before}


def _rows(seen: Iterable[Seen], gone: bool) -> list[dict[str, object]]:
    found = []
    for each in seen:
        these, others = (each.before, each.after) if gone else (each.after, each.before)
        at = each.change.new.requested_at
        for name, value in these.items():
            if others.get(name) != value:
                found.append({"name": name, "value": value, "requested_at": at, "id": each.change.new.id})
    return found


def _discover(connection: Connection, org_id: UUID, fresh: Sequence[Received]) -> None:
    """Names of tags that were seen, how often, when, and how many values about."""
    calls = Counter(name for each in fresh for name in each.tags)
    if not calls:
        return
    facts = {"org_id": org_id, "names": orjson.dumps(list(calls)).decode()}
    known = {row.name: bytes(row.registers) for row in connection.execute(_REGISTERS, facts)}
    unknown = [name for name in calls if name not in known]
    if unknown:
        room = MAX_METADATA_KEYS - connection.execute(_NAMES_KNOWN, {"org_id": org_id}).scalar_one()
        unknown = unknown[: max(room, 0)]
    rows: list[dict[str, Any]] = []
    for name in sorted([name for name in calls if name in known] + unknown):
        times = [each.requested_at for each in fresh if name in each.tags]
        registers = distinct.added(
            known.get(name, distinct.EMPTY), {each.tags[name] for each in fresh if name in each.tags}
        )
        rows.append(
            {
                "name": name,
                "calls": calls[name],
                "distinct_values": distinct.estimate(registers),
                "registers": registers.hex(),
                "first_seen_at": min(times),
                "last_seen_at": max(times),
            }
        )
    _run(connection, _DISCOVERED, {"org_id": org_id}, rows)


def _run(connection: Connection, statement: Any, facts: Mapping[str, object], batch: Sequence[object]) -> None:
    """The statement over the batch as one JSON parameter; nothing for none."""
    if batch:
        connection.execute(statement, {**facts, "batch": orjson.dumps(batch, default=_plain).decode()})


def _plain(value: object) -> object:
    """Money goes as text, which the server reads exactly."""
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError
