"""What the demo sets up before its story: a database, a Butler, a Steward that works for it, and a day of calls.

It listens on 127.0.0.1 alone, makes every secret anew, and leaves no process behind; demo.py tells the story. What is
large is imported where it is used, so that the first line is there at once.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

from steward import demo_butler, log
from steward import demo_telling as telling
from steward.demo_butler import HOST, DemoButler
from steward.demo_day import PRODUCTS, day
from steward.demo_telling import SAMPLES, Sample
from steward.errors import SettingError, StewardError
from steward.exchange import Caller
from steward.settings import Settings, load

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from steward.adapters.postgres_local import LocalPostgres
    from steward.ports import Registration
    from steward.words import Secret

READY_WITHIN_S: Final = 60.0
STOP_WITHIN_S: Final = 30.0
BUTLER_PORT: Final = 7690
VIEW_PORT: Final = 7681
DAY_OF_CALLS: Final = 2400
DAY_AT_ONCE: Final = 200
TAGS: Final = ("Feature", "Team", "Environment", "Tenant")
"""Of the day's calls: those by which the dashboard filters."""
SURROUNDINGS: Final = ("PATH", "HOME", "LANG", "TMPDIR")
PASSED_ON: Final = ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "SSL_CERT_FILE")
"""The way out to real providers; not looked at when only the stand-in is called."""

_RUN: Final = """
import sys
from handlers.supervisor import end_with
end_with(int(sys.argv[1]))
from steward.cli import main
sys.exit(main(sys.argv[2:]))
"""
"""A `steward` command that does not outlive the demo."""


class Teller:
    """Writes the story, a step a line, each line begun before its step and ended after it."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, words: str) -> None:
        """At once, also into a pipe."""
        self._out.write(words)
        self._out.flush()

    @contextmanager
    def step(self, label: str, word: str, note: str = "") -> Iterator[None]:
        """A line about something that takes a moment."""
        self.write(telling.step(label))
        began = time.monotonic()
        try:
            yield
        except BaseException:
            self.write("no\n")
            raise
        self.write(telling.done(word, time.monotonic() - began, note))


@dataclass(frozen=True, slots=True)
class Stage:
    """All that stands when the story begins."""

    settings: Settings
    environ: Mapping[str, str]
    """What the Steward is told."""
    engine: Engine
    butler: DemoButler
    key: str
    """`mdm_sk_...`, in clear: it is shown, and worth nothing tomorrow."""
    callers: Mapping[str, Caller]
    """Whose the day's calls are, by product."""
    provider_keys: Mapping[str, str]
    """Of the real providers, by provider; whoever is not in it is the stand-in."""
    bodies: Path
    log: Path

    @property
    def url(self) -> str:
        """Of the Steward."""
        return f"http://{HOST}:{self.settings.port}"

    @property
    def sample(self) -> Sample:
        """The call to make: to a real provider if there is one."""
        return next((each for each in SAMPLES if each.provider in self.provider_keys), SAMPLES[0])


