"""What was set aside: poison records, records whose body the store refused for good, and octets that are no record.

Facts (ids, times, codes, sizes) stand in clear, all else sealed (SECURITY F12); it settles nothing and keeps nothing
longer than 14 days. A record that is tried again goes back into the spool as a relay's of its own, so that the settler
finds it as it finds any other.

    exchanges/{request id}   the record, with the code why           bodies/{request id}   the same, its row is in
    .../{request id}.q .r    its large bodies, as they were          octets/{name}         damaged octets, as they were
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Final
from uuid import UUID

import orjson

from steward import log
from steward.adapters.spool_files import (
    QUARANTINE,
    Folder,
    beside_facts,
    beside_name,
    new_relay,
    new_segment,
    open_spool,
    segment_name,
)
from steward.adapters.spool_sealed import open_beside
from steward.codec import Beside, decode_exchange, decode_intent
from steward.errors import SealBroken
from steward.exchange import Body, Exchange, Intent
from steward.seal import Keyring, Purpose, SealFacts
from steward.wire.frames import Kind, encode

KEPT_S: Final = 14 * 86_400
"""Seconds for which something stays here."""

SIDES: Final = ("q", "r")
_OCTETS: Final = "octets"
_MAX_FACTS: Final = 4096


class Shelf(StrEnum):
    """Which part of the quarantine a record stands in."""

    EXCHANGES = "exchanges"
    BODIES = "bodies"


@dataclass(frozen=True, slots=True)
class QuarantineEntry:
    """The facts of one record that was set aside."""

    id: UUID
    shelf: Shelf
    code: str
    """Why: a word of ours, the vendor's, or an SQLSTATE."""
    requested_at: datetime | None
    set_aside_at: datetime
    size_bytes: int
    """Octets it takes here, its large bodies included."""
    intent: bool = False
    """Nothing more is known of it than that it began."""


@dataclass(frozen=True, slots=True)
class SetAside:
    """One record on its way here."""

    id: UUID
    kind: Kind
    payload: bytes
    """In clear, as the codec made it."""
    code: str
    requested_at: datetime | None = None


