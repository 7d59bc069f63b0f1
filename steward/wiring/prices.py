"""Prices: the book, and for whoever settles for long the feed that keeps it fresh.

It fetches nothing: the feed does, once it is started or asked to.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from steward.errors import SettingError
from steward.price import PriceBook, bundled, read_aliases
from steward.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from steward.adapters.price_feed import PriceFeed

_LOOK_EVERY_S = 600.0


def open_prices(settings: Settings) -> PriceFeed:
    """The price book and what keeps it fresh. Raises SettingError."""
    from steward.adapters.price_feed import PriceFeed

    return PriceFeed(settings.pricing_remote_url, price_book(settings))


class SharedPrices:
    """The price book of a process that is short-lived: whoever sweeps fetches the list, all others read it there."""

    def __init__(self, settings: Settings, engine: Engine, now: Callable[[], float]) -> None:
        """`now`: seconds, counted also while the process is frozen. Raises SettingError."""
        from steward.adapters.postgres_prices import PostgresPrices
        from steward.adapters.price_feed import PriceFeed

        self._shelf = PostgresPrices(engine)
        self.feed = PriceFeed(settings.pricing_remote_url, price_book(settings))
        self.feed.on_fetched = self._shelf.keep
        self._off = not settings.pricing_remote_url
        self._now = now
        self._looked_at: float | None = None
        self._seen: datetime | None = None

    def look(self) -> None:
        """Puts the newest list in force that anybody fetched, at most every few minutes. Raises LedgerFault."""
        now = self._now()
        if self._off or (self._looked_at is not None and now - self._looked_at < _LOOK_EVERY_S):
            return
        found = self._shelf.newer(self._seen)
        self._looked_at = now
        if found is not None:
            self._seen, document = found
            self.feed.take(document, self._seen)


def price_book(settings: Settings) -> PriceBook:
    """The bundled prices with the aliases, for commands that price without a feed. Raises SettingError."""
    return bundled(_aliases(settings.pricing_aliases_file))


def _aliases(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    try:
        return read_aliases(path.read_bytes())
    except OSError:
        raise SettingError("PRICING_ALIASES_FILE: the file cannot be read") from None
