"""AWS's own emulator of Lambda's Runtime API, which ships in the wheel of aws-sam-cli, and the function it runs.

It freezes nothing, and answers only after the runtime and every extension are done. It knows no ALB: limits of size
and time are a function's own.
"""

from __future__ import annotations

import os
import platform
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import orjson
import pytest

from tests.servers.lambda_sandbox import REPOSITORY, RUNTIME_CLIENT, function_environ
from tests.servers.listening import free_port
from tests.servers.plain_http import Ended, Message, Request, call
from tests.servers.waiting import eventually

PLACE = ".venv/deploy/lib/python3*/site-packages/samcli/local/rapid/aws-lambda-rie-*"
INVOKE = b"/2015-03-31/functions/function/invocations"
START_WITHIN_S = 30.0


def emulator() -> Path | None:
    """Where it lies, for this machine's processor."""
    processor = "arm64" if platform.machine() in {"arm64", "aarch64"} else "x86_64"
    return next((path for path in sorted(REPOSITORY.glob(PLACE)) if path.name.endswith(processor)), None)


class Emulator:
    """One function behind the emulator. `with` starts it; the function's own process begins with the first event."""

    def __init__(
        self, binary: Path, handler: str, environ: Mapping[str, str], folder: Path, timeout_s: int = 30
    ) -> None:
        self.port = free_port()
        self.tmp = folder / "tmp"
        self.log = folder / "log"
        api = f"127.0.0.1:{free_port()}"
        addresses = ("--runtime-interface-emulator-address", f"127.0.0.1:{self.port}", "--runtime-api-address", api)
        self._command = (str(binary), *addresses, *RUNTIME_CLIENT, handler)
        self._environ = {
            **function_environ(environ, api, handler, self.tmp),
            "AWS_LAMBDA_FUNCTION_TIMEOUT": str(timeout_s),
        }

    def __enter__(self) -> Self:
        self.tmp.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, env=self._environ, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        eventually(self._listens, START_WITHIN_S)
        return self

    def __exit__(self, *_: object) -> None:
        """It ends the function's process itself when it is asked to end; killed, it would leave it."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)

    def post(self, event: object) -> Message:
        """What the emulator answers; 200 also where the function reports an error."""
        return call(self.port, Request(b"POST", INVOKE, [], orjson.dumps(event)))

    def invoke(self, event: object) -> Any:
        """The function's answer, as a document."""
        answered = self.post(event)
        assert answered.status == 200, answered.body
        return orjson.loads(answered.body)

    def said(self) -> bytes:
        """All that it and the function wrote."""
        return self.log.read_bytes()

    def left(self) -> list[str]:
        """What lies in the function's TMPDIR."""
        return sorted(str(path.relative_to(self.tmp)) for path in self.tmp.rglob("*"))

    def _listens(self) -> bool:
        assert self.process.poll() is None, self.said()
        try:
            return call(self.port, Request(b"GET", b"/")).status > 0
        except (OSError, Ended):
            return False


def emulator_or_skip() -> Path:
    """Where it lies. Missing, what needs it is skipped and says so; where `CI` is set it fails."""
    found = emulator()
    if found is None:
        words = "AWS's emulator of Lambda is not installed (make .venv/deploy/made-here); nothing was tried on it"
        assert not os.environ.get("CI"), words
        pytest.skip(words)
    return found


@pytest.fixture(scope="session")
def lambda_emulator() -> Path:
    """The emulator's binary, or a skip."""
    return emulator_or_skip()
