"""How the rows of the egress log hang together: each is bound to the one before under a key of this installation.

Who can write the database and has no ENCRYPTION_KEY can neither change, add nor take out a row unseen (SECURITY F20),
but for the last ones, cut off. What was let go is a prefix of it, and a checkpoint of ours says how long. Pure.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import takewhile

import orjson

from steward.errors import EgressLogBroken
from steward.ports import Checkpoint, Departed, Departure, Walked
from steward.words import Secret

Link = Departed | Checkpoint
"""What a row may be bound to."""


def bound(key: Secret[bytes], before: Departed | None, at: datetime, departure: Departure) -> Departed:
    """The row of a call that is about to leave, behind `before` (None: the first)."""
    body = departure.body or b""
    row = Departed(
        number=1 if before is None else before.number + 1,
        at=at,
        registration_id=departure.registration_id,
        kind=departure.kind,
        target=departure.target,
        count=departure.count,
        bytes=len(body),
        sha256=hashlib.sha256(body).hexdigest(),
        first_id=departure.first_id,
        last_id=departure.last_id,
        chain="",
        has_body=bool(body),
    )
    return replace(row, chain=_chain(key, before, row))


def first_broken(key: Secret[bytes], rows: Iterable[Departed], before: Link | None = None) -> int | None:
    """The number of the first row that does not follow from the one before; None when all do."""
    for row in rows:
        number = 1 if before is None else before.number + 1
        if row.number != number or not _same(row.chain, _chain(key, before, row)):
            return row.number
        before = row
    return None


def walk(key: Secret[bytes], checkpoint: Checkpoint | None, rows: Iterable[Departed]) -> Walked:
    """What all rows there are, in their order, say behind the checkpoint there is.

    Behind a checkpoint there is always a row: the newest is never let go.
    """
    if checkpoint is not None and not _is_ours(key, checkpoint):
        first = next(iter(rows), None)
        return Walked(1 if first is None else first.number, forged=True)
    before: Link | None = checkpoint
    for row in rows:
        if first_broken(key, (row,), before) is not None:
            return Walked(row.number, checkpoint)
        before = row
    if checkpoint is not None and before is checkpoint:
        return Walked(checkpoint.number + 1, checkpoint)
    return Walked(None, checkpoint)


def going(
    key: Secret[bytes], checkpoint: Checkpoint | None, oldest: Sequence[Departed], before: datetime
) -> list[Departed]:
    """Those of the oldest rows that may be let go: written before `before`, in a row, and never the last of them.

    Raises EgressLogBroken: a row that somebody changed is not let go, for nobody would see it any more.
    """
    if oldest and walk(key, checkpoint, oldest).first_broken is not None:
        raise EgressLogBroken
    return list(takewhile(lambda row: row.at < before, oldest[:-1]))


def moved(key: Secret[bytes], checkpoint: Checkpoint | None, gone: Sequence[Departed], made_at: datetime) -> Checkpoint:
    """The checkpoint behind these rows, which are one or more and follow from the checkpoint before."""
    first_at = gone[0].at if checkpoint is None else checkpoint.first_at
    new = Checkpoint(gone[-1].number, gone[-1].chain, first_at, gone[-1].at, made_at, "")
    return replace(new, mac=_mac(key, new))


def _is_ours(key: Secret[bytes], checkpoint: Checkpoint) -> bool:
    return _same(checkpoint.mac, _mac(key, checkpoint))


def _mac(key: Secret[bytes], checkpoint: Checkpoint) -> str:
    """Its first word is no row's: theirs begin with a chain, or with nothing."""
    times = (checkpoint.first_at, checkpoint.last_at, checkpoint.made_at)
    return _digest(key, ("checkpoint", checkpoint.number, checkpoint.chain, *map(_moment, times)))


def _chain(key: Secret[bytes], before: Link | None, row: Departed) -> str:
    facts = (
        *("" if before is None else before.chain, row.number, _moment(row.at)),
        *(row.registration_id, row.kind, row.target, row.count, row.bytes, row.sha256, row.first_id, row.last_id),
    )
    return _digest(key, facts)


def _digest(key: Secret[bytes], facts: tuple[object, ...]) -> str:
    return hmac.digest(key.reveal(), orjson.dumps(facts), "sha256").hex()


def _moment(at: object) -> str:
    """Somebody's `infinity` in the database is no datetime here, and no row of ours."""
    return at.astimezone(UTC).isoformat() if isinstance(at, datetime) else ""


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(errors="replace"), other.encode())
