"""Everything that may leave this network for Butler: every call there is, closed in its fields and in their values.

A string here is a UUID, a time, a member of a closed list, or matches a pattern and has a length (SECURITY F3, F6). The
one free text is what a caller put into his own tags and alias: lines of 256 characters, in three fields. Method, path
and query of a call are of these types too, and so are its headers (F20). `adapters/butler.py` takes nothing else. It
refuses whatever lies outside: a validation error names a field and never its value. Pure; auditors read this file, and
`steward egress schema` prints it as a JSON Schema.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Final, Literal
from urllib.parse import urlencode
from uuid import UUID

import orjson
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, WithJsonSchema
from pydantic.json_schema import models_json_schema

from steward.domains import OTHER_ROUTE
from steward.exchange import BodyState, ErrorCode, Outcome, UsageSource
from steward.providers import TABLES, TEMPLATES
from steward.version import VERSION

MAX_RECORDS: Final = 500
"""Rows of one call."""

MAX_PAGE: Final = 400
"""Keys or experiments of one page: 200, doubled once when a page brings nothing new."""


def _member(known: Collection[str]) -> AfterValidator:
    def member(text: str) -> str:
        if text not in known:
            raise ValueError("not one of the list")
        return text

    return AfterValidator(member)


def _enum(known: Collection[str]) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "enum": sorted(known)})


# Strings

Model = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9@][A-Za-z0-9._:/@+\-]{0,127}$", max_length=128)]
"""A model's name; what is not known to a price list or was never answered 2xx stands as `other` in the ledger."""

_ROUTES: Final = TEMPLATES | {OTHER_ROUTE}
RoutePath = Annotated[str, _member(_ROUTES), _enum(_ROUTES)]
"""A template of the providers' closed list, as `/v1/files/{id}`; never a path."""

Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "OTHER"]
Provider = Annotated[str, _member(TABLES), _enum(TABLES)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$", max_length=64)]
TagName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9\-]{0,63}$", max_length=64)]
_LINE: Final = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$"
TagValue = Annotated[str, StringConstraints(pattern=_LINE, max_length=256)]
"""One line that the caller put into his own `X-Majordomo-*` field: there alone may his words leave."""
Tags = Annotated[
    dict[TagName, TagValue],
    Field(max_length=64),
    WithJsonSchema(
        {
            "type": "object",
            "maxProperties": 64,
            "propertyNames": {"type": "string", "pattern": r"^[A-Za-z0-9][A-Za-z0-9\-]{0,63}$", "maxLength": 64},
            "additionalProperties": {"type": "string", "pattern": _LINE, "maxLength": 256},
        }
    ),
]
PriceSource = Annotated[
    str, StringConstraints(pattern=r"^[a-z][a-z\-]{0,31}(?: remote)? [0-9A-Za-z.:+\-]{1,40}$", max_length=80)
]
BodyKey = Annotated[
    str,
    StringConstraints(pattern=r"^[0-9a-f\-]{36}/[0-9]{4}-[0-9]{2}-[0-9]{2}/[0-9a-f\-]{36}\.json\.gz$", max_length=92),
]
"""Ids and a day: where an object lies below a prefix that is never told."""
Bearer = Annotated[str, StringConstraints(pattern=r"^Bearer mdm_st_[A-Za-z0-9_\-]{16,128}$", max_length=142)]
Id = Annotated[
    UUID,
    WithJsonSchema(
        {
            "type": "string",
            "format": "uuid",
            "pattern": "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
            "maxLength": 36,
        }
    ),
]
Moment = Annotated[
    AwareDatetime,
    AfterValidator(lambda at: at.astimezone(UTC)),
    WithJsonSchema(
        {
            "type": "string",
            "format": "date-time",
            "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{6})?Z$",
            "maxLength": 27,
        }
    ),
]
"""In UTC."""
UserAgent = Annotated[str, StringConstraints(pattern=r"^majordomo-steward/[0-9]+\.[0-9]+\.[0-9]+$", max_length=32)]

# Numbers

