"""Storage settings: where bodies go, by scope; what is set, and what the Stewards say of it. A secret is never shown.

Every change asks for the password again; an admin changes the organisation's, each person his own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import Final, Literal

from fastapi import Response

from steward.butler.errors import DoorFault, NotAcceptable, NotAllowed, NotThere
from steward.butler.nouns import BodyStates, Role, StorageConfig, StorageSettings
from steward.butler.pages import numbers, phrases, svg
from steward.butler.pages.door import Looking, Visitor
from steward.butler.pages.forms import Form
from steward.butler.pages.overview import Bar
from steward.butler.pages.serving import away, page_of, pages_router, show
from steward.butler.storage_checks import checked

router = pages_router()

ScopeName = Literal["org", "user"]
_NAMES: Final[Mapping[str, ScopeName]] = {"organisation": "org", "personal": "user"}
_TONES: Final = {"good": 2, "bad": 5, "warn": 1, "plain": 7}
_FIELDS: Final = ("provider", "bucket", "s3_region", "s3_endpoint", "s3_access_key_id", "gcs_project_id")


_WRONG: Final[Mapping[str, str]] = MappingProxyType(
    {
        "bucket": "Bucket: a bucket's own name, in small letters, digits, dots and hyphens; no address and no ARN.",
        "s3_region": "Region: as eu-central-1.",
        "s3_endpoint": "Endpoint: an https address without a path, as https://objects.example.com.",
        "s3_access_key_id": "Access key id: it belongs to the secret, and is missing or not one.",
        "gcs_project_id": "Project id: as my-project-123.",
    }
)


@dataclass(frozen=True, slots=True)
class ScopeCard:
    """One scope: what is set, and its form."""

    name: str
    title: str
    word: str
    config: StorageConfig | None
    may_change: bool
    editing: bool
    form: Mapping[str, str]
    wrong: str
    next_place: str


@router.get("/storage")
def storage_page(visitor: Looking) -> Response:
    """Both scopes."""
    return _page(visitor)


@router.post("/storage/{scope}")
def set_storage(visitor: Looking, scope: str) -> Response:
    """Sets a scope's place."""
    form, kind = visitor.form, _allowed(visitor, scope)
    try:
        wanted = _checked(_settings(form))
        visitor.sure()
        visitor.services.storage.set(visitor.actor, kind, wanted)
    except DoorFault as fault:
        return _page(visitor, scope, form.shown(*_FIELDS), fault)
    return away(f"/storage?saved={scope}")


@router.post("/storage/{scope}/remove")
def remove_storage(visitor: Looking, scope: str) -> Response:
    """New bodies go elsewhere."""
    kind = _allowed(visitor, scope)
    try:
        visitor.sure()
        config = _config(visitor, kind)
        if config is not None:
            visitor.services.storage.remove(visitor.actor, config.id)
    except DoorFault as fault:
        return _page(visitor, scope, {}, fault)
    return away(f"/storage?removed={scope}")


def _allowed(visitor: Visitor, scope: str) -> ScopeName:
    """Raises NotThere, NotAllowed."""
    kind = _NAMES.get(scope)
    if kind is None:
        raise NotThere
    if not visitor.session.role.includes(Role.ADMIN if kind == "org" else Role.MEMBER):
        raise NotAllowed
    return kind


def _settings(form: Form) -> StorageSettings:
    """What the form says. Raises NotAcceptable."""
    if form.line("provider", 8) == "gcs":
        return StorageSettings(
            provider="gcs",
            bucket=form.needed("bucket", 222),
            gcs_project_id=form.line("gcs_project_id", 128, "Project id") or None,
            secret=form.secret("gcs_secret", 16_384),
        )
    return StorageSettings(
        provider="s3",
        bucket=form.needed("bucket", 222),
        s3_region=form.line("s3_region", 64, "Region") or None,
        s3_endpoint=form.line("s3_endpoint", 253, "Endpoint") or None,
        s3_access_key_id=form.line("s3_access_key_id", 128, "Access key id") or None,
        secret=form.secret("s3_secret", 256),
    )


def _checked(wanted: StorageSettings) -> StorageSettings:
    """Raises NotAcceptable, in words for the form."""
    try:
        return checked(wanted)
    except NotAcceptable as fault:
        raise NotAcceptable(fault.field, message=_WRONG.get(fault.field, fault.message)) from None


def _config(visitor: Visitor, kind: ScopeName) -> StorageConfig | None:
    owner = visitor.session.org_id if kind == "org" else visitor.session.user_id
    found = visitor.services.storage.all(visitor.session.org_id)
    return next((each for each in found if each.owner_type == kind and each.owner_id == owner), None)


def _page(
    visitor: Visitor, scope: str = "", form: Mapping[str, str] | None = None, wrong: DoorFault | None = None
) -> Response:
    org_id, now = visitor.session.org_id, visitor.now
    bodies = visitor.services.storage.body_states(org_id, now - timedelta(days=1), now)
    configs = visitor.services.storage.all(org_id)
    mine = visitor.session.user_id
    said = visitor.request.query_params
    return show(
        visitor,
        "storage.html",
        page_of(visitor, "Storage", "storage"),
        wrong.status if wrong else 200,
        bodies=bodies,
        body_rows=_bars(bodies),
        scopes=[_card(visitor, name, scope, form or {}, wrong) for name in _NAMES],
        others=[each for each in configs if each.owner_type == "user" and each.owner_id != mine],
        said=_said(said.get("saved", ""), said.get("removed", "")),
    )


def _said(saved: str, removed: str) -> str:
    if saved in _NAMES:
        return (
            f"Saved the {saved} storage. Your Stewards learn of it within seconds; later than a day after registering, "
            "a person inside approves it first: steward pending, steward approve."
        )
    return f"Removed the {removed} storage." if removed in _NAMES else ""


def _card(visitor: Visitor, name: str, scope: str, form: Mapping[str, str], wrong: DoorFault | None) -> ScopeCard:
    kind = _NAMES[name]
    config = _config(visitor, kind)
    role = Role.ADMIN if kind == "org" else Role.MEMBER
    here = name == scope and wrong is not None
    return ScopeCard(
        name=name,
        title="Organisation" if kind == "org" else f"Personal, for {visitor.session.email}",
        word=name,
        config=config,
        may_change=visitor.session.role.includes(role),
        editing=here,
        form=form if here else _filled(config),
        wrong=wrong.message if here and wrong else "",
        next_place="the organisation's storage, if it is set"
        if kind == "user"
        else "the Steward's BODY_STORE_URL, if it has one",
    )


def _filled(config: StorageConfig | None) -> dict[str, str]:
    if config is None:
        return dict.fromkeys(_FIELDS, "")
    said = {name: getattr(config, name, None) or "" for name in _FIELDS}
    return {**said, "bucket": config.s3_bucket or config.gcs_bucket or ""}


def _bars(bodies: BodyStates) -> tuple[Bar, ...]:
    whole, largest = sum(bodies.counts.values()), max(bodies.counts.values(), default=0)
    return tuple(
        Bar(
            name=f"{state}: {phrases.body_words(state)}",
            value=numbers.count(count),
            part=numbers.share(count, whole),
            percent=svg.share(count, largest),
            colour=_TONES[phrases.body_tone(state)],
            href=f"/requests?body={state}",
        )
        for state, count in sorted(bodies.counts.items(), key=lambda each: -each[1])
        if count
    )
