"""API keys: who may call, what each called and cost; made (the secret is shown once), revoked, set for old models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args
from uuid import UUID

from fastapi import Response

from steward.butler.errors import DoorFault, NotAcceptable
from steward.butler.nouns import DeprecatedModels
from steward.butler.pages.door import Looking, Visitor
from steward.butler.pages.serving import away, page_of, pages_router, show
from steward.butler.pages.watching import curl_line

router = pages_router()


@dataclass(frozen=True, slots=True)
class ShownOnce:
    """A key that was just made."""

    name: str
    secret: str
    curl: str


@router.get("/keys")
def keys_page(visitor: Looking) -> Response:
    """All keys; `revoke=` asks before it is done."""
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
    return away("/keys")


@router.post("/keys/{key_id}/behavior")
def change_behavior(visitor: Looking, key_id: UUID) -> Response:
    """What happens to calls of deprecated models."""
    visitor.services.keys.behave(visitor.actor, key_id, _behavior(visitor.form.line("behavior", 20)))
    return away("/keys")


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
    keys = visitor.services.keys.all(visitor.session.org_id, visitor.now)
    revoking = next((each.key for each in keys if str(each.key.id) == revoke and each.key.is_active), None)
    return show(
        visitor,
        "keys.html",
        page_of(visitor, "API keys", "keys"),
        wrong.status if wrong else 200,
        keys=keys,
        made=made,
        revoking=revoking,
        creating=bool(wrong) or "new" in visitor.request.query_params or not keys,
        wrong=wrong.message if wrong else "",
        form={"name": "", "description": "", "behavior": "", **form},
    )
