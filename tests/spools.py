"""Relays' folders made for tests record by record, and a settler that takes all it is given."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import cast
from uuid import UUID

from steward.adapters.spool_files import Folder, new_relay, open_spool, segment_name
from steward.adapters.spool_reader import SpoolReader
from steward.adapters.spool_sealed import SealedWriter
from steward.adapters.spool_segment import SegmentWriter
from steward.codec import Beside, encode_exchange, encode_intent
from steward.exchange import Exchange, Intent, uuid7
from steward.ports import Depth, Handed
from steward.seal import Keyring
from steward.wire.frames import Frame, Kind, decode
from steward.words import Secret
from tests.exchanges import exchange, route

KEYRING = Keyring(Secret(bytes(range(32))))
OTHER_KEYRING = Keyring(Secret(bytes(range(1, 33))))
AT_MS = 1_795_000_000_000
NOW_S = AT_MS / 1000 + 600
CHAT = route("/v1/chat/completions")


def request_id(number: int) -> UUID:
    """That of the call made `number` seconds after `AT_MS`."""
    return uuid7(AT_MS + number * 1000, number.to_bytes(10, "big"))


def call(number: int, size: int = 40) -> Exchange:
    """A call with `size` octets a side."""
    made = exchange(CHAT, b"r" * size, asked=b"q" * size)
    made.id = request_id(number)
    made.requested_at = datetime.fromtimestamp(AT_MS / 1000 + number, UTC)
    made.request.size_bytes = made.response.size_bytes = size
    return made


def intent(number: int) -> Intent:
    """The same call's intent."""
    of = call(number)
    return Intent(of.id, of.caller, of.route, of.requested_at, of.method)


class WrittenRelay:
    """One relay's folder. It lives until `die`."""

    def __init__(self, spool: Path, keyring: Keyring = KEYRING) -> None:
        root = open_spool(spool)
        self.folder, self._owner = new_relay(root)
        self._keyring = keyring
        self.path = spool / "relays" / self.folder.name
        self._number = 0
        self._writer = SegmentWriter(self.folder, keyring, 0)
        root.close()

    def intend(self, number: int) -> None:
        """One intent."""
        self._writer.append(Kind.INTENT, request_id(number).bytes, encode_intent(intent(number)))

    def end(self, number: int, size: int = 40, beside: bool = False) -> None:
        """One end; with `beside`, its bodies in files of their own."""
        one = call(number, size)
        if beside:
            sides = [self._beside(one.id, side, data.data) for side, data in (("q", one.request), ("r", one.response))]
            plain = encode_exchange(one, *sides)
        else:
            plain = encode_exchange(one, one.request.data, one.response.data)
        self.append(Kind.END, one.id, plain)

    def append(self, kind: Kind, of: UUID, plain: bytes) -> None:
        """One record of any content."""
        self._writer.append(kind, of.bytes, plain)

    def calls(self, *numbers: int) -> None:
        """Calls that began and ended one after the other."""
        for number in numbers:
            self.intend(number)
            self.end(number)

    def next_segment(self) -> None:
        """What comes from now on stands in another segment."""
        os.close(self._writer.descriptor)
        self._number += 1
        self._writer = SegmentWriter(self.folder, self._keyring, self._number)

    def segment(self, number: int = 0) -> Path:
        """The file."""
        return self.path / segment_name(number)

    def frames(self, number: int = 0) -> list[Frame]:
        """The whole frames of a segment."""
        octets = self.segment(number).read_bytes()
        parts, _ = decode(octets, 0, ended=True)
        return [part for part in parts if isinstance(part, Frame)]

    def die(self) -> None:
        """As by kill -9: the lock is free. Safe to call twice."""
        if self._owner >= 0:
            os.close(self._owner)
            os.close(self._writer.descriptor)
            self.folder.close()
            self._owner = -1

    def _beside(self, of: UUID, side: str, data: bytes) -> Beside:
        writer = SealedWriter(self.folder, of, side, lambda size: None)
        writer.write(data)
        made = writer.finish()
        writer.close()
        return made


@contextmanager
def relay_in(spool: Path, keyring: Keyring = KEYRING) -> Iterator[WrittenRelay]:
    """A relay that lives at most as long as the block."""
    made = WrittenRelay(spool, keyring)
    try:
        yield made
    finally:
        made.die()


@contextmanager
def reader_of(spool: Path, keyring: Keyring = KEYRING) -> Iterator[SpoolReader]:
    """The spool's settler, for as long as the block."""
    reader = SpoolReader(spool, keyring, lambda: NOW_S)
    try:
        assert reader.acquire()
        yield reader
    finally:
        reader.close()


@dataclass
class Settlement:
    """What a settler found, by the calls' numbers."""

    ends: list[int] = field(default_factory=list)
    intents: list[int] = field(default_factory=list)
    shed: list[int] = field(default_factory=list)
    depth: Depth = field(default_factory=Depth)

    @property
    def all(self) -> list[int]:
        """Calls that get a row."""
        return sorted(self.ends + self.intents)


def number_of(handed: Handed) -> int:
    """The call's number."""
    return ((handed.item.id.int >> 80) - AT_MS) // 1000


def settle(reader: SpoolReader) -> Settlement:
    """Takes all there is and settles it; bodies are read, and must be what the call's were."""
    found = Settlement()
    while handed := reader.take(7, 1 << 20):
        for each in handed:
            if isinstance(each.item, Intent):
                found.intents.append(number_of(each))
                continue
            found.ends.append(number_of(each))
            if each.item.bodies_shed:
                found.shed.append(number_of(each))
            else:
                size = each.item.request.size_bytes
                assert each.item.request.content().reveal() == b"q" * size
                assert each.item.response.content().reveal() == b"r" * size
        reader.done(handed)
    found.depth = reader.depth()
    return found


def settle_all(spool: Path, keyring: Keyring = KEYRING) -> Settlement:
    """The same by a settler of its own."""
    with reader_of(spool, keyring) as reader:
        return settle(reader)


def relays_left(spool: Path) -> list[str]:
    """Folders of relays that are still there."""
    return sorted(os.listdir(spool / "relays"))


def quarantined_octets(spool: Path) -> bytes:
    """All octets that were set aside, in the order of their names."""
    folder = spool / "quarantine" / "octets"
    return b"".join(file.read_bytes() for file in sorted(folder.iterdir()))


def folder_of(path: Path) -> Folder:
    """An open folder."""
    return Folder(os.open(path, os.O_RDONLY), cast(str, path.name))
