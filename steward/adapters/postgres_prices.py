"""The newest price list that any process fetched, in PostgreSQL: for hosts whose processes live too short to fetch it.

It believes nothing of what it keeps: whoever takes a list from here reads it as carefully as from the network.
"""

from __future__ import annotations

import gzip
import zlib
from datetime import datetime
from typing import Final

from sqlalchemy import text
from sqlalchemy.engine import Engine

from steward.adapters.postgres_connection import mapped

MOST_BYTES: Final = 8 << 20

_NEWER: Final = text("""
    SELECT fetched_at, document FROM price_list
    WHERE CAST(:seen AS timestamptz) IS NULL OR fetched_at > CAST(:seen AS timestamptz)
""")
_KEEP: Final = text("""
    INSERT INTO price_list (id, fetched_at, document) VALUES (1, :at, :document)
    ON CONFLICT (id) DO UPDATE SET fetched_at = excluded.fetched_at, document = excluded.document
    WHERE excluded.fetched_at > price_list.fetched_at
""")


class PostgresPrices:
    """The table `price_list`, of one row."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def newer(self, seen: datetime | None) -> tuple[datetime, bytes] | None:
        """When it was fetched, and the list; None when that was not after `seen`. Raises LedgerFault.

        A row that somebody else wrote and that does not unpack to a list's size is none.
        """
        with mapped(), self._engine.begin() as connection:
            row = connection.execute(_NEWER, {"seen": seen}).one_or_none()
        if row is None:
            return None
        unpacker = zlib.decompressobj(wbits=31)
        try:
            document = unpacker.decompress(bytes(row.document), MOST_BYTES)
        except zlib.error:
            return None
        return (row.fetched_at, document) if unpacker.eof else None

    def keep(self, document: bytes, at: datetime) -> None:
        """The list that was fetched then, unless a newer one is there. Raises LedgerFault."""
        with mapped(), self._engine.begin() as connection:
            connection.execute(_KEEP, {"at": at, "document": gzip.compress(document, 6, mtime=0)})
