"""One way out for words: canaries through every door of the log, and none comes out (SECURITY F4)."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import structlog

from steward import log
from steward.errors import KeyCheckUnavailable, UpstreamBroke
from steward.exchange import (
    Body,
    BodyState,
    Caller,
    Cost,
    Dialect,
    ErrorCode,
    Exchange,
    Metered,
    Operation,
    Outcome,
    Route,
    Timings,
    Usage,
    UsageSource,
)
from steward.words import Content, Secret

CANARY = "CANARY-7f3a the quick brown fox"
ROOT = Path(__file__).parents[1]


class Lines:
    """What was said."""

    def __init__(self) -> None:
        self.stream = io.BytesIO()

    @property
    def text(self) -> str:
        return self.stream.getvalue().decode()

    @property
    def all(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """Logging configured at debug into memory, and as it was before afterwards."""
    root = logging.getLogger()
    before = root.handlers, root.level, logging.raiseExceptions, warnings.showwarning
    said = Lines()
    log.configure("debug", said.stream)
    yield said
    structlog.reset_defaults()
    root.handlers, logging.raiseExceptions, warnings.showwarning = before[0], before[2], before[3]
    root.setLevel(before[1])


def test_a_line_is_json_with_event_level_and_time(lines: Lines) -> None:
    log.say("listening", port=7680, host="127.0.0.1", workers=2)
    (line,) = lines.all
    assert datetime.fromisoformat(line.pop("at")).tzinfo == UTC
    assert line == {"event": "listening", "level": "info", "port": 7680, "host": "127.0.0.1", "workers": 2}


def test_a_line_says_its_severity_where_google_reads_it(lines: Lines) -> None:
    log.configure("debug", lines.stream, severity=True)
    for level in log.LEVELS.values():
        log.say("ready", level)
    assert [line["severity"] for line in lines.all] == ["DEBUG", "INFO", "WARNING", "ERROR"]


def test_lines_below_the_level_are_not_written(lines: Lines) -> None:
    log.configure("warning", lines.stream)
    log.say("listening", port=1)
    log.say("spilled", logging.WARNING, count=1)
    assert [line["event"] for line in lines.all] == ["spilled"]


@pytest.mark.parametrize(
    "value",
    [CANARY, CANARY.encode(), Secret(CANARY), Content(CANARY), ValueError(CANARY), object(), {"a": CANARY}, [CANARY]],
)
def test_no_field_takes_free_text(lines: Lines, value: object) -> None:
    for name in log.DOMAINS:
        log._write("probe", logging.ERROR, {name: value})
    assert "CANARY" not in lines.text
    assert len(lines.all) == len(log.DOMAINS)


def test_a_field_that_is_not_declared_is_dropped_and_counted(lines: Lines) -> None:
    log._write("probe", logging.ERROR, {"prompt": CANARY, CANARY: 1, "count": 1})
    (line,) = lines.all
    assert line["undeclared"] == 2
    assert line["count"] == 1
    assert "CANARY" not in lines.text


def test_an_event_that_is_no_word_of_ours_is_masked(lines: Lines) -> None:
    log.say(CANARY)
    log.say("canary in words")
    assert [line["event"] for line in lines.all] == ["***", "***"]


def test_an_error_is_class_code_and_frames(lines: Lines) -> None:
    log.error("relay_failed", _raised(ValueError(CANARY)))
    log.error("relay_failed", UpstreamBroke(), provider="openai")
    log.error("relay_failed", KeyCheckUnavailable())
    foreign, broke, unavailable = lines.all
    assert foreign["error"] == "ValueError"
    assert foreign["code"] == "foreign"
    assert foreign["level"] == "error"
    assert foreign["frames"][-1].startswith("tests/test_log.py:")
    assert (broke["error"], broke["code"], broke["level"]) == ("UpstreamBroke", "upstream_broke", "warning")
    assert broke["provider"] == "openai"
    assert unavailable["code"] == "key_check_unavailable"
    assert "CANARY" not in lines.text


def test_the_cause_of_an_error_is_its_class_alone(lines: Lines) -> None:
    error = UpstreamBroke()
    error.__cause__ = ValueError(CANARY)
    log.error("relay_failed", error)
    assert lines.all[0]["cause"] == "ValueError"
    assert "CANARY" not in lines.text


@pytest.mark.parametrize("name", [*log.QUIET, "uvicorn.access", "some.library", ""])
def test_a_library_says_its_name_and_none_of_its_words(lines: Lines, name: str) -> None:
    logger = logging.getLogger(name)
    logger.debug(CANARY)
    logger.info("GET /v1beta/models?key=%s", CANARY)
    logger.warning("statement %s", CANARY)
    logger.error("wrong format %d", CANARY)
    logger.error(CANARY, exc_info=_raised(KeyError(CANARY)), stack_info=True, extra={"body": CANARY})
    assert "CANARY" not in lines.text
    expected = 0 if name == "uvicorn.access" else 3
    assert [line["event"] for line in lines.all] == ["library"] * expected
    if expected:
        assert lines.all[-1]["error"] == "KeyError"
        assert lines.all[-1]["logger"] == (name or "root")


def test_a_stream_that_is_gone_breaks_nothing(lines: Lines) -> None:
    lines.stream.close()
    log.say("listening", port=1)
    log.error("relay_failed", ValueError(CANARY))
    assert lines.stream.closed


def test_a_loop_fault_is_said_without_asyncios_sentence(lines: Lines) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(log.loop_fault)
        loop.call_soon(_fail)
        loop.call_exception_handler({"message": CANARY})
        await asyncio.sleep(0)

    asyncio.run(main())
    assert {line["event"] for line in lines.all} == {"loop_fault"}
    assert "ValueError" in [line.get("error") for line in lines.all]
    assert "CANARY" not in lines.text


def test_setting_warnings_are_our_own_sentences(lines: Lines) -> None:
    log.setting_warnings(["POSTGRES_PASS: not a setting; is POSTGRES_PASSWORD meant?"])
    assert lines.all[0]["sentence"].startswith("POSTGRES_PASS: ")
    assert lines.all[0]["level"] == "warning"


def test_the_canonical_line_of_a_call(lines: Lines) -> None:
    cost = Cost(Decimal("0.1"), Decimal("0.2"), Decimal("0.3"), "genai-prices 0.2.3")
    metered = Metered(UsageSource.PROVIDER, Usage(10, 5, 3), model=CANARY, service_tier="priority", streamed=True)
    log.call(_exchange(), metered, cost, "gpt-5", BodyState.STORED)
    (line,) = lines.all
    del line["at"]
    assert line == {
        "event": "call",
        "level": "info",
        "id": str(UUID(int=1)),
        "org": str(UUID(int=3)),
        "key": str(UUID(int=2)),
        "provider": "openai",
        "operation": "chat",
        "method": "POST",
        "template": "/v1/chat/completions",
        "model": "gpt-5",
        "status": 200,
        "outcome": "complete",
        "streamed": True,
        "service_tier": "priority",
        "usage_source": "provider",
        "cost_usd": "0.3",
        "price_source": "genai-prices 0.2.3",
        "request_bytes": 4,
        "response_bytes": 0,
        "truncated": False,
        "tags": 1,
        "tags_dropped": 2,
        "tags_refused": ["Api-Key"],
        "body_state": "stored",
        "sent_ms": 1.5,
        "head_ms": 2.0,
        "last_ms": 4.0,
        "input_tokens": 10,
        "output_tokens": 5,
        "cached_tokens": 3,
    }


def test_a_call_with_nothing_known_says_nothing_of_it(lines: Lines) -> None:
    metered = Metered(UsageSource.NONE, error=ErrorCode.RATE_LIMITED, service_tier=CANARY)
    log.call(_exchange(), metered, None, None, BodyState.NONE)
    (line,) = lines.all
    assert line["code"] == "rate_limited"
    assert line["service_tier"] == "***"
    assert not {"input_tokens", "cost_usd", "model", "price_source"} & set(line)
    assert "CANARY" not in lines.text


CRASHES = {
    "main thread": "raise ValueError(CANARY)",
    "thread": "import threading; t = threading.Thread(target=fail); t.start(); t.join()",
    "destructor": "class D:\n    def __del__(self): fail()\nd = D(); del d",
    "warning": "import warnings; warnings.warn(CANARY)",
    "chained": "try:\n    fail()\nexcept ValueError as e:\n    raise KeyError(CANARY) from e",
    "logging": "import logging; logging.getLogger('x').error('%d', CANARY)",
}


@pytest.mark.parametrize("crash", CRASHES.values(), ids=CRASHES.keys())
def test_what_nobody_caught_is_said_as_facts(crash: str) -> None:
    program = f"from steward import log\nCANARY = {CANARY!r}\ndef fail(): raise ValueError(CANARY)\n"
    program += f"log.configure('debug')\nlog.catch_crashes()\n{crash}\n"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, cwd=ROOT, check=False, timeout=60)
    assert ran.stdout == b""
    assert b"CANARY" not in ran.stderr
    said = [json.loads(line) for line in ran.stderr.splitlines()]
    assert said, "something must be said"
    assert all(line["level"] in {"warning", "error"} for line in said)


def test_an_interrupt_is_no_crash() -> None:
    program = "from steward import log\nlog.configure()\nlog.catch_crashes()\nraise KeyboardInterrupt\n"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, cwd=ROOT, check=False, timeout=60)
    assert ran.stderr == b""
    assert ran.returncode != 0


def _fail() -> None:
    raise ValueError(CANARY)


def _raised(error: Exception) -> Exception:
    try:
        raise error
    except type(error) as caught:
        return caught


def _exchange() -> Exchange:
    return Exchange(
        id=UUID(int=1),
        caller=Caller(UUID(int=2), UUID(int=3)),
        route=Route("openai", Dialect.OPENAI, Operation.CHAT, "/v1/chat/completions", b"/v1/chat/completions"),
        requested_at=datetime(2026, 1, 1, tzinfo=UTC),
        method="POST",
        outcome=Outcome.COMPLETE,
        status=200,
        timings=Timings(1500, 2000, None, 4000),
        request=Body(CANARY.encode()[:4], size_bytes=4),
        request_headers=[(b"x-request-id", CANARY.encode())],
        tags={"Feature": CANARY},
        tags_dropped=2,
        tags_refused=("Api-Key",),
        client=CANARY,
        claude_session_name=CANARY,
    )