class Quarantine:
    """The folder `quarantine` of a spool. Whoever has the settler's lock adds; anybody of ours reads and takes away."""

    def __init__(self, folder: Path | Folder, keyring: Keyring) -> None:
        """`folder`: the spool's. Raises SettingError when it is not fit, OSError when it cannot be written."""
        spool = folder if isinstance(folder, Folder) else open_spool(folder)
        self._spool = spool
        self._owns_spool = not isinstance(folder, Folder)
        self._keyring = keyring
        with contextlib.closing(spool.folder(QUARANTINE, make=True)) as root:
            self._shelves = {shelf: root.folder(shelf.value, make=True) for shelf in Shelf}
            self._octets = root.folder(_OCTETS, make=True)

    def entries(self) -> list[QuarantineEntry]:
        """The facts of all that was set aside, oldest call first. What is no file (any more) is passed over."""
        found = []
        for shelf in Shelf:
            for request_id in _ids(self._shelves[shelf].names()):
                with contextlib.suppress(OSError):
                    found.append(self._entry(shelf, request_id))
        return sorted(found, key=lambda entry: (entry.id, entry.shelf))

    def show(self, request_id: UUID, content: bool = False) -> tuple[QuarantineEntry, Exchange | Intent | None]:
        """The facts; with `content`, the call itself, whose body files are open.

        Raises KeyError when nothing of that id is here, SealBroken when it does not open, ValueError when it opens and
        cannot be read.
        """
        entry = self._find(request_id)
        return entry, self._call(entry) if content else None

    def retry(self, request_id: UUID) -> None:
        """It goes back into the spool, to be settled anew. Raises KeyError, SealBroken, OSError as `show`."""
        entry = self._find(request_id)
        kind, payload = self._opened(entry)
        self._put_back(entry, kind, payload)
        self.drop(request_id)

    def drop(self, request_id: UUID) -> None:
        """It goes for good. Raises KeyError when nothing of that id is here."""
        shelf = self._shelves[self._find(request_id).shelf]
        shelf.remove(str(request_id))
        for side in SIDES:
            shelf.remove(beside_name(request_id, side))

    def count(self) -> int:
        """Records here, of both kinds."""
        return sum(len(_ids(shelf.names())) for shelf in self._shelves.values())

    def keep(self, shelf: Shelf, what: SetAside, relay: Folder) -> None:
        """One record more; on disk before it returns. Its large bodies, in the relay's folder, stand here, too, then.

        Safe to repeat. Raises OSError when the disk does not take it: then nothing has changed.
        """
        folder = self._shelves[shelf]
        facts = {"code": what.code, "kind": what.kind.name, "requested_at": what.requested_at}
        sealed = self._keyring.seal(Purpose.SPOOL, bytes((what.kind,)) + what.payload, _where(shelf, what.id))
        # The bodies first: where the record stands, they stand, too.
        for side in SIDES:
            _link(relay, folder, beside_name(what.id, side))
        _write(folder, str(what.id), (orjson.dumps(facts, option=orjson.OPT_UTC_Z) + b"\n", sealed))

    def keep_octets(self, name: str, octets: Iterable[bytes]) -> None:
        """Octets that are no record, as they were. Safe to repeat: the same name holds the same. Raises OSError."""
        if self._octets.size(name) is None:
            _write(self._octets, name, octets)

    def keep_file(self, relay: Folder, name: str, to: str) -> None:
        """A whole file of the relay's of which nothing can be opened any more. Raises OSError."""
        os.rename(name, to, src_dir_fd=relay.descriptor, dst_dir_fd=self._octets.descriptor)

    def sweep(self, now_s: float) -> int:
        """Takes away what is older than 14 days, and what was left half written; how many records it was.

        `now_s`: seconds since 1970.
        """
        gone = 0
        for folder in (*self._shelves.values(), self._octets):
            for name in folder.names():
                with contextlib.suppress(FileNotFoundError):
                    status = os.stat(name, dir_fd=folder.descriptor, follow_symlinks=False)
                    half = name.startswith(".")
                    if half or now_s - max(status.st_mtime, status.st_ctime) > KEPT_S:
                        folder.remove(name)
                        gone += not half and beside_facts(name) is None
        if gone:
            log.say("spool_quarantine_swept", count=gone)
        return gone

    def close(self) -> None:
        """Gives its folders back. Safe to call twice."""
        for folder in (*self._shelves.values(), self._octets):
            folder.close()
        if self._owns_spool:
            self._spool.close()

    def _find(self, request_id: UUID) -> QuarantineEntry:
        for shelf in Shelf:
            with contextlib.suppress(FileNotFoundError):
                return self._entry(shelf, request_id)
        raise KeyError(request_id)

    def _entry(self, shelf: Shelf, request_id: UUID) -> QuarantineEntry:
        folder = self._shelves[shelf]
        handle = folder.open(str(request_id))
        with os.fdopen(handle, "rb") as file:
            facts = _facts(file.readline(_MAX_FACTS))
            status = os.fstat(handle)
        sizes = [folder.size(beside_name(request_id, side)) or 0 for side in SIDES]
        return QuarantineEntry(
            id=request_id,
            shelf=shelf,
            code=str(facts.get("code", "unknown")),
            requested_at=_time(facts.get("requested_at")),
            set_aside_at=datetime.fromtimestamp(status.st_mtime, UTC),
            size_bytes=status.st_size + sum(sizes),
            intent=facts.get("kind") == Kind.INTENT.name,
        )

    def _opened(self, entry: QuarantineEntry) -> tuple[Kind, bytes]:
        with os.fdopen(self._shelves[entry.shelf].open(str(entry.id)), "rb") as file:
            file.readline(_MAX_FACTS)
            sealed = file.read()
        opened = self._keyring.open(Purpose.SPOOL, sealed, _where(entry.shelf, entry.id)).reveal()
        return Kind(opened[0]), opened[1:]

    def _call(self, entry: QuarantineEntry) -> Exchange | Intent:
        kind, payload = self._opened(entry)
        if kind is Kind.INTENT:
            return decode_intent(payload)
        return with_bodies(payload, self._shelves[entry.shelf])[0]

    def _put_back(self, entry: QuarantineEntry, kind: Kind, payload: bytes) -> None:
        """As a relay's whose process ends at once."""
        relay, owner = new_relay(self._spool)
        try:
            header, seal = new_segment(self._keyring, relay.name, 0)
            for side in SIDES:
                _link(self._shelves[entry.shelf], relay, beside_name(entry.id, side))
            frame = encode(kind, 0, entry.id.bytes, seal.seal(kind, 0, entry.id.bytes, payload))
            _write(relay, segment_name(0), (header, frame))
        finally:
            os.close(owner)
            relay.close()


