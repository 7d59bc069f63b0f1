"""The viewer: where a person inside the network reads the bodies of a call. An application of its own, on its own port.

Knows no key and no session of Butler's. A page elsewhere can lead a browser here and no further: what another site sent
is asked about first. Every answer goes out through `viewer_gate.Gate` (SECURITY F5).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool

from steward import log
from steward.api import viewer_pages as pages
from steward.api.viewer_gate import STYLE_PATH, Gate
from steward.api.viewer_style import CSS
from steward.body_reading import laid_out
from steward.errors import ProviderUnavailable, SignInRefused, StewardError, StoreSlow
from steward.ports import IdentityProvider, ViewAct, ViewSession
from steward.viewing import CALLBACK_PATH, Opened, SignedIn, Viewing

SESSION_COOKIE: Final = "__Host-mdm_view"
SIGN_IN_COOKIE: Final = "__Host-mdm_sign_in"
_ATTRIBUTES: Final = "Path=/; Secure; HttpOnly; SameSite=Lax"
_MAX_FORM_BYTES: Final = 4096
_SIGN_IN_S: Final = 600
_SESSION_S: Final = 12 * 3600
_AT_ONCE: Final = 2
"""Bodies in hand: each may take some hundred MiB for a moment."""

if TYPE_CHECKING:
    from steward.proxy import Application

router = APIRouter()


@dataclass(frozen=True, slots=True)
class Viewer:
    """What the routes work with."""

    viewing: Viewing
    view_url: str
    provider: IdentityProvider | None
    room: threading.BoundedSemaphore = field(default_factory=lambda: threading.BoundedSemaphore(_AT_ONCE))


def viewer_app(viewing: Viewing, view_url: str, provider: IdentityProvider | None = None) -> Application:
    """The application behind its gate. With a `provider` people sign in there, without one by token."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.state.viewer = Viewer(viewing, view_url, provider)
    app.include_router(router)
    app.add_exception_handler(StewardError, _refused)
    app.add_exception_handler(RequestValidationError, _not_found)
    app.add_exception_handler(404, _not_found)
    app.add_exception_handler(405, _not_found)
    return Gate(app, view_url)


def _viewer(request: Request) -> Viewer:
    viewer: Viewer = request.app.state.viewer
    return viewer


def _session(request: Request, viewer: Annotated[Viewer, Depends(_viewer)]) -> ViewSession | None:
    """Whose browser this is, by the cookie alone."""
    return viewer.viewing.session(request.cookies.get(SESSION_COOKIE))


Here = Annotated[Viewer, Depends(_viewer)]
Who = Annotated[ViewSession | None, Depends(_session)]


@router.get(STYLE_PATH)
async def style() -> Response:
    """The style sheet."""
    return Response(CSS, media_type="text/css; charset=utf-8")


@router.get("/")
def index(viewer: Here, session: Who, org: UUID | None = None) -> Response:
    """The newest calls of one of the session's organisations."""
    if session is None:
        return _sign_in_page(viewer, None)
    org_id = org or session.org_ids[0]
    rows = viewer.viewing.newest(session, org_id)
    return _html(pages.index(session.who, session.org_ids, org_id, rows))


@router.get("/find")
def find(viewer: Here, session: Who, id: str = "") -> Response:  # noqa: A002 - the field's name
    """From the box to the call."""
    try:
        return _see_other(f"/requests/{UUID(id.strip())}")
    except ValueError:
        who = None if session is None else session.who
        words = "A request's id is the X-Majordomo-Request-Id of its answer."
        return _html(pages.message("Not a request id", words, who, ("/", "Back")), 404)


@router.get("/requests/{request_id}")
def call(request: Request, viewer: Here, session: Who, request_id: UUID) -> Response:
    """A call's facts and its bodies."""
    if session is None:
        return _sign_in_page(viewer, request_id)
    if request.state.foreign:
        return _asked_first(session, request_id)

    def shown(opened: Opened) -> Response:
        return _html(pages.call(session.who, _shown(opened)))

    return _opened(request, viewer, session, shown)


