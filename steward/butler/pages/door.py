"""Who looks at a page, in the words that pages use: the person, the token of forms, the theme, the way back.

Who may is decided by `access.py` before a page runs. Refuses a `next` that is not a path of ours, and a change over
data or trust without the password, unless it was given in the last minutes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final

from fastapi import Depends, Request

from steward.butler import access
from steward.butler.errors import NotSignedIn, PasswordNeeded
from steward.butler.nouns import Actor, Session
from steward.butler.pages.forms import Form
from steward.butler.services import Services

THEME_COOKIE: Final = "butler_theme"
THEMES: Final = ("auto", "dark", "light")
_PATH: Final = re.compile(r"/(?:[A-Za-z0-9_.~!$&'()*+,;=:@%?-][A-Za-z0-9_.~!$&'()*+,;=:@%?/-]{0,1999})?")


@dataclass(frozen=True, slots=True)
class Visitor:
    """One request's person, or nobody."""

    services: Services
    request: Request
    person: access.Visitor | None

    @property
    def now(self) -> datetime:
        """By Butler's clock."""
        return self.services.now()

    @property
    def theme(self) -> str:
        """As the cookie says it."""
        return theme_of(self.request)

    @property
    def here(self) -> str:
        """Path and query, to come back to."""
        query = self.request.url.query
        return path_of_ours(self.request.url.path + (f"?{query}" if query else ""))

    @property
    def session(self) -> Session:
        """Raises NotSignedIn."""
        return self._signed().session

    @property
    def csrf(self) -> str:
        """What forms of this session bear. Raises NotSignedIn."""
        return self._signed().csrf

    @property
    def actor(self) -> Actor:
        """As whom a change is made. Raises NotSignedIn."""
        return self._signed().actor

    @property
    def form(self) -> Form:
        """What was sent."""
        return Form(access.form_of(self.request))

    def still(self) -> None:
        """For what takes long: asks again. Raises NotSignedIn when the session has ended meanwhile."""
        if self.services.sessions.find(self._signed().token, self.session.kind, self.now) is None:
            raise NotSignedIn

    def sure(self) -> None:
        """For what decides over data or trust. Raises PasswordNeeded, SignInFailed, TooManyTries."""
        if self.now < self.session.fresh_until:
            return
        password = self.form.secret("password")
        if password is None:
            raise PasswordNeeded
        self.services.sessions.confirm(self.session, password, self._signed().address, self.now)

    def _signed(self) -> access.Visitor:
        if self.person is None:
            raise NotSignedIn
        return self.person


def _looking(request: Request) -> Visitor:
    return Visitor(access.services_of(request), request, getattr(request.state, "visitor", None))


Looking = Annotated[Visitor, Depends(_looking)]


def theme_of(request: Request) -> str:
    """As the cookie says it."""
    said = request.cookies.get(THEME_COOKIE, "auto")
    return said if said in THEMES else "auto"


def path_of_ours(said: str) -> str:
    """A path of this site, or the first page for anything else: no host, no scheme, no backslash."""
    return said if _PATH.fullmatch(said) else "/"
