"""What runs in the background of a process that serves: it keeps `/readyz` told, learns secrets, keeps rows a place.

None of it ends the process or stops calls: what is away is asked again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from steward import log
from steward.errors import KeyCheckUnavailable, LedgerFault, SchemaTooOld, SealBroken
from steward.ports import Directory, Ledger, Registration
from steward.rewrite import KeyedHash
from steward.trust_book import TrustBook

if TYPE_CHECKING:
    from steward.adapters.postgres_directory import PostgresDirectory

Background = Callable[[], Coroutine[Any, Any, None]]
"""What runs until it is cancelled, or is done, while the process serves."""

MAINTENANCE_S = 6 * 3600.0
MAINTENANCE_RETRY_S = 60.0
_WAIT_FOR_DATABASE_S = 2.0
_BUTLERS_EVERY_S = 10.0
_PENDING_EVERY_S = 5.0


@dataclass(slots=True)
class Health:
    """What `/readyz` tells: kept by the background tasks, read by the API."""

    schema_looked_at: bool = False
    schema_too_old: bool = False
    secrets_learnt: bool = False
    wrong_key: bool = False
    butlers: tuple[Registration, ...] = ()
    """The organisations that are registered, and when the Butler of each was heard."""
    approvals_pending: int | None = None
    """What of Butler's waits for a person inside; None: not known."""
    draining: bool = False


async def kept_running(run: Background) -> None:
    """A task that ends by an error nobody promised is said and begun again: what it keeps would go unkept, unseen."""
    while True:
        try:
            await run()
        except Exception as exc:
            log.error("background_failed", exc)
        else:
            return
        await asyncio.sleep(_WAIT_FOR_DATABASE_S)


def watching(ledger: Ledger, directory: PostgresDirectory, health: Health) -> tuple[Background, ...]:
    """What keeps `/readyz` told."""
    return (
        partial(watch_schema, ledger, health),
        partial(watch_butlers, directory, health),
        partial(watch_pending, directory, health),
    )


class CredentialKey:
    """The sealed secret under which provider credentials are hashed; learnt once the database answers."""

    def __init__(self, directory: Directory, health: Health) -> None:
        self._directory = directory
        self._health = health
        self._hash: KeyedHash | None = None

    def get(self) -> KeyedHash:
        """Raises KeyCheckUnavailable before the first answer of the database."""
        if self._hash is None:
            raise KeyCheckUnavailable
        return self._hash

    async def learn(self) -> None:
        """Asks until it is told."""
        while not await asyncio.to_thread(self.learn_once):  # noqa: ASYNC110 - the database sets no event
            await asyncio.sleep(_WAIT_FOR_DATABASE_S)

    def learn_once(self) -> bool:
        """Asks, if it was not told yet; whether it knows. From any thread."""
        if self._hash is not None:
            return True
        try:
            self._hash = KeyedHash(self._directory.instance_secret("provider_key_hash"))
        except LedgerFault:
            return False
        except SealBroken as exc:
            if not self._health.wrong_key:
                log.error("encryption_key_wrong", exc)
            self._health.wrong_key = True
            return False
        self._health.wrong_key = False
        self._health.secrets_learnt = True
        return True


async def watch_schema(ledger: Ledger, health: Health) -> None:
    """Looks until the schema is new enough; says once what to run."""
    while not await asyncio.to_thread(look_at_schema, ledger, health):  # noqa: ASYNC110 - the database sets no event
        await asyncio.sleep(_WAIT_FOR_DATABASE_S)


def look_at_schema(ledger: Ledger, health: Health) -> bool:
    """Whether it is new enough, as far as can be told; one that is too old is said once."""
    if health.schema_looked_at:
        return True
    try:
        ledger.ready()
    except SchemaTooOld as exc:
        if not health.schema_too_old:
            log.error("schema_too_old", exc)
        health.schema_too_old = True
    except LedgerFault:
        pass  # the key poll says it; readiness follows the poll
    else:
        health.schema_too_old = False
        health.schema_looked_at = True
    return health.schema_looked_at


async def watch_butlers(directory: Directory, health: Health) -> None:
    """Whose Butler was heard when, for operators."""
    while True:
        try:
            known = await asyncio.to_thread(directory.registrations)
            health.butlers = tuple(each for each in known if each.deregistered_at is None)
        except LedgerFault:
            pass  # the key poll says it
        await asyncio.sleep(_BUTLERS_EVERY_S)


async def watch_pending(book: TrustBook, health: Health, every_s: float = _PENDING_EVERY_S) -> None:
    """Counts what waits for a person inside, anew when anything changed; in a twentieth of the time at most."""
    mark: str | None = None
    while True:
        spent_s = 0.0
        try:
            seen = await asyncio.to_thread(book.storage_mark)
            if seen != mark:
                health.approvals_pending, spent_s = await asyncio.to_thread(_approvable, book)
                mark = seen
        except LedgerFault:
            pass  # the key poll says it
        await asyncio.sleep(max(every_s, 20 * spent_s))


def _approvable(book: TrustBook) -> tuple[int, float]:
    """How many wait, and for how many seconds it kept the processor from calls to count them."""
    began = time.thread_time()
    waiting = sum(each.approvable for each in book.pending_approvals())
    return waiting, time.thread_time() - began


async def maintain(maintain: Callable[[datetime], None]) -> None:
    """Keeps next month's partition made ahead, and the egress log as long as it is to be."""
    while True:
        try:
            await asyncio.to_thread(maintain, datetime.now(UTC))
        except LedgerFault as exc:
            log.error("maintenance_failed", exc)
            await asyncio.sleep(MAINTENANCE_RETRY_S)
        else:
            await asyncio.sleep(MAINTENANCE_S)
