"""Says whether a model's offered prices are too far from the last good ones to be believed.

Refuses more than a factor of five, up or down, to nothing or from it, in any price that a call could ever be billed
at: today's, an earlier or later day's, a long prompt's, another tier's (SECURITY F23). Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from steward.pricebook import LIST_IDS, HeldPrice, PriceList, shown
from steward.rates import KEYS

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider, TieredPrices

    from steward.pricelist import ReadList

MAX_MOVE = 5
MAX_DISCOUNT = 100
"""A part that gets a price of its own may be this much cheaper than what it was billed as (cache reads at 0.025)."""

STANDS_IN = {
    "cache_read_mtok": "input_mtok",
    "cache_write_mtok": "input_mtok",
    "cache_write_1h_mtok": "input_mtok",
    "input_audio_mtok": "input_mtok",
    "cache_audio_read_mtok": "input_mtok",
    "input_image_mtok": "input_mtok",
    "input_video_mtok": "input_mtok",
    "output_audio_mtok": "output_mtok",
    "output_image_mtok": "output_mtok",
    "output_video_mtok": "output_mtok",
}
"""What a part is billed as while it has no price of its own."""

UNSTATED = {"web_searches_kcount": Decimal(10), "requests_kcount": Decimal(0)}
"""What is billed, per thousand, while a list has no such price."""

MODALITIES_APART = {"output_audio_mtok": 30, "output_image_mtok": 60, "output_video_mtok": 60, "input_audio_mtok": 40}
"""How many times the text price a modality may cost when it first gets a price of its own."""

Span = dict[str, tuple[Decimal, Decimal]]
"""The lowest and the highest of each price."""


@dataclass(frozen=True, slots=True)
class Move:
    """The first price found to be too far from the last good one. `offered` is None when it is gone."""

    key: str
    was: Decimal | None
    offered: Decimal | None


def layered(
    read: ReadList, at: datetime, base: PriceList, earlier: PriceList | None
) -> tuple[PriceList, list[HeldPrice]]:
    """A fetched list in which every price that may not be believed is the last good one, and what was held.

    Models that the list does not name, or whose price is held and was the bundled one, are left to the bundled list.
    """
    held = list(read.skipped)
    kept: dict[tuple[str, str], str] = {}
    providers = {LIST_IDS.get(provider.id, provider.id): provider for provider in read.providers}
    for provider_id, provider in providers.items():
        provider.id = provider_id
        models: list[ModelInfo] = []
        for model in provider.models:
            before = earlier.listed(provider_id, model.id) if earlier else None
            bundled = base.listed(provider_id, model.id)
            _complete(model, read, bundled.model if bundled else _meant(base, provider_id, model, read), at)
            good = before or bundled
            move = moved(good.model, model, at) if good else None
            if move is None:
                models.append(model)
                continue
            held.append(_held(provider_id, model.id, move))
            if before is not None:
                models.append(before.model)
                kept[provider_id, model.id] = before.source
        provider.models = models
    _keep_skipped(read, earlier, providers, kept)
    source = f"{read.kind} remote {at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    return PriceList(list(providers.values()), source, at, kept), held


def overreached(fetched: PriceList, base: PriceList, provider_ids: Collection[str], at: datetime) -> list[HeldPrice]:
    """Bundled models of these providers whose name a fetched list claims under another id, too far off to be believed.

    The book holds them by itself, whatever the name; this is to show them.
    """
    held: list[HeldPrice] = []
    for provider in base.providers:
        for model in provider.models if provider.id in provider_ids else ():
            offered = fetched.own(provider.id, model.id.lower())
            meant = base.own(provider.id, model.id.lower())
            move = moved(meant.model, offered.model, at) if offered and meant else None
            if move is not None:
                held.append(_held(provider.id, model.id, move))
    return held


def _held(provider: str, model: str, move: Move) -> HeldPrice:
    return HeldPrice(shown(provider), shown(model), "moved", move.key, move.was, move.offered)


def _keep_skipped(
    read: ReadList, earlier: PriceList | None, providers: dict[str, Provider], kept: dict[tuple[str, str], str]
) -> None:
    """What an earlier fetch knew of a model that this one spells unacceptably stays."""
    for skipped in read.skipped:
        provider = providers.get(skipped.provider)
        before = earlier.listed(skipped.provider, skipped.model) if earlier else None
        if provider is not None and before is not None and (skipped.provider, skipped.model) not in kept:
            provider.models.append(before.model)
            kept[skipped.provider, skipped.model] = before.source


def _meant(base: PriceList, provider: str, model: ModelInfo, read: ReadList) -> ModelInfo | None:
    """The bundled model that an exact id of llm-prices means."""
    listing = base.own(provider, model.id.lower()) if read.kind == "llm-prices" else None
    return listing.model if listing else None


def _complete(model: ModelInfo, read: ReadList, bundled: ModelInfo | None, at: datetime) -> None:
    """What a list's shape has no words for stays as the bundled list has it.

    llm-prices knows three prices of a model; genai-prices' v2 has no service tiers, which stay while the plain price
    that they belong to does.
    """
    if bundled is None:
        return
    standing = bundled.get_prices(at)
    if read.kind == "llm-prices" and not isinstance(model.prices, list):
        offered = dict(model.prices.__dict__)
        model.prices = _merged(standing, offered)
    if model.price_variants is None and _understood(model.get_prices(at)) == _understood(standing):
        model.price_variants = bundled.price_variants


def _merged(standing: ModelPrice, offered: Mapping[str, Decimal]) -> ModelPrice:
    """A standing set of prices with some offered in their place; steps for long prompts stay."""
    from genai_prices.types import ModelPrice, TieredPrices

    prices: dict[str, Decimal | TieredPrices | None] = dict(standing.__dict__)
    for key, price in offered.items():
        old = prices.get(key)
        prices[key] = TieredPrices(price, list(old.tiers)) if isinstance(old, TieredPrices) else price
    return ModelPrice(**prices)


def _understood(prices: ModelPrice) -> dict[str, object]:
    return {key: price for key, price in prices.__dict__.items() if key in KEYS and price is not None}


def moved(good: ModelInfo, offered: ModelInfo, at: datetime) -> Move | None:
    """The move that is too far, if there is one: from the price of `at`, or beyond all that there ever were."""
    if good is offered:
        return None
    return _moved_now(_span([good.get_prices(at)]), _span([offered.get_prices(at)])) or _beyond(
        _span(_every(good, at)), _span(_every(offered, at))
    )


def _every(model: ModelInfo, at: datetime) -> list[ModelPrice]:
    """All prices a model has: its history, what is to come, and its variants (which name only what differs)."""
    dated = [entry.prices for entry in model.prices] if isinstance(model.prices, list) else [model.get_prices(at)]
    return dated + [variant.prices for variant in model.price_variants or ()]


def _span(prices: Iterable[ModelPrice]) -> Span:
    """Lowest and highest of each price, long prompts' steps included."""
    span: Span = {}
    for entry in prices:
        for key, price in entry.__dict__.items():
            if price is None or key not in KEYS:
                continue
            values = [price] if isinstance(price, Decimal) else [price.base, *(tier.price for tier in price.tiers)]
            values.extend(span.get(key, ()))
            span[key] = min(values), max(values)
    return span


