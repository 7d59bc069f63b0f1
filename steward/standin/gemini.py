"""The stand-in's Gemini dialect: content, streams as SSE and as a JSON array, embeddings, token counts, models, errors.

It refuses options that change nothing it could show: they are read past, as an unknown field would be.
"""

from __future__ import annotations

import orjson

from steward.standin.openai import vector
from steward.standin.said import JSON, SSE, Asked, Call, Json, Refusal, Reply, dicts, event, plain, tokens
from steward.standin.said import tool_call as choose

MODELS = ("gemini-2.5-flash", "gemini-2.5-pro", "gemini-embedding-001")
STATUS_WORDS = {401: "UNAUTHENTICATED", 404: "NOT_FOUND"}


def answer(verb: str, as_sse: bool, asked: Asked) -> Reply:
    """The answer to `models/{model}:{verb}`. Raises Refusal for a verb it does not know."""
    if verb == "generateContent":
        return plain(_chunks(asked, whole=True)[0])
    if verb == "streamGenerateContent":
        chunks = _chunks(asked, whole=False)
        if as_sse:
            return Reply(200, SSE, [event(chunk, b"\r\n\r\n") for chunk in chunks])
        return Reply(200, JSON, _array(chunks))
    if verb == "countTokens":
        return plain({"totalTokens": asked.input_tokens, "promptTokensDetails": _text_modality(asked.input_tokens)})
    if verb == "embedContent":
        return plain({"embedding": _embedding(asked.body), "usageMetadata": _embedding_usage(asked)})
    if verb == "batchEmbedContents":
        embeddings = [_embedding(each) for each in dicts(asked.body.get("requests"))]
        return plain({"embeddings": embeddings, "usageMetadata": _embedding_usage(asked)})
    raise Refusal(404, "not_found", "It knows no such path.")


def models() -> Reply:
    """The list of models."""
    return plain({"models": [{"name": f"models/{name}", "displayName": name} for name in MODELS]})


def refused(refusal: Refusal) -> Reply:
    """An error as Gemini spells it."""
    word = STATUS_WORDS.get(refusal.status, "INVALID_ARGUMENT")
    return plain({"error": {"code": refusal.status, "message": refusal.message, "status": word}}, refusal.status)


def _chunks(asked: Asked, whole: bool) -> list[Json]:
    """Every chunk repeats the usage so far; the last carries the reason."""
    call = _call(asked)
    parts: list[Json] = [{"functionCall": {"name": call.name, "args": call.arguments}}] if call else []
    parts = parts or [{"text": text} for text in ([asked.text()] if whole else asked.pieces())]
    chunks: list[Json] = []
    for index, part in enumerate(parts):
        candidate: Json = {"content": {"parts": [part], "role": "model"}, "index": 0}
        if index == len(parts) - 1:
            candidate["finishReason"] = "STOP"
        said = tokens([each.get("text") or each for each in parts[: index + 1]])
        usage: Json = {"promptTokenCount": asked.input_tokens, "candidatesTokenCount": said}
        usage |= {
            "totalTokenCount": asked.input_tokens + said,
            "promptTokensDetails": _text_modality(asked.input_tokens),
        }
        chunk: Json = {"candidates": [candidate], "usageMetadata": usage, "modelVersion": asked.model}
        chunks.append({**chunk, "responseId": asked.ident})
    return chunks


def _array(chunks: list[Json]) -> list[bytes]:
    """One JSON array, a piece an element, as the API streams it without `alt=sse`."""
    pieces = [b",\r\n" + orjson.dumps(chunk) for chunk in chunks]
    pieces[0] = b"[" + pieces[0].removeprefix(b",\r\n")
    pieces[-1] += b"]"
    return pieces


def _call(asked: Asked) -> Call | None:
    """The tool to call; none when the last content brings a tool's answer."""
    contents = dicts(asked.body.get("contents"))
    parts = dicts(contents[-1].get("parts")) if contents else []
    if any("functionResponse" in part for part in parts):
        return None
    tools: list[Json] = []
    for tool in dicts(asked.body.get("tools")):
        for declared in dicts(tool.get("functionDeclarations")):
            schema = declared.get("parametersJsonSchema") or declared.get("parameters")
            tools.append({"name": declared.get("name"), "parameters": schema})
    config = asked.body.get("toolConfig")
    calling = config.get("functionCallingConfig") if isinstance(config, dict) else None
    mode = str(calling.get("mode")).lower() if isinstance(calling, dict) else None
    return choose(tools, mode, [part.get("text") for part in parts])


def _text_modality(count: int) -> list[Json]:
    return [{"modality": "TEXT", "tokenCount": count}]


def _embedding(request: Json) -> Json:
    config = request.get("embedContentConfig")
    wanted = config.get("outputDimensionality") if isinstance(config, dict) else None
    return {"values": vector(request.get("content"), request.get("outputDimensionality") or wanted)}


def _embedding_usage(asked: Asked) -> Json:
    return {"promptTokenCount": asked.input_tokens, "promptTokenDetails": _text_modality(asked.input_tokens)}
