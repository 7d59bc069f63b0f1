"""A request on its way through the streaming runtime and its response, piece by piece, as ASGI sees them.

It writes what Lambda's fronts read before a streamed body. It knows no deadline and no signal, and says that a response
is whole only when the application did.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any, Final

import orjson

from handlers.aws_events import Request
from handlers.runtime_api import Fault, ResponseRefused, RuntimeApi, StreamedResponse
from steward import log
from steward.errors import StewardError
from steward.exchange import Headers
from steward.providers import dialect_hint, facts
from steward.proxy import Message

_PRELUDE_ENDS: Final = bytes(8)
_NO_BODY: Final = frozenset({204, 304})
_OF_ONE_CONNECTION: Final = frozenset({b"connection", b"transfer-encoding", b"keep-alive"})


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, and how its front takes an answer."""

    request: Request
    multi_value: bool
    """Whether it takes repeated fields (`multiValueHeaders`) rather than cookies apart."""


class Responding:
    """One request and its response, as ASGI sees them."""

    def __init__(self, api: RuntimeApi, invocation_id: str, asked: Asked) -> None:
        self._api = api
        self._id = invocation_id
        self._asked = asked
        self._stream: StreamedResponse | None = None
        self._watch: asyncio.Task[None] | None = None
        self._gone = asyncio.Event()
        self._body_told = False
        self._started = False
        self._complete = False
        self._has_body = True
        self._held = b""

    async def receive(self) -> Message:
        """The whole body; then, perhaps, that nobody takes the response any more. Raises CallerFault for the body."""
        if not self._body_told:
            self._body_told = True
            if self._asked.request.body_fault is not None:
                raise self._asked.request.body_fault
            return {"type": "http.request", "body": self._asked.request.body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """The response's head, or a piece of its body. Silent once all is said, or nobody takes it."""
        if self._complete or self._gone.is_set():
            return
        if message["type"] == "http.response.start":
            self._started = True
            status = message["status"]
            self._has_body = self._asked.request.method != "HEAD" and status not in _NO_BODY
            self._held = prelude(status, message["headers"], self._asked.multi_value)
            if not message.get("steward.hold"):
                await self._write(b"")
            return
        body = message.get("body", b"") if self._has_body else b""
        self._complete = not message.get("more_body", False)
        if body or self._held:
            await self._write(body)

    async def refuse(self, error: StewardError) -> None:
        """Our own answer in place of the application's, unless one has begun."""
        if self._started:
            return
        dialect = dialect_hint(self._asked.request.raw_path, self._asked.request.headers)
        document = facts(dialect).error_document(error.status, error.code, error.message)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(document)),
            (b"x-majordomo-error", error.code.encode("ascii")),
        ]
        await self.send(
            {"type": "http.response.start", "status": error.status, "headers": headers, "steward.hold": True}
        )
        await self.send({"type": "http.response.body", "body": document, "more_body": False})

    async def finish(self, fault: Fault) -> None:
        """Ends the response: well when it is whole, else by `fault`. Raises RuntimeApiLost."""
        try:
            if self._stream is not None and self._complete:
                await self._stream.end()
            elif self._stream is not None:
                await self._stream.break_off(fault)
            else:
                await self._api.fail(self._id, fault)
        except ResponseRefused:
            log.say("response_refused", logging.WARNING)

    def close(self) -> None:
        """Hangs up."""
        if self._watch is not None:
            self._watch.cancel()
        if self._stream is not None:
            self._stream.close()

    async def _write(self, body: bytes) -> None:
        if self._stream is None:
            self._stream = await self._api.respond(self._id)
            self._watch = asyncio.create_task(self._until_refused(self._stream))
        held, self._held = self._held, b""
        try:
            await self._stream.write(held + body if held else body)
        except ResponseRefused:
            self._gone.set()

    async def _until_refused(self, stream: StreamedResponse) -> None:
        await stream.refused()
        self._gone.set()


def prelude(status: int, headers: Headers, multi_value: bool) -> bytes:
    """Status and fields as Lambda's fronts read them before a streamed body. `multi_value`: repeats stay apart."""
    fields: dict[str, list[str]] = {}
    for name, value in headers:
        if name not in _OF_ONE_CONNECTION:
            fields.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
    said: dict[str, Any] = {"statusCode": status}
    if multi_value:
        said["headers"] = {name: values[0] for name, values in fields.items() if len(values) == 1}
        if repeated := {name: values for name, values in fields.items() if len(values) > 1}:
            said["multiValueHeaders"] = repeated
    else:
        cookies = fields.pop("set-cookie", [])
        said["headers"] = {name: ", ".join(values) for name, values in fields.items()}
        if cookies:
            said["cookies"] = cookies
    return orjson.dumps(said) + _PRELUDE_ENDS
