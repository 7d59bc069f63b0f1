"""Relays are killed in mid-write while a settler reads beside them: what was acknowledged before is settled, once."""

from __future__ import annotations

import os
import signal
import struct
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from steward.adapters.spool import Spool, SpoolLimits
from steward.adapters.spool_reader import SpoolReader
from steward.exchange import Intent
from tests.servers.waiting import eventually
from tests.spools import KEYRING, call, intent, number_of, reader_of, relays_left

WORD = struct.Struct(">cI")
LARGE = 300_000


@dataclass
class Doomed:
    """A relay in a process of its own, which tells over a pipe what it has handed to the spool, and is killed."""

    child: int
    pipe: int
    ended: set[int] = field(default_factory=set)
    begun: set[int] = field(default_factory=set)

    def kill(self) -> None:
        """With no chance to tidy up; then reads what it had said before."""
        os.kill(self.child, signal.SIGKILL)
        os.waitpid(self.child, 0)
        with os.fdopen(self.pipe, "rb") as said:
            octets = said.read()
        for at in range(0, len(octets) - WORD.size + 1, WORD.size):
            kind, number = WORD.unpack_from(octets, at)
            (self.ended if kind == b"E" else self.begun).add(number)


def doomed(spool: Path, first: int) -> Doomed:
    """Starts one whose calls are numbered from `first`."""
    read, write = os.pipe()
    child = os.fork()
    if child:
        os.close(write)
        return Doomed(child, read)
    try:
        relay = Spool(spool, KEYRING, SpoolLimits(segment_bytes=128 * 1024, reserve_bytes=4096))
        for number in range(first, first + 1500):
            relay.intend(intent(number))
            os.write(write, WORD.pack(b"B", number))
            if number % 10:
                relay.submit(call(number, LARGE if number % 50 == 7 else 500))
                os.write(write, WORD.pack(b"E", number))
    finally:
        os._exit(0)


@dataclass
class Seen:
    """What the settler handed out, by number."""

    ends: list[int] = field(default_factory=list)
    intents: list[int] = field(default_factory=list)

    def more(self, reader: SpoolReader) -> bool:
        """One batch; some are given back or wait for their bodies first."""
        handed = reader.take(300, 8 << 20)
        for each in handed:
            if isinstance(each.item, Intent):
                self.intents.append(number_of(each))
            else:
                assert not each.item.bodies_shed
                assert each.item.request.kept_bytes == each.item.request.size_bytes
                self.ends.append(number_of(each))
        reader.later(handed[::3], recorded=True)
        reader.done([each for at, each in enumerate(handed) if at % 3])
        bodies = reader.take_bodies(300, 8 << 20)
        reader.done(bodies)
        return bool(handed)


@pytest.mark.parametrize("after", [1, 100])
def test_what_was_acknowledged_is_settled_once_whoever_dies(tmp_path: Path, after: int) -> None:
    spool, seen, relays = tmp_path / "spool", Seen(), []
    for life in range(2):
        relays = [*relays, *(doomed(spool, (2 * life + at) * 10_000) for at in range(2))]
        with reader_of(spool) as reader:
            enough = len(seen.ends) + after
            eventually(lambda reader=reader, enough=enough: [seen.more(reader), len(seen.ends) >= enough][1], 20)
            for relay in relays[-2:]:
                relay.kill()
    with reader_of(spool) as reader:
        while seen.more(reader):
            pass
        depth = reader.depth()
    assert (depth.items, depth.lost, depth.set_aside) == (0, 0, 0)
    assert len(seen.ends) == len(set(seen.ends)) and len(seen.intents) == len(set(seen.intents))
    for relay in relays:
        assert relay.ended <= set(seen.ends)
        assert relay.begun <= set(seen.ends) | set(seen.intents)
    assert not set(seen.intents) & set(seen.ends)
    assert relays_left(spool) == []
    assert [file for file in spool.rglob("*") if file.is_file()] == [spool / "settler"]
