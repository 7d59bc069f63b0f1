"""A person's own account: the password, where one is signed in, and which organisation one looks at."""

from __future__ import annotations

from uuid import UUID

from fastapi import Response

from steward.butler import access
from steward.butler.errors import DoorFault, NotThere
from steward.butler.pages.door import Looking, Visitor
from steward.butler.pages.serving import away, page_of, pages_router, show
from steward.words import Secret

router = pages_router()


@router.get("/account")
def account_page(visitor: Looking) -> Response:
    """Password, sessions, organisations."""
    return _page(visitor)


@router.post("/account/password")
def change_password(visitor: Looking) -> Response:
    """Ends the person's other sessions."""
    form = visitor.form
    old, new = form.secret("password") or Secret(""), form.secret("new_password") or Secret("")
    try:
        address = access.address_of(visitor.request)
        visitor.services.sessions.change_password(visitor.session, old, new, address, visitor.now)
    except DoorFault as fault:
        return _page(visitor, fault)
    return away("/account?changed=1")


@router.post("/account/sessions/{session_id}/end")
def end_session(visitor: Looking, session_id: UUID) -> Response:
    """Signs one of the person's own browsers or machines out."""
    visitor.services.sessions.end(visitor.actor, session_id)
    return away("/account")


@router.post("/account/organisation")
def switch(visitor: Looking) -> Response:
    """Looks at another of the person's organisations, in a new session."""
    try:
        org_id = UUID(visitor.form.line("organisation", 36))
    except ValueError:
        raise NotThere from None
    address = access.address_of(visitor.request)
    signed = visitor.services.sessions.switch(visitor.session, org_id, address, visitor.now)
    response = away("/")
    access.sign_in(response, visitor.services, signed)
    return response


def _page(visitor: Visitor, wrong: DoorFault | None = None) -> Response:
    session, services = visitor.session, visitor.services
    return show(
        visitor,
        "account.html",
        page_of(visitor, "Account", "account"),
        wrong.status if wrong else 200,
        sessions=services.sessions.all(session.org_id, session.user_id, visitor.now),
        organisations=services.people.organisations_of(session.user_id),
        wrong=wrong.message if wrong else "",
        said="The password is changed; your other sessions have ended."
        if "changed" in visitor.request.query_params
        else "",
    )
