"""All stores work together over one database: a first morning with Butler, told by its services alone."""

from __future__ import annotations

import importlib
import pkgutil
import re
from datetime import timedelta
from decimal import Decimal
from uuid import uuid4

import orjson
from sqlalchemy import TextClause

import steward.butler
from steward.butler.reading import records
from steward.butler.store_audit import AuditFilter
from steward.butler.views import Filter, Span
from tests.servers.butler import ButlerBench


def test_a_first_morning(butler: ButlerBench) -> None:
    acme, now = butler.tenant("acme"), butler.clock()
    made = butler.services.keys.create(acme.owner, "checkout")
    sent = {
        "id": str(uuid4()),
        "revision": 1,
        "majordomo_api_key_id": str(made.id),
        "provider": "openai",
        "model": "gpt-5",
        "request_path": "/v1/chat/completions",
        "request_method": "POST",
        "requested_at": now.isoformat(),
        "responded_at": now.isoformat(),
        "response_time_ms": 1200,
        "ttft_ms": 300,
        "status_code": 200,
        "outcome": "complete",
        "usage_source": "provider",
        "input_tokens": 100,
        "output_tokens": 20,
        "price_source": "genai-prices 1.0",
        "total_cost": 0.0125,
        "model_alias_found": True,
        "raw_metadata": {"Team": "growth"},
        "body_state": "stored",
    }
    batch = records(orjson.dumps({"records": [sent]}), acme.owner.org_id)
    applied = butler.services.records.ingest(acme.bearer, batch, now)
    assert (applied.added, applied.changed, applied.ignored) == (1, 0, 0)

    hour = now.replace(minute=0)
    span = Span(hour - timedelta(hours=23), hour + timedelta(hours=1), timedelta(hours=1))
    totals = butler.services.overview.totals(acme.owner.org_id, span)
    assert (totals.sums.calls, totals.sums.cost, totals.sums.input_tokens) == (1, Decimal("0.0125"), 100)
    assert totals.whole.p50 is not None and 1140 <= totals.whole.p50 <= 1260

    which = Filter(span.since, span.until, model="gpt-5", api_key_id=made.id)
    page = butler.services.explorer.page(acme.owner.org_id, which)
    assert [row.tags for row in page.rows] == [{"Team": "growth"}]
    call = butler.services.explorer.get(acme.owner.org_id, page.rows[0].id)
    assert (call.body_state, call.total_cost) == ("stored", Decimal("0.0125"))

    butler.services.metadata_keys.activate(acme.owner, "Team", now)
    while butler.services.metadata_keys.backfill():
        pass
    tagged = Filter(span.since, span.until, tags=(("Team", "growth"),))
    assert butler.services.explorer.page(acme.owner.org_id, tagged).rows == page.rows
    (share,) = butler.services.overview.tag_breakdown(acme.owner.org_id, span, "Team")
    assert (share.group, share.sums.calls) == ("growth", 1)

    (use,) = butler.services.keys.all(acme.owner.org_id, now)
    assert (use.calls, use.last_used_at, use.cost) == (1, now, Decimal("0.0125"))
    actions = [entry.action for entry in butler.services.audit.page(acme.owner.org_id, AuditFilter())]
    assert actions == ["metadata_key.activated", "api_key.created", "steward.created", "organisation.created"]


TENANTLESS = {
    "store_stewards._BEARER": "finds out whose token it is",
    "store_sessions._FIND": "finds out whose session it is",
    "store_people._INVITED": "finds out whose invitation it is",
    "store_metadata_keys._UNINDEXED": "upkeep: what waits in any organisation, done under its own id",
    "store_managed._PENDING": "the managed Steward serves every organisation that was handed to it",
    "store_managed._CLAIM": "an assignment is of one organisation, and its bearer of all",
    "store_managed._KNOWN": "the same",
    "store_people._OF_USER": "a person's organisations",
    "store_sessions._END_OTHERS": "a person's sessions, wherever",
    "store_sessions._EXPIRED": "what has ended, of anyone",
    "store_sessions._SESSION": "the part that others end with the session or the organisation",
    "store_explorer._TAGGED": "a part; what it is joined to names the organisation",
}
"""Statements on tenants' tables without the organisation, and why."""


def test_every_statement_on_a_tenants_table_names_the_organisation(butler: ButlerBench) -> None:
    tables = {
        str(name)
        for (name,) in butler.postgres.run(
            "SELECT table_name FROM information_schema.columns WHERE table_schema = 'butler' AND column_name = 'org_id'"
        )
    }
    assert len(tables) > 14
    statements = {}
    for store in pkgutil.iter_modules(steward.butler.__path__):
        if store.name.startswith("store_"):
            module = importlib.import_module(f"steward.butler.{store.name}")
            found = {name: value for name, value in vars(module).items() if isinstance(value, TextClause | str)}
            statements |= {f"{store.name}.{name}": str(value) for name, value in found.items()}
    without = {
        name
        for name, statement in statements.items()
        if set(re.findall(r"butler\.([a-z_]+)", statement)) & tables
        and re.search(r"\b(?:SELECT|INSERT|UPDATE|DELETE)\b", statement)
        and ":org_id" not in statement
    }
    assert without == set(TENANTLESS)
    assert len(statements) > 90