@router.get("/requests/{request_id}/download")
def download(request: Request, viewer: Here, session: Who, request_id: UUID) -> Response:
    """The object as JSON, to be kept as a file."""
    if session is None:
        return _sign_in_page(viewer, request_id)
    if request.state.foreign:
        return _asked_first(session, request_id)

    def saved(opened: Opened) -> Response:
        if opened.document is None:
            return _html(pages.call(session.who, _shown(opened)), 404)
        name = {"content-disposition": f'attachment; filename="{opened.row.id}.json"'}
        return Response(opened.document, media_type="application/octet-stream", headers=name)

    return _opened(request, viewer, session, saved, ViewAct.DOWNLOADED)


@router.get("/requests/{request_id}/{side}")
def part(request: Request, viewer: Here, session: Who, request_id: UUID, side: str) -> Response:
    """A page of one body."""
    if session is None:
        return _sign_in_page(viewer, request_id)
    if request.state.foreign:
        return _asked_first(session, request_id)

    def shown(opened: Opened) -> Response:
        text = _side_text(_shown(opened), side)
        if text is None:
            return _html(pages.message("Nothing here", "This call has no such body.", session.who, ("/", "Back")), 404)
        page = request.query_params.get("page", "1")
        number = int(page) if page.isdecimal() and len(page) < 7 else 1
        return _html(pages.part_of(session.who, request_id, side, text, number))

    return _opened(request, viewer, session, shown)


@router.post("/sign-in")
async def sign_in(request: Request, viewer: Here) -> Response:
    """A token becomes a session."""
    fields = await _form(request)
    if viewer.provider is not None or fields is None:
        return _not_found_page()
    next_id = _next(fields.get("next"))
    return await run_in_threadpool(_sign_in_with_token, request, viewer, fields.get("token", ""), next_id)


@router.post("/sign-out")
def sign_out(request: Request, viewer: Here) -> Response:
    """Ends the session here and in the browser."""
    viewer.viewing.sign_out(request.cookies.get(SESSION_COOKIE), _peer(request))
    answer = _see_other("/")
    _forget(answer, SESSION_COOKIE)
    return answer


@router.get("/sign-in/oidc")
def leave_to_sign_in(request: Request, viewer: Here, next: UUID | None = None) -> Response:  # noqa: A002
    """Off to the OpenID provider. What comes back is bound to this browser by one random value."""
    if viewer.provider is None:
        return _not_found_page()
    if request.state.foreign:
        return _sign_in_page(viewer, next)
    if (clash := _host_is_butlers(viewer)) is not None:
        return clash
    secret = secrets.token_urlsafe(32)
    challenge = hashlib.sha256(_bound(secret, "verifier").encode()).digest()
    address = viewer.provider.address(_bound(secret, "state"), _bound(secret, "nonce"), _base64url(challenge))
    answer = _see_other(address)
    value = secret if next is None else f"{secret}.{next}"
    answer.headers.append("set-cookie", f"{SIGN_IN_COOKIE}={value}; Max-Age={_SIGN_IN_S}; {_ATTRIBUTES}")
    return answer


@router.get(CALLBACK_PATH)
def came_back(request: Request, viewer: Here, code: str = "", state: str = "") -> Response:
    """Back from the OpenID provider, with a code that is good once. Raises SignInRefused, ProviderUnavailable."""
    if viewer.provider is None:
        return _not_found_page()
    secret, _, next_id = request.cookies.get(SIGN_IN_COOKIE, "").partition(".")
    if not secret or not hmac.compare_digest(state.encode(), _bound(secret, "state").encode()) or not code:
        raise SignInRefused
    if (clash := _host_is_butlers(viewer)) is not None:
        return clash
    person = viewer.provider.redeem(code, _bound(secret, "verifier"), _bound(secret, "nonce"))
    made = viewer.viewing.sign_in(person, _peer(request), request.cookies.get(SESSION_COOKIE))
    answer = _signed_in(made, _next(next_id))
    _forget(answer, SIGN_IN_COOKIE)
    return answer


def _opened(
    request: Request,
    viewer: Viewer,
    session: ViewSession,
    shown: Callable[[Opened], Response],
    act: ViewAct = ViewAct.OPENED,
) -> Response:
    """Laid out a few at a time: whoever comes while others read large bodies waits, but for no bucket but his own."""
    request_id = UUID(request.path_params["request_id"])
    fetched = viewer.viewing.fetch(session, request_id, _peer(request), act)
    with viewer.room:
        return shown(viewer.viewing.opened(fetched))


