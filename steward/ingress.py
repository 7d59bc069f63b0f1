"""Everything that Butler may say, read into closed types: ids are UUIDs, texts bounded, and all else is nonsense.

It believes nothing: what is read here takes effect only where local settings, or a person
inside, allow. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final, Literal, TypeVar, get_args
from uuid import UUID

import orjson

from steward import values
from steward.destination import (
    GcsDestination,
    GoogleServiceAccount,
    HostRole,
    S3Destination,
    S3Keys,
    is_gcs_bucket,
    is_region,
    is_s3_bucket,
)
from steward.domains import clean_text
from steward.errors import ButlerNonsense
from steward.ports import DeprecatedModels, Identity, SentKey
from steward.sent import OwnerType, SentDestination, SentProviderKey, StorageConfig
from steward.words import Secret

T = TypeVar("T")

MAX_NAME: Final = 200
MAX_FIELDS: Final = 200
MAX_ROWS: Final = 10_000
"""Of one answer, whatever was asked for."""
MAX_ASSIGNMENTS: Final = 1000
MAX_GOOGLE_KEY: Final = 16 << 10
S3_DEFAULT_REGION: Final = "us-east-1"
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NIL: Final = str(UUID(int=0))
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_STEWARD_TOKEN: Final = re.compile(r"mdm_st_[A-Za-z0-9_-]{16,128}")
_MOMENT: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?(?:Z|[+-][0-9]{2}:[0-9]{2})"
)
_BEHAVIOURS: Final[Mapping[str, DeprecatedModels]] = MappingProxyType(
    {name: name for name in get_args(DeprecatedModels)}
)
_FIELD: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_PROVIDER: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_PROVIDER_KEY: Final = re.compile(r"[!-~]{8,4096}")
_ACCESS_KEY_ID: Final = re.compile(r"[!-~]{3,128}")
_SECRET_KEY: Final = re.compile(r"[!-~]{8,256}")
_PROJECT: Final = re.compile(r"[a-z0-9][a-z0-9.:-]{1,99}")
_S3_FIELDS: Final = frozenset({"s3_bucket", "s3_region", "s3_endpoint", "s3_access_key_id", "s3_secret_access_key"})
_GCS_FIELDS: Final = frozenset({"gcs_bucket", "gcs_project_id", "gcs_credentials_json"})
_AWS_ENDPOINTS: Final = (
    "https://s3.{region}.amazonaws.com",
    "https://s3.{region}.amazonaws.com.cn",
    "https://s3.amazonaws.com",
)
"""The vendor's own addresses, spelled out: exactly these. Others under its names may be anybody's."""
_GOOGLE_KEY: Final[Mapping[str, re.Pattern[str]]] = {
    "type": re.compile(r"service_account"),
    "project_id": _PROJECT,
    "private_key_id": re.compile(r"[0-9a-f]{1,128}"),
    "private_key": re.compile(r"-----BEGIN PRIVATE KEY-----\n[A-Za-z0-9+/=\n]{1,8192}\n-----END PRIVATE KEY-----\n?"),
    "client_email": re.compile(r"[A-Za-z0-9._-]{1,128}@[a-z0-9.-]{1,200}\.gserviceaccount\.com"),
    "client_id": re.compile(r"[0-9]{0,64}"),
    "auth_uri": re.compile(r"https://accounts\.google\.com/o/oauth2/(?:v2/)?auth"),
    "token_uri": re.compile(r"https://(?:oauth2\.googleapis\.com|accounts\.google\.com/o/oauth2)/token"),
    "auth_provider_x509_cert_url": re.compile(r"https://www\.googleapis\.com/oauth2/v1/certs"),
    "client_x509_cert_url": re.compile(r"https://www\.googleapis\.com/robot/v1/metadata/x509/[A-Za-z0-9._%-]{1,256}"),
    "universe_domain": re.compile(r"googleapis\.com"),
}
"""Every field that a Google key may have, with what it may say. Four are kept (SECURITY F7)."""
_GOOGLE_KEPT: Final = ("client_email", "private_key", "private_key_id", "project_id")


def identity(said: object) -> Identity:
    """The answer to `Me`. Raises ButlerNonsense."""
    if not isinstance(said, dict):
        raise ButlerNonsense
    name = said.get("org_name")
    if not isinstance(name, str) or not (named := clean_text(name, MAX_NAME).strip()):
        raise ButlerNonsense
    return Identity(_id(said.get("steward_id")), _id(said.get("org_id")), named, _fields(said.get("record_fields")))


@dataclass(frozen=True, slots=True)
class KeysSaid:
    """A page of keys, as far as it was understood."""

    keys: tuple[SentKey, ...]
    size: int
    """Rows that it had."""
    seen: frozenset[UUID]
    """Ids that stood in it, also of rows that were not understood."""
    newest: datetime | None
    """The latest change that is not later than now."""

    @property
    def skipped(self) -> int:
        """Rows that were not understood, or are of another organisation."""
        return self.size - len(self.keys)


def api_keys(said: object, org_id: UUID, now: datetime) -> KeysSaid:
    """A page of `ApiKeys`, for the organisation whose token fetched it. Raises ButlerNonsense for what is no page."""
    rows = _listed(said, MAX_ROWS)
    understood = [_read(_sent_key, row, org_id) for row in rows]
    ids = (_read(_row_id, row, org_id) for row in rows)
    changes = [at for row in rows if (at := _read(_changed_at, row, org_id)) is not None and at <= now]
    return KeysSaid(
        keys=tuple(key for key in understood if key is not None),
        size=len(rows),
        seen=frozenset(each for each in ids if each is not None),
        newest=max(changes, default=None),
    )


JobKind = Literal["sync_api_keys", "sync_cloud_storage", "sync_provider_keys", "sync_experiments", "replay", "eval"]
JOB_KINDS: Final[Mapping[str, JobKind]] = MappingProxyType({name: name for name in get_args(JobKind)})


@dataclass(frozen=True, slots=True)
class WorkItem:
    """One thing to do."""

    job_id: UUID
    kind: JobKind | None
    """None: it is not understood, or not for this organisation; it can only be failed."""


@dataclass(frozen=True, slots=True)
class WorkSaid:
    """What there is to do."""

    items: tuple[WorkItem, ...]
    """Each once."""
    size: int
    """How many it said."""


def work(said: object, org_id: UUID) -> WorkSaid:
    """The answer to `Work`. One without an id of its own cannot even be failed. Raises ButlerNonsense."""
    rows = _listed(said, MAX_ROWS)
    items: dict[UUID, WorkItem] = {}
    for row in rows:
        job_id = _read(_job_id, row, org_id)
        if job_id is not None:
            items.setdefault(job_id, WorkItem(job_id, _read(_job_kind, row, org_id)))
    return WorkSaid(tuple(items.values()), len(rows))


@dataclass(frozen=True, slots=True)
class Assignment:
    """An organisation to take over, before its token was asked whose it is."""

    id: UUID
    org_id: UUID
    token: Secret[str]


def managed_pending(said: object) -> tuple[tuple[Assignment, ...], int]:
    """The answer to `ManagedPending`: what was understood, an organisation once; how many were not. ButlerNonsense."""
    rows = _listed(said, MAX_ASSIGNMENTS)
    found: dict[UUID, Assignment] = {}
    for row in rows:
        each = _read(_assignment, row, None)
        if each is not None:
            found.setdefault(each.org_id, each)
    return tuple(found.values()), len(rows) - len(found)


def shown(text: str) -> str:
    """A text of Butler's for a terminal: what would move the cursor, colour or hide something is escaped (F20)."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text)


