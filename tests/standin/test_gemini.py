"""The stand-in's Gemini dialect, by its shapes; `test_app.py` has the SDK's own opinion."""

from __future__ import annotations

from typing import Any

from steward.standin.said import SENTENCE
from tests.standin.conversation import ask, document, events

MODEL = "/v1beta/models/gemini-2.5-flash"
ASK: Any = {"contents": [{"role": "user", "parts": [{"text": "What is the weather in Ulm?"}]}]}
TOOLS = [{"functionDeclarations": [{"name": "get_weather", "parameters": {}}]}]


def test_content() -> None:
    """The model of the path, the sentence, usage that adds up."""
    said = document(ask(f"{MODEL}:generateContent", ASK))
    assert said["modelVersion"] == "gemini-2.5-flash"
    assert said["candidates"][0]["content"]["parts"][0]["text"].startswith(SENTENCE)
    usage = said["usageMetadata"]
    assert usage["totalTokenCount"] == usage["promptTokenCount"] + usage["candidatesTokenCount"]


def test_both_streams_say_the_same() -> None:
    """CRLF events with `alt=sse`, else one JSON array in pieces; usage grows to what the plain answer has."""
    sse, array = ask(f"{MODEL}:streamGenerateContent?alt=sse", ASK), ask(f"{MODEL}:streamGenerateContent", ASK)
    plain = document(ask(f"{MODEL}:generateContent", ASK))
    assert all(piece.endswith(b"\r\n\r\n") for piece in sse.pieces)
    assert len(array.pieces) == len(sse.pieces) > 3
    for chunks in (events(sse), document(array)):
        said = [chunk["usageMetadata"]["candidatesTokenCount"] for chunk in chunks]
        assert said == sorted(said)
        assert abs(said[-1] - plain["usageMetadata"]["candidatesTokenCount"]) <= 1
        assert chunks[-1]["candidates"][0]["finishReason"] == "STOP"


def test_function_call_and_its_answer() -> None:
    """Called when spoken of or forced; words once its answer is there."""
    first = document(ask(f"{MODEL}:generateContent", {**ASK, "tools": TOOLS}))
    assert first["candidates"][0]["content"]["parts"][0]["functionCall"]["name"] == "get_weather"
    answer = {"role": "user", "parts": [{"functionResponse": {"name": "get_weather", "response": {"weather": "rain"}}}]}
    body = {"contents": [*ASK["contents"], answer], "tools": TOOLS}
    assert "text" in document(ask(f"{MODEL}:generateContent", body))["candidates"][0]["content"]["parts"][0]
    forced = {"functionCallingConfig": {"mode": "ANY"}}
    quiet = {"contents": [{"parts": [{"text": "Hi"}]}], "tools": TOOLS, "toolConfig": forced}
    assert "functionCall" in document(ask(f"{MODEL}:generateContent", quiet))["candidates"][0]["content"]["parts"][0]


def test_counts_and_embeddings() -> None:
    """One count, one vector, one vector a request."""
    assert document(ask(f"{MODEL}:countTokens", ASK))["totalTokens"] > 1
    one = {"content": {"parts": [{"text": "Ulm"}]}, "outputDimensionality": 4}
    assert len(document(ask(f"{MODEL}:embedContent", one))["embedding"]["values"]) == 4
    many = document(ask(f"{MODEL}:batchEmbedContents", {"requests": [one, one]}))
    assert len(many["embeddings"]) == 2
    assert many["usageMetadata"]["promptTokenCount"] >= 1


def test_errors_are_geminis() -> None:
    """Shape and word, also where the stream was asked for."""
    said = ask("/v1/models/no-such-model:streamGenerateContent?alt=sse", ASK)
    assert said.status == 404
    assert document(said)["error"]["status"] == "NOT_FOUND"
    assert ask(f"{MODEL}:paint", ASK).status == 404
