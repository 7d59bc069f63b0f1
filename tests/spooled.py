"""What stands in a spool, read by the format alone: for tests of its writer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from steward.adapters.spool_files import SEGMENT_HEADER_BYTES, Folder, open_segment, open_spool
from steward.adapters.spool_sealed import open_beside
from steward.codec import Beside, decode_exchange, decode_intent
from steward.exchange import Body, Exchange, Intent
from steward.seal import Keyring
from steward.wire.frames import Frame, Kind, decode
from steward.words import Secret

KEYRING = Keyring(Secret(bytes(range(1, 33))))


class Written(NamedTuple):
    """One relaying process's records in order, and what is no record."""

    intents: list[Intent]
    ends: list[Exchange]
    gaps: int
    numbers: list[list[int]]
    """Of the frames, one list a segment."""

    def ids(self) -> set[UUID]:
        return {each.id for each in self.ends}


def relays(spool: Path) -> list[Path]:
    return sorted((spool / "relays").iterdir())


def written(relay: Path, keyring: Keyring = KEYRING) -> Written:
    """All that a relay's folder holds; bodies that are beside are opened."""
    found = Written([], [], 0, [])
    gaps = 0
    for segment in sorted(relay.glob("*.seg")):
        data = segment.read_bytes()
        seal = open_segment(keyring, relay.name, int(segment.stem), data[:SEGMENT_HEADER_BYTES])
        parts, _ = decode(data[SEGMENT_HEADER_BYTES:], ended=True)
        frames = [part for part in parts if isinstance(part, Frame)]
        gaps += len(parts) - len(frames)
        found.numbers.append([frame.number for frame in frames])
        for frame in frames:
            plain = seal.open(frame)
            if frame.kind is Kind.INTENT:
                found.intents.append(decode_intent(plain))
            else:
                found.ends.append(_whole(relay, plain))
    return found._replace(gaps=gaps)


def _whole(relay: Path, plain: bytes) -> Exchange:
    exchange, request, response = decode_exchange(plain)
    for side, body, beside in (("q", exchange.request, request), ("r", exchange.response, response)):
        if beside is not None:
            _open(relay, exchange.id, side, body, beside)
    return exchange


def _open(relay: Path, request_id: UUID, side: str, body: Body, beside: Beside) -> None:
    folder = folder_of(relay)
    body.file = open_beside(folder, request_id, side, beside)
    folder.close()


def folder_of(relay: Path) -> Folder:
    """An open folder below a spool."""
    spool = open_spool(relay.parents[1])
    between = spool.folder("relays")
    try:
        return between.folder(relay.name)
    finally:
        between.close()
        spool.close()


def files_below(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """Every file and its octets."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path, path.read_bytes()
