"""The providers' closed words for failure, turned into ours.

It refuses to look at messages: what a provider says in prose never becomes a code (SECURITY F3).
"""

from __future__ import annotations

from collections.abc import Mapping

from steward.exchange import ErrorCode
from steward.providers.reading import listed, mapping

_BY_WORD: Mapping[str, ErrorCode] = {
    word: code
    for code, words in {
        ErrorCode.RATE_LIMITED: "rate_limit_exceeded rate_limit_error rate_limited insufficient_quota "
        "resource_exhausted too_many_requests requests tokens quota_exceeded billing_hard_limit_reached",
        ErrorCode.OVERLOADED: "overloaded_error overloaded unavailable engine_overloaded server_overloaded slow_down "
        "service_unavailable service_unavailable_error",
        ErrorCode.AUTH: "authentication_error permission_error invalid_api_key invalid_authentication unauthenticated "
        "permission_denied api_key_invalid account_deactivated billing_error insufficient_permissions",
        ErrorCode.NOT_FOUND: "not_found_error model_not_found not_found deployment_not_found",
        ErrorCode.CONTEXT_LENGTH: "context_length_exceeded context_window_exceeded model_context_window_exceeded",
        ErrorCode.CONTENT_FILTER: "content_filter content_policy_violation moderation_blocked "
        "responsibleaipolicyviolation safety prohibited_content blocklist",
        ErrorCode.TIMEOUT: "timeout_error timeout deadline_exceeded request_timeout",
        ErrorCode.SERVER_ERROR: "server_error api_error internal_error internal internal_server_error "
        "processing_error unknown data_loss",
    }.items()
    for word in words.split()
}
"""Words that say enough by themselves, lower-case."""

_BY_STATUS: Mapping[int, ErrorCode] = {
    401: ErrorCode.AUTH,
    402: ErrorCode.AUTH,
    403: ErrorCode.AUTH,
    404: ErrorCode.NOT_FOUND,
    408: ErrorCode.TIMEOUT,
    429: ErrorCode.RATE_LIMITED,
    499: ErrorCode.CLIENT_CANCELLED,
    503: ErrorCode.OVERLOADED,
    504: ErrorCode.TIMEOUT,
    529: ErrorCode.OVERLOADED,
}

_FIRST_ERROR, _FIRST_SERVER_ERROR = 400, 500


def by_status(status: int) -> ErrorCode | None:
    """What the status alone says; None for success."""
    if status < _FIRST_ERROR:
        return None
    fallback = ErrorCode.SERVER_ERROR if status >= _FIRST_SERVER_ERROR else ErrorCode.INVALID_REQUEST
    return _BY_STATUS.get(status, fallback)


def by_words(error: object) -> ErrorCode | None:
    """What an `error` object says by its code, type, status or detail reasons; OTHER when only that it failed."""
    if not error:
        return None
    said = mapping(error)
    inner = [mapping(detail).get("reason") for detail in listed(said.get("details"))]
    for value in (*inner, said.get("code"), said.get("type"), said.get("status"), error):
        found = _BY_WORD.get(value.lower()) if isinstance(value, str) else None
        if found is not None:
            return found
        if isinstance(value, int) and not isinstance(value, bool) and (coded := by_status(value)) is not None:
            return coded
    return ErrorCode.INVALID_REQUEST if _blames_caller(said) else ErrorCode.OTHER


def _blames_caller(said: Mapping[str, object]) -> bool:
    return said.get("type") in ("invalid_request_error", "image_generation_user_error") or said.get("status") in (
        "INVALID_ARGUMENT",
        "FAILED_PRECONDITION",
        "OUT_OF_RANGE",
    )
