"""The explorer: filters narrow, pages follow each other, the panel and the page tell one call, the file is CSV."""

from __future__ import annotations

import csv
import http.client
import io
import re
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from html import unescape
from itertools import islice
from uuid import UUID

import pytest
from fastapi import Request

from steward.butler import access
from steward.butler.errors import NotSignedIn
from steward.butler.pages import door, exploring
from steward.butler.store_explorer import Explorer
from steward.butler.store_sessions import Attempt
from steward.butler.views import Call, CallPage, CallRow, Cursor, Filter
from steward.errors import LedgerUnavailable
from steward.listener import ListenerLimits, listener
from steward.words import Secret
from tests.butler.pages.visits import House, Visit, words_of
from tests.butler.seed import FORMULA, HOSTILE
from tests.contracts.records import ORG
from tests.servers.butler import PASSWORD
from tests.servers.listening import listening

_ROW = re.compile(r'<tr class="row" id="r-([0-9a-f-]{36})"')


def _ids(page: str) -> list[str]:
    return _ROW.findall(page)


def _known(house: House, **narrower: object) -> list[str]:
    now = house.bench.clock()
    which = Filter(now - timedelta(days=1), now, **narrower)
    return [str(each.id) for each in house.bench.services.explorer.page(house.acme.owner.org_id, which, None, 200).rows]


def test_the_table_pages_through_every_call_once(house: House) -> None:
    visit, path, seen = house.visit(), "/requests", []
    while path:
        page = visit.text(path)
        seen += _ids(page)
        older = re.search(r'href="(/requests\?[^"]*)" rel="next"', page)
        path = unescape(older[1]) if older else ""
    assert seen == _known(house) and len(seen) == 160
    newer = re.search(r'href="(/requests\?[^"]*)" rel="prev"', page)
    assert newer is not None
    assert _ids(visit.text(unescape(newer[1]))) == seen[100:150]


def test_filters_narrow_and_stand_as_chips(house: House) -> None:
    visit = house.visit()
    assert house.day is not None
    key = house.day.keys["support-copilot"]
    for query, narrower in (
        ("model=gpt-5-mini", {"model": "gpt-5-mini"}),
        ("provider=anthropic", {"provider": "anthropic"}),
        (f"key={key}", {"api_key_id": key}),
        ("failed=yes", {"failed": True}),
        ("body=stored&provider=openai", {"body_state": "stored", "provider": "openai"}),
        ("tag.Feature=triage", {"tags": (("Feature", "triage"),)}),
    ):
        page = visit.text(f"/requests?{query}")
        assert _ids(page) == _known(house, **narrower)[:50] and _ids(page), query
        assert 'class="chip"' in page
    assert "support-copilot" in words_of(visit.text(f"/requests?key={key}").split('class="chip"')[1])


def test_a_typed_filter_is_one_more_chip(house: House) -> None:
    visit = house.visit()
    there = visit.get("/requests?provider=openai&filter=Team%3Dpayments").headers["location"]
    assert there == "/requests?provider=openai&tag.Team=payments"
    page = visit.text(there)
    assert _ids(page) == _known(house, provider="openai", tags=(("Team", "payments"),))[:50]
    assert "A filter is a name, an equals sign" in house.visit().words("/requests?filter=what")


def test_a_tag_that_is_not_switched_on_is_not_filtered_by_and_said(house: House) -> None:
    page = house.visit().text("/requests?tag.User-Id=u-0001")
    assert len(_ids(page)) == 50 and "User-Id cannot be filtered by" in page


def test_nothing_found_says_what_to_do(
    house: House,
) -> None:
    assert "No call matches" in house.visit().words("/requests?model=unknown-model")


def test_no_call_ever_gives_the_command_that_makes_one(empty_house: House) -> None:
    words = empty_house.visit().words("/requests")
    assert "No calls in this time" in words and "curl $STEWARD/v1/chat/completions" in words


def test_the_panel_and_the_page_tell_the_same_call(house: House) -> None:
    visit, call_id = house.visit(), _known(house, body_state="stored", failed=False)[0]
    page, panel = visit.words(f"/requests/{call_id}"), visit.words(f"/requests?open={call_id}")
    call = house.bench.services.explorer.get(house.acme.owner.org_id, _id(call_id))
    for words in (page, panel):
        assert call.model in words and call_id in words and "The body is not here" in words
        assert f"{call.response_time_ms:,}" in words or "unknown" in words
    assert call.price_source is None or call.price_source in page


def _id(text: str) -> UUID:
    return UUID(text)


def test_the_body_is_opened_by_the_stewards_own_viewer_and_by_a_plain_link(house: House) -> None:
    services = replace(house.bench.services, steward_view_url="http://127.0.0.1:7691")
    house.app.state.services = services
    call_id = _known(house, body_state="stored")[0]
    page = house.visit().text(f"/requests/{call_id}")
    link = (
        f'<a class="button" href="http://127.0.0.1:7691/requests/{call_id}" target="_blank" rel="noopener noreferrer">'
    )
    assert link in page


def test_words_of_a_caller_are_escaped_everywhere(house: House) -> None:
    told = house.bench.services
    which = Filter(house.bench.clock() - timedelta(days=1), house.bench.clock(), tags=(("Feature", HOSTILE),))
    rows = told.explorer.page(house.acme.owner.org_id, which).rows
    visit = house.visit()
    hostile = [f"/requests/{each.id}" for each in rows[:1]] + [f"/requests?open={each.id}" for each in rows[:1]]
    for path in ("/?tag=Feature", "/requests?tag.Feature=%3Cscript%3Ealert('tag')%3C/script%3E", *hostile):
        page = visit.text(path)
        assert HOSTILE not in page and "<script>alert" not in page
        if rows:
            assert "&lt;script&gt;alert" in page, path


