"""All pages, and who may see or send each: what `app.py` puts into the application."""

from __future__ import annotations

from typing import Final

from fastapi import FastAPI

from steward.butler.access import ANYONE, Rule, Rules
from steward.butler.nouns import Role
from steward.butler.pages import (
    account,
    auditing,
    entering,
    exploring,
    keys,
    people,
    provider_keys,
    stewards,
    storing,
    tagging,
    watching,
)
from steward.butler.pages.rendering import Renderer
from steward.butler.pages.serving import problem

_VIEWER: Final = Rule("person")
_MEMBER: Final = Rule("person", Role.MEMBER)
_ADMIN: Final = Rule("person", Role.ADMIN)
_OWNER: Final = Rule("person", Role.OWNER)

ROUTERS: Final = tuple(
    part.router
    for part in (
        account,
        auditing,
        entering,
        exploring,
        keys,
        people,
        provider_keys,
        stewards,
        storing,
        tagging,
        watching,
    )
)

RULES: Final[Rules] = {
    "GET /sign-in": ANYONE,
    "POST /sign-in": ANYONE,
    "GET /invitations": ANYONE,
    "POST /invitations": ANYONE,
    "GET /static/{name}": ANYONE,
    "POST /sign-out": _VIEWER,
    "POST /theme": _VIEWER,
    "GET /": _VIEWER,
    "GET /requests": _VIEWER,
    "GET /requests.csv": _VIEWER,
    "GET /requests/{request_id}": _VIEWER,
    "GET /keys": _VIEWER,
    "POST /keys": _MEMBER,
    "POST /keys/{key_id}/revoke": _MEMBER,
    "POST /keys/{key_id}/behavior": _MEMBER,
    "GET /stewards": _VIEWER,
    "POST /stewards": _ADMIN,
    "POST /stewards/{steward_id}/revoke": _ADMIN,
    "GET /storage": _VIEWER,
    "POST /storage/{scope}": _MEMBER,
    "POST /storage/{scope}/remove": _MEMBER,
    "GET /provider-keys": _VIEWER,
    "POST /provider-keys": _MEMBER,
    "POST /provider-keys/{key_id}/remove": _MEMBER,
    "GET /metadata": _VIEWER,
    "POST /metadata/{name}/activate": _ADMIN,
    "POST /metadata/{name}/deactivate": _ADMIN,
    "POST /metadata/{name}/label": _ADMIN,
    "GET /members": _VIEWER,
    "POST /members/invite": _OWNER,
    "POST /members/{user_id}/role": _OWNER,
    "POST /members/{user_id}/remove": _OWNER,
    "POST /members/invitations/{invitation_id}/withdraw": _OWNER,
    "GET /audit": _VIEWER,
    "POST /audit/seen": _VIEWER,
    "GET /account": _VIEWER,
    "POST /account/password": _VIEWER,
    "POST /account/sessions/{session_id}/end": _VIEWER,
    "POST /account/organisation": _VIEWER,
}
"""Storage and provider keys of a person's own need a member, the organisation's an admin: their routes look."""


def add_pages(app: FastAPI) -> None:
    """Puts the dashboard into an application that has its services and its guard."""
    app.state.renderer = Renderer()
    app.state.rules = {**app.state.rules, **RULES}
    app.state.problem = problem
    for router in ROUTERS:
        app.include_router(router)
