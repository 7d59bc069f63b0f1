"""The stand-in's OpenAI dialect: chat, completions, responses, embeddings, models, errors.

It refuses options that change nothing it could show: they are read past, as an unknown field would be.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Callable

import orjson

from steward.standin.said import SSE, Asked, Call, Json, Refusal, Reply, dicts, event, named_event, plain, tokens
from steward.standin.said import tool_call as choose

MODELS = ("gpt-4o-mini", "gpt-4o", "text-embedding-3-small")
DIMENSIONS, MAX_DIMENSIONS = 256, 3072
DONE = b"data: [DONE]\n\n"


def answer(operation: str, asked: Asked) -> Reply:
    """The answer to a POST below `/v1/`. Raises Refusal for a path it does not know."""
    known: dict[str, Callable[[Asked], Reply]] = {
        "chat/completions": _chat,
        "completions": _completions,
        "responses": _responses,
        "embeddings": _embeddings,
    }
    if operation not in known:
        raise Refusal(404, "not_found", "It knows no such path.")
    return known[operation](asked)


def models() -> Reply:
    """The list of models."""
    data = [{"id": name, "object": "model", "created": 1_735_689_600, "owned_by": "stand-in"} for name in MODELS]
    return plain({"object": "list", "data": data})


def refused(refusal: Refusal) -> Reply:
    """An error as OpenAI spells it."""
    error = {"message": refusal.message, "type": "invalid_request_error", "param": None, "code": refusal.code}
    return plain({"error": error}, refusal.status)


def _chat(asked: Asked) -> Reply:
    tools = [tool.get("function") for tool in dicts(asked.body.get("tools"))]
    call = _call(dicts(tools), asked, "messages", "content")
    message: Json = {"role": "assistant", "content": None if call else asked.text(), "refusal": None}
    if call:
        function = {"name": call.name, "arguments": call.text}
        message["tool_calls"] = [{"id": f"call_{asked.ident}", "type": "function", "function": function}]
    usage = _usage(asked, tokens(call.text) + 8 if call else tokens(asked.text()))
    head: Json = {"id": f"chatcmpl-{asked.ident}", "created": asked.now, "model": asked.model}
    head["service_tier"] = "default"
    reason = "tool_calls" if call else "stop"
    if not asked.streamed:
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        return plain({**head, "object": "chat.completion", "choices": [choice], "usage": usage})
    deltas: list[Json] = [{"role": "assistant", "content": None if call else "", "refusal": None}]
    deltas += [{"tool_calls": [{"index": 0, **made}]} for made in message.get("tool_calls", [])]
    deltas += [] if call else [{"content": piece} for piece in asked.pieces()]
    choices: list[Json] = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "finish_reason": reason})
    return _stream({**head, "object": "chat.completion.chunk"}, choices, usage, asked)


def _call(tools: list[Json], asked: Asked, field: str, text: str) -> Call | None:
    """The tool to call, told by the choice and the last thing said; none when that is a tool's own answer."""
    said = dicts(asked.body.get(field))
    last = said[-1] if said else {}
    if last.get("role") == "tool" or last.get("type") == "function_call_output":
        return None
    choice = asked.body.get("tool_choice")
    if isinstance(choice, dict):
        function = choice.get("function")
        choice = function.get("name") if isinstance(function, dict) else choice.get("name")
    return choose(tools, choice, last.get(text) or asked.body.get(field))


def _completions(asked: Asked) -> Reply:
    usage = _usage(asked, tokens(asked.text()))
    head: Json = {"id": f"cmpl-{asked.ident}", "object": "text_completion", "created": asked.now, "model": asked.model}
    texts = asked.pieces() if asked.streamed else [asked.text()]
    choices: list[Json] = [{"text": text, "index": 0, "logprobs": None, "finish_reason": None} for text in texts]
    choices[-1]["finish_reason"] = "stop"
    if not asked.streamed:
        return plain({**head, "choices": choices, "usage": usage})
    return _stream(head, choices, usage, asked)


def _stream(head: Json, choices: list[Json], usage: Json, asked: Asked) -> Reply:
    """Usage stands on a chunk of its own, and only for whoever asked for it; `[DONE]` ends the stream."""
    options = asked.body.get("stream_options")
    wanted = isinstance(options, dict) and options.get("include_usage") is True
    tail: Json = {"usage": None} if wanted else {}
    pieces = [event({**head, "choices": [choice], **tail}) for choice in choices]
    if wanted:
        pieces.append(event({**head, "choices": [], "usage": usage}))
    return Reply(200, SSE, [*pieces, DONE])


