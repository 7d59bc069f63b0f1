"""The demo's own Butler, spoken to as its command line does; what `make demo` sets up before the first call.

Its organisation, its owner and every secret are made anew; it listens on 127.0.0.1 alone. The demo starts its process.
"""

from __future__ import annotations

import http.client
import json
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from steward.errors import StewardError
from steward.words import Secret

HOST: Final = "127.0.0.1"
ORGANISATION: Final = "Northwind"
EMAIL: Final = "you@northwind.example"
_TIMEOUT_S: Final = 30.0
_OK: Final = range(200, 300)


@dataclass(frozen=True, slots=True)
class Owner:
    """Who signs in, and with what: shown, and worth nothing tomorrow."""

    email: str
    password: Secret[str]
    org_id: UUID


def own_settings(port: int, stewards: Mapping[str, str], view_url: str) -> dict[str, str]:
    """What the demo's Butler is told. It shares the Steward's database, in a schema and under a key of its own."""
    return {
        **{name: value for name, value in stewards.items() if name.startswith("POSTGRES_")},
        "BUTLER_ENCRYPTION_KEY": secrets.token_hex(32),
        "BUTLER_HOST": HOST,
        "BUTLER_PORT": str(port),
        "BUTLER_STEWARD_VIEW_URL": view_url,
    }


def found(environ: Mapping[str, str]) -> Owner:
    """Makes the tables, the organisation and its owner."""
    from migrations import migrate_butler
    from steward.butler.settings import load
    from steward.butler.store_people import NewPerson
    from steward.butler.wiring import build, open_database

    settings = load(environ, dotenv=None)
    engine, keyring = open_database(settings)
    try:
        migrate_butler(engine, keyring)
    finally:
        engine.dispose()
    password = Secret(secrets.token_urlsafe(12))
    services = build(settings)
    try:
        owner = services.people.found(ORGANISATION, NewPerson(EMAIL, "You", password))
    finally:
        services.database.close()
    return Owner(EMAIL, password, owner.org_id)


class DemoButler:
    """The management API of the demo's Butler, as its owner."""

    def __init__(self, port: int, owner: Owner) -> None:
        self.url = f"http://{HOST}:{port}"
        self.owner = owner
        self._port = port
        self._token: str | None = None

    def listens(self) -> bool:
        """Whether it answers yet."""
        with suppress(OSError, http.client.HTTPException):
            return self._answer("GET", "/sign-in", None)[0] in _OK
        return False

    def sign_in(self) -> None:
        """As the owner; what asks for the password again is free for five minutes. Raises StewardError."""
        said = {"email": self.owner.email, "password": self.owner.password.reveal()}
        self._token = self._ask("POST", "/api/v1/login", said)["token"]
        self._ask("POST", "/api/v1/password/confirm", {"password": said["password"]})

    def steward_token(self, name: str) -> Secret[str]:
        """A new token for a Steward. Raises StewardError."""
        return Secret(self._ask("POST", "/api/v1/stewards", {"name": name, "host": "machine"})["token"])

    def key(self, name: str, about: str) -> tuple[UUID, str]:
        """A new API key: its id and plaintext. Raises StewardError."""
        made = self._ask("POST", "/api/v1/keys", {"name": name, "description": about})
        return UUID(made["id"]), made["key"]

    def activate(self, tag: str) -> None:
        """Calls can be filtered by this tag from now on. Raises StewardError."""
        self._ask("PATCH", f"/api/v1/metadata-keys/{tag}", {"active": True})

    def calls(self) -> int:
        """How many calls of the last 24 hours it knows. Raises StewardError."""
        return int(self._ask("GET", "/api/v1/usage", None)["total"]["calls"])

    def _ask(self, method: str, path: str, said: object) -> Any:
        try:
            status, answer = self._answer(method, path, said)
        except (OSError, http.client.HTTPException):
            raise StewardError("The demo's Butler does not answer") from None
        if status not in _OK:
            raise StewardError(f"The demo's Butler answered {status} to {method} {path}")
        return json.loads(answer)

    def _answer(self, method: str, path: str, said: object) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        connection = http.client.HTTPConnection(HOST, self._port, timeout=_TIMEOUT_S)
        try:
            connection.request(method, path, None if said is None else json.dumps(said), headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()
