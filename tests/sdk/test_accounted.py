"""What is left of a call that an official SDK made through the Steward: its row, its body, and no word in the log."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import anthropic
import openai
import pytest

from steward.adapters.postgres_local import LocalPostgres
from steward.exchange import BodyState, Outcome, Record, UsageSource
from tests.sdk.google_sdk import genai, types
from tests.servers.examples import ERROR_MESSAGE, TEXT, respond
from tests.servers.plain_http import Request, read_head
from tests.servers.socket_provider import Answer, Provider, Received
from tests.servers.steward import RunningSteward, running_steward
from tests.servers.waiting import eventually

USER: Any = [{"role": "user", "content": "Guten Tag, Köln!"}]
CANARY = "canary-7f3a"
SSE = [(b"Content-Type", b"text/event-stream")]
EVENT = b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","model":"gpt-4o-mini","choices":[]}\n\n'
Script = Callable[[Received], Answer]


class Scripted:
    """A provider that a test tells what to answer next; the examples where it was told nothing."""

    def __init__(self) -> None:
        self.next: Script = respond
        self.server = Provider(lambda received: self.next(received))


@pytest.fixture(scope="module")
def scripted() -> Iterator[Scripted]:
    """The provider behind `steward`."""
    made = Scripted()
    yield made
    made.server.close()


@pytest.fixture(scope="module")
def steward(
    postgres_server: LocalPostgres, scripted: Scripted, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningSteward]:
    """A Steward for this file, so that its log and its rows are this file's."""
    with running_steward(postgres_server, tmp_path_factory.mktemp("accounted"), scripted.server.url) as running:
        yield running


@pytest.fixture(autouse=True)
def _examples(scripted: Scripted) -> None:
    scripted.next = respond


def openai_client(steward: RunningSteward) -> openai.OpenAI:
    """The SDK with a key and a tag."""
    headers = {"X-Majordomo-Key": steward.key, "X-Majordomo-User-Id": "u-1"}
    return openai.OpenAI(base_url=f"{steward.url}/v1", api_key=f"sk-{CANARY}", default_headers=headers, max_retries=0)


def test_a_plain_call(steward: RunningSteward) -> None:
    """Model, tokens, cost, tag, times; both bodies in the object; the credential in neither."""
    with openai_client(steward) as client:
        raw = client.chat.completions.with_raw_response.create(model="gpt-4o-mini", messages=USER)
    row = steward.settled(raw.headers["x-majordomo-request-id"])
    assert (row.provider, row.model, row.status_code) == ("openai", "gpt-4o-mini-2024-07-18", 200)
    assert (row.input_tokens, row.output_tokens, row.cached_tokens, row.reasoning_tokens) == (19, 10, 8, 4)
    # $0.15 a million tokens in, half of it for the 8 that were cached, $0.60 out
    assert row.total_cost == Decimal("0.00000825")
    assert (row.outcome, row.usage_source, row.body_state) == (Outcome.COMPLETE, UsageSource.PROVIDER, BodyState.STORED)
    assert row.tags == {"User-Id": "u-1"}
    assert row.response_time_ms is not None
    body = steward.body(row)
    assert body["request"]["body"]["messages"] == USER
    assert body["response"]["body"]["choices"][0]["message"]["content"] == TEXT
    assert CANARY not in str(body)
    assert row.provider_api_key_hash is not None


def test_streams_of_all_three(steward: RunningSteward) -> None:
    """Usage at the end of a stream is found in each dialect, by each SDK's own call."""
    headers = {"X-Majordomo-Key": steward.key}
    before = {row.id for row in steward.rows()}
    with openai_client(steward) as client, client.responses.stream(model="gpt-4o-mini", input="Hallo") as events:
        assert list(events)
    with (
        anthropic.Anthropic(base_url=steward.url, api_key="sk-ant", default_headers=headers) as messages,
        messages.messages.stream(model="claude-haiku-4-5", max_tokens=9, messages=USER) as stream,
    ):
        assert stream.get_final_text() == TEXT
    google = genai.Client(api_key="AIza", http_options=types.HttpOptions(base_url=steward.url, headers=headers))
    assert list(google.models.generate_content_stream(model="gemini-2.5-flash", contents="Hallo"))
    google.close()

    def new() -> list[Record]:
        return [row for row in steward.rows() if row.id not in before]

    eventually(lambda: len(new()) == 3)
    made = new()
    rows = {row.provider: row for row in (steward.settled(str(each.id)) for each in made)}
    assert {name: (row.input_tokens, row.output_tokens) for name, row in rows.items()} == {
        "openai": (21, 9),
        "anthropic": (11 + 7 + 5, 13),
        "gemini": (17, 6 + 4),
    }
    assert all(row.streamed and row.total_cost for row in rows.values())


