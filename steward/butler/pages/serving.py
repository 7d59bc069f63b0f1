"""What page routes share: a page from a template, a redirect after a write, and a page for what went wrong.

Refuses to say more of a fault than its fixed sentence. The page for it says what failed, what still works and what to
do; somebody who is not signed in is asked to, and comes back to where he was.
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
    """A fault as a page: what failed, what still works, what to do."""
    if fault.status == 401:
        return _to_sign_in(request)
    works, todo = "", ""
    if fault.status >= 500:
        works = "Your Stewards go on relaying calls, and keep what they have to report until Butler takes it."
        todo = "Try again in a moment. If it stays, whoever runs this Butler should look at its log and its database."
    renderer: Renderer = request.app.state.renderer
    now = access.services_of(request).now()
    title = _TITLES.get(fault.status, "This did not work")
    page = frame.Page(title, "", request.url.path, "/", None, "", theme_of(request), now)
    again = request.url.path if request.method == "GET" and fault.status >= 500 else ""
    text = renderer.html("problem.html", page=page, what=fault.message, works=works, todo=todo, again=again)
    headers = {"retry-after": str(fault.retry_after_s)} if fault.retry_after_s else None
    return HTMLResponse(text, fault.status, headers)


def _to_sign_in(request: Request) -> Response:
    query = f"?{request.url.query}" if request.url.query else ""
    back = request.url.path + query if request.method == "GET" else "/"
    return away(f"/sign-in?{urlencode({'next': back})}" if back != "/" else "/sign-in")
