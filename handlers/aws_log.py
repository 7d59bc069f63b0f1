"""The lines of `steward.log` by way of Powertools' Logger: the same line, with what tells a sandbox and a call apart.

It adds three closed fields and no other: Powertools' decorators, which would log the event, and its Tracer, which would
send answers away, are not used, so nothing that POWERTOOLS_* says can ask for them (SECURITY F4).
"""

from __future__ import annotations

import io
import logging
import re
from typing import Any, TextIO

import orjson
from aws_lambda_powertools.logging import Logger
from aws_lambda_powertools.logging.formatter import LambdaPowertoolsFormatter

from steward import log
from steward.log_fields import MASK

_REQUEST_ID = re.compile(r"[0-9A-Fa-f-]{1,64}")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,140}")
_LOGGER = "majordomo-steward"


class _Line(LambdaPowertoolsFormatter):
    """Our own line first, then the keys of the invocation; nothing that Powertools takes from elsewhere."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON."""
        said: dict[str, Any] = record.msg  # type: ignore[assignment]
        keys = {name: self.log_format.get(name) for name in ("cold_start", "function_name", "function_request_id")}
        return self.serialize({**said, **{name: value for name, value in keys.items() if value is not None}})


class LambdaLog:
    """One a process."""

    def __init__(self, level: str, stream: TextIO | None = None) -> None:
        """`level`: LOG_LEVEL. `stream`: stdout without one."""
        # Powertools keeps a logger's handler by its name; ours takes the stream that is given now.
        logging.getLogger(_LOGGER).handlers = []
        logging.getLogger(_LOGGER).init = False  # type: ignore[attr-defined]
        logging.getLogger(_LOGGER).powertools_handler = None  # type: ignore[attr-defined]
        formatter = _Line(json_serializer=lambda said: orjson.dumps(said).decode())
        self._logger = Logger(_LOGGER, level="DEBUG", sampling_rate=0, stream=stream, logger_formatter=formatter)
        logging.getLogger(_LOGGER).propagate = False
        self._cold = True
        log.configure(level, _Sink())

    def begins(self, context: Any) -> None:
        """A call: from here on lines say which."""
        cold, self._cold = self._cold, False
        self._logger.append_keys(
            cold_start=cold,
            function_name=_closed(_NAME, getattr(context, "function_name", None)),
            function_request_id=_closed(_REQUEST_ID, getattr(context, "aws_request_id", None)),
        )


def _closed(domain: re.Pattern[str], value: object) -> str:
    return value if isinstance(value, str) and domain.fullmatch(value) else MASK


class _Sink(io.BytesIO):
    """Where structlog writes: each line goes on to Powertools' Logger, whose level lets all of them through."""

    def write(self, line: Any, /) -> int:
        """One whole line."""
        said = orjson.loads(line)
        logging.getLogger(_LOGGER).log(log.LEVELS.get(said.get("level"), logging.CRITICAL), said)
        return len(line)
