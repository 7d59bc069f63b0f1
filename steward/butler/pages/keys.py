"""API keys: who may call, what each called and cost; made (the secret is shown once), revoked, set for old models.

Listed by the hundred and found by name, by addresses alone: it reads the same without scripts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, get_args
from urllib.parse import urlencode
from uuid import UUID

from fastapi import Response

from steward.butler.errors import DoorFault, NotAcceptable, NotThere
from steward.butler.nouns import ApiKey, DeprecatedModels, KeyUse
from steward.butler.pages.door import Looking, Visitor, path_of_ours
from steward.butler.pages.serving import away, page_of, pages_router, show
from steward.butler.pages.watching import curl_line
from steward.butler.store_keys import KeyPlace

router = pages_router()

PAGE: Final = 100
_AFTER: Final = re.compile(r"(active|revoked)_(2[0-9]{3}-[0-9]{2}-[0-9]{2}T[0-9:.]{8,15})Z_([0-9a-f-]{36})")


@dataclass(frozen=True, slots=True)
class ShownOnce:
    """A key that was just made."""

    name: str
    secret: str
    curl: str


@router.get("/keys")
def keys_page(visitor: Looking) -> Response:
    """A page of them; `name=` narrows, `revoke=` asks before it is done."""
    asked = visitor.request.query_params.get("revoke", "")
    return _page(visitor, {}, revoke=asked)


@router.post("/keys")
def create_key(visitor: Looking) -> Response:
    """A new key, shown once."""
    form = visitor.form
    try:
        name, about = form.needed("name", 100), form.line("description", 500) or None
        made = visitor.services.keys.create(visitor.actor, name, about, _behavior(form.line("behavior", 20)))
    except DoorFault as fault:
        return _page(visitor, form.shown("name", "description", "behavior"), wrong=fault)
    secret = made.plaintext.reveal()
    return _page(visitor, {}, made=ShownOnce(name, secret, curl_line(secret)))


@router.post("/keys/{key_id}/revoke")
def revoke_key(visitor: Looking, key_id: UUID) -> Response:
    """For ever."""
    visitor.services.keys.revoke(visitor.actor, key_id)
    return away(_back(visitor))


@router.post("/keys/{key_id}/behavior")
def change_behavior(visitor: Looking, key_id: UUID) -> Response:
    """What happens to calls of deprecated models."""
    visitor.services.keys.behave(visitor.actor, key_id, _behavior(visitor.form.line("behavior", 20)))
    return away(_back(visitor))


def _back(visitor: Visitor) -> str:
    """To the page of the list where the form stood."""
    said = path_of_ours(visitor.form.line("back", 2000))
    return said if said.startswith("/keys?") else "/keys"


def _behavior(said: str) -> DeprecatedModels:
    for known in get_args(DeprecatedModels):
        if said == known:
            return known  # type: ignore[no-any-return]
    raise NotAcceptable("behavior")


def _page(
    visitor: Visitor,
    form: Mapping[str, str],
    made: ShownOnce | None = None,
    wrong: DoorFault | None = None,
    revoke: str = "",
) -> Response:
    said = visitor.request.query_params
    search, after = _search(said.get("name", "")), said.get("after", "")
    services, org_id = visitor.services, visitor.session.org_id
    found = services.keys.page(org_id, visitor.now, search, _place(after), PAGE + 1)
    none_at_all = not found and not search and not after
    return show(
        visitor,
        "keys.html",
        page_of(visitor, "API keys", "keys"),
        wrong.status if wrong else 200,
        keys=found[:PAGE],
        search=search,
        first=_address(search),
        here=_address(search, after),
        older=_address(search, _after(found[PAGE - 1])) if len(found) > PAGE else "",
        is_first=not after,
        none_at_all=none_at_all,
        made=made,
        revoking=_revoking(visitor, revoke),
        creating=bool(wrong) or "new" in said or none_at_all,
        wrong=wrong.message if wrong else "",
        form={"name": "", "description": "", "behavior": "", **form},
    )


def _search(said: str) -> str:
    """Part of a name; nothing for what no name has."""
    said = said.strip()[:100]
    return said if said.isprintable() else ""


def _address(search: str, after: str = "") -> str:
    said = {name: value for name, value in (("name", search), ("after", after)) if value}
    return f"/keys?{urlencode(said)}" if said else "/keys"


def _after(use: KeyUse) -> str:
    at = use.key.created_at.astimezone(UTC).replace(tzinfo=None).isoformat()
    return f"{'active' if use.key.is_active else 'revoked'}_{at}Z_{use.key.id}"


def _place(said: str) -> KeyPlace | None:
    """None for the beginning, and for what is no place."""
    found = _AFTER.fullmatch(said)
    if found is None:
        return None
    try:
        return KeyPlace(found[1] == "active", datetime.fromisoformat(found[2]).replace(tzinfo=UTC), UUID(found[3]))
    except ValueError:
        return None


def _revoking(visitor: Visitor, said: str) -> ApiKey | None:
    """The key that is asked about, as long as it can be revoked."""
    try:
        key = visitor.services.keys.get(visitor.session.org_id, UUID(said))
    except (ValueError, NotThere):
        return None
    return key if key.is_active else None
