"""Canaries in every free place of a call and of its answer: the calls by hand, and those that were recorded.

What is structure stays as it is (`type`, `role`, `object`, the model that is asked for), so that the Steward reads on
to the tokens. It asserts nothing.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from tests.hostile.test_canaries import ANSWERS, bomb, canary, fields
from tests.servers.corpus import load
from tests.servers.examples import respond
from tests.servers.plain_http import Fields, Request
from tests.servers.replay import Recording, encode, recordings
from tests.servers.socket_provider import Answer, Received

STRUCTURE = frozenset({"type", "role", "object"})
ASKED = STRUCTURE | {"model"}
_FRAMING = frozenset({b"content-encoding", b"content-length", b"transfer-encoding", b"connection"})
_OURS = (canary("tag"), canary("alias"))
"""Where a caller's own words may leave: a test plants words of its own there."""
_MULTIPART = b"multipart/form-data; boundary=edge"


def planted(value: Any, kept: frozenset[str], place: str = "text") -> Any:
    """A document with a canary before every string, and in every object a member that nobody knows.

    A canary has a space behind it: no name of a model that an answer states is in the grammar of those.
    """
    if isinstance(value, str):
        return f"{canary(place).decode()} {value}"
    if isinstance(value, list):
        return [planted(each, kept, place) for each in value]
    if not isinstance(value, dict):
        return value
    told = {
        name: each if name in kept and isinstance(each, str) else planted(each, kept, _plain(name))
        for name, each in value.items()
    }
    return {**told, canary("member").decode(): canary("value").decode()}


def _plain(name: str) -> str:
    return re.sub("[^a-z_]", "", name.lower()) or "text"


def planted_octets(body: bytes, kept: frozenset[str]) -> bytes:
    """A body: a document, events of them, or whatever else it is."""
    if not body:
        return body
    try:
        return orjson.dumps(planted(orjson.loads(body), kept))
    except orjson.JSONDecodeError:
        pass
    if re.search(rb"^data:", body, re.MULTILINE):
        return b"".join(_planted_line(line, kept) for line in body.splitlines(keepends=True))
    return re.sub(rb'filename="[^"]*"', b'filename="%s.pdf"' % canary("file"), body) + canary("octets")


def _planted_line(line: bytes, kept: frozenset[str]) -> bytes:
    told = line.rstrip(b"\r\n")
    end = line[len(told) :]
    name, _, value = told.partition(b":")
    if name == b"data":
        try:
            return b"data: " + orjson.dumps(planted(orjson.loads(value), kept)) + end
        except orjson.JSONDecodeError:
            return line
    return line if name == b"event" else (told + canary("comment") if told else told) + end


def planted_answer(answer: Answer) -> Answer:
    """An answer with canaries in its body and its head, under the content coding that it had."""
    coding = next((value.decode() for name, value in answer.fields if name.lower() == b"content-encoding"), None)
    body = b"".join(answer.pieces)
    if coding == "gzip":
        body = gzip.decompress(body)
    told = encode(planted_octets(body, STRUCTURE), coding)
    return replace(answer, fields=_planted_head(answer.fields), pieces=[told])


def _planted_head(head: Fields) -> Fields:
    made = [(name, _planted_value(name.lower(), value)) for name, value in head]
    return [*made, (b"X-Note", canary("answer-header")), (canary("answer-name"), b"1")]


def _planted_value(name: bytes, value: bytes) -> bytes:
    if name in _FRAMING:
        return value
    return value + b"; note=" + canary("content-type") if name == b"content-type" else canary("answer-value")