def _listed(said: object, most: int) -> list[object]:
    if not isinstance(said, list) or len(said) > most:
        raise ButlerNonsense
    return said


def _read(read: Callable[[dict[str, object], UUID | None], T], row: object, org_id: UUID | None) -> T | None:
    """None: this row alone is not understood."""
    try:
        return read(row, org_id) if isinstance(row, dict) else None
    except ButlerNonsense:
        return None


def _sent_key(row: dict[str, object], org_id: UUID | None) -> SentKey:
    _compare(row, org_id)
    digest, active = row.get("key_hash"), row.get("is_active")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest) or not isinstance(active, bool):
        raise ButlerNonsense
    return SentKey(
        id=_id(row.get("id")),
        key_hash=digest,
        name=_name(row.get("name")),
        is_active=active,
        created_at=_moment(row.get("created_at")),
        updated_at=_moment(row.get("updated_at")),
        description=_optional(_name, row.get("description") or None),
        user_id=_optional(_id, row.get("user_id")),
        revoked_at=_optional(_moment, row.get("revoked_at")),
        deprecated_model_behavior=_BEHAVIOURS.get(str(row.get("deprecated_model_behavior")), "passthrough"),
    )


def _row_id(row: dict[str, object], _: UUID | None) -> UUID:
    return _id(row.get("id"))


