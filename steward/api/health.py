"""`/health` and `/readyz`: whether the process lives, and whether it should get calls.

On the callers' port `/readyz` is one word; the details, which name hosts, are for operators (SECURITY F21).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from steward.api.operators import is_operator

router = APIRouter()

REASONS = {
    "ready": "The Steward takes calls.",
    "draining": "The Steward is shutting down.",
    "schema": "The database schema is too old. Run: steward migrate",
    "key": "ENCRYPTION_KEY does not open this database's secrets. Set the key it was migrated with.",
    "database": "The database does not answer; known keys are served from memory.",
}


@dataclass(frozen=True, slots=True)
class Readiness:
    """What the process says of itself."""

    word: Callable[[], str]
    """A key of `REASONS`."""
    details: Callable[[], Mapping[str, object]]
    """For operators: may name hosts and buckets, no secret."""


@router.head("/health", include_in_schema=False)
@router.get("/health", summary="The process lives", response_class=PlainTextResponse)
async def health() -> str:
    """Says `alive` as long as the event loop turns. For liveness probes."""
    return "alive"


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", summary="The process takes calls", responses={503: {"description": "It does not, and why"}})
async def readyz(request: Request, operator: Annotated[bool, Depends(is_operator)]) -> Response:
    """200 `ready`, or 503 and one word. Operators get the details as JSON."""
    readiness: Readiness = request.app.state.readiness
    word = readiness.word()
    ready = word == "ready"
    status = 200 if ready else 503
    if not operator:
        return PlainTextResponse("ready" if ready else "unready", status_code=status)
    said = {"state": word, "reason": REASONS[word], **readiness.details()}
    return JSONResponse(said, status_code=status)
