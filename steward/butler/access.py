"""Who may what: one rule a route, asked before the route runs. A route without a rule answers nobody.

A person comes with a session's cookie or a command line's token, a Steward with its own token, which `wire.py` looks
at. Writes that come with a cookie bear their form's token (SECURITY F22); a change of storage, provider keys or Steward
tokens asks for the password again. Bodies are read here, within a bound, after it is known who sends them.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Literal
from urllib.parse import parse_qsl, urlsplit

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool

from steward.butler.errors import ForgedForm, NotAllowed, NotSignedIn, PasswordNeeded, TooLong
from steward.butler.nouns import Actor, Role, Session
from steward.butler.reading import MAX_BODY_BYTES
from steward.butler.secrets_made import CLI_TOKEN, made
from steward.butler.services import Services
from steward.butler.store_sessions import SignedIn
from steward.errors import StewardError
from steward.words import Secret

SESSION: Final = "mdm_session"
DOOR: Final = "mdm_door"
"""Names the browser before anybody is signed in: the sign-in form's token belongs to it."""
FORM_FIELD: Final = "csrf"
FORM_HEADER: Final = "x-csrf-token"
MAX_FORM_BYTES: Final = 64 << 10
_WRITES: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_MAX_FIELDS: Final = 100


@dataclass(frozen=True, slots=True)
class Rule:
    """Who may. `person`: with at least the role; `fresh`: the password was given within five minutes."""

    who: Literal["anyone", "person", "steward"]
    role: Role = Role.VIEWER
    fresh: bool = False
    form: bool = True
    """For `anyone`: a write bears its form's token. A command line's sign-in, which sets no cookie, bears none."""


ANYONE: Final = Rule("anyone")
STEWARD: Final = Rule("steward")

Rules = Mapping[str, Rule]
"""`METHOD /path/{of_the_route}` -> rule."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """A person who is signed in, on this request."""

    session: Session
    token: Secret[str]
    address: str

    @property
    def actor(self) -> Actor:
        """As whom changes are made and audited."""
        return self.session.actor(self.address)

    @property
    def csrf(self) -> str:
        """The token for this session's forms."""
        return form_token(self.token)


def form_token(secret: Secret[str]) -> str:
    """What a form bears: made from the cookie's secret, and useless without it."""
    return hmac.new(secret.reveal().encode("utf-8", "surrogatepass"), b"form", hashlib.sha256).hexdigest()


def services_of(request: Request) -> Services:
    """The stores, for a route."""
    found: Services = request.app.state.services
    return found


def visitor_of(request: Request) -> Visitor:
    """Who is signed in. Raises NotSignedIn."""
    found: Visitor | None = getattr(request.state, "visitor", None)
    if found is None:
        raise NotSignedIn
    return found


def form_of(request: Request) -> dict[str, str]:
    """The fields of a form (`application/x-www-form-urlencoded`); of two with one name the last counts."""
    try:
        text = bytes(request.state.body).decode()
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="strict"))
    except ValueError:
        return {}


async def guard(request: Request) -> None:
    """The application's one dependency: finds the route's rule and keeps it."""
    rules: Rules = request.app.state.rules
    rule = rules.get(f"{request.method} {request.scope['route'].path}")
    if rule is None:
        raise NotAllowed
    if rule.who == "steward":
        return
    services, address = services_of(request), address_of(request)
    request.state.visitor = await run_in_threadpool(_visitor, request, services, address)
    if rule.who == "person":
        _may(visitor_of(request), rule, services)
    if request.method in _WRITES:
        request.state.body = await read_body(request, MAX_FORM_BYTES)
        if not _is_token(request) and rule.form:
            _same_site(request)
            _bears_token(request)


def known(request: Request) -> Visitor | None:
    """Who looks, as far as that can be told: for a page about what went wrong, also where there is no route."""
    found: Visitor | None = getattr(request.state, "visitor", None)
    if found is not None:
        return found
    services = services_of(request)
    try:
        return _visitor(request, services, address_of(request))
    except StewardError:
        return None


async def read_body(request: Request, most: int = MAX_BODY_BYTES) -> bytes:
    """The body. Raises TooLong as soon as it is."""
    told = request.headers.get("content-length", "0")
    if told.isdecimal() and int(told) > most:
        raise TooLong
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > most:
            raise TooLong
    return bytes(body)


