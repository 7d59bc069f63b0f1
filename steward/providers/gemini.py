"""Gemini's dialect: its paths, where its credential travels, how its errors are spelled.

It refuses to read usage (`gemini_usage.py`) and to say where the provider lives: that is a setting.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import orjson

from steward.exchange import Dialect, Operation
from steward.providers import openai
from steward.providers.template import SHARED_AREAS, DialectFacts, PathTable, Template

VERSIONS = ("/v1beta", "/v1alpha", "/v1")

_VERBS: Mapping[str, Operation] = {
    "generateContent": Operation.GENERATE_CONTENT,
    "streamGenerateContent": Operation.GENERATE_CONTENT,
    "embedContent": Operation.EMBED_CONTENT,
    "batchEmbedContents": Operation.EMBED_CONTENT,
    "countTokens": Operation.FREE,
    "computeTokens": Operation.FREE,
    "countTextTokens": Operation.FREE,
    "countMessageTokens": Operation.FREE,
    "batchGenerateContent": Operation.FREE,
    "asyncBatchEmbedContent": Operation.FREE,
    "predict": Operation.OTHER,
    "predictLongRunning": Operation.OTHER,
    "generateText": Operation.OTHER,
    "generateMessage": Operation.OTHER,
    "generateAnswer": Operation.GENERATE_CONTENT,
    "embedText": Operation.OTHER,
    "batchEmbedText": Operation.OTHER,
    "transferOwnership": Operation.FREE,
}

_PLAIN = """
/models /models/{model} /models/{model}/operations /models/{model}/operations/{id}
/tunedModels /tunedModels/{model} /tunedModels/{model}/operations /tunedModels/{model}/operations/{id}
/tunedModels/{model}/permissions /tunedModels/{model}/permissions/{id}
/files /files/{id} /files/{id}:download /files:register
/generatedFiles /generatedFiles/{id} /generatedFiles/{id}:download
/cachedContents /cachedContents/{id}
/batches /batches/{id} /batches/{id}:cancel
/batches/{id}:updateGenerateContentBatch /batches/{id}:updateEmbedContentBatch
/interactions/{id}/cancel
/fileSearchStores /fileSearchStores/{id} /fileSearchStores/{id}:importFile /fileSearchStores/{id}/documents
/fileSearchStores/{id}/documents/{id} /fileSearchStores/{id}/operations/{id}
/fileSearchStores/{id}/upload/operations/{id}
/corpora /corpora/{id} /corpora/{id}:query /corpora/{id}/documents /corpora/{id}/documents/{id}
/corpora/{id}/documents/{id}:query /corpora/{id}/documents/{id}/chunks /corpora/{id}/documents/{id}/chunks/{id}
/corpora/{id}/permissions /corpora/{id}/permissions/{id}
/operations /operations/{id} /operations/{id}:cancel
/tuningJobs /tuningJobs/{id} /tuningJobs/{id}:cancel
/openai/models /openai/models/{id} /openai/files /openai/files/{id} /openai/batches /openai/batches/{id}
/openai/videos /openai/videos/{id} /openai/videos/{id}/content
"""

_AREAS = (
    "models tunedModels files generatedFiles cachedContents batches interactions fileSearchStores corpora operations "
    "tuningJobs agents auth_tokens dynamic openai"
)


def _templates(version: str) -> Iterator[Template]:
    for collection in ("models", "tunedModels", "dynamic"):
        for verb, operation in _VERBS.items():
            yield Template(f"{version}/{collection}/{{model}}:{verb}", writes=operation)
    yield Template(f"{version}/interactions", writes=Operation.INTERACTIONS)
    yield Template(f"{version}/interactions/{{id}}", reads=Operation.RESPONSES_RETRIEVE)
    yield Template(f"{version}/auth_tokens", secretive=True)
    for path in _PLAIN.split():
        yield Template(version + path, dialect=Dialect.OPENAI if path.startswith("/openai/") else None)
    yield from openai.paths(f"{version}/openai", Dialect.OPENAI)
    for prefix in ("/upload", "/resumable/upload"):
        yield Template(f"{prefix}{version}/files", secretive=True)
        yield Template(f"{prefix}{version}/fileSearchStores/{{id}}:uploadToFileSearchStore", secretive=True)
    yield Template(f"/download{version}/files/{{id}}:download")


TABLE = PathTable(
    "gemini",
    Dialect.GEMINI,
    [template for version in VERSIONS for template in _templates(version)],
    [
        *(f"{version}/{area}" for version in ("/v1beta", "/v1alpha") for area in _AREAS.split()),
        *(f"/upload{version}" for version in VERSIONS),
        *SHARED_AREAS,
    ],
)

_STATUSES: Mapping[int, str] = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def _error_document(status: int, code: str, message: str) -> bytes:
    word = _STATUSES.get(status, "INTERNAL" if status >= 500 else "INVALID_ARGUMENT")
    return orjson.dumps({"error": {"code": status, "message": message, "status": word}})


FACTS = DialectFacts(Dialect.GEMINI, (b"x-goog-api-key", b"authorization"), (b"key",), _error_document)
