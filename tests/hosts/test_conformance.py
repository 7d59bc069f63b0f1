"""One set of expectations for every host: what a caller sees, what is kept of his call, and what becomes of it.

Each entry is started once and serves all of its tests; what a host cannot keep it says itself, in entries.py.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from io import BytesIO

import orjson
import pytest

from steward.adapters.postgres_local import LocalPostgres
from steward.exchange import BodyState, Outcome, Record
from tests.hostile.test_desync import REFUSED, START, STARTS
from tests.hosts.entries import ENTRIES, Entry, Ground, registered, request_id
from tests.hosts.fronts import joined
from tests.servers.ingest_butler import IngestButler
from tests.servers.lambda_rie import emulator_or_skip
from tests.servers.plain_http import Fields, Message, Request, call, read_answer
from tests.servers.provider import Provider
from tests.servers.raw_caller import say
from tests.servers.replay import Recording, recordings
from tests.servers.steward import Installation
from tests.servers.waiting import eventually

RECORDINGS = recordings()
ABSENT = pytest.mark.skipif(not RECORDINGS, reason="no recordings lie beside this repository")
CREDENTIALS: dict[str, Fields] = {
    "openai": [(b"Authorization", b"Bearer sk-test")],
    "anthropic": [(b"x-api-key", b"sk-ant-test"), (b"anthropic-version", b"2023-06-01")],
    "gemini": [(b"x-goog-api-key", b"AIza-test")],
}
MOST_ROWS = 100_000
TAG: Fields = [(b"X-Majordomo-Suite", b"hosts")]


@pytest.fixture(scope="module")
def house(
    postgres_server: LocalPostgres, provider: Provider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Installation, IngestButler]]:
    """One installation for every entry, and its Butler."""
    with registered(postgres_server, tmp_path_factory.mktemp("hosts"), provider.url) as made:
        yield made


@pytest.fixture(scope="module", params=list(ENTRIES))
def entry(
    request: pytest.FixtureRequest,
    house: tuple[Installation, IngestButler],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Entry]:
    ground = Ground(*house, tmp_path_factory.mktemp("entry"), emulator_or_skip)
    with ExitStack() as undo:
        yield ENTRIES[request.param](ground, undo)


def of_recording(recording: Recording) -> Request:
    """Its call, with a repeated field and an accepted coding."""
    fields: Fields = [(b"X-Recording-Id", recording.id.encode()), *CREDENTIALS[recording.provider], *TAG]
    fields += [(b"accept-encoding", b"gzip, br"), (b"X-Twice", b"b"), (b"User-Agent", b"plain/1"), (b"x-tWICE", b"a")]
    if recording.content_type:
        fields.append((b"Content-Type", recording.content_type.encode()))
    if recording.provider == "anthropic" and recording.endpoint == "chat":  # OpenAI's own path: only a field can tell
        fields.append((b"X-Majordomo-Provider", b"anthropic"))
    return Request(recording.method.encode(), recording.target.encode(), fields, recording.request_body)


def assert_unchanged(entry: Entry, provider: Provider, recording: Recording) -> str:
    """One recording, directly and through the entry: the same request at the provider, the same answer. Its id."""
    request = of_recording(recording)
    provider.take()
    direct = call(provider.port, request)
    through = entry.call(request)
    told_directly, told_by_steward = provider.take()
    assert told_by_steward.target == told_directly.target
    assert told_by_steward.message.body == told_directly.message.body
    assert told_by_steward.message.ours() == []
    sent = [each for each in told_by_steward.message.end_to_end() if each[0] not in entry.added]
    assert entry.kept(sent) == entry.kept(told_directly.message.end_to_end())
    assert through.status == direct.status
    came = [each for each in through.end_to_end() if each[0] not in entry.framed]
    assert entry.kept(came) == entry.kept(direct.end_to_end())
    assert through.body == direct.body == recording.body
    assert ours_of(through) <= {b"x-majordomo-request-id", *([b"x-majordomo-streaming"] if entry.buffered else [])}
    return request_id(through)


def ours_of(answer: Message) -> set[bytes]:
    return {name for name, _ in answer.ours()}


@ABSENT
def test_every_recording_passes_unchanged_and_is_accounted_for_once(entry: Entry, provider: Provider) -> None:
    """One row and one body each, exported to Butler, and no schedule has run."""
    assert {recording.provider for recording in RECORDINGS.values()} == set(CREDENTIALS)
    before = {record.id for record in entry.installation.rows(MOST_ROWS)}
    tried = sample() if entry.sample else list(RECORDINGS.values())
    calls = {assert_unchanged(entry, provider, recording): recording for recording in tried}
    assert len(calls) == len(tried) > 20
    records = {ident: entry.installation.settled(ident) for ident in calls}
    assert {str(record.id) for record in entry.installation.rows(MOST_ROWS) if record.id not in before} == set(calls)
    for ident, record in records.items():
        assert (record.outcome, record.body_state) == (Outcome.COMPLETE, kept_of(calls[ident])), calls[ident].id
        assert record.tags == {"Suite": "hosts"}
        assert record.status_code == calls[ident].status
        assert record.provider == calls[ident].provider
    keys = [record.body_key for record in records.values() if record.body_state is BodyState.STORED]
    assert len(set(keys)) == len(keys)
    stored = [path for path in entry.installation.bodies.rglob("*") if path.is_file()]
    assert len(stored) == sum(record.body_key is not None for record in entry.installation.rows(MOST_ROWS))
    eventually(lambda: is_exported(entry, records))


def sample() -> list[Recording]:
    """One of each provider, kind of call, framing, coding and status."""
    kinds = {(r.provider, r.endpoint, r.chunked, r.body == r.decoded, r.status): r for r in RECORDINGS.values()}
    return list(kinds.values())


def kept_of(recording: Recording) -> BodyState:
    """Google's uploads alone are not kept: their answers hand out addresses that are credentials."""
    return BodyState.NONE if recording.target.startswith("/upload/") else BodyState.STORED


