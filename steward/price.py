"""Prices a metered call: (provider, model, tier, moment, usage) -> Cost, or None.

Refuses to fetch, to guess and to raise: what is not known is None, never 0, and no price ever fails a call. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal

from steward.errors import PriceListRefused, SettingError
from steward.exchange import MAX_COST_USD, Cost, Metered, UsageSource
from steward.pricebook import LIST_IDS, HeldPrice, Listing, PriceList
from steward.pricemoves import layered, moved, overreached
from steward.rates import ZERO, Charge

__all__ = ["HeldPrice", "PriceBook", "PriceListRefused", "bundled", "parse_list", "read_aliases"]

SERVED = ("openai", "anthropic", "gemini")
"""Where a name is looked for when nobody says whose it is."""

MAX_KNOWN_NAMES = 4096
"""Names remembered with what was found for them; then all are forgotten and found again."""

MAX_NAME_CHARS = 200
MAX_ALIASES = 10_000


class PriceBook:
    """What is known of prices: the bundled list, a fetched one before it, and the customer's aliases.

    Immutable but for a bounded memory of names it was asked for; safe to use from any thread.
    """

    def __init__(
        self, base: PriceList, fetched: PriceList | None = None, aliases: Mapping[str, str] | None = None
    ) -> None:
        self.base = base
        self.fetched = fetched
        self.aliases = dict(aliases or {})
        self._found: dict[tuple[str, str], Listing | None] = {}

    @property
    def source(self) -> str:
        """The newest list's name and version."""
        return (self.fetched or self.base).source

    def knows(self, model: str, provider: str | None = None) -> bool:
        """Whether the name is in a list or in the alias file."""
        if model in self.aliases:
            return True
        providers = (provider,) if provider is not None else SERVED
        return any(self._find(each, model) is not None for each in providers)

    def cost(self, provider: str, metered: Metered, at: datetime) -> Cost | None:
        """US dollars of a call made at `at`; None when usage or price is unknown. Never raises, never 0 for unknown."""
        usage = metered.usage
        if usage is None:
            return None
        headline = self._model(provider, metered)
        alias_found = headline is not None and headline[1]
        complete = metered.source is UsageSource.PROVIDER
        charges: list[Charge] = []
        source = headline[0].source if headline else ""
        for model, part in usage.parts or ((None, usage),):
            found = self._resolve(provider, model) if model else headline
            rates = found[0].rates(at, metered.service_tier) if found else None
            charge = rates.charge(part, complete) if rates else None
            if found is None or charge is None:
                return None
            charges.append(charge)
            source = source or found[0].source
        fees = self._fees(headline, metered, at)
        if fees is None:
            return None
        return _cost(charges, fees, source, alias_found)

    def _fees(self, headline: tuple[Listing, bool] | None, metered: Metered, at: datetime) -> Decimal | None:
        """What the call's web searches cost; None when there were some and nobody says."""
        usage = metered.usage
        searches = usage.web_searches if usage is not None else None
        if not searches:
            return ZERO
        rates = headline[0].rates(at, metered.service_tier) if headline else None
        return headline[0].searches_usd(searches, rates) if headline and rates else None

    def _model(self, provider: str, metered: Metered) -> tuple[Listing, bool] | None:
        """The model that answered; the one that was asked for where the answer has none, or an alias names it."""
        answered, asked = metered.model, metered.request_model
        found = self._resolve(provider, answered) if answered else None
        if found is None and asked and (not answered or asked in self.aliases):
            found = self._resolve(provider, asked)
        return found

    def _resolve(self, provider: str, name: str) -> tuple[Listing, bool] | None:
        """A name's listing, and whether the alias file led to it. The customer's word goes before the lists'."""
        alias = self.aliases.get(name)
        listing = self._find(provider, alias) if alias is not None else None
        if listing is not None:
            return listing, True
        listing = self._find(provider, name)
        return (listing, False) if listing is not None else None

    def _find(self, provider: str, name: str) -> Listing | None:
        key = provider, name
        try:
            return self._found[key]
        except KeyError:
            pass
        if len(name) > MAX_NAME_CHARS or not name.isascii() or len(provider) > MAX_NAME_CHARS:
            return None
        listing = self._look_up(LIST_IDS.get(provider, provider), _plain(name))
        if len(self._found) >= MAX_KNOWN_NAMES:
            self._found.clear()
        self._found[key] = listing
        return listing

    def _look_up(self, provider: str, name: str) -> Listing | None:
        """The call's own provider first. A fetched price goes before the bundled one unless it is too far from it.

        The second look is what a list cannot get around by claiming a name under another id.
        """
        for anywhere in (False, True):
            base = self.base.anywhere(name) if anywhere else self.base.own(provider, name)
            if self.fetched is None or self.fetched.at is None:
                offered = None
            else:
                offered = self.fetched.anywhere(name) if anywhere else self.fetched.own(provider, name)
                if offered and base and moved(base.model, offered.model, self.fetched.at):
                    offered = None
            if offered or base:
                return offered or base
        return None


