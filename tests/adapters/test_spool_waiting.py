"""Who waits in a spool, as one sees it who is not its settler."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from steward.adapters.spool import Spool, SpoolLimits
from steward.adapters.spool_reader import SpoolReader
from steward.adapters.spool_waiting import waiting
from steward.exchange import Body, Exchange, Intent, uuid7
from steward.seal import Keyring
from steward.words import Secret
from tests.exchanges import exchange, route

KEYRING = Keyring(Secret(bytes(range(32))))
CHAT = route("/v1/chat/completions")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "spool"
    made.mkdir(mode=0o700)
    return made


@pytest.fixture
def spool(folder: Path) -> Iterator[Spool]:
    made = Spool(folder, KEYRING, SpoolLimits(segment_bytes=64 * 1024))
    yield made
    asyncio.run(made.close())


def relayed(spool: Spool, size: int = 10) -> Exchange:
    now = datetime.now(UTC)
    octets = os.urandom(size)
    call = replace(
        exchange(CHAT, {}),
        id=uuid7(int(now.timestamp() * 1000), os.urandom(10)),
        requested_at=now,
        response=Body(octets, None, size),
    )
    spool.intend(an_intent(call))
    spool.submit(call)
    return call


def an_intent(call: Exchange) -> Intent:
    return Intent(call.id, call.caller, call.route, call.requested_at, call.method)


def ids(*calls: Exchange) -> set[UUID]:
    return {call.id for call in calls}


def test_an_empty_spool_has_nobody_waiting(folder: Path) -> None:
    assert waiting(folder) == set()


def test_calls_wait_until_they_are_settled_also_while_a_settler_works(folder: Path, spool: Spool) -> None:
    calls = [relayed(spool, 20_000) for _ in range(12)]
    flight = replace(calls[0], id=UUID(int=9))
    spool.intend(an_intent(flight))
    assert waiting(folder) == ids(*calls)
    reader = SpoolReader(folder, KEYRING)
    assert reader.acquire()
    handed = reader.take(100, 1 << 30)
    assert len(handed) == 12
    assert waiting(folder) == ids(*calls), "what is in hand is not settled"
    reader.later(handed[:3], recorded=True)
    reader.done(handed[3:7])
    gone = {each.item.id for each in handed[3:7]}
    assert waiting(folder) == ids(*calls) - gone
    reader.done(handed[7:])
    assert waiting(folder) == {each.item.id for each in handed[:3]}
    reader.close()


def test_damage_hides_only_itself(folder: Path, spool: Spool) -> None:
    calls = [relayed(spool, 100) for _ in range(3)]
    [segment] = folder.glob("relays/*/*.seg")
    octets = bytearray(segment.read_bytes())
    at = octets.find(calls[1].id.bytes, octets.find(calls[1].id.bytes) + 16)
    octets[at + 40] ^= 1
    segment.write_bytes(octets)
    assert waiting(folder) == ids(calls[0], calls[2])