def thinking(received: Received) -> Answer:
    """Of a model that thinks aloud, as a document or as events."""
    block = {"type": "thinking", "thinking": canary("thinking").decode(), "signature": canary("signature").decode()}
    usage = {"input_tokens": 5, "output_tokens": 7}
    message = {"type": "message", "role": "assistant", "model": "claude-sonnet-4-5", "content": [block], "usage": usage}
    if not received.json().get("stream"):
        return Answer(200, [(b"Content-Type", b"application/json")], [orjson.dumps(message)])
    delta = {"type": "thinking_delta", "thinking": canary("thought").decode()}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**message, "content": []}},
        {"type": "content_block_start", "index": 0, "content_block": {**block, "thinking": ""}},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 7}},
        {"type": "message_stop"},
    ]
    pieces = [b"event: %b\ndata: %b\n\n" % (each["type"].encode(), orjson.dumps(each)) for each in events]
    return Answer(200, [(b"Content-Type", b"text/event-stream")], pieces, "chunked")


PLAYS = {play.__name__: play for play in (*ANSWERS, thinking) if play is not bomb}
"""By the field `x-play`; the others repeat all they are told, in errors, in streams and in what is no JSON."""


@dataclass(frozen=True)
class Stand:
    """The provider: a play, a recording, else the example that suits."""

    known: Mapping[str, Recording]

    def respond(self, received: Received) -> Answer:
        """For `Provider`."""
        if (play := received.value("x-play")) in PLAYS:
            return PLAYS[play](received)
        if named := received.value("x-recording-id"):
            return planted_answer(self.known[named].answer())
        return planted_answer(respond(received))


# calls

