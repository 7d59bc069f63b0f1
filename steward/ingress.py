"""Everything that Butler may say, read into closed types: ids are UUIDs, texts bounded, and all else is nonsense.

It believes nothing: what is read here takes effect only where local settings, or a person
inside, allow. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final, Literal, TypeVar, get_args
from uuid import UUID

from steward.domains import clean_text
from steward.errors import ButlerNonsense
from steward.ports import DeprecatedModels, Identity, SentKey
from steward.words import Secret

T = TypeVar("T")

MAX_NAME: Final = 200
MAX_FIELDS: Final = 200
MAX_ROWS: Final = 10_000
"""Of one answer, whatever was asked for."""
MAX_ASSIGNMENTS: Final = 1000
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
        name=_text(row.get("name")),
        is_active=active,
        created_at=_moment(row.get("created_at")),
        updated_at=_moment(row.get("updated_at")),
        description=_optional(_text, row.get("description") or None),
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


def _text(said: object) -> str:
    """A name: 1 to 200 characters that the database takes; a longer one is cut."""
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
