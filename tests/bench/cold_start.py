"""What a caller waits for when Lambda starts the function, and what a call costs once it runs.

It runs the archive of `make lambda`, unpacked where nothing else can be imported, by AWS's own runtime client, against
PostgreSQL, an S3 server and a provider on this machine. Refuses to say a figure for a call that was not answered 200.
A real Lambda's processor, network and disk are others: what is compared here is one release with the next.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from steward.adapters.postgres_local import LocalPostgres
from steward.destination import S3Destination, S3Keys
from tests.bench.runtime_api import RuntimeStandIn
from tests.lambda_archive import ROOT, alone, build, environ, function_environ, runtime_client, unpacked
from tests.servers.examples import respond
from tests.servers.socket_provider import Answer, Provider, Received
from tests.servers.steward import new_database, run_command
from tests.servers.stores import s3

RUNS = 11
CALLS = 200
PROVIDER_S = 0.02
HANDLER = "handlers.aws_lambda.handler"
_TIMED = """
import threading
import time
from handlers import aws_lambda

spent = [0.0]

def drivers():
    clocks = [time.pthread_getcpuclockid(each.ident) for each in threading.enumerate() if "intents" in each.name]
    return sum(map(time.clock_gettime, clocks))

def handler(event, context):
    if "spent" in event:
        return spent[0], drivers()
    begun = time.process_time()
    answer = aws_lambda.handler(event, context)
    spent[0] += time.process_time() - begun
    return answer
"""
_EMPTY = 'def handler(event, context):\n    return {"statusCode": 200, "body": ""}\n'


@dataclass(frozen=True)
class Cold:
    """One start."""

    ready_ms: float
    """From the start of the process until it asks for its first event."""
    first_ms: float
    """From the first event to its answer: a provider's call, relayed."""
    settled_ms: float
    """From the first event until nothing is left to do: row and body are stored."""


@dataclass(frozen=True)
class Warm:
    """What one of many calls takes of the processor, in milliseconds."""

    answering: float
    """From event to answer, all threads of the process but one."""
    drivers: float
    """That one: what SQLAlchemy and pg8000 take for the row that is written while the provider works."""
    settled: float
    """In all, with what comes behind the answer; without what the runtime's own client takes."""


class ColdStart:
    """The archive, unpacked with and without byte code, and what a function needs around it."""

    def __init__(self, archive: Path, folder: Path, settings: Mapping[str, str], key: str) -> None:
        self.with_byte_code = unpacked(archive, folder / "task")
        self.without = unpacked(archive, folder / "sources", byte_code=False)
        self._client = runtime_client(folder / "runtime")
        self._folder = folder
        self._settings = settings
        self._key = key
        for name, text in (("timed", _TIMED), ("empty", _EMPTY)):
            (folder / f"{name}.py").write_text(text)

    def start(self, task: Path) -> Cold:
        """One start and its first call."""
        with RuntimeStandIn() as api:
            begun = time.monotonic()
            with self._function(api, HANDLER, task, task):
                ready = api.asked_at()
                assert api.extensions == 1, "what comes behind the answer is its work"
                api.settled_at()
                sent = time.monotonic()
                first_s, _ = _answered(api, self.call())
                settled = api.settled_at()
        return Cold((ready - begun) * 1e3, first_s * 1e3, (settled - sent) * 1e3)

    def starts(self, task: Path, runs: int = RUNS) -> Cold:
        """The medians of several."""
        self.start(task)  # the files are in memory from here on, for either
        every = [self.start(task) for _ in range(runs)]
        names = ("ready_ms", "first_ms", "settled_ms")
        return Cold(*(statistics.median(getattr(each, name) for each in every) for name in names))

    def warm(self, event: Mapping[str, Any], calls: int = CALLS) -> Warm:
        """One of many calls of a sandbox that is warm."""
        _, _, empty = self._many("empty.handler", event, calls)
        answering, drivers, cpu = self._many("timed.handler", event, calls)
        return Warm(answering - drivers, drivers, cpu - empty)

    def _many(self, handler: str, event: Mapping[str, Any], calls: int) -> tuple[float, float, float]:
        """Until the answer, of it drivers, and in all; in milliseconds a call."""
        with RuntimeStandIn() as api, self._function(api, handler, self._folder, self.with_byte_code) as process:
            api.asked_at()
            if api.extensions:
                api.settled_at()
            for _ in range(20):
                self._again(api, event)
            before = (*self._spent(api, handler), _cpu_s(process.pid))
            for _ in range(calls):
                self._again(api, event)
            cpu = _cpu_s(process.pid)
            after = (*self._spent(api, handler), cpu)
            answering, drivers, in_all = ((b - a) / calls * 1e3 for a, b in zip(before, after, strict=True))
            return answering, drivers, in_all

    @staticmethod
    def _again(api: RuntimeStandIn, event: Mapping[str, Any]) -> None:
        _answered(api, event)
        api.asked_at()
        if api.extensions:
            api.settled_at()

    @staticmethod
    def _spent(api: RuntimeStandIn, handler: str) -> tuple[float, float]:
        if handler == "empty.handler":
            return 0.0, 0.0
        _, told = api.invoke({"spent": True}, told=False)
        api.asked_at()
        spent, drivers = told
        return float(spent), float(drivers)

    def imports(self, most: int = 12) -> list[tuple[str, float]]:
        """The modules that take longest to be imported, with all that they import first, in milliseconds."""
        told = {**environ(self.with_byte_code), **self._settings}
        words = alone("-X", "importtime", "-c", "import handlers.aws_sandbox")
        ran = subprocess.run(words, env=told, cwd="/", capture_output=True, text=True, check=True)
        found = re.findall(r"import time: +\d+ \| +(\d+) \| +(\S+)", ran.stderr)
        wide = sorted(((name, int(us) / 1e3) for us, name in found), key=lambda each: -each[1])
        return [each for each in wide if not each[0].startswith("handlers")][:most]

    @contextlib.contextmanager
    def _function(self, api: RuntimeStandIn, handler: str, root: Path, task: Path) -> Iterator[subprocess.Popen[bytes]]:
        settings = {**environ(self._client, root, task, TMPDIR=str(self._folder)), **self._settings}
        words = alone("-m", "awslambdaric", handler)
        with (self._folder / "log").open("ab") as log:
            process = subprocess.Popen(
                words, env=function_environ(root, api.address, handler, settings), cwd=root, stdout=log, stderr=log
            )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()

    def call(self) -> dict[str, Any]:
        """A chat completion, as an ALB sends it."""
        body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x" * 900}]}
        return self._event("POST", "/v1/chat/completions", orjson.dumps(body).decode())

    def probe(self) -> dict[str, Any]:
        """A look at `/health`: our own route, no provider, no database."""
        return self._event("GET", "/health", "")

    def _event(self, method: str, path: str, body: str) -> dict[str, Any]:
        fields = {
            "host": "steward.internal.example",
            "content-type": "application/json",
            "authorization": "Bearer sk-bench",
            "x-majordomo-key": self._key,
            "x-forwarded-for": "10.0.0.7",
            "x-forwarded-proto": "https",
            "x-forwarded-port": "443",
            **({"content-length": str(len(body))} if body else {}),
        }
        group = "arn:aws:elasticloadbalancing:eu-central-1:000000000000:targetgroup/steward/0"
        return {
            "requestContext": {"elb": {"targetGroupArn": group}},
            "httpMethod": method,
            "path": path,
            "multiValueQueryStringParameters": {},
            "multiValueHeaders": {name: [value] for name, value in fields.items()},
            "body": body,
            "isBase64Encoded": False,
        }


