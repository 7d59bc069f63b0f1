"""`steward demo`: the whole story on one machine with nothing configured; what `make demo` calls.

It listens on 127.0.0.1 alone, makes every secret anew, leaves no process behind however it ends, and reads no `.env`:
what it needs of the environment (providers' keys, the way out to them) is handed to it. What is large is imported
where it is used: the first line is there at once, and from then on a signal is the demo's own.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from steward import demo_telling as telling
from steward import log
from steward.demo_telling import SAMPLES, Sample
from steward.errors import SettingError, StewardError
from steward.exchange import LOCAL_ORG
from steward.settings import Settings, load

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from steward.adapters.postgres_local import LocalPostgres

HOST = "127.0.0.1"
FOLDER = Path(".demo")
READY_WITHIN_S = 60.0
SETTLED_WITHIN_S = 60.0
CALL_TIMEOUT_S = 120.0
STOP_WITHIN_S = 30.0
LOOK_EVERY_S = 1.0
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SURROUNDINGS = ("PATH", "HOME", "LANG", "TMPDIR")
PASSED_ON = ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "SSL_CERT_FILE")
"""The way out to real providers; not looked at when only the stand-in is called."""

_SERVE = """
import sys
from handlers.supervisor import end_with
end_with(int(sys.argv[1]))
from steward.cli import main
sys.exit(main(["serve"]))
"""
"""`steward serve` that does not outlive the demo."""

_COLUMNS = (
    "id, provider, model, status_code, outcome, usage_source, input_tokens, output_tokens, total_cost, price_source, "
    "response_time_ms, first_byte_us, body_state, body_key, requested_at"
)
_SETTLED = "org_id = :org AND outcome <> 'interrupted' AND body_state <> 'pending'"
_ONE = f"SELECT {_COLUMNS} FROM llm_requests WHERE id = :id AND {_SETTLED}"  # noqa: S608 - constants
_NEWEST = f"SELECT {_COLUMNS} FROM llm_requests WHERE {_SETTLED} ORDER BY id DESC LIMIT 50"  # noqa: S608


@dataclass(frozen=True)
class _Stage:
    """What is set up before the Steward serves."""

    settings: Settings
    environ: Mapping[str, str]
    """What the Steward is told."""
    engine: Engine
    key: str
    """`mdm_sk_...`, in clear: it is shown, and worth nothing tomorrow."""
    provider_keys: Mapping[str, str]
    """Of the real providers, by provider; whoever is not in it is the stand-in."""
    bodies: Path
    log: Path

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.settings.port}"

    @property
    def sample(self) -> Sample:
        """The call to make: to a real provider if there is one."""
        return next((each for each in SAMPLES if each.provider in self.provider_keys), SAMPLES[0])


def run(port: int, once: bool, environ: Mapping[str, str], folder: Path = FOLDER, out: TextIO | None = None) -> int:
    """Tells the story and keeps serving until a signal; with `once` it ends after the story. Returns the exit code.

    `port`: to listen on, 0 for any. `environ`: where providers' keys are looked for. `folder`: where bodies and the
    log are kept. Raises SettingError for a port in use, StewardError for what does not come about; both say it in
    one line. Call it from the main thread: it takes the process's signals, and with it ends the Steward.
    """
    teller = _Teller(sys.stdout if out is None else out)
    for number in SIGNALS:
        signal.signal(number, _interrupt)
    try:
        port = _free_port(port)
        teller.write(
            "\nMajordomo Steward: the demo\n"
            "Everything runs on this machine and listens on 127.0.0.1 alone; every secret is made anew.\n\n"
        )
        with ExitStack() as undo:
            stage = _set_up(port, environ, folder, teller, undo)
            undo.callback(_ignore_signals)
            with suppress(KeyboardInterrupt):
                _Story(stage, once, teller, undo.enter_context(_serving(stage))).tell()
            _ignore_signals()
            teller.write("\nStopping ...\n")
        teller.write(f"Stopped. The bodies stay in {_near(stage.bodies)}, the log in {_near(stage.log)}.\n")
    except KeyboardInterrupt:
        teller.write("\nStopped.\n")
        return 130
    return 0


def _interrupt(number: int, frame: object) -> None:
    """Once: what follows is the clearing away."""
    _ignore_signals()
    raise KeyboardInterrupt


def _ignore_signals() -> None:
    """What is being cleared away is cleared away to the end; nothing there takes long."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class _Teller:
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


