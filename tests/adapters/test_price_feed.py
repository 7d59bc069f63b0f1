"""A better list is taken and a worse one leaves everything as it was, whatever the other side does and however long."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from http.server import BaseHTTPRequestHandler

import httpx
import pytest
import structlog

from steward import log
from steward.adapters.price_feed import MAX_REDIRECTS, PriceFeed, Refresh, price_client
from steward.errors import SettingError
from steward.exchange import Metered, Usage, UsageSource
from steward.price import PriceBook, bundled
from steward.pricebook import MAX_LIST_BYTES
from tests.servers import price_lists as lists
from tests.servers.price_lists import Reply, endless, raw, replying, serving
from tests.servers.waiting import eventually

AT = datetime(2026, 11, 20, 8, tzinfo=UTC)
BETTER = lists.openai(lists.model("gpt-9", prices={"input_mtok": 1, "output_mtok": 2}))
NEWER = lists.openai(lists.model("gpt-9", prices={"input_mtok": 2, "output_mtok": 2}))
DEADLINE_S = 2.0


@pytest.fixture(scope="module")
def book() -> PriceBook:
    return bundled()


@pytest.fixture
def lines() -> Iterator[io.BytesIO]:
    """What is said meanwhile."""
    stream = io.BytesIO()
    log.configure("debug", stream)
    yield stream
    structlog.reset_defaults()


def feed(url: str, book: PriceBook, http: Callable[[], httpx.Client] = price_client) -> PriceFeed:
    return PriceFeed(url, book, http, clock=lambda: AT, deadline_s=DEADLINE_S)


def price_of(book: PriceBook, model: str) -> Decimal | None:
    """Of a million tokens in and a million out."""
    call = Metered(UsageSource.PROVIDER, Usage(1_000_000, 1_000_000), model)
    cost = book.cost("openai", call, AT)
    return cost.total_usd if cost else None


def test_a_newer_list_is_taken(book: PriceBook, lines: io.BytesIO) -> None:
    with serving([replying(200, BETTER), replying(200, NEWER)]) as (url, asked):
        prices = feed(url, book)
        assert (prices.book, prices.state.outcome, prices.state.fetched_at) == (book, Refresh.PENDING, None)
        assert prices.refresh_once() is Refresh.UPDATED
        assert price_of(prices.book, "gpt-9") == 3
        assert prices.refresh_once() is Refresh.UPDATED
        assert price_of(prices.book, "gpt-9") == 4
    assert prices.state.source == "genai-prices remote 2026-11-20T08:00:00Z"
    assert (prices.state.tried_at, prices.state.fetched_at, prices.state.held) == (AT, AT, ())
    assert price_of(book, "gpt-9") is None
    assert asked.paths == ["/data.json"] * 2
    assert lines.getvalue().count(b"prices_refreshed") == 2


def test_nothing_of_ours_is_sent(book: PriceBook) -> None:
    with serving([replying(200, BETTER)]) as (url, asked):
        feed(url, book).refresh_once()
    (sent,) = asked.headers
    assert set(sent) == {"host", "accept", "accept-encoding", "connection", "user-agent"}
    assert sent["user-agent"].startswith("python-httpx/")


def test_a_list_in_the_other_shape_is_taken_too(book: PriceBook) -> None:
    document = lists.llm_prices(("openai", "gpt-9", 1, 2, None))
    with serving([replying(200, document, content_type="text/plain")]) as (url, _):
        prices = feed(url, book)
        assert prices.refresh_once() is Refresh.UPDATED
    assert prices.state.source == "llm-prices remote 2026-11-20T08:00:00Z"
    assert price_of(prices.book, "gpt-9") == 3


def test_the_same_list_is_not_sent_again(book: PriceBook) -> None:
    with serving([replying(200, BETTER, ETag='"one"'), replying(304), replying(304)]) as (url, asked):
        prices = feed(url, book)
        prices.refresh_once()
        taken = prices.book
        assert prices.refresh_once() is Refresh.UNCHANGED
        assert prices.book is taken
    assert [sent.get("if-none-match") for sent in asked.headers] == [None, '"one"']


@pytest.mark.parametrize("etag", ["unquoted", '"' + "x" * 300 + '"', '"a" "b"'])
def test_an_etag_that_is_none_is_not_repeated(book: PriceBook, etag: str) -> None:
    with serving([replying(200, BETTER, ETag=etag)]) as (url, asked):
        prices = feed(url, book)
        prices.refresh_once()
        prices.refresh_once()
    assert "if-none-match" not in asked.headers[1]


def test_a_refused_list_s_etag_is_not_remembered(book: PriceBook) -> None:
    with serving([replying(200, b"<html>", ETag='"bad"')]) as (url, asked):
        prices = feed(url, book)
        prices.refresh_once()
        prices.refresh_once()
    assert "if-none-match" not in asked.headers[1]


def test_held_prices_are_shown(book: PriceBook, lines: io.BytesIO) -> None:
    poison = lists.openai(
        lists.model("gpt-4o", prices={"input_mtok": 250, "output_mtok": 1000, "cache_read_mtok": 125}),
        lists.model("gpt-4o-mini", match={"regex": "(a+)+\\1"}),
        lists.model("gpt-9"),
    )
    with serving([replying(200, poison)]) as (url, _):
        prices = feed(url, book)
        assert prices.refresh_once() is Refresh.UPDATED
    assert {(each.model, each.reason) for each in prices.state.held} == {
        ("gpt-4o", "moved"),
        ("gpt-4o-mini", "pattern"),
    }
    assert price_of(prices.book, "gpt-4o") == Decimal("12.5")
    assert price_of(prices.book, "gpt-4o-mini") == price_of(book, "gpt-4o-mini")
    assert lines.getvalue().count(b"price_held") == 2


CANARY = b"canary-3141592653"

POISONED: dict[str, tuple[Reply, Refresh]] = {
    "HTML": (replying(200, b"<html>" + CANARY + b"</html>", content_type="text/html"), Refresh.REFUSED),
    "nothing": (replying(200), Refresh.REFUSED),
    "NaN": (replying(200, BETTER.replace(b"1,", b"NaN,")), Refresh.REFUSED),
    "negative": (replying(200, BETTER.replace(b"1,", b"-1,")), Refresh.REFUSED),
    "deep": (replying(200, b"[" * 100_000), Refresh.REFUSED),
    "too long": (replying(200, b" " * (MAX_LIST_BYTES + 1)), Refresh.REFUSED),
    "endless": (endless(b" " * 65536, threading.Event(), 0), Refresh.REFUSED),
    "slow": (endless(b" ", threading.Event(), DEADLINE_S / 20), Refresh.FAILED),
    "gzip": (replying(200, b"\x1f\x8b\x08\x00" + CANARY, content_encoding="gzip"), Refresh.FAILED),
    "cut": (raw(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"), Refresh.FAILED),
    "no HTTP": (raw(CANARY), Refresh.FAILED),
    "hung up": (lambda handler: handler.connection.close(), Refresh.FAILED),
    "not found": (replying(404, BETTER), Refresh.FAILED),
    "server error": (replying(500, CANARY), Refresh.FAILED),
    "partial": (replying(206, BETTER), Refresh.FAILED),
    "no content": (replying(204), Refresh.FAILED),
    "another host": (replying(302, location="http://localhost.example/" + CANARY.decode()), Refresh.FAILED),
    "another port": (replying(302, location="http://127.0.0.1:1/"), Refresh.FAILED),
    "another name of this host": (replying(302, location="http://localhost/"), Refresh.FAILED),
    "another scheme": (replying(302, location="file:///etc/passwd"), Refresh.FAILED),
    "no address": (replying(302, location="http://[bad"), Refresh.FAILED),
    "a credential": (replying(302, location="//u:p@127.0.0.1/"), Refresh.FAILED),
    "in circles": (replying(302, location="/data.json"), Refresh.FAILED),
    "nowhere": (replying(302), Refresh.FAILED),
}


@pytest.mark.parametrize(("reply", "outcome"), POISONED.values(), ids=POISONED.keys())
def test_whatever_comes_the_last_good_list_stays(
    book: PriceBook, lines: io.BytesIO, reply: Reply, outcome: Refresh
) -> None:
    with serving([replying(200, BETTER), reply]) as (url, asked):
        prices = feed(url, book)
        prices.refresh_once()
        good, state = prices.book, prices.state
        assert prices.refresh_once() is outcome
        assert prices.book is good
        assert (prices.state.source, prices.state.fetched_at) == (state.source, AT)
        assert prices.state.outcome is outcome
    assert price_of(good, "gpt-9") == 3
    assert CANARY not in lines.getvalue()
    assert len(asked.paths) <= 2 + MAX_REDIRECTS


def test_a_redirect_within_the_host_is_followed(book: PriceBook) -> None:
    with serving([replying(301, location="/elsewhere.json"), replying(200, BETTER)]) as (url, asked):
        assert feed(url, book).refresh_once() is Refresh.UPDATED
    assert asked.paths == ["/data.json", "/elsewhere.json"]


def test_a_host_that_does_not_answer_is_a_failure(book: PriceBook) -> None:
    with serving([replying(200)]) as (url, _):
        pass
    assert feed(url, book).refresh_once() is Refresh.FAILED


def test_a_silent_server_is_left(book: PriceBook) -> None:
    leave = threading.Event()

    def impatient() -> httpx.Client:
        return httpx.Client(trust_env=False, timeout=0.1)

    def silent(_: BaseHTTPRequestHandler) -> None:
        leave.wait(5)

    with serving([silent]) as (url, _):
        try:
            assert feed(url, book, impatient).refresh_once() is Refresh.FAILED
        finally:
            leave.set()


@pytest.mark.parametrize(
    "url",
    [
        "http://prices.example/data.json",
        "http://10.0.0.1/data.json",
        "ftp://127.0.0.1/data.json",
        "file:///etc/passwd",
        "https://",
        "https://user:password@prices.example/",
        "data.json",
        "http://[bad",
    ],
)
def test_an_address_that_may_not_be_asked_is_refused_at_once(book: PriceBook, url: str) -> None:
    with pytest.raises(SettingError, match="^PRICING_REMOTE_URL [^\n]*$") as refused:
        PriceFeed(url, book)
    assert "password" not in str(refused.value)


@pytest.mark.parametrize("url", ["https://prices.example/data.json", "http://[::1]:1/", "http://localhost:1/"])
def test_https_and_this_host_may_be_asked(book: PriceBook, url: str) -> None:
    assert PriceFeed(url, book).state.outcome is Refresh.PENDING


def test_without_an_address_nothing_is_fetched(book: PriceBook) -> None:
    def unwanted() -> httpx.Client:
        raise AssertionError("a client was made")

    prices = feed("", book, unwanted)
    prices.start(0.01)
    assert prices.refresh_once() is Refresh.OFF
    assert (prices.book, prices.state.outcome) == (book, Refresh.OFF)
    prices.close()


def test_the_thread_refreshes_again_and_again_until_it_is_closed(book: PriceBook) -> None:
    with serving([replying(500), replying(200, BETTER), replying(200, NEWER)]) as (url, asked):
        prices = feed(url, book)
        prices.start(0.01)
        prices.start(0.01)
        eventually(lambda: price_of(prices.book, "gpt-9") == 4)
        prices.close()
        eventually(lambda: not [each for each in threading.enumerate() if each.name == "price-feed"])
        assert len(asked.paths) >= 3


def test_a_defect_of_ours_does_not_end_the_thread(book: PriceBook) -> None:
    calls: list[None] = []

    def broken_once() -> httpx.Client:
        calls.append(None)
        if len(calls) == 1:
            raise ZeroDivisionError
        return price_client()

    with serving([replying(200, BETTER)]) as (url, _):
        prices = feed(url, book, broken_once)
        prices.start(0.01)
        eventually(lambda: prices.state.outcome is Refresh.UPDATED)
        prices.close()
        eventually(lambda: not [each for each in threading.enumerate() if each.name == "price-feed"])


def test_the_book_may_be_used_while_it_changes(book: PriceBook) -> None:
    with serving([replying(200, BETTER), replying(200, NEWER)]) as (url, _):
        prices = feed(url, book)
        prices.refresh_once()
        stop = threading.Event()
        wrong: list[object] = []

        def use() -> None:
            while not stop.is_set():
                seen = price_of(prices.book, "gpt-9")
                if seen not in (3, 4):
                    wrong.append(seen)

        users = [threading.Thread(target=use) for _ in range(3)]
        for user in users:
            user.start()
        prices.refresh_once()
        stop.set()
        for user in users:
            user.join()
    assert not wrong
    assert price_of(prices.book, "gpt-9") == 4