def test_the_file_has_every_call_that_the_filter_has_and_no_formula(house: House) -> None:
    visit = house.visit()
    answer = visit.get("/requests.csv?provider=openai")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert "attachment" in answer.headers["content-disposition"]
    lines = list(csv.DictReader(io.StringIO(answer.text)))
    assert [each["id"] for each in lines] == _known(house, provider="openai")
    cells = [cell for each in csv.reader(io.StringIO(visit.get("/requests.csv").text)) for cell in each]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert FORMULA not in cells


class Endless(Explorer):
    """Pages without a database: as many calls as it is told of."""

    def __init__(self, row: CallRow, rows: int) -> None:
        self._row, self._left = row, rows

    def page(self, org_id: UUID, which: Filter, cursor: Cursor | None = None, limit: int = 50) -> CallPage:
        size = min(limit, self._left)
        self._left -= size
        return CallPage((self._row,) * size, Cursor(self._row.requested_at, self._row.id) if self._left else None, None)


def _row(house: House) -> CallRow:
    now = house.bench.clock()
    which = Filter(now - timedelta(days=1), now)
    return house.bench.services.explorer.page(house.acme.owner.org_id, which).rows[0]


def _file(row: CallRow, rows: int) -> Iterator[str]:
    which = Filter(row.requested_at, row.requested_at)
    return exploring.file_of(Endless(row, rows), ORG, which, {}, lambda: None)


def test_a_file_of_any_length_is_whole(house: House) -> None:
    assert sum(piece.count("\r\n") for piece in _file(_row(house), 100_300)) == 100_301


def test_a_file_takes_the_memory_of_a_page_however_long(house: House) -> None:
    row, peaks = _row(house), []
    for pages in (2, 40):
        tracemalloc.start()
        for _ in _file(row, pages * 200):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2 * peaks[0], peaks


def test_who_is_signed_out_meanwhile_reads_no_further(house: House) -> None:
    attempt = Attempt(house.acme.owner.email, Secret(PASSWORD), "-", "browser", "test", house.acme.owner.org_id)
    signed = house.bench.services.sessions.sign_in(attempt, house.bench.clock())
    person = access.Visitor(signed.session, signed.token, "-")
    visitor = door.Visitor(house.bench.services, Request({"type": "http"}), person)
    row, which = _row(house), Filter(house.bench.clock(), house.bench.clock())
    lines = exploring.file_of(Endless(row, 30_000), house.acme.owner.org_id, which, {}, visitor.still)
    assert len(list(islice(lines, 60))) == 60
    house.bench.services.sessions.end(visitor.actor, visitor.session.id)
    with pytest.raises(NotSignedIn):
        list(lines)


def test_a_waterfall_is_of_what_is_known(house: House) -> None:
    call = house.bench.services.explorer.get(house.acme.owner.org_id, _id(_known(house, failed=False)[0]))
    told = exploring.waterfall(replace(call, response_time_ms=1000, ttft_ms=250))
    assert [(each.left, each.width) for each in told[:3]] == [(0, 25), (25, 75), (0, 100)]
    blind: Call = replace(call, response_time_ms=None, ttft_ms=None, responded_at=None)
    assert [each.text.known for each in exploring.waterfall(blind)] == [False, False]
    instant = exploring.waterfall(replace(call, response_time_ms=0, ttft_ms=0))
    assert all(each.width is None or 0 <= each.width <= 100 for each in instant)


def test_a_hostile_address_shows_a_page(house: House) -> None:
    visit = Visit(house.app)
    visit.sign_in(house.acme.owner.email)
    for query in ("model=%00", "tag.x=" + "a" * 3000, "range=-1", "open=1"):
        assert "Left out of the address" in visit.words(f"/requests?{query}")


def test_a_menu_of_many_keys_is_cut_and_says_so(empty_house: House) -> None:
    """The page comes anew every five seconds."""
    keys, owner = empty_house.bench.services.keys, empty_house.acme.owner
    for number in range(exploring.MENU + 3):
        keys.create(owner, f"key-{number:04}", None)
    page = empty_house.visit().text("/requests")
    assert page.count("?key=") == exploring.MENU
    assert "And 3 more" in page


class Failing(Endless):
    """One whose database goes away after some pages."""

    def page(self, org_id: UUID, which: Filter, cursor: Cursor | None = None, limit: int = 50) -> CallPage:
        if self._left < 1000:
            raise LedgerUnavailable
        return super().page(org_id, which, cursor, limit)


def test_a_file_that_cannot_be_read_to_its_end_is_a_transfer_that_failed(house: House) -> None:
    """Not a shorter file: the answer's last chunk never comes."""
    visit = house.visit()
    house.app.state.services = replace(house.bench.services, explorer=Failing(_row(house), 3000))
    cookies = "; ".join(f"{name}={value}" for name, value in visit.asker.cookies.items())
    with listening(house.app, listener(ListenerLimits())) as running:
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
        connection.request("GET", "/requests.csv", headers={"Cookie": cookies})
        answer = connection.getresponse()
        with pytest.raises(http.client.IncompleteRead) as cut:
            answer.read()
        connection.close()
    assert answer.status == 200
    assert cut.value.partial.startswith(b"id,requested_at")
