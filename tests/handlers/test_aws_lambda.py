"""What Lambda calls: how it starts, what it imports, and that a wrong setting is one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from handlers import aws_lambda
from handlers.aws_sandbox import Sandbox
from tests.handlers.invoking import Context
from tests.services import ENCRYPTION_KEY

ROOT = Path(__file__).parents[2]
PLAIN = {
    "PATH": "/usr/bin:/bin",
    "ENCRYPTION_KEY": ENCRYPTION_KEY,
    "POSTGRES_HOST": "127.0.0.1",
    "PRICING_REMOTE_URL": "",
}
_MODULES = """
import sys
def guard(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen"): raise SystemExit(event)
sys.addaudithook(guard)
import os, handlers.aws_lambda as entry
if {begun}:
    entry._SANDBOX.begin()
import json
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


def modules(begun: bool, **given: str) -> set[str]:
    program = _MODULES.format(begun=begun)
    environ = {**PLAIN, "PYTHONPATH": str(ROOT), **given}
    ran = subprocess.run(
        [sys.executable, "-c", program], env=environ, cwd="/", capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    return set(json.loads(ran.stderr.splitlines()[-1]))


@pytest.mark.parametrize("begun", [False, True])
def test_it_imports_nothing_of_another_host_and_no_vendor_before_its_first_use(begun: bool) -> None:
    """Started in full, too: nothing is connected to, and no SDK is there."""
    loaded = modules(begun)
    foreign = ("google.cloud.storage", "google.auth", "google.oauth2", "functions_framework", "uvicorn", "uvloop")
    late = (
        "boto3",
        "botocore.session",
        "botocore.client",
        "s3transfer",
        "steward.listener",
        "steward.egress",
        "handlers.container",
        "rich",
    )
    found = sorted(loaded & {*foreign, *late})
    assert not found and "steward.proxy" in loaded and "mangum" in loaded


def test_a_wrong_setting_is_one_line_and_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        aws_lambda.begin(Sandbox({**PLAIN, "POSTGRES_PORT": "canary"}))
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.startswith("steward: POSTGRES_PORT: ") and said.count("\n") == 1
    assert "canary" not in said


def test_each_door_leads_to_its_own_work() -> None:
    """Not one of them does another's: a queue's event at the wrong one says where it belongs."""
    program = (
        "import handlers.aws_lambda as entry\n"
        "for door in (entry.handler, entry.settle):\n"
        "    try:\n"
        "        door({'source': 'aws.events'}, None)\n"
        "    except TypeError as told:\n"
        "        print(told)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], env=PLAIN, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    words = [line for line in ran.stdout.splitlines() if "handlers.aws_lambda" in line]
    assert ran.returncode == 0 and len(words) == 2, ran.stderr
    assert ".settle" in words[0] and ".handler" in words[1]
    assert callable(aws_lambda.scheduled) and Context().get_remaining_time_in_millis() > 0
