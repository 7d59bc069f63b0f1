"""Closed words of failure become ours; prose never does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steward.exchange import ErrorCode
from steward.providers.failures import by_status, by_words


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ({"code": "context_length_exceeded", "type": "invalid_request_error"}, ErrorCode.CONTEXT_LENGTH),
        ({"code": "rate_limit_exceeded", "type": "requests"}, ErrorCode.RATE_LIMITED),
        ({"code": "insufficient_quota", "type": "insufficient_quota"}, ErrorCode.RATE_LIMITED),
        ({"code": "invalid_api_key", "type": "invalid_request_error"}, ErrorCode.AUTH),
        ({"code": "model_not_found", "type": "invalid_request_error"}, ErrorCode.NOT_FOUND),
        ({"code": "content_filter", "type": None}, ErrorCode.CONTENT_FILTER),
        ({"code": None, "type": "server_error"}, ErrorCode.SERVER_ERROR),
        ({"code": None, "type": "invalid_request_error"}, ErrorCode.INVALID_REQUEST),
        ({"type": "overloaded_error", "message": "rate_limit_exceeded"}, ErrorCode.OVERLOADED),
        ({"type": "authentication_error"}, ErrorCode.AUTH),
        ({"type": "not_found_error"}, ErrorCode.NOT_FOUND),
        ({"type": "api_error"}, ErrorCode.SERVER_ERROR),
        ({"code": 429, "status": "RESOURCE_EXHAUSTED"}, ErrorCode.RATE_LIMITED),
        ({"code": 503, "status": "UNAVAILABLE"}, ErrorCode.OVERLOADED),
        ({"code": 400, "status": "INVALID_ARGUMENT"}, ErrorCode.INVALID_REQUEST),
        ({"code": 400, "details": [{"reason": "API_KEY_INVALID"}]}, ErrorCode.AUTH),
        ({"status": "FAILED_PRECONDITION"}, ErrorCode.INVALID_REQUEST),
        ({"message": "context_length_exceeded"}, ErrorCode.OTHER),
        ({"code": "brand_new_word"}, ErrorCode.OTHER),
        ("overloaded", ErrorCode.OVERLOADED),
        ("The model is busy, try later", ErrorCode.OTHER),
        ({"code": True}, ErrorCode.OTHER),
        ([1], ErrorCode.OTHER),
        (None, None),
        ({}, None),
        ("", None),
        (False, None),
    ],
)
def test_words(error: object, code: ErrorCode | None) -> None:
    assert by_words(error) is code


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (200, None),
        (304, None),
        (400, ErrorCode.INVALID_REQUEST),
        (401, ErrorCode.AUTH),
        (403, ErrorCode.AUTH),
        (404, ErrorCode.NOT_FOUND),
        (408, ErrorCode.TIMEOUT),
        (418, ErrorCode.INVALID_REQUEST),
        (429, ErrorCode.RATE_LIMITED),
        (500, ErrorCode.SERVER_ERROR),
        (502, ErrorCode.SERVER_ERROR),
        (503, ErrorCode.OVERLOADED),
        (504, ErrorCode.TIMEOUT),
        (529, ErrorCode.OVERLOADED),
        (599, ErrorCode.SERVER_ERROR),
    ],
)
def test_statuses(status: int, code: ErrorCode | None) -> None:
    assert by_status(status) is code


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["code", "type", "status", "details", "reason"]), inner, max_size=4)
        ),
        max_leaves=8,
    )
)
def test_any_error_has_a_code(error: object) -> None:
    code = by_words(error)
    assert (code is None) == (not error)
