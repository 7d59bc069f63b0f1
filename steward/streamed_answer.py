"""A streamed answer put together: the events of a stream in, the documents that it would have been out. Pure.

Of the three dialects' streams; what is in no event that it knows is left out, and what breaks off is kept as far as it
came.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from steward.providers.reading import Json, listed, mapping
from steward.wire import jsondoc
from steward.wire.sse import Event, SseParser

MAX_EVENTS: Final = 200_000
_MAX_INDEX: Final = 128
_TEXTS: Final = {"content": "content", "reasoning_content": "reasoning_content", "refusal": "refusal"}
_BLOCK_TEXTS: Final = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}


def assembled(stream: str) -> list[dict[str, object]]:
    """The answer, in the shape it has without streaming; empty when there is no event that tells one."""
    chat, blocks, other = _Chat(), _Blocks(), _Other()
    for event in _events(stream):
        said = mapping(jsondoc.parse(event.data))
        if "choices" in said:
            chat.take(said)
        elif isinstance(said.get("type"), str) and str(said["type"]).startswith(("content_block", "message")):
            blocks.take(said)
        else:
            other.take(said)
    return [*chat.documents(), *blocks.documents(), *other.documents()]


def _events(stream: str) -> Iterator[Event]:
    parser = SseParser()
    events = parser.feed(stream.encode("utf-8", "replace"))
    events += parser.close()
    return iter(events[:MAX_EVENTS])


def _index(value: object) -> int:
    return value if isinstance(value, int) and 0 <= value < _MAX_INDEX else 0


def _added(to: dict[str, list[str]], name: str, value: object) -> None:
    if isinstance(value, str) and value:
        to.setdefault(name, []).append(value)


def _joined(texts: dict[str, list[str]]) -> dict[str, object]:
    return {name: "".join(parts) for name, parts in texts.items()}


class _Chat:
    """Chat completions and completions: deltas by choice, tool calls by their index."""

    def __init__(self) -> None:
        self._choices: dict[int, dict[str, list[str]]] = {}
        self._calls: dict[tuple[int, int], dict[str, list[str]]] = {}

    def take(self, said: Json) -> None:
        for choice in map(mapping, listed(said.get("choices"))):
            number = _index(choice.get("index"))
            texts = self._choices.setdefault(number, {})
            delta = mapping(choice.get("delta"))
            _added(texts, "content", choice.get("text"))
            for name, kept in _TEXTS.items():
                _added(texts, kept, delta.get(name))
            for call in map(mapping, listed(delta.get("tool_calls"))):
                function = mapping(call.get("function"))
                parts = self._calls.setdefault((number, _index(call.get("index"))), {})
                for name in ("name", "arguments"):
                    _added(parts, name, function.get(name))

    def documents(self) -> list[dict[str, object]]:
        choices: list[object] = []
        for number, texts in sorted(self._choices.items()):
            calls = [{"function": _joined(parts)} for at, parts in sorted(self._calls.items()) if at[0] == number]
            choices.append({"message": {"role": "assistant", **_joined(texts), "tool_calls": calls}})
        return [{"choices": choices}] if choices else []


class _Blocks:
    """Anthropic's messages: content blocks by their index."""

    def __init__(self) -> None:
        self._started: dict[int, dict[str, object]] = {}
        self._texts: dict[int, dict[str, list[str]]] = {}

    def take(self, said: Json) -> None:
        number = _index(said.get("index"))
        if said.get("type") == "content_block_start":
            self._started[number] = dict(mapping(said.get("content_block")))
        elif said.get("type") == "content_block_delta":
            delta = mapping(said.get("delta"))
            kind = delta.get("type")
            if isinstance(kind, str) and (name := _BLOCK_TEXTS.get(kind)):
                _added(self._texts.setdefault(number, {}), name, delta.get(name))

    def documents(self) -> list[dict[str, object]]:
        content: list[object] = []
        for number in sorted({*self._started, *self._texts}):
            texts = _joined(self._texts.get(number, {}))
            if "partial_json" in texts:
                texts["input"] = texts.pop("partial_json")
            content.append({**self._started.get(number, {}), **texts})
        return [{"role": "assistant", "content": content}] if content else []


class _Other:
    """The Responses API, which ends with the whole answer, and Gemini, whose every event is an answer of its own."""

    def __init__(self) -> None:
        self._whole: dict[str, object] | None = None
        self._texts: list[str] = []
        self._parts: list[object] = []
        self._errors: list[dict[str, object]] = []

    def take(self, said: Json) -> None:
        response = said.get("response")
        if said.get("type") in ("response.completed", "response.incomplete", "response.failed"):
            self._whole = dict(mapping(response))
        elif said.get("type") == "response.output_text.delta" and isinstance(said.get("delta"), str):
            self._texts.append(str(said["delta"]))
        for candidate in map(mapping, listed(said.get("candidates"))):
            self._gemini(listed(mapping(candidate.get("content")).get("parts")))
        if said.get("error"):
            self._errors.append({"error": said["error"]})

    def _gemini(self, parts: list[object]) -> None:
        """Pieces of text that follow one another are one."""
        for part in parts:
            last = self._parts[-1] if self._parts else None
            said = mapping(part)
            text = said.get("text")
            open_now = isinstance(last, dict) and isinstance(last.get("text"), list)
            if isinstance(text, str) and isinstance(last, dict) and open_now and _same_kind(last, said):
                last["text"].append(text)
                continue
            self._parts.append({**said, "text": [text]} if isinstance(text, str) else part)

    def documents(self) -> list[dict[str, object]]:
        found: list[dict[str, object]] = []
        if self._whole is not None:
            found.append(self._whole)
        elif self._texts:
            found.append({"output": [{"role": "assistant", "content": "".join(self._texts)}]})
        if self._parts:
            parts = [_whole(part) for part in self._parts]
            found.append({"candidates": [{"content": {"role": "model", "parts": parts}}]})
        return [*found, *self._errors]


def _same_kind(one: Json, other: Json) -> bool:
    return one.get("thought") == other.get("thought")


def _whole(part: object) -> object:
    if isinstance(part, dict) and isinstance(part.get("text"), list):
        return {**part, "text": "".join(part["text"])}
    return part
