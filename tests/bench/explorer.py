"""How long a page of the request explorer takes, in a Butler that has very many calls: milliseconds and rows read.

The server is one of `make demo`'s kind, small and with its defaults. Refuses to begin where the disk has no room.
"""

from __future__ import annotations

import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.engine import Engine

from migrations import migrate_butler
from steward.adapters.postgres_connection import open_engine
from steward.adapters.postgres_local import LocalPostgres
from steward.butler.passwords import Passwords
from steward.butler.services import Services, Site, over
from steward.butler.store_explorer import statement_of
from steward.butler.views import Cursor, Filter
from tests.butler.many_calls import ORG, SINCE, UNTIL, explained, fill, rows_read
from tests.servers.butler import BUTLER_KEYRING
from tests.servers.postgres import address_of

ROWS = 10_000_000
PAGE = 50
RUNS = 25
DISK_BYTES_A_ROW = 1200
"""At most, with indexes; some 800 were measured."""
DISK_BYTES_AT_ALL = 1 << 29
"""An empty server, and the write-ahead log while it is filled."""

_ALL = Filter(SINCE, UNTIL)
_DEEP = Cursor(datetime(2026, 11, 4, tzinfo=UTC), UUID(int=0))
PAGES = {
    "newest": (_ALL, None),
    "by model": (replace(_ALL, model="model-17"), None),
    "by key": (replace(_ALL, api_key_id=UUID(int=17)), None),
    "failed": (replace(_ALL, failed=True), None),
    "by tag": (replace(_ALL, tags=(("Team", "team-17"),)), None),
    "next page, deep": (_ALL, _DEEP),
    "by model, deep": (replace(_ALL, model="model-17"), _DEEP),
    "by tag, deep": (replace(_ALL, tags=(("Team", "team-17"),)), _DEEP),
}
"""What is asked for, and where in it the page begins."""


class NoRoom(Exception):
    """The disk has too little left; says in words how much is needed."""


@dataclass(frozen=True)
class PageCost:
    """What one page took."""

    rows: int
    median_ms: float
    """Of `RUNS`, by the explorer itself, after one that is not counted: rows read into objects and all."""
    server_ms: float
    """What PostgreSQL says of it: planning and executing, the median of as many."""
    rows_read: int


class ExplorerBench:
    """A Butler full of calls."""

    def __init__(self, engine: Engine, services: Services) -> None:
        self._engine = engine
        self._services = services

    def disk_bytes(self) -> int:
        """Of the database, indexes included."""
        with self._engine.connect() as connection:
            return int(connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one())

    def calls(self) -> int:
        """How many there are, of both organisations."""
        with self._engine.connect() as connection:
            return int(connection.execute(text("SELECT count(*) FROM butler.requests")).scalar_one())

    def page(self, name: str) -> PageCost:
        """One of PAGES."""
        which, cursor = PAGES[name]
        found = self._services.explorer.page(ORG, which, cursor, PAGE)
        took_ms = []
        for _ in range(RUNS):
            began = time.perf_counter()
            self._services.explorer.page(ORG, which, cursor, PAGE)
            took_ms.append((time.perf_counter() - began) * 1000)
        server_ms = statistics.median(self._server_ms(which, cursor) for _ in range(RUNS))
        read = rows_read(explained(self._engine, which, cursor, PAGE + 1))
        return PageCost(len(found.rows), statistics.median(took_ms), server_ms, read)

    def _server_ms(self, which: Filter, cursor: Cursor | None) -> float:
        statement, facts = statement_of(ORG, which, cursor, PAGE + 1)
        with self._engine.connect() as connection:
            plan = connection.execute(text(f"EXPLAIN (ANALYZE, TIMING OFF, SUMMARY) {statement}"), facts).scalars()
            return sum(
                float(said) for said in re.findall(r"(?:Planning|Execution) Time: ([0-9.]+) ms", "\n".join(plan))
            )


@contextmanager
def explorer_bench(rows: int = ROWS, tell: Callable[[str], None] = lambda said: None) -> Iterator[ExplorerBench]:
    """Fills a server of its own and takes it away in the end. `tell` hears how far it is. Raises NoRoom."""
    needed, free = DISK_BYTES_AT_ALL + rows * DISK_BYTES_A_ROW, shutil.disk_usage(tempfile.gettempdir()).free
    said = (
        f"{rows:,} calls need up to {needed / 1e9:.1f} GB below {tempfile.gettempdir()}, {free / 1e9:.1f} GB are free"
    )
    if needed > free:
        raise NoRoom(said)
    tell(said)
    with LocalPostgres(for_tests=True, settings={"max_wal_size": "256MB"}) as server:
        engine = open_engine(address_of(server))
        try:
            migrate_butler(engine, BUTLER_KEYRING)
            services = over(engine, BUTLER_KEYRING, Site("http://127.0.0.1:7690"), Passwords(), lambda: UNTIL)
            fill(engine, services, rows, tell)
            yield ExplorerBench(engine, services)
        finally:
            engine.dispose()
