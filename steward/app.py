"""The one FastAPI core, with the proxy in front. Every host's handler serves what `create_app` gives.

It reads no setting and opens nothing: it is handed Services. FastAPI is imported with the first request for one of
our own routes, or when told: it takes half of a cold start, and a relayed call never asks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from steward.destination import Destination, FilesDestination, GcsDestination, S3Destination
from steward.ports import Registration
from steward.proxy import Application, Proxy, Receive, Scope, Send
from steward.registering import UNHEARD_S, unheard_s
from steward.version import VERSION
from steward.wiring.relay import Services

if TYPE_CHECKING:
    from fastapi import FastAPI, Request
    from fastapi.responses import JSONResponse

    from steward.api import tasks
    from steward.api.operators import Doors


def create_app(services: Services, tasks_due: tasks.Tasks | None = None, at_once: bool = False) -> Application:
    """The application for callers: the proxy in front, our own routes behind it.

    `tasks_due`: what a cloud's own signed calls run; without it their paths are a provider's. `at_once`: for a process
    that lives long and starts before anyone waits; its first probe then waits for nothing.
    """

    def own() -> FastAPI:
        from steward.api.operators import Doors

        return own_routes(services, Doors(services.settings.steward_admin_token), tasks_due)

    return Proxy(services.stages, own() if at_once else _WhenAsked(own), _task_paths(tasks_due))


def _task_paths(tasks_due: tasks.Tasks | None) -> frozenset[bytes]:
    if tasks_due is None:
        return frozenset()
    from steward.api.tasks import PATHS

    return PATHS


def create_ops_app(services: Services) -> Application:
    """The application for operators, on a port of its own: our own routes alone, no token asked."""
    from steward.api.operators import Doors

    return own_routes(services, Doors(None, open_to_all=True))


class _WhenAsked:
    """An application that is made for its first request. For one loop's thread."""

    def __init__(self, make: Callable[[], Application]) -> None:
        self._make = make
        self._app: Application | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if self._app is None:
            self._app = self._make()
        await self._app(scope, receive, send)


def own_routes(services: Services, doors: Doors, tasks_due: tasks.Tasks | None = None) -> FastAPI:
    """Our own paths. No CORS header, no foreign script, no value in a validation error (SECURITY F21)."""
    from fastapi import FastAPI
    from fastapi.exceptions import RequestValidationError

    from steward.api import health, metrics, orgs, pages

    app = FastAPI(
        title="Majordomo Steward",
        summary="Our own routes. Every other path is a provider's and is relayed.",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.readiness = health.Readiness(services.ready, lambda: details(services))
    app.state.doors = doors
    app.state.board = services.board
    app.state.organisations = services.organisations()
    app.include_router(health.router)
    app.include_router(metrics.router)
    app.include_router(orgs.router)
    app.include_router(pages.router)
    if tasks_due is not None:
        from steward.api import tasks

        app.state.tasks = tasks_due
        app.include_router(tasks.router)
    app.add_exception_handler(RequestValidationError, _names_only)
    app.add_middleware(_RawPaths)
    return app


class _RawPaths:
    """Routes are compared with the path as it was sent: `/admin/%6frgs` is none of ours (SECURITY F21)."""

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http":
            scope = {**scope, "path": scope["raw_path"].decode("latin-1")}
        await self._app(scope, receive, send)


async def _names_only(request: Request, exc: Exception) -> JSONResponse:
    """Which fields are wrong, never what stood in them."""
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse

    assert isinstance(exc, RequestValidationError)
    fields = sorted({".".join(str(part) for part in each["loc"]) for each in exc.errors()})
    return JSONResponse({"error": {"code": "invalid_request", "fields": fields}}, status_code=422)


def details(services: Services) -> dict[str, object]:
    """What an operator may know beyond the one word."""
    settings = services.settings
    return {
        "version": VERSION,
        "database": {"heard": services.authenticator.database_heard(), "host": settings.postgres_host},
        "keys_in_memory": services.authenticator.known_keys,
        "bodies": _bodies(settings.body_store),
        "butlers": [_butler(each) for each in services.health.butlers],
        "approvals_pending": services.health.approvals_pending,
        "prices": _prices(services),
        "origins": {name: origin.authority.decode("ascii") for name, origin in settings.origins.items()},
    }


def _butler(each: Registration) -> dict[str, object]:
    """An hour without a word is told; its keys work on."""
    return {
        "org_id": str(each.org_id),
        "heard_at": each.heard_at.isoformat() if each.heard_at else None,
        "unheard": unheard_s(each, datetime.now(UTC)) >= UNHEARD_S,
        "fault": each.fault,
    }


def _prices(services: Services) -> dict[str, object] | None:
    """None where another process prices."""
    if services.prices is None:
        return None
    prices = services.prices.state
    return {
        "source": prices.source,
        "last_try": prices.outcome,
        "tried_at": prices.tried_at.isoformat() if prices.tried_at else None,
        "fetched_at": prices.fetched_at.isoformat() if prices.fetched_at else None,
        "held": [{"provider": held.provider, "model": held.model} for held in prices.held[:50]],
    }


def _bodies(destination: Destination | None) -> str:
    match destination:
        case S3Destination(bucket=bucket):
            return f"s3://{bucket}"
        case GcsDestination(bucket=bucket):
            return f"gs://{bucket}"
        case FilesDestination(folder=folder):
            return f"file://{folder}"
        case None:
            return "none"
