"""Small answers of the three providers, written by hand: one per dialect and shape.

Refuses to decide anything from more than the path, the stream flag, the presence of tools and `x-example`, a field by
which a test asks for an error:

    x-example: 429            that status, in the dialect's own error shape, `retry-after: 7`, `x-should-retry: false`
    x-example: flaky          429 to a first attempt, with `retry-after-ms: 1`; the SDK's second attempt is answered
    x-example: broken         a stream that ends in the middle
"""

from __future__ import annotations

import gzip
from typing import Any

import orjson

from tests.servers.plain_http import Fields
from tests.servers.socket_provider import Answer, Received

TEXT = "Grüße aus Köln \N{WAVING HAND SIGN}"
PIECES = ("Grüße", " aus Köln ", "\N{WAVING HAND SIGN}")
ARGUMENTS = '{"city":"Köln"}'
ERROR_MESSAGE = "The provider says no: ä\N{PILE OF POO}"
JSON: Fields = [(b"Content-Type", b"application/json"), (b"x-request-id", b"req_example")]
SSE: Fields = [(b"Content-Type", b"text/event-stream; charset=utf-8"), (b"Cache-Control", b"no-cache")]


def respond(received: Received) -> Answer:
    """The example that suits a request."""
    wanted, first = received.value("x-example"), received.value("x-stainless-retry-count") in ("", "0")
    dialect = _dialect(received)
    if wanted == "flaky" and first:
        return _error(dialect, 429, [(b"retry-after-ms", b"1"), (b"x-should-retry", b"true")])
    if wanted.isdigit():
        return _error(dialect, int(wanted), [(b"Retry-After", b"7"), (b"x-should-retry", b"false")])
    asked = received.json()
    answer = {"openai": _openai, "anthropic": _anthropic, "gemini": _gemini}[dialect](received, asked)
    if wanted == "broken":
        pieces = list(answer.pieces)
        return Answer(answer.status, answer.fields, pieces[: len(pieces) // 2], "chunked", cut=True)
    return answer


def _dialect(received: Received) -> str:
    path = received.path
    if path.startswith("/v1/messages"):
        return "anthropic"
    return "gemini" if path.startswith("/v1beta/") or received.value("x-goog-api-key") else "openai"


def _plain(received: Received, document: Any) -> Answer:
    """One JSON document; gzip for whoever takes it, as the providers do."""
    body = orjson.dumps(document)
    if "gzip" not in received.value("accept-encoding"):
        return Answer(200, JSON, [body])
    return Answer(200, [*JSON, (b"Content-Encoding", b"gzip"), (b"Vary", b"Accept-Encoding")], [gzip.compress(body)])


def _stream(pieces: list[bytes]) -> Answer:
    return Answer(200, SSE, pieces, "chunked")


def _data(documents: list[Any], end: bytes = b"\n\n") -> list[bytes]:
    return [b"data: " + orjson.dumps(document) + end for document in documents]


def _named(documents: list[Any]) -> list[bytes]:
    return [b"event: %s\n" % each["type"].encode() + b"data: " + orjson.dumps(each) + b"\n\n" for each in documents]


def _error(dialect: str, status: int, fields: Fields) -> Answer:
    shapes: dict[str, Any] = {
        "openai": {"error": {"message": ERROR_MESSAGE, "type": "example_error", "param": None, "code": "example"}},
        "anthropic": {"type": "error", "error": {"type": "example_error", "message": ERROR_MESSAGE}},
        "gemini": {"error": {"code": status, "message": ERROR_MESSAGE, "status": "EXAMPLE"}},
    }
    return Answer(status, [*JSON, *fields], [orjson.dumps(shapes[dialect])])


# OpenAI

CHAT_USAGE = {
    "prompt_tokens": 19,
    "completion_tokens": 10,
    "total_tokens": 29,
    "prompt_tokens_details": {"cached_tokens": 8, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 4, "audio_tokens": 0},
}
RESPONSES_USAGE = {
    "input_tokens": 21,
    "input_tokens_details": {"cached_tokens": 5},
    "output_tokens": 9,
    "output_tokens_details": {"reasoning_tokens": 3},
    "total_tokens": 30,
}
TOOL_CALL = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": ARGUMENTS}}


def _openai(received: Received, asked: Any) -> Answer:
    if received.path.endswith("/embeddings"):
        data = [{"object": "embedding", "index": 0, "embedding": "AACAPwAAAMA="}]
        usage = {"prompt_tokens": 6, "total_tokens": 6}
        return _plain(received, {"object": "list", "data": data, "model": "text-embedding-3-small", "usage": usage})
    if received.path.endswith("/models"):
        model = {"id": "gpt-4o-mini", "object": "model", "created": 1_721_172_741, "owned_by": "system"}
        return _plain(received, {"object": "list", "data": [model]})
    if received.path.endswith("/responses"):
        return _responses(received, asked)
    if received.path.endswith("/chat/completions"):
        return _chat(received, asked)
    if received.path.endswith("/completions"):
        return _completions(received, asked)
    return _error("openai", 404, [])


def _chat(received: Received, asked: Any) -> Answer:
    head = {"id": "chatcmpl-example", "created": 1_763_712_000, "model": "gpt-4o-mini-2024-07-18"}
    tools = "tools" in asked
    if not asked.get("stream"):
        message: Any = {"role": "assistant", "content": None if tools else TEXT, "refusal": None}
        if tools:
            message["tool_calls"] = [TOOL_CALL]
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if tools else "stop"}
        return _plain(received, {**head, "object": "chat.completion", "choices": [choice], "usage": CHAT_USAGE})
    deltas: list[Any] = [{"role": "assistant", "content": "", "refusal": None}]
    if tools:
        opening = {**TOOL_CALL["function"], "arguments": ""}  # type: ignore[dict-item]
        deltas.append({"tool_calls": [{"index": 0, **TOOL_CALL, "function": opening}]})
        deltas += [{"tool_calls": [{"index": 0, "function": {"arguments": part}}]} for part in _halves(ARGUMENTS)]
    else:
        deltas += [{"content": piece} for piece in PIECES]
    head["object"] = "chat.completion.chunk"
    chunks: list[Any] = [
        {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}], "usage": None} for delta in deltas
    ]
    end = {"index": 0, "delta": {}, "finish_reason": "tool_calls" if tools else "stop"}
    chunks += [{**head, "choices": [end], "usage": None}, {**head, "choices": [], "usage": CHAT_USAGE}]
    return _stream([*_data(chunks), b": a comment between events\n\n", b"data: [DONE]\n\n"])