def set_up(port: int, environ: Mapping[str, str], folder: Path, teller: Teller, undo: ExitStack) -> Stage:
    """Everything but the Steward's own processes. `undo` ends it. Raises StewardError, SettingError."""
    from migrations import migrate
    from steward.adapters.postgres_local import LocalPostgres
    from steward.wiring.database import open_database

    place = _made(folder)
    _log_to(place / "steward.log", undo)
    with teller.step("embedded PostgreSQL", "ready"):
        database = undo.enter_context(LocalPostgres())
    provider_keys = {each.provider: key for each in SAMPLES if (key := environ.get(each.key_variable, "").strip())}
    provided = _provided(environ, provider_keys, teller, undo)
    bodies = place / "bodies"
    bodies.mkdir(mode=0o700, exist_ok=True)
    kept = {name: environ[name] for name in SURROUNDINGS if name in environ}
    told = {**provided, **_own_settings(port, database, bodies), "SPOOL_DIR": str(_empty(place / f"spool-{port}"))}
    told |= {"VIEW_AUTH": "token", "VIEW_PORT": str(_usual_port(VIEW_PORT))}
    settings = load(told, dotenv=None)
    with teller.step("tables (steward migrate)", "made"):
        engine, keyring = open_database(settings)
        undo.callback(engine.dispose)
        migrate(engine, keyring)
    butler = _butler(
        {**kept, **demo_butler.own_settings(_usual_port(BUTLER_PORT), told, settings.view_url)}, place, teller, undo
    )
    with teller.step("a token and keys (majordomo)", "made"):
        butler.sign_in()
        token = butler.steward_token("demo")
        _, key = butler.key("demo", "The key that this story calls with")
        products = {each.name: butler.key(each.name, f"Of the {each.team} team")[0] for each in PRODUCTS}
    with teller.step("registered (steward register)", "done"):
        registration = _registered(settings, butler.url, token)
    callers = {name: Caller(made, registration.org_id, None, registration.id) for name, made in products.items()}
    return Stage(settings, {**kept, **told}, engine, butler, key, callers, provider_keys, bodies, place / "steward.log")


def free_port(port: int) -> int:
    """The port, if nobody listens on it. Raises SettingError before anything is started."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError:
            raise SettingError(f"PORT: {HOST}:{port} is in use; take another with: PORT={port + 1} make demo") from None
        number: int = probe.getsockname()[1]
        return number


def _usual_port(port: int) -> int:
    """The one that the documentation names; another when it is taken."""
    try:
        return free_port(port)
    except SettingError:
        return free_port(0)


def view_token(stage: Stage) -> str:
    """Opens the organisation's bodies in the viewer, for eight hours."""
    from steward.viewing import new_token
    from steward.wiring.commands import open_view_book

    with open_view_book(stage.settings) as book:
        plaintext, _ = new_token(book, stage.butler.owner.org_id, "demo", timedelta(hours=8))
    return plaintext


def settle_day(stage: Stage, count: int = DAY_OF_CALLS) -> None:
    """The day's calls, metered, priced, stored and recorded as the settling process does."""
    from steward.adapters.postgres_ledger import PostgresLedger
    from steward.settle import Settler
    from steward.stores import OneStore
    from steward.wiring.body_stores import open_store
    from steward.wiring.prices import price_book

    book, stores = price_book(stage.settings), OneStore(open_store(stage.settings.body_store))
    settler = Settler(PostgresLedger(stage.engine), stores, lambda: book)
    calls = list(day(datetime.now(UTC), stage.callers, count))
    try:
        for at in range(0, count, DAY_AT_ONCE):
            settler.settle(calls[at : at + DAY_AT_ONCE])
    finally:
        stores.close()


