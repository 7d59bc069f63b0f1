"""Functions that show what a sandbox does to whoever runs in it. Started by `python -m awslambdaric`, or by itself.

It refuses to use anything of the product.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import queue
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

COUNTED = itertools.count()
_started = threading.Event()
_now = 0
_after: queue.SimpleQueue[Path | None] = queue.SimpleQueue()


def _count() -> None:
    """Counts as fast as it can for as long as it is let."""
    global _now  # noqa: PLW0603 - one number that a second thread writes is what this shows
    _started.set()
    for _now in COUNTED:
        pass


def _api() -> http.client.HTTPConnection:
    return http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])


def register(events: list[str]) -> tuple[int, str]:
    """Status and identifier, or the error's type."""
    api = _api()
    headers = {"Lambda-Extension-Name": "trivial", "Content-Type": "application/json"}
    api.request("POST", "/2020-01-01/extension/register", json.dumps({"events": events}), headers)
    answer = api.getresponse()
    said = json.loads(answer.read())
    return answer.status, answer.headers.get("Lambda-Extension-Identifier", "") or said["errorType"]


def _extend(ident: str) -> None:
    """For each event: what the handler left to do, before it asks for the next."""
    api = _api()
    while True:
        api.request("GET", "/2020-01-01/extension/event/next", headers={"Lambda-Extension-Identifier": ident})
        if not api.getresponse().read():
            return
        left = _after.get()
        if left is not None:
            with Path(os.environ["GATE"]).open() as gate:
                gate.read()
            left.write_text("done")


if os.environ.get("EXTENDS"):
    REFUSED = register(["INVOKE", "SHUTDOWN"])
    threading.Thread(target=_extend, args=(register(["INVOKE"])[1],), daemon=True).start()


def handler(event: dict[str, Any], context: Any) -> Any:
    """What the event's `do` says."""
    left = None
    try:
        match event["do"]:
            case "count":
                if not _started.is_set():
                    threading.Thread(target=_count, daemon=True).start()
                    _started.wait()
                return _now
            case "later":
                left = Path(event["file"])
                return "answered"
            case "register":
                return [*register(["INVOKE"]), *REFUSED]
            case "keep":
                return tempfile.mkstemp()[1]
            case "large":
                return "x" * event["size"]
            case "fail":
                raise ValueError("as told")
            case "exit":
                os._exit(3)
            case "hang":
                threading.Event().wait()
        return {"id": context.aws_request_id, "left_ms": context.get_remaining_time_in_millis(), "event": event}
    finally:
        if os.environ.get("EXTENDS"):
            _after.put(left)


def stream() -> None:
    """A runtime of its own that answers every event with a stream of what the event says."""
    api = _api()
    while True:
        api.request("GET", "/2018-06-01/runtime/invocation/next")
        answer = api.getresponse()
        event = json.loads(answer.read())
        ident = answer.headers["Lambda-Runtime-Aws-Request-Id"]
        headers = {
            "Lambda-Runtime-Function-Response-Mode": "streaming",
            "Content-Type": "application/vnd.awslambda.http-integration-response",
            "Transfer-Encoding": "chunked",
            "Trailer": "Lambda-Runtime-Function-Error-Type",
        }
        api.putrequest("POST", f"/2018-06-01/runtime/invocation/{ident}/response")
        for each in headers.items():
            api.putheader(*each)
        api.endheaders()
        for piece in _told(event):
            api.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        trailer = b"Lambda-Runtime-Function-Error-Type: Trivial\r\n" if event.get("fails") else b""
        api.send(b"0\r\n" + trailer + b"\r\n")
        api.getresponse().read()


def _told(event: dict[str, Any]) -> Iterator[bytes]:
    """Prelude and pieces; before each but the first it reads from the gate, which opens when a test writes."""
    yield b'{"statusCode": 200}' + bytes(8)
    for number, piece in enumerate(event["pieces"]):
        if number:
            with Path(os.environ["GATE"]).open() as gate:
                gate.read()
        yield piece.encode()


if __name__ == "__main__":
    stream()
