"""What stands before every page of the viewer: which requests come in at all, and what every answer carries. Pure ASGI.

Refuses another Host (421: rebinding a public name to this address gains nothing), another method, and whatever is no
top-level navigation of a browser, but for the page's own style; of other sites' navigations only a GET comes in, marked
`foreign`, so that a page elsewhere can lead here and open nothing (SECURITY F5). No answer carries a CORS header.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from steward.proxy import Application

STYLE_PATH: Final = "/style.css"
POLICY: Final = (
    "default-src 'none'; style-src 'self'; img-src 'none'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS: Final[Mapping[bytes, bytes]] = {
    b"content-security-policy": POLICY.encode(),
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
}

STAY_ON_TLS: Final = (b"strict-transport-security", b"max-age=31536000")
"""Where VIEW_URL is https, as its cookies need it: a browser comes by nothing else for a year. Of this host alone."""

_WORDS: Final[Mapping[int, str]] = {
    403: "This page opens in a browser's window only, by a browser that says where a request comes from.",
    405: "This method is not allowed here.",
    421: "The viewer does not answer to this host; VIEW_URL names the one it answers to.",
}


class Gate:
    """The application behind it sees only what was let in."""

    def __init__(self, app: Application, view_url: str) -> None:
        """`view_url`: scheme, host and port, as the browser shows them."""
        self._app = app
        self._origin = view_url.encode()
        self._host = urlsplit(view_url).netloc.lower().encode()
        self._headers = [*HEADERS.items(), *([STAY_ON_TLS] if urlsplit(view_url).scheme == "https" else [])]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers, or hands over."""
        if scope["type"] != "http":
            return
        status = self._refusal(scope)
        if status is not None:
            await _refuse(send, status, list(HEADERS.items()) if status == 421 else self._headers)
            return

        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start":
                ours = {name for name, _ in self._headers}
                kept = [each for each in message["headers"] if each[0].lower() not in ours]
                message = {**message, "headers": [*kept, *self._headers]}
            await send(message)

        await self._app(scope, receive, sent)

    def _refusal(self, scope: Any) -> int | None:
        """The status of what is not let in. Marks what another site sent."""
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1 or hosts[0].strip().lower() != self._host:
            return 421
        if scope["method"] not in ("GET", "POST"):
            return 405
        said = {name: value for name, value in scope["headers"] if name.startswith((b"sec-", b"origin", b"purpose"))}
        site = said.get(b"sec-fetch-site")
        navigates = (said.get(b"sec-fetch-mode"), said.get(b"sec-fetch-dest")) == (b"navigate", b"document")
        if b"sec-purpose" in said or b"purpose" in said:
            return 403  # a browser that looks ahead: nobody has opened anything
        if scope["path"] == STYLE_PATH and scope["method"] == "GET" and site == b"same-origin":
            return None
        if not navigates or site not in (b"same-origin", b"none", b"same-site", b"cross-site"):
            return 403
        if scope["method"] == "POST":
            # A page without referrer says `null` of its own forms.
            mine = said.get(b"origin", b"null") in (b"null", self._origin)
            return None if site == b"same-origin" and mine else 403
        scope.setdefault("state", {})["foreign"] = site not in (b"same-origin", b"none")
        return None


async def _refuse(send: Any, status: int, carried: list[tuple[bytes, bytes]]) -> None:
    body = _WORDS[status].encode() + b"\n"
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        *carried,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
