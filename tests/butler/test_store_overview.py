"""The overview's figures: the same from hourly sums as from calls, by group and by tag, and errors by code."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from uuid import UUID

import pytest

from steward.butler.store_overview import REST
from steward.butler.views import Measure, Span
from tests.butler.calls import received
from tests.servers.butler import ButlerBench, Tenant

HOUR = timedelta(hours=1)


@pytest.fixture
def acme(butler: ButlerBench) -> Tenant:
    acme = butler.tenant("acme")
    batch = []
    for number in range(60):
        batch.append(
            received(
                requested_at=butler.clock() - timedelta(minutes=3 * number + 1),
                model="a" if number % 3 else "b",
                api_key_id=UUID(int=7) if number % 2 else None,
                response_time_ms=100 * (number + 1),
                status_code=503 if number % 10 == 0 else 200,
                error_message="rate_limited" if number == 5 else None,
                total_cost=None if number == 8 else Decimal("0.5"),
                input_tokens=None if number == 9 else 10,
                tags={"Team": f"t{number % 2}"},
            )
        )
    butler.services.records.ingest(acme.bearer, batch, butler.clock())
    return acme


def spans(butler: ButlerBench) -> tuple[Span, Span]:
    """Four hours by the hour, from sums; and by ten minutes, from calls."""
    until = butler.clock()
    hourly = Span(until - 4 * HOUR, until, HOUR)
    return hourly, replace(hourly, step=timedelta(minutes=10))


def test_sums_and_calls_tell_the_same(butler: ButlerBench, acme: Tenant) -> None:
    overview, org_id = butler.services.overview, acme.bearer.org_id
    hourly, fine = spans(butler)
    totals = overview.totals(org_id, hourly)
    assert totals == overview.totals(org_id, fine)
    assert (totals.sums.calls, totals.sums.errors, totals.sums.unpriced, totals.sums.unmetered) == (60, 7, 1, 1)
    assert (totals.sums.cost, totals.sums.input_tokens) == (Decimal("29.5"), 590)
    assert totals.whole.p50 is not None and abs(totals.whole.p50 - 3000) <= 150
    for by in ("provider", "model", "api_key_id"):
        assert overview.breakdown(org_id, hourly, by) == overview.breakdown(org_id, fine, by)  # type: ignore[arg-type]


def test_a_series_adds_up_to_the_totals(butler: ButlerBench, acme: Tenant) -> None:
    overview, org_id = butler.services.overview, acme.bearer.org_id
    for span in spans(butler):
        points = overview.series(org_id, span, "model")
        assert sum(point.sums.calls for point in points) == 60
        assert {point.group for point in points} == {"a", "b"}
        assert all((point.at - span.since) % span.step == timedelta(0) for point in points)
        assert [point.at for point in points] == sorted(point.at for point in points)
        alone = overview.series(org_id, span)
        assert sum(point.sums.cost for point in alone) == Decimal("29.5")
        assert {point.at for point in overview.latency(org_id, span)} == {point.at for point in alone}


def test_where_it_goes(butler: ButlerBench, acme: Tenant) -> None:
    overview, org_id = butler.services.overview, acme.bearer.org_id
    hourly, _ = spans(butler)
    assert [(each.group, each.sums.calls) for each in overview.breakdown(org_id, hourly, "model")] == [
        ("a", 40),
        ("b", 20),
    ]
    groups = {each.group: each.sums.calls for each in overview.breakdown(org_id, hourly, "api_key_id")}
    assert groups == {"": 30, str(UUID(int=7)): 30}
    butler.services.metadata_keys.activate(acme.owner, "Team", butler.clock())
    while butler.services.metadata_keys.backfill():
        pass
    tags = {each.group: each.sums.calls for each in overview.tag_breakdown(org_id, hourly, "Team")}
    assert tags == {"t0": 30, "t1": 30}
    assert len(overview.breakdown(org_id, hourly, "model", limit=1)) == 1


def test_errors_by_code(butler: ButlerBench, acme: Tenant) -> None:
    hourly, _ = spans(butler)
    found = butler.services.overview.errors(acme.bearer.org_id, hourly)
    assert [(each.code, each.calls) for each in found] == [("status 503", 6), ("rate_limited", 1)]
    newest = butler.services.explorer.get(acme.bearer.org_id, found[0].newest_id)
    assert newest.requested_at == found[0].newest_at == butler.clock() - timedelta(minutes=1)


def test_before_anything_there_is_nothing(butler: ButlerBench) -> None:
    fresh = butler.tenant("fresh")
    overview = butler.services.overview
    hourly, _ = spans(butler)
    totals = overview.totals(fresh.bearer.org_id, hourly)
    assert (totals.sums.calls, totals.whole.p50) == (0, None)
    assert overview.first_hour(fresh.bearer.org_id) is None
    assert overview.series(fresh.bearer.org_id, hourly, "model") == []


def test_nothing_of_another_organisation(butler: ButlerBench, acme: Tenant) -> None:
    other = butler.tenant("other")
    for span in spans(butler):
        assert butler.services.overview.totals(other.bearer.org_id, span).sums.calls == 0
        assert butler.services.overview.errors(other.bearer.org_id, span) == []
    first = butler.services.overview.first_hour(acme.bearer.org_id)
    assert first == butler.clock() - 3 * HOUR


def test_tags_of_a_broken_hour_are_of_exactly_its_calls(butler: ButlerBench, acme: Tenant) -> None:
    """They were once of the whole hours around it, and a value's share more than all there was."""
    overview, org_id = butler.services.overview, acme.bearer.org_id
    until = butler.clock() - timedelta(minutes=20)
    broken = Span(until - HOUR, until, timedelta(minutes=1))
    groups = overview.tag_breakdown(org_id, broken, "Team")
    totals = overview.totals(org_id, broken).sums
    assert 0 < totals.calls < 60
    assert sum(each.sums.calls for each in groups) == totals.calls
    assert sum(each.sums.cost for each in groups) == totals.cost
    butler.services.metadata_keys.activate(acme.owner, "Team", butler.clock())
    while butler.services.metadata_keys.backfill():
        pass
    hourly, fine = spans(butler)
    assert overview.tag_breakdown(org_id, hourly, "Team") == overview.tag_breakdown(org_id, fine, "Team")


