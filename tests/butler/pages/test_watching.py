"""The overview page over real sums: figures agree with the calls, every measure draws, nothing says how to begin."""

from __future__ import annotations

import re
from datetime import timedelta
from uuid import UUID, uuid4

import orjson
import pytest

from steward.butler.pages import numbers
from steward.butler.pages.watching import curl_line
from steward.butler.reading import Received, records
from steward.butler.views import Span
from tests.butler.pages.visits import House


def test_the_five_figures_are_those_of_the_calls(house: House) -> None:
    hour = house.bench.clock().replace(minute=0)
    span = Span(hour - timedelta(hours=24), hour, timedelta(hours=1))
    sums = house.bench.services.overview.totals(house.acme.owner.org_id, span).sums
    words = house.visit().words("/")
    assert sums.calls == 160
    for figure in (numbers.cost(sums.cost), numbers.count(sums.calls), numbers.share(sums.errors, sums.calls)):
        assert figure.text.replace("\u00a0", " ") in words
    assert re.search(r"Latency, p95 [\d,.]+\s(?:ms|s|min)", words)


@pytest.mark.parametrize("measure", ["cost", "calls", "tokens", "latency", "errors"])
@pytest.mark.parametrize("by", ["model", "provider", "key"])
def test_every_measure_is_drawn_with_its_table(house: House, measure: str, by: str) -> None:
    page = house.visit().text(f"/?measure={measure}&by={by}&range=7d")
    assert page.count('class="area ') + page.count('class="stroke ') >= 1
    assert page.count('class="hit"') >= 50 and "The same figures as a table" in page
    titles = re.findall(r'<path class="(?:area|stroke) [^>]*><title>', page)
    assert len(titles) == page.count('<path class="area') + page.count('<path class="stroke')


def test_nothing_ever_says_how_to_begin(empty_house: House) -> None:
    words = empty_house.visit().words("/")
    assert "No calls yet" in words and "Connect a Steward" in words and "curl $STEWARD" in words


def test_a_time_without_calls_is_not_an_empty_house(house: House) -> None:
    words = house.visit().words("/?from=2026-01-01T00:00&to=2026-01-02T00:00")
    assert "Nothing to draw in this time" in words and "No calls yet" not in words


def test_a_tag_is_chosen_and_without_any_the_page_says_where_to_switch_one_on(house: House) -> None:
    visit = house.visit()
    assert "Team, by cost" in visit.words("/?tag=Team")
    assert "Feature, by calls" in visit.words("/?tag=Feature&measure=latency")
    for name in ("Team", "Feature", "Environment"):
        visit.send(f"/metadata/{name}/deactivate")
    assert "No tag is switched on" in visit.words("/")


def test_a_first_call_bears_the_key() -> None:
    assert "X-Majordomo-Key: mdm_sk_abc'" in curl_line("mdm_sk_abc") and "mdm_sk_..." in curl_line()


def test_a_hostile_name_in_the_chart_is_text(house: House) -> None:
    name = "</title><script>alert('chart')</script>"
    made = house.bench.services.keys.create(house.acme.owner, name)
    house.bench.services.records.ingest(house.acme.bearer, [_received(house, made.id)], house.bench.clock())
    page = house.visit().text("/?by=key&measure=calls")
    assert "<script>alert" not in page
    assert page.count("&lt;/title&gt;&lt;script&gt;alert(&#39;chart&#39;)") >= 3


def _received(house: House, key_id: UUID) -> Received:
    at = (house.bench.clock() - timedelta(minutes=5)).isoformat()
    told = {
        **{"id": str(uuid4()), "revision": 1, "majordomo_api_key_id": str(key_id), "provider": "openai", "model": "o3"},
        **{"request_path": "/v1/responses", "request_method": "POST", "requested_at": at, "status_code": 200},
    }
    (one,) = records(orjson.dumps({"records": [told]}), house.acme.bearer.org_id)
    return one