def _plain(name: str) -> str:
    """A name without the folders that Gemini and Vertex put before it."""
    head, found, rest = name.lower().rpartition("models/")
    return rest if found and (not head or head.endswith("/")) else name.lower()


def _cost(charges: Sequence[Charge], fees: Decimal, source: str, alias_found: bool) -> Cost | None:
    """The sum, within its domain."""
    input_usd = sum((charge.input_usd for charge in charges), ZERO)
    output_usd = sum((charge.output_usd for charge in charges), ZERO)
    total = input_usd + output_usd + fees + sum((charge.fees_usd for charge in charges), ZERO)
    if not ZERO <= total <= MAX_COST_USD:
        return None
    return Cost(input_usd, output_usd, total, source, alias_found)


def bundled(aliases: Mapping[str, str] | None = None) -> PriceBook:
    """The book that needs no network: genai-prices' own data. The first call imports it (0.25 s, 41 MB)."""
    import genai_prices
    from genai_prices.data import providers

    return PriceBook(PriceList(providers, f"genai-prices {genai_prices.__version__}"), aliases=aliases)


def parse_list(document: bytes, fetched_at: datetime, last_good: PriceBook) -> tuple[PriceBook, list[HeldPrice]]:
    """The book that a fetched list makes of the last good one, and the prices that it does not change.

    Raises PriceListRefused when the list is not acceptable; then the last good book stays as it is.
    """
    from steward.pricelist import read_document  # With genai-prices' types: only who reads a list pays for them.

    read = read_document(document)
    fetched, held = layered(read, fetched_at, last_good.base, last_good.fetched)
    served = {LIST_IDS.get(provider, provider) for provider in SERVED}
    known = {(each.provider, each.model) for each in held}
    claimed = overreached(fetched, last_good.base, served, fetched_at)
    held += [each for each in claimed if (each.provider, each.model) not in known]
    return PriceBook(last_good.base, fetched, last_good.aliases), held


def read_aliases(document: bytes) -> dict[str, str]:
    """The alias file: one JSON object, as `{"my-deployment": "gpt-4o"}`. Raises SettingError, which names it."""
    try:
        parsed: object = json.loads(document)
    except (ValueError, RecursionError):
        raise SettingError("PRICING_ALIASES_FILE is not JSON.") from None
    if not isinstance(parsed, dict) or len(parsed) > MAX_ALIASES:
        raise SettingError(f"PRICING_ALIASES_FILE is not one JSON object of at most {MAX_ALIASES} names.")
    for name, model in parsed.items():
        if not all(isinstance(each, str) and 0 < len(each) <= MAX_NAME_CHARS for each in (name, model)):
            raise SettingError("PRICING_ALIASES_FILE has an entry that is not a name and a model, both text.")
    return parsed
