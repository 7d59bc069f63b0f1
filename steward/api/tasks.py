"""`/tasks/settle` and `/tasks/scheduled`: what a cloud calls of itself, in the name of one service account.

Present only where TASKS_SERVICE_ACCOUNT and TASKS_AUDIENCE are set; elsewhere these paths are a provider's like any
other. Nothing is read before the token is known to be right, and a wrong one is answered without a word (SECURITY F19).
"""

from __future__ import annotations

import base64
import binascii
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from steward import log
from steward.errors import ProviderUnavailable, StewardError

router = APIRouter()

PATHS: Final = frozenset({b"/tasks/settle", b"/tasks/scheduled"})
MAX_BODY_BYTES: Final = 14 << 20
"""Pub/Sub's largest message, 10 MB, in base64 and with its attributes."""
SWEEP_S: Final = 150.0
"""Less than the 180 s that Cloud Scheduler waits unless it is told otherwise."""

_ANSWERS: dict[int | str, dict[str, Any]] = {
    401: {"description": "No token, or not the account's"},
    503: {"description": "Not now; call again"},
}


@dataclass(frozen=True, slots=True)
class Pushed:
    """One message as Pub/Sub pushed it."""

    id: str
    data: bytes = field(repr=False)
    attributes: Mapping[str, str] = field(repr=False)


Settle = Callable[[Sequence[Pushed]], Mapping[str, str | None]]
"""Settles and exports. Message id -> the code of what went wrong with it, None where nothing did."""


class Signed(Protocol):
    """Knows the account's tokens."""

    def right(self, token: str) -> bool:
        """Whether it is exactly right. Raises ProviderUnavailable."""


@dataclass(slots=True, eq=False)
class Tasks:
    """What the routes work on. Its callables block; each runs in a thread."""

    signed: Signed
    settle: Settle | None
    """None: no queue is set."""
    sweep: Callable[[float], None]
    """What a schedule runs, until a monotonic moment."""
    close: Callable[[], None] = lambda: None
    """Gives back what the others opened."""
    sweeping: threading.Lock = field(default_factory=threading.Lock)


@router.post("/tasks/settle", summary="Settle a message that Pub/Sub pushes", status_code=204, responses=_ANSWERS)
async def settle(request: Request) -> Response:
    """204 acknowledges the message; whatever else leaves it with Pub/Sub, for another try or the dead letters."""
    tasks: Tasks = request.app.state.tasks
    if (refused := await _refusal(tasks, request)) is not None:
        return refused
    if tasks.settle is None:
        return _refused(404, "no_queue")
    body = await _body(request)
    if body is None:
        return _refused(413, "request_too_large")
    message = _read(body)
    if message is None:
        return _refused(400, "invalid_message")
    return await run_in_threadpool(_settled, tasks.settle, message)


@router.post("/tasks/scheduled", summary="Do what is due", status_code=204, responses=_ANSWERS)
async def scheduled(request: Request) -> Response:
    """204 when it is done, 202 while another call's is under way."""
    tasks: Tasks = request.app.state.tasks
    if (refused := await _refusal(tasks, request)) is not None:
        return refused
    return await run_in_threadpool(_swept, tasks)


async def _refusal(tasks: Tasks, request: Request) -> Response | None:
    """None for the bearer of one token that is right."""
    given = request.headers.getlist("authorization")
    scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    if scheme.lower() != "bearer" or not token:
        return _silent(401)
    try:
        right = await run_in_threadpool(tasks.signed.right, token)
    except ProviderUnavailable as fault:
        log.error("task_not_checked", fault)
        return _silent(503)
    return None if right else _silent(401)


def _settled(settle: Settle, message: Pushed) -> Response:
    try:
        fault = settle([message]).get(message.id)
    except StewardError as exc:
        log.error("settle_failed", exc)
        return _refused(503, exc.code)
    return _silent(204) if fault is None else _refused(503, fault)


def _swept(tasks: Tasks) -> Response:
    if not tasks.sweeping.acquire(blocking=False):
        return _silent(202)
    try:
        tasks.sweep(time.monotonic() + SWEEP_S)
    except StewardError as exc:
        log.error("sweep_failed", exc)
        return _refused(503, exc.code)
    finally:
        tasks.sweeping.release()
    return _silent(204)


async def _body(request: Request) -> bytes | None:
    """None: it is larger than a push can be."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            return None
    return bytes(body)


def _read(body: bytes) -> Pushed | None:
    """`{"message": {"data", "attributes", "messageId"}, "subscription"}`; None for what is not."""
    try:
        said = orjson.loads(body)
        message = said["message"]
        ident, attributes = message["messageId"], message.get("attributes") or {}
        data = base64.b64decode(message.get("data") or "", validate=True)
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, ValueError, binascii.Error):
        return None
    texts = isinstance(attributes, dict) and all(isinstance(each, str) for each in attributes.values())
    if not isinstance(ident, str) or not 0 < len(ident) <= 256 or not texts:
        return None
    return Pushed(ident, data, attributes)


def _silent(status: int) -> Response:
    return Response(None, status, {"cache-control": "no-store"})


def _refused(status: int, code: str) -> Response:
    body = orjson.dumps({"error": {"code": code}})
    return Response(body, status, {"cache-control": "no-store"}, media_type="application/json")
