"""The command line's side of Butler's management API: where it is, as whom, and one call at a time.

Credentials lie in one file of mode 0600 below the user's configuration folder. https alone (plain http for loopback),
no redirect followed, no proxy of the environment asked; an answer is read to 8 MiB.
"""

from __future__ import annotations

import json
import os
import ssl
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from steward import values
from steward.errors import SettingError, StewardError
from steward.version import VERSION
from steward.words import Secret

TIMEOUT_S: Final = 30.0
MAX_ANSWER_BYTES: Final = 8 << 20
_FILE: Final = "credentials.json"


class ButlerSaid(StewardError):
    """Butler refused, or cannot be reached; the sentence is Butler's own, made printable."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.said_status = status
        self.said_code = code


@dataclass(frozen=True, slots=True)
class Credentials:
    """Where Butler is and the token for it."""

    url: str
    token: Secret[str] = field(repr=False)
    ca_file: str | None = None


class Kept:
    """The credentials' file."""

    def __init__(self, environ: Mapping[str, str], home: Path) -> None:
        """Below XDG_CONFIG_HOME, else `.config` in the home folder."""
        told = environ.get("XDG_CONFIG_HOME", "")
        base = Path(told) if told and Path(told).is_absolute() else home / ".config"
        self.path = base / "majordomo" / _FILE

    def read(self) -> Credentials:
        """Raises SettingError: nobody signed in, a file others can read, or no such file as `login` writes."""
        try:
            with self.path.open("rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                said = json.loads(file.read(1 << 20))
            kept = Credentials(values.butler_url(said["url"]), Secret(str(said["token"])), said.get("ca_file"))
        except FileNotFoundError:
            raise SettingError("not signed in; run: majordomo login --url https://... --email ...") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise SettingError("the credentials' file cannot be read; run: majordomo login") from None
        if mode & 0o077:
            raise SettingError("the credentials' file can be read by others; run: majordomo login")
        return kept

    def write(self, credentials: Credentials) -> None:
        """In place of what was there, readable by its owner alone. Raises SettingError."""
        said = {"url": credentials.url, "token": credentials.token.reveal(), "ca_file": credentials.ca_file}
        waiting = self.path.with_name(f".{_FILE}.{os.getpid()}")
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(os.open(waiting, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(json.dumps(said).encode())
            waiting.replace(self.path)
        except OSError:
            raise SettingError("the credentials' file cannot be written") from None

    def forget(self) -> None:
        """Removes it."""
        self.path.unlink(missing_ok=True)


class ButlerClient:
    """One Butler, asked as one person."""

    def __init__(self, credentials: Credentials) -> None:
        verify = ssl.create_default_context(cafile=credentials.ca_file)
        token = credentials.token.reveal()
        headers = {"user-agent": f"majordomo/{VERSION}", "accept-encoding": "identity"}
        self._client = httpx.Client(
            base_url=credentials.url,
            headers=headers | ({"authorization": f"Bearer {token}"} if token else {}),
            verify=verify,
            timeout=TIMEOUT_S,
            trust_env=False,
            follow_redirects=False,
        )

    def ask(self, method: str, path: str, body: object = None, **query: str) -> Any:
        """The answer, parsed. Raises ButlerSaid."""
        try:
            with self._client.stream(method, f"/api/v1{path}", json=body, params=query or None) as answer:
                document = _read(answer)
        except (httpx.HTTPError, httpx.InvalidURL, OSError):
            raise ButlerSaid(0, "unreachable", "Butler cannot be reached.") from None
        try:
            said = json.loads(document or b"null")
        except ValueError:
            said = None
        if not answer.is_success:
            raise _refused(answer.status_code, said)
        if said is None:
            raise ButlerSaid(answer.status_code, "nonsense", "This is not a Butler's answer; is the address right?")
        return said

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()


def shown(text: object) -> str:
    """A text of Butler's for a terminal: what would move the cursor, colour or hide something is escaped."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in str(text))


def _read(answer: httpx.Response) -> bytes:
    document = bytearray()
    for piece in answer.iter_raw():
        document += piece
        if len(document) > MAX_ANSWER_BYTES:
            raise ButlerSaid(answer.status_code, "nonsense", "Butler's answer is too long.")
    return bytes(document)


def _refused(status: int, said: object) -> ButlerSaid:
    error = said.get("error") if isinstance(said, dict) else None
    if not isinstance(error, dict):
        return ButlerSaid(status, "refused", f"Butler answered {status}; is the address right?")
    where = f" ({error['field']})" if error.get("field") else ""
    return ButlerSaid(status, str(error.get("code")), shown(f"{error.get('message')}{where}"))
