"""Our errors in OpenAI's dialect: its own SDK raises its own exceptions, with our sentence."""

from __future__ import annotations

import httpx2
import openai
import pytest

from steward.exchange import Dialect
from steward.providers import facts


@pytest.mark.parametrize(
    ("status", "raised", "kind"),
    [
        (400, openai.BadRequestError, "invalid_request_error"),
        (401, openai.AuthenticationError, "authentication_error"),
        (403, openai.PermissionDeniedError, "permission_error"),
        (404, openai.NotFoundError, "not_found_error"),
        (413, openai.APIStatusError, "invalid_request_error"),
        (429, openai.RateLimitError, "rate_limit_error"),
        (500, openai.InternalServerError, "server_error"),
        (502, openai.InternalServerError, "server_error"),
        (503, openai.InternalServerError, "server_error"),
        (504, openai.InternalServerError, "server_error"),
    ],
)
def test_the_sdk_raises_its_own(status: int, raised: type[openai.APIStatusError], kind: str) -> None:
    document = facts(Dialect.OPENAI).error_document(status, "some_code", 'Our "sentence".')
    answer = httpx2.Response(status, content=document, headers={"content-type": "application/json"})
    transport = httpx2.MockTransport(lambda _: answer)
    with (
        httpx2.Client(transport=transport) as http,
        openai.OpenAI(api_key="x", base_url="http://steward.test/v1", max_retries=0, http_client=http) as client,
        pytest.raises(raised) as caught,
    ):
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
    assert 'Our "sentence".' in caught.value.message
    assert (caught.value.code, caught.value.type, caught.value.status_code) == ("some_code", kind, status)
