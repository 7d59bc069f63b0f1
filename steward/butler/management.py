"""The management API for people's programs and the command line: `/api/v1/*`, JSON, one rule a route.

A secret is in the answer of the call that made it and in no other. Refuses unknown fields, naming them, and repeats no
value. What asks for the password again is in `RULES`, not in the functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, TypeVar
from uuid import UUID

import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from steward.butler.access import Rule, Rules, Visitor, services_of, visitor_of
from steward.butler.errors import NotAcceptable, NotAllowed
from steward.butler.nouns import Role, StorageSettings
from steward.butler.reading import parsed
from steward.butler.storage_checks import checked
from steward.butler.store_audit import AuditFilter
from steward.butler.store_overview import HOUR
from steward.butler.store_sessions import Attempt
from steward.butler.views import Span
from steward.domains import clean_text
from steward.words import Secret


def _shown(text: str) -> str:
    if not text.isprintable():
        raise ValueError("not printable")
    return text


router = APIRouter(prefix="/api/v1")
Kind = TypeVar("Kind", bound=BaseModel)

_FRESH_ADMIN: Final = Rule("person", Role.ADMIN, fresh=True)
_FRESH_OWNER: Final = Rule("person", Role.OWNER, fresh=True)
_FRESH_MEMBER: Final = Rule("person", Role.MEMBER, fresh=True)
_VIEWER: Final = Rule("person", Role.VIEWER)
_MEMBER: Final = Rule("person", Role.MEMBER)
_ADMIN: Final = Rule("person", Role.ADMIN)

RULES: Final[Rules] = {
    "POST /api/v1/login": Rule("anyone", form=False),
    "POST /api/v1/logout": _VIEWER,
    "POST /api/v1/password/confirm": _VIEWER,
    "GET /api/v1/me": _VIEWER,
    "GET /api/v1/stewards": _VIEWER,
    "POST /api/v1/stewards": _FRESH_ADMIN,
    "DELETE /api/v1/stewards/{steward_id}": _FRESH_ADMIN,
    "POST /api/v1/managed": _FRESH_OWNER,
    "GET /api/v1/keys": _VIEWER,
    "POST /api/v1/keys": _MEMBER,
    "PATCH /api/v1/keys/{key_id}": _MEMBER,
    "DELETE /api/v1/keys/{key_id}": _MEMBER,
    "GET /api/v1/storage": _VIEWER,
    "PUT /api/v1/storage/{scope}": _FRESH_MEMBER,
    "DELETE /api/v1/storage/{config_id}": _FRESH_MEMBER,
    "GET /api/v1/provider-keys": _VIEWER,
    "PUT /api/v1/provider-keys/{provider}": _FRESH_MEMBER,
    "DELETE /api/v1/provider-keys/{key_id}": _FRESH_MEMBER,
    "GET /api/v1/metadata-keys": _VIEWER,
    "PATCH /api/v1/metadata-keys/{name}": _ADMIN,
    "GET /api/v1/members": _VIEWER,
    "PATCH /api/v1/members/{user_id}": _FRESH_OWNER,
    "DELETE /api/v1/members/{user_id}": _FRESH_OWNER,
    "POST /api/v1/invitations": _FRESH_OWNER,
    "DELETE /api/v1/invitations/{invitation_id}": _FRESH_OWNER,
    "GET /api/v1/audit": _VIEWER,
    "GET /api/v1/usage": _VIEWER,
}

Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=200),
    AfterValidator(_shown),
]
Text = Annotated[str, StringConstraints(min_length=1, max_length=16384)]
Provider = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_\-]{0,31}$")]
Behavior = Literal["passthrough", "redirect", "warn"]
Scope = Literal["org", "user"]


class _Said(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Login(_Said):
    """Who signs in a command line."""

    email: Annotated[str, StringConstraints(max_length=254)]
    password: Annotated[str, StringConstraints(max_length=1024)]
    name: Name = "majordomo"
    org_id: UUID | None = None


class Password(_Said):
    """The password, given again."""

    password: Annotated[str, StringConstraints(max_length=1024)]


class NewSteward(_Said):
    """A Steward's token is asked for."""

    name: Name
    host: Name | None = None


class NewKey(_Said):
    """An API key is asked for."""

    name: Name
    description: Name | None = None
    deprecated_model_behavior: Behavior = "passthrough"


class KeyBehavior(_Said):
    """What becomes of calls of deprecated models."""

    deprecated_model_behavior: Behavior


