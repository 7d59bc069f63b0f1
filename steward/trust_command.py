"""`steward pending` and `approve`: what Butler wants and is not in force, in words, and a person's word that it may.

It prints everything a fingerprint covers and no secret; whatever Butler chose the words of has its control characters
escaped. What is approved is exactly what was shown: the whole fingerprint is asked for.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from steward import ingress
from steward.errors import LedgerFault
from steward.ports import Directory
from steward.printing import as_json
from steward.sent import Pending, Wanted
from steward.trust_book import NO_APPROVAL_HELPS

WHY: Final[Mapping[str, str]] = MappingProxyType(
    {
        "not_approved": "nobody inside approved it yet",
        "custom_endpoint": "not the vendor's own address: it always waits for a person",
        **NO_APPROVAL_HELPS,
    }
)
_TITLES: Final = {Wanted.STORAGE: "bodies go to", Wanted.PROVIDER_KEY: "a provider's key for jobs"}
_UNSAID: Final = {"endpoint": "(the vendor's own address)", "principal": "(no credentials: the host's own role)"}


def whoever() -> str:
    """Who runs this command, as the host knows him."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


def pending(directory: Directory, json_wanted: bool) -> str:
    """All that waits, and all that is refused."""
    waiting = directory.pending_approvals()
    if json_wanted:
        return as_json([_facts(each) for each in waiting])
    if not waiting:
        return "Nothing waits: all that Butler says is in force.\n"
    known = {each.org_id: each.org_name for each in directory.registrations()}
    return "\n".join(_told(each, known.get(each.org_id, "?")) for each in waiting)


def approve(directory: Directory, fingerprints: Sequence[str], by: str, json_wanted: bool) -> str:
    """Approves all of them or, when one is unknown or cannot be approved, none. Raises LedgerFault."""
    waiting = {each.fingerprint: each for each in directory.pending_approvals()}
    for each in fingerprints:
        found = waiting.get(each)
        if found is not None and not found.approvable:
            raise LedgerFault(NO_APPROVAL_HELPS[found.reason])
        if found is None and directory.approve(each, by) is None:
            raise LedgerFault("Nothing waits under this fingerprint. Run: steward pending")
    done = [made for each in fingerprints if (made := directory.approve(each, by)) is not None]
    if json_wanted:
        return as_json([_facts(each) for each in done])
    return "".join(f"approved {_line(each)}\n" for each in done) + "Every replica follows within 10 seconds.\n"


def _facts(each: Pending) -> dict[str, object]:
    return {
        "kind": each.wanted.value,
        "fingerprint": each.fingerprint,
        "org_id": each.org_id,
        **each.names,
        "reason": each.reason,
        "approvable": each.approvable,
        "since": each.said_at,
    }


def _told(each: Pending, org_name: str) -> str:
    lines = [f"{_TITLES[each.wanted]}", f"  {'org':10}{ingress.shown(org_name)} ({each.org_id})"]
    for name, value in each.names.items():
        lines.append(f"  {name:10}{ingress.shown(value) or _UNSAID.get(name, '-')}")
    lines.append(f"  {'since':10}{each.said_at:%Y-%m-%d %H:%M} UTC")
    lines.append(f"  {'why':10}{WHY.get(each.reason, each.reason)}")
    if each.approvable:
        lines.append(f"  {'allow it':10}steward approve {each.fingerprint}")
    return "\n".join(lines) + "\n"


def _line(each: Pending) -> str:
    said = ", ".join(f"{name} {ingress.shown(value)}" for name, value in each.names.items() if value)
    return f"{each.wanted.value.replace('_', ' ')}: {said}"
