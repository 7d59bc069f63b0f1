"""OpenAI's dialect: its paths, where its credential travels, how its errors are spelled.

It refuses to read usage (`openai_usage.py`) and to say where the provider lives: that is a setting.
"""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from steward.exchange import Dialect, Operation
from steward.providers.template import DialectFacts, PathTable, Template

SEGMENTS = (
    "chat completions responses embeddings models files batches images audio moderations fine_tuning uploads "
    "vector_stores assistants threads conversations containers evals videos"
)
"""First segments that are OpenAI's, with or without `/v1` before them."""

_SPENDING: Mapping[str, Operation] = {
    "/chat/completions": Operation.CHAT,
    "/completions": Operation.COMPLETIONS,
    "/responses": Operation.RESPONSES,
    "/responses/compact": Operation.RESPONSES_COMPACT,
    "/responses/input_tokens": Operation.FREE,
    "/embeddings": Operation.EMBEDDINGS,
    "/images/generations": Operation.IMAGES,
    "/images/edits": Operation.IMAGES,
    "/images/variations": Operation.IMAGES,
    "/audio/transcriptions": Operation.TRANSCRIPTION,
    "/audio/translations": Operation.TRANSCRIPTION,
    "/audio/speech": Operation.SPEECH,
    "/moderations": Operation.FREE,
}

_PLAIN = """
/chat/completions/{id} /chat/completions/{id}/messages
/responses/{id}/input_items
/models /models/{id}
/files /files/{id} /files/{id}/content
/batches /batches/{id} /batches/{id}/cancel
/audio/voices /audio/voices/{id} /audio/voice_consents /audio/voice_consents/{id}
/fine_tuning/jobs /fine_tuning/jobs/{id} /fine_tuning/jobs/{id}/cancel /fine_tuning/jobs/{id}/events
/fine_tuning/jobs/{id}/checkpoints /fine_tuning/jobs/{id}/pause /fine_tuning/jobs/{id}/resume
/fine_tuning/checkpoints/{id}/permissions /fine_tuning/checkpoints/{id}/permissions/{id}
/fine_tuning/alpha/graders/run /fine_tuning/alpha/graders/validate
/uploads /uploads/{id}/parts /uploads/{id}/complete /uploads/{id}/cancel
/vector_stores /vector_stores/{id} /vector_stores/{id}/search /vector_stores/{id}/files /vector_stores/{id}/files/{id}
/vector_stores/{id}/files/{id}/content /vector_stores/{id}/file_batches /vector_stores/{id}/file_batches/{id}
/vector_stores/{id}/file_batches/{id}/cancel /vector_stores/{id}/file_batches/{id}/files
/assistants /assistants/{id}
/threads /threads/runs /threads/{id} /threads/{id}/messages /threads/{id}/messages/{id} /threads/{id}/runs
/threads/{id}/runs/{id} /threads/{id}/runs/{id}/cancel /threads/{id}/runs/{id}/steps
/threads/{id}/runs/{id}/steps/{id} /threads/{id}/runs/{id}/submit_tool_outputs
/conversations /conversations/{id} /conversations/{id}/items /conversations/{id}/items/{id}
/containers /containers/{id} /containers/{id}/files /containers/{id}/files/{id} /containers/{id}/files/{id}/content
/evals /evals/{id} /evals/{id}/runs /evals/{id}/runs/{id} /evals/{id}/runs/{id}/cancel
/evals/{id}/runs/{id}/output_items /evals/{id}/runs/{id}/output_items/{id}
/videos /videos/edits /videos/extensions /videos/characters /videos/characters/{id} /videos/{id} /videos/{id}/content
/videos/{id}/remix
/skills /skills/{id} /skills/{id}/content /skills/{id}/versions /skills/{id}/versions/{id}
/skills/{id}/versions/{id}/content
"""

_SECRETIVE = """
/organization/admin_api_keys /organization/admin_api_keys/{id}
/organization/projects/{id}/api_keys /organization/projects/{id}/api_keys/{id}
/organization/projects/{id}/service_accounts /organization/projects/{id}/service_accounts/{id}
/organization/projects/{id}/service_accounts/{id}/api_keys
/realtime/client_secrets /realtime/sessions /realtime/transcription_sessions /realtime/calls
/realtime/translations/client_secrets
/chatkit/sessions /chatkit/sessions/{id}/cancel
/vaults/{id}/credentials /vaults/{id}/credentials/{id}
/webhook_endpoints /webhook_endpoints/{id} /webhook_endpoints/{id}/rotate_secret
/oauth/token
"""


def paths(prefix: str, dialect: Dialect | None = None) -> list[Template]:
    """The templates of everything this dialect generates, below a prefix; other providers speak it too."""
    return [Template(prefix + path, writes=operation, dialect=dialect) for path, operation in _SPENDING.items()]


TABLE = PathTable(
    "openai",
    Dialect.OPENAI,
    [
        *paths("/v1"),
        Template("/v1/responses/{id}", reads=Operation.RESPONSES_RETRIEVE),
        Template("/v1/responses/{id}/cancel", writes=Operation.RESPONSES_RETRIEVE),
        *(Template("/v1" + path) for path in _PLAIN.split()),
        *(Template("/v1" + path, secretive=True) for path in _SECRETIVE.split()),
    ],
    [f"/v1/{segment}" for segment in SEGMENTS.split()],
)

_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def _error_document(status: int, code: str, message: str) -> bytes:
    fallback = "server_error" if status >= 500 else "invalid_request_error"
    error = {"message": message, "type": _TYPES.get(status, fallback), "param": None, "code": code}
    return orjson.dumps({"error": error})


FACTS = DialectFacts(Dialect.OPENAI, (b"authorization",), (), _error_document)
