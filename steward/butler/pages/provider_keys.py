"""Provider keys for jobs: which are set, never what they are; set and removed with the password."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from fastapi import Response

from steward.butler.errors import DoorFault, NotAcceptable, NotAllowed
from steward.butler.nouns import Role
from steward.butler.pages.door import Looking, Visitor
from steward.butler.pages.serving import away, page_of, pages_router, show
from steward.providers import TABLES

router = pages_router()


@router.get("/provider-keys")
def provider_keys_page(visitor: Looking) -> Response:
    """All; `remove=` asks before it is done."""
    return _page(visitor, {}, remove=visitor.request.query_params.get("remove", ""))


@router.post("/provider-keys")
def set_provider_key(visitor: Looking) -> Response:
    """Sets one, in place of one before."""
    form = visitor.form
    try:
        provider, personal, key = form.line("provider", 40), form.line("scope", 8) != "org", form.secret("key", 512)
        if provider not in TABLES:
            raise NotAcceptable("provider", message="The provider is not one of the list.")
        if key is None:
            raise NotAcceptable("key", message="Key is missing.")
        if not personal and not visitor.session.role.includes(Role.ADMIN):
            raise NotAllowed
        visitor.sure()
        visitor.services.provider_keys.set(visitor.actor, provider, key, personal)
    except DoorFault as fault:
        return _page(visitor, form.shown("provider", "scope"), wrong=fault)
    return away("/provider-keys?saved=1")


@router.post("/provider-keys/{key_id}/remove")
def remove_provider_key(visitor: Looking, key_id: UUID) -> Response:
    """Jobs can no longer use it."""
    owner = visitor.services.provider_keys.owner(visitor.session.org_id, key_id)
    if owner != visitor.session.user_id and not visitor.session.role.includes(Role.ADMIN):
        raise NotAllowed
    try:
        visitor.sure()
    except DoorFault as fault:
        return _page(visitor, {}, wrong=fault, remove=str(key_id))
    visitor.services.provider_keys.remove(visitor.actor, key_id)
    return away("/provider-keys")


def _page(visitor: Visitor, form: Mapping[str, str], wrong: DoorFault | None = None, remove: str = "") -> Response:
    keys = visitor.services.provider_keys.all(visitor.session.org_id)
    removing = next((each for each in keys if str(each.id) == remove), None)
    saved = "saved" in visitor.request.query_params
    return show(
        visitor,
        "provider_keys.html",
        page_of(visitor, "Provider keys", "provider-keys"),
        wrong.status if wrong else 200,
        keys=keys,
        removing=removing,
        providers=sorted(TABLES),
        creating=(wrong is not None and removing is None) or "new" in visitor.request.query_params,
        wrong=wrong.message if wrong else "",
        form={"provider": "", "scope": "", **form},
        said="Saved. It takes effect once a person inside approves it: steward pending, steward approve."
        if saved
        else "",
    )
