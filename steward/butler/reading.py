"""What a Steward sends to ingest, read into closed types: ours with its own fields, and the original's without them.

Refuses an unknown field and a value of another type, naming the field and the record's place, never the value. What the
original sends outside a closed list is brought into it: a path becomes `/{other}`, a sentence the code `other`, an
unknown body key nothing. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from steward.butler.errors import NotAcceptable, TooLong
from steward.domains import OTHER_METHOD, OTHER_MODEL, OTHER_ROUTE, clean_text
from steward.egress import MAX_RECORDS, Count, Digest, MetadataRecord, Milliseconds
from steward.exchange import BodyState, ErrorCode, Outcome, UsageSource
from steward.providers import TEMPLATES

MAX_BODY_BYTES: Final = 8 << 20
MAX_TAGS: Final = 64
MAX_TAG_CHARS: Final = 256
RECORD_FIELDS: Final = tuple(MetadataRecord.model_fields)
"""What `GET /me` says that is taken."""

_TAG_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")
_MODEL: Final = re.compile(r"[A-Za-z0-9@][A-Za-z0-9._:/@+-]{0,127}")
_BODY_KEY: Final = re.compile(r"[0-9a-f-]{36}/[0-9]{4}-[0-9]{2}-[0-9]{2}/[0-9a-f-]{36}\.json\.gz")
_PRICE_SOURCE: Final = re.compile(r"[a-z][a-z-]{0,31}(?: remote)? [0-9A-Za-z.:+-]{1,40}")
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
_CODES: Final = frozenset(ErrorCode)
_MONEY_STEP: Final = Decimal("1e-12")
_MARKS: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[{,}\]]', re.DOTALL)
"""Strings, whole, and what stands between values. One that never ends is one match: to look for its end again from each
quote in it would take hours."""
_MAX_DEPTH: Final = 8
_MAX_VALUES: Final = MAX_RECORDS * (len(RECORD_FIELDS) + 2 * MAX_TAGS + 4)
"""Of a document: a full batch of full records has fewer. Eight MiB of `{}` would be 200 MiB of objects."""


def _text_of(said: object, otherwise: str, allowed: bool) -> str:
    if not isinstance(said, str):
        raise ValueError("not a string")  # noqa: TRY004 - pydantic catches ValueError alone
    return said if allowed else otherwise


def _model(said: object) -> object:
    return said if said is None else _text_of(said, OTHER_MODEL, isinstance(said, str) and bool(_MODEL.fullmatch(said)))


def _path(said: object) -> str:
    return _text_of(said, OTHER_ROUTE, said in TEMPLATES if isinstance(said, str) else False)


def _method(said: object) -> str:
    return _text_of(said, OTHER_METHOD, said in _METHODS if isinstance(said, str) else False)


def _code(said: object) -> object:
    """The original sends the provider's words here, 500 octets of them: they end at this line."""
    if said is None or said == "":
        return None
    return _text_of(said, ErrorCode.OTHER, said in _CODES if isinstance(said, str) else False)


def _body_key(said: object) -> object:
    if said is None:
        return None
    found = _BODY_KEY.search(_text_of(said, "", allowed=True))
    return found[0] if found else None


def _line(said: object) -> object:
    return said if said is None else clean_text(_text_of(said, "", allowed=True), MAX_TAG_CHARS)


def _tags(said: object) -> object:
    if said is None:
        return {}
    if not isinstance(said, dict):
        raise ValueError("not an object")  # noqa: TRY004
    kept: dict[str, str] = {}
    for name, value in said.items():
        if _TAG_NAME.fullmatch(name) and len(kept) < MAX_TAGS:
            kept[name] = clean_text(value if isinstance(value, str) else _plain(value), MAX_TAG_CHARS)
    return kept


def _plain(value: object) -> str:
    """A number or a truth value as a tag: its JSON text. Nothing else is one."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | Decimal):
        return format(value, "f") if isinstance(value, Decimal) else str(value)
    raise ValueError("not a string")


def _money(said: object) -> object:
    if isinstance(said, bool) or not isinstance(said, int | Decimal):
        raise ValueError("not a number")  # noqa: TRY004
    try:
        return Decimal(said).quantize(_MONEY_STEP)
    except InvalidOperation:
        raise ValueError("out of range") from None


def _id(said: object) -> object:
    return None if said is None or said == "" else said


_Id = Annotated[UUID | None, BeforeValidator(_id)]
_Cost = Annotated[Decimal, BeforeValidator(_money), Field(ge=0, le=10_000)]
_Line = Annotated[str | None, BeforeValidator(_line)]
_Provider = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_\-]{0,31}$")]


class SentRecord(BaseModel):
    """One record as it stands on the wire. The same fields as `egress.MetadataRecord`; a test compares them."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    id: UUID
    revision: Annotated[int, Field(ge=1, le=2**53)] | None = None
    org_id: _Id = None
    user_id: _Id = None
    majordomo_api_key_id: _Id = None
    proxy_key_id: _Id = None
    provider_api_key_hash: Digest | None = None
    provider_api_key_alias: _Line = None
    provider: _Provider
    model: Annotated[str, BeforeValidator(_model)]
    original_model: Annotated[str | None, BeforeValidator(_model)] = None
    request_path: Annotated[str, BeforeValidator(_path)]
    request_method: Annotated[str, BeforeValidator(_method)]
    requested_at: AwareDatetime
    responded_at: AwareDatetime | None = None
    response_time_ms: Milliseconds = 0
    ttft_ms: Milliseconds | None = None
    status_code: Annotated[int, Field(ge=0, le=999)] = 0
    outcome: Outcome | None = None
    error_message: Annotated[str | None, BeforeValidator(_code)] = None
    usage_source: UsageSource | None = None
    input_tokens: Count = 0
    output_tokens: Count = 0
    cached_tokens: Count = 0
    cache_creation_tokens: Count = 0
    price_source: Annotated[str | None, StringConstraints(pattern=rf"^{_PRICE_SOURCE.pattern}$", max_length=80)] = None
    input_cost: _Cost = Decimal(0)
    output_cost: _Cost = Decimal(0)
    total_cost: _Cost = Decimal(0)
    model_alias_found: bool = False
    raw_metadata: Annotated[dict[str, str], BeforeValidator(_tags)] = Field(default_factory=dict)
    indexed_metadata: Annotated[dict[str, str], BeforeValidator(_tags)] = Field(default_factory=dict)
    body_state: BodyState | None = None
    body_s3_key: Annotated[str | None, BeforeValidator(_body_key)] = None
    experiment_id: _Id = None
    experiment_arm_id: _Id = None


