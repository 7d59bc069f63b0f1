"""Members and their roles, and invitations. Every change asks for the password again but a withdrawal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from fastapi import Response

from steward.butler.errors import DoorFault, NotAcceptable
from steward.butler.nouns import Role
from steward.butler.pages.door import Looking, Visitor
from steward.butler.pages.serving import away, page_of, pages_router, show

router = pages_router()


@dataclass(frozen=True, slots=True)
class RoleSaid:
    """A role, and what it may."""

    name: str
    may: str


@dataclass(frozen=True, slots=True)
class LinkOnce:
    """An invitation that was just made."""

    email: str
    url: str
    ends_at: datetime


ROLES: Final = (
    RoleSaid(
        "owner",
        "All an admin may, and members and their roles. Told of each change of storage, provider keys and tokens.",
    ),
    RoleSaid("admin", "All a member may, and Stewards, the organisation's storage and provider keys, metadata keys."),
    RoleSaid("member", "All a viewer may, and API keys, and storage and provider keys of their own."),
    RoleSaid("viewer", "Sees every page, changes nothing."),
)


@router.get("/members")
def members_page(visitor: Looking) -> Response:
    """Everyone, and who is invited; `remove=` asks before it is done."""
    return _page(visitor, {}, remove=visitor.request.query_params.get("remove", ""))


@router.post("/members/invite")
def invite(visitor: Looking) -> Response:
    """An invitation, whose link is shown once."""
    form = visitor.form
    try:
        email, role = form.needed("email", 254), _role(form.line("role", 10))
        visitor.sure()
        made = visitor.services.people.invite(visitor.actor, email, role, visitor.now)
    except DoorFault as fault:
        return _page(visitor, form.shown("email"), wrong=fault)
    url = f"{visitor.services.public_url.rstrip('/')}/invitations?token={made.plaintext.reveal()}"
    return _page(visitor, {}, link=LinkOnce(email, url, visitor.now + timedelta(days=7)))


@router.post("/members/{user_id}/role")
def change_role(visitor: Looking, user_id: UUID) -> Response:
    """Ends that person's sessions."""
    return _done(
        visitor,
        lambda: visitor.services.people.change_role(visitor.actor, user_id, _role(visitor.form.line("role", 10))),
    )


@router.post("/members/{user_id}/remove")
def remove_member(visitor: Looking, user_id: UUID) -> Response:
    """Signed out at once."""
    return _done(visitor, lambda: visitor.services.people.remove(visitor.actor, user_id))


@router.post("/members/invitations/{invitation_id}/withdraw")
def withdraw(visitor: Looking, invitation_id: UUID) -> Response:
    """Its link opens nothing any more."""
    visitor.services.people.withdraw(visitor.actor, invitation_id)
    return away("/members")


def _done(visitor: Visitor, change: Callable[[], None]) -> Response:
    try:
        visitor.sure()
        change()
    except DoorFault as fault:
        return _page(visitor, {}, wrong=fault)
    return away("/members")


def _role(said: str) -> Role:
    if said not in set(Role):
        raise NotAcceptable("role")
    return Role(said)


def _page(
    visitor: Visitor,
    form: Mapping[str, str],
    link: LinkOnce | None = None,
    wrong: DoorFault | None = None,
    remove: str = "",
) -> Response:
    services, org_id = visitor.services, visitor.session.org_id
    members = services.people.members(org_id)
    waiting = services.people.invitations(org_id, visitor.now)
    withdraw = visitor.request.query_params.get("withdraw", "")
    return show(
        visitor,
        "members.html",
        page_of(visitor, "Members", "members"),
        wrong.status if wrong else 200,
        members=members,
        invitations=waiting,
        withdrawing=next((each for each in waiting if str(each.id) == withdraw), None),
        removing=next((each for each in members if str(each.user_id) == remove), None),
        roles=ROLES,
        link=link,
        creating=bool(form) or "new" in visitor.request.query_params,
        wrong=wrong.message if wrong else "",
        said="",
        form={"email": "", **form},
    )
