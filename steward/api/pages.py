"""`/docs` and `/openapi.json`: our own routes, described on a static page without any script or foreign address.

For operators: the page names what the Steward has, so it is not on the callers' port without the admin token.
"""

from __future__ import annotations

from html import escape
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse

from steward.api.operators import is_operator

router = APIRouter(include_in_schema=False)

_CLOSED = {
    "error": {
        "code": "operators_only",
        "message": "This page is for operators: use OPS_PORT, or send Authorization: Bearer with STEWARD_ADMIN_TOKEN.",
    }
}
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
_STYLE = (
    ":root{color-scheme:light dark}body{font:14px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;"
    "padding:0 1rem}h1{font-size:28px}code{font-family:ui-monospace,monospace}section{border-top:1px solid #8884;"
    "padding:12px 0}.method{font-weight:600;display:inline-block;min-width:4rem}"
)


@router.get("/openapi.json")
async def openapi(request: Request, operator: Annotated[bool, Depends(is_operator)]) -> Response:
    """The OpenAPI document of our own routes."""
    if not operator:
        return JSONResponse(_CLOSED, status_code=401)
    app: FastAPI = request.app
    return JSONResponse(app.openapi())


@router.get("/docs")
async def docs(request: Request, operator: Annotated[bool, Depends(is_operator)]) -> Response:
    """The same, to read."""
    if not operator:
        return JSONResponse(_CLOSED, status_code=401)
    app: FastAPI = request.app
    page = _page(app.openapi())
    return HTMLResponse(page, headers={"content-security-policy": _POLICY, "x-content-type-options": "nosniff"})


def _page(document: dict[str, Any]) -> str:
    sections = "".join(
        _section(path, method, operation)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    )
    info = document["info"]
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{escape(info['title'])}</title><style>{_STYLE}</style>"
        f"<h1>{escape(info['title'])}</h1><p>{escape(info.get('summary', ''))}</p>{sections}</html>"
    )


def _section(path: str, method: str, operation: dict[str, Any]) -> str:
    answers = "".join(
        f"<li><code>{escape(status)}</code> {escape(answer.get('description', ''))}</li>"
        for status, answer in operation.get("responses", {}).items()
    )
    return (
        f"<section><span class=method>{escape(method.upper())}</span><code>{escape(path)}</code>"
        f"<p><b>{escape(operation.get('summary', ''))}.</b> {escape(operation.get('description', ''))}</p>"
        f"<ul>{answers}</ul></section>"
    )
