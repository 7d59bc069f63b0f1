"""Fetches the published price list now and then, and owns the price book in force.

Refuses to touch a request: a fetch that fails, or brings what is not acceptable, leaves the last good book as it is.
What leaves is one GET without any fact of ours. https alone (plain http for loopback addresses), no redirect to
another host, 8 MiB, one deadline (SECURITY F23).
"""

from __future__ import annotations

import ipaddress
import logging
import random
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum

import httpx

from steward import log
from steward.errors import PriceFeedFailed, PriceListRefused, SettingError
from steward.price import HeldPrice, PriceBook, parse_list
from steward.pricebook import MAX_LIST_BYTES

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 10.0
DEADLINE_S = 60.0
RETRY_S = 300.0
"""After a failure, unless the interval is shorter."""
JITTER = 0.1
"""Of the interval, either way: a fleet does not ask all at once."""
MAX_REDIRECTS = 3
MAX_HELD_LINES = 20
_ETAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e]{0,200}"')


class Refresh(StrEnum):
    """How a refresh ended."""

    OFF = "off"
    """No address is set: nothing is ever fetched."""
    PENDING = "pending"
    """Nothing was fetched yet."""
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    REFUSED = "refused"
    """A list came, and it was not acceptable."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class FeedState:
    """What may be shown of the feed. Model names in it stand in their domain."""

    source: str
    """The newest list in force, and its version."""
    outcome: Refresh
    tried_at: datetime | None = None
    fetched_at: datetime | None = None
    """When the newest list in force was fetched; None while that is the bundled one."""
    held: tuple[HeldPrice, ...] = ()
    """Prices of the newest list that are not believed; the last good ones stay in force."""


def price_client() -> httpx.Client:
    """A client that listens to no environment and follows nobody."""
    timeout = httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
    return httpx.Client(trust_env=False, follow_redirects=False, timeout=timeout)


class PriceFeed:
    """The price book in force, and where a newer one comes from."""

    def __init__(
        self,
        url: str,
        book: PriceBook,
        http: Callable[[], httpx.Client] = price_client,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        deadline_s: float = DEADLINE_S,
    ) -> None:
        """`url`: empty for none. Raises SettingError for an address that may not be asked."""
        self._url = _allowed(url) if url else None
        self._book = book
        self._http = http
        self._clock = clock
        self._deadline_s = deadline_s
        self.on_fetched: Callable[[bytes, datetime], None] = lambda document, at: None
        """Told of each list that was fetched and put in force."""
        self._etag: str | None = None
        self._state = FeedState(book.source, Refresh.OFF if self._url is None else Refresh.PENDING)
        self._refreshing = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def book(self) -> PriceBook:
        """The book in force. Take it once for each batch."""
        return self._book

    @property
    def state(self) -> FeedState:
        """How the feed is doing."""
        return self._state

    def refresh_once(self) -> Refresh:
        """Fetches once, if there is an address. Never raises for what the other side does."""
        if self._url is None:
            return Refresh.OFF
        with self._refreshing:
            return self._refresh(self._url)

    def take(self, document: bytes, fetched_at: datetime) -> bool:
        """Puts a list in force that another process fetched; whether it is now. What is refused is said."""
        with self._refreshing:
            try:
                self._take(document, None, fetched_at)
            except PriceListRefused as refused:
                log.error("price_list_refused", refused)
                return False
        return True

    def start(self, interval_s: float) -> None:
        """Refreshes at once and then every interval, in a daemon thread, until `close`."""
        if self._url is None or self._thread is not None:
            return
        self._thread = threading.Thread(target=self._run, args=(interval_s,), name="price-feed", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread's waiting; a fetch that is under way ends by its own deadline."""
        self._stop.set()

    def _run(self, interval_s: float) -> None:
        while not self._stop.is_set():
            try:
                failed = self.refresh_once() in (Refresh.FAILED, Refresh.REFUSED)
            except Exception as unforeseen:
                # A defect of ours ends this fetch, not the thread.
                log.error("price_feed_failed", unforeseen)
                failed = True
            wait_s = min(interval_s, RETRY_S) if failed else interval_s
            # Spread, not secrecy.
            self._stop.wait(wait_s * random.uniform(1 - JITTER, 1 + JITTER))  # noqa: S311

    def _refresh(self, url: str) -> Refresh:
        now = self._clock()
        try:
            fetched = self._fetch(url)
            outcome = Refresh.UNCHANGED
            if fetched is not None:
                outcome = self._take(*fetched, now)
                self.on_fetched(fetched[0], now)
        except PriceListRefused as refused:
            log.error("price_list_refused", refused)
            outcome = Refresh.REFUSED
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as foreign:
            failed = PriceFeedFailed()
            failed.__cause__ = foreign
            log.error("price_feed_failed", failed)
            outcome = Refresh.FAILED
        except PriceFeedFailed as failed:
            log.error("price_feed_failed", failed)
            outcome = Refresh.FAILED
        self._state = replace(self._state, outcome=outcome, tried_at=now)
        return outcome

    def _take(self, document: bytes, etag: str | None, now: datetime) -> Refresh:
        """A document becomes the book in force; raises PriceListRefused and changes nothing."""
        book, held = parse_list(document, now, self._book)
        self._book, self._etag = book, etag
        self._state = replace(self._state, source=book.source, fetched_at=now, held=tuple(held))
        log.say("prices_refreshed", price_source=book.source, count=len(held))
        for each in held[:MAX_HELD_LINES]:
            log.say("price_held", logging.WARNING, provider=each.provider, model=each.model)
        return Refresh.UPDATED

    def _fetch(self, url: str) -> tuple[bytes, str | None] | None:
        """The document and its ETag; None when it is the one we have."""
        until = time.monotonic() + self._deadline_s
        target = httpx.URL(url)
        with self._http() as client:
            for _ in range(MAX_REDIRECTS + 1):
                # Without compression eight megabytes on the wire are eight megabytes here.
                headers = {"accept": "application/json", "accept-encoding": "identity"}
                if self._etag is not None:
                    headers["if-none-match"] = self._etag
                with client.stream("GET", target, headers=headers, follow_redirects=False) as answer:
                    if answer.status_code == httpx.codes.NOT_MODIFIED:
                        return None
                    if not answer.has_redirect_location:
                        return _document(answer, until), _etag(answer)
                    target = _followed(target, answer.headers["location"])
        raise PriceFeedFailed


