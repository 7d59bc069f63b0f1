"""What Lambda calls: `handler` for ALB, Function URL and API Gateway, `settle` for SQS, `scheduled` for EventBridge.

Started while the function starts, so that the first caller waits for nothing that could have been done before. It
knows Lambda's names alone; the rest is `aws_sandbox`.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from handlers.aws_sandbox import Sandbox
from steward.errors import SettingError

_SANDBOX = Sandbox(os.environ)


def handler(event: Any, context: Any) -> dict[str, Any]:
    """A request and its whole answer."""
    return _SANDBOX.answer(event, context)


def settle(event: Any, context: Any) -> dict[str, Any]:
    """A batch of the queue, with partial failures."""
    return _SANDBOX.settle(event, context)


def scheduled(event: Any, context: Any) -> dict[str, Any]:
    """What was left, within the time there is."""
    return _SANDBOX.sweep(context)


def begin(sandbox: Sandbox) -> None:
    """A wrong setting is one line, and the end: no trace of the interpreter's, and no value. Raises SystemExit."""
    try:
        sandbox.begin()
    except SettingError as wrong:
        sys.stderr.write(f"steward: {wrong.message}\n")
        raise SystemExit(2) from None


if _SANDBOX.on_lambda:
    begin(_SANDBOX)
