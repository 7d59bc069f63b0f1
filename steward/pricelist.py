"""Reads a fetched price list as data: genai-prices' published `data.json` (v2), or llm-prices' `current-v1.json`.

Refuses to run what a list brings (SECURITY F23): its patterns go to RE2, its numbers are finite and bounded, its
elements are counted. A model that is not acceptable is skipped and named; a document that is not, is refused. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, time
from decimal import Decimal
from typing import NoReturn

from genai_prices.types import (
    ClauseEquals,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    PriceVariant,
    Provider,
    StartDateConstraint,
    Tier,
    TieredPrices,
    TimeOfDateConstraint,
)

from steward.errors import PriceListRefused
from steward.pricebook import MAX_LIST_BYTES, HeldPrice, shown
from steward.pricenames import Clauses, Unfit, mapping, sequence, text
from steward.rates import KEYS

MAX_ELEMENTS = 400_000
"""Commas and opening brackets of a document; the published list has about 60,000."""
MAX_PROVIDERS = 500
MAX_MODELS = 8_000
MAX_MTOK_USD = Decimal(100_000)
MAX_KCOUNT_USD = Decimal(10_000)
MAX_DIGITS = 28
MAX_STEP = 10**9

LLM_PRICES_KEYS = {"input_mtok": "input", "output_mtok": "output", "cache_read_mtok": "input_cached"}


@dataclass(slots=True)
class ReadList:
    """A document's providers, in genai-prices' types, and what was skipped."""

    kind: str
    """`genai-prices` or `llm-prices`: the latter names models exactly and knows three prices of each."""
    providers: list[Provider]
    skipped: list[HeldPrice]


def read_document(document: bytes) -> ReadList:
    """Raises PriceListRefused for what is no price list, is too large or names no model that can be read."""
    parsed = _parsed(document)
    reader = _Reader()
    if isinstance(parsed, list):
        read = ReadList("genai-prices", reader.providers(parsed), reader.skipped)
    elif isinstance(parsed, dict) and isinstance(parsed.get("prices"), list):
        read = ReadList("llm-prices", reader.vendors(parsed["prices"]), reader.skipped)
    else:
        raise PriceListRefused
    if not any(provider.models for provider in read.providers):
        raise PriceListRefused
    return read


def _parsed(document: bytes) -> object:
    """The JSON value: bounded before it is built, without NaN or infinity."""
    if len(document) > MAX_LIST_BYTES or sum(document.count(mark) for mark in (b",", b"[", b"{")) > MAX_ELEMENTS:
        raise PriceListRefused
    try:
        parsed: object = json.loads(document, parse_float=Decimal, parse_constant=_no_constant)
    except (ValueError, ArithmeticError, RecursionError):
        raise PriceListRefused from None
    return parsed


def _no_constant(_: str) -> NoReturn:
    raise PriceListRefused


@dataclass(slots=True)
class _Reader:
    """Builds genai-prices' types from a document, counting as it goes."""

    skipped: list[HeldPrice] = field(default_factory=list)
    models: int = 0
    names: Clauses = field(default_factory=Clauses)

    def providers(self, entries: Sequence[object]) -> list[Provider]:
        """genai-prices' shape: every provider that can be read, with the models that can."""
        if len(entries) > MAX_PROVIDERS:
            raise PriceListRefused
        providers: list[Provider] = []
        for entry in entries:
            try:
                providers.append(self._provider(mapping(entry)))
            except Unfit as unfit:
                self._skip(entry, {}, unfit)
        return providers

    def vendors(self, entries: Sequence[object]) -> list[Provider]:
        """llm-prices' shape: one provider a vendor, each model matched by its exact id."""
        by_vendor: dict[str, Provider] = {}
        for entry in entries:
            try:
                raw = self._counted(entry)
                vendor, model_id = text(raw.get("vendor")), text(raw.get("id"))
                prices = {
                    key: _price(raw[name], MAX_MTOK_USD)
                    for key, name in LLM_PRICES_KEYS.items()
                    if raw.get(name) is not None
                }
                if "input_mtok" not in prices:
                    raise Unfit
            except Unfit as unfit:
                self._skip({"id": _fields(entry).get("vendor")}, entry, unfit)
                continue
            if vendor not in by_vendor and len(by_vendor) >= MAX_PROVIDERS:
                raise PriceListRefused
            provider = by_vendor.setdefault(vendor, Provider(vendor, vendor, ""))
            provider.models.append(ModelInfo(model_id, ClauseEquals(model_id), prices=ModelPrice(**prices)))
        return list(by_vendor.values())

    def _provider(self, raw: Mapping[str, object]) -> Provider:
        provider = Provider(text(raw.get("id")), "", "")
        provider.fallback_model_providers = [text(name) for name in sequence(raw.get("fallback_model_providers"))]
        if raw.get("model_match") is not None:
            try:
                provider.model_match = self.names.read(raw["model_match"])
            except Unfit as unfit:
                self._skip(raw, {}, unfit)
        for entry in sequence(raw.get("models"), MAX_MODELS):
            try:
                provider.models.append(self._model(self._counted(entry)))
            except Unfit as unfit:
                self._skip(raw, entry, unfit)
        return provider

    def _counted(self, entry: object) -> Mapping[str, object]:
        """A model's entry, unless there are too many."""
        self.models += 1
        if self.models > MAX_MODELS:
            raise PriceListRefused
        return mapping(entry)

    def _skip(self, provider: object, model: object, unfit: Unfit) -> None:
        names = [shown(_fields(entry).get("id")) for entry in (provider, model)]
        self.skipped.append(HeldPrice(names[0], names[1], unfit.reason))

    def _model(self, raw: Mapping[str, object]) -> ModelInfo:
        model = ModelInfo(text(raw.get("id")), self.names.read(raw.get("match")))
        prices = raw.get("prices")
        if isinstance(prices, list):
            model.prices = [_conditional(mapping(entry)) for entry in sequence(prices)]
            if not model.prices:
                raise Unfit
        else:
            model.prices = _model_price(prices)
        if raw.get("price_variants") is not None:
            model.price_variants = [_variant(mapping(entry)) for entry in sequence(raw["price_variants"])]
        return model


