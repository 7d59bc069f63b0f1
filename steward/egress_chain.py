"""How the rows of the egress log hang together: each is bound to the one before under a key of this installation.

Who can write the database and has no ENCRYPTION_KEY can neither change, add nor take out a row unseen (SECURITY F20),
but for the last ones, cut off. Pure.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime

import orjson

from steward.ports import Departed, Departure
from steward.words import Secret


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


def first_broken(key: Secret[bytes], rows: Iterable[Departed], before: Departed | None = None) -> int | None:
    """The number of the first row that does not follow from the one before; None when all do."""
    for row in rows:
        number = 1 if before is None else before.number + 1
        if row.number != number or not hmac.compare_digest(row.chain, _chain(key, before, row)):
            return row.number
        before = row
    return None


def _chain(key: Secret[bytes], before: Departed | None, row: Departed) -> str:
    facts = (
        *("" if before is None else before.chain, row.number, row.at.astimezone(UTC).isoformat()),
        *(row.registration_id, row.kind, row.target, row.count, row.bytes, row.sha256, row.first_id, row.last_id),
    )
    return hmac.digest(key.reveal(), orjson.dumps(facts), "sha256").hex()
