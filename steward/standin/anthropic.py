"""The stand-in's Anthropic dialect: messages, token counts, models, errors.

It refuses options that change nothing it could show: they are read past, as an unknown field would be.
"""

from __future__ import annotations

from steward.standin.said import SSE, Asked, Call, Json, Refusal, Reply, dicts, named_event, plain, tokens
from steward.standin.said import tool_call as choose

MODELS = ("claude-haiku-4-5", "claude-sonnet-4-5")
ERROR_TYPES = {401: "authentication_error", 404: "not_found_error"}


def answer(operation: str, asked: Asked) -> Reply:
    """The answer to a POST below `/v1/`. Raises Refusal for a path it does not know."""
    if operation == "messages/count_tokens":
        return plain({"input_tokens": asked.input_tokens})
    if operation != "messages":
        raise Refusal(404, "not_found", "It knows no such path.")
    call = _call(asked)
    block: Json = {"type": "text", "text": asked.text()}
    if call:
        block = {"type": "tool_use", "id": f"toolu_{asked.ident}", "name": call.name, "input": call.arguments}
    usage: Json = {"input_tokens": asked.input_tokens, "output_tokens": tokens(block)}
    usage |= {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "service_tier": "standard"}
    message: Json = {"id": f"msg_{asked.ident}", "type": "message", "role": "assistant", "model": asked.model}
    message |= {"content": [block], "stop_reason": "tool_use" if call else "end_turn", "stop_sequence": None}
    message["usage"] = usage
    return Reply(200, SSE, _events(message, call, asked)) if asked.streamed else plain(message)


def models() -> Reply:
    """The list of models."""
    made = "2025-01-01T00:00:00Z"
    data = [{"type": "model", "id": name, "display_name": name, "created_at": made} for name in MODELS]
    return plain({"data": data, "has_more": False, "first_id": MODELS[0], "last_id": MODELS[-1]})


def refused(refusal: Refusal) -> Reply:
    """An error as Anthropic spells it."""
    kind = ERROR_TYPES.get(refusal.status, "invalid_request_error")
    return plain({"type": "error", "error": {"type": kind, "message": refusal.message}}, refusal.status)


def _call(asked: Asked) -> Call | None:
    """The tool to call; none when the last message brings a tool's answer."""
    messages = dicts(asked.body.get("messages"))
    content = messages[-1].get("content") if messages else None
    if any(block.get("type") == "tool_result" for block in dicts(content)):
        return None
    choice = asked.body.get("tool_choice")
    forced = choice.get("name") or choice.get("type") if isinstance(choice, dict) else None
    tools = [{**tool, "parameters": tool.get("input_schema")} for tool in dicts(asked.body.get("tools"))]
    return choose(tools, forced, content)


def _events(message: Json, call: Call | None, asked: Asked) -> list[bytes]:
    """The input side stands on the first event, the output side on the last but one."""
    usage, block = message["usage"], message["content"][0]
    begun = {**message, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    deltas: list[Json] = [{"type": "text_delta", "text": piece} for piece in asked.pieces()]
    empty = {**block, "text": ""}
    if call:
        deltas, empty = [{"type": "input_json_delta", "partial_json": call.text}], {**block, "input": {}}
    end = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    events: list[Json] = [
        {"type": "message_start", "message": begun},
        {"type": "content_block_start", "index": 0, "content_block": empty},
        {"type": "ping"},
        *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": end, "usage": {"output_tokens": usage["output_tokens"]}},
        {"type": "message_stop"},
    ]
    return [named_event(each) for each in events]