Count = Annotated[int, Field(ge=0, le=1_000_000_000)]
Milliseconds = Annotated[int, Field(ge=0, le=10**12)]
Money = Annotated[
    Decimal,
    Field(ge=0, le=10_000, max_digits=17, decimal_places=12, allow_inf_nan=False),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": 10_000, "multipleOf": 1e-12}),
]
"""USD of one call, to a millionth of a millionth. Printed as a JSON number, without exponent."""
Total = Annotated[
    Decimal,
    Field(ge=0, le=10**9, max_digits=22, decimal_places=12, allow_inf_nan=False),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": 10**9, "multipleOf": 1e-12}),
]
"""USD of a whole run."""
Share = Annotated[
    Decimal,
    Field(ge=0, le=1, max_digits=3, decimal_places=2, allow_inf_nan=False),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": 1, "multipleOf": 0.01}),
]
"""One of 101 steps: a score says little of what it was given for."""
Status = Annotated[int, Field(ge=0, le=999)]


class _Closed(BaseModel):
    """No field but those declared, no value of another type, none that changes, none in an error's words."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, hide_input_in_errors=True, revalidate_instances="always"
    )


class MetadataRecord(_Closed):
    """One relayed call. Where the ledger has NULL and Butler wants a number stands 0, and the sources say so."""

    id: Id
    revision: Annotated[int, Field(ge=1, le=2**53)]
    org_id: Id | None = None
    user_id: Id | None = None
    majordomo_api_key_id: Id | None = None
    proxy_key_id: Id | None = None
    provider_api_key_hash: Digest | None = None
    provider_api_key_alias: TagValue | None = None
    provider: Provider
    model: Model
    original_model: Model | None = None
    request_path: RoutePath
    request_method: Method
    requested_at: Moment
    responded_at: Moment
    response_time_ms: Milliseconds = 0
    ttft_ms: Milliseconds | None = None
    status_code: Status = 0
    outcome: Outcome
    error_message: ErrorCode | None = None
    usage_source: UsageSource
    input_tokens: Count = 0
    output_tokens: Count = 0
    cached_tokens: Count = 0
    cache_creation_tokens: Count = 0
    price_source: PriceSource | None = None
    input_cost: Money = Decimal(0)
    output_cost: Money = Decimal(0)
    total_cost: Money = Decimal(0)
    model_alias_found: bool
    raw_metadata: Tags | None = None
    indexed_metadata: Tags | None = None
    body_state: BodyState
    body_s3_key: BodyKey | None = None
    experiment_id: Id | None = None
    experiment_arm_id: Id | None = None


ORIGINAL_FIELDS: Final = frozenset(MetadataRecord.model_fields) - {
    *("revision", "usage_source", "price_source", "outcome", "ttft_ms", "body_state"),
}
"""What a Butler takes that does not say what it takes."""

# Jobs: what they may report. None sends one yet.

RunStatus = Literal["pending", "running", "completed", "failed", "cancelled"]


class _Update(_Closed):
    id: Id
    status: RunStatus
    error_message: ErrorCode | None = None
    started_at: Moment | None = None
    completed_at: Moment | None = None
    total_requests: Count | None = None


class ReplayUpdate(_Update):
    """How far a replay has come."""

    exact_matches: Count | None = None
    judge_equivalent: Count | None = None
    divergent: Count | None = None
    original_total_cost: Total | None = None
    replay_total_cost: Total | None = None
    original_avg_latency_ms: Milliseconds | None = None
    replay_avg_latency_ms: Milliseconds | None = None


class EvaluatorSummary(_Closed):
    """What one evaluator made of a run."""

    evaluator_id: Id
    count: Count
    mean: Share | None = None
    median: Share | None = None
    lowest: Share | None = None
    highest: Share | None = None
    pass_rate: Share | None = None
    interval_low: Share | None = None
    interval_high: Share | None = None


class EvalUpdate(_Update):
    """How far an evaluation has come."""

    successful_requests: Count | None = None
    failed_requests: Count | None = None
    judge_total_cost: Total | None = None
    evaluator_summary: Annotated[tuple[EvaluatorSummary, ...], Field(max_length=20)] | None = None


class _Result(_Closed):
    id: Id
    source_request_id: Id
    original_provider: Provider
    original_model: Model
    original_cost: Money
    original_latency_ms: Milliseconds
    original_input_tokens: Count
    original_output_tokens: Count
    replay_cost: Money | None = None
    replay_latency_ms: Milliseconds | None = None
    replay_input_tokens: Count | None = None
    replay_output_tokens: Count | None = None
    error_message: ErrorCode | None = None
    body_s3_key: BodyKey | None = None
    """Where the answer and the judge's reason lie: in the customer's bucket, never here."""
    created_at: Moment


class ReplayResult(_Result):
    """One call, replayed."""

    replay_run_id: Id
    exact_match: bool | None = None
    judge_equivalent: bool | None = None


class Score(_Closed):
    """What one evaluator gave one answer."""

    id: Id
    evaluator_name: Id
    """An id: a name would be text."""
    score: Share
    created_at: Moment


class EvalResult(_Result):
    """One call, evaluated."""

    eval_run_id: Id
    scores: Annotated[tuple[Score, ...], Field(max_length=20)]


# Calls

Limit = Annotated[int, Field(ge=1, le=MAX_PAGE)]


class Call(_Closed):
    """One call to Butler: where, what is asked, and what is sent. Each kind is a class of its own below."""

    METHOD: ClassVar[Literal["GET", "POST"]] = "GET"
    PATH: ClassVar[str] = ""
    QUERY: ClassVar[tuple[str, ...]] = ()
    BODY: ClassVar[str | None] = None
    """How the body is made of the fields that stand neither in the path nor in the query."""

    def target(self) -> str:
        """Path and query. What stands in braces is an id, and nothing else can."""
        path = self.PATH.format(**{name: value for name, value in self if isinstance(value, UUID)})
        asked = {name: getattr(self, name) for name in self.QUERY if getattr(self, name) is not None}
        return f"{path}?{urlencode({name: _asked(value) for name, value in asked.items()})}" if asked else path

    def body(self, fields: Collection[str] | None = None) -> bytes | None:
        """What is sent, as JSON; None for nothing. `fields`: the list of a record's that Butler takes."""
        return None

    @property
    def count(self) -> int:
        """Records in it."""
        return 0


