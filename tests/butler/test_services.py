"""All stores work together over one database: a first morning with Butler, told by its services alone."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from uuid import uuid4

import orjson

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
