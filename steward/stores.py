"""Which store a caller's bodies go to: his Personal one, else his organisation's, else BODY_STORE_URL's, else none.

Only what policy allows is ever opened. What is known stays in force while the database cannot be asked; before it was
ever asked, bodies of organisations wait. A look costs one short statement when nothing changed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import date
from uuid import UUID

from steward import log
from steward.arriving import InForce, all_in_force, readable
from steward.destination import Destination
from steward.errors import LedgerFault, SettingError, StoreUnavailable
from steward.exchange import LOCAL_ORG, Caller
from steward.policy import Local
from steward.ports import BodyStore, Place, Put, PutResult, StoredObject, Stores
from steward.sent import KeptConfig, OwnerType
from steward.trust_book import TrustBook

LOOK_EVERY_S = 3.0
"""How often the directory is asked: what is approved is used within 10 s on every replica."""

_REST = 2.0
"""A pause lasts so many times as long as the look before it kept the processor, at least: sets of 10,000 rows, changed
every tick by a hostile Butler, must not keep it from calls."""

_END_S = 2.0

_Owner = tuple[UUID, OwnerType, UUID]
_Opened = tuple[_Owner, Destination]
"""Credentials are part of a destination: one whose secret alone was renewed is another client."""


class OneStore(Stores):
    """All bodies go to one store, or to none."""

    def __init__(self, store: BodyStore | None) -> None:
        self._place = None if store is None else Place(store)

    def of(self, caller: Caller) -> Place | None:
        return self._place

    def holding(self, org_id: UUID, config_id: UUID | None) -> BodyStore | None:
        return self._place.store if self._place is not None and config_id is None else None

    def changes(self) -> int:
        return 0

    def close(self) -> None:
        if self._place is not None:
            self._place.store.close()


class DecidedStores(Stores):
    """By the directory's configs, as far as policy follows them."""

    def __init__(
        self,
        book: TrustBook,
        local: Local,
        default: BodyStore | None,
        opener: Callable[[Destination], BodyStore],
    ) -> None:
        """`default`: that of BODY_STORE_URL. `opener` makes an adapter, and connects to nothing."""
        self._book = book
        self._local = local
        self._default = None if default is None else Place(default)
        self._opener = opener
        self._unknown = Place(_Away())
        self._known: Mapping[_Owner, Place] | None = None
        self._opened: dict[_Opened, Place] = {}
        self._kept: Mapping[tuple[UUID, UUID], KeptConfig] = {}
        """Those that Butler says no more."""
        self._mark: str | None = None
        self._changes = 0

    def of(self, caller: Caller) -> Place | None:
        if caller.org_id == LOCAL_ORG:
            return self._default
        known = self._known
        if known is None:
            return self._unknown
        org_id, user_id = caller.org_id, caller.user_id
        place = known.get((org_id, OwnerType.USER, user_id)) if user_id is not None else None
        return place or known.get((org_id, OwnerType.ORG, org_id)) or self._default

    def holding(self, org_id: UUID, config_id: UUID | None) -> BodyStore | None:
        if config_id is None:
            return None if self._default is None else self._default.store
        places = {} if self._known is None else self._known
        mine = (place for owner, place in places.items() if owner[0] == org_id)
        found = next((place.store for place in mine if place.config_id == config_id), None)
        return found or self._past(org_id, config_id)

    def look(self) -> bool:
        """Asks the directory once; whether any place is another than before. Raises LedgerFault: all stays."""
        mark = self._book.storage_mark()
        if mark == self._mark:
            return False
        kept = self._book.kept_configs()
        broken = {(each.org_id, each.owner_type, each.owner_id) for each in kept if each.broken}
        changed = self._follow(all_in_force(kept, self._local), broken)
        self._kept = {(each.org_id, each.id): each for each in kept if not each.current}
        self._mark = mark
        return changed

    def changes(self) -> int:
        return self._changes

    def close(self) -> None:
        for place in self._opened.values():
            place.store.close()
        if self._default is not None:
            self._default.store.close()

    def _follow(self, found: Iterable[InForce], broken: Iterable[_Owner]) -> bool:
        """Of an owner whose row was tampered with, and who has no other in force, bodies wait."""
        known: dict[_Owner, Place] = dict.fromkeys(broken, self._unknown)
        opened: dict[_Opened, Place] = {}
        for config, decided in found:
            owner = (config.org_id, config.owner_type, config.owner_id)
            key: _Opened = (owner, decided.destination)
            place = self._opened.get(key) or Place(self._open(decided.destination, config.id), config.id)
            known[owner] = opened[key] = place
        changed = known != (self._known or {})
        self._changes += changed or self._known is None
        before, self._opened, self._known = self._opened, opened, known
        for key, place in before.items():
            if key not in opened:
                place.store.close()
        return changed

    def _past(self, org_id: UUID, config_id: UUID) -> BodyStore | None:
        """One that took bodies before another came in its place, as long as policy says yes to it."""
        config = self._kept.get((org_id, config_id))
        decided = None if config is None else readable(config, self._local)
        return None if decided is None else _Past(lambda: self._open(decided.destination, config_id))

    def _open(self, destination: Destination, config_id: UUID) -> BodyStore:
        """One that cannot be had here is away: its bodies wait for it, and go nowhere else."""
        try:
            return self._opener(destination)
        except (SettingError, ValueError) as exc:
            log.error("store_not_opened", exc, id=config_id)
            return _Away()


class Looking:
    """Keeps the stores up to date, in a thread of its own."""

    def __init__(self, stores: DecidedStores, every_s: float = LOOK_EVERY_S) -> None:
        self._stores = stores
        self._every_s = every_s
        self._ending = threading.Event()
        self._well = True
        self._thread = threading.Thread(target=self._run, name="steward-stores", daemon=True)

    def start(self) -> None:
        """The first look is at once."""
        self._thread.start()

    def end(self) -> None:
        """No look begins any more. Waits a moment for one that is under way."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(_END_S)

    def _run(self) -> None:
        while True:
            began = time.thread_time()
            try:
                if self._stores.look():
                    log.say("stores_followed")
                self._well = True
            except LedgerFault as exc:
                if self._well:
                    log.error("stores_not_looked_up", exc)
                self._well = False
            except Exception as exc:  # what fails in one look must not end all that come after
                log.error("stores_not_looked_up", exc)
            if self._ending.wait(max(self._every_s, _REST * (time.thread_time() - began))):
                return


class _Away(BodyStore):
    """Takes nothing, and gives nothing, for now."""

    def put_many(self, puts: Sequence[Put]) -> list[PutResult]:
        return [PutResult(None) for _ in puts]

    def get(self, key: str, most_bytes: int | None = None) -> bytes:
        raise StoreUnavailable

    def delete(self, key: str) -> None:
        raise StoreUnavailable

    def listed(self, since: date) -> Iterator[StoredObject]:
        raise StoreUnavailable

    def url(self, key: str) -> str:
        raise ValueError("no store is known yet")

    def close(self) -> None:
        return None


class _Past(_Away):
    """Gives what lies there, and takes nothing. Opened for each object: few ever ask."""

    def __init__(self, opened: Callable[[], BodyStore]) -> None:
        self._opened = opened

    def get(self, key: str, most_bytes: int | None = None) -> bytes:
        with closing(self._opened()) as store:
            return store.get(key, most_bytes)