@dataclass(frozen=True, slots=True)
class Received:
    """One record as it is kept: unknown is None, whatever number stood in its place on the wire."""

    id: UUID
    revision: int
    requested_at: datetime
    user_id: UUID | None
    api_key_id: UUID | None
    proxy_key_id: UUID | None
    provider_api_key_hash: str | None
    provider_api_key_alias: str | None
    provider: str
    model: str
    original_model: str | None
    request_path: str
    request_method: str
    responded_at: datetime | None
    response_time_ms: int | None
    ttft_ms: int | None
    status_code: int | None
    outcome: str | None
    error_message: str | None
    usage_source: str | None
    input_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None
    cache_creation_tokens: int | None
    price_source: str | None
    input_cost: Decimal | None
    output_cost: Decimal | None
    total_cost: Decimal | None
    model_alias_found: bool
    tags: Mapping[str, str]
    body_state: str | None
    body_s3_key: str | None
    experiment_id: UUID | None
    experiment_arm_id: UUID | None


def records(document: bytes, org_id: UUID) -> list[Received]:
    """The records of an ingest call, for the token's organisation. Raises NotAcceptable (field and place), TooLong."""
    said = parsed(document)
    if not isinstance(said, dict) or not isinstance(said.get("records"), list):
        raise NotAcceptable("records")
    if said.keys() != {"records"}:
        raise NotAcceptable(_named(next(iter(said.keys() - {"records"}))))
    if not 0 < len(said["records"]) <= MAX_RECORDS:
        raise NotAcceptable("records")
    return [_received(each, org_id, place) for place, each in enumerate(said["records"])]


def parsed(document: bytes) -> object:
    """JSON within bounds of size and depth, its fractions as Decimal. Raises NotAcceptable, TooLong."""
    if len(document) > MAX_BODY_BYTES:
        raise TooLong
    try:
        if not _is_bounded(document):
            raise NotAcceptable
        return json.loads(document.decode(), parse_float=Decimal, parse_constant=_no_number)
    except (ValueError, RecursionError, InvalidOperation):
        raise NotAcceptable from None


def _is_bounded(document: bytes) -> bool:
    """Whether its nesting and its number of values are such that what they become fits in memory many times."""
    depth = values = 0
    for found in _MARKS.finditer(document):
        mark = found[0][:1]
        values += mark in b",[{"
        depth += (mark in b"[{") - (mark in b"]}")
        if depth > _MAX_DEPTH or values > _MAX_VALUES:
            return False
    return True


def _no_number(_: str) -> object:
    raise ValueError("no JSON")


def _received(said: object, org_id: UUID, place: int) -> Received:
    try:
        sent = SentRecord.model_validate(said)
    except ValidationError as fault:
        first = fault.errors(include_url=False, include_context=False, include_input=False)[0]
        raise NotAcceptable(_named(first["loc"][0] if first["loc"] else ""), place) from None
    if sent.org_id not in {None, org_id}:
        raise NotAcceptable("org_id", place)
    try:
        return _kept(sent)
    except OverflowError:
        raise NotAcceptable("requested_at", place) from None


def _named(field: object) -> str:
    """A field's name as it may be repeated: one that is none of ours only when it could be one."""
    return field if isinstance(field, str) and re.fullmatch(r"[a-z][a-z0-9_]{0,63}", field) else ""


def _kept(sent: SentRecord) -> Received:
    """NULL where the sources say that the number stands for nothing. The original has no sources: its word is taken."""
    ours = sent.usage_source is not None
    metered = sent.usage_source is not UsageSource.NONE
    priced = sent.price_source is not None or not ours
    answered = sent.status_code != 0
    facts: dict[str, Any] = sent.model_dump(
        exclude={"org_id", "majordomo_api_key_id", "raw_metadata", "indexed_metadata"}
    )
    for name in ("input_tokens", "output_tokens", "cached_tokens", "cache_creation_tokens"):
        facts[name] = facts[name] if metered else None
    for name in ("input_cost", "output_cost", "total_cost"):
        facts[name] = facts[name] if priced else None
    facts["revision"] = sent.revision or 1
    facts["requested_at"] = sent.requested_at.astimezone(UTC)
    facts["responded_at"] = sent.responded_at.astimezone(UTC) if sent.responded_at else None
    facts["status_code"] = sent.status_code if answered else None
    facts["response_time_ms"] = sent.response_time_ms if answered or sent.response_time_ms else None
    facts["api_key_id"] = sent.majordomo_api_key_id
    tags = sent.raw_metadata | sent.indexed_metadata
    facts["tags"] = dict(list(tags.items())[:MAX_TAGS])
    return Received(**facts)
