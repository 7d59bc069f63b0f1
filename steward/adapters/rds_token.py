"""What signs in to a database of RDS or to an RDS Proxy by the host's own role, in place of a password.

A token is an address, signed; it is made here without asking anybody but for the role's credentials, lives 15 minutes
and is never kept or logged. AWS's SDK is imported when the first one is made.
"""

from __future__ import annotations

import re
import threading
from importlib.util import find_spec
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from steward.errors import LedgerUnavailable, SettingError
from steward.words import Secret

if TYPE_CHECKING:
    from botocore.session import Session

LIVES_S = 900
_HOST = re.compile(r"[a-z0-9.-]+\.([a-z]{2}(?:-[a-z]+){1,3}-[0-9])\.rds\.amazonaws\.com(?:\.cn)?", re.IGNORECASE)


class RdsToken:
    """Makes tokens for one user of one server. Safe for threads."""

    def __init__(self, host: str, port: int, user: str, session: Session | None = None) -> None:
        """`session`: whose credentials and region; without it the host's own role. Raises SettingError."""
        if find_spec("botocore") is None:
            raise SettingError("POSTGRES_IAM_AUTH: needs boto3. Install majordomo-steward[aws].")
        if host.startswith("/"):
            raise SettingError("POSTGRES_IAM_AUTH: POSTGRES_HOST is a folder; no database of AWS's is behind one")
        self._host = host
        self._port = port
        self._user = user
        self._session = session
        self._lock = threading.Lock()

    def __call__(self) -> Secret[str]:
        """A new one. Raises LedgerUnavailable when the host has no role, or its region is not known."""
        from botocore.auth import SigV4QueryAuth
        from botocore.awsrequest import AWSRequest
        from botocore.exceptions import BotoCoreError

        try:
            with self._lock:
                session = self._session = self._session or _own()
                credentials = session.get_credentials()
                found = _HOST.fullmatch(self._host)
                region = found[1] if found else session.get_config_variable("region")
        except BotoCoreError:
            credentials = region = None
        if credentials is None or not region:
            raise LedgerUnavailable("POSTGRES_IAM_AUTH: this host has no role or no region of AWS's to sign with.")
        asked = urlencode({"Action": "connect", "DBUser": self._user})
        request = AWSRequest(method="GET", url=f"https://{self._host}:{self._port}/?{asked}")
        SigV4QueryAuth(credentials.get_frozen_credentials(), "rds-db", region, expires=LIVES_S).add_auth(request)
        return Secret(str(request.url).removeprefix("https://"))

    def refused(self, secret: Secret[str]) -> bool:
        """A token that was refused while it was new: another would be, too."""
        return False


def _own() -> Session:
    from botocore.session import Session

    return Session()