def is_exported(entry: Entry, records: Mapping[str, Record]) -> bool:
    """Each as it is in the end."""
    known = entry.exported()
    return all(known.get(ident, {}).get("body_state") == record.body_state for ident, record in records.items())


def test_the_body_that_is_kept_is_the_callers(entry: Entry, provider: Provider) -> None:
    """Both sides of a call, read from the store."""
    body = orjson.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "héllo"}]})
    fields = [*CREDENTIALS["openai"], (b"Content-Type", b"application/json")]
    answer = entry.call(Request(b"POST", b"/v1/chat/completions", fields, body))
    assert answer.status == 200
    kept = orjson.dumps(entry.installation.body(entry.installation.settled(request_id(answer))))
    assert "héllo".encode() in kept
    assert b"sk-test" not in kept
    assert entry.installation.key.encode() not in kept


def test_nothing_of_a_call_is_left_for_the_next(entry: Entry) -> None:
    """No file in the temporary folder, also after bodies that are large for the host, and no descriptor more."""
    body = orjson.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "x" * 700_000}]})
    fields = [*CREDENTIALS["openai"], (b"Content-Type", b"application/json")]
    held: list[int] = []
    for _ in range(4):
        entry.installation.settled(request_id(entry.call(Request(b"POST", b"/v1/chat/completions", fields, body))))
        if entry.sandbox is not None:
            entry.sandbox.idle()
            inside = str(entry.sandbox.tmp)
            assert [path for path in entry.sandbox.descriptors().values() if path.startswith(inside)] == []
            held.append(len(entry.sandbox.descriptors()))
        assert entry.left() == []
    assert held[1:] == held[:1] * len(held[1:])


def test_no_key_no_call(entry: Entry, provider: Provider) -> None:
    provider.take()
    answer = entry.carried(Request(b"POST", b"/v1/chat/completions", CREDENTIALS["openai"], b"{}"))
    assert answer.status == 401
    assert provider.take() == []


def test_it_writes_no_secret_and_no_content_anywhere(entry: Entry) -> None:
    """Keys, credentials and words of calls, in all that the process wrote (F4)."""
    canary = b"canary-of-a-caller-4711"
    fields = [(b"Authorization", b"Bearer sk-" + canary), (b"Content-Type", b"application/json")]
    body = orjson.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": canary.decode()}]})
    target = b"/v1/chat/completions?secret=" + canary
    entry.installation.settled(request_id(entry.call(Request(b"POST", target, fields, body))))
    said = entry.installation.said()
    assert said
    assert canary not in said
    assert entry.installation.key.encode() not in said


def test_gzip_is_only_a_coding(entry: Entry) -> None:
    """A compressed request reaches the provider as it was sent."""
    body = gzip.compress(b'{"model": "gpt-4o"}', mtime=0)
    fields = [*CREDENTIALS["openai"], (b"Content-Type", b"application/json"), (b"Content-Encoding", b"gzip")]
    assert entry.call(Request(b"POST", b"/v1/chat/completions", fields, body)).status == 200


# F9: the table of tests/hostile/test_desync.py, and where an event cannot say what a line of it does