def _conditional(raw: Mapping[str, object]) -> ConditionalPrice:
    return ConditionalPrice(_constraint(raw.get("constraint")), prices=_model_price(raw.get("prices")))


def _variant(raw: Mapping[str, object]) -> PriceVariant:
    when = {text(key): text(value) for key, value in mapping(raw.get("when")).items()}
    if not when:
        raise Unfit
    return PriceVariant(when, _model_price(raw.get("prices")), _constraint(raw.get("constraint")))


def _constraint(raw: object) -> StartDateConstraint | TimeOfDateConstraint | None:
    if raw is None:
        return None
    entry = mapping(raw)
    try:
        if set(entry) == {"start_date"}:
            return StartDateConstraint(date.fromisoformat(text(entry["start_date"])))
        if set(entry) == {"start_time", "end_time"}:
            start, end = (time.fromisoformat(text(entry[name])) for name in ("start_time", "end_time"))
            return TimeOfDateConstraint(start, end)
    except ValueError:
        raise Unfit from None
    raise Unfit


def _model_price(raw: object) -> ModelPrice:
    """The prices that are understood; others are nothing we count."""
    prices: dict[str, Decimal | TieredPrices | None] = {}
    for key, value in mapping(raw).items():
        limit = MAX_KCOUNT_USD if key.endswith("_kcount") else MAX_MTOK_USD
        price = _tiers(value, limit) if isinstance(value, dict) else _price(value, limit) if value is not None else None
        if key in KEYS and price is not None:
            prices[key] = price
    return ModelPrice(**prices)


def _tiers(raw: Mapping[str, object], limit: Decimal) -> TieredPrices:
    tiers = []
    for entry in map(mapping, sequence(raw.get("tiers"))):
        start = entry.get("start")
        if type(start) is not int or not 0 <= start <= MAX_STEP:
            raise Unfit
        tiers.append(Tier(start, _price(entry.get("price"), limit)))
    return TieredPrices(_price(raw.get("base"), limit), tiers)


def _price(value: object, limit: Decimal) -> Decimal:
    """A finite amount from 0 to the limit."""
    if type(value) is int:
        value = Decimal(value)
    if not isinstance(value, Decimal) or not value.is_finite() or not 0 <= value <= limit:
        raise Unfit
    if len(value.as_tuple().digits) > MAX_DIGITS or (value and value.adjusted() < -MAX_DIGITS):
        raise Unfit
    return value


def _fields(value: object) -> Mapping[str, object]:
    """An entry's fields, for as much as it has any."""
    return value if isinstance(value, dict) else {}