@contextmanager
def running(arguments: Sequence[str], environ: Mapping[str, str], log_file: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A `steward` command in processes of its own: it forks, and here are threads. Ended with the block.

    A terminal's signals do not reach it.
    """
    package = str(Path(__file__).parents[1])
    with log_file.open("ab") as said:
        process = subprocess.Popen(  # noqa: S603 - ourselves
            [sys.executable, "-P", "-c", _RUN, str(os.getpid()), *arguments],
            env={**environ, "PYTHONPATH": package},
            cwd=log_file.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def pause(process: subprocess.Popen[bytes], seconds: float, log_file: Path) -> None:
    """Raises StewardError when the process ends by itself meanwhile."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
        raise StewardError(f"A process of the demo ended; see {near(log_file)}")


def near(path: Path) -> str:
    """A path as one would type it from here."""
    with suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


def _butler(told: Mapping[str, str], place: Path, teller: Teller, undo: ExitStack) -> DemoButler:
    log_file = place / "butler.log"
    log_file.write_bytes(b"")
    with teller.step("Butler, with its dashboard", "ready"):
        butler = DemoButler(int(told["BUTLER_PORT"]), demo_butler.found(told))
        process = undo.enter_context(running(["butler", "serve"], told, log_file))
        until = time.monotonic() + READY_WITHIN_S
        while not butler.listens():
            pause(process, 0.05, log_file)
            if time.monotonic() > until:
                raise StewardError(f"Butler did not become ready within {READY_WITHIN_S:.0f} s; see {near(log_file)}")
    return butler


def _registered(settings: Settings, url: str, token: Secret[str]) -> Registration:
    from steward.registering import register
    from steward.wiring.commands import open_register

    with ExitStack() as undo:
        directory, open_butler = open_register(settings, undo)
        return register(directory, open_butler, url, token)


def _made(folder: Path) -> Path:
    """The demo's folder; a temporary one where this folder cannot be written."""
    place = folder.absolute()
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        (place / "steward.log").touch(0o600)
    except OSError:
        place = Path(tempfile.mkdtemp(prefix="steward-demo-"))
    return place


def _empty(spool: Path) -> Path:
    """What an earlier demo left there is sealed with a key that nobody has."""
    shutil.rmtree(spool, ignore_errors=True)
    return spool


def _log_to(path: Path, undo: ExitStack) -> None:
    """The Steward's own lines go to a file, so that the story can be read."""
    path.write_bytes(b"")
    file = undo.enter_context(path.open("ab", buffering=0))
    undo.callback(log.configure)
    log.configure("info", file)


def _own_settings(port: int, database: LocalPostgres, bodies: Path) -> dict[str, str]:
    return {
        "ENCRYPTION_KEY": secrets.token_hex(32),
        "POSTGRES_HOST": database.host,
        "POSTGRES_PORT": str(database.port),
        "POSTGRES_USER": database.user,
        "POSTGRES_PASSWORD": database.password.reveal(),
        "POSTGRES_DB": database.database,
        "HOST": HOST,
        "PORT": str(port),
        "BODY_STORE_URL": f"file://{bodies}",
        "PRICING_REMOTE_URL": "",
        "SHUTDOWN_DELAY": "0",
        "SHUTDOWN_GRACE": "3s",
    }


def _provided(environ: Mapping[str, str], keys: Mapping[str, str], teller: Teller, undo: ExitStack) -> dict[str, str]:
    """Where each provider's calls go: to itself for whoever has a key, else to the stand-in."""
    real = [each.title for each in SAMPLES if each.provider in keys]
    others = [each for each in SAMPLES if each.provider not in keys]
    names = {f"{provider.upper()}_BASE_URL" for provider in keys}
    provided = {name: environ[name] for name in (*names, *PASSED_ON) if real and environ.get(name)}
    if real:
        teller.write(f"{telling.step('real providers')}called   {', '.join(real)}: each call costs what it costs\n")
    if others:
        note = f"not a real provider; answers for {', '.join(each.title for each in others)}"
        with teller.step("provider stand-in", "ready", note):
            url = undo.enter_context(_standin())
        provided |= {f"{each.provider.upper()}_BASE_URL": url for each in others}
        for name in ("NO_PROXY", "no_proxy"):
            if name in provided:
                provided[name] += f",{HOST}"
    return provided


@contextmanager
def _standin() -> Iterator[str]:
    """The stand-in on a free port, in a thread; gives its base URL."""
    import uvicorn

    from steward.standin.app import Standin

    config = uvicorn.Config(Standin(), interface="asgi3", lifespan="off", ws="none", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    with socket.create_server((HOST, 0)) as listener:

        def serve() -> None:
            try:
                asyncio.run(server.serve(sockets=[listener]))
            except OSError:
                if not server.should_exit:  # else the demo ended before it began to listen
                    raise

        thread = threading.Thread(target=serve, name="stand-in", daemon=True)
        thread.start()
        try:
            yield f"http://{HOST}:{listener.getsockname()[1]}"
        finally:
            server.should_exit = server.force_exit = True
            thread.join(5)
