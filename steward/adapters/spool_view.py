"""Which calls the spool still has, for whoever compares it with ledger and store: read beside a settler at work.

It opens no record (ids stand in clear), takes no lock and changes nothing. What is settled while it reads may still be
named.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from steward.adapters.spool_files import (
    RELAYS,
    SEGMENT_HEADER_BYTES,
    Folder,
    done_name,
    open_spool,
    relay_names,
    segment_name,
    segment_number,
)
from steward.adapters.spool_progress import Mark, Progress
from steward.adapters.spool_scan import READ_BYTES
from steward.wire.frames import Frame, Kind, decode


def waiting_ids(spool: Path) -> set[UUID]:
    """Calls that are in flight, or whose row or body is still to be written.

    Raises SettingError for a folder that is not fit, OSError when it cannot be read.
    """
    waiting: set[UUID] = set()
    with contextlib.closing(open_spool(spool)) as root:
        try:
            relays = root.folder(RELAYS)
        except FileNotFoundError:
            return waiting
        with contextlib.closing(relays):
            for name in relay_names(relays):
                # A relay that is settled goes away meanwhile; a name that is no folder is not ours.
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    relay = relays.folder(name)
                    with contextlib.closing(relay):
                        waiting |= _of_relay(relay)
    return waiting


def _of_relay(relay: Folder) -> set[UUID]:
    begun: set[UUID] = set()
    ended: set[UUID] = set()
    settled: set[UUID] = set()
    numbers = sorted(number for name in relay.names() if (number := segment_number(name)) is not None)
    for number in numbers:
        with contextlib.suppress(FileNotFoundError):
            # The segment first: a mark made meanwhile is then seen, never one of a record that is not.
            frames = [(frame.kind, frame.id, frame.start) for frame in _frames(relay, number)]
            marks = Progress(relay, done_name(number)).load()
            for kind, request_id, start in frames:
                if kind is Kind.INTENT:
                    (settled if start in marks else begun).add(request_id)
                else:
                    (settled if marks.get(start) is Mark.DONE else ended).add(request_id)
    return (begun - settled) | ended


def _frames(relay: Folder, number: int) -> Iterator[Frame]:
    with os.fdopen(relay.open(segment_name(number)), "rb", buffering=0) as file:
        at = SEGMENT_HEADER_BYTES
        while data := os.pread(file.fileno(), READ_BYTES, at):
            parts, used = decode(data, at)
            yield from (part for part in parts if isinstance(part, Frame))
            if not used:
                return
            at += used
