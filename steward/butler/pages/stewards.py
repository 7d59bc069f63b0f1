"""Stewards and their tokens: which there are, whether they are well, what waits inside; made and revoked.

Both changes ask for the password again, and all owners are told of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

from fastapi import Response

from steward.butler.errors import DoorFault, NotAcceptable
from steward.butler.nouns import AuditEntry
from steward.butler.pages.door import Looking, Visitor
from steward.butler.pages.serving import away, page_of, pages_router, show
from steward.butler.store_audit import AuditFilter

router = pages_router()

HOSTS: Final = (
    ("", "Not said"),
    ("kubernetes", "Kubernetes"),
    ("ecs", "Amazon ECS"),
    ("lambda", "AWS Lambda"),
    ("cloud-run", "Google Cloud Run"),
    ("cloud-functions", "Google Cloud Functions"),
    ("docker", "Docker"),
    ("machine", "A machine of our own"),
)
_LATELY: Final = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class TokenOnce:
    """A token that was just made."""

    name: str
    secret: str
    register: str


@router.get("/stewards")
def stewards_page(visitor: Looking) -> Response:
    """The fleet; `revoke=` asks before it is done."""
    return _page(visitor, {}, revoke=visitor.request.query_params.get("revoke", ""))


@router.post("/stewards")
def create_steward(visitor: Looking) -> Response:
    """A new token, shown once."""
    form = visitor.form
    try:
        name, host = form.needed("name", 100), form.line("host", 40)
        if host not in dict(HOSTS):
            raise NotAcceptable("host")
        visitor.sure()
        made = visitor.services.stewards.create(visitor.actor, name, host or None)
    except DoorFault as fault:
        return _page(visitor, form.shown("name", "host"), wrong=fault)
    secret = made.plaintext.reveal()
    command = f"steward register --token {secret} --butler-url {visitor.services.public_url}"
    return _page(visitor, {}, made=TokenOnce(name, secret, command))


@router.post("/stewards/{steward_id}/revoke")
def revoke_steward(visitor: Looking, steward_id: UUID) -> Response:
    """Its next call is refused."""
    try:
        visitor.sure()
    except DoorFault as fault:
        return _page(visitor, {}, wrong=fault, revoke=str(steward_id))
    visitor.services.stewards.revoke(visitor.actor, steward_id)
    return away("/stewards")


def _page(
    visitor: Visitor,
    form: Mapping[str, str],
    made: TokenOnce | None = None,
    wrong: DoorFault | None = None,
    revoke: str = "",
) -> Response:
    stewards = visitor.services.stewards.all(visitor.session.org_id)
    revoking = next((each for each in stewards if str(each.id) == revoke and each.revoked_at is None), None)
    return show(
        visitor,
        "stewards.html",
        page_of(visitor, "Stewards", "stewards", live=made is None and revoking is None),
        wrong.status if wrong else 200,
        stewards=stewards,
        made=made,
        revoking=revoking,
        creating=(wrong is not None and revoking is None) or "new" in visitor.request.query_params or not stewards,
        wrong=wrong.message if wrong else "",
        form={"name": "", "host": "", **form},
        hosts=HOSTS,
        host_names=dict(HOSTS),
        sent_changes=_sent(visitor),
    )


def _sent(visitor: Visitor) -> list[AuditEntry]:
    """Changes of the last days that a person inside may have to approve."""
    since, org_id = visitor.now - _LATELY, visitor.session.org_id
    found = [
        each
        for kind in ("storage", "provider_key")
        for each in visitor.services.audit.page(org_id, AuditFilter(object_type=kind), 5)
        if each.at >= since
    ]
    return sorted(found, key=lambda each: each.at, reverse=True)
