"""A plausible day of calls for the demo: what four small products would have sent in the last 24 hours.

Each is a whole exchange, with bodies in its provider's own form, so that it is metered, priced, stored and exported
like one that was relayed. The same seed and hour give the same day. Nothing in it was ever said to a provider.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Any, Final

from steward.detect import Detector
from steward.exchange import Body, Caller, Exchange, Outcome, Timings, uuid7

Json = dict[str, Any]

DAY: Final = timedelta(hours=24)
SUBJECTS: Final = ("an invoice", "a refund", "a lost parcel", "a release note", "a contract", "a flaky test", "a query")
TENANTS: Final = ("acme", "globex", "initech", "umbrella", "hooli", "stark")
_ERRORS: Final = {
    429: ("rate_limit_error", "rate_limit_exceeded"),
    529: ("overloaded_error", "overloaded"),
    400: ("invalid_request_error", "context_length_exceeded"),
    500: ("api_error", "server_error"),
}


@dataclass(frozen=True, slots=True)
class Product:
    """One that calls: what it asks for, how much of it, how slowly it is answered, how often it fails."""

    name: str
    team: str
    form: str
    path: str
    model: str
    share: float
    """Of the day's calls."""
    tokens: tuple[int, int]
    """In and out, in the middle."""
    latency_ms: float
    """In the middle."""
    failing: float
    """Share of calls that end in an error."""
    night: float
    """How much of its daytime traffic goes on at night."""


PRODUCTS: Final = (
    Product(
        "support-assistant",
        "support",
        "messages",
        "/v1/messages",
        "claude-sonnet-4-5",
        0.3,
        (2600, 420),
        5200,
        0.02,
        0.2,
    ),
    Product("search", "discovery", "chat", "/v1/chat/completions", "gpt-4o-mini", 0.34, (900, 60), 900, 0.01, 0.35),
    Product(
        "search-index",
        "discovery",
        "embeddings",
        "/v1/embeddings",
        "text-embedding-3-small",
        0.14,
        (700, 0),
        180,
        0,
        1.0,
    ),
    Product("code-review", "platform", "chat", "/v1/chat/completions", "gpt-4.1", 0.08, (9000, 900), 11000, 0.03, 0.05),
    Product(
        "summaries",
        "content",
        "generate",
        "/v1beta/models/gemini-2.5-flash:generateContent",
        "gemini-2.5-flash",
        0.14,
        (5200, 350),
        2600,
        0.015,
        0.8,
    ),
)


def day(now: datetime, callers: Mapping[str, Caller], count: int, seed: int = 7) -> Iterator[Exchange]:
    """`count` calls of the 24 hours before `now`, oldest first. `callers`: by product; who has none sends nothing."""
    chance = Random(seed)  # noqa: S311 - a story, no secret
    products = [each for each in PRODUCTS if each.name in callers]
    planned = [(_moment(now, each, chance), each) for each in chance.choices(products, _shares(products), k=count)]
    for at, product in sorted(planned, key=lambda one: one[0]):
        yield _call(at, product, callers[product.name], chance)


def _shares(products: Sequence[Product]) -> list[float]:
    return [each.share for each in products]


def _moment(now: datetime, product: Product, chance: Random) -> datetime:
    """Some time of the day, more likely when people work: a wave that is highest at 14 h UTC."""
    while True:
        at = now - DAY * chance.random()
        wave = (1 + math.cos((at.hour + at.minute / 60 - 14) / 24 * 2 * math.pi)) / 2
        if chance.random() < product.night + (1 - product.night) * wave:
            return at


