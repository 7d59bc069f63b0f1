"""Our errors in Gemini's dialect: its own SDK raises its own exceptions, with our sentence."""

from __future__ import annotations

import httpx2
import pytest

from steward.exchange import Dialect
from steward.providers import facts
from tests.sdk.google_sdk import errors


@pytest.mark.parametrize(
    ("status", "raised", "word"),
    [
        (400, errors.ClientError, "INVALID_ARGUMENT"),
        (401, errors.ClientError, "UNAUTHENTICATED"),
        (403, errors.ClientError, "PERMISSION_DENIED"),
        (404, errors.ClientError, "NOT_FOUND"),
        (413, errors.ClientError, "INVALID_ARGUMENT"),
        (429, errors.ClientError, "RESOURCE_EXHAUSTED"),
        (500, errors.ServerError, "INTERNAL"),
        (502, errors.ServerError, "UNAVAILABLE"),
        (503, errors.ServerError, "UNAVAILABLE"),
        (504, errors.ServerError, "DEADLINE_EXCEEDED"),
    ],
)
def test_the_sdk_raises_its_own(status: int, raised: type[errors.APIError], word: str) -> None:
    document = facts(Dialect.GEMINI).error_document(status, "some_code", 'Our "sentence".')
    with pytest.raises(raised) as caught:
        errors.APIError.raise_for_response(httpx2.Response(status, content=document))
    assert (caught.value.message, caught.value.status, caught.value.code) == ('Our "sentence".', word, status)
