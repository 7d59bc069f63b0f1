"""All of Butler as one application: the Stewards' protocol, the management API, and the pages where they are installed.

It reads no setting and opens nothing: it is handed Services. No CORS header, no foreign script, no value in an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steward import log
from steward.butler import management, wire
from steward.butler.access import ANYONE, Rules, guard, headers_of, services_of
from steward.butler.database import RowsRefused
from steward.butler.errors import DoorFault, NotAcceptable
from steward.butler.pages.site import add_pages
from steward.butler.services import Services
from steward.errors import InternalError, StewardError
from steward.words import Secret

API: Final = "/api/"
_OWN_RULES: Final[Rules] = {"GET /health": ANYONE, "GET /readyz": ANYONE}


def create_butler(services: Services, managed_token: Secret[str] | None = None) -> FastAPI:
    """The application. `managed_token`: what a managed Steward asks with, where there is one."""
    app = FastAPI(
        title="Majordomo Butler",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        dependencies=[Depends(guard)],
    )
    app.state.services = services
    app.state.managed_token = managed_token
    app.state.rules = {**_OWN_RULES, **wire.RULES, **management.RULES}
    app.state.problem = None
    app.get("/health")(_health)
    app.get("/readyz")(_readyz)
    app.include_router(wire.router)
    app.include_router(management.router)
    add_pages(app)
    app.add_middleware(_Headed)
    for kind in (StewardError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, _answered)
    return app


async def _health() -> Response:
    """The process lives."""
    return PlainTextResponse("alive")


def _readyz(request: Request) -> Response:
    """The database answers, and has this release's tables."""
    services_of(request).database.ready()
    return PlainTextResponse("ready")


class _Headed:
    """Puts `access.headers_of` on every answer that does not have them otherwise."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def headed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in headers_of(scope["app"].state.services).items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, headed if scope["type"] == "http" else send)


def _answered(request: Request, exc: Exception) -> Response:
    """An error as whoever asked can read it: an object for programs, a page for people."""
    fault = _fault(exc)
    if fault.status >= 500:
        log.error("butler_failed", exc)
    problem: Callable[[Request, StewardError], Response] | None = request.app.state.problem
    if problem is not None and not request.url.path.startswith(API):
        return _headed(request, problem(request, fault))
    said: dict[str, object] = {"code": fault.code, "message": fault.message}
    if isinstance(fault, NotAcceptable):
        said |= {"field": fault.field} if fault.field else {}
        said |= {"index": fault.index} if fault.index is not None else {}
    headers = {"retry-after": str(fault.retry_after_s)} if fault.retry_after_s else {}
    if fault.status == 401:
        headers["www-authenticate"] = "Bearer"
    return _headed(request, JSONResponse({"error": said}, status_code=fault.status, headers=headers))


def _headed(request: Request, response: Response) -> Response:
    """An answer to a defect is given outside of everything else, `_Headed` included."""
    for name, value in headers_of(services_of(request)).items():
        response.headers.setdefault(name, value)
    return response


def _fault(exc: Exception) -> StewardError:
    match exc:
        case RowsRefused():
            return NotAcceptable()
        case StewardError():
            return exc
        case RequestValidationError():
            first = exc.errors()[0]["loc"] if exc.errors() else ()
            return NotAcceptable(".".join(str(part) for part in first[1:]))
        case HTTPException():
            return _Plain(exc.status_code)
    return InternalError("Butler failed. Nothing was changed.")


class _Plain(DoorFault):
    """What the framework says by itself: no such path, no such method."""

    code = "not_found"
    message = "There is nothing at this address."

    def __init__(self, status: int) -> None:
        super().__init__()
        self.status = status  # type: ignore[misc]
