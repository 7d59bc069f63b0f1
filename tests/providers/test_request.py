"""The model a request asks for, wherever its dialect puts it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steward.providers.request import asked_model

JSON = b"application/json"
FORM = b"multipart/form-data; boundary=XX"


@pytest.mark.parametrize(
    ("request_body", "model"),
    [
        ({"model": "gpt-5", "messages": []}, "gpt-5"),
        ({"messages": [{"content": '"model":"decoy"'}], "model": "gpt-5"}, "gpt-5"),
        ({"generateContentRequest": {"model": "models/gemini"}}, "models/gemini"),
        ({"requests": [{"model": "models/embed", "content": {}}, {"model": "other"}]}, "models/embed"),
        ({"batch": {"inputConfig": {"requests": {"requests": [{"request": {"model": "models/m"}}]}}}}, "models/m"),
        ({"requests": [{"custom_id": "a", "params": {"model": "claude"}}]}, None),
        ({"tools": [{"model": "decoy"}]}, None),
        ({"model": 5}, None),
        ({"model": ""}, None),
        ([{"model": "x"}], None),
        ("model", None),
    ],
)
def test_json(request_body: object, model: str | None) -> None:
    assert asked_model(JSON, json.dumps(request_body).encode()) == model
    assert asked_model(b"", b" \r\n" + json.dumps(request_body, indent=2).encode()) == model


def form(*parts: bytes) -> bytes:
    return b"".join(b"--XX\r\n" + part + b"\r\n" for part in parts) + b"--XX--\r\n"


FILE = b'Content-Disposition: form-data; name="file"; filename="name=\\"model\\""\r\nContent-Type: audio/wav\r\n\r\n'


def test_forms() -> None:
    field = b'Content-Disposition: form-data; name="model"\r\n\r\nwhisper-1'
    typed = b"content-disposition:form-data;name=model\r\nContent-Type: text/plain\r\n\r\nwhisper-2"
    assert asked_model(FORM, form(field, FILE + b"RIFF\x00\xff")) == "whisper-1"
    assert asked_model(FORM, form(FILE + b'RIFF name="model" \x00' * 3, field)) == "whisper-1"
    assert asked_model(FORM, form(typed)) == "whisper-2"
    assert asked_model(FORM, form(FILE + b'name="model"' * 1000)) is None
    assert asked_model(FORM, b"[multipart form data omitted]") is None
    assert asked_model(JSON, form(field)) is None


@given(st.sampled_from([JSON, FORM, b"", b"\xff"]), st.binary(max_size=200))
def test_any_octets_are_looked_at(content_type: bytes, body: bytes) -> None:
    for octets in (body, b'{"model":' + body, b'--XX\r\ncontent-disposition: form-data; name="model"' + body):
        model = asked_model(content_type, octets)
        assert model is None or 0 < len(model) <= 256
