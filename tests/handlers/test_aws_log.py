"""Lines by way of Powertools: our own, with three closed fields more, and nothing that its settings could add."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers.aws_log import LambdaLog
from steward import log
from tests.handlers.invoking import Context
from tests.said import listening

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    with listening():
        yield


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_the_containers_with_the_invocations_keys() -> None:
    with listening() as plain:
        log.say("listening", port=3)
    stream = io.StringIO()
    lambda_log = LambdaLog("info", stream)
    log.say("listening", port=3)
    lambda_log.begins(Context())
    log.say("listening", port=3)
    lambda_log.begins(Context())
    log.say("listening", port=3)
    ours = plain.lines()[0]
    first, second, third = lines(stream)
    assert first.keys() == ours.keys() and {**first, "at": ""} == {**ours, "at": ""}
    added = {"function_name": "steward", "function_request_id": Context().aws_request_id}
    assert {**second, "at": ""} == {**ours, "at": "", "cold_start": True, **added}
    assert {**third, "at": ""} == {**ours, "at": "", "cold_start": False, **added}


def test_the_level_is_ours_and_a_librarys_line_keeps_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POWERTOOLS_LOG_LEVEL", "DEBUG")
    stream = io.StringIO()
    LambdaLog("warning", stream)
    log.say("listening")
    logging.getLogger("botocore").error("canary %s", "canary")
    (line,) = lines(stream)
    assert line["logger"] == "botocore" and line["level"] == "error" and "canary" not in stream.getvalue()


@pytest.mark.parametrize("odd", [None, object(), Context(aws_request_id="a\nb", function_name="x y")])
def test_what_is_no_name_is_masked(odd: object) -> None:
    stream = io.StringIO()
    LambdaLog("info", stream).begins(odd)
    log.say("listening")
    (line,) = lines(stream)
    assert line["function_name"] == line["function_request_id"] == "***"


def test_no_tracer_and_no_decorator_is_anywhere() -> None:
    """Powertools' Tracer sends answers away, its decorator logs events: neither is imported, whatever is set."""
    files = [*(ROOT / "steward").rglob("*.py"), *(ROOT / "handlers").rglob("*.py")]
    words = ("Tracer", "tracing", "inject_lambda_context", "aws_xray", "log_event", "@logger", "@tracer")
    code = {file: file.read_text() for file in files}
    imported = [
        (file.name, word)
        for file, text in code.items()
        for line in text.splitlines()
        for word in words
        if word in line and ("import " in line or line.lstrip().startswith("@"))
    ]
    assert len(code) > 200 and not imported
    program = (
        "import sys, handlers.aws_lambda, handlers.aws_batch\n"
        "print([name for name in sys.modules if 'xray' in name])"
    )  # the package names its Tracer itself; what it would send by is never imported
    environ = {"POWERTOOLS_TRACE_DISABLED": "false", "POWERTOOLS_LOGGER_LOG_EVENT": "true", "PATH": "/usr/bin"}
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60
    )
    assert (ran.returncode, ran.stdout.strip()) == (0, "[]"), ran.stderr