@pytest.mark.parametrize("first", ["calls", "tokens", "errors"])
def test_the_largest_is_there_whatever_is_asked(butler: ButlerBench, first: Measure) -> None:
    """A model without a price once fell out of the largest by calls when twenty others had one."""
    tenant = butler.tenant("many")
    at = butler.clock() - timedelta(minutes=5)
    batch = [received(requested_at=at, model=f"m{number}", tags={"Team": f"t{number}"}) for number in range(30)]
    free = {"model": "free", "total_cost": None, "input_tokens": 5000, "status_code": 503, "tags": {"Team": "free"}}
    batch += [received(requested_at=at, **free) for _ in range(50)]
    butler.services.records.ingest(tenant.bearer, batch, butler.clock())
    _, fine = spans(butler)
    overview, org_id = butler.services.overview, tenant.bearer.org_id
    for span in spans(butler):
        assert overview.breakdown(org_id, span, "model", first=first)[0].group == "free"
    assert overview.tag_breakdown(org_id, fine, "Team", first=first)[0].group == "free"


def test_a_call_that_failed_is_not_said_to_lack_a_price(butler: ButlerBench) -> None:
    tenant = butler.tenant("failing")
    at = butler.clock() - timedelta(minutes=5)
    nothing = {"total_cost": None, "input_tokens": None, "output_tokens": None}
    batch = [received(requested_at=at, status_code=429, **nothing) for _ in range(5)]
    batch.append(received(requested_at=at, **nothing))
    butler.services.records.ingest(tenant.bearer, batch, butler.clock())
    for span in spans(butler):
        sums = butler.services.overview.totals(tenant.bearer.org_id, span).sums
        assert (sums.calls, sums.errors, sums.unpriced, sums.unmetered) == (6, 5, 1, 1)


def test_ten_thousand_keys_are_not_ten_thousand_lines(butler: ButlerBench) -> None:
    tenant = butler.tenant("keys")
    at = butler.clock() - timedelta(minutes=5)
    batch = [received(requested_at=at, api_key_id=UUID(int=number + 1)) for number in range(60)]
    batch += [received(requested_at=at, api_key_id=UUID(int=60), model="z")]
    butler.services.records.ingest(tenant.bearer, batch, butler.clock())
    for span in spans(butler):
        points = butler.services.overview.series(tenant.bearer.org_id, span, "api_key_id", "calls", most=5)
        calls = {each.group: each.sums.calls for each in points}
        assert (len(calls), calls[REST], calls[str(UUID(int=60))], sum(calls.values())) == (6, 55, 2, 61)
