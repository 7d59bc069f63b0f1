"""The closed list of what a log line may hold: each field's name, and the domain its value must lie in.

Free text has no field, so it cannot be said: a value outside its domain is masked, a name outside the list dropped and
counted. Pure; whoever audits the logs reads this file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from enum import Enum
from types import MappingProxyType
from typing import TypedDict
from uuid import UUID

from steward.errors import StewardError
from steward.exchange import BodyState, ErrorCode, Operation, Outcome, UsageSource

MASK = "***"
MAX_NUMBER = 2**63
MAX_LIST = 64

Domain = Callable[[object], object]
"""A value as it is written, or None when it lies outside."""


class Sentence(str):
    """One of our own fixed sentences. Made from literals, never from what someone sent."""

    __slots__ = ()


class Facts(TypedDict, total=False):
    """The fields, for the type checker; `DOMAINS` holds the same names for the running program."""

    at_ms: float
    attempts: int
    body_state: BodyState
    bytes: int
    cached_tokens: int
    cache_creation_tokens: int
    cause: str
    code: str
    connections: int
    cost_usd: Decimal
    count: int
    error: str
    first_ms: float
    frames: Sequence[str]
    head_ms: float
    host: str
    id: UUID
    input_tokens: int
    key: UUID
    last_ms: float
    logger: str
    method: str
    model: str
    operation: Operation
    ops_port: int
    org: UUID
    outcome: Outcome
    output_tokens: int
    pid: int
    place: str
    port: int
    price_source: str
    provider: str
    provider_cost_usd: Decimal
    reasoning_tokens: int
    request_bytes: int
    response_bytes: int
    revision: str
    seconds: float
    sent_ms: float
    sentence: Sentence
    service_tier: str
    setting: str
    signal: str
    sqlstate: str
    status: int
    store: str
    streamed: bool
    tags: int
    tags_dropped: int
    tags_refused: Sequence[str]
    task: str
    template: str
    truncated: bool
    until: datetime
    usage_source: UsageSource
    vendor_code: str
    version: str
    view_port: int
    web_searches: int
    work: str
    worker: int
    workers: int


def event_name(event: str) -> str:
    """The event's name when it is one of our lower-case words, else the mask."""
    return event if _EVENT.fullmatch(event) else MASK


def _number(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if -MAX_NUMBER < value < MAX_NUMBER else None


def _flag(value: object) -> object:
    return value if isinstance(value, bool) else None


def _usd(value: object) -> object:
    return format(value, "f") if isinstance(value, Decimal) and value.is_finite() and abs(value) < MAX_NUMBER else None


def _uuid(value: object) -> object:
    return str(value) if isinstance(value, UUID) else None


def _time(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else None


def _member(*kinds: type[Enum]) -> Domain:
    def within(value: object) -> object:
        return value.value if isinstance(value, kinds) else None

    return within


def _one_of(words: frozenset[str]) -> Domain:
    def within(value: object) -> object:
        return str(value) if isinstance(value, str) and value in words else None

    return within


def _like(pattern: str) -> Domain:
    whole = re.compile(pattern)

    def within(value: object) -> object:
        return str(value) if isinstance(value, str) and whole.fullmatch(value) else None

    return within


def _each(domain: Domain) -> Domain:
    def within(value: object) -> object:
        if not isinstance(value, list | tuple):
            return None
        return [MASK if (said := domain(one)) is None else said for one in value[:MAX_LIST]]

    return within


def _own(value: object) -> object:
    return str(value) if isinstance(value, Sentence) else None


def _codes(kind: type[StewardError]) -> set[str]:
    """The codes of the error tree below `kind`."""
    return {kind.code}.union(*(_codes(below) for below in kind.__subclasses__()))


_EVENT = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+){0,7}")
_CODES = frozenset(_codes(StewardError) | {code.value for code in ErrorCode} | {"foreign"})
_TIERS = frozenset({"auto", "batch", "default", "fast", "flex", "on_demand", "priority", "scale", "standard"})
_SIGNALS = frozenset({"SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2"})
_SETS = ("sync_api_keys", "sync_cloud_storage", "sync_provider_keys")
_IDENTIFIER = r"[A-Za-z_][A-Za-z0-9_]{0,79}"
_CONCERNS_NUMBERS = (
    *("at_ms", "attempts", "bytes", "cached_tokens", "cache_creation_tokens", "connections", "count", "first_ms"),
    *("head_ms", "input_tokens", "last_ms", "ops_port", "output_tokens", "pid", "port", "reasoning_tokens"),
    *(
        "request_bytes",
        "response_bytes",
        "seconds",
        "sent_ms",
        "status",
        "tags",
        "tags_dropped",
        "view_port",
        "web_searches",
    ),
    *("worker", "workers"),
)

DOMAINS: Mapping[str, Domain] = MappingProxyType(
    dict.fromkeys(_CONCERNS_NUMBERS, _number)
    | {
        "body_state": _member(BodyState),
        "cause": _like(_IDENTIFIER),
        "code": _one_of(_CODES),
        "cost_usd": _usd,
        "error": _like(_IDENTIFIER),
        "frames": _each(_like(r"[A-Za-z0-9_.<>/ -]{1,160}:[0-9]{1,7} [A-Za-z0-9_.<>]{1,80}")),
        "host": _like(r"[A-Za-z0-9.:_%-]{1,253}"),
        "id": _uuid,
        "key": _uuid,
        "logger": _like(r"[A-Za-z_][A-Za-z0-9_.]{0,79}"),
        "method": _like(r"[A-Z]{1,7}"),
        "model": _like(r"[A-Za-z0-9@][A-Za-z0-9._:/@+-]{0,127}"),
        "operation": _member(Operation),
        "org": _uuid,
        "outcome": _member(Outcome),
        "place": _like(r"[A-Za-z0-9_.<>-]{1,80}:[0-9]{1,7}"),
        "price_source": _like(r"[a-z][a-z-]{0,31}(?: remote)? [0-9A-Za-z.:+-]{1,40}"),
        "provider": _like(r"[a-z][a-z0-9_-]{0,31}"),
        "provider_cost_usd": _usd,
        "revision": _like(r"[a-z0-9_]{1,64}"),
        "sentence": _own,
        "service_tier": _one_of(_TIERS),
        "setting": _like(r"[A-Z][A-Z0-9_]{0,63}"),
        "signal": _one_of(_SIGNALS),
        "sqlstate": _like(r"[0-9A-Z]{5}"),
        "store": _one_of(frozenset({"s3", "gcs", "files", "memory"})),
        "streamed": _flag,
        "tags_refused": _each(_like(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")),
        "task": _like(r"[a-z][a-z_]{0,31}"),
        "template": _like(r"/[A-Za-z0-9_{}:/.*-]{0,127}"),
        "truncated": _flag,
        "until": _time,
        "usage_source": _member(UsageSource),
        "vendor_code": _like(r"[A-Za-z][A-Za-z0-9]{0,39}"),
        "work": _one_of(frozenset({"replay", "eval", "sync_experiments", "unknown", *_SETS})),
        "version": _like(r"[0-9][0-9A-Za-z.+-]{0,31}"),
    }
)
