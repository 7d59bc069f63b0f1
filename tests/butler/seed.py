"""A plausible day at one organisation, told to Butler as its Stewards would: by the ingest of records, nothing else.

The same seed gives the same day. Traffic follows office hours; one provider has a bad quarter of an hour; one key runs
at night; some calls have no counts, no price or no answer. Text that could be markup or a formula is among the tags.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import orjson

from steward.butler.nouns import Actor
from steward.butler.reading import records
from steward.butler.services import Services
from steward.butler.store_stewards import Bearer

HOSTILE: Final = "<script>alert('tag')</script>"
FORMULA: Final = '=HYPERLINK("http://evil.example","x")'

_MODELS: Final = (
    # provider, model, weight, USD per million in and out, path, milliseconds to the first byte, tokens a second
    ("anthropic", "claude-sonnet-4-5", 30, "3", "15", "/v1/messages", 620, 78),
    ("openai", "gpt-5-mini", 24, "0.25", "2", "/v1/chat/completions", 410, 120),
    ("openai", "gpt-5", 12, "1.25", "10", "/v1/responses", 1400, 62),
    ("gemini", "gemini-2.5-flash", 14, "0.3", "2.5", "/v1beta/models/{model}:generateContent", 350, 160),
    ("anthropic", "claude-haiku-4-5", 10, "1", "5", "/v1/messages", 300, 150),
    ("openai", "text-embedding-3-small", 14, "0.02", "0", "/v1/embeddings", 90, 0),
    (
        "fireworks",
        "accounts/fireworks/models/llama-v3p3-70b-instruct",
        5,
        "0.9",
        "0.9",
        "/v1/chat/completions",
        240,
        110,
    ),
    ("together", "Qwen/Qwen2.5-72B-Instruct-Turbo", 3, "1.2", "1.2", "/v1/chat/completions", 330, 90),
    ("openai", "o4-mini", 4, "1.1", "4.4", "/v1/responses", 2600, 70),
    ("anthropic", "claude-opus-4-1", 2, "15", "75", "/v1/messages", 1100, 45),
)
_KEYS: Final = (
    ("checkout-production", "Assistant in the checkout", 34, ("assistant", "search")),
    ("support-copilot", "Drafts answers for support", 28, ("draft-reply", "summarise", "triage")),
    ("search-indexer", "Embeddings, nightly", 18, ("embed",)),
    ("data-platform", None, 12, ("extract", "classify")),
    ("mobile-beta", "iOS and Android beta", 6, ("assistant",)),
)
_TEAMS: Final = ("payments", "support", "search", "data", "mobile")
_ERRORS: Final = (
    (429, "rate_limited", 38),
    (529, "overloaded", 18),
    (400, "invalid_request", 16),
    (400, "context_length", 10),
    (500, "server_error", 9),
    (401, "auth", 3),
)


@dataclass(frozen=True)
class Day:
    """What was made for it."""

    keys: Mapping[str, UUID]
    bearer: Bearer


def seed(services: Services, owner: Actor, bearer: Bearer, now: datetime, calls: int = 3000, days: int = 1) -> Day:
    """Keys, active tags, and `calls` calls of the `days` before `now`."""
    keys = {name: services.keys.create(owner, name, about).id for name, about, _, _ in _KEYS}
    told = sorted(_day(random.Random(7), keys, bearer.org_id, now, calls, days), key=lambda each: each["requested_at"])
    _ingest(services, bearer, told[:3], now)
    for name, label in (("Feature", "Feature"), ("Team", None), ("Environment", None)):
        services.metadata_keys.activate(owner, name, now)
        if label:
            services.metadata_keys.label(owner, name, label)
    _ingest(services, bearer, told[3:], now)
    while services.metadata_keys.backfill():
        pass
    return Day(keys, bearer)


def _ingest(services: Services, bearer: Bearer, told: Sequence[Mapping[str, Any]], now: datetime) -> None:
    for first in range(0, len(told), 500):
        document = orjson.dumps({"records": told[first : first + 500]})
        services.records.ingest(bearer, records(document, bearer.org_id), now)


def _day(
    chance: random.Random, keys: Mapping[str, UUID], org_id: UUID, now: datetime, calls: int, days: int
) -> Iterator[dict[str, Any]]:
    for _ in range(calls):
        at = now - timedelta(seconds=_ago(chance, now, days))
        yield _call(chance, keys, org_id, at)


def _ago(chance: random.Random, now: datetime, days: int) -> float:
    """Seconds before now, more by day than by night, fewer at the weekend."""
    while True:
        ago = chance.uniform(0.5, days * 86_400)
        at = now - timedelta(seconds=ago)
        hour = at.hour + at.minute / 60
        busy = 0.18 + 0.82 * max(0.0, math.sin(math.pi * (hour - 5.5) / 15)) if 5.5 < hour < 20.5 else 0.18
        if chance.random() < busy * (0.4 if at.weekday() > 4 else 1):
            return ago


def _call(chance: random.Random, keys: Mapping[str, UUID], org_id: UUID, at: datetime) -> dict[str, Any]:
    key, _, _, features = chance.choices(_KEYS, [each[2] for each in _KEYS])[0]
    models = [each for each in _MODELS if ("embedding" in each[1]) == (key == "search-indexer")]
    model = chance.choices(models, [each[2] for each in models])[0]
    call_id = UUID(int=(int(at.timestamp() * 1000) << 80) | (7 << 76) | (2 << 62) | chance.getrandbits(62))
    told = {
        "id": str(call_id),
        "revision": 1,
        "majordomo_api_key_id": str(keys[key]),
        "provider_api_key_hash": f"{chance.getrandbits(4) + 1:064x}",
        "provider": model[0],
        "model": model[1],
        "original_model": model[1],
        "request_path": model[5],
        "request_method": "POST",
        "requested_at": at.isoformat(),
        "model_alias_found": chance.random() < 0.1,
        "raw_metadata": _tags(chance, key, features),
    }
    failed = 0.26 if model[0] == "anthropic" and at.hour == 14 and at.minute < 18 else 0.022
    told |= _failure(chance, model, at) if chance.random() < failed else _answer(chance, model, at)
    if told["body_state"] == "stored":
        told["body_s3_key"] = f"{keys[key]}/{at:%Y-%m-%d}/{call_id}.json.gz"
    return told


def _tags(chance: random.Random, key: str, features: Sequence[str]) -> dict[str, str]:
    team = _TEAMS[[each[0] for each in _KEYS].index(key)]
    tags = {"Feature": chance.choice(features), "Team": team, "Environment": "production"}
    if chance.random() < 0.12:
        tags["Environment"] = "staging"
    if chance.random() < 0.5:
        tags["User-Id"] = f"u-{chance.randrange(400):04d}"
    if chance.random() < 0.004:
        tags["Feature"] = chance.choice((HOSTILE, FORMULA))
    return tags


def _failure(chance: random.Random, model: Sequence[Any], at: datetime) -> dict[str, Any]:
    status, code, _ = chance.choices(_ERRORS, [each[2] for each in _ERRORS])[0]
    ms = int(chance.lognormvariate(5.2, 0.6))
    return {
        "status_code": status,
        "error_message": code,
        "outcome": "complete",
        "responded_at": (at + timedelta(milliseconds=ms)).isoformat(),
        "response_time_ms": ms,
        "ttft_ms": ms,
        "usage_source": "none",
        "body_state": "stored",
    }


def _answer(chance: random.Random, model: Sequence[Any], at: datetime) -> dict[str, Any]:
    tokens_in = int(chance.lognormvariate(7.4 if model[7] else 6.2, 0.9))
    tokens_out = int(chance.lognormvariate(5.4, 0.8)) if model[7] else 0
    cached = int(tokens_in * chance.uniform(0.3, 0.9)) if chance.random() < 0.3 and model[7] else 0
    first = int(model[6] * chance.lognormvariate(0, 0.35))
    whole = first + int(1000 * tokens_out / model[7]) if model[7] else first
    left = chance.random() < 0.012
    told: dict[str, Any] = {
        "status_code": 200,
        "outcome": "client_cancelled" if left else "complete",
        "error_message": "client_cancelled" if left else None,
        "responded_at": (at + timedelta(milliseconds=whole)).isoformat(),
        "response_time_ms": whole,
        "ttft_ms": first,
        "usage_source": "partial" if left else chance.choices(("provider", "estimated", "none"), (96, 2, 2))[0],
        "body_state": chance.choices(("stored", "pending", "failed"), (985, 10, 5))[0],
    }
    if told["usage_source"] == "none":
        return told
    paid_in = Decimal(model[3]) * (tokens_in - cached * 9 // 10) / 10**6
    paid_out = Decimal(model[4]) * tokens_out / 10**6
    told |= {"input_tokens": tokens_in, "output_tokens": tokens_out, "cached_tokens": cached}
    if model[0] != "together":
        told |= {"price_source": "genai-prices 2026.11.20", **_money(paid_in, paid_out)}
    return told


def _money(paid_in: Decimal, paid_out: Decimal) -> dict[str, float]:
    return {"input_cost": float(paid_in), "output_cost": float(paid_out), "total_cost": float(paid_in + paid_out)}
