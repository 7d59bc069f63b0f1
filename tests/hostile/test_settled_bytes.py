"""What callers and providers can put into a call, through the spool and its settling: nothing breaks or is lost."""

from __future__ import annotations

import asyncio
import gzip
import os
import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest

from steward.adapters.memory_bodies import MemoryBodyStore
from steward.adapters.postgres_ledger import PostgresLedger
from steward.adapters.spool import Spool, SpoolLimits
from steward.adapters.spool_reader import SpoolReader
from steward.exchange import Body, BodyState, Exchange, Intent, uuid7
from steward.price import bundled
from steward.seal import Keyring
from steward.settle import Settler
from steward.settling import Rounds
from steward.stores import OneStore
from steward.words import Secret
from tests.exchanges import exchange, recorded, route
from tests.said import Said, listening
from tests.servers.corpus import Recording
from tests.servers.postgres import Database
from tests.servers.waiting import eventually

CHAT = route("/v1/chat/completions")
KEYRING = Keyring(Secret(bytes(range(32))))
EVIL = "a\0b\ud800c\udfffd\x1b[31m\u202e" + "e" * 5000
HEADERS = [(b"content-type", b"application/json\xff"), (b"x-evil", b"\0\xff\r\n"), (b"content-encoding", b"gzip, br")]


@pytest.fixture(autouse=True)
def said() -> Iterator[Said]:
    with listening() as heard:
        yield heard


def settled(postgres: Database, folder: Path, calls: list[Exchange]) -> tuple[PostgresLedger, MemoryBodyStore]:
    """All of them relayed, then settled; the queue is empty afterwards, and the quarantine, too."""
    folder.mkdir(mode=0o700)
    spool = Spool(folder, KEYRING, SpoolLimits())
    for call in calls:
        spool.intend(Intent(call.id, call.caller, call.route, call.requested_at, call.method))
        spool.submit(call)
    asyncio.run(spool.close())
    ledger, store, book = PostgresLedger(postgres.engine), MemoryBodyStore(), bundled({})
    reader = SpoolReader(folder, KEYRING)
    assert reader.acquire()
    rounds = Rounds(reader, Settler(ledger, OneStore(store), lambda: book), ledger)
    eventually(lambda: rounds.run_once() and not rounds.in_hand(), 60)
    depth = reader.depth()
    assert (depth.items, depth.set_aside, depth.lost) == (0, 0, 0)
    rounds.close()
    reader.close()
    return ledger, store


def fresh(call: Exchange) -> Exchange:
    """The same with an id and a time of its own, its sizes true."""
    now = datetime.now(UTC)
    request, response = (
        Body(body.content().reveal(), None, len(body.content())) for body in (call.request, call.response)
    )
    ident = uuid7(int(now.timestamp() * 1000), os.urandom(10))
    return replace(call, id=ident, requested_at=now, request=request, response=response)


def assert_all_there(ledger: PostgresLedger, store: MemoryBodyStore, calls: list[Exchange]) -> None:
    for call in calls:
        row = ledger.get(call.caller.org_id, call.id)
        assert row is not None
        if call.route.secretive:
            assert row.record.body_state is BodyState.NONE
            continue
        assert row.record.body_state is BodyState.STORED
        assert row.record.body_key is not None
        assert orjson.loads(gzip.decompress(store.objects[row.record.body_key]))["request_id"] == str(call.id)


def test_evil_text_in_every_field_and_random_bodies(postgres: Database, tmp_path: Path) -> None:
    evil = replace(
        exchange(CHAT, f'{{"model":"{EVIL}"}}'.encode("utf-8", "surrogatepass")),
        method=EVIL,
        request_headers=HEADERS,
        response_headers=HEADERS,
        query=[(EVIL, EVIL)],
        tags={EVIL: EVIL},
        tags_refused=[EVIL],
        provider_api_key_hash="0" * 64,
        provider_api_key_alias=EVIL,
        client=EVIL,
        claude_session_id=EVIL,
        claude_session_name=EVIL,
        error=EVIL,
    )
    chance = random.Random(7)
    noise = [
        replace(exchange(CHAT, chance.randbytes(size), coding=coding), request=Body(chance.randbytes(size // 3)))
        for size in (0, 1, 100, 70_000, 300_000, 3_000_000)
        for coding in (None, "gzip", "br")
    ]
    calls = [fresh(call) for call in [exchange(CHAT, {}), evil, *noise, exchange(CHAT, {})]]
    calls += [fresh(replace(exchange(CHAT, b""), response=Body(chance.randbytes(10 << 20))))]
    ledger, store = settled(postgres, tmp_path / "spool", calls)
    assert_all_there(ledger, store, calls)


def test_recordings_cut_anywhere(dialect_corpus: list[Recording], postgres: Database, tmp_path: Path) -> None:
    chance = random.Random(11)
    calls = []
    for recording in dialect_corpus:
        body = recording.response_body
        calls += [fresh(recorded(recording, body[: chance.randrange(len(body) + 1)])) for _ in range(2)]
    assert calls
    ledger, store = settled(postgres, tmp_path / "spool", calls)
    assert_all_there(ledger, store, calls)
