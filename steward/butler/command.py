"""`steward butler serve|migrate|create-admin`: runs a Butler, makes its tables, makes its first person.

A password that is made here is shown once; one that is given comes by standard input, never by an argument.
"""

from __future__ import annotations

import json
import secrets
import signal
import socket
from types import FrameType
from typing import TYPE_CHECKING, TextIO

from steward import log
from steward.butler.settings import ButlerSettings
from steward.errors import SettingError
from steward.version import VERSION
from steward.words import Secret

if TYPE_CHECKING:
    import uvicorn

BACKLOG = 2048
MAX_CONNECTIONS = 1024
_IDLE_S = 15
_STALL_S = 60
_END_S = 10
_MAX_LINE = 4096


def serve(settings: ButlerSettings) -> int:
    """Answers until told to stop. Raises SettingError for a port in use, LedgerFault before `migrate`."""
    from steward.butler.app import create_butler
    from steward.butler.upkeep import Upkeep
    from steward.butler.wiring import build

    services = build(settings)
    log.catch_crashes()
    services.database.ready()
    sock = _bind(settings)
    server = _server(settings, create_butler(services, settings.managed_token))
    upkeep = Upkeep(services)
    log.setting_warnings(settings.warnings)
    log.say("butler_listening", host=settings.host, port=sock.getsockname()[1], version=VERSION)
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, _already_told)
    upkeep.start()
    try:
        server.run([sock])
    finally:
        upkeep.stop()
        services.database.close()
        sock.close()
    return 0


def migrate(settings: ButlerSettings, as_json: bool) -> int:
    """Makes or updates the schema `butler`."""
    from migrations import migrate_butler
    from steward.butler.wiring import open_database

    engine, keyring = open_database(settings)
    try:
        result = migrate_butler(engine, keyring)
    finally:
        engine.dispose()
    if as_json:
        print(json.dumps({"before": result.before, "after": result.after}, indent=2))
    elif result.before == result.after:
        print(f"Butler's schema is up to date ({result.after}).")
    else:
        print(f"Butler's schema went from {result.before or 'nothing'} to {result.after}.")
    return 0


def create_admin(settings: ButlerSettings, email: str, org: str, password: Secret[str] | None, as_json: bool) -> int:
    """A new organisation and its owner. Without a password one is made, and shown this once."""
    from steward.butler.store_people import NewPerson
    from steward.butler.wiring import build

    given = password or Secret(secrets.token_urlsafe(18))
    services = build(settings)
    try:
        owner = services.people.found(org, NewPerson(email, email.partition("@")[0], given))
    finally:
        services.database.close()
    said = {"org_id": str(owner.org_id), "email": owner.email, "url": services.public_url}
    if password is None:
        said["password"] = given.reveal()
    if as_json:
        print(json.dumps(said, indent=2))
        return 0
    print(f"organisation  {org} ({owner.org_id})\nsign in       {services.public_url}\ne-mail        {owner.email}")
    if password is None:
        print(f"password      {given.reveal()}\n\nKeep the password now: it is not shown again.")
    return 0


def given_password(said: str | None, stdin: TextIO) -> Secret[str] | None:
    """`-` reads one line; nothing makes one. Raises SettingError for one on the command line, where others read it."""
    if said is None:
        return None
    if said != "-":
        raise SettingError("create-admin: give --password - and the password on standard input, or none to make one.")
    line = stdin.readline(_MAX_LINE).removesuffix("\n").removesuffix("\r")
    if not line:
        raise SettingError("create-admin: standard input holds no password.")
    return Secret(line)


def _already_told(number: int, frame: FrameType | None) -> None:
    """uvicorn raises the signal that ended it once more; what is left to do is done then, and the exit code is 0."""


def _bind(settings: ButlerSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((settings.host, settings.port))
    except OSError:
        sock.close()
        raise SettingError("BUTLER_PORT: cannot be listened on; is another process using it?") from None
    sock.listen(BACKLOG)
    return sock


def _server(settings: ButlerSettings, app: object) -> uvicorn.Server:
    """By the Steward's own listener, whose heads, bodies and silences have bounds: who is slow holds nothing for long.

    What a proxy says of a caller's address is believed of those named alone.
    """
    import uvicorn

    from steward.listener import ListenerLimits, listener

    limits = ListenerLimits(keep_alive_s=_IDLE_S, stall_s=_STALL_S, max_connections=MAX_CONNECTIONS)
    return uvicorn.Server(
        uvicorn.Config(
            app,  # type: ignore[arg-type]
            http=listener(limits),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=bool(settings.trusted_proxies),
            forwarded_allow_ips=list(settings.trusted_proxies),
            timeout_graceful_shutdown=_END_S,
        )
    )
