"""A price list as it is looked up: which model a name means, and that model's prices at a moment under a tier.

Refuses to answer for a tier that the list has no price for. Pure; genai-prices' types are the data, the sums are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from steward.domains import OTHER_MODEL, model_name
from steward.rates import THOUSAND, Price, Rates

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider

LIST_IDS = {"gemini": "google", "vertex": "google", "bedrock": "aws", "xai": "x-ai"}
"""Providers that the lists call by another name than the ledger, or each other, does."""

MAX_LIST_BYTES = 8 * 1024 * 1024
"""Of a fetched document (SECURITY F23)."""

SEARCH_USD = {"openai": Decimal(10), "anthropic": Decimal(10)}
"""Per thousand web searches, where the list has no price for them (the providers' pricing pages)."""

GROUNDED_BY_PROMPT = ("gemini-1", "gemini-2", "gemini-flash-1", "gemini-pro-1")
"""Billed once a prompt for grounding, however many searches it made (Google's pricing page); later ones by search."""

STANDARD_TIERS = frozenset(
    {
        "",
        "default",
        "standard",
        "auto",
        "on_demand",
        "unspecified",
        "service_tier_unspecified",
        "traffic_type_unspecified",
    }
)
"""What providers call the tier that the plain price is for, in lower case."""

TIERS = {"on_demand_flex": "flex", "on_demand_priority": "priority"}
"""Vertex's names for tiers that the lists call by others."""


def shown(name: object) -> str:
    """An id of a list, fit for a page or a log: a model's name, else `other`."""
    return model_name(name, True) or OTHER_MODEL if isinstance(name, str) else OTHER_MODEL


@dataclass(frozen=True, slots=True)
class HeldPrice:
    """A model of a fetched list whose last good price stays in force, and why."""

    provider: str
    model: str
    reason: str
    """`moved`, `pattern` or `malformed`."""
    price: str | None = None
    """The price that moved, as `input_mtok`."""
    was_usd: Decimal | None = None
    offered_usd: Decimal | None = None
    """None: the list no longer has it."""


@dataclass(frozen=True, slots=True)
class Listing:
    """A model as one list has it."""

    model: ModelInfo
    source: str
    provider: str
    """The list's id of the provider that has it."""
    borrowed: bool = False
    """Sold by one provider at another's price: the other's service tiers do not apply."""

    def rates(self, at: datetime, tier: str | None) -> Rates | None:
        """The prices of a moment under a tier; None for a tier that the list has no price for."""
        word = (tier or "").lower()
        word = TIERS.get(word, word)
        if word in STANDARD_TIERS:
            return _rates(self.model.get_prices(at))
        context = {"service_tier": word, "speed": word, "processing": word}
        variants = () if self.borrowed else self.model.price_variants or ()
        for variant in variants:
            applies = variant.constraint is None or variant.constraint.active(at)
            if applies and all(context.get(key) == value for key, value in variant.when.items()):
                return _rates(self.model.get_prices(at, context))
        return None

    def searches_usd(self, count: int, rates: Rates) -> Decimal | None:
        """The fee for a call's web searches."""
        if self.provider == "google" and self.model.id.startswith(GROUNDED_BY_PROMPT):
            count = min(count, 1)
        fee = rates.searches(count)
        if fee is None and self.provider in SEARCH_USD:
            return SEARCH_USD[self.provider] * count / THOUSAND
        return fee


def _rates(prices: ModelPrice) -> Rates:
    """genai-prices' prices of a model, as ours."""
    compiled: dict[str, Price] = {}
    for key, price in prices.__dict__.items():
        if isinstance(price, Decimal):
            compiled[key] = price
        elif price is not None:
            steps = [(tier.start, tier.price) for tier in reversed(price.tiers)]
            compiled[key] = (*steps, (-1, price.base))
    return Rates(compiled)


class PriceList:
    """One list's providers, and where it is from. Not changed once it is in a book."""

    def __init__(
        self,
        providers: Sequence[Provider],
        source: str,
        at: datetime | None = None,
        kept: Mapping[tuple[str, str], str] | None = None,
    ) -> None:
        """`at`: when it was fetched. `kept`: models that stayed from an earlier list, by ids, and that list's name."""
        self.providers = list(providers)
        self.source = source
        self.at = at
        self._kept = dict(kept or {})
        self._by_id = {provider.id: provider for provider in self.providers}
        self._models = {(provider.id, model.id): model for provider in self.providers for model in provider.models}

    def listed(self, provider: str, model: str) -> Listing | None:
        """A model by the ids of the list, whatever names it goes by."""
        found = self._models.get((provider, model))
        return self._listing(provider, found, False) if found is not None and found.prices else None

    def own(self, provider: str, name: str) -> Listing | None:
        """The model that a provider means by a name, be it another's that it sells."""
        entry = self._by_id.get(provider)
        if entry is None:
            return None
        model = entry.find_model(name, all_providers=self.providers)
        if model is None or not model.prices:
            return None
        return self._listing(provider, model, not any(model is own for own in entry.models))

    def anywhere(self, name: str) -> Listing | None:
        """The model that a name means to everyone: `vendor/model`, or a name that tells its vendor."""
        vendor, slash, rest = name.partition("/")
        if slash and (listing := self.own(LIST_IDS.get(vendor, vendor), rest)):
            return listing
        for provider in self.providers:
            if provider.model_match is not None and provider.model_match.is_match(name):
                listing = self.own(provider.id, name)
                if listing is not None:
                    return listing
        return None

    def _listing(self, provider: str, model: ModelInfo, borrowed: bool) -> Listing:
        return Listing(model, self._kept.get((provider, model.id), self.source), provider, borrowed)