def test_the_first_event_is_there_before_the_second_is_sent(steward: RunningSteward, scripted: Scripted) -> None:
    """The provider sends the second only when the caller has the first."""
    has_the_first = threading.Event()

    def one_by_one() -> Iterator[bytes]:
        yield EVENT
        assert has_the_first.wait(30)
        yield EVENT
        yield b"data: [DONE]\n\n"

    scripted.next = lambda _: Answer(200, SSE, one_by_one(), "chunked")
    with openai_client(steward) as client:
        chunks = iter(client.chat.completions.create(model="gpt-4o-mini", messages=USER, stream=True))
        next(chunks)
        has_the_first.set()
        assert len(list(chunks)) == 1


def test_a_caller_who_leaves(steward: RunningSteward, scripted: Scripted) -> None:
    """The provider's side is closed within a second; the row says so."""
    told = threading.Event()
    scripted.next = lambda _: Answer(200, SSE, _endless(told), "chunked")
    head = _ask_and_leave(steward)
    received = scripted.server.newest()
    assert received.gone.wait(1.0)
    told.set()
    row = steward.settled(head)
    assert (row.outcome, row.status_code) == (Outcome.CLIENT_CANCELLED, 200)


def _endless(told: threading.Event) -> Iterator[bytes]:
    yield EVENT
    assert told.wait(30)


def _ask_and_leave(steward: RunningSteward) -> bytes:
    """Reads the first event of a stream and closes; returns the request id."""
    fields = [(b"Authorization", b"Bearer sk-test"), (b"X-Majordomo-Key", steward.key.encode())]
    request = Request(b"POST", b"/v1/chat/completions", fields, b'{"model": "gpt-4o-mini", "stream": true}')
    with (
        socket.create_connection(("127.0.0.1", steward.port), timeout=30) as sock,
        sock.makefile("rb") as stream,
    ):
        sock.sendall(request.octets(b"127.0.0.1"))
        head = read_head(stream)
        assert head is not None
        while not stream.readline().startswith(b"data: "):
            pass
        return head.values(b"x-majordomo-request-id")[0]


def test_a_provider_that_dies(steward: RunningSteward) -> None:
    """The caller's stream breaks, the row says `upstream_failed`, what had come is kept."""
    with openai_client(steward) as client:
        raw = client.chat.completions.with_raw_response.create(
            model="gpt-4o-mini", messages=USER, stream=True, extra_headers={"x-example": "broken"}
        )
        with pytest.raises(Exception, match=r"incomplete chunked read|Connection error"):
            list(raw.parse())
    row = steward.settled(raw.headers["x-majordomo-request-id"])
    assert (row.outcome, row.status_code) == (Outcome.UPSTREAM_FAILED, 200)
    assert row.usage_source is not UsageSource.PROVIDER
    assert "data: " in str(steward.body(row)["response"]["body"])


def test_an_error_of_the_provider(steward: RunningSteward) -> None:
    """A code in the row, the words in the body alone."""
    with openai_client(steward) as client, pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model="gpt-4o-mini", messages=USER, extra_headers={"x-example": "429"})
    row: Record = steward.settled(caught.value.response.headers["x-majordomo-request-id"])
    assert (row.status_code, row.error_message) == (429, "rate_limited")
    assert (row.input_tokens, row.total_cost) == (None, None)
    assert ERROR_MESSAGE in str(steward.body(row)["response"]["body"])


def test_nothing_of_it_is_in_the_log(steward: RunningSteward) -> None:
    """Credential, prompt, answer, error and key: at `debug`, in no line; the calls themselves are there."""
    with openai_client(steward) as client:
        raw = client.chat.completions.with_raw_response.create(
            model="gpt-4o-mini", messages=[{"role": "user", "content": f"{CANARY} prompt"}], extra_query={"q": CANARY}
        )
    request_id = raw.headers["x-majordomo-request-id"]
    steward.settled(request_id)
    said = steward.said()
    assert request_id.encode() in said
    for word in (CANARY, "Köln", "K\\u00f6ln", "Grüße", ERROR_MESSAGE, steward.key, "sk-ant", "AIza"):
        assert word.encode() not in said