def _call(at: datetime, product: Product, caller: Caller, chance: Random) -> Exchange:
    failed = chance.random() < product.failing
    status = chance.choice(tuple(_ERRORS)) if failed else 200
    left = not failed and chance.random() < 0.006
    took_us = int(product.latency_ms * 1000 * chance.lognormvariate(0, 0.45) * (0.12 if failed else 1))
    said_in = max(1, int(product.tokens[0] * chance.lognormvariate(0, 0.5)))
    said_out = int(product.tokens[1] * chance.lognormvariate(0, 0.6))
    subject = chance.choice(SUBJECTS)
    asked, answered = _bodies(product, subject, said_in, said_out)
    if failed:
        answered = _refusal(status)
    if left:
        answered = b""
    return Exchange(
        id=uuid7(int(at.timestamp() * 1000), chance.randbytes(10)),
        caller=caller,
        route=Detector().route(b"POST", product.path.encode(), b"", []),
        requested_at=at,
        method="POST",
        outcome=Outcome.CLIENT_CANCELLED if left else Outcome.COMPLETE,
        status=None if left else status,
        timings=_timings(took_us, chance),
        request=Body(asked, None, len(asked)),
        response=Body(answered, None, len(answered)),
        request_headers=[(b"content-type", b"application/json")],
        response_headers=[] if left else [(b"content-type", b"application/json")],
        tags={
            "Feature": product.name,
            "Team": product.team,
            "Environment": "staging" if chance.random() < 0.07 else "production",
            "Tenant": chance.choice(TENANTS),
        },
    )


def _timings(took_us: int, chance: Random) -> Timings:
    sent = chance.randint(180, 900)
    head = sent + int(took_us * chance.uniform(0.25, 0.6))
    return Timings(sent, head, head + chance.randint(50, 400), sent + took_us)


def _bodies(product: Product, subject: str, said_in: int, said_out: int) -> tuple[bytes, bytes]:
    """What was asked and what was answered, in the provider's form, with its usage."""
    question = f"Write two sentences about {subject}."
    answer = f"Here is what we know about {subject}: it was received, and somebody looks at it now."
    asked, said = _FORMS[product.form](product.model, question, answer, (said_in, said_out))
    return json.dumps(asked).encode(), json.dumps(said).encode()


def _messages(model: str, question: str, answer: str, tokens: tuple[int, int]) -> tuple[Json, Json]:
    cached = tokens[0] // 2
    usage = {
        "input_tokens": tokens[0] - cached,
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": tokens[1],
    }
    asked = {"model": model, "max_tokens": 1024, "messages": [{"role": "user", "content": question}]}
    content = [{"type": "text", "text": answer}]
    return asked, {"type": "message", "role": "assistant", "model": model, "content": content, "usage": usage}


def _generated(model: str, question: str, answer: str, tokens: tuple[int, int]) -> tuple[Json, Json]:
    usage = {"promptTokenCount": tokens[0], "candidatesTokenCount": tokens[1], "totalTokenCount": sum(tokens)}
    content = {"role": "model", "parts": [{"text": answer}]}
    candidates = [{"content": content, "finishReason": "STOP"}]
    asked = {"contents": [{"role": "user", "parts": [{"text": question}]}]}
    return asked, {"candidates": candidates, "usageMetadata": usage, "modelVersion": model}


def _chat(model: str, question: str, answer: str, tokens: tuple[int, int]) -> tuple[Json, Json]:
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
    choices = [{"index": 0, "message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}]
    asked = {"model": model, "messages": [{"role": "user", "content": question}]}
    return asked, {"object": "chat.completion", "model": model, "choices": choices, "usage": usage}


def _embedded(model: str, question: str, answer: str, tokens: tuple[int, int]) -> tuple[Json, Json]:
    usage = {"prompt_tokens": tokens[0], "total_tokens": tokens[0]}
    data = [{"object": "embedding", "index": 0, "embedding": [0.5, -0.5]}]
    return {"model": model, "input": question}, {"object": "list", "model": model, "data": data, "usage": usage}


_FORMS: Final = {"messages": _messages, "generate": _generated, "chat": _chat, "embeddings": _embedded}


def _refusal(status: int) -> bytes:
    kind, code = _ERRORS[status]
    error = {"type": kind, "code": code, "message": f"The demo's day says {status}."}
    return json.dumps({"type": "error", "error": error}).encode()