@contextlib.contextmanager
def cold_start_bench(archive: Path | None = None) -> Iterator[ColdStart]:
    """Builds the archive, unless there is one, and starts the servers; ends them."""
    provider = Provider(_worked)
    with (
        contextlib.closing(provider),
        LocalPostgres(for_tests=True) as postgres,
        s3() as server,
        tempfile.TemporaryDirectory(prefix="steward-bench-") as name,
    ):
        folder = Path(name)
        if archive is None:
            archive = folder / "steward-lambda.zip"
            built = build(archive)
            assert built.returncode == 0, built.stderr
        settings = _settings(postgres, server.bucket(), provider.url)
        told = {**os.environ, **settings, "PYTHONPATH": str(ROOT)}
        for words in (("migrate",), ("keys", "create", "--name", "bench", "--json")):
            done = run_command(told, *words)
            assert done.returncode == 0, done.stderr
        yield ColdStart(archive, folder, settings, json.loads(done.stdout)["key"])


def _worked(asked: Received) -> Answer:
    """After a while, as every provider answers: what is done beside it is over by then."""
    time.sleep(PROVIDER_S)
    return respond(asked)


def _settings(postgres: LocalPostgres, bucket: S3Destination, provider_url: str) -> dict[str, str]:
    address, keys = new_database(postgres), bucket.credentials
    assert isinstance(keys, S3Keys)
    return {
        "ENCRYPTION_KEY": secrets.token_hex(32),
        "POSTGRES_HOST": address.host,
        "POSTGRES_PORT": str(address.port),
        "POSTGRES_USER": address.user,
        "POSTGRES_PASSWORD": postgres.password.reveal(),
        "POSTGRES_DB": address.database,
        "AFTER_RESPONSE": "inline",
        "OPENAI_BASE_URL": provider_url,
        "BODY_STORE_URL": f"s3://{bucket.bucket}/calls",
        "BODY_STORE_S3_ENDPOINT": bucket.endpoint or "",
        "BODY_STORE_S3_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": keys.access_key_id,
        "AWS_SECRET_ACCESS_KEY": keys.secret_access_key.reveal(),
        "PRICING_REMOTE_URL": "",
    }


def _answered(api: RuntimeStandIn, event: Mapping[str, Any]) -> tuple[float, Any]:
    took_s, answer = api.invoke(event)
    assert answer.get("statusCode") == 200, answer
    return took_s, answer


def _cpu_s(pid: int) -> float:
    """All threads of a process, with what it took of the kernel."""
    fields: Sequence[str] = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
