"""An internal extension: what comes after a response runs while the caller already has it, before Lambda freezes us.

Lambda freezes a sandbox when the runtime and every extension ask for the next event. This one is a thread of the
function's own process that asks only once the work of an invocation is done. It must be registered while the function
starts. It never works beside the next call: Lambda gives none before it asks. An event is matched with the end of its
own invocation, by the id: after one that was lost, work would be a call behind for ever. (Extensions API, 2020-01-01.)
"""

from __future__ import annotations

import http.client
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import orjson

from steward import log

NAME = "steward-after-response"
_REGISTER_S = 2.0
_PATH = "/2020-01-01/extension"
_HEAD_START_S = 0.002
"""Left to the runtime, which hands the answer over at the same moment: our work would take the interpreter from it."""
_PAUSE_S = 0.5
_REMEMBERED = 64
"""Invocations that ended and whose event has not come: more than one only after an event was lost."""


class NotRegistered(Exception):
    """Lambda did not take the extension: what comes after a response must be done before it."""


class _Ended(NamedTuple):
    """An invocation that is over."""

    request_id: str | None
    """None: of a host that does not say; any event's, then."""
    until: float | None


class Extension:
    """Registered already. `work` gets the moment (monotonic) until which it may take, or None: as it likes."""

    def __init__(self, api: str, identifier: str, work: Callable[[float | None], None]) -> None:
        """`api`: host and port of the Runtime API, as AWS_LAMBDA_RUNTIME_API has it."""
        self._api = api
        self._identifier = identifier
        self._work = work
        self._ended: deque[_Ended] = deque(maxlen=_REMEMBERED)
        self._told = threading.Condition()
        self._pause = threading.Event()
        self._thread = threading.Thread(target=self._run, name=NAME, daemon=True)

    def start(self) -> None:
        """Asks for the first event: with that the extension has started, and a call may come."""
        self._thread.start()

    def invocation_ended(self, until: float | None = None, request_id: str | None = None) -> None:
        """Once for every invocation, however it ended: without it the sandbox would run into its time limit."""
        with self._told:
            self._ended.append(_Ended(request_id, until))
            self._told.notify()

    def close(self) -> None:
        """It asks no more."""
        self._pause.set()

    def _run(self) -> None:
        connection = http.client.HTTPConnection(self._api)
        while not self._pause.is_set():
            try:
                connection.request(
                    "GET", f"{_PATH}/event/next", headers={"Lambda-Extension-Identifier": self._identifier}
                )
                answer = connection.getresponse()
                event = answer.read()
            except (OSError, http.client.HTTPException) as exc:
                if self._pause.is_set():
                    return
                log.error("extension_failed", exc)
                connection.close()
                self._pause.wait(_PAUSE_S)
                continue
            if answer.status != http.client.OK:
                log.say("extension_refused", logging.ERROR, status=answer.status)
                self._pause.wait(_PAUSE_S)
            elif (invocation := _invocation(event)) is not None:
                self._one(invocation.get("requestId"))

    def _one(self, request_id: object) -> None:
        with self._told:
            while (ended := self._taken(request_id)) is None:
                self._told.wait()
        self._pause.wait(_HEAD_START_S)
        try:
            self._work(ended.until)
        except Exception as exc:  # the thread must ask again, or every later call runs into its time limit
            log.error("after_response_failed", exc)

    def _taken(self, request_id: object) -> _Ended | None:
        for ended in self._ended:
            if request_id is None or ended.request_id in (None, request_id):
                self._ended.remove(ended)
                return ended
        return None


def register(api: str, name: str = NAME) -> str:
    """The extension's identifier. Raises NotRegistered."""
    connection = http.client.HTTPConnection(api, timeout=_REGISTER_S)
    try:
        headers = {"Lambda-Extension-Name": name, "Content-Type": "application/json"}
        connection.request("POST", f"{_PATH}/register", orjson.dumps({"events": ["INVOKE"]}), headers)
        answer = connection.getresponse()
        answer.read()
        identifier = answer.getheader("Lambda-Extension-Identifier")
    except (OSError, ValueError, http.client.HTTPException):
        raise NotRegistered from None
    finally:
        connection.close()
    if answer.status != http.client.OK or not identifier:
        raise NotRegistered
    return identifier


def _invocation(event: bytes) -> dict[str, object] | None:
    try:
        document = orjson.loads(event)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) and document.get("eventType") == "INVOKE" else None
