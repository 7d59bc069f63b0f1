"""Prices: the book, and for whoever settles for long the feed that keeps it fresh.

It fetches nothing: the feed does, once it is started.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from steward.errors import SettingError
from steward.price import PriceBook, bundled, read_aliases
from steward.settings import Settings

if TYPE_CHECKING:
    from steward.adapters.price_feed import PriceFeed


def open_prices(settings: Settings) -> PriceFeed:
    """The price book and what keeps it fresh. Raises SettingError."""
    from steward.adapters.price_feed import PriceFeed

    return PriceFeed(settings.pricing_remote_url, price_book(settings))


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