def address_of(request: Request) -> str:
    """Whence the call comes, as the listener says; behind proxies it is told which of them to believe."""
    return request.client.host if request.client else "-"


def bearer_of(request: Request) -> str:
    """What stands in `Authorization: Bearer`, else nothing."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def sign_in(response: Response, services: Services, signed: SignedIn) -> None:
    """Sets the cookie of a session that was just made; whatever session the browser had is another one."""
    seconds = int((signed.session.ends_at - services.now()).total_seconds())
    _set(response, services, SESSION, signed.token, seconds)


def sign_out(response: Response, services: Services) -> None:
    """Removes the cookie; the session itself is ended in the store."""
    response.delete_cookie(
        _name(services, SESSION), path="/", secure=is_secure(services), httponly=True, samesite="lax"
    )


def door(request: Request, response: Response, services: Services) -> str:
    """The token for a form that nobody has to be signed in for; sets the cookie it belongs to where there is none."""
    kept = request.cookies.get(_name(services, DOOR))
    secret = Secret(kept) if kept else made()
    if not kept:
        _set(response, services, DOOR, secret, 12 * 3600)
    return form_token(secret)


def is_secure(services: Services) -> bool:
    """Whether cookies travel over TLS alone: always, but for a Butler on plain http on loopback."""
    return urlsplit(services.public_url).scheme == "https"


def _visitor(request: Request, services: Services, address: str) -> Visitor | None:
    token = bearer_of(request)
    if token:
        kind: Literal["browser", "cli"] = "cli"
        if not token.startswith(CLI_TOKEN):
            return None
    else:
        kind, token = "browser", request.cookies.get(_name(services, SESSION), "")
    if not token:
        return None
    session = services.sessions.find(Secret(token), kind, services.now())
    return None if session is None else Visitor(session, Secret(token), address)


def _may(visitor: Visitor, rule: Rule, services: Services) -> None:
    if not visitor.session.role.includes(rule.role):
        raise NotAllowed
    if rule.fresh and visitor.session.fresh_until <= services.now():
        raise PasswordNeeded


def _is_token(request: Request) -> bool:
    """A command line's: no browser adds it by itself, so nobody can forge a call with it."""
    return bool(bearer_of(request))


def _same_site(request: Request) -> None:
    """What browsers say of where a form stood; older ones say nothing, and then the token decides."""
    if request.headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
        raise ForgedForm
    origin = request.headers.get("origin")
    ours = {request.headers.get("host"), urlsplit(services_of(request).public_url).netloc}
    if origin is not None and urlsplit(origin).netloc not in ours:
        raise ForgedForm


def _bears_token(request: Request) -> None:
    services = services_of(request)
    visitor: Visitor | None = getattr(request.state, "visitor", None)
    secret = visitor.token if visitor else Secret(request.cookies.get(_name(services, DOOR), ""))
    said = request.headers.get(FORM_HEADER) or form_of(request).get(FORM_FIELD, "")
    if not secret or not hmac.compare_digest(form_token(secret).encode(), said.encode("utf-8", "surrogatepass")):
        raise ForgedForm


def _name(services: Services, name: str) -> str:
    """`__Host-` holds a cookie to this host, this path and TLS; plain http cannot bear it."""
    return f"__Host-{name}" if is_secure(services) else name


def _set(response: Response, services: Services, name: str, secret: Secret[str], seconds: int) -> None:
    response.set_cookie(
        _name(services, name),
        secret.reveal(),
        max_age=seconds,
        path="/",
        secure=is_secure(services),
        httponly=True,
        samesite="lax",
    )


HEADERS: Final[Mapping[str, str]] = {
    "content-security-policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
"""On every answer that does not say otherwise itself."""

STAY_ON_TLS: Final = "max-age=31536000"
"""A browser that came by https comes by nothing else for a year. Of this host alone: what is below is not ours."""


def headers_of(services: Services) -> Mapping[str, str]:
    """What every answer of this Butler bears; over plain http on loopback nothing of TLS."""
    return {**HEADERS, "strict-transport-security": STAY_ON_TLS} if is_secure(services) else HEADERS


SEE_OTHER: Final = HTTPStatus.SEE_OTHER.value
