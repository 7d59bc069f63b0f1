"""Who is an operator: whoever comes by the operators' port, or bears the admin token. Nobody else.

It knows no caller's key: an `mdm_sk_` key opens nothing here.
"""

from __future__ import annotations

import hmac

from fastapi import Request

from steward.words import Secret


class Doors:
    """The rule of one port."""

    def __init__(self, token: Secret[str] | None, open_to_all: bool = False) -> None:
        self._token = token
        self._open = open_to_all

    def opens_for(self, request: Request) -> bool:
        """Whether this request is an operator's. Compared in constant time."""
        if self._open:
            return True
        if self._token is None:
            return False
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        wanted = self._token.reveal().encode()
        return scheme.lower() == "bearer" and hmac.compare_digest(given.encode("utf-8", "replace"), wanted)


def is_operator(request: Request) -> bool:
    """FastAPI dependency."""
    doors: Doors = request.app.state.doors
    return doors.opens_for(request)