def _changed_at(row: dict[str, object], _: UUID | None) -> datetime:
    return _moment(row.get("updated_at"))


def _job_id(row: dict[str, object], _: UUID | None) -> UUID:
    return _id(row.get("job_id"))


def _job_kind(row: dict[str, object], org_id: UUID | None) -> JobKind:
    _compare(row, org_id)
    kind = JOB_KINDS.get(str(row.get("job_type")))
    if kind is None:
        raise ButlerNonsense
    return kind


def _assignment(row: dict[str, object], _: UUID | None) -> Assignment:
    token = row.get("token")
    if not isinstance(token, str) or not _STEWARD_TOKEN.fullmatch(token):
        raise ButlerNonsense
    return Assignment(_id(row.get("id")), _id(row.get("org_id")), Secret(token))


def _compare(row: dict[str, object], org_id: UUID | None) -> None:
    """Whose a row is says the token that fetched it; one that says otherwise is refused (SECURITY F8)."""
    if _optional(_id, row.get("org_id")) not in {None, org_id}:
        raise ButlerNonsense


def _optional(read: Callable[[object], T], said: object) -> T | None:
    return None if said is None else read(said)


def _name(said: object) -> str:
    """1 to 200 characters that the database takes; a longer one is cut."""
    if not isinstance(said, str) or not (kept := clean_text(said.strip(), MAX_NAME).strip()):
        raise ButlerNonsense
    return kept


def _moment(said: object) -> datetime:
    """RFC 3339, to the microsecond, in UTC."""
    if not isinstance(said, str) or not _MOMENT.fullmatch(said):
        raise ButlerNonsense
    try:
        return datetime.fromisoformat(said).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ButlerNonsense from None


def _id(said: object) -> UUID:
    """Written as RFC 9562 writes it, and no other way. The nil id is that of whoever was never registered: ours."""
    if not isinstance(said, str) or not _UUID.fullmatch(said) or said == _NIL:
        raise ButlerNonsense
    return UUID(said)


def _fields(said: object) -> frozenset[str] | None:
    """Those that we know; a Butler that takes no id takes no record."""
    if said is None:
        return None
    if not isinstance(said, list) or len(said) > MAX_FIELDS or "id" not in said:
        raise ButlerNonsense
    return frozenset(each for each in said if isinstance(each, str) and _FIELD.fullmatch(each))


def storage_configs(said: object) -> tuple[StorageConfig, ...]:
    """The answer to `CloudStorageConfigs`. Raises ButlerNonsense for what is no list of at most 10,000 rows.

    A row without an owner is skipped, alone. One whose owner is known and whose rest is not understood, or that stands
    twice, has no destination: what was in force for that owner stays. `not_understood` counts both.
    """
    rows: dict[tuple[OwnerType, UUID], StorageConfig] = {}
    for row in _rows(said):
        try:
            owner = OwnerType(str(row["owner_type"])), _id(row.get("owner_id"))
        except (ButlerNonsense, KeyError, ValueError):
            continue
        try:
            read = StorageConfig(*owner, _destination(row))
        except ValueError:
            read = StorageConfig(*owner, None)
        rows[owner] = replace(read, destination=None) if owner in rows else read
    return tuple(rows.values())


def provider_keys(said: object) -> tuple[SentProviderKey, ...]:
    """The answer to `ProviderKeys`. A row that is not understood, or whose id stands twice, is skipped.

    Raises ButlerNonsense as above.
    """
    keys: dict[UUID, SentProviderKey] = {}
    for row in _rows(said):
        try:
            key = _provider_key(row)
        except (ButlerNonsense, ValueError):
            continue
        keys.setdefault(key.id, key)
    return tuple(keys.values())


def not_understood(said: object, kept: Sequence[StorageConfig | SentProviderKey]) -> int:
    """How many of the rows were not understood."""
    empty = sum(isinstance(each, StorageConfig) and each.destination is None for each in kept)
    return (len(said) if isinstance(said, list) else 0) - len(kept) + empty