class StorageSaid(_Said):
    """Where bodies go. Without `secret` the one that is there stays, if the destination does."""

    provider: Literal["s3", "gcs"]
    bucket: Annotated[str, StringConstraints(max_length=222)]
    s3_region: Annotated[str, StringConstraints(max_length=64)] | None = None
    s3_endpoint: Annotated[str, StringConstraints(max_length=512)] | None = None
    s3_access_key_id: Annotated[str, StringConstraints(max_length=128)] | None = None
    gcs_project_id: Annotated[str, StringConstraints(max_length=64)] | None = None
    secret: Text | None = Field(default=None, repr=False)


class ProviderKeySaid(_Said):
    """A provider's key."""

    key: Annotated[str, StringConstraints(strip_whitespace=True, min_length=8, max_length=4096)] = Field(repr=False)
    scope: Scope = "org"


class MetadataKeySaid(_Said):
    """What is to change of a metadata key; what is not said stays."""

    label: Name | None = None
    active: bool | None = None


class RoleSaid(_Said):
    """A role."""

    role: Role


class InvitationSaid(_Said):
    """Who is invited."""

    email: Annotated[str, StringConstraints(max_length=254)]
    role: Role = Role.MEMBER


@router.post("/login")
def login(request: Request) -> Response:
    """A token for a command line, 90 days."""
    services, said = services_of(request), _read(request, Login)
    address = request.client.host if request.client else "-"
    attempt = Attempt(said.email, Secret(said.password), address, "cli", said.name, said.org_id)
    signed = services.sessions.sign_in(attempt, services.now())
    return _json({"token": signed.token.reveal(), **_session(signed.session)})


@router.post("/logout")
def logout(request: Request) -> Response:
    """Ends the session or token that asks."""
    visitor = visitor_of(request)
    services_of(request).sessions.end(visitor.actor, visitor.session.id)
    return _json({})


@router.post("/password/confirm")
def confirm(request: Request) -> Response:
    """Changes that ask for the password are free for five minutes."""
    visitor, services = visitor_of(request), services_of(request)
    password = Secret(_read(request, Password).password)
    session = services.sessions.confirm(visitor.session, password, visitor.address, services.now())
    return _json(_session(session))


@router.get("/me")
def me(request: Request) -> Response:
    """Who is asking."""
    return _json(_session(visitor_of(request).session))


@router.get("/stewards")
def stewards(request: Request) -> Response:
    """All Steward tokens and what is seen of their bearers."""
    return _json([_fields(each) for each in services_of(request).stewards.all(_org(request))])


@router.post("/stewards", status_code=201)
def create_steward(request: Request) -> Response:
    """The token is in this answer and in no other."""
    said = _read(request, NewSteward)
    made = services_of(request).stewards.create(visitor_of(request).actor, said.name, said.host)
    return _json({"id": made.id, "name": said.name, "token": made.plaintext.reveal()}, 201)


@router.delete("/stewards/{steward_id}")
def revoke_steward(request: Request, steward_id: UUID) -> Response:
    """For ever."""
    services_of(request).stewards.revoke(visitor_of(request).actor, steward_id)
    return _json({"id": steward_id})


@router.post("/managed", status_code=201)
def assign(request: Request) -> Response:
    """Hands the organisation to the managed Steward."""
    said = _read(request, NewSteward)
    return _json({"id": services_of(request).managed.assign(visitor_of(request).actor, said.name)}, 201)


@router.get("/keys")
def keys(request: Request) -> Response:
    """All API keys with their use; never their plaintext."""
    services = services_of(request)
    found = services.keys.all(_org(request), services.now())
    hidden = {"key_hash", "org_id"}
    return _json(
        [
            {
                **{name: value for name, value in _fields(each.key).items() if name not in hidden},
                "user_email": each.user_email,
                "last_used_at": each.last_used_at,
                "calls_30d": each.calls,
                "cost_30d": each.cost,
            }
            for each in found
        ]
    )


@router.post("/keys", status_code=201)
def create_key(request: Request) -> Response:
    """The key is in this answer and in no other."""
    said = _read(request, NewKey)
    made = services_of(request).keys.create(
        visitor_of(request).actor, said.name, said.description, said.deprecated_model_behavior
    )
    return _json({"id": made.id, "name": said.name, "key": made.plaintext.reveal()}, 201)


