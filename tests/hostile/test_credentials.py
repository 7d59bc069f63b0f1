"""Credentials in every place a call has for them: in no body object and in no row (F16).

A row keeps a keyed hash of the provider's credential, which gives nothing of it away; a body is kept as it was said.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from steward.exchange import BodyState
from tests.servers.plain_http import Request
from tests.servers.socket_provider import Answer, Provider, Received
from tests.servers.steward import RunningSteward
from tests.servers.waiting import eventually

SECRET = "zqcredential7f"
BODY = b'{"model":"gpt-4o-mini","messages":[]}'
ANSWER = b'{"model":"gpt-4o-mini","usage":{"prompt_tokens":1,"completion_tokens":1}}'


def secret(place: str) -> bytes:
    return f"{SECRET}{place}".encode()


CALLS = {
    "openai": Request(b"POST", b"/v1/chat/completions", [(b"Authorization", b"Bearer sk-" + secret("bearer"))], BODY),
    "anthropic": Request(b"POST", b"/v1/messages", [(b"X-Api-Key", b"sk-ant-" + secret("anthropic"))], BODY),
    "anthropic oauth": Request(b"POST", b"/v1/messages", [(b"Authorization", b"Bearer " + secret("oauth"))], BODY),
    "gemini": Request(b"POST", b"/v1beta/models/g:generateContent", [(b"X-Goog-Api-Key", secret("goog"))], BODY),
    "gemini query": Request(b"POST", b"/v1beta/models/g:generateContent?alt=sse&key=" + secret("query"), [], BODY),
    "other query": Request(b"POST", b"/v1/chat/completions?api_key=" + secret("q2") + b"&beta=1", [], BODY),
    "cookie": Request(b"POST", b"/v1/chat/completions", [(b"Cookie", b"session=" + secret("cookie"))], BODY),
    "proxy": Request(b"POST", b"/v1/chat/completions", [(b"Proxy-Authorization", b"Basic " + secret("proxy"))], BODY),
    "unheard of": Request(b"POST", b"/v1/chat/completions", [(b"X-New-Secret", secret("new"))], BODY),
    "mistyped": Request(b"POST", b"/v1/chat/completions", [(b"X-Majordomo-Token", secret("tag"))], BODY),
    "secret route": Request(b"POST", b"/v1/realtime/client_secrets", [], b'{"note":"' + secret("body") + b'"}'),
}


def respond(received: Received) -> Answer:
    """An answer whose head hands out secrets."""
    fields = [
        (b"Content-Type", b"application/json"),
        (b"Set-Cookie", b"session=" + secret("set-cookie")),
        (b"X-New-Token", secret("answer")),
        (b"Location", b"https://elsewhere.example/?key=" + secret("location")),
    ]
    said = b'{"value":"' + secret("made") + b'"}' if "client_secrets" in received.path else ANSWER
    return Answer(200, fields, [said])


@pytest.fixture
def provider() -> Iterator[Provider]:
    made = Provider(respond)
    yield made
    made.close()


def test_no_credential_is_in_an_object_or_a_row(
    make_steward: Callable[..., RunningSteward], provider: Provider
) -> None:
    steward = make_steward(provider.url)
    for name, asked in CALLS.items():
        assert steward.call(asked).status == 200, name
    done = (BodyState.STORED, BodyState.NONE)
    eventually(lambda: len(rows := steward.rows()) == len(CALLS) and all(row.body_state in done for row in rows), 30)
    rows = steward.rows()
    assert [row.body_state for row in rows].count(BodyState.NONE) == 1, "the route that hands out secrets keeps no body"
    assert SECRET not in repr([(row, dict(row.tags)) for row in rows])
    objects = [path for path in Path(steward.bodies).rglob("*") if path.is_file()]
    assert len(objects) == len(CALLS) - 1
    for path in objects:
        kept = gzip.decompress(path.read_bytes())
        assert b'"method"' in kept
        assert SECRET.encode() not in kept
        assert steward.key.encode() not in kept
    assert steward.key not in repr(rows)
    assert len({row.provider_api_key_hash for row in rows if row.provider_api_key_hash}) == 5
