"""`/metrics`: what all processes of this Steward counted, for Prometheus.

For operators: it tells cost and traffic of every provider (SECURITY F21).
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from steward.api.operators import is_operator
from steward.metric_files import Board

router = APIRouter()

_CLOSED = {
    "error": {
        "code": "operators_only",
        "message": "Metrics are for operators: use OPS_PORT, or send Authorization: Bearer with STEWARD_ADMIN_TOKEN.",
    }
}
_GONE = {"error": {"code": "metrics_gone", "message": "The folder in which metrics are kept cannot be read."}}
_ANSWERS: dict[int | str, dict[str, str]] = {
    401: {"description": "Not an operator"},
    503: {"description": "The folder in which metrics are kept cannot be read"},
}


@router.get("/metrics", summary="Metrics of all processes, for Prometheus", responses={**_ANSWERS})
def metrics(request: Request, operator: Annotated[bool, Depends(is_operator)]) -> Response:
    """The text format of Prometheus. In a thread of its own: files are read."""
    if not operator:
        return JSONResponse(_CLOSED, status_code=401)
    board: Board = request.app.state.board
    try:
        text = board.text()
    except OSError:
        return JSONResponse(_GONE, status_code=503)
    return Response(text, media_type=CONTENT_TYPE_LATEST)
