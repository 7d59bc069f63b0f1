"""The recordings beside the project, as calls to make and answers to give, their bodies as they were on the wire.

It refuses to copy any: where `../shared` is absent there are none, and what needs them skips, saying so.
"""

from __future__ import annotations

import base64
import gzip
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import brotli
import orjson

from tests.servers.plain_http import Fields
from tests.servers.socket_provider import Answer, Received, Respond

CORPUS = Path(__file__).parents[3] / "shared" / "corpus" / "recordings.jsonl.gz"
DIALECTS = ("openai", "anthropic", "gemini")
EXTRA_FIELDS: Fields = [
    (b"Date", b"Sat, 21 Nov 2026 08:00:00 GMT"),
    (b"X-Request-Id", b"req_from_the_provider"),
    (b"Set-Cookie", b"a=1; Path=/"),
    (b"x-RateLimit-Remaining", b"41"),
    (b"Set-Cookie", b"b=2; Path=/"),
    (b"Server", b"stand-in"),
]
"""Beside what was recorded: repeats, odd spellings and fields that a careless relay would set itself."""


@dataclass(frozen=True)
class Recording:
    """One recorded exchange, its body as it was on the wire."""

    id: str
    provider: str
    endpoint: str
    method: str
    target: str
    """Raw path and query."""
    content_type: str
    request_body: bytes
    status: int
    fields: Fields
    body: bytes
    """Still under its content coding."""
    decoded: bytes
    chunked: bool

    def answer(self) -> Answer:
        """The answer as recorded, streams in pieces of one event."""
        framing: Literal["length", "chunked"] = "chunked" if self.chunked else "length"
        return Answer(self.status, [*self.fields, *EXTRA_FIELDS], _pieces(self), framing)


def recordings(providers: Iterable[str] = DIALECTS) -> dict[str, Recording]:
    """The recordings of some providers by id; empty where the corpus is absent."""
    if not CORPUS.exists():
        return {}
    wanted = set(providers)
    with gzip.open(CORPUS) as lines:
        rows = [orjson.loads(line) for line in lines]
    return {row["id"]: _recording(row) for row in rows if row["provider"] in wanted}


def _recording(row: Mapping[str, Any]) -> Recording:
    target = re.sub(r"^https?://[^/]+", "", row["url"])
    body = row["request_body"] or ""
    sent = base64.b64decode(body) if row["request_body_encoding"] == "base64" else body.encode()
    decoded = base64.b64decode(row["response_body_b64"])
    coding = row["response_headers"].get("content-encoding")
    fields = [(k.encode(), v.encode()) for k, v in row["response_headers"].items() if k != "transfer-encoding"]
    return Recording(
        id=row["id"],
        provider=row["provider"],
        endpoint=row["endpoint"],
        method=row["method"],
        target=target,
        content_type=row["request_content_type"] or "",
        request_body=sent,
        status=row["status"],
        fields=fields,
        body=encode(decoded, coding),
        decoded=decoded,
        chunked="transfer-encoding" in row["response_headers"] or row["framing"] != "json",
    )


def encode(body: bytes, coding: str | None) -> bytes:
    """A body under a content coding: gzip, br, or none."""
    if coding == "gzip":
        return gzip.compress(body, mtime=0)
    return bytes(brotli.compress(body)) if coding == "br" else body


def _pieces(recording: Recording) -> list[bytes]:
    """An event a piece; a compressed or other body in eight cuts."""
    if recording.body is recording.decoded and b"\n\n" in recording.body.replace(b"\r", b""):
        return [piece for piece in re.split(rb"(?<=\n\n)|(?<=\n\r\n)", recording.body) if piece]
    step = len(recording.body) // 8 + 1
    return [recording.body[at : at + step] for at in range(0, len(recording.body), step)]


def replay(known: Mapping[str, Recording], otherwise: Respond) -> Respond:
    """Answers with the recording that `x-recording-id` names; a call without that field is answered by `otherwise`."""

    def respond(received: Received) -> Answer:
        if not received.value("x-recording-id"):
            return otherwise(received)
        return known[received.value("x-recording-id")].answer()

    return respond
