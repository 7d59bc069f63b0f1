"""The stand-in's door: an ASGI application that reads a call, finds its dialect and writes the answer, piece by piece.

It refuses to be silent about itself: every answer carries `x-steward-standin: true`.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote

import orjson

from steward.standin import anthropic, gemini, openai
from steward.standin.said import Asked, Given, Refusal, Reply

UNKNOWN_MODEL = "no-such-"
"""Models that begin so do not exist here: the way to see a provider's 404."""
MAX_BODY_BYTES = 64 * 1024 * 1024
MODEL_LISTS = ("/v1/models", "/models", "/v1beta/models")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Heard:
    """One request as it arrived: decoded path, parsed query, lower-case header names."""

    method: str
    path: str
    given: Given
    headers: Mapping[str, str]
    body: bytes


class Standin:
    """The ASGI application. `pause_s` is the silence between two pieces of a stream."""

    def __init__(self, pause_s: float = 0.03) -> None:
        self.pause_s = pause_s

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answers HTTP alone; of anything else it says so by raising, as ASGI lets an application."""
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])
        body = await _body(receive)
        if body is None:
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        path, query = unquote(scope["raw_path"].decode("latin-1")), scope["query_string"].decode("latin-1")
        await self._send(reply(Heard(scope["method"], path, parse_qs(query), headers, body)), send)

    async def _send(self, said: Reply, send: Send) -> None:
        headers = [(b"content-type", said.content_type.encode()), (b"x-steward-standin", b"true")]
        if len(said.pieces) == 1:
            headers.append((b"content-length", b"%d" % len(said.pieces[0])))
        await send({"type": "http.response.start", "status": said.status, "headers": headers})
        for index, piece in enumerate(said.pieces):
            if index:
                await asyncio.sleep(self.pause_s)
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _body(receive: Receive) -> bytes | None:
    """The whole body, b"" of one that is too large to be JSON of a call; None when the caller left."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        if len(body) <= MAX_BODY_BYTES:
            body += message.get("body", b"")
        if not message.get("more_body"):
            return bytes(body) if len(body) <= MAX_BODY_BYTES else b""


def reply(heard: Heard) -> Reply:
    """The answer to one request, in the dialect of its path. Never raises: what cannot be served is an error answer."""
    dialect = _dialect(heard)
    try:
        return _answer(dialect, heard)
    except Refusal as refusal:
        refused = {"openai": openai.refused, "anthropic": anthropic.refused, "gemini": gemini.refused}[dialect]
        return refused(refusal)


def _answer(dialect: str, heard: Heard) -> Reply:
    if not _has_credential(heard):
        raise Refusal(401, "invalid_api_key", "No credential came with this call; any value will do.")
    if heard.method == "GET" and heard.path.rstrip("/") in MODEL_LISTS:
        return {"openai": openai.models, "anthropic": anthropic.models, "gemini": gemini.models}[dialect]()
    if heard.method != "POST":
        raise Refusal(404, "not_found", "It knows no such path.")
    asked = _asked(heard)
    if asked.model.startswith(UNKNOWN_MODEL):
        raise Refusal(404, "model_not_found", f"The model {asked.model[:64]!r} does not exist.")
    operation = heard.path.removeprefix("/v1").strip("/")
    if dialect == "gemini":
        return gemini.answer(heard.path.rpartition(":")[2], "sse" in heard.given.get("alt", ()), asked)
    return anthropic.answer(operation, asked) if dialect == "anthropic" else openai.answer(operation, asked)


def _dialect(heard: Heard) -> str:
    by_path = heard.path.startswith("/v1beta/") or re.search(r"/models/[^/]+:", heard.path)
    if by_path or "x-goog-api-key" in heard.headers:
        return "gemini"
    if heard.path.startswith("/v1/messages") or "anthropic-version" in heard.headers:
        return "anthropic"
    return "gemini" if "key" in heard.given else "openai"


def _has_credential(heard: Heard) -> bool:
    headers = heard.headers
    bearer = headers.get("authorization", "").partition(" ")[2].strip()
    return bool(bearer or headers.get("x-api-key") or headers.get("x-goog-api-key") or heard.given.get("key"))


def _asked(heard: Heard) -> Asked:
    try:
        document = orjson.loads(heard.body)
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict):
        raise Refusal(400, "invalid_request", "The body is not a JSON object.")
    named = re.search(r"/models/([^/]+):", heard.path)
    model = named.group(1) if named else document.get("model")
    if not isinstance(model, str) or not model:
        raise Refusal(400, "invalid_request", "'model' is missing.")
    return Asked(model, document, secrets.token_hex(12), int(time.time()))
