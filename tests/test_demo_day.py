"""The demo's day: every call is metered and priced like one that was relayed, and the same seed gives the same day."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from steward.demo_day import PRODUCTS, day
from steward.exchange import Caller, Exchange, Outcome, UsageSource
from steward.meter import meter
from steward.price import bundled

NOW = datetime(2026, 11, 20, 18, 30, tzinfo=UTC)
CALLERS = {each.name: Caller(UUID(int=number), UUID(int=99)) for number, each in enumerate(PRODUCTS, 1)}


def a_day(count: int = 1500) -> list[Exchange]:
    return list(day(NOW, CALLERS, count))


def test_it_lies_in_the_last_24_hours_in_order_and_quieter_at_night() -> None:
    calls = a_day()
    times = [each.requested_at for each in calls]
    assert len(calls) == len({each.id for each in calls}) == 1500
    assert times == sorted(times)
    assert NOW - timedelta(hours=24) <= times[0]
    assert times[-1] <= NOW
    assert all(each.id.int >> 80 == int(each.requested_at.timestamp() * 1000) for each in calls)
    by_hour = Counter(at.hour for at in times)
    assert by_hour[2] < by_hour[14] / 2


def test_what_was_answered_is_metered_and_priced() -> None:
    book, unpriced, total = bundled({}), Counter[str](), Decimal(0)
    for each in a_day():
        metered = meter(each)
        if each.status != 200:
            assert metered.source is UsageSource.NONE
            continue
        assert metered.source is UsageSource.PROVIDER
        cost = book.cost(each.route.provider, metered, each.requested_at)
        if cost is None or cost.total_usd is None:
            unpriced[metered.model or ""] += 1
        else:
            total += cost.total_usd
    assert unpriced == Counter()
    assert total > 1


def test_some_fail_some_leave_and_every_product_has_its_own_key_and_tags() -> None:
    calls = a_day()
    assert {each.status for each in calls} >= {200, 429}
    assert {each.outcome for each in calls} == {Outcome.COMPLETE, Outcome.CLIENT_CANCELLED}
    for each in calls:
        assert CALLERS[each.tags["Feature"]] == each.caller
    only = {"search": CALLERS["search"]}
    assert {each.tags["Feature"] for each in day(NOW, only, 20)} == {"search"}


def test_the_same_seed_gives_the_same_day() -> None:
    first, second = a_day(50), a_day(50)
    assert [each.id for each in first] == [each.id for each in second]
    assert [each.response.data for each in first] == [each.response.data for each in second]
    assert [each.id for each in day(NOW, CALLERS, 50, seed=8)] != [each.id for each in first]
