"""A set of storage configs arrives from Butler: what is kept of it and of what was there before. Pure.

It never lets a destination that policy does not allow take the place of one that it does: of each owner the newest
word is kept, and beside it the last one that was in force.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from steward.policy import Facts, Local, Reason, Wait, Yes, belongs, decide, fingerprint, names
from steward.sent import KeptConfig, OwnerType, Pending, StorageConfig, Wanted

BROKEN: Final = "broken"
"""Why a row that was tampered with is not in force."""


MOST_PINNED: Final = 10_000
"""Of one organisation: as many as a set has rows. A Butler that says another place every tick is given no more, since
each approval is kept for ever and looked at with every other."""


class InForce(NamedTuple):
    """Where an owner's bodies go."""

    config: KeptConfig
    decided: Yes


@dataclass(frozen=True, slots=True)
class Arrived:
    """What is to be kept, and what of it is approved by its arrival."""

    kept: tuple[KeptConfig, ...]
    pinned: tuple[KeptConfig, ...]


@dataclass(frozen=True, slots=True)
class Circumstances:
    """Under which a set arrives."""

    local: Local
    approved: Callable[[str], bool]
    """Whether a fingerprint of the organisation's is."""
    now: datetime
    since_registered_s: float | None
    room: int = MOST_PINNED
    """How many more may be pinned."""


def config_id(printed: str) -> UUID:
    """What rows call the destination of this fingerprint."""
    return UUID(hex=printed[:32])


def said(config: KeptConfig) -> StorageConfig:
    """As Butler said it."""
    return StorageConfig(config.owner_type, config.owner_id, config.destination)


def arrived(
    org_id: UUID, configs: Sequence[StorageConfig], before: Sequence[KeptConfig], under: Circumstances
) -> Arrived:
    """The whole set of an organisation. What is of another organisation is passed over, alone."""
    kept: list[KeptConfig] = []
    pinned: list[KeptConfig] = []
    owners = _by_owner(each for each in before if not each.broken)
    for config in configs:
        if not belongs(org_id, config):
            continue
        printed = fingerprint(org_id, names(config))
        approved = under.approved(printed)
        decided = decide(config, Facts(under.local, approved, under.since_registered_s))
        pins = isinstance(decided, Yes) and decided.reason is Reason.WINDOW and len(pinned) < under.room
        earlier = owners.get((config.owner_type, config.owner_id), [])
        same = next((each for each in earlier if each.fingerprint == printed and each.current), None)
        new = KeptConfig(
            config_id(printed),
            org_id,
            config.owner_type,
            config.owner_id,
            printed,
            config.destination,
            current=True,
            approved=approved or pins,
            said_at=same.said_at if same else under.now,
        )
        kept.append(new)
        pinned += [new] if pins else []
        last = in_force((each for each in earlier if each.fingerprint != printed), under.local)
        if last is not None:
            kept.append(replace(last.config, current=False))
    return Arrived(tuple(kept), tuple(pinned))


def in_force(configs: Iterable[KeptConfig], local: Local) -> InForce | None:
    """Of one owner's configs the one that is followed: what Butler says now, if it may, else the last that might."""
    for config in sorted(configs, key=lambda each: (each.current, each.said_at), reverse=True):
        if config.broken:
            continue
        decided = decide(said(config), Facts(local, config.approved))
        if isinstance(decided, Yes):
            return InForce(config, decided)
    return None


def readable(config: KeptConfig, local: Local) -> Yes | None:
    """Whether bodies that lie there may still be fetched: it need not be followed any more, but policy must say yes."""
    if config.broken:
        return None
    decided = decide(said(config), Facts(local, config.approved))
    return decided if isinstance(decided, Yes) else None


def all_in_force(configs: Iterable[KeptConfig], local: Local) -> Iterator[InForce]:
    """Of each owner of each organisation the one that is followed, if any is."""
    by_org: dict[UUID, list[KeptConfig]] = {}
    for config in configs:
        by_org.setdefault(config.org_id, []).append(config)
    for of_org in by_org.values():
        found = (in_force(of_owner, local) for of_owner in _by_owner(of_org).values())
        yield from (each for each in found if each is not None)


def pending(configs: Iterable[KeptConfig], local: Local) -> list[Pending]:
    """What Butler says now and is not followed, oldest first."""
    waiting = []
    for config in configs:
        if config.broken:
            waiting.append(_pending(config, BROKEN, approvable=False))
            continue
        decided = decide(said(config), Facts(local, config.approved))
        if config.current and not isinstance(decided, Yes):
            waiting.append(_pending(config, decided.reason.value, isinstance(decided, Wait)))
    return sorted(waiting, key=lambda each: (each.said_at, each.fingerprint))


def approved_already(config: KeptConfig) -> Pending:
    """One that needs no approval any more."""
    return _pending(config, Reason.APPROVED.value, approvable=True)


def _pending(config: KeptConfig, reason: str, approvable: bool) -> Pending:
    return Pending(
        Wanted.STORAGE,
        config.fingerprint,
        config.org_id,
        config.owner_type,
        config.owner_id,
        reason,
        approvable,
        names(said(config)),
        config.said_at,
    )


def _by_owner(configs: Iterable[KeptConfig]) -> Mapping[tuple[OwnerType, UUID], list[KeptConfig]]:
    owners: dict[tuple[OwnerType, UUID], list[KeptConfig]] = {}
    for config in configs:
        owners.setdefault((config.owner_type, config.owner_id), []).append(config)
    return owners
