"""What is counted, and when: calls in settle's metering step, queues and connections once a second.

It costs a caller nothing, takes no label that may not leave (SECURITY F4), and never fails what it counts.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from steward import errors
from steward import metric_names as names
from steward.counted_calls import CountedCalls
from steward.errors import SettingError, StewardError
from steward.exchange import BodyState, Cost, ErrorCode, Exchange, Metered, Operation, Record
from steward.metric_files import Board, prepared_board, temporary_board
from steward.ports import Depth, PutResult, ViewAct

NONE = "none"
"""What a label says where there is nothing to say."""

EVERY_S = 1.0
VIEW_ACTS = (ViewAct.OPENED, ViewAct.DOWNLOADED, ViewAct.REFUSED)
CODES = frozenset(
    {str(code) for code in ErrorCode}
    | {kind.code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, StewardError)}
)
_STATUSES = range(100, 600)
_TOKENS = {
    "input": "input_tokens",
    "output": "output_tokens",
    "cached": "cached_tokens",
    "cache_creation": "cache_creation_tokens",
    "reasoning": "reasoning_tokens",
}
"""What the label `kind` says, and the field of `Usage`. Input includes the cached, output the reasoning."""


def prepare(folder: Path | None) -> Board:
    """The board of this process and all it will fork. None: there is no spool, and the counts end with the process.

    Raises SettingError when the folder cannot be used.
    """
    if folder is None:
        return temporary_board()
    try:
        return prepared_board(folder)
    except OSError:
        raise SettingError("SPOOL_DIR: the folder for metrics in it cannot be made or written") from None


class CallMetrics:
    """What settle counts. From the metering step, so that it goes on while database and store are away.

    Where a queue hands a call to any process, and again, only the ledger knows whether it was counted: see consuming.
    """

    def __init__(self, board: Board | None = None, counted: CountedCalls | None = None) -> None:
        """No board: nobody asks, and nothing is counted. `counted`: where a dead process's calls come again."""
        self._board = board
        self._counted = counted
        if board is None:
            return
        _begin(board, names.ROWS, BodyState)
        _begin(board, names.PUTS, ("stored", "refused", "unavailable"))
        _begin(board, names.LEDGER_WRITES, ("written", "failed"))
        board.add(names.ROWS_REFUSED, by=0)
        board.add(names.POISONED, by=0)
        board.add(names.INTERRUPTED, by=0)

    def count(self, exchange: Exchange, metered: Metered, cost: Cost | None, record: Record) -> None:
        """One call, once."""
        if self._board is None or not self._is_new(record):
            return
        add, provider, model = self._board.add, record.provider, record.model or NONE
        self._ended(self._board, record)
        code = exchange.error or metered.error
        if code is not None:
            add(names.ERRORS, (provider, _code(code)))
        add(names.OCTETS, (provider, "request"), record.request_bytes)
        add(names.OCTETS, (provider, "response"), record.response_bytes)
        if metered.usage is not None and exchange.route.operation is not Operation.RESPONSES_RETRIEVE:
            # What is read again was counted and paid for when it was made.
            for kind, field in _TOKENS.items():
                if tokens := getattr(metered.usage, field):
                    add(names.TOKENS, (provider, model, kind), tokens)
            if cost is None:
                add(names.UNPRICED, (provider, model))
        if cost is not None:
            add(names.COST, (provider, model), float(cost.total_usd))
        times = exchange.timings
        for metric, us in (
            (names.ADDED, times.sent_us),
            (names.FIRST_BYTE, times.first_byte_us),
            (names.DURATION, times.last_byte_us),
        ):
            if us is not None:
                self._board.observe(metric, (provider,), us / 1e6)

    def interrupted(self, record: Record) -> None:
        """A call of which nothing but its beginning is known, once it is sure that there is no more."""
        if self._board is not None and self._is_new(record):
            self._ended(self._board, record)
            self._board.add(names.INTERRUPTED)

    def _is_new(self, record: Record) -> bool:
        return self._counted is None or self._counted.is_new(record.id)

    @staticmethod
    def _ended(board: Board, record: Record) -> None:
        status = str(record.status_code) if record.status_code in _STATUSES else NONE
        board.add(names.CALLS, (record.provider, record.model or NONE, status, str(record.outcome)))

    def poisoned(self) -> None:
        """One exchange was set aside, alone."""
        if self._board is not None:
            self._board.add(names.POISONED)

    def put(self, result: PutResult) -> None:
        """One try to store a body."""
        if self._board is not None:
            said = "stored" if result.ref is not None else "refused" if result.refused else "unavailable"
            self._board.add(names.PUTS, (said,))

    def written(self, records: Sequence[Record], refused: int) -> None:
        """One statement of the ledger went through; so many of its rows were refused."""
        if self._board is None:
            return
        self._board.add(names.LEDGER_WRITES, ("written",))
        self._board.add(names.ROWS_REFUSED, by=refused)
        for state, count in Counter(str(record.body_state) for record in records).items():
            self._board.add(names.ROWS, (state,), count)

    def not_written(self) -> None:
        """One statement of the ledger did not."""
        if self._board is not None:
            self._board.add(names.LEDGER_WRITES, ("failed",))