def _set_up(port: int, environ: Mapping[str, str], folder: Path, teller: _Teller, undo: ExitStack) -> _Stage:
    from migrations import migrate
    from steward.adapters.postgres_local import LocalPostgres
    from steward.wiring import open_database

    place = _made(folder)
    _log_to(place / "steward.log", undo)
    with teller.step("embedded PostgreSQL", "ready"):
        database = undo.enter_context(LocalPostgres())
    provider_keys = {each.provider: key for each in SAMPLES if (key := environ.get(each.key_variable, "").strip())}
    provided = _provided(environ, provider_keys, teller, undo)
    bodies = place / "bodies"
    bodies.mkdir(mode=0o700, exist_ok=True)
    told = {**provided, **_own_settings(port, database, bodies), "SPOOL_DIR": str(_empty(place / f"spool-{port}"))}
    settings = load(told, dotenv=None)
    with teller.step("tables (steward migrate)", "made"):
        engine, keyring = open_database(settings)
        undo.callback(engine.dispose)
        migrate(engine, keyring)
    with teller.step("a key (steward keys create)", "made"):
        key = _new_key(settings)
    kept = {name: environ[name] for name in SURROUNDINGS if name in environ}
    return _Stage(settings, {**kept, **told}, engine, key, provider_keys, bodies, place / "steward.log")


def _free_port(port: int) -> int:
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