@router.patch("/keys/{key_id}")
def change_key(request: Request, key_id: UUID) -> Response:
    """What becomes of calls of deprecated models. A member's own keys; an admin's any."""
    own_key(request, key_id)
    behavior = _read(request, KeyBehavior).deprecated_model_behavior
    services_of(request).keys.behave(visitor_of(request).actor, key_id, behavior)
    return _json({"id": key_id, "deprecated_model_behavior": behavior})


@router.delete("/keys/{key_id}")
def revoke_key(request: Request, key_id: UUID) -> Response:
    """For ever. A member's own keys; an admin's any."""
    own_key(request, key_id)
    services_of(request).keys.revoke(visitor_of(request).actor, key_id)
    return _json({"id": key_id})


@router.get("/storage")
def storage(request: Request) -> Response:
    """All configs, without their secrets."""
    return _json([_fields(each) for each in services_of(request).storage.all(_org(request))])


@router.put("/storage/{scope}")
def set_storage(request: Request, scope: Scope) -> Response:
    """The organisation's (admins), or one's own (`user`)."""
    visitor, said = visitor_of(request), _read(request, StorageSaid)
    may_set(visitor, scope)
    secret = None if said.secret is None else Secret(said.secret)
    wanted = StorageSettings(
        said.provider,
        said.bucket,
        said.s3_region or None,
        said.s3_endpoint or None,
        said.s3_access_key_id or None,
        said.gcs_project_id or None,
        secret,
    )
    return _json({"id": services_of(request).storage.set(visitor.actor, scope, checked(wanted))})


@router.delete("/storage/{config_id}")
def remove_storage(request: Request, config_id: UUID) -> Response:
    """One's own; an admin's the organisation's and any other."""
    services, visitor = services_of(request), visitor_of(request)
    scope, owner_id = services.storage.owner(_org(request), config_id)
    if scope != "user" or owner_id != visitor.session.user_id:
        may_set(visitor, "org")
    services.storage.remove(visitor.actor, config_id)
    return _json({"id": config_id})


@router.get("/provider-keys")
def provider_keys(request: Request) -> Response:
    """All provider keys, without the keys."""
    return _json([_fields(each) for each in services_of(request).provider_keys.all(_org(request))])


@router.put("/provider-keys/{provider}")
def set_provider_key(request: Request, provider: Provider) -> Response:
    """The organisation's (admins), or one's own."""
    visitor, said = visitor_of(request), _read(request, ProviderKeySaid)
    may_set(visitor, said.scope)
    personal = said.scope == "user"
    return _json({"id": services_of(request).provider_keys.set(visitor.actor, provider, Secret(said.key), personal)})


@router.delete("/provider-keys/{key_id}")
def remove_provider_key(request: Request, key_id: UUID) -> Response:
    """One's own; an admin's the organisation's and any other."""
    services, visitor = services_of(request), visitor_of(request)
    if services.provider_keys.owner(_org(request), key_id) != visitor.session.user_id:
        may_set(visitor, "org")
    services.provider_keys.remove(visitor.actor, key_id)
    return _json({"id": key_id})


@router.get("/metadata-keys")
def metadata_keys(request: Request) -> Response:
    """Every tag name that was seen."""
    return _json([_fields(each) for each in services_of(request).metadata_keys.all(_org(request))])


@router.patch("/metadata-keys/{name}")
def change_metadata_key(request: Request, name: str) -> Response:
    """Labels it, or makes it a filter."""
    services, visitor, said = services_of(request), visitor_of(request), _read(request, MetadataKeySaid)
    if "label" in said.model_fields_set:
        services.metadata_keys.label(visitor.actor, name, said.label)
    if said.active is True:
        services.metadata_keys.activate(visitor.actor, name, services.now())
    elif said.active is False:
        services.metadata_keys.deactivate(visitor.actor, name)
    return _json({"name": name})


@router.get("/members")
def members(request: Request) -> Response:
    """Everyone in the organisation."""
    return _json([_fields(each) for each in services_of(request).people.members(_org(request))])


@router.patch("/members/{user_id}")
def change_member(request: Request, user_id: UUID) -> Response:
    """Another role; the person's sessions end."""
    role = _read(request, RoleSaid).role
    services_of(request).people.change_role(visitor_of(request).actor, user_id, role)
    return _json({"user_id": user_id, "role": role})


@router.delete("/members/{user_id}")
def remove_member(request: Request, user_id: UUID) -> Response:
    """The person's sessions end, his keys stay."""
    services_of(request).people.remove(visitor_of(request).actor, user_id)
    return _json({"user_id": user_id})


