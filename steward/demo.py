"""`steward demo`: the whole story on one machine with nothing configured; what `make demo` calls.

It listens on 127.0.0.1 alone, makes every secret anew, leaves no process behind however it ends, and reads no `.env`:
what it needs of the environment (providers' keys, the way out to them) is handed to it. What is large is imported
where it is used: the first line is there at once, and from then on a signal is the demo's own.
"""

from __future__ import annotations

import gzip
import http.client
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TextIO

from steward import demo_telling as telling
from steward import log
from steward.demo_butler import HOST
from steward.demo_stage import (
    DAY_OF_CALLS,
    READY_WITHIN_S,
    TAGS,
    Stage,
    Teller,
    free_port,
    near,
    pause,
    running,
    set_up,
    settle_day,
    view_token,
)
from steward.demo_telling import Sample
from steward.errors import StewardError

FOLDER = Path(".demo")
SETTLED_WITHIN_S = 60.0
TOLD_WITHIN_S = 120.0
CALL_TIMEOUT_S = 120.0
LOOK_EVERY_S = 1.0
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_COLUMNS = (
    "id, provider, model, status_code, outcome, usage_source, input_tokens, output_tokens, total_cost, price_source, "
    "response_time_ms, first_byte_us, body_state, body_key, requested_at"
)
_SETTLED = "org_id = :org AND outcome <> 'interrupted' AND body_state <> 'pending'"
_ONE = f"SELECT {_COLUMNS} FROM llm_requests WHERE id = :id AND {_SETTLED}"  # noqa: S608 - constants
_NEWEST = f"SELECT {_COLUMNS} FROM llm_requests WHERE {_SETTLED} ORDER BY id DESC LIMIT 50"  # noqa: S608
_KEYS = "SELECT count(*) AS keys FROM api_keys WHERE org_id = :org AND is_active"


def run(port: int, once: bool, environ: Mapping[str, str], folder: Path = FOLDER, out: TextIO | None = None) -> int:
    """Tells the story and keeps serving until a signal; with `once` it ends after the story. Returns the exit code.

    `port`: to listen on, 0 for any. `environ`: where providers' keys are looked for. `folder`: where bodies and the
    log are kept. Raises SettingError for a port in use, StewardError for what does not come about; both say it in
    one line. Call it from the main thread: it takes the process's signals, and with it ends the Steward.
    """
    teller = Teller(sys.stdout if out is None else out)
    for number in SIGNALS:
        signal.signal(number, _interrupt)
    try:
        port = free_port(port)
        teller.write(
            "\nMajordomo Steward: the demo\n"
            "Everything runs on this machine and listens on 127.0.0.1 alone; every secret is made anew.\n\n"
        )
        with ExitStack() as undo:
            stage = set_up(port, environ, folder, teller, undo)
            undo.callback(_ignore_signals)
            with suppress(KeyboardInterrupt):
                _Story(stage, once, teller, undo.enter_context(running(["serve"], stage.environ, stage.log))).tell()
            _ignore_signals()
            teller.write("\nStopping ...\n")
        teller.write(f"Stopped. The bodies stay in {near(stage.bodies)}, the log in {near(stage.log)}.\n")
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


class _Story:
    """What is told while the Steward serves."""

    def __init__(self, stage: Stage, once: bool, teller: Teller, steward: subprocess.Popen[bytes]) -> None:
        self._stage = stage
        self._once = once
        self._teller = teller
        self._steward = steward
        self._org = stage.butler.owner.org_id

    def tell(self) -> None:
        """Waits by itself until the Steward is ready. Raises StewardError, and whatever a signal raises."""
        try:
            self._tell()
        except StewardError:
            raise
        except Exception as exc:  # said in the log; here in one line
            log.error("demo_failed", exc)
            raise StewardError(f"The demo failed; see {near(self._stage.log)}") from None

    def _tell(self) -> None:
        stage, sample, teller = self._stage, self._stage.sample, self._teller
        with teller.step("the Steward (steward serve)", "ready", stage.url):
            self._wait_for(self._is_ready, READY_WITHIN_S, "The Steward did not become ready")
        with teller.step("Butler's keys, here (sync)", "known"):
            self._wait_for(self._knows_keys, TOLD_WITHIN_S, "The keys did not arrive")
        with teller.step(f"a plausible day of {DAY_OF_CALLS:,} calls", "settled", "invented; none was sent anywhere"):
            settle_day(stage)
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
        self._show_dashboard()
        if not self._once:
            teller.write(f"\nServing on {stage.url} until Ctrl-C; calls appear here. Log: {near(stage.log)}\n")
            self._follow({each["id"] for each in self._query(_NEWEST)})

    def _show_dashboard(self) -> None:
        """Once Butler has the rows; what to sign in with."""
        stage, teller, butler = self._stage, self._teller, self._stage.butler
        teller.write("\n")
        with teller.step("Butler knows of the calls (export)", "all", "tokens, cost, latency; no word of a body"):
            self._wait_for(lambda: butler.calls() > DAY_OF_CALLS, TOLD_WITHIN_S, "Butler did not learn of the calls")
            for tag in TAGS:
                butler.activate(tag)
        teller.write(telling.dashboard(butler.url, butler.owner.email, butler.owner.password.reveal()))
        teller.write(telling.viewer(stage.settings.view_url, view_token(stage)))

    def _knows_keys(self) -> bool:
        return bool(self._query(_KEYS)[0]["keys"] > len(self._stage.callers))

    def _wait_for(self, look: Callable[[], Any], within_s: float, complaint: str) -> Any:
        """What `look` gives, once it is something. Raises StewardError."""
        until = time.monotonic() + within_s
        while not (found := look()):
            pause(self._steward, 0.05, self._stage.log)
            if time.monotonic() > until:
                raise StewardError(f"{complaint} within {within_s:.0f} s; see {near(self._stage.log)}")
        return found

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
            raise StewardError(f"The call was not answered; see {near(self._stage.log)}") from None
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
            return [dict(row._mapping) for row in connection.execute(text(statement), {"org": self._org, **values})]

    def _show_body(self, key: str | None) -> None:
        if key is None:
            self._teller.write("\nIt left no body.\n")
            return
        path = self._stage.bodies / key
        document = json.loads(gzip.decompress(path.read_bytes()))
        self._teller.write(f"\nThe body it left in the bucket, here a folder:\n  {near(path)}\n")
        self._teller.write(telling.excerpt(document))

    def _follow(self, seen: set[object]) -> None:
        """Each settled call in a line, until a signal."""
        while True:
            pause(self._steward, LOOK_EVERY_S, self._stage.log)
            newest = self._query(_NEWEST)
            for row in reversed(newest):
                if row["id"] not in seen:
                    self._teller.write(telling.line(row) + "\n")
            seen = {row["id"] for row in newest} | (seen if len(seen) < 1000 else set())
