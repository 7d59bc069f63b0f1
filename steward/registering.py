"""Makes an organisation this installation's: its token is asked of Butler whose it is, then kept.

Refuses an address that BUTLER_URLS_ALLOW does not name, and a token that its Butler does not confirm. What Butler calls
an organisation is a text of a stranger's: whoever shows it escapes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from steward import ingress
from steward.errors import ButlerDenied, ButlerRejected, SettingError
from steward.ports import ControlPlane, Directory, Identity, Lane, Outbox, Registration
from steward.trust_book import TrustBook
from steward.words import Secret

NOT_ALLOWED: Final = "BUTLER_URLS_ALLOW: does not name this address"

UNHEARD_S: Final = 3600.0
"""A Butler that was not heard for so long is worth a word."""
_MOST_COUNTED: Final = 10_000

OpenButler = Callable[[str, Secret[str]], ControlPlane]
Waiting = Callable[[Registration], Mapping[str, int]]
"""What waits for an organisation, by name: rows for export, approvals."""


def nothing_waits(each: Registration) -> Mapping[str, int]:
    """Where nobody counts."""
    return {}


def counting(outbox: Outbox, book: TrustBook) -> Waiting:
    """What waits for an organisation: `rows` of its keys that Butler has not, counted up to 10,000; `approvals`."""

    def counted(each: Registration) -> Mapping[str, int]:
        rows = outbox.waiting(Lane(each.id, each.org_id), _MOST_COUNTED).rows
        return {"rows": rows, "approvals": sum(one.approvable for one in book.pending_approvals(each.org_id))}

    return counted


def whose(open_butler: OpenButler, url: str, token: Secret[str]) -> Identity:
    """What Butler says of a token. Raises ButlerFault."""
    from steward import egress  # its models take a fifth of a second to build, and who relays seldom needs them

    butler = open_butler(url, token)
    try:
        return ingress.identity(butler.ask(egress.Me()))
    except ButlerRejected:
        raise ButlerDenied from None  # who does not know this question is no Butler, or this is not its address
    finally:
        butler.close()


def register(
    directory: Directory, open_butler: OpenButler, url: str, token: Secret[str], allowed: Sequence[str] = ()
) -> Registration:
    """Asks Butler whose the token is, and keeps it. Raises SettingError, ButlerFault, LedgerFault: nothing is kept."""
    if allowed and url not in allowed:
        raise SettingError(NOT_ALLOWED)
    return directory.register(whose(open_butler, url, token), url, token)


def facts(each: Registration, waiting: Mapping[str, int]) -> dict[str, object]:
    """All that is told of an organisation; its token is not."""
    return {
        "org_id": each.org_id,
        "org_name": each.org_name,
        "butler_url": each.butler_url,
        "steward_id": each.steward_id,
        "registration_id": each.id,
        "registered_at": each.registered_at,
        "deregistered_at": each.deregistered_at,
        "heard_at": each.heard_at,
        "fault": each.fault,
        "pending": dict(waiting),
    }


def org_id(text: str) -> UUID | None:
    """An id as it is printed; None for anything else."""
    try:
        found = UUID(text)
    except ValueError:
        return None
    return found if str(found) == text else None


def unheard_s(each: Registration, now: datetime) -> float:
    """How long its Butler was not heard: since it was, or since it was registered."""
    return max(0.0, (now - (each.heard_at or each.registered_at)).total_seconds())


def longest_unheard_s(known: Iterable[Registration], now: datetime) -> float:
    """The longest of all; 0 when none is registered."""
    return max((unheard_s(each, now) for each in known), default=0.0)