class Me(Call):
    """Whose token it is, and which fields of a record are taken."""

    PATH = "/api/v1/steward/me"


class Work(Call):
    """What there is to do."""

    PATH = "/api/v1/steward/work"
    QUERY = ("limit",)
    limit: Limit


class Ack(Call):
    """It is done."""

    METHOD = "POST"
    PATH = "/api/v1/steward/work/{job_id}/ack"
    job_id: Id


class Fail(Ack):
    """It cannot be done. Why is not said."""

    PATH = "/api/v1/steward/work/{job_id}/fail"


class ApiKeys(Call):
    """Keys that changed since."""

    PATH = "/api/v1/steward/api-keys"
    QUERY = ("updated_after", "limit")
    updated_after: Moment | None = None
    limit: Limit = 200


class Experiments(ApiKeys):
    """Experiments that changed since."""

    PATH = "/api/v1/steward/experiments"


class StorageConfigs(Call):
    """All storage configs of the organisation."""

    PATH = "/api/v1/steward/cloud-storage-configs"


class ProviderKeys(Call):
    """All provider keys of the organisation."""

    PATH = "/api/v1/steward/provider-keys"


class ReplayRun(Call):
    """What a replay is to do."""

    PATH = "/api/v1/steward/replay-runs/{run_id}"
    run_id: Id


class EvalRun(ReplayRun):
    """What an evaluation is to do."""

    PATH = "/api/v1/steward/eval-runs/{run_id}"


class _Posted(Call):
    """A call that sends a list."""

    METHOD = "POST"
    BODY = "the array alone"

    def _listed(self) -> tuple[BaseModel, ...]:
        raise NotImplementedError

    def body(self, fields: Collection[str] | None = None) -> bytes | None:
        return _json([each.model_dump(exclude_none=True) for each in self._listed()])

    @property
    def count(self) -> int:
        return len(self._listed())


class Ingest(_Posted):
    """Rows of the ledger."""

    PATH = "/api/v1/steward/ingest/metadata"
    BODY = "an object with the array"
    records: Annotated[tuple[MetadataRecord, ...], Field(min_length=1, max_length=MAX_RECORDS)]

    def body(self, fields: Collection[str] | None = None) -> bytes:
        """The records, each with the fields that Butler takes."""
        taken = set(ORIGINAL_FIELDS if fields is None else fields) & set(MetadataRecord.model_fields)
        return _json({"records": [each.model_dump(include=taken, exclude_none=True) for each in self.records]})

    def _listed(self) -> tuple[BaseModel, ...]:
        return self.records


