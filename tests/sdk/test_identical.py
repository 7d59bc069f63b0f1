"""Promise 1 for every recording of the three dialects: octet for octet the same through the Steward as directly."""

from __future__ import annotations

import gzip

import brotli
import pytest

from tests.sdk.ways import Ways, assert_same_request
from tests.servers.plain_http import Fields, Message, Request, call
from tests.servers.replay import Recording, recordings

RECORDINGS = recordings()
ABSENT = pytest.mark.skipif(not RECORDINGS, reason="no recordings: ../shared/corpus is absent")
CREDENTIALS: dict[str, Fields] = {
    "openai": [(b"Authorization", b"Bearer sk-test")],
    "anthropic": [(b"x-api-key", b"sk-ant-test"), (b"anthropic-version", b"2023-06-01")],
    "gemini": [(b"x-goog-api-key", b"AIza-test")],
}


@ABSENT
def test_there_are_recordings() -> None:
    """Enough of each dialect, and compressed ones among them."""
    assert {recording.provider for recording in RECORDINGS.values()} == set(CREDENTIALS)
    assert sum(recording.body != recording.decoded for recording in RECORDINGS.values()) > 20


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("name", sorted(RECORDINGS) or [pytest.param("", marks=ABSENT)])
def test_identical(ways: Ways, name: str, chunked: bool) -> None:
    """What the caller gets and what the provider is sent, directly and through the Steward."""
    recording = RECORDINGS[name]
    request = _request(recording, ways, chunked and bool(recording.request_body))
    ways.provider.take()
    direct = call(ways.provider.port, request)
    through = call(int(ways.steward_url.rpartition(":")[2]), request)
    told_directly, told_by_steward = ways.provider.take()
    assert_same_request(told_by_steward, told_directly)
    assert_same_answer(through, direct)
    assert through.body == recording.body
    assert _decoded(through) == recording.decoded


def assert_same_answer(through: Message, directly: Message) -> None:
    """Status, end-to-end fields in order with repeats, body octets; one field of ours, and only one."""
    assert through.status == directly.status
    assert through.end_to_end() == directly.end_to_end()
    assert through.head.values(b"content-length") == directly.head.values(b"content-length")
    assert through.body == directly.body
    assert [name for name, _ in through.ours()] == [b"x-majordomo-request-id"]


def _request(recording: Recording, ways: Ways, chunked: bool) -> Request:
    fields: Fields = [(b"X-Recording-Id", recording.id.encode()), *CREDENTIALS[recording.provider]]
    fields += [(name.encode(), value.encode()) for name, value in ways.headers.items()]
    fields += [(b"accept-encoding", b"gzip, br"), (b"X-Twice", b"b"), (b"User-Agent", b"plain/1"), (b"x-tWICE", b"a")]
    if recording.content_type:
        fields.append((b"Content-Type", recording.content_type.encode()))
    if _shared_with_another(recording):
        fields.append((b"X-Majordomo-Provider", recording.provider.encode()))
    return Request(recording.method.encode(), recording.target.encode(), fields, recording.request_body, chunked)


def _shared_with_another(recording: Recording) -> bool:
    """Anthropic's OpenAI-compatible chat stands at OpenAI's own path: only a header can tell."""
    return recording.provider == "anthropic" and recording.endpoint == "chat"


def _decoded(answer: Message) -> bytes:
    coding = b"".join(answer.head.values(b"content-encoding"))
    if coding == b"gzip":
        return gzip.decompress(answer.body)
    return bytes(brotli.decompress(answer.body)) if coding == b"br" else answer.body
