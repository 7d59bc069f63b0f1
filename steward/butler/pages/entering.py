"""The doors: sign in, sign out, join by invitation; the theme; and the files that pages load.

Refuses to say whether an address is known, and to lead anywhere but to a page of this site.
"""

from __future__ import annotations

from typing import Final

from fastapi import Response

from steward.butler import access
from steward.butler.errors import DoorFault, NotThere
from steward.butler.pages.door import THEME_COOKIE, THEMES, Looking, path_of_ours
from steward.butler.pages.rendering import Renderer
from steward.butler.pages.serving import away, pages_router, show_outside
from steward.butler.store_sessions import Attempt
from steward.words import Secret

router = pages_router()

_YEAR: Final = 31_536_000


@router.get("/sign-in")
def sign_in_page(visitor: Looking) -> Response:
    """The form; for who is signed in already, the first page."""
    back = path_of_ours(visitor.request.query_params.get("next", "/"))
    if visitor.person is not None:
        return away(back)
    return show_outside(visitor, "sign_in.html", "Sign in", next=back, email="", wrong="", said="")


@router.post("/sign-in")
def sign_in(visitor: Looking) -> Response:
    """A new session for this browser."""
    form, services, request = visitor.form, visitor.services, visitor.request
    email, back = form.line("email", 254), path_of_ours(form.line("next", 2000))
    agent = request.headers.get("user-agent", "")
    attempt = Attempt(email, form.secret("password") or Secret(""), access.address_of(request), "browser", agent)
    try:
        signed = services.sessions.sign_in(attempt, visitor.now)
    except DoorFault as fault:
        values = {"next": back, "email": email, "wrong": fault.message, "said": ""}
        return show_outside(visitor, "sign_in.html", "Sign in", fault.status, **values)
    response = away(back)
    access.sign_in(response, services, signed)
    return response


@router.post("/sign-out")
def sign_out(visitor: Looking) -> Response:
    """Ends the session on the server."""
    response = away("/sign-in")
    visitor.services.sessions.end(visitor.actor, visitor.session.id)
    access.sign_out(response, visitor.services)
    return response


@router.get("/invitations")
def invitation_page(visitor: Looking) -> Response:
    """What the link opens."""
    return _invited(visitor, visitor.request.query_params.get("token", ""), "")


@router.post("/invitations")
def join(visitor: Looking) -> Response:
    """A person more; he signs in with the password he chose."""
    form, token = visitor.form, visitor.form.line("token", 200)
    password = form.secret("password") or Secret("")
    try:
        visitor.services.people.accept(Secret(token), form.line("name", 100), password, visitor.now)
    except NotThere:
        raise
    except DoorFault as fault:
        return _invited(visitor, token, fault.message, fault.status)
    return away("/sign-in")


def _invited(visitor: Looking, token: str, wrong: str, status: int = 200) -> Response:
    invited = visitor.services.people.invited(Secret(token[:200]), visitor.now)
    return show_outside(visitor, "invited.html", "Join", status, invited=invited, token=token, wrong=wrong)


@router.post("/theme")
def theme(visitor: Looking) -> Response:
    """Light, dark, or as the system has it: kept by the browser."""
    said = visitor.form.line("theme", 8)
    response = away(path_of_ours(visitor.form.line("next", 2000)))
    chosen = said if said in THEMES else "auto"
    secure = access.is_secure(visitor.services)
    response.set_cookie(THEME_COOKIE, chosen, max_age=_YEAR, path="/", samesite="lax", secure=secure)
    return response


@router.get("/static/{name}")
def static(visitor: Looking, name: str) -> Response:
    """A file that pages load; under the address that pages have, it never changes."""
    renderer: Renderer = visitor.request.app.state.renderer
    asset = renderer.assets.get(name)
    if asset is None:
        raise NotThere
    kept = visitor.request.query_params.get("v") == asset.mark
    cache = f"public, max-age={_YEAR}, immutable" if kept else "no-cache"
    return Response(asset.content, 200, {"cache-control": cache}, media_type=asset.kind)
