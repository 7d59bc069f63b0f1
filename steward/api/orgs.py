"""`/admin/orgs`: which organisations this installation works for, for whoever bears STEWARD_ADMIN_TOKEN, on both ports.

Without that token it does not exist. Ten wrong tries a minute are answered, then none: the right one waits, too
(SECURITY F21). What is wrong in a request is told by the names of its fields, never by their values.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from steward import log, values
from steward.api.operators import Doors
from steward.errors import ButlerDenied, ButlerFault, LedgerFault, SettingError, StewardError
from steward.ports import REGISTERED_ELSEWHERE, Directory, Registration
from steward.registering import OpenButler, Waiting, facts, nothing_waits, org_id, register
from steward.words import Secret

router = APIRouter()

MAX_BODY_BYTES: Final = 16 << 10
WRONG_TRIES: Final = 10
TRIES_S: Final = 60.0

_ANSWERS: dict[int | str, dict[str, Any]] = {
    401: {"description": "Not the admin token"},
    404: {"description": "There is no STEWARD_ADMIN_TOKEN, or no such organisation"},
    429: {"description": "Ten wrong tokens within a minute"},
    503: {"description": "The database does not answer"},
}
_POSTED: dict[int | str, dict[str, Any]] = {
    201: {"description": "Registered; it takes effect within WORK_TICK_INTERVAL"},
    403: {"description": "BUTLER_URLS_ALLOW does not name the address"},
    409: {"description": "It is registered at another Butler: deregister it first"},
    413: {"description": "More than 16 KiB"},
    422: {"description": "Which fields are wrong"},
    502: {"description": "Butler does not answer as it should, or does not know the token"},
}


@dataclass(slots=True, eq=False)
class AdminDoor:
    """The admin token, and how often a wrong one was tried lately in this process."""

    token: Secret[str] | None
    monotonic: Callable[[], float] = time.monotonic
    _wrong: deque[float] = field(default_factory=lambda: deque(maxlen=WRONG_TRIES))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def refusal(self, request: Request) -> Response | None:
        """None for the bearer of the token."""
        if self.token is None:
            return _refused(404, "not_found")
        with self._lock:
            now = self.monotonic()
            if len(self._wrong) == WRONG_TRIES and now - self._wrong[0] < TRIES_S:
                wait_s = max(1, round(TRIES_S - (now - self._wrong[0])))
                return _refused(429, "too_many_tries", {"retry-after": str(wait_s)})
            if not Doors(self.token).opens_for(request):
                if "authorization" in request.headers:  # who sends none guesses nothing
                    self._wrong.append(now)
                return _refused(401, "admins_only")
        return None


@dataclass(frozen=True, slots=True)
class Organisations:
    """What the routes work on."""

    directory: Directory
    open_butler: OpenButler
    door: AdminDoor
    allowed: tuple[str, ...] = ()
    waiting: Waiting = nothing_waits


@router.post("/admin/orgs", summary="Register an organisation", status_code=201, responses={**_ANSWERS, **_POSTED})
async def post(request: Request) -> Response:
    """Takes a JSON object of two texts: `token` and `butler_url`."""
    orgs: Organisations = request.app.state.organisations
    if (refused := orgs.door.refusal(request)) is not None:
        return refused
    body = await _body(request)
    if body is None:
        return _refused(413, "request_too_large")
    url, token, wrong = _read(body)
    if url is None or token is None:
        return _json({"error": {"code": "invalid_request", "fields": wrong}}, 422)
    return await run_in_threadpool(_answered, lambda: _registered(orgs, url, token))


@router.get("/admin/orgs", summary="The organisations that are, and were, registered", responses=_ANSWERS)
async def listed(request: Request) -> Response:
    """Each with what waits for it: rows to be exported, approvals."""
    orgs: Organisations = request.app.state.organisations
    if (refused := orgs.door.refusal(request)) is not None:
        return refused
    return await run_in_threadpool(_answered, lambda: _listed(orgs))


@router.delete("/admin/orgs/{org}", summary="Deregister an organisation", responses=_ANSWERS)
async def delete(request: Request, org: str) -> Response:
    """Forgets its token; its keys open no call."""
    orgs: Organisations = request.app.state.organisations
    if (refused := orgs.door.refusal(request)) is not None:
        return refused
    return await run_in_threadpool(_answered, lambda: _ended(orgs, org))


def _registered(orgs: Organisations, url: str, token: Secret[str]) -> Response:
    made = register(orgs.directory, orgs.open_butler, url, token, orgs.allowed)
    return _json(facts(made, {}), 201)


def _listed(orgs: Organisations) -> Response:
    known: list[Registration] = orgs.directory.registrations()
    return _json({"organisations": [facts(each, orgs.waiting(each)) for each in known]})


def _ended(orgs: Organisations, org: str) -> Response:
    found = org_id(org)
    ended = None if found is None else orgs.directory.deregister(found)
    return _refused(404, "not_found") if ended is None else _json(facts(ended, {}))


def _answered(do: Callable[[], Response]) -> Response:
    """Its answer, or what its failure means."""
    try:
        return do()
    except SettingError:
        return _refused(403, "butler_url_not_allowed")
    except ButlerDenied as fault:
        return _refused(502, fault.code)
    except ButlerFault as fault:
        log.error("register_failed", fault)
        return _refused(502, fault.code)
    except LedgerFault as fault:
        if fault.message == REGISTERED_ELSEWHERE:
            return _refused(409, "registered_elsewhere")
        log.error("register_failed", fault)
        return _refused(503, fault.code)
    except StewardError as fault:
        log.error("register_failed", fault)
        return _refused(500, fault.code)


async def _body(request: Request) -> bytes | None:
    """None: it is larger than a request of ours can be."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            return None
    return bytes(body)


def _read(body: bytes) -> tuple[str | None, Secret[str] | None, list[str]]:
    """Address and token; names of what is wrong."""
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        said = None
    if not isinstance(said, dict):
        return None, None, ["body"]
    url = _parsed(values.butler_url, said.get("butler_url"))
    token = _parsed(values.steward_token, said.get("token"))
    wrong = [name for name, value in (("butler_url", url), ("token", token)) if value is None]
    wrong += ["body"] if set(said) - {"token", "butler_url"} else []
    return (None, None, wrong) if wrong else (url, token, wrong)


def _parsed(parse: Callable[[str], Any], said: object) -> Any:
    try:
        return parse(said) if isinstance(said, str) else None
    except ValueError:
        return None


def _refused(status: int, code: str, headers: dict[str, str] | None = None) -> Response:
    return _json({"error": {"code": code}}, status, headers)


def _json(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    body = orjson.dumps(value, option=orjson.OPT_UTC_Z)
    plain = {"cache-control": "no-store", "x-content-type-options": "nosniff", **(headers or {})}
    return Response(body, status, plain, media_type="application/json")