CANARY = b"caller-of-the-gate"
NO_EVENT = {
    "a line without a colon": "a field of an event has a name and a value",
    "no version": "an event names no version",
    "HTTP/2": "an event names no version",
    "HTTP/0.9 disguised": "an event names no version",
    "a tab": "an event has a method and a path, and nothing between them",
}


def head_of(lines: list[bytes], key: str) -> Fields:
    """A good head's fields and those of the lines; a folded line is part of the value before it, as it stands."""
    fields: Fields = [
        (b"host", b"steward.test"),
        (b"x-majordomo-key", key.encode()),
        (b"authorization", b"Bearer sk-test"),
        (b"x-canary", CANARY),
    ]
    for line in lines:
        if line.startswith(b" "):
            name, value = fields.pop()
            fields.append((name, value + b"\r\n" + line))
        else:
            name, _, value = line.partition(b":")
            fields.append((name, value.strip(b" \t")))
    return fields


def octets_of(start: bytes, lines: list[bytes], body: bytes, key: str) -> bytes:
    """The same on a wire."""
    good = [b"Host: steward.test", b"X-Majordomo-Key: " + key.encode(), b"Authorization: Bearer sk-test"]
    return b"\r\n".join([start, *good, b"x-canary: " + CANARY, *lines]) + b"\r\n\r\n" + body


def verdict(entry: Entry, start: bytes, lines: list[bytes], body: bytes) -> Message:
    """What the entry says to a head."""
    key = entry.installation.key
    if entry.handed is None or entry.front is None:
        heard = say(entry.port, octets_of(start, lines, body, key))
        assert len(heard.statuses) == 1
        return read_answer(BytesIO(heard.octets), b"POST")
    method, target, _ = start.split(b" ")
    event = entry.front.event(Request(method, target, [], body), head_of(lines, key))
    return entry.front.message(entry.handed(event))


def assert_refused(entry: Entry, provider: Provider, status: int, answer: Message) -> None:
    """With that status, in our own words; nothing reached the provider, and the next call is served."""
    assert answer.status == status
    assert b"x-majordomo-error" in ours_of(answer)
    assert orjson.loads(answer.body)["error"]["message"]
    assert provider.take() == []
    assert entry.call(Request(b"POST", b"/v1/chat/completions", CREDENTIALS["openai"], b"{}")).status == 200
    provider.take()


@pytest.mark.parametrize("name", REFUSED)
def test_a_head_that_could_be_read_in_two_ways_is_refused(entry: Entry, provider: Provider, name: str) -> None:
    if entry.handed is not None and name in NO_EVENT:
        pytest.skip(NO_EVENT[name])
    status, lines, body = REFUSED[name]
    provider.take()
    assert_refused(entry, provider, status, verdict(entry, START, lines, body))


@pytest.mark.parametrize("name", STARTS)
def test_a_first_line_that_could_lead_elsewhere_is_refused(entry: Entry, provider: Provider, name: str) -> None:
    if entry.handed is not None and name in NO_EVENT:
        pytest.skip(NO_EVENT[name])
    provider.take()
    answer = verdict(entry, STARTS[name], [b"Content-Length: 2", b"Connection: close"], b"{}")
    if name in entry.verdicts:
        assert answer.status == entry.verdicts[name]
        assert provider.take() == []
    else:
        assert_refused(entry, provider, 400, answer)


@pytest.mark.parametrize(
    "line", [b"Host: other.test", b"x-majordomo-key: mdm_sk_other", b"authorization: Bearer sk-other"]
)
def test_two_of_what_must_be_one_are_refused(entry: Entry, provider: Provider, line: bytes) -> None:
    if entry.kept is joined:
        pytest.skip("a function URL joins repeats with a comma before anyone sees that there were two")
    provider.take()
    answer = verdict(entry, START, [line, b"Content-Length: 2", b"Connection: close"], b"{}")
    assert_refused(entry, provider, 400, answer)


def test_what_a_caller_says_of_where_he_comes_from_is_not_believed(entry: Entry, provider: Provider) -> None:
    """Fields that a front or a proxy would set are a caller's word where he sets them: they name nobody in a row."""
    fields = [*CREDENTIALS["openai"], (b"Forwarded", b"for=192.0.2.1"), (b"X-Real-Ip", b"192.0.2.1")]
    answer = entry.call(Request(b"POST", b"/v1/chat/completions", fields, b"{}"))
    assert answer.status == 200
    assert "192.0.2.1" not in repr(entry.installation.settled(request_id(answer)))