@contextmanager
def _serving(stage: _Stage) -> Iterator[subprocess.Popen[bytes]]:
    """The Steward, in processes of its own: it forks, and here are threads. A terminal's signals do not reach it."""
    package = str(Path(__file__).parents[1])
    with stage.log.open("ab") as log_file:
        process = subprocess.Popen(  # noqa: S603 - ourselves
            [sys.executable, "-P", "-c", _SERVE, str(os.getpid())],
            env={**stage.environ, "PYTHONPATH": package},
            cwd=stage.log.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log_file,
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


def _provided(environ: Mapping[str, str], keys: Mapping[str, str], teller: _Teller, undo: ExitStack) -> dict[str, str]:
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
        thread = threading.Thread(
            target=lambda: asyncio.run(server.serve(sockets=[listener])), name="stand-in", daemon=True
        )
        thread.start()
        try:
            yield f"http://{HOST}:{listener.getsockname()[1]}"
        finally:
            server.should_exit = server.force_exit = True
            thread.join(5)


def _new_key(settings: Settings) -> str:
    from steward.wiring import open_directory

    plaintext = "mdm_sk_" + secrets.token_urlsafe(32)
    directory, close = open_directory(settings)
    try:
        directory.create_key(LOCAL_ORG, "demo", hashlib.sha256(plaintext.encode()).hexdigest())
    finally:
        close()
    return plaintext


class _Story:
    """What is told while the Steward serves."""

    def __init__(self, stage: _Stage, once: bool, teller: _Teller, steward: subprocess.Popen[bytes]) -> None:
        self._stage = stage
        self._once = once
        self._teller = teller
        self._steward = steward

    def tell(self) -> None:
        """Waits by itself until the Steward is ready. Raises StewardError, and whatever a signal raises."""
        try:
            self._tell()
        except StewardError:
            raise
        except Exception as exc:  # said in the log; here in one line
            log.error("demo_failed", exc)
            raise StewardError(f"The demo failed; see {_near(self._stage.log)}") from None

    def _tell(self) -> None:
        stage, sample, teller = self._stage, self._stage.sample, self._teller
        with teller.step("the Steward (steward serve)", "ready", stage.url):
            self._wait_for(self._is_ready, READY_WITHIN_S, "The Steward did not become ready")
        real = sample.provider in stage.provider_keys
        teller.write(
            "\nCall it yourself, plain and streamed:\n\n"
            f"{telling.curl(sample, stage.url, stage.key, real)}\n\n"
            f"{telling.curl(sample, stage.url, stage.key, real, streamed=True)}\n\n"
            f"Or point an SDK at it; its base URL and one header change:\n{telling.sdks(stage.url)}"
        )
        teller.write(f"\nOne call, to {sample.title}:\n  POST {stage.url}{sample.path}\n")
        request_id = self._call(sample)
        row = self._wait_for(lambda: self._row(request_id), SETTLED_WITHIN_S, "The call left no row")
        teller.write(f"\nThe row it left in PostgreSQL, table llm_requests:\n{telling.row(row)}")
        self._show_body(row["body_key"])
        if not self._once:
            teller.write(f"\nServing on {stage.url} until Ctrl-C; calls appear here. Log: {_near(stage.log)}\n")
            self._follow({row["id"]})

    def _wait_for(self, look: Callable[[], Any], within_s: float, complaint: str) -> Any:
        """What `look` gives, once it is something. Raises StewardError."""
        until = time.monotonic() + within_s
        while not (found := look()):
            self._pause(0.05)
            if time.monotonic() > until:
                raise StewardError(f"{complaint} within {within_s:.0f} s; see {_near(self._stage.log)}")
        return found

    def _pause(self, seconds: float) -> None:
        """Raises StewardError when the Steward ends by itself."""
        with suppress(subprocess.TimeoutExpired):
            self._steward.wait(seconds)
            raise StewardError(f"The Steward ended; see {_near(self._stage.log)}")

    def _is_ready(self) -> bool:
        with suppress(OSError, http.client.HTTPException):
            return self._request("GET", "/readyz", {}, None)[0] == 200
        return False

    def _request(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = http.client.HTTPConnection(HOST, self._stage.settings.port, timeout=CALL_TIMEOUT_S)
        try:
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def _call(self, sample: Sample) -> str:
        """Makes the call, as any application would; returns its request id."""
        name, _, before = sample.credential.partition(": ")
        credential = before + self._stage.provider_keys.get(sample.provider, "anything")
        headers = {name: credential, "X-Majordomo-Key": self._stage.key, "Content-Type": "application/json"}
        body = json.dumps(sample.body).encode()
        try:
            status, fields, said = self._request("POST", sample.path, {**headers, **sample.headers}, body)
        except (OSError, http.client.HTTPException):
            raise StewardError(f"The call was not answered; see {_near(self._stage.log)}") from None
        with suppress(ValueError):
            text_of_it = sample.text(json.loads(said)) or said.decode("utf-8", "replace")
            self._teller.write(f"  {status}  {telling.visible(text_of_it, telling.WIDTH)}\n")
        return fields.get("x-majordomo-request-id", "")

    def _row(self, request_id: str) -> Mapping[str, Any] | None:
        found = self._query(_ONE, id=request_id)
        return found[0] if found else None

    def _query(self, statement: str, **values: object) -> Sequence[Mapping[str, Any]]:
        from sqlalchemy import text

        with self._stage.engine.connect() as connection:
            return [dict(row._mapping) for row in connection.execute(text(statement), {"org": LOCAL_ORG, **values})]

    def _show_body(self, key: str | None) -> None:
        if key is None:
            self._teller.write("\nIt left no body.\n")
            return
        path = self._stage.bodies / key
        document = json.loads(gzip.decompress(path.read_bytes()))
        self._teller.write(f"\nThe body it left in the bucket, here a folder:\n  {_near(path)}\n")
        self._teller.write(telling.excerpt(document))

    def _follow(self, seen: set[object]) -> None:
        """Each settled call in a line, until a signal."""
        while True:
            self._pause(LOOK_EVERY_S)
            newest = self._query(_NEWEST)
            for row in reversed(newest):
                if row["id"] not in seen:
                    self._teller.write(telling.line(row) + "\n")
            seen = {row["id"] for row in newest} | (seen if len(seen) < 1000 else set())


def _near(path: Path) -> str:
    """A path as one would type it from here."""
    with suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)