def with_bodies(payload: bytes, folder: Folder) -> tuple[Exchange, int, int]:
    """The exchange a record holds, its large bodies as open files, their octets, and how many are gone or damaged.

    With one gone it says `bodies_shed`: what is left must not be stored as if it were all. Raises ValueError when it
    is no record, OSError when no file can be opened now.
    """
    exchange, request, response = decode_exchange(payload)
    if request is None and response is None:
        return exchange, 0, 0
    beside_bytes = lost = 0
    try:
        for side, body, beside in (("q", exchange.request, request), ("r", exchange.response, response)):
            if beside is not None:
                beside_bytes += beside.size_bytes
                lost += not _open_body(folder, exchange.id, side, body, beside)
    except OSError:
        exchange.request.close()
        exchange.response.close()
        raise
    if lost:
        exchange.bodies_shed = True
    return exchange, beside_bytes, lost


def _open_body(folder: Folder, request_id: UUID, side: str, body: Body, beside: Beside) -> bool:
    name = beside_name(request_id, side)
    try:
        body.file = open_beside(folder, request_id, side, beside)
    except (FileNotFoundError, SealBroken) as exc:
        log.error("spool_body_lost", exc, id=request_id)
        body.truncated = True
        return False
    except OSError as exc:
        status = os.stat(name, dir_fd=folder.descriptor, follow_symlinks=False)
        if stat.S_ISREG(status.st_mode):
            raise
        log.error("spool_body_lost", exc, id=request_id)
        body.truncated = True
        return False
    return True


def _where(shelf: Shelf, request_id: UUID) -> SealFacts:
    return SealFacts(row_id=str(request_id), owner=f"quarantine/{shelf}")


def _ids(names: Iterable[str]) -> list[UUID]:
    return list(_uuids(names))


def _uuids(names: Iterable[str]) -> Iterator[UUID]:
    for name in names:
        with contextlib.suppress(ValueError):
            if str(UUID(name)) == name:
                yield UUID(name)


def _facts(line: bytes) -> dict[str, object]:
    """They are told, never trusted: none when the line is not one of ours."""
    try:
        facts = orjson.loads(line)
    except orjson.JSONDecodeError:
        return {}
    return facts if isinstance(facts, dict) else {}


def _time(said: object) -> datetime | None:
    try:
        return datetime.fromisoformat(said) if isinstance(said, str) else None
    except ValueError:
        return None


def _write(folder: Folder, name: str, pieces: Iterable[bytes]) -> None:
    """A file that is whole, and on disk, when it has its name."""
    half = f".{name}"
    folder.remove(half)
    handle = folder.create(half)
    try:
        with os.fdopen(handle, "wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        folder.rename(half, name)
    except OSError:
        folder.remove(half)
        raise
    folder.sync()


def _link(source: Folder, to: Folder, name: str) -> None:
    """The same file in both folders; where the disk has no links, in the new one alone. None is no error."""
    try:
        os.link(name, name, src_dir_fd=source.descriptor, dst_dir_fd=to.descriptor, follow_symlinks=False)
    except (FileNotFoundError, FileExistsError):
        return
    except PermissionError:
        os.rename(name, name, src_dir_fd=source.descriptor, dst_dir_fd=to.descriptor)