def _rows(said: object) -> list[dict[str, object]]:
    if not isinstance(said, list) or len(said) > MAX_ROWS:
        raise ButlerNonsense
    return [row for row in said if isinstance(row, dict)]


def _provider_key(row: dict[str, object]) -> SentProviderKey:
    """The user's who is named, else the organisation's. Raises ButlerNonsense, ValueError."""
    user, org = (None if row.get(name) in (None, "") else _id(row[name]) for name in ("user_id", "org_id"))
    if user is None and org is None:
        raise ValueError("nobody's")
    provider, key = _text(row, "provider", _PROVIDER), _text(row, "key", _PROVIDER_KEY)
    if provider is None or key is None:
        raise ValueError("a provider and its key")
    owner_type = OwnerType.ORG if user is None else OwnerType.USER
    return SentProviderKey(_id(row.get("id")), owner_type, user or org or _id(None), provider, Secret(key), org)


def _destination(row: dict[str, object]) -> SentDestination:
    """Raises ValueError for a field too many, too few, or of another form."""
    own, others = (_S3_FIELDS, _GCS_FIELDS) if row.get("provider") == "s3" else (_GCS_FIELDS, _S3_FIELDS)
    given = {name for name, value in row.items() if value not in (None, "")}
    if others & given or any(name.startswith(("s3_", "gcs_")) for name in given - own):
        raise ValueError("fields of two vendors, or of none")
    if row.get("provider") == "s3":
        return _s3(row)
    if row.get("provider") == "gcs":
        return _gcs(row)
    raise ValueError("another vendor")


def _s3(row: dict[str, object]) -> S3Destination:
    bucket, region = _text(row, "s3_bucket"), _text(row, "s3_region")
    if bucket is None or not is_s3_bucket(bucket) or (region is not None and not is_region(region)):
        raise ValueError("a bucket and its region")
    key_id, secret = _text(row, "s3_access_key_id", _ACCESS_KEY_ID), _text(row, "s3_secret_access_key", _SECRET_KEY)
    if (key_id is None) != (secret is None):
        raise ValueError("half a credential")
    endpoint = _endpoint(_text(row, "s3_endpoint"), region)
    return S3Destination(
        bucket,
        "",
        HostRole() if key_id is None or secret is None else S3Keys(key_id, Secret(secret)),
        region=region if region is not None or endpoint is not None else S3_DEFAULT_REGION,
        endpoint=endpoint,
    )


def _endpoint(given: str | None, region: str | None) -> str | None:
    """Written in one way; None for the vendor's own."""
    if given is None:
        return None
    written = values.store_endpoint(given)
    own = {each.format(region=region or S3_DEFAULT_REGION) for each in _AWS_ENDPOINTS}
    return None if written in own else written


def _gcs(row: dict[str, object]) -> GcsDestination:
    bucket, project = _text(row, "gcs_bucket"), _text(row, "gcs_project_id", _PROJECT)
    if bucket is None or not is_gcs_bucket(bucket):
        raise ValueError("a bucket")
    return GcsDestination(bucket, "", _google_key(row.get("gcs_credentials_json")), project=project)


def _google_key(said: object) -> HostRole | GoogleServiceAccount:
    """Rebuilt from four fields; each other one may say what Google's own keys say, and nothing else."""
    if said in (None, ""):
        return HostRole()
    if isinstance(said, str):
        if len(said) > MAX_GOOGLE_KEY:
            raise ValueError("too long")
        said = orjson.loads(said.encode("utf-8", "replace"))
    if not isinstance(said, dict) or not said.keys() <= _GOOGLE_KEY.keys():
        raise ValueError("another field")
    texts = {name: _text(said, name, pattern) for name, pattern in _GOOGLE_KEY.items()}
    kept = [texts[name] for name in ("type", *_GOOGLE_KEPT)]
    if None in kept:
        raise ValueError("a field too few")
    email, private_key, key_id, project = (each or "" for each in kept[1:])
    return GoogleServiceAccount(email, Secret(private_key), key_id, project)


def _text(row: Mapping[str, object], name: str, pattern: re.Pattern[str] | None = None) -> str | None:
    """None where there is nothing. Raises ValueError for what is no text, or of another form."""
    value = row.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str) or (pattern is not None and not pattern.fullmatch(value)):
        raise ValueError("of another form")
    return value
