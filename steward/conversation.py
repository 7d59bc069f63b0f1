"""What was said in a call, as turns of plain text: by role, with tool calls, streams put together. Pure.

It knows the shapes of the three dialects by their members, and shows nothing that it does not know: whoever wants every
octet has the body itself. It interprets no text: no Markdown, no link, no image.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from steward.body_reading import Reading, Side, clean
from steward.providers.reading import Json, listed, mapping
from steward.streamed_answer import assembled

MAX_TURNS: Final = 500


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of a turn."""

    kind: str
    """text, thinking, tool call, tool result, media, refusal or other."""
    text: str
    name: str = ""
    """Of the tool."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side said at once."""

    role: str
    parts: tuple[Part, ...]


def asked(reading: Reading) -> tuple[Turn, ...]:
    """The turns of the request; none where its shape is not known."""
    body = mapping(reading.request.body)
    turns: list[Turn] = []
    for name in ("system", "instructions", "systemInstruction", "system_instruction"):
        told = body.get(name)
        if told:
            turns += _turns([told if isinstance(told, dict) else {"content": told}], "system")
    for name in ("messages", "contents"):
        turns += _turns(listed(body.get(name)), "user")
    for name in ("input", "prompt", "contents"):
        given = body.get(name)
        if isinstance(given, str):
            turns.append(Turn("user", (Part("text", clean(given)),)))
        elif name != "contents":
            turns += _turns(listed(given), "user")
    return tuple(turn for turn in turns[:MAX_TURNS] if turn.parts)


def answered(reading: Reading) -> tuple[Turn, ...]:
    """The turns of the answer, of a stream as far as it was kept; none where its shape is not known."""
    return tuple(turn for turn in list(_answers(reading.response))[:MAX_TURNS] if turn.parts)


def _answers(side: Side) -> Iterator[Turn]:
    documents: list[object] = side.body if isinstance(side.body, list) else [side.body]
    if side.encoding == "text" and isinstance(side.body, str):
        documents = list(assembled(side.body))
    for document in documents:
        yield from _answer(mapping(document))


def _answer(body: Json) -> Iterator[Turn]:
    for choice in map(mapping, listed(body.get("choices"))):
        said = choice.get("message")
        yield from _turns([said if isinstance(said, dict) else {"content": choice.get("text")}], "assistant")
    for candidate in map(mapping, listed(body.get("candidates"))):
        yield from _turns([candidate.get("content")], "model")
    yield from _turns(listed(body.get("output")), "assistant")
    if isinstance(body.get("content"), list):
        yield from _turns([body], "assistant")
    error = body.get("error")
    if error:
        message = mapping(error).get("message")
        yield Turn("error", (Part("text", clean(message) if isinstance(message, str) else _json(error)),))


def _turns(items: Iterable[object], role: str) -> Iterator[Turn]:
    """Messages, and the items of the Responses API, which may stand without a role."""
    for item in items:
        if isinstance(item, str):
            yield Turn(role, (Part("text", clean(item)),))
        elif isinstance(item, dict):
            said = item.get("role")
            yield Turn(clean(said)[:40] if isinstance(said, str) else role, tuple(_parts(item)))


def _parts(message: Json) -> Iterator[Part]:
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(reasoning, str):
        yield Part("thinking", clean(reasoning))
    content = message.get("content") if "content" in message else message.get("parts")
    if message.get("role") == "tool" and isinstance(content, str):
        yield Part("tool result", clean(content), _name(message.get("tool_call_id")))
    elif isinstance(content, str):
        yield Part("text", clean(content))
    elif isinstance(content, list):
        yield from (part for each in content for part in _piece(each))
    elif isinstance(message.get("text"), str) or message.get("type") not in (None, "message"):
        yield from _piece(message)
    if isinstance(message.get("refusal"), str):
        yield Part("refusal", clean(str(message["refusal"])))
    for call in map(mapping, listed(message.get("tool_calls"))):
        function = mapping(call.get("function") or call.get("custom"))
        yield Part(
            "tool call", _argument(function.get("arguments", function.get("input"))), _name(function.get("name"))
        )


def _piece(piece: object) -> Iterator[Part]:
    """One piece of a message's content, by what it holds."""
    if isinstance(piece, str):
        yield Part("text", clean(piece))
        return
    said = mapping(piece)
    if isinstance(said.get("text"), str):
        yield Part("thinking" if said.get("thought") is True else "text", clean(str(said["text"])))
    elif isinstance(said.get("thinking"), str):
        yield Part("thinking", clean(str(said["thinking"])))
    elif said.get("type") == "reasoning":
        yield from (part for each in listed(said.get("summary")) for part in _piece(each))
    elif said.get("type") in ("tool_use", "server_tool_use", "function_call", "custom_tool_call"):
        yield Part("tool call", _argument(said.get("arguments", said.get("input"))), _name(said.get("name")))
    elif said.get("type") in ("tool_result", "function_call_output"):
        yield Part("tool result", _result(said.get("content", said.get("output"))), _name(_call_id(said)))
    elif isinstance(said.get("refusal"), str):
        yield Part("refusal", clean(str(said["refusal"])))
    elif call := mapping(said.get("functionCall", said.get("function_call"))):
        yield Part("tool call", _argument(call.get("args")), _name(call.get("name")))
    elif given := mapping(said.get("functionResponse", said.get("function_response"))):
        yield Part("tool result", _json(given.get("response")), _name(given.get("name")))
    elif said:
        yield Part("media" if _is_media(said) else "other", _json(_shortened(said)))


def _call_id(said: Json) -> object:
    return said.get("tool_use_id") or said.get("call_id")


def _result(value: object) -> str:
    if isinstance(value, str):
        return clean(value)
    texts = [mapping(each).get("text") for each in listed(value)]
    plain = [clean(each) for each in texts if isinstance(each, str)]
    return "\n".join(plain) if plain and len(plain) == len(texts) else _json(value)


def _argument(value: object) -> str:
    """A tool's arguments: JSON in a string is shown as JSON."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if len(value) < 1 << 20 else value
        except (ValueError, RecursionError):
            return clean(str(value))
    return clean(value) if isinstance(value, str) else _json(value)


def _is_media(said: Json) -> bool:
    kind = said.get("type")
    words = ("image", "audio", "file", "document", "video")
    return (isinstance(kind, str) and any(word in kind for word in words)) or "inlineData" in said or "fileData" in said


def _shortened(value: object, depth: int = 0) -> object:
    """The same with long strings cut: an image is a megabyte of base64 that nobody reads here."""
    if isinstance(value, str):
        return value if len(value) <= 200 else f"{value[:80]}... ({len(value)} characters)"
    if isinstance(value, dict) and depth < 8:
        return {name: _shortened(each, depth + 1) for name, each in value.items()}
    if isinstance(value, list) and depth < 8:
        return [_shortened(each, depth + 1) for each in value]
    return value


def _name(value: object) -> str:
    return clean(value)[:200] if isinstance(value, str) else ""


def _json(value: object) -> str:
    return clean(json.dumps(value, indent=2, ensure_ascii=False))