_TEXT = "words"
_CHAT = {
    "model": "gpt-4o-mini",
    "user": _TEXT,
    "messages": [
        {"role": "system", "content": _TEXT},
        {"role": "user", "content": [{"type": "text", "text": _TEXT}, {"type": "file", "file": {"filename": _TEXT}}]},
        {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": _TEXT, "arguments": _TEXT}}]},
        {"role": "tool", "tool_call_id": _TEXT, "content": _TEXT},
    ],
}
_TOOLS = [{"type": "function", "function": {"name": _TEXT, "description": _TEXT, "parameters": {"q": {"title": "a"}}}}]
_FILE = {"type": "input_file", "filename": _TEXT, "file_data": _TEXT}
_RESPONSES = {
    "model": "gpt-4o-mini",
    "instructions": _TEXT,
    "metadata": {_TEXT: _TEXT},
    "input": [
        {
            "type": "message",
            "role": "user",
            "content": [_FILE],
        },
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": _TEXT}], "encrypted_content": _TEXT},
        {"type": "function_call_output", "call_id": _TEXT, "output": _TEXT},
    ],
}
_MESSAGES = {
    "model": "claude-haiku-4-5",
    "max_tokens": 10,
    "system": [{"type": "text", "text": _TEXT}],
    "metadata": {"user_id": _TEXT},
    "messages": [
        {"role": "user", "content": [{"type": "document", "title": _TEXT, "source": {"type": "text", "data": _TEXT}}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": _TEXT, "signature": _TEXT},
                {"type": "tool_use", "id": _TEXT, "name": _TEXT, "input": {_TEXT: _TEXT}},
            ],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": _TEXT, "content": _TEXT}]},
    ],
}
_GEMINI = {
    "systemInstruction": {"parts": [{"text": _TEXT}]},
    "contents": [
        {"role": "user", "parts": [{"text": _TEXT}, {"fileData": {"fileUri": _TEXT, "mimeType": _TEXT}}]},
        {"role": "model", "parts": [{"functionCall": {"name": _TEXT, "args": {_TEXT: _TEXT}}}]},
        {"role": "user", "parts": [{"functionResponse": {"name": _TEXT, "response": {_TEXT: _TEXT}}}]},
    ],
}
_EMBEDDINGS = {"model": "text-embedding-3-small", "input": [_TEXT]}
_UPLOAD = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nwords\r\n--edge--\r\n'


def head(own: Fields, *more: tuple[bytes, bytes], content_type: bytes | None = None) -> Fields:
    """Canaries in every field but tag and alias, which are `own`; keys in fields of ours that were mistyped."""
    kept = [each for each in fields() if each[1] not in _OURS and each[0] != b"Content-Type"]
    mistyped = [
        (b"X-Majordomo-Authorization", b"Bearer " + canary("mistyped-bearer")),
        (b"X-Majordomo-Keys", b"mdm_sk_" + canary("mistyped-key")),
        (b"X-Majordomo-OpenAI-Token", canary("mistyped-token")),
    ]
    credentials = [(b"x-api-key", b"sk-ant-" + canary("x-key")), (b"Cookie", b"a=" + canary("cookie"))]
    said = (content_type or b"application/json") + b"; note=" + canary("content-type")
    return [(b"Content-Type", said), *kept, *mistyped, *credentials, *own, *more]


def by_hand(own: Fields) -> Iterator[Request]:
    """Calls of every dialect, plain and streamed, with tools and without; paths, methods and models that nobody knows;
    and for each play of the provider's the calls that meet it.
    """
    note = b"?note=" + canary("query") + b"&" + canary("query-name") + b"=1"
    documents: list[tuple[bytes, dict[str, Any]]] = []
    for more in ({}, {"stream": True}, {"tools": _TOOLS}, {"tools": _TOOLS, "stream": True}):
        documents += [(b"/v1/chat/completions", {**_CHAT, **more}), (b"/v1/responses", {**_RESPONSES, **more})]
        documents.append((b"/v1/messages", {**_MESSAGES, **more}))
    documents.append((b"/v1/embeddings", _EMBEDDINGS))
    documents += [(b"/v1beta/models/gemini-2.5-flash:" + verb, _GEMINI) for verb in (b"generateContent",) * 2]
    documents.append((b"/v1beta/models/gemini-2.5-flash:streamGenerateContent", _GEMINI))
    documents.append((b"/v1/files/" + canary("segment") + b"/content", {}))
    for path, document in documents:
        yield Request(b"POST", path + note, head(own), orjson.dumps(planted(document, ASKED)))
    upload = planted_octets(_UPLOAD, ASKED)
    yield Request(b"POST", b"/v1/files" + note, head(own, content_type=_MULTIPART), upload)
    named = (b"X-Majordomo-Provider", b"openai")
    yield Request(b"POST", b"/v1/" + canary("unknown-path") + note, head(own, named), orjson.dumps(planted({}, ASKED)))
    unknown = {**_CHAT, "model": canary("asked-model").decode()}
    plays = [(play, {**_CHAT, "stream": True}) for play in PLAYS if play != "thinking"]
    for play, chat in [*plays, ("error_answer", unknown)]:
        played = head(own, (b"X-Play", play.encode()))
        yield Request(b"POST", b"/v1/chat/completions" + note, played, orjson.dumps(planted(chat, ASKED)))
    for said in (_MESSAGES, {**_MESSAGES, "stream": True}):
        played = head(own, (b"X-Play", b"thinking"))
        yield Request(b"POST", b"/v1/messages" + note, played, orjson.dumps(planted(said, ASKED)))


def refused() -> list[Request]:
    """Calls that the Steward answers itself: a path and a method that nobody knows."""
    path, note = b"/" + canary("refused-path"), b"?note=" + canary("query")
    return [Request(b"POST", path + note, head([])), Request(canary("METHOD").upper(), b"/v1/files" + note, head([]))]


def every_recording() -> dict[str, Recording]:
    """Of all providers, those too whose dialect is only near one of ours. None where the corpus is absent."""
    return recordings({each.provider for each in load()})


def as_recorded(recording: Recording, own: Fields) -> Request:
    """A recorded call with canaries in it."""
    more = [(b"X-Recording-Id", recording.id.encode())]
    if recording.provider in {"openai", "anthropic", "gemini"}:
        more.append((b"X-Majordomo-Provider", recording.provider.encode()))
    else:
        more.append((b"X-Majordomo-Provider", b"openai"))
    query = (b"&" if "?" in recording.target else b"?") + b"note=" + canary("query")
    told = head(own, *more, content_type=recording.content_type.encode() or None)
    body = planted_octets(recording.request_body, ASKED)
    return Request(recording.method.encode(), recording.target.encode() + query, told, body)
