"""A case's scene: the provider's stand-in, an installation in front of it, its store, and loads on it.

It makes and ends things; what is done to them, and what must hold afterwards, each case says itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path

from sqlalchemy import text

from steward.adapters.postgres_connection import PostgresAddress, open_engine
from steward.adapters.postgres_local import LocalPostgres
from steward.exchange import BodyState
from tests.faults import account
from tests.faults.account import Account
from tests.faults.installation import install
from tests.faults.load import Load
from tests.faults.loop_thread import LoopThread
from tests.faults.plays import Kind
from tests.faults.stand_in import StandIn
from tests.servers.waiting import eventually

LOAD_WITHIN_S = 60.0
ROUND_S = 3.0
ROUND_CALLS = 50
"""The least that a round must have served, so that there is something to lose."""


class Scene:
    """Everything of one case but its faults."""

    def __init__(
        self,
        running: LoopThread,
        server: LocalPostgres,
        folder: Path,
        settings: Mapping[str, str],
        read: Callable[[str], bytes] | None = None,
    ) -> None:
        """`read`: a stored object by its key, where the store is not the folder."""
        self.running = running
        self.server = server
        self.provider = running.ask(StandIn)
        running.do(self.provider.start())
        self.steward = install(_new_database(server), folder, self.provider.port, settings)
        self.loads: list[Load] = []
        self._numbers = count(1)
        self._read = read or (lambda key: (self.steward.bodies / key).read_bytes())

    def load(
        self,
        rate: float = 300,
        mix: Iterable[Kind] = (Kind.PLAIN, Kind.PLAIN, Kind.STREAM),
        callers: int | None = None,
        keep: bool = True,
    ) -> Load:
        """A load that has begun; its numbers are its own."""
        load = Load(self.running, self.steward.port, self.steward.keys, rate, mix, self._numbers, callers, keep)
        self.loads.append(load)
        load.start()
        return load

    def serve(self, calls: int, load: Load) -> None:
        """Returns once so many more calls were served, however long that takes."""
        before = load.served
        eventually(lambda: load.served >= before + calls, LOAD_WITHIN_S)

    def begin(self, calls: int, load: Load) -> None:
        """Returns once so many more callers have the head of their answer."""
        before = self._answered(load)
        eventually(lambda: self._answered(load) >= before + calls, LOAD_WITHIN_S)

    @staticmethod
    def _answered(load: Load) -> int:
        return sum(call.status == 200 for call in list(load.calls))

    def round(self, load: Load, seconds: float = ROUND_S, calls: int = ROUND_CALLS) -> None:
        """Returns once the load has run so long, and so many more calls were served."""
        until = time.monotonic() + seconds
        self.serve(calls, load)
        eventually(lambda: time.monotonic() >= until, seconds + LOAD_WITHIN_S)

    def settle(
        self, excused: Collection[BodyState] = (), within_s: float = account.WITHIN_S, one_body_in: int = 1
    ) -> Account:
        """Ends the loads, waits for the account, and asserts that it is clean."""
        for load in self.loads:
            load.stop()
        return account.settle(self.steward, self.provider, self.loads, self._read, excused, within_s, one_body_in)

    def end(self) -> None:
        """Whatever still runs."""
        self.steward.end()
        self.running.do(self.provider.stop())


_numbers = count()


def _new_database(server: LocalPostgres) -> PostgresAddress:
    """A database of its own, reached by TCP with a password, as a server elsewhere would be."""
    name = f"faults_{next(_numbers)}"
    address = PostgresAddress(server.host, server.port, server.user, server.password, server.database, "disable")
    engine = open_engine(address)
    try:
        with engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").execute(text(f"CREATE DATABASE {name}"))
    finally:
        engine.dispose()
    assert server.tcp_port is not None
    return replace(address, host="127.0.0.1", port=server.tcp_port, database=name)
