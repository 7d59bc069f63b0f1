"""The words of `make demo`: sample calls, curl lines, and how a row and a body object look on a terminal.

Pure text: it connects to nothing and prints nothing. What a provider said is shown without control characters.
"""

from __future__ import annotations

import json
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

WIDTH = 100
MAX_ENTRY_LINES = 7
LABEL_WIDTH = 36
HELLO = "Say hello to the Steward."

Row = Mapping[str, Any]
"""Columns of `llm_requests` by name."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A small call in one dialect, plain and streamed."""

    provider: str
    title: str
    key_variable: str
    """The environment variable in which the provider's key is usually kept."""
    credential: str
    """The header's name and what stands before the key, as `Authorization: Bearer `."""
    path: str
    streamed_path: str
    body: Mapping[str, Any]
    streamed_body: Mapping[str, Any]
    answer: Sequence[str | int]
    """Where the text stands in the answer."""
    headers: Mapping[str, str]

    def text(self, document: Any) -> str:
        """The text of an answer; empty where there is none."""
        for step in self.answer:
            try:
                document = document[step]
            except (KeyError, IndexError, TypeError):
                return ""
        return document if isinstance(document, str) else ""


def _messages(**more: Any) -> dict[str, Any]:
    return {**more, "messages": [{"role": "user", "content": HELLO}]}


_OPENAI = _messages(model="gpt-4o-mini")
_ANTHROPIC = _messages(model="claude-haiku-4-5", max_tokens=100)
_GEMINI = {"contents": [{"parts": [{"text": HELLO}]}]}

SAMPLES: tuple[Sample, ...] = (
    Sample(
        provider="openai",
        title="OpenAI",
        key_variable="OPENAI_API_KEY",
        credential="Authorization: Bearer ",
        path="/v1/chat/completions",
        streamed_path="/v1/chat/completions",
        body=_OPENAI,
        streamed_body={**_OPENAI, "stream": True, "stream_options": {"include_usage": True}},
        answer=("choices", 0, "message", "content"),
        headers={},
    ),
    Sample(
        provider="anthropic",
        title="Anthropic",
        key_variable="ANTHROPIC_API_KEY",
        credential="x-api-key: ",
        path="/v1/messages",
        streamed_path="/v1/messages",
        body=_ANTHROPIC,
        streamed_body={**_ANTHROPIC, "stream": True},
        answer=("content", 0, "text"),
        headers={"anthropic-version": "2023-06-01"},
    ),
    Sample(
        provider="gemini",
        title="Gemini",
        key_variable="GEMINI_API_KEY",
        credential="x-goog-api-key: ",
        path="/v1beta/models/gemini-2.5-flash:generateContent",
        streamed_path="/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse",
        body=_GEMINI,
        streamed_body=_GEMINI,
        answer=("candidates", 0, "content", "parts", 0, "text"),
        headers={},
    ),
)


def curl(sample: Sample, url: str, key: str, real: bool, streamed: bool = False) -> str:
    """One line to paste into a shell. A real provider's key stays in its variable; a stand-in takes any word."""
    credential = f'"{sample.credential}${sample.key_variable}"' if real else f"'{sample.credential}anything'"
    path, body = (sample.streamed_path, sample.streamed_body) if streamed else (sample.path, sample.body)
    headers = [f"'X-Majordomo-Key: {key}'", credential, "'Content-Type: application/json'"]
    headers += [f"'{name}: {value}'" for name, value in sample.headers.items()]
    written = " ".join(f"-H {header}" for header in headers)
    data = shlex.quote(json.dumps(body))
    return f"curl {'-sN' if streamed else '-sS'} {shlex.quote(url + path)} {written} -d {data}"


def sdks(url: str) -> str:
    """How the official SDKs are pointed at it."""
    header = '{"X-Majordomo-Key": KEY}'
    return pairs(
        [
            ("openai", f'OpenAI(base_url="{url}/v1", default_headers={header})'),
            ("anthropic", f'Anthropic(base_url="{url}", default_headers={header})'),
            ("google-genai", f'Client(http_options=HttpOptions(base_url="{url}", headers={header}))'),
        ]
    )


