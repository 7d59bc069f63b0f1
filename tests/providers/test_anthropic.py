"""Our errors in Anthropic's dialect: its own SDK raises its own exceptions, with our sentence."""

from __future__ import annotations

import anthropic
import httpx2
import pytest

from steward.exchange import Dialect
from steward.providers import facts


@pytest.mark.parametrize(
    ("status", "raised", "kind"),
    [
        (400, anthropic.BadRequestError, "invalid_request_error"),
        (401, anthropic.AuthenticationError, "authentication_error"),
        (403, anthropic.PermissionDeniedError, "permission_error"),
        (404, anthropic.NotFoundError, "not_found_error"),
        (413, anthropic.APIStatusError, "request_too_large"),
        (429, anthropic.RateLimitError, "rate_limit_error"),
        (500, anthropic.InternalServerError, "api_error"),
        (502, anthropic.InternalServerError, "api_error"),
        (503, anthropic.APIStatusError, "overloaded_error"),
        (504, anthropic.APIStatusError, "timeout_error"),
    ],
)
def test_the_sdk_raises_its_own(status: int, raised: type[anthropic.APIStatusError], kind: str) -> None:
    document = facts(Dialect.ANTHROPIC).error_document(status, "some_code", 'Our "sentence".')
    answer = httpx2.Response(status, content=document, headers={"content-type": "application/json"})
    transport = httpx2.MockTransport(lambda _: answer)
    with (
        httpx2.Client(transport=transport) as http,
        anthropic.Anthropic(api_key="x", base_url="http://steward.test", max_retries=0, http_client=http) as client,
        pytest.raises(raised) as caught,
    ):
        client.messages.create(model="m", max_tokens=1, messages=[{"role": "user", "content": "hi"}])
    assert caught.value.body == {"type": "error", "error": {"type": kind, "message": 'Our "sentence".'}}
    assert caught.value.status_code == status