def _usage(asked: Asked, said: int) -> Json:
    return {
        "prompt_tokens": asked.input_tokens,
        "completion_tokens": said,
        "total_tokens": asked.input_tokens + said,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def _responses(asked: Asked) -> Reply:
    tools = [tool for tool in dicts(asked.body.get("tools")) if tool.get("type") == "function"]
    call = _call(tools, asked, "input", "content")
    item: Json
    if call:
        item = {"type": "function_call", "id": f"fc_{asked.ident}", "call_id": f"call_{asked.ident}"}
        item |= {"name": call.name, "arguments": call.text, "status": "completed"}
    else:
        part = {"type": "output_text", "text": asked.text(), "annotations": [], "logprobs": []}
        item = {"type": "message", "id": f"msg_{asked.ident}", "status": "completed", "role": "assistant"}
        item["content"] = [part]
    done: Json = {"id": f"resp_{asked.ident}", "object": "response", "created_at": asked.now, "status": "completed"}
    done |= {"model": asked.model, "output": [item], "error": None, "incomplete_details": None, "instructions": None}
    done |= {"parallel_tool_calls": True, "tool_choice": asked.body.get("tool_choice", "auto"), "tools": tools}
    done |= {"temperature": 1.0, "top_p": 1.0, "metadata": {}, "service_tier": "default"}
    said = tokens(item)
    done["usage"] = {
        "input_tokens": asked.input_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": said,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": asked.input_tokens + said,
    }
    return Reply(200, SSE, _responses_events(done, item, asked)) if asked.streamed else plain(done)


def _responses_events(done: Json, item: Json, asked: Asked) -> list[bytes]:
    begun = {**done, "status": "in_progress", "output": [], "usage": None}
    middle = _call_events(item) if item["type"] == "function_call" else _text_events(item, asked)
    events: list[Json] = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
        *middle,
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": done},
    ]
    return [named_event({**each, "sequence_number": number}) for number, each in enumerate(events)]


def _call_events(item: Json) -> list[Json]:
    where: Json = {"item_id": item["id"], "output_index": 0}
    empty = {**item, "status": "in_progress", "arguments": ""}
    kind, whole = "response.function_call_arguments", item["arguments"]
    return [
        {"type": "response.output_item.added", "output_index": 0, "item": empty},
        {"type": f"{kind}.delta", **where, "delta": whole},
        {"type": f"{kind}.done", **where, "name": item["name"], "arguments": whole},
    ]


def _text_events(item: Json, asked: Asked) -> list[Json]:
    where: Json = {"item_id": item["id"], "output_index": 0, "content_index": 0}
    empty, part = {**item, "status": "in_progress", "content": []}, item["content"][0]
    kind = "response.output_text"
    return [
        {"type": "response.output_item.added", "output_index": 0, "item": empty},
        {"type": "response.content_part.added", **where, "part": {**part, "text": ""}},
        *({"type": f"{kind}.delta", **where, "delta": piece, "logprobs": []} for piece in asked.pieces()),
        {"type": f"{kind}.done", **where, "text": part["text"], "logprobs": []},
        {"type": "response.content_part.done", **where, "part": part},
    ]


def _embeddings(asked: Asked) -> Reply:
    given = asked.body.get("input")
    texts = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
    packed = asked.body.get("encoding_format") == "base64"
    vectors = [vector(text, asked.body.get("dimensions")) for text in texts]
    data: list[Json] = [
        {"object": "embedding", "index": index, "embedding": _packed(numbers) if packed else numbers}
        for index, numbers in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens(given), "total_tokens": tokens(given)}
    return plain({"object": "list", "data": data, "model": asked.model, "usage": usage})


def vector(text: object, dimensions: object) -> list[float]:
    """The same numbers for the same text, between -1 and 1."""
    wanted = dimensions if isinstance(dimensions, int) and 0 < dimensions <= MAX_DIMENSIONS else DIMENSIONS
    noise = hashlib.shake_256(orjson.dumps(text)).digest(2 * wanted)
    return [number / 32768 for number in struct.unpack(f"<{wanted}h", noise)]


def _packed(numbers: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()