class ReplayUpdates(_Posted):
    """How far replays have come."""

    PATH = "/api/v1/steward/replay-runs/status"
    updates: Annotated[tuple[ReplayUpdate, ...], Field(min_length=1, max_length=MAX_RECORDS)]

    def _listed(self) -> tuple[BaseModel, ...]:
        return self.updates


class EvalUpdates(_Posted):
    """How far evaluations have come."""

    PATH = "/api/v1/steward/eval-runs/status"
    updates: Annotated[tuple[EvalUpdate, ...], Field(min_length=1, max_length=MAX_RECORDS)]

    def _listed(self) -> tuple[BaseModel, ...]:
        return self.updates


class ReplayResults(_Posted):
    """What replays gave."""

    PATH = "/api/v1/steward/replay-results"
    results: Annotated[tuple[ReplayResult, ...], Field(min_length=1, max_length=MAX_RECORDS)]

    def _listed(self) -> tuple[BaseModel, ...]:
        return self.results


class EvalResults(_Posted):
    """What evaluations gave."""

    PATH = "/api/v1/steward/eval-results"
    results: Annotated[tuple[EvalResult, ...], Field(min_length=1, max_length=MAX_RECORDS)]

    def _listed(self) -> tuple[BaseModel, ...]:
        return self.results


class ManagedPending(Call):
    """Organisations to take over (managed mode)."""

    PATH = "/api/v1/steward/managed/pending"


class ManagedClaim(Call):
    """One was taken over."""

    METHOD = "POST"
    PATH = "/api/v1/steward/managed/assignments/{assignment_id}/claim"
    assignment_id: Id


CALLS: Final[tuple[type[Call], ...]] = (
    *(Me, Work, Ack, Fail, ApiKeys, StorageConfigs, ProviderKeys, Experiments, Ingest, ReplayRun, EvalRun),
    *(ReplayUpdates, EvalUpdates, ReplayResults, EvalResults, ManagedPending, ManagedClaim),
)
"""All there are."""


class Headers(_Closed):
    """The fields of every call's head that are not the connection's own (`host connection content-length`)."""

    authorization: Bearer = Field(repr=False)
    user_agent: UserAgent = f"majordomo-steward/{VERSION}"
    accept: Literal["application/json"] = "application/json"
    accept_encoding: Literal["identity"] = "identity"
    """Eight megabytes on the wire are then eight megabytes here."""
    content_type: Literal["application/json"] | None = None

    def fields(self) -> list[tuple[bytes, bytes]]:
        """As they go on the wire."""
        said = self.model_dump(exclude_none=True)
        return [(name.replace("_", "-").encode(), value.encode()) for name, value in said.items()]


def schema() -> dict[str, Any]:
    """All of it as a JSON Schema (2020-12): per call its method, its path, and what its parts may hold."""
    kinds: tuple[type[BaseModel], ...] = (*CALLS, Headers)
    modes: list[tuple[type[BaseModel], Literal["validation", "serialization"]]] = [
        (kind, "validation") for kind in kinds
    ]
    _, whole = models_json_schema(modes, title="What may leave for Butler")
    for kind in CALLS:
        about = whole["$defs"][kind.__name__]
        about["x-method"], about["x-path"], about["x-query"] = kind.METHOD, kind.PATH, list(kind.QUERY)
        about["x-body"] = kind.BODY
    head = whole["$defs"]["Headers"]
    head["properties"] = {name.replace("_", "-"): about for name, about in head["properties"].items()}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_without_defaults(whole)}


def _without_defaults(schema: Any) -> Any:
    """What holds where nothing is said is the program's affair: the schema says what may stand on the wire."""
    if isinstance(schema, list):
        return [_without_defaults(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {name: _without_defaults(each) for name, each in schema.items() if name not in {"default", "title"}}


def _asked(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return str(value)


def _json(value: object) -> bytes:
    return orjson.dumps(value, default=_number, option=orjson.OPT_UTC_Z)


def _number(value: object) -> orjson.Fragment:
    """Money as a number with all its digits: a float would round it, a string would be none."""
    if isinstance(value, Decimal):
        return orjson.Fragment(format(value, "f"))
    raise TypeError
