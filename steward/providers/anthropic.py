"""Anthropic's dialect: its paths, where its credential travels, how its errors are spelled.

It refuses to read usage (`anthropic_usage.py`) and to say where the provider lives: that is a setting.
"""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from steward.exchange import Dialect, Operation
from steward.providers.template import SHARED_AREAS, DialectFacts, PathTable, Template

_SPENDING: Mapping[str, Operation] = {
    "/v1/messages": Operation.MESSAGES,
    "/v1/complete": Operation.OTHER,
    "/v1/messages/count_tokens": Operation.FREE,
    "/v1/messages/batches": Operation.FREE,
    "/v1/messages/batches/{id}": Operation.FREE,
    "/v1/messages/batches/{id}/cancel": Operation.FREE,
    "/v1/messages/batches/{id}/results": Operation.FREE,
}

_PLAIN = """
/v1/models /v1/models/{id}
/v1/files /v1/files/{id} /v1/files/{id}/content
/v1/batches /v1/batches/{id} /v1/batches/{id}/cancel /v1/batches/{id}/results
/v1/skills /v1/skills/{id} /v1/skills/{id}/versions /v1/skills/{id}/versions/{id}
"""

_SECRETIVE = """
/v1/organizations/me /v1/organizations/api_keys /v1/organizations/api_keys/{id}
/v1/organizations/external_keys /v1/organizations/external_keys/{id}
/v1/organizations/invites /v1/organizations/invites/{id} /v1/organizations/users /v1/organizations/users/{id}
/v1/organizations/workspaces /v1/organizations/workspaces/{id} /v1/organizations/workspaces/{id}/archive
/v1/organizations/workspaces/{id}/members /v1/organizations/workspaces/{id}/members/{id}
/v1/organizations/usage_report/messages /v1/organizations/usage_report/claude_code /v1/organizations/cost_report
/v1/organizations/webhooks /v1/organizations/webhooks/{id}
/v1/vaults/{id}/credentials /v1/vaults/{id}/credentials/{id}
/v1/tunnels/{id}/reveal_token /v1/tunnels/{id}/rotate_token
/v1/user_profiles/{id}/enrollment_url
/v1/oauth/token
"""

TABLE = PathTable(
    "anthropic",
    Dialect.ANTHROPIC,
    [
        *(Template(path, writes=operation) for path, operation in _SPENDING.items()),
        *(Template(path) for path in _PLAIN.split()),
        *(Template(path, secretive=True) for path in _SECRETIVE.split()),
        Template("/v1/chat/completions", writes=Operation.CHAT, dialect=Dialect.OPENAI, named_only=True),
    ],
    ["/v1/messages", "/v1/complete", "/v1/organizations", *SHARED_AREAS],
)

_TYPES: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def _error_document(status: int, code: str, message: str) -> bytes:
    fallback = "api_error" if status >= 500 else "invalid_request_error"
    return orjson.dumps({"type": "error", "error": {"type": _TYPES.get(status, fallback), "message": message}})


FACTS = DialectFacts(Dialect.ANTHROPIC, (b"x-api-key", b"authorization"), (), _error_document)