def _allowed(url: str) -> str:
    """An address that may be asked: https, or a loopback address."""
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError):
        parsed = httpx.URL()
    safe = parsed.scheme == "https" or (parsed.scheme == "http" and _here(parsed))
    if safe and parsed.host and not parsed.userinfo:
        return url
    raise SettingError("PRICING_REMOTE_URL is not an https address (plain http is for loopback addresses alone).")


def _here(url: httpx.URL) -> bool:
    if url.host == "localhost":
        return True
    try:
        return ipaddress.ip_address(url.host).is_loopback
    except ValueError:
        return False


def _followed(asked: httpx.URL, location: str) -> httpx.URL:
    """Where a redirect leads, as long as it stays with the host that was asked."""
    target = asked.join(location)
    if (target.scheme, target.host, target.port) != (asked.scheme, asked.host, asked.port) or target.userinfo:
        raise PriceFeedFailed
    return target


def _document(answer: httpx.Response, until: float) -> bytes:
    """The body: whole, uncompressed, within size and time."""
    if answer.status_code != httpx.codes.OK or answer.headers.get("content-encoding", "identity") != "identity":
        raise PriceFeedFailed
    document = bytearray()
    for piece in answer.iter_raw():
        document += piece
        if len(document) > MAX_LIST_BYTES:
            raise PriceListRefused
        if time.monotonic() > until:
            raise PriceFeedFailed
    return bytes(document)


def _etag(answer: httpx.Response) -> str | None:
    etag = answer.headers.get("etag", "")
    return etag if _ETAG.fullmatch(etag) else None