def _halves(text: str) -> tuple[str, str]:
    return text[: len(text) // 2], text[len(text) // 2 :]


def _completions(received: Received, asked: Any) -> Answer:
    head = {"id": "cmpl-example", "object": "text_completion", "created": 1_763_712_000}
    head["model"] = "gpt-3.5-turbo-instruct:20230824-v2"
    usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    if not asked.get("stream"):
        choice = {"text": TEXT, "index": 0, "logprobs": None, "finish_reason": "stop"}
        return _plain(received, {**head, "choices": [choice], "usage": usage})
    choices = [{"text": piece, "index": 0, "logprobs": None, "finish_reason": None} for piece in PIECES]
    chunks = [{**head, "choices": [choice]} for choice in choices]
    return _stream([*_data([*chunks, {**head, "choices": [], "usage": usage}]), b"data: [DONE]\n\n"])


def _responses(received: Received, asked: Any) -> Answer:
    item: Any = {"type": "message", "id": "msg_example", "status": "completed", "role": "assistant"}
    item["content"] = [{"type": "output_text", "text": TEXT, "annotations": [], "logprobs": []}]
    if "tools" in asked:
        item = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "get_weather"}
        item |= {"arguments": ARGUMENTS, "status": "completed"}
    done: Any = {"id": "resp_example", "object": "response", "created_at": 1_763_712_000, "status": "completed"}
    done |= {"model": "gpt-4o-mini-2024-07-18", "output": [item], "error": None, "incomplete_details": None}
    done |= {"instructions": None, "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "metadata": {}}
    done |= {"temperature": 1.0, "top_p": 1.0, "service_tier": "default", "usage": RESPONSES_USAGE}
    if not asked.get("stream"):
        return _plain(received, done)
    begun = {**done, "status": "in_progress", "output": [], "usage": None}
    where: Any = {"item_id": item["id"], "output_index": 0}
    events: list[Any] = [{"type": "response.created", "response": begun}]
    events.append({"type": "response.output_item.added", "output_index": 0, "item": {**item, "content": []}})
    if item["type"] == "function_call":
        kind = "response.function_call_arguments"
        events += [{"type": f"{kind}.delta", **where, "delta": part} for part in _halves(ARGUMENTS)]
        events.append({"type": f"{kind}.done", **where, "name": "get_weather", "arguments": ARGUMENTS})
    else:
        where["content_index"] = 0
        empty = {**item["content"][0], "text": ""}
        events.append({"type": "response.content_part.added", **where, "part": empty})
        delta = {"type": "response.output_text.delta", **where, "logprobs": []}
        events += [{**delta, "delta": piece} for piece in PIECES]
        events.append({"type": "response.output_text.done", **where, "text": TEXT, "logprobs": []})
    events.append({"type": "response.output_item.done", "output_index": 0, "item": item})
    events.append({"type": "response.completed", "response": done})
    return _stream(_named([{**each, "sequence_number": number} for number, each in enumerate(events)]))


# Anthropic

MESSAGES_USAGE = {
    "input_tokens": 11,
    "cache_creation_input_tokens": 7,
    "cache_read_input_tokens": 5,
    "cache_creation": {"ephemeral_5m_input_tokens": 7, "ephemeral_1h_input_tokens": 0},
    "output_tokens": 13,
    "service_tier": "standard",
}


def _anthropic(received: Received, asked: Any) -> Answer:
    if received.path.endswith("/count_tokens"):
        return _plain(received, {"input_tokens": 23})
    block: Any = {"type": "text", "text": TEXT}
    deltas: list[Any] = [{"type": "text_delta", "text": piece} for piece in PIECES]
    empty: Any = {**block, "text": ""}
    if "tools" in asked:
        block = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": orjson.loads(ARGUMENTS)}
        deltas = [{"type": "input_json_delta", "partial_json": part} for part in ("", *_halves(ARGUMENTS))]
        empty = {**block, "input": {}}
    end: Any = {"stop_reason": "tool_use" if "tools" in asked else "end_turn", "stop_sequence": None}
    message: Any = {"id": "msg_example", "type": "message", "role": "assistant", "model": "claude-haiku-4-5-20251001"}
    message |= {"content": [block], **end, "usage": MESSAGES_USAGE}
    if not asked.get("stream"):
        return _plain(received, message)
    begun = {**message, "content": [], "stop_reason": None, "usage": {**MESSAGES_USAGE, "output_tokens": 1}}
    events: list[Any] = [{"type": "message_start", "message": begun}]
    events.append({"type": "content_block_start", "index": 0, "content_block": empty})
    events.append({"type": "ping"})
    events += [{"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas]
    events.append({"type": "content_block_stop", "index": 0})
    events.append({"type": "message_delta", "delta": end, "usage": {"output_tokens": 13}})
    events.append({"type": "message_stop"})
    return _stream(_named(events))


# Gemini

GEMINI_USAGE = {"promptTokenCount": 17, "candidatesTokenCount": 6, "thoughtsTokenCount": 4, "totalTokenCount": 27}


def _gemini(received: Received, asked: Any) -> Answer:
    verb = received.path.rpartition(":")[2]
    if verb == "countTokens":
        return _plain(received, {"totalTokens": 17})
    if verb in ("embedContent", "batchEmbedContents"):
        values = {"values": [1.0, -2.0]}
        return _plain(received, {"embeddings": [values], "embedding": values})
    if verb not in ("generateContent", "streamGenerateContent"):
        return _plain(received, {"models": [{"name": "models/gemini-2.5-flash", "displayName": "Flash"}]})
    parts: list[Any] = [{"text": piece} for piece in PIECES]
    if "tools" in asked:
        parts = [{"functionCall": {"name": "get_weather", "args": orjson.loads(ARGUMENTS)}}]
    if verb == "generateContent":
        return _plain(received, _gemini_chunk(parts, last=True))
    chunks = [_gemini_chunk([part], last=part is parts[-1]) for part in parts]
    if "alt=sse" in received.target.decode("latin-1"):
        return _stream(_data(chunks, b"\r\n\r\n"))
    pieces = [b",\r\n" + orjson.dumps(chunk) for chunk in chunks]
    return Answer(200, JSON, [b"[" + pieces[0][3:], *pieces[1:], b"]"], "chunked")


def _gemini_chunk(parts: list[Any], last: bool) -> Any:
    candidate: Any = {"content": {"parts": parts, "role": "model"}, "index": 0}
    if last:
        candidate["finishReason"] = "STOP"
    chunk = {"candidates": [candidate], "modelVersion": "gemini-2.5-flash", "responseId": "example"}
    return {**chunk, "usageMetadata": GEMINI_USAGE if last else {"trafficType": "ON_DEMAND"}}