def _moved_now(good: Span, offered: Span) -> Move | None:
    """The first price of the moment that is too far from what it was, or gone."""
    for key in KEYS:
        was, now = _billed(good, key), _billed(offered, key)
        if was is None or (key not in good and key not in offered):
            continue  # Nothing was billed for it: a price is news, not a move.
        if now is None:
            return Move(key, was[1], None)
        for before, after in zip(was, now, strict=True):
            if _too_far(key, before, after, new=key not in good):
                return Move(key, before, after)
    return None


def _beyond(good: Span, offered: Span) -> Move | None:
    """The first price of any moment or tier that lies too far outside all that there were."""
    for key, (lowest, highest) in offered.items():
        was = _billed(good, key)
        if was is None:
            continue
        if lowest < was[0] and _too_far(key, was[0], lowest, new=key not in good):
            return Move(key, was[0], lowest)
        if highest > was[1] and _too_far(key, was[1], highest, new=key not in good):
            return Move(key, was[1], highest)
    return None


def _billed(span: Mapping[str, tuple[Decimal, Decimal]], key: str) -> tuple[Decimal, Decimal] | None:
    """What is billed under a name, be it by the price that stands in for it."""
    own = span.get(key)
    if own is not None:
        return own
    if key in UNSTATED:
        return UNSTATED[key], UNSTATED[key]
    return span.get(STANDS_IN.get(key, ""))


def _too_far(key: str, before: Decimal, after: Decimal, *, new: bool) -> bool:
    """More than the factor allowed; nothing to something and back is always too far."""
    if before == after:
        return False
    if not before or not after:
        return True
    up = MODALITIES_APART.get(key, MAX_MOVE) if new else MAX_MOVE
    down = MAX_DISCOUNT if new and key in STANDS_IN else MAX_MOVE
    return after > before * up or after * down < before
