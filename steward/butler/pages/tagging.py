"""Metadata keys: which tags exist, what they are called, which are indexed."""

from __future__ import annotations

from fastapi import Response

from steward.butler.pages.door import Looking
from steward.butler.pages.serving import away, page_of, pages_router, show

router = pages_router()


@router.get("/metadata")
def metadata_page(visitor: Looking) -> Response:
    """All that were ever seen."""
    keys = visitor.services.metadata_keys.all(visitor.session.org_id)
    return show(visitor, "metadata.html", page_of(visitor, "Metadata keys", "metadata"), keys=keys)


@router.post("/metadata/{name}/activate")
def activate(visitor: Looking, name: str) -> Response:
    """It can be filtered by."""
    visitor.services.metadata_keys.activate(visitor.actor, name, visitor.now)
    return away("/metadata")


@router.post("/metadata/{name}/deactivate")
def deactivate(visitor: Looking, name: str) -> Response:
    """It can no longer be filtered by; its calls keep it."""
    visitor.services.metadata_keys.deactivate(visitor.actor, name)
    return away("/metadata")


@router.post("/metadata/{name}/label")
def label(visitor: Looking, name: str) -> Response:
    """A person's word for it."""
    visitor.services.metadata_keys.label(visitor.actor, name, visitor.form.line("label", 100) or None)
    return away("/metadata")