@router.post("/invitations", status_code=201)
def invite(request: Request) -> Response:
    """The link is in this answer and in no other."""
    services, visitor, said = services_of(request), visitor_of(request), _read(request, InvitationSaid)
    made = services.people.invite(visitor.actor, said.email, said.role, services.now())
    link = f"{services.public_url}/invitations?token={made.plaintext.reveal()}"
    return _json({"id": made.id, "email": said.email, "role": said.role, "link": link}, 201)


@router.delete("/invitations/{invitation_id}")
def withdraw(request: Request, invitation_id: UUID) -> Response:
    """Its link opens nothing any more."""
    services_of(request).people.withdraw(visitor_of(request).actor, invitation_id)
    return _json({"id": invitation_id})


@router.get("/audit")
def audit_log(request: Request, limit: Annotated[int, Query(ge=1, le=200)] = 50) -> Response:
    """The newest changes."""
    entries = services_of(request).audit.page(_org(request), AuditFilter(), limit)
    return _json([_fields(each) for each in entries])


@router.get("/usage")
def usage(
    request: Request,
    since: datetime | None = None,
    by: Annotated[str, Query(max_length=68)] = "model",
) -> Response:
    """Sums from `since` (24 h ago) on, by `model`, `provider`, `key` or `tag:NAME`, in whole hours."""
    services, org_id = services_of(request), _org(request)
    span = _span(since, services.now())
    names = {str(key): name for key, name in services.keys.names(org_id).items()} if by == "key" else {}
    if by.startswith("tag:"):
        found = services.overview.tag_breakdown(org_id, span, by.removeprefix("tag:"), 200)
    elif by in {"model", "provider", "key"}:
        dimension: Any = "api_key_id" if by == "key" else by
        found = services.overview.breakdown(org_id, span, dimension, 200)
    else:
        raise NotAcceptable("by")
    groups = [{"group": names.get(each.group, each.group), **_fields(each.sums)} for each in found]
    totals = services.overview.totals(org_id, span)
    return _json({"since": span.since, "until": span.until, "by": by, "total": _fields(totals.sums), "groups": groups})


def own_key(request: Request, key_id: UUID) -> None:
    """A member changes the keys he made; an admin any. Raises NotAllowed, NotThere."""
    visitor = visitor_of(request)
    key = services_of(request).keys.get(_org(request), key_id)
    if key.user_id != visitor.session.user_id and not visitor.session.role.includes(Role.ADMIN):
        raise NotAllowed


def may_set(visitor: Visitor, scope: Scope) -> None:
    """What is the organisation's is its admins' to set. Raises NotAllowed."""
    if scope == "org" and not visitor.session.role.includes(Role.ADMIN):
        raise NotAllowed


def _span(since: datetime | None, now: datetime) -> Span:
    until = now.replace(minute=0, second=0, microsecond=0) + HOUR
    begun = now - timedelta(hours=24) if since is None else since
    if begun.tzinfo is None or not now - timedelta(days=400) <= begun < until:
        raise NotAcceptable("since")
    return Span(begun.astimezone(now.tzinfo).replace(minute=0, second=0, microsecond=0), until, HOUR)


def _org(request: Request) -> UUID:
    return visitor_of(request).session.org_id


def _read(request: Request, kind: type[Kind]) -> Kind:
    """The body, in its closed type. Raises NotAcceptable with the field's name."""
    try:
        return kind.model_validate(parsed(bytes(request.state.body)))
    except ValidationError as fault:
        where = fault.errors(include_url=False, include_context=False, include_input=False)[0]["loc"]
        raise NotAcceptable(clean_text(".".join(str(part) for part in where), 64)) from None


def _session(session: Any) -> Mapping[str, object]:
    kept = ("org_id", "org_name", "user_id", "email", "role", "ends_at", "fresh_until")
    return {name: getattr(session, name) for name in kept}


def _fields(noun: Any) -> dict[str, object]:
    return {name: getattr(noun, name) for name in noun.__dataclass_fields__}


def _json(value: object, status: int = 200) -> Response:
    document = orjson.dumps(value, default=_plain, option=orjson.OPT_UTC_Z)
    return Response(document, status, media_type="application/json")


def _plain(value: object) -> object:
    if isinstance(value, Decimal):
        return orjson.Fragment(format(value, "f"))
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError
