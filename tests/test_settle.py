"""From an exchange to its row, its object and its one line: exact, safe to repeat, hurt by nothing that is in it."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from functools import cache
from hashlib import sha256
from itertools import permutations
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import brotli  # type: ignore[import-untyped]
import orjson
import pytest
import zstandard

from steward.adapters.memory import MemoryLedger
from steward.adapters.memory_bodies import MemoryBodyStore
from steward.adapters.postgres_ledger import PostgresLedger
from steward.errors import LedgerUnavailable, StoreRefused, StoreUnavailable
from steward.exchange import (
    LOCAL_ORG,
    Body,
    BodyState,
    Caller,
    ErrorCode,
    Exchange,
    Intent,
    Outcome,
    Record,
    Timings,
    UsageSource,
)
from steward.ports import BodyStore, Ledger, Put, PutResult, Refused
from steward.price import PriceBook, bundled
from steward.settle import Settler, give_up
from steward.stores import OneStore
from tests.exchanges import AT, CALLER, exchange, route, sse
from tests.said import Said, listening
from tests.servers.postgres import Database

CHAT = route("/v1/chat/completions")
MESSAGES = route("/v1/messages")
GEMINI = route("/v1beta/models/gemini-2.5-flash:generateContent")
GEMINI_STREAM = route("/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse")
EMBEDDINGS = route("/v1/embeddings")
SECRETIVE = route("/v1/realtime/client_secrets")
CANARY = "CANARY-4b1d"
USAGE = {"prompt_tokens": 1000, "completion_tokens": 100, "prompt_tokens_details": {"cached_tokens": 600}}
ANSWER = {"model": "gpt-4o-mini-2024-07-18", "choices": [], "usage": USAGE}


@cache
def prices() -> PriceBook:
    """The bundled list."""
    return bundled({"my-deployment": "gpt-4o-mini"})


class House:
    """A settler with its ledger and its store."""

    def __init__(
        self,
        ledger: Ledger | None = None,
        store: BodyStore | None = None,
        keep_bodies: bool = True,
        bodies: bool = True,
    ) -> None:
        self.ledger = ledger or MemoryLedger()
        self.bodies = MemoryBodyStore()
        self.store = (store or self.bodies) if bodies else None
        self.settler = Settler(self.ledger, OneStore(self.store), prices, keep_bodies)

    def settled(self, call: Exchange) -> Record:
        """The row of a call that was settled."""
        [settling] = self.settler.settle([call])
        row = self.row(call)
        assert row == settling.record
        return row

    def row(self, call: Exchange) -> Record:
        """The row as the ledger has it."""
        found = self.ledger.get(call.caller.org_id, call.id)
        assert found is not None
        return found.record

    def revision(self, call: Exchange) -> int:
        """How often it changed."""
        found = self.ledger.get(call.caller.org_id, call.id)
        assert found is not None
        return found.revision

    def object(self, row: Record) -> Any:
        """The object that the row names."""
        assert row.body_key is not None
        return orjson.loads(gzip.decompress(self.bodies.objects[row.body_key]))


@pytest.fixture(autouse=True)
def said() -> Iterator[Said]:
    """What the log says."""
    with listening() as heard:
        yield heard


def a_call(answer: object = ANSWER, to: Any = CHAT, **more: Any) -> Exchange:
    """A call with an id of its own."""
    made = {name: more.pop(name) for name in ("asked", "status", "coding", "outcome") if name in more}
    return replace(exchange(to, answer, **made), id=uuid4(), **more)


def on_disk(data: bytes) -> Body:
    """One side of a call, as it is captured when it is large."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - whoever settles closes it
    file.write(data)
    return Body(file=file, size_bytes=len(data))


# each dialect, plain, streamed and compressed: the row, exact

OPENAI_STREAM = sse(
    {"model": "gpt-4o-mini-2024-07-18", "choices": [{"delta": {"content": "é"}}], "usage": None},
    {"model": "gpt-4o-mini-2024-07-18", "choices": [], "usage": USAGE},
    "[DONE]",
)
ANTHROPIC_USAGE = {
    "input_tokens": 400,
    "cache_creation_input_tokens": 200,
    "cache_read_input_tokens": 300,
    "output_tokens": 50,
    "service_tier": "standard",
}
ANTHROPIC = {"type": "message", "model": "claude-3-5-haiku-20241022", "content": [], "usage": ANTHROPIC_USAGE}
ANTHROPIC_STREAM = b"".join(
    b"event: %s\ndata: %s\n\n" % (str(event["type"]).encode(), json.dumps(event).encode())
    for event in (
        {"type": "message_start", "message": {**ANTHROPIC, "usage": {**ANTHROPIC_USAGE, "output_tokens": 1}}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "é"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 50}},
        {"type": "message_stop"},
    )
)
GEMINI_USAGE = {
    "promptTokenCount": 100,
    "cachedContentTokenCount": 40,
    "candidatesTokenCount": 20,
    "thoughtsTokenCount": 5,
    "totalTokenCount": 125,
}
GEMINI_ANSWER = {
    "candidates": [{"finishReason": "STOP"}],
    "modelVersion": "gemini-2.5-flash",
    "usageMetadata": GEMINI_USAGE,
}
EMBEDDED = {"model": "text-embedding-3-small", "data": [], "usage": {"prompt_tokens": 1000, "total_tokens": 1000}}

# name: (route, answer, model, (input, output, cached, written, reasoning), US dollars)
EXACT: dict[str, tuple[Any, object, str, tuple[int | None, ...], str]] = {
    # 400 at 0.15, 600 at 0.075, 100 at 0.60 a million
    "openai": (CHAT, ANSWER, "gpt-4o-mini-2024-07-18", (1000, 100, 600, None, None), "0.000165"),
    "openai streamed": (CHAT, OPENAI_STREAM, "gpt-4o-mini-2024-07-18", (1000, 100, 600, None, None), "0.000165"),
    "embeddings": (EMBEDDINGS, EMBEDDED, "text-embedding-3-small", (1000, None, None, None, None), "0.00002"),
    # 400 at 0.80, 200 at 1.00, 300 at 0.08, 50 at 4.00 a million
    "anthropic": (MESSAGES, ANTHROPIC, "claude-3-5-haiku-20241022", (900, 50, 300, 200, None), "0.000744"),
    "anthropic streamed": (
        *(MESSAGES, ANTHROPIC_STREAM, "claude-3-5-haiku-20241022"),
        *((900, 50, 300, 200, None), "0.000744"),
    ),
    # 60 at 0.30, 40 at 0.03, 25 at 2.50 a million
    "gemini": (GEMINI, GEMINI_ANSWER, "gemini-2.5-flash", (100, 25, 40, None, 5), "0.0000817"),
    "gemini streamed": (
        *(GEMINI_STREAM, sse({"modelVersion": "gemini-2.5-flash"}, GEMINI_ANSWER), "gemini-2.5-flash"),
        *((100, 25, 40, None, 5), "0.0000817"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("coding", [None, "gzip"])
@pytest.mark.parametrize("name", EXACT)
def test_a_call_of_each_dialect_is_exact_to_the_token_and_the_cent(name: str, coding: str | None) -> None:
    to, answer, model, tokens, usd = EXACT[name]
    streamed = "streamed" in name
    octets = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    wire = gzip.compress(octets) if coding else octets
    asked = {"model": "asked", "messages": [{"role": "user", "content": "é"}]}
    call = a_call(wire, to, asked=asked, coding=coding, timings=Timings(1_500, 20_000, 30_499, 2_000_500))
    call.response.size_bytes, call.request.size_bytes = len(wire), len(call.request.data)
    it = House()
    row = it.settled(call)
    key = f"{CALLER.key_id}/2026-11-20/{call.id}.json.gz"
    stored = it.bodies.objects[key]
    assert row.total_cost is not None and row.input_cost is not None and row.output_cost is not None
    assert row.input_cost + row.output_cost == row.total_cost
    assert row.price_source is not None and row.price_source.startswith("genai-prices ")
    assert row == Record(
        id=call.id,
        org_id=LOCAL_ORG,
        api_key_id=CALLER.key_id,
        provider=to.provider,
        request_path=to.template,
        request_method="POST",
        requested_at=AT,
        outcome=Outcome.COMPLETE,
        body_state=BodyState.STORED,
        usage_source=UsageSource.PROVIDER,
        model=model,
        responded_at=AT + timedelta(microseconds=2_000_500),
        response_time_ms=2_001,
        ttft_ms=30 if streamed else None,
        sent_us=1_500,
        head_us=20_000,
        first_byte_us=30_499,
        last_byte_us=2_000_500,
        **dict(zip(TOKENS, tokens, strict=True)),  # type: ignore[arg-type]
        input_cost=row.input_cost,
        output_cost=row.output_cost,
        total_cost=Decimal(usd),
        price_source=row.price_source,
        service_tier="standard" if to is MESSAGES else None,
        streamed=streamed,
        status_code=200,
        request_bytes=len(call.request.data),
        response_bytes=len(wire),
        body_key=key,
        body_url=f"memory:///{key}",
        body_sha256=sha256(stored).hexdigest(),
        body_bytes=len(stored),
    )
    document = it.object(row)
    assert document["request_id"] == str(call.id)
    assert document["request"]["body"] == asked
    assert document["response"]["body"] == (octets.decode() if streamed else answer)


TOKENS = ("input_tokens", "output_tokens", "cached_tokens", "cache_creation_tokens", "reasoning_tokens")


def test_who_called_and_what_he_said_of_it_is_in_the_row() -> None:
    caller = Caller(uuid4(), uuid4(), uuid4(), uuid4())
    call = a_call(
        caller=caller,
        tags={"User-Id": "u-1", "Feature": "größe"},
        tags_dropped=3,
        provider_api_key_hash="5" * 64,
        provider_api_key_alias="production",
        client="openai-python",
        claude_session_id="24",
        claude_session_name="twenty-five",
    )
    row = House().settled(call)
    assert (row.org_id, row.api_key_id, row.user_id, row.registration_id) == (
        *(caller.org_id, caller.key_id, caller.user_id),
        caller.registration_id,
    )
    assert (row.tags, row.tags_dropped) == ({"User-Id": "u-1", "Feature": "größe"}, 3)
    assert (row.provider_api_key_hash, row.provider_api_key_alias) == ("5" * 64, "production")
    assert (row.client, row.claude_session_id, row.claude_session_name) == ("openai-python", "24", "twenty-five")


@pytest.mark.parametrize("outcome", Outcome)
def test_a_call_that_was_never_answered_has_its_row(outcome: Outcome) -> None:
    row = House().settled(a_call(None, status=None, outcome=outcome))
    assert (row.outcome, row.status_code, row.body_state) == (outcome, None, BodyState.STORED)
    assert (row.usage_source, row.model, row.total_cost, row.input_tokens) == (UsageSource.NONE, None, None, None)
    assert (row.responded_at, row.response_time_ms, row.ttft_ms) == (None, None, None)


def test_the_customers_own_name_for_a_model_is_priced_and_said() -> None:
    row = House().settled(a_call({**ANSWER, "model": "my-deployment"}))
    assert (row.model, row.model_alias_found, row.total_cost) == ("my-deployment", True, Decimal("0.000165"))


def test_the_newest_prices_are_asked_for_each_call() -> None:
    books = iter([PriceBook(prices().base), prices()])
    settler = Settler(MemoryLedger(), OneStore(None), lambda: next(books))
    call = {**ANSWER, "model": "my-deployment"}
    costs = [settler.meter(a_call(call)).record.total_cost for _ in range(2)]
    assert costs == [None, Decimal("0.000165")]


# unknown is unknown


def test_an_unknown_price_is_none_and_never_nought() -> None:
    row = House().settled(a_call({**ANSWER, "model": "no-such-model-7"}))
    assert (row.model, row.input_tokens, row.output_tokens) == ("no-such-model-7", 1000, 100)
    assert (row.input_cost, row.output_cost, row.total_cost, row.price_source) == (None, None, None, None)


HOSTILE = ["-1", str(2**63), str(10**9 + 1), "1e999", "NaN", "Infinity", "1.5", '"7"', "true", "[]", "null", "9" * 4000]


def hostile_calls(number: bytes) -> list[Exchange]:
    """The number as a count, in each dialect; plain and streamed."""
    body = b'{"model":"gpt-4o-mini","usage":{"prompt_tokens":%s,"completion_tokens":%s}}' % (number, number)
    said = b'{"model":"claude-3-5-haiku-20241022","usage":{"input_tokens":%s,"output_tokens":2}}' % number
    counted = b'{"modelVersion":"gemini-2.5-flash","usageMetadata":{"promptTokenCount":%s}}' % number
    return [
        a_call(body),
        a_call(b"data: " + body + b"\n\n"),
        a_call(said, MESSAGES),
        a_call(counted, GEMINI),
        a_call(b"data: " + counted + b"\n\n", GEMINI_STREAM),
    ]


def test_hostile_counts_are_unknown_in_the_row_and_so_is_their_price(postgres: Database) -> None:
    it = House(PostgresLedger(postgres.engine), bodies=False)
    calls = [call for number in HOSTILE for call in hostile_calls(number.encode())]
    assert len(it.settler.settle(calls)) == len(HOSTILE) * 5
    for call in calls:
        row = it.row(call)
        assert (row.input_tokens, row.input_cost, row.total_cost) == (None, None, None), (
            call.response.content().reveal()
        )


@pytest.mark.parametrize(
    ("cost", "kept"),
    [("0.00042", "0.00042"), ("0", "0"), ("-1", None), ("10001", None), ("1e999", None), ("NaN", None)],
)
def test_the_providers_own_price_stands_beside_ours(cost: str, kept: str | None) -> None:
    """Ours is what counts; his word is never taken for it (SECURITY F15)."""
    answer = json.dumps({**ANSWER, "usage": {**USAGE, "cost": 7}}).replace("7}", f"{cost}}}")
    row = House().settled(a_call(answer.encode()))
    assert row.total_cost == Decimal("0.000165")
    assert row.provider_cost == (None if kept is None else Decimal(kept))


# the model's domain (SECURITY F3)


def test_a_model_that_nobody_knows_stays_out_of_the_row_unless_the_call_was_answered(said: Said) -> None:
    for status, asked, model in (
        (404, f"{CANARY} is my prompt", "other"),
        (404, CANARY, "other"),
        (404, "gpt-4o-mini", "gpt-4o-mini"),
        (404, "my-deployment", "my-deployment"),
        (200, CANARY, CANARY),
        (200, f"{CANARY} with a space", "other"),
        (200, "sk-" + "a" * 40, "other"),
        (200, "x" * 129, "other"),
        (200, "a\nb", "other"),
        (None, CANARY, "other"),
        (503, CANARY, "other"),
    ):
        row = House().settled(a_call({"error": {}}, asked={"model": asked}, status=status))
        assert (row.model, row.original_model) == (model, None), asked
    answered = [line for line in said.lines("call") if line.get("model") == CANARY]
    assert len(answered) == 1
    assert said.text.count(CANARY) == 1


def test_paths_and_methods_are_members_of_closed_lists() -> None:
    to = replace(CHAT, template=f"/v1/{CANARY}")
    row = House().settled(replace(a_call(to=to), method=CANARY))
    assert (row.request_path, row.request_method) == ("/{other}", "OTHER")
    assert CANARY not in repr(row)


# bodies


def test_a_route_that_hands_out_secrets_keeps_no_body(said: Said) -> None:
    assert SECRETIVE.secretive
    it = House()
    row = it.settled(a_call({"value": CANARY}, SECRETIVE))
    assert (row.body_state, row.body_key, it.bodies.objects) == (BodyState.NONE, None, {})
    assert CANARY not in said.text


def test_metadata_only_keeps_no_body() -> None:
    it = House(keep_bodies=False)
    row = it.settled(a_call())
    assert (row.body_state, row.body_key, it.bodies.objects) == (BodyState.OFF, None, {})
    assert it.settled(a_call({}, SECRETIVE)).body_state is BodyState.NONE


def test_without_a_store_there_is_no_body() -> None:
    row = House(bodies=False).settled(a_call())
    assert (row.body_state, row.body_key, row.total_cost) == (BodyState.NONE, None, Decimal("0.000165"))


def test_a_store_that_refuses_is_failed_and_says_which(said: Said) -> None:
    it = House()
    it.bodies.fail(StoreRefused)
    call = a_call()
    row = it.settled(call)
    assert (row.body_state, row.body_key, row.body_sha256) == (BodyState.FAILED, None, None)
    [line] = said.lines("body_refused")
    assert line["id"] == str(call.id)
    it.bodies.fail(None)
    assert it.settled(a_call()).body_state is BodyState.STORED


def test_a_store_that_is_away_is_pending_and_stored_by_the_second_try(said: Said) -> None:
    it = House()
    it.bodies.fail(StoreUnavailable)
    call = a_call()
    [settling] = it.settler.settle([call])
    assert it.row(call).body_state is BodyState.PENDING
    it.settler.store([settling])
    assert (settling.record.body_state, it.bodies.objects) == (BodyState.PENDING, {})
    it.bodies.fail(None)
    it.settler.store([settling])
    it.settler.record([settling.record])
    row = it.row(call)
    assert (row.body_state, it.revision(call)) == (BodyState.STORED, 2)
    assert it.object(row)["response"]["body"] == ANSWER
    assert said.events().count("call") == 1


def test_what_waits_for_its_store_is_not_held_twice() -> None:
    it = House()
    it.bodies.fail(StoreUnavailable)
    request = on_disk(b'{"model":"gpt-4o-mini"}')
    file = request.file
    call = replace(a_call(), request=request)
    [settling] = it.settler.settle([call])
    settling.keep_object_alone()
    assert file is not None and file.closed
    assert settling.body is not None and settling.held_bytes == settling.body.size_bytes
    it.bodies.fail(None)
    it.settler.store([settling])
    document = it.object(settling.record)
    assert (document["request"]["body"], document["response"]["body"]) == ({"model": "gpt-4o-mini"}, ANSWER)


def test_what_is_given_up_is_said_in_the_row_and_given_back() -> None:
    it = House()
    it.bodies.fail(StoreUnavailable)
    request = on_disk(b"{}")
    file = request.file
    [settling] = it.settler.settle([replace(a_call(), request=request)])
    assert file is not None and not file.closed
    it.settler.record([give_up(settling, BodyState.SHED)])
    assert (file.closed, settling.body) == (True, None)
    assert it.row(settling.exchange).body_state is BodyState.SHED


def test_a_put_alone_leaves_the_verdict_to_who_can_wait(said: Said) -> None:
    it = House()
    call = a_call()
    settling = it.settler.meter(call)
    it.bodies.fail(StoreRefused)
    it.settler.put([settling])
    assert (settling.record.body_state, settling.refused) == (BodyState.PENDING, "store_refused")
    it.bodies.fail(StoreUnavailable)
    it.settler.put([settling])
    assert (settling.record.body_state, settling.refused) == (BodyState.PENDING, None)
    it.bodies.fail(None)
    it.settler.put([settling])
    assert (settling.record.body_state, settling.body) == (BodyState.STORED, None)
    assert it.object(settling.record)["response"]["body"] == ANSWER


def test_a_body_that_cannot_be_built_keeps_its_exchange_for_who_sets_it_aside() -> None:
    it = House()
    gone, whole = on_disk(b"{}"), on_disk(b"{}")
    file = gone.file
    assert file is not None
    settling = it.settler.meter(replace(a_call(), request=_BrokenLater(file=file), response=whole))
    file.close()
    it.settler.put([settling])
    assert (settling.broken, settling.record.body_state) == (True, BodyState.PENDING)
    assert whole.file is not None and not whole.file.closed
    settling.close()


def test_metering_again_says_nothing_again(said: Said) -> None:
    it = House()
    call = a_call()
    first, again = it.settler.meter(call), it.settler.meter(call, again=True)
    assert first.record == again.record
    assert said.events() == ["call"]


def test_bodies_for_which_the_queue_had_no_room_are_shed_in_the_row() -> None:
    it = House()
    shed = a_call(bodies_shed=True)
    row = it.settled(shed)
    assert (row.body_state, row.body_key, it.bodies.objects) == (BodyState.SHED, None, {})
    assert row.input_tokens == 1000
    assert House(keep_bodies=False).settled(shed).body_state is BodyState.OFF
    assert House(bodies=False).settled(shed).body_state is BodyState.NONE


class _Unreadable(Body):
    """A body that breaks on every look."""

    @property
    def kept_bytes(self) -> int:
        raise ValueError(CANARY)


class _BrokenLater(Body):
    """A body that the meter need not read, and that nobody can."""

    @property
    def kept_bytes(self) -> int:
        return 0


def test_poison_is_set_aside_alone_wherever_it_breaks(said: Said) -> None:
    it = House()
    calls = [a_call() for _ in range(7)]
    calls[1] = replace(calls[1], request=_Unreadable())
    gone = on_disk(b"{}").file
    assert gone is not None
    gone.close()
    calls[4] = replace(calls[4], request=_BrokenLater(file=gone))
    settled = it.settler.settle(calls)
    assert [each.exchange.id for each in settled] == [call.id for call in calls if call is not calls[1]]
    states = [each.record.body_state for each in settled]
    assert states == [BodyState.STORED] * 3 + [BodyState.FAILED] + [BodyState.STORED] * 2
    assert it.row(calls[4]).body_state is BodyState.FAILED
    assert it.ledger.get(LOCAL_ORG, calls[1].id) is None
    assert [line["id"] for line in said.lines("exchange_poisoned")] == [str(calls[1].id)]
    assert [line["id"] for line in said.lines("body_not_built")] == [str(calls[4].id)]
    assert CANARY not in said.text


# again, and out of order


def _with_files(call: Exchange) -> Exchange:
    """The same call, captured to disk."""
    return replace(call, request=on_disk(call.request.data), response=on_disk(call.response.data))


@pytest.mark.parametrize("large", [False, True])
def test_settled_twice_it_is_the_same_object_and_the_same_row(large: bool) -> None:
    it = House()
    call = a_call(gzip.compress(OPENAI_STREAM), asked={"model": "asked"}, coding="gzip", tags={"A": "b"})
    first = it.settled(_with_files(call) if large else call)
    objects = dict(it.bodies.objects)
    for _ in range(3):
        assert it.settled(_with_files(call) if large else call) == first
        assert (it.bodies.objects, it.revision(call)) == (objects, 1)


def test_a_batch_whose_rows_could_not_be_written_is_settled_again_whole() -> None:
    """The bodies were stored by then: their files are open still, so the second time they are the same."""

    class Away(MemoryLedger):
        away = True

        def record(self, batch: Sequence[Record]) -> list[Refused]:
            if self.away:
                raise LedgerUnavailable
            return super().record(batch)

    ledger = Away()
    it = House(ledger)
    call = _with_files(a_call(asked={"model": "asked"}))
    files = [call.request.file, call.response.file]
    with pytest.raises(LedgerUnavailable):
        it.settler.settle([call])
    objects = dict(it.bodies.objects)
    ledger.away = False
    row = it.settled(call)
    assert it.bodies.objects == objects
    assert it.object(row)["response"]["body"] == ANSWER
    assert all(file is not None and file.closed for file in files)


def an_intent(call: Exchange) -> Intent:
    return Intent(call.id, call.caller, call.route, call.requested_at, call.method)


def test_the_row_of_an_intent_says_no_more_than_is_known() -> None:
    it = House()
    call = a_call()
    row = it.settler.intent(an_intent(call))
    assert row == Record(
        id=call.id,
        org_id=LOCAL_ORG,
        api_key_id=CALLER.key_id,
        provider="openai",
        request_path="/v1/chat/completions",
        request_method="POST",
        requested_at=AT,
        outcome=Outcome.INTERRUPTED,
        body_state=BodyState.LOST,
        usage_source=UsageSource.NONE,
        error_message=row.error_message,
    )
    assert House(bodies=False).settler.intent(an_intent(call)).body_state is BodyState.NONE
    assert House(keep_bodies=False).settler.intent(an_intent(call)).body_state is BodyState.OFF
    assert it.settler.intent(an_intent(a_call(to=SECRETIVE))).body_state is BodyState.NONE


@pytest.mark.parametrize("kept", ["stored", "off", "none", "failed"])
def test_the_intent_never_takes_the_place_of_the_row(postgres: Database, kept: str) -> None:
    """In either order, on the real ledger; and the pending row between never takes the stored one's."""
    it = House(PostgresLedger(postgres.engine), keep_bodies=kept != "off", bodies=kept != "none")
    if kept == "failed":
        it.bodies.fail(StoreRefused)
    template = a_call()
    template_final = it.settler.settle([template])[0].record
    assert template_final.body_state.value == kept
    pending = (
        replace(template_final, body_state=BodyState.PENDING, body_key=None) if kept in ("stored", "failed") else None
    )
    lives = [it.settler.intent(an_intent(template)), template_final, *([pending] if pending else [])]
    for order in permutations(lives):
        call_id = uuid4()
        for row in order:
            assert it.settler.record([replace(row, id=call_id)]) == []
        found = it.ledger.get(LOCAL_ORG, call_id)
        assert found is not None
        assert found.record == replace(template_final, id=call_id)


# hostile text, to the real ledger

NASTY = (
    "nul \0 lone \ud800 and \udfff pair \U0001f4a9 \u202e \x1b[2J \u2028 \x85 '); DROP TABLE llm_requests; -- \\u0000 "
)


def nasty_calls() -> list[Exchange]:
    """NASTY in every text of an exchange, one at a time, then everywhere; in requests and answers of each dialect."""
    plain = a_call()
    texts: dict[str, Any] = {
        "method": NASTY,
        "tags": {"Feature": NASTY},
        "provider_api_key_alias": NASTY,
        "client": NASTY,
        "claude_session_id": NASTY,
        "claude_session_name": NASTY,
        "query": [(NASTY, NASTY)],
        "tags_refused": [NASTY],
        "error": NASTY,
        "route": replace(CHAT, template=NASTY, model=NASTY),
        "request_headers": [(b"content-type", NASTY.encode("utf-8", "surrogatepass"))],
        "response_headers": [(b"content-type", b"application/json"), (b"x-request-id", b"\xff\0\r\n")],
    }
    calls = [replace(plain, id=uuid4(), **{name: value}) for name, value in texts.items()]
    calls.append(replace(plain, id=uuid4(), tags={NASTY: NASTY, "\0": "", "\ud800": ""}))
    calls.append(replace(plain, id=uuid4(), **texts))
    raw = NASTY.encode("utf-8", "surrogatepass")
    escaped = json.dumps(NASTY).encode()
    for to in (CHAT, MESSAGES, GEMINI, EMBEDDINGS):
        for word in (escaped, b'"' + raw + b'"', b'"\\ud800\\u0000"'):
            document = b'{"model":%s,"modelVersion":%s,"service_tier":%s,"error":{"code":%s,"type":%s},"usage":{}}' % (
                (word,) * 5
            )
            calls += [
                a_call(document, to, asked=document, status=status, claude_session_name=NASTY) for status in (200, 404)
            ]
            calls.append(a_call(b"event: " + raw + b"\ndata: " + document + b"\n\n", to))
    return calls


def test_no_text_in_a_call_costs_its_row_or_its_neighbours(postgres: Database, said: Said) -> None:
    """NUL, lone surrogates and kin, everywhere, in one batch: every row is in, every body is stored."""
    it = House(PostgresLedger(postgres.engine))
    calls = nasty_calls()
    good = [a_call() for _ in range(3)]
    settled = it.settler.settle([good[0], *calls, *good[1:]])
    assert said.lines("row_refused") == []
    assert len(settled) == len(calls) + 3 == postgres.run("SELECT count(*) FROM llm_requests")[0][0]
    for call in (*calls, *good):
        row = it.row(call)
        assert row.body_state is BodyState.STORED
        assert it.object(row)["request_id"] == str(call.id)
    for row in (it.row(call) for call in calls):
        said_texts = [row.client, row.claude_session_id, row.claude_session_name, *row.tags, *row.tags.values()]
        for text in filter(None, said_texts):
            assert "\0" not in text and not any(0xD800 <= ord(letter) < 0xE000 for letter in text)
    assert all(it.row(call).total_cost == Decimal("0.000165") for call in good)


def test_text_is_cut_at_its_length(postgres: Database) -> None:
    long = "ü" * 100_000
    it = House(PostgresLedger(postgres.engine), bodies=False)
    row = it.settled(
        a_call(
            {**ANSWER, "service_tier": long},
            tags={"Feature": long},
            client=long,
            provider_api_key_alias=long,
            claude_session_id=long,
            claude_session_name=long,
        )
    )
    texts = (row.client, row.provider_api_key_alias, row.claude_session_id, row.claude_session_name, row.service_tier)
    assert max(len(text or "") for text in texts) <= 256
    assert len(row.tags["Feature"]) == 1024


def test_a_row_that_the_ledger_refuses_is_said_alone(said: Said) -> None:
    class Picky(MemoryLedger):
        def record(self, batch: Sequence[Record]) -> list[Refused]:
            refused = [Refused(row.id, "22P05") for row in batch if row.client == "bad"]
            return [*refused, *super().record([row for row in batch if row.client != "bad"])]

    it = House(Picky())
    calls = [a_call(), a_call(client="bad"), a_call()]
    it.settler.settle(calls)
    [line] = said.lines("row_refused")
    assert (line["id"], line["sqlstate"], line["level"]) == (str(calls[1].id), "22P05", "error")
    assert [it.ledger.get(LOCAL_ORG, call.id) is not None for call in calls] == [True, False, True]


# bombs

BOMBS = """
import pathlib, sys, time
from steward import log
from steward.adapters.memory import MemoryLedger
from steward.adapters.memory_bodies import MemoryBodyStore
from steward.exchange import BodyState, UsageSource
from steward.price import bundled
from steward.settle import Settler
from steward.stores import OneStore
from tests.exchanges import exchange, route

def highest_kib():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

log.configure()
book = bundled()
settler = Settler(MemoryLedger(), OneStore(MemoryBodyStore()), lambda: book)
settler.settle([exchange(route("/v1/chat/completions"), {"model": "gpt-4o", "usage": {"prompt_tokens": 1}})])
before, slowest = highest_kib(), 0.0
for file in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    bomb = exchange(route("/v1/chat/completions"), file.read_bytes(), asked=file.read_bytes(), coding=file.name)
    bomb.request_headers.append((b"content-encoding", file.name.encode()))
    start = time.process_time()
    [settled] = settler.settle([bomb])
    slowest = max(slowest, time.process_time() - start)
    assert settled.record.usage_source is UsageSource.NONE, file.name
    assert settled.record.body_state is BodyState.STORED, file.name
    assert settled.record.total_cost is None
print(highest_kib() - before, slowest)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_bombs_on_both_sides_are_put_down_and_kept_as_they_came(tmp_path: Path) -> None:
    """SECURITY F15: each coding and twice-packed, up and down: a row without usage, within 100 MB and 2 s."""
    blanks = b'{"model":"gpt-4o","usage":' + b" " * 100_000_000 + b'{"prompt_tokens":5}}'
    packers: dict[str, Callable[[bytes], bytes]] = {
        "gzip": lambda data: gzip.compress(data, 1),
        "br": lambda data: bytes(brotli.compress(data, quality=4)),
        "zstd": zstandard.compress,
    }
    packed = {name: pack(blanks) for name, pack in packers.items()}
    packed |= {f"{name}, gzip": packers["gzip"](data) for name, data in packed.items()}
    for name, data in packed.items():
        (tmp_path / name).write_bytes(data)
    ran = subprocess.run([sys.executable, "-c", BOMBS, tmp_path], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    grown_kib, slowest_s = ran.stdout.split()
    assert int(grown_kib) < 100 * 1024
    assert float(slowest_s) < 4, "two sides, two seconds each"


# words (SECURITY F4)


def test_nothing_that_was_said_or_sent_is_in_the_line(said: Said) -> None:
    headers = [(b"content-type", b"application/json"), (b"x-request-id", CANARY.encode())]
    it = House()
    for to in (CHAT, MESSAGES, GEMINI, EMBEDDINGS, SECRETIVE):
        for status in (200, 404, 500, None):
            call = a_call(
                {"error": {"message": CANARY, "type": CANARY, "code": CANARY}, "model": f"{CANARY} said", "id": CANARY},
                to,
                asked={"model": f"{CANARY} asked", "prompt": CANARY},
                status=status,
                tags={"Feature": CANARY},
                client=CANARY,
                provider_api_key_alias=CANARY,
                claude_session_id=CANARY,
                claude_session_name=CANARY,
                query=[("q", CANARY)],
                method=CANARY,
            )  # fmt: skip
            it.settler.settle([replace(call, request_headers=headers, response_headers=headers)])
    it.bodies.fail(StoreRefused)
    it.settler.settle([a_call(f'{{"model": "{CANARY}'.encode())])
    it.bodies.fail(StoreUnavailable)
    it.settler.settle([a_call(f"data: {CANARY}\n\n".encode())])
    assert said.events().count("call") == 22
    assert CANARY not in said.text


def test_the_one_line_of_a_call_needs_neither_ledger_nor_store(said: Said) -> None:
    """It comes from the metering step, so it appears during outages, and once."""

    class Away(MemoryLedger):
        def record(self, batch: Sequence[Record]) -> list[Refused]:
            raise LedgerUnavailable

    it = House(Away())
    it.bodies.fail(StoreUnavailable)
    call = a_call(tags={"A": "b"}, tags_refused=["X-Api-Key"], tags_dropped=1)
    with pytest.raises(LedgerUnavailable):
        it.settler.settle([call])
    [line] = said.lines("call")
    facts = {
        name: line[name] for name in ("id", "model", "input_tokens", "cost_usd", "status", "outcome", "body_state")
    }
    assert facts == {
        "id": str(call.id),
        "model": "gpt-4o-mini-2024-07-18",
        "input_tokens": 1000,
        "cost_usd": "0.000165",
        "status": 200,
        "outcome": "complete",
        "body_state": "pending",
    }
    assert (line["tags"], line["tags_dropped"], line["tags_refused"]) == (1, 1, ["X-Api-Key"])


def test_a_store_that_answers_in_its_own_words_is_not_quoted(said: Said) -> None:
    class Wordy(MemoryBodyStore):
        def put_many(self, puts: Sequence[Put]) -> list[PutResult]:
            return [PutResult(None, refused=True, code=f"No {CANARY} <Message>") for _ in puts]

    row = House(store=Wordy()).settled(a_call())
    assert row.body_state is BodyState.FAILED
    assert row.error_message is None
    assert CANARY not in said.text


def test_an_error_is_a_code_and_never_words() -> None:
    answer = {"error": {"message": CANARY, "type": "insufficient_quota", "code": CANARY}}
    row = House().settled(a_call(answer, status=429))
    assert isinstance(row.error_message, ErrorCode)
    assert CANARY not in repr(row)
    assert UUID(str(row.id)) == row.id
