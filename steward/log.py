"""One way out for words: JSON lines on stderr, made of closed fields with closed values (SECURITY F4).

Refuses free text. A fact has a name from `DOMAINS` and a value in that name's domain, else it is masked or dropped;
an error is its class, code, SQLSTATE and frames; what a library logs is its name, its level and no word of its own.
Lines go to stderr, because stdout belongs to what a command answers (`steward keys create --json`).
"""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from asyncio import AbstractEventLoop
from collections.abc import Iterable, Mapping, MutableMapping
from types import TracebackType
from typing import Any, BinaryIO, TextIO, Unpack

import orjson
import structlog

from steward import domains, errors
from steward.exchange import BodyState, Cost, Exchange, Metered, Usage
from steward.log_fields import DOMAINS, MASK, Facts, Sentence, event_name

LEVELS: Mapping[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
QUIET = (
    *("asyncio", "alembic", "boto3", "botocore", "google", "google_genai", "httpcore", "httpcore2", "httpx", "httpx2"),
    *("genai_prices", "pg8000", "s3transfer", "sqlalchemy", "urllib3", "uvicorn", "uvicorn.error"),
)
"""Libraries whose lines below WARNING are made of URLs, statements and headers."""

_TOKENS = (
    *("input_tokens", "output_tokens", "cached_tokens", "cache_creation_tokens", "reasoning_tokens"),
    "web_searches",
)


def configure(level: str = "info", stream: BinaryIO | None = None, severity: bool = False) -> None:
    """Once a process, before anything is said: our lines from `level` on, and every library's through the same gate.

    `severity`: the level stands in a line as Google's Cloud Logging reads it, too.
    """
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            *((_add_severity,) if severity else ()),
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
            structlog.processors.JSONRenderer(serializer=orjson.dumps),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer if stream is None else stream),
        cache_logger_on_first_use=False,
    )
    quiet_vendors()


def _add_severity(_: object, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    line["severity"] = str(line["level"]).upper()
    return line


def say(event: str, level: int = logging.INFO, **facts: Unpack[Facts]) -> None:
    """One line: what happened, as one of our own lower-case words, and its facts."""
    _write(event, level, dict(facts))


def error(event: str, exc: BaseException, **facts: Unpack[Facts]) -> None:
    """One line for an error, where it is mapped: what `errors.facts` says of it, at the level it knows itself."""
    level = exc.level if isinstance(exc, errors.StewardError) else logging.ERROR
    _write(event, level, {**facts, **errors.facts(exc)})


def call(exchange: Exchange, metered: Metered, cost: Cost | None, model: str | None, body_state: BodyState) -> None:
    """The canonical line of a call, said once by settle's metering step. `model` stands in its domain already."""
    said: dict[str, Any] = {
        "id": exchange.id,
        "org": exchange.caller.org_id,
        "key": exchange.caller.key_id,
        "provider": exchange.route.provider,
        "operation": exchange.route.operation,
        "method": domains.method(exchange.method),
        "template": exchange.route.template,
        "model": model,
        "status": exchange.status,
        "outcome": exchange.outcome,
        "code": exchange.error or metered.error,
        "streamed": metered.streamed,
        "service_tier": metered.service_tier,
        "usage_source": metered.source,
        "provider_cost_usd": metered.provider_cost_usd,
        "cost_usd": cost.total_usd if cost else None,
        "price_source": cost.source if cost else None,
        "request_bytes": exchange.request.size_bytes,
        "response_bytes": exchange.response.size_bytes,
        "truncated": exchange.request.truncated or exchange.response.truncated,
        "tags": len(exchange.tags),
        "tags_dropped": exchange.tags_dropped,
        "tags_refused": exchange.tags_refused or None,
        "body_state": body_state,
    }
    timings, usage = exchange.timings, metered.usage or Usage()
    said["sent_ms"], said["head_ms"] = _ms(timings.sent_us), _ms(timings.head_us)
    said["first_ms"], said["last_ms"] = _ms(timings.first_byte_us), _ms(timings.last_byte_us)
    for name in _TOKENS:
        said[name] = getattr(usage, name)
    _write("call", logging.INFO, said)


def _ms(us: int | None) -> float | None:
    return None if us is None else us / 1000


def setting_warnings(warned: Iterable[str]) -> None:
    """What `Settings.warnings` holds: our own sentences, with names of variables in them and never a value."""
    for sentence in warned:
        say("setting_warning", logging.WARNING, sentence=Sentence(sentence))


def quiet_vendors() -> None:
    """Every library's line goes through our gate, none below WARNING, whatever the level of ours."""
    root = logging.getLogger()
    root.handlers = [_Gate()]
    root.setLevel(logging.WARNING)
    for name in QUIET:
        vendor = logging.getLogger(name)
        vendor.handlers = []
        vendor.propagate = True
        vendor.setLevel(logging.WARNING)
    logging.getLogger("uvicorn.access").disabled = True
    # What logging prints when a line cannot be formatted is the line's arguments.
    logging.raiseExceptions = False


def catch_crashes() -> None:
    """What nobody caught, in the main thread, in others, in destructors, and every warning: said as facts."""
    sys.excepthook = _crashed
    threading.excepthook = _thread_crashed
    sys.unraisablehook = _unraisable
    warnings.showwarning = _warned


def loop_fault(loop: AbstractEventLoop, context: Mapping[str, Any]) -> None:
    """For `loop.set_exception_handler`: an error in a callback or a forgotten task, without asyncio's own sentence."""
    exc = context.get("exception")
    if isinstance(exc, BaseException):
        error("loop_fault", exc)
    else:
        say("loop_fault", logging.ERROR)


class _Gate(logging.Handler):
    """Where libraries' lines come: name, level, place and the error's facts. Their words and arguments stay behind."""

    def emit(self, record: logging.LogRecord) -> None:
        """Says one line for the record."""
        said: dict[str, object] = {"logger": record.name, "place": f"{record.module}:{record.lineno}"}
        exc = record.exc_info[1] if record.exc_info else None
        if exc is not None:
            said |= errors.facts(exc)
        _write("library", record.levelno, said)


def _write(event: str, level: int, facts: Mapping[str, object]) -> None:
    """The one place where a line is made. Never raises: a call is not worth less than its line."""
    said: dict[str, object] = {}
    undeclared = 0
    for name, value in facts.items():
        if value is None:
            continue
        domain = DOMAINS.get(name)
        if domain is None:
            undeclared += 1
        else:
            written = domain(value)
            said[name] = MASK if written is None else written
    if undeclared:
        said["undeclared"] = undeclared
    try:
        structlog.get_logger().log(level, event_name(event), **said)
    except (OSError, ValueError):
        # Nobody reads stderr any more (closed, full, gone). There is no other place to say so.
        return


def _crashed(kind: type[BaseException], exc: BaseException, trace: TracebackType | None) -> None:
    if isinstance(exc, KeyboardInterrupt):
        return
    error("crashed", exc.with_traceback(trace))


def _thread_crashed(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None:
        error("thread_crashed", args.exc_value)


def _unraisable(args: Any) -> None:
    if args.exc_value is not None:
        error("unraisable", args.exc_value)


def _warned(  # noqa: PLR0913, PLR0917 - the interpreter decides what it hands over
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    place = "/".join(filename.rsplit("/", 2)[-2:])
    _write("warning", logging.WARNING, {"error": category.__name__, "frames": [f"{place}:{lineno} <warning>"]})