class QueueMetrics:
    """What waits, as the settling process sees it."""

    def __init__(self, board: Board, limit_bytes: int) -> None:
        self._board = board
        self._limit_bytes = limit_bytes

    def observe(self, depth: Depth, database_up: bool = True) -> None:
        """Once a second or so, also when nothing changed: the process shows by it that it lives."""
        put = self._board.put
        put(names.SPOOL_ITEMS, depth.items)
        put(names.SPOOL_BYTES, depth.size_bytes)
        put(names.SPOOL_OLDEST, depth.oldest_s)
        put(names.SPOOL_BODIES, depth.bodies)
        put(names.SPOOL_LIMIT, self._limit_bytes)
        put(names.QUARANTINE, depth.set_aside)
        put(names.LOST, depth.lost)
        _process(self._board, "settler")
        put(names.DATABASE_UP, database_up, ("settler",))


class ExportMetrics:
    """What goes to Butler, and what waits for it."""

    def __init__(self, board: Board | None = None) -> None:
        """No board: nobody asks, and nothing is counted."""
        self._board = board
        if board is not None:
            _begin(board, names.EXPORTED, ("taken", "set_aside"))
            board.add(names.KEPT_LOCAL, by=0)

    def taken(self, count: int) -> None:
        """So many are there."""
        if self._board is not None:
            self._board.add(names.EXPORTED, ("taken",), count)

    def set_aside(self, count: int) -> None:
        """So many do not go out as they stand."""
        if self._board is not None:
            self._board.add(names.EXPORTED, ("set_aside",), count)

    def kept_local(self, count: int) -> None:
        """So many go nowhere."""
        if self._board is not None and count:
            self._board.add(names.KEPT_LOCAL, by=count)

    def observe(self, waiting: int, oldest_s: float) -> None:
        """What waits, now."""
        if self._board is not None:
            self._board.put(names.EXPORT_WAITING, waiting)
            self._board.put(names.EXPORT_LAG, oldest_s)


@dataclass(frozen=True, slots=True)
class Connections:
    """What one relaying process holds open towards others."""

    upstream: int = 0
    database_in_use: int = 0
    database_idle: int = 0


@dataclass(frozen=True, slots=True)
class RelayState:
    """What one relaying process has under way."""

    ready: bool
    database_up: bool
    calls_in_flight: int
    caller_connections: int
    known_keys: int
    held: Connections = Connections()
    spool_limit_bytes: int | None = None
    """None where calls are not spooled."""
    butler_unheard_s: float = 0.0
    """The longest of all organisations."""
    approvals_pending: int = 0


class RelayMetrics:
    """What a relaying process shows of itself, and the callers it turned away."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def observe(self, state: RelayState) -> None:
        """Once a second or so."""
        put = self._board.put
        put(names.READY, state.ready)
        put(names.DATABASE_UP, state.database_up, ("relay",))
        put(names.IN_FLIGHT, state.calls_in_flight)
        put(names.CONNECTIONS, state.caller_connections)
        put(names.UPSTREAM, state.held.upstream)
        put(names.KEYS, state.known_keys)
        put(names.BUTLER_UNHEARD, state.butler_unheard_s)
        put(names.APPROVALS_PENDING, state.approvals_pending)
        if state.spool_limit_bytes is not None:
            put(names.SPOOL_LIMIT, state.spool_limit_bytes)
        put(names.DATABASE_CONNECTIONS, state.held.database_in_use, ("in_use",))
        put(names.DATABASE_CONNECTIONS, state.held.database_idle, ("idle",))
        _process(self._board, "relay")

    async def keep(self, read: Callable[[], RelayState], every_s: float = EVERY_S) -> None:
        """Shows it until cancelled."""
        while True:
            self.observe(read())
            await asyncio.sleep(every_s)

    def refused(self, code: str, count: int) -> None:
        """So many callers were turned away before they were known."""
        self._board.add(names.REFUSED, (_code(code),), count)


QUEUE_REASONS = (
    *("not_a_message", "other_version", "other_key", "not_sealed_here", "not_understood", "another_object"),
    "too_large",
)
"""Why a message of a queue does not open."""


def queue_refused(board: Board) -> Callable[[str], None]:
    """Counts a message that does not open, by why."""
    _begin(board, names.QUEUE_REFUSED, QUEUE_REASONS)
    return lambda reason: board.add(names.QUEUE_REFUSED, (reason if reason in QUEUE_REASONS else names.OTHER,))


class ViewMetrics:
    """What was asked for in the viewer."""

    def __init__(self, board: Board) -> None:
        self._board = board
        _begin(board, names.VIEWED, VIEW_ACTS)

    def noted(self, act: ViewAct) -> None:
        """A line of the account was written."""
        self._board.add(names.VIEWED, (act.value,))


def _begin(board: Board, metric: names.Metric, words: Iterable[str]) -> None:
    """Each at 0: the first one is an increase then, and seen as one."""
    for word in words:
        board.add(metric, (str(word),), 0)


def _code(code: str) -> str:
    return str(code) if code in CODES else names.OTHER


def _process(board: Board, role: str) -> None:
    board.put(names.PROCESSES, 1, (role,))
    try:
        with open("/proc/self/statm", "rb") as statm:
            pages = int(statm.read().split()[1])
    except OSError:  # not Linux
        return
    board.put(names.RESIDENT, pages * os.sysconf("SC_PAGE_SIZE"), (role,))