def step(label: str) -> str:
    """The beginning of a line that says how a step went, once `done` ends it."""
    return f"  {label} {'.' * max(3, LABEL_WIDTH - len(label))} "


def done(word: str, seconds: float, note: str = "") -> str:
    """The end of that line."""
    return f"{word:<7} {seconds:5.1f} s   {note}".rstrip() + "\n"


def pairs(facts: Sequence[tuple[str, str]]) -> str:
    """Names and values in two columns."""
    width = max(len(name) for name, _ in facts)
    return "".join(f"  {name:<{width}}   {value}\n" for name, value in facts)


def row(facts: Row) -> str:
    """A row as the story shows it."""
    cost = money(facts["total_cost"])
    if facts["price_source"]:
        cost += f"   ({facts['price_source']})"
    return pairs(
        [
            ("id", str(facts["id"])),
            ("provider", facts["provider"]),
            ("model", facts["model"] or "unknown"),
            ("status", str(facts["status_code"])),
            ("outcome", facts["outcome"]),
            ("tokens", f"{count(facts['input_tokens'])} in, {count(facts['output_tokens'])} out"),
            ("usage_source", facts["usage_source"]),
            ("cost", cost),
            ("latency", _latency(facts)),
            ("body_state", facts["body_state"]),
        ]
    )


def _latency(facts: Row) -> str:
    first = "" if facts["first_byte_us"] is None else f", first byte after {facts['first_byte_us'] / 1000:.1f} ms"
    return f"{facts['response_time_ms']} ms{first}"


def line(facts: Row) -> str:
    """A row in one line."""
    tokens = f"{count(facts['input_tokens'])} in {count(facts['output_tokens'])} out"
    model = (facts["model"] or "unknown model")[:32]
    ended = f"{facts['status_code'] or '-'} {facts['outcome']}"
    where = f"body {facts['body_state']}"
    latency = f"{facts['response_time_ms']} ms"
    said = (
        f"{facts['requested_at']:%H:%M:%S}",
        f"{model:<32}",
        f"{ended:<18}",
        f"{tokens:<16}",
        f"{money(facts['total_cost']):<13}",
    )
    return "  " + "  ".join((*said, f"{latency:<9}", where))


def count(tokens: int | None) -> str:
    """A number of tokens; unknown is not 0."""
    return "unknown" if tokens is None else str(tokens)


def money(usd: Decimal | None) -> str:
    """Dollars without exponent; unknown is not 0."""
    return "unknown" if usd is None else f"${usd.normalize():f}"


def excerpt(document: Mapping[str, Any]) -> str:
    """A JSON object: its parts and theirs a line each, what lies deeper compact and cut after a few lines."""
    lines = ["{", *_entries(2, document), "}"]
    return "".join(f"  {visible(line, WIDTH - 2)}\n" for line in lines)


def _entries(indent: int, document: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for name, value in document.items():
        if isinstance(value, Mapping) and value and indent == 2:
            lines += [f"  {json.dumps(name)}: {{", *_entries(4, value), "  }"]
        else:
            lines += _entry(indent, f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}")
        lines[-1] += ","
    return [*lines[:-1], lines[-1].removesuffix(",")]


def _entry(indent: int, written: str) -> list[str]:
    """One name and its value, over at most so many lines."""
    cuts = textwrap.wrap(written, WIDTH - indent - 6, break_on_hyphens=False)
    if len(cuts) > MAX_ENTRY_LINES:
        cuts = [*cuts[: MAX_ENTRY_LINES - 1], "..."]
    return [" " * (indent + (2 if number else 0)) + cut for number, cut in enumerate(cuts)]


def visible(text: str, width: int) -> str:
    """Text that a terminal takes for text, cut to a width."""
    clean = "".join(letter if letter.isprintable() else " " for letter in text)
    return clean if len(clean) <= width else clean[: width - 3] + "..."


def dashboard(url: str, email: str, password: str) -> str:
    """Where to look, and with what."""
    return f"\nThe dashboard:\n  {url}\n  e-mail    {email}\n  password  {password}\n"


def viewer(url: str, token: str) -> str:
    """Where bodies are opened: inside, never by the dashboard."""
    return f"\nThe viewer, where `open body` leads; it takes this token:\n  {url}\n  {token}\n"
