"""Which calls wait in a spool, told by whoever is not its settler: read beside him, from ids and marks in clear.

It opens nothing that is sealed, locks nothing and changes nothing. What it tells was true while it read.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final
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
from steward.wire import frames
from steward.wire.frames import Frame, Kind

_PIECE_BYTES: Final = 1 << 20


def waiting(folder: Path) -> set[UUID]:
    """Calls that ended and are not settled for good. Raises SettingError for a folder that is not fit."""
    found: set[UUID] = set()
    with contextlib.closing(open_spool(folder)) as spool:
        try:
            relays = spool.folder(RELAYS)
        except FileNotFoundError:
            return found
        with contextlib.closing(relays):
            for name in relay_names(relays):
                # A relay or segment that goes meanwhile was settled: so it is with all that is not found here.
                with contextlib.suppress(FileNotFoundError), contextlib.closing(relays.folder(name)) as relay:
                    for file in relay.names():
                        number = segment_number(file)
                        if number is not None:
                            found.update(_in_segment(relay, number))
    return found


def _in_segment(relay: Folder, number: int) -> Iterator[UUID]:
    """Its ends without a mark `done`. The marks are read after the records: what both have was settled meanwhile."""
    try:
        ends = {frame.start: frame.id for frame in _frames(relay, number) if frame.kind is Kind.END}
        marks = Progress(relay, done_name(number)).load()
    except FileNotFoundError:
        return
    yield from (request_id for at, request_id in ends.items() if marks.get(at) is not Mark.DONE)


def _frames(relay: Folder, number: int) -> Iterator[Frame]:
    with os.fdopen(relay.open(segment_name(number)), "rb") as file:
        file.seek(SEGMENT_HEADER_BYTES)
        data, at = b"", SEGMENT_HEADER_BYTES
        while piece := file.read(_PIECE_BYTES):
            data += piece
            parts, used = frames.decode(data, at)
            yield from (part for part in parts if isinstance(part, Frame))
            data, at = data[used:], at + used
