"""What the log says, for tests that read it: configured at debug into memory, and as it was before afterwards."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog

from steward import log


class Said:
    """Everything that was said while it listened."""

    def __init__(self) -> None:
        self.stream = io.BytesIO()

    @property
    def text(self) -> str:
        """The lines as they were written."""
        return self.stream.getvalue().decode()

    def lines(self, event: str | None = None) -> list[dict[str, Any]]:
        """The lines, parsed; those of one event when it is named."""
        lines = [json.loads(line) for line in self.text.splitlines()]
        return [line for line in lines if event in (None, line["event"])]

    def events(self) -> list[str]:
        """What happened, in order."""
        return [line["event"] for line in self.lines()]


@contextmanager
def listening() -> Iterator[Said]:
    """Listens until the block ends."""
    root = logging.getLogger()
    before = root.handlers, root.level, logging.raiseExceptions, warnings.showwarning
    said = Said()
    log.configure("debug", said.stream)
    try:
        yield said
    finally:
        structlog.reset_defaults()
        root.handlers, logging.raiseExceptions, warnings.showwarning = before[0], before[2], before[3]
        root.setLevel(before[1])