def _shown(opened: Opened) -> pages.Shown:
    if opened.document is None:
        return pages.Shown(opened.row)
    reading = laid_out(opened.document)
    if reading is not None:
        return pages.Shown(opened.row, reading)
    return pages.Shown(opened.row, document=opened.document.decode("utf-8", "replace"))


def _side_text(shown: pages.Shown, side: str) -> str | None:
    if side == "document":
        return shown.document
    if shown.reading is None or side not in ("request", "response"):
        return None
    return (shown.reading.request if side == "request" else shown.reading.response).text()


def _sign_in_with_token(request: Request, viewer: Viewer, token: str, next_id: UUID | None) -> Response:
    if (clash := _host_is_butlers(viewer)) is not None:
        return clash
    before = request.cookies.get(SESSION_COOKIE)
    made = viewer.viewing.sign_in_with_token(token.strip(), _peer(request), before)
    if made is None:
        log.say("view_sign_in_refused")
        return _html(pages.sign_in(next_id, failed=True), 403)
    return _signed_in(made, next_id)


def _signed_in(made: SignedIn, next_id: UUID | None) -> Response:
    answer = _see_other(f"/requests/{next_id}" if next_id else "/")
    answer.headers.append("set-cookie", f"{SESSION_COOKIE}={made.secret}; Max-Age={_SESSION_S}; {_ATTRIBUTES}")
    return answer


def _host_is_butlers(viewer: Viewer) -> Response | None:
    """Cookies know no port: under Butler's own host name a browser would send it what opens bodies."""
    if not viewer.viewing.shares_a_host(urlsplit(viewer.view_url).hostname or ""):
        return None
    words = "VIEW_URL names Butler's own host, and a browser would send Butler what opens bodies here. "
    return _html(pages.message("Not on this host", words + "Give the viewer a host name of its own."), 503)


def _sign_in_page(viewer: Viewer, next_id: UUID | None) -> Response:
    return _html(pages.sign_in(next_id) if viewer.provider is None else pages.sign_in_elsewhere(next_id), 401)


def _asked_first(session: ViewSession, request_id: UUID) -> Response:
    words = f"Another page led here. The call is {request_id}; opening it is written down."
    return _html(pages.message("Open this call?", words, session.who, (f"/requests/{request_id}", "Open it")))


async def _refused(request: Request, exc: Exception) -> Response:
    """One of our own sentences, and nothing of what was refused."""
    assert isinstance(exc, StewardError)
    log.error("view_refused", exc)
    way = ("/", "Back") if not isinstance(exc, SignInRefused | ProviderUnavailable) else ("/", "Try again")
    if isinstance(exc, StoreSlow):
        way = (request.url.path, "Try again")
    answer = _html(pages.message("Not shown", exc.message, way=way), exc.status)
    if exc.retry_after_s is not None:
        answer.headers["retry-after"] = str(exc.retry_after_s)
    return answer


async def _not_found(request: Request, exc: Exception) -> Response:
    return _not_found_page()


def _not_found_page() -> Response:
    return _html(pages.message("Nothing here", "There is no such page.", way=("/", "Calls")), 404)


async def _form(request: Request) -> dict[str, str] | None:
    """A small form's fields; None for anything else."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        return None
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _MAX_FORM_BYTES:
            return None
    with suppress(ValueError):
        return {name: values[0] for name, values in parse_qs(body.decode("ascii"), max_num_fields=8).items()}
    return None


def _next(text: str | None) -> UUID | None:
    """Where somebody wanted to go: a call's id, and no other address."""
    with suppress(ValueError):
        return UUID(text) if text else None
    return None


def _bound(secret: str, use: str) -> str:
    """A value that only who holds the cookie can make, and from which nobody can make another's."""
    return _base64url(hmac.digest(secret.encode(), use.encode(), "sha256"))


def _base64url(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def _peer(request: Request) -> str:
    return request.client.host[:100] if request.client else "unknown"


def _see_other(address: str) -> Response:
    return Response(status_code=303, headers={"location": address})


def _forget(answer: Response, cookie: str) -> None:
    answer.headers.append("set-cookie", f"{cookie}=; Max-Age=0; {_ATTRIBUTES}")


def _html(page: str, status: int = 200) -> Response:
    return Response(page.encode("utf-8", "replace"), status, media_type="text/html; charset=utf-8")
