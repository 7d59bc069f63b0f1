"""What the stand-in is asked and what it says, whatever the dialect: sentences, counts, tools.

It refuses to be clever: it never acts on what it is told, and a tool is called only when the caller forces one or
speaks of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

SENTENCE = "This is the Steward's stand-in, not a real provider."
JSON, SSE = "application/json", "text/event-stream; charset=utf-8"
WORD_LETTERS = 4
"""Words of a tool's name at least so long count as speaking of it."""

Json = dict[str, Any]
Given = Mapping[str, list[str]]
"""A parsed query."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer: each piece is written by itself, with a pause between."""

    status: int
    content_type: str
    pieces: list[bytes]


class Refusal(Exception):
    """The call is refused as a provider would refuse it: a status, OpenAI's word for it and our sentence."""

    def __init__(self, status: int, code: str, reason: str) -> None:
        super().__init__(code)
        self.status, self.code, self.message = status, code, f"{SENTENCE} {reason}"


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call: its name and sample arguments."""

    name: str
    arguments: Json

    @property
    def text(self) -> str:
        """The arguments as JSON."""
        return orjson.dumps(self.arguments).decode()


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as the dialects see it."""

    model: str
    body: Json
    ident: str
    """Random hex, for the answer's ids."""
    now: int
    """Unix seconds."""

    @property
    def input_tokens(self) -> int:
        """Over every text that was sent but the model's name."""
        return tokens({key: value for key, value in self.body.items() if key != "model"})

    @property
    def streamed(self) -> bool:
        """Whether the body asks for a stream (Gemini says it in the path)."""
        return self.body.get("stream") is True

    def pieces(self) -> list[str]:
        """What the stand-in says, cut as a stream would be."""
        text = f"{SENTENCE} It counted {self.input_tokens} tokens in what you sent."
        return re.findall(r"\S+\s*\S*\s*", text)

    def text(self) -> str:
        """The same, whole."""
        return "".join(self.pieces())


def tokens(value: object) -> int:
    """A believable count for every string in a JSON value: about four characters a token, at least 1."""
    waiting, letters = [value], 0
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            letters += len(item)
        elif isinstance(item, Mapping):
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
    return letters // 4 + 1


def plain(document: object, status: int = 200) -> Reply:
    """An answer of one JSON document."""
    return Reply(status, JSON, [orjson.dumps(document)])


def event(document: Json, end: bytes = b"\n\n") -> bytes:
    """One SSE event without a name."""
    return b"data: " + orjson.dumps(document) + end


def named_event(document: Json) -> bytes:
    """One SSE event named by its document's `type`."""
    return b"event: " + str(document["type"]).encode() + b"\n" + event(document)


def dicts(value: object) -> list[Json]:
    """The objects of a JSON list; empty for anything else."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def tool_call(tools: list[Json], forced: object, words: object) -> Call | None:
    """The tool to call: `{name, parameters}` each. `forced` is the caller's choice, `words` his last message.

    A forced name wins; any other choice that must call takes the first; else a tool whose name shares a word with
    what was said last.
    """
    named = {str(tool.get("name")): tool for tool in tools}
    spoken = orjson.dumps(words).decode().lower()
    if isinstance(forced, str) and forced in named:
        named = {forced: named[forced]}
    for name, tool in named.items():
        if forced in (name, "required", "any") or (forced != "none" and _speaks_of(name, spoken)):
            return Call(name, _sample_object(tool.get("parameters")))
    return None


def _speaks_of(name: str, spoken: str) -> bool:
    parts = re.split(r"[^a-z]+", name.lower())
    return any(len(part) >= WORD_LETTERS and part in spoken for part in parts)


def _sample_object(schema: object) -> Json:
    """An object with a value for each required property of a JSON schema."""
    if not isinstance(schema, dict):
        return {}
    properties = schema.get("properties")
    required = schema.get("required")
    if not isinstance(properties, dict) or not isinstance(required, list):
        return {}
    return {name: _sample(properties.get(name)) for name in required if isinstance(name, str)}


def _sample(schema: object) -> object:
    """A value that suits one property's schema, one level deep."""
    if not isinstance(schema, dict):
        return "stand-in"
    allowed = schema.get("enum")
    if isinstance(allowed, list) and allowed:
        return allowed[0]
    simple: Json = {"integer": 1, "number": 1.5, "boolean": True, "array": [], "object": {}}
    return simple.get(str(schema.get("type")).lower(), "stand-in")
