"""What a numbered call asks and what it must get: every octet follows from the number and the kind alone.

So that what was relayed, kept and stored can be compared without a note of it. It knows no socket and no clock.
"""

from __future__ import annotations

import secrets
from enum import StrEnum

import orjson

CANARY = "zq" + secrets.token_hex(8)
"""In every prompt, completion and credential; rests in the store's objects and nowhere else."""
CREDENTIAL = f"sk-{CANARY}-credential"
EVENTS = 6
LARGE_CHARACTERS = 300_000
"""More than stays in memory while a call is relayed."""
HEAVY_CHARACTERS = 100_000
"""Many of these fill a disk; each stays in memory."""


class Kind(StrEnum):
    """How the provider answers, and what the caller does."""

    PLAIN = "plain"
    STREAM = "stream"
    HEAVY = "heavy"
    LARGE = "large"
    RESET = "reset"
    """The provider resets the connection in the middle of its answer."""
    DRIP = "drip"
    """The provider answers an octet at a time."""
    LEAVE = "leave"
    """The caller leaves after the first event."""
    OPEN = "open"
    """A stream of many events, seconds long."""


STREAMS = frozenset({Kind.STREAM, Kind.LEAVE, Kind.OPEN, Kind.RESET})
_SIZES = {Kind.HEAVY: HEAVY_CHARACTERS, Kind.LARGE: LARGE_CHARACTERS}
_OPEN_EVENTS = 100


def asked(number: int, kind: Kind) -> bytes:
    """The body of the request."""
    text = f"{CANARY} asks {number} " + "x" * _SIZES.get(kind, 800)
    document = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}]}
    return orjson.dumps({**document, "stream": True} if kind in STREAMS else document)


def answered(number: int, kind: Kind) -> list[bytes]:
    """The pieces of the answer: events of a stream, else one document."""
    usage = {"prompt_tokens": number % 1000 + 1, "completion_tokens": 3, "total_tokens": number % 1000 + 4}
    head = {"id": f"chatcmpl-{number}", "created": 1_763_712_000, "model": "gpt-4o-mini"}
    if kind not in STREAMS:
        text = f"{CANARY} answers {number} " + "y" * _SIZES.get(kind, 600)
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return [orjson.dumps({**head, "object": "chat.completion", "choices": [choice], "usage": usage})]
    head["object"] = "chat.completion.chunk"
    count = _OPEN_EVENTS if kind is Kind.OPEN else EVENTS
    deltas = [{"index": 0, "delta": {"content": f"{CANARY} {number}.{at} "}} for at in range(count)]
    documents = [{**head, "choices": [delta]} for delta in deltas] + [{**head, "choices": [], "usage": usage}]
    return [*(b"data: " + orjson.dumps(each) + b"\n\n" for each in documents), b"data: [DONE]\n\n"]
