"""Fixtures: the recorded exchanges of `../shared/corpus`, each with its truth; what needs them skips without them."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "corpus"
"""Beside the repository, never in it."""

PROVIDERS = ("openai", "anthropic", "gemini")


@dataclass(frozen=True)
class Recording:
    """One recorded exchange and what is true of it."""

    id: str
    provider: str
    endpoint: str
    method: str
    url: str
    path: str
    status: int
    framing: str
    fidelity: str
    streamed: bool
    request_body: bytes
    request_content_type: str
    response_headers: Mapping[str, str]
    """As recorded; `content-encoding` says what the wire had, the body is decoded."""
    response_body: bytes
    truth: Mapping[str, object]

    @property
    def target(self) -> str:
        """Path and query, as the caller wrote them."""
        return "/" + self.url.split("//", 1)[-1].partition("/")[2]

    @property
    def strict(self) -> bool:
        """The truth is beyond doubt."""
        return bool(self.truth["strict"])


def load() -> list[Recording]:
    """Every recording, or none where the corpus is absent."""
    if not (FOLDER / "recordings.jsonl.gz").exists():
        return []
    with (FOLDER / "truth.jsonl").open() as lines:
        truths = {truth["id"]: truth for truth in map(json.loads, lines)}
    with gzip.open(FOLDER / "recordings.jsonl.gz", "rt") as lines:
        return [_recording(raw, truths[raw["id"]]) for raw in map(json.loads, lines)]


def _recording(raw: Mapping[str, object], truth: Mapping[str, object]) -> Recording:
    body = str(raw["request_body"] or "")
    return Recording(
        id=str(raw["id"]),
        provider=str(raw["provider"]),
        endpoint=str(raw["endpoint"]),
        method=str(raw["method"]),
        url=str(raw["url"]),
        path=str(raw["path"]),
        status=int(str(raw["status"])),
        framing=str(raw["framing"]),
        fidelity=str(raw["fidelity"]),
        streamed=bool(raw["stream"]),
        request_body=base64.b64decode(body) if raw["request_body_encoding"] == "base64" else body.encode(),
        request_content_type=str(raw["request_content_type"] or ""),
        response_headers=raw["response_headers"],  # type: ignore[arg-type]
        response_body=base64.b64decode(str(raw["response_body_b64"])),
        truth=truth,
    )


@pytest.fixture(scope="session")
def corpus() -> list[Recording]:
    """Every recording. Skips the test where the corpus is absent."""
    recordings = load()
    if not recordings:
        pytest.skip(f"no recordings: {FOLDER.parent.name}/{FOLDER.name} is not beside this repository")
    return recordings


@pytest.fixture(scope="session")
def dialect_corpus(corpus: list[Recording]) -> list[Recording]:
    """The recordings of the three providers whose dialects we speak."""
    return [recording for recording in corpus if recording.provider in PROVIDERS]
