"""What page routes share: a page from a template, a redirect after a write, and a page for what went wrong.

Refuses to say more of a fault than its fixed sentence. The page for it says what failed, what still works and what to
do, in the frame of every page for who is signed in; somebody who is not is asked to, and comes back to where he was.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from steward.butler import access
from steward.butler.pages import frame
from steward.butler.pages.door import Visitor, theme_of
from steward.butler.pages.rendering import Renderer
from steward.errors import StewardError

SEE_OTHER: Final = 303
_TITLES: Final = {
    403: "Not allowed",
    404: "Not found",
    405: "Not found",
    413: "Too long",
    422: "Not understood",
    429: "Too many tries",
    503: "Not available",
}


def page_of(visitor: Visitor, title: str, current: str, live: bool = False) -> frame.Page:
    """The frame around a page for whoever is signed in. Raises NotSignedIn."""
    services, session, now = visitor.services, visitor.session, visitor.now
    notices: tuple[frame.Notice, ...] = ()
    if current != "audit":  # which shows all of them
        notices = frame.told(services.audit.notices(session.org_id, session.user_id), now)
    if current in {"overview", "requests", "stewards"}:
        notices = (*frame.behind(services.stewards.all(session.org_id), now), *notices)
    return frame.Page(
        title=title,
        current=current,
        path=visitor.request.url.path,
        here=visitor.here,
        session=session,
        csrf=visitor.csrf,
        theme=visitor.theme,
        now=now,
        nav=frame.NAV,
        notices=notices,
        live_every=frame.LIVE_EVERY_S if live else 0,
        viewer=services.steward_view_url,
    )


def show(visitor: Visitor, template: str, page: frame.Page, status: int = 200, **values: object) -> Response:
    """The page."""
    renderer: Renderer = visitor.request.app.state.renderer
    return HTMLResponse(renderer.html(template, page=page, **values), status)


def show_outside(visitor: Visitor, template: str, title: str, status: int = 200, **values: object) -> Response:
    """A page for who is not signed in; its form's token belongs to a cookie that this sets."""
    headers = Response()
    csrf = access.door(visitor.request, headers, visitor.services)
    page = frame.Page(title, "", visitor.request.url.path, "/", None, csrf, visitor.theme, visitor.now)
    response = show(visitor, template, page, status, **values)
    response.raw_headers += [each for each in headers.raw_headers if each[0] == b"set-cookie"]
    return response


def away(path: str) -> Response:
    """To a page, after a write."""
    return RedirectResponse(path, SEE_OTHER)


def pages_router() -> APIRouter:
    """A router of pages; they stand in no description of an API."""
    return APIRouter(include_in_schema=False)


def problem(request: Request, fault: StewardError) -> Response:
    """A fault as a page: what failed, what still works, what to do. It asks the database for nothing but who looks."""
    if fault.status == 401:
        return _to_sign_in(request)
    works, todo = "", ""
    if fault.status >= 500:
        works = "Your Stewards go on relaying calls, and keep what they have to report until Butler takes it."
        todo = "Try again in a moment. If it stays, whoever runs this Butler should look at its log and its database."
    renderer: Renderer = request.app.state.renderer
    values = {"what": fault.message, "works": works, "todo": todo, "door": _door(request)}
    again = request.url.path if request.method == "GET" and fault.status >= 500 else ""
    text = renderer.html("problem.html", page=_problem_page(request, fault.status), again=again, **values)
    headers = {"retry-after": str(fault.retry_after_s)} if fault.retry_after_s else None
    return HTMLResponse(text, fault.status, headers)


def _problem_page(request: Request, status: int) -> frame.Page:
    """Framed for who is known to be signed in; after a fault of ours nobody is looked up again."""
    services = access.services_of(request)
    known = getattr(request.state, "visitor", None) if status >= 500 else access.known(request)
    title, here = _TITLES.get(status, "This did not work"), Visitor(services, request, known).here
    return frame.Page(
        title=title,
        current="",
        path=request.url.path,
        here=here if request.method == "GET" else "/",
        session=known.session if known else None,
        csrf=known.csrf if known else "",
        theme=theme_of(request),
        now=services.now(),
        nav=frame.NAV if known else (),
    )


def _to_sign_in(request: Request) -> Response:
    return away(_door(request))


def _door(request: Request) -> str:
    """Where one signs in and then comes back to here."""
    query = f"?{request.url.query}" if request.url.query else ""
    back = request.url.path + query if request.method == "GET" else "/"
    return f"/sign-in?{urlencode({'next': back})}" if back != "/" else "/sign-in"
