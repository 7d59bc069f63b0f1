"""`steward spool ...`: what was set aside in SPOOL_DIR, looked at, tried again or given up by a person.

It shows facts (ids, times, codes, sizes); what was said in a call is shown for `--content` alone, and never in the log.
"""

from __future__ import annotations

import gzip
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from io import BytesIO
from typing import Protocol
from uuid import UUID

from steward.body_object import build
from steward.errors import StewardError
from steward.exchange import Exchange, Intent
from steward.settings import Settings
from steward.wiring.reconciling import open_quarantine

NONE_SUCH = "There is no such record; `steward spool ls` shows them."


class Entry(Protocol):
    """The facts of one record that was set aside."""

    @property
    def id(self) -> UUID:
        """The call's."""

    @property
    def shelf(self) -> str:
        """`exchanges`: it has no row. `bodies`: its row says `failed`."""

    @property
    def code(self) -> str:
        """Why: a word of ours, the vendor's, or an SQLSTATE."""

    @property
    def requested_at(self) -> datetime | None:
        """When the call came."""

    @property
    def set_aside_at(self) -> datetime:
        """When it came here."""

    @property
    def size_bytes(self) -> int:
        """Octets it takes here."""

    @property
    def intent(self) -> bool:
        """Nothing more is known of it than that it began."""


class Quarantine(Protocol):
    """Where it lies."""

    def entries(self) -> Sequence[Entry]:
        """Oldest call first."""

    def show(self, request_id: UUID, content: bool = False) -> tuple[Entry, Exchange | Intent | None]:
        """Raises KeyError, SealBroken, ValueError, OSError."""

    def retry(self, request_id: UUID) -> None:
        """Raises KeyError, SealBroken, OSError."""

    def drop(self, request_id: UUID) -> None:
        """Raises KeyError, OSError."""


def ls(settings: Settings, as_json: bool) -> int:
    """All that was set aside, oldest call first."""
    with _opened(settings) as quarantine:
        entries = quarantine.entries()
    if as_json:
        print(json.dumps([_facts(entry) for entry in entries], indent=2))
        return 0
    if not entries:
        print("Nothing is set aside.")
        return 0
    print(f"{'id':36}  {'what':9}  {'called':16}  {'set aside':16}  {'octets':>12}  code")
    for entry in entries:
        times = f"{_minute(entry.requested_at):16}  {_minute(entry.set_aside_at):16}"
        print(f"{entry.id!s:36}  {_what(entry):9}  {times}  {entry.size_bytes:>12}  {entry.code}")
    return 0


def show(settings: Settings, request_id: UUID, content: bool, as_json: bool) -> int:
    """One record's facts; with `content`, the call as its body object would hold it."""
    with _opened(settings) as quarantine:
        entry, call = quarantine.show(request_id, content)
        if content and not isinstance(call, Exchange):
            raise StewardError("Of this call nothing is known but that it began; it has no content.")
        if isinstance(call, Exchange):
            _write_content(call)
        elif as_json:
            print(json.dumps(_facts(entry), indent=2))
        else:
            for name, value in _facts(entry).items():
                print(f"{name:12}  {'' if value is None else value}")
    return 0


def retry(settings: Settings, request_ids: Sequence[UUID], as_json: bool) -> int:
    """Back into the spool, to be settled anew; without ids, all of them."""
    done: list[UUID] = []
    with _opened(settings) as quarantine:
        for request_id in request_ids or [entry.id for entry in quarantine.entries()]:
            quarantine.retry(request_id)
            done.append(request_id)
    _say_done("tried again", done, as_json)
    return 0


def drop(settings: Settings, request_ids: Sequence[UUID], as_json: bool) -> int:
    """Away, for good."""
    with _opened(settings) as quarantine:
        for request_id in request_ids:
            quarantine.drop(request_id)
    _say_done("dropped", request_ids, as_json)
    return 0


@contextmanager
def _opened(settings: Settings) -> Iterator[Quarantine]:
    """What is wrong with a record, or with the disk, in one line of ours."""
    quarantine = open_quarantine(settings)
    try:
        yield quarantine
    except KeyError:
        raise StewardError(NONE_SUCH) from None
    except BrokenPipeError:
        raise  # the reader's affair, not the disk's
    except (OSError, ValueError) as exc:
        raise StewardError("The record cannot be read or moved; look at SPOOL_DIR and its disk.") from exc
    finally:
        quarantine.close()


def _write_content(call: Exchange) -> None:
    try:
        document = build(call)
        with BytesIO(document.source) if isinstance(document.source, bytes) else document.source as packed:
            packed.seek(0)
            sys.stdout.flush()
            with gzip.open(packed, "rb") as unpacked:
                shutil.copyfileobj(unpacked, sys.stdout.buffer)
        sys.stdout.buffer.write(b"\n")
        sys.stdout.buffer.flush()
    finally:
        call.request.close()
        call.response.close()


def _say_done(word: str, request_ids: Sequence[UUID], as_json: bool) -> None:
    if as_json:
        print(json.dumps([str(request_id) for request_id in request_ids], indent=2))
    elif len(request_ids) == 1:
        print(f"{request_ids[0]}: {word}.")
    else:
        print(f"{len(request_ids)} records: {word}.")


def _facts(entry: Entry) -> dict[str, object]:
    return {
        "id": str(entry.id),
        "what": _what(entry),
        "code": entry.code,
        "called_at": entry.requested_at.isoformat() if entry.requested_at else None,
        "set_aside_at": entry.set_aside_at.isoformat(),
        "size_bytes": entry.size_bytes,
    }


def _what(entry: Entry) -> str:
    """`call`: it has no row. `body`: its row says `failed`. `beginning`: a call of which no more is known."""
    if entry.intent:
        return "beginning"
    return "body" if entry.shelf == "bodies" else "call"


def _minute(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M}" if at is not None else ""
