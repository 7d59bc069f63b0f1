"""`steward provider-keys set|list|rm`: providers' keys for jobs, entered inside. They win over Butler's.

A key is read from standard input or a file, never from the command line, and is never printed.
"""

from __future__ import annotations

from typing import Final, TextIO
from uuid import UUID

from steward.errors import LedgerFault, SettingError
from steward.ports import Directory
from steward.printing import as_json
from steward.sent import ProviderKey
from steward.words import Secret

_MAX_LINE: Final = 4096
_LEAST: Final = 8


def read_key(file: TextIO) -> Secret[str]:
    """One line. Raises SettingError; the value is not told."""
    given = file.readline(_MAX_LINE + 2).strip()
    if not _LEAST <= len(given) <= _MAX_LINE or not given.isascii() or not given.isprintable() or " " in given:
        raise SettingError("provider-keys: not a key; one line of 8 to 4,096 visible characters is read")
    return Secret(given)


def organisation(directory: Directory, given: UUID | None) -> UUID:
    """The one that is named, or the only one there is. Raises LedgerFault."""
    known = [each.org_id for each in directory.registrations() if each.deregistered_at is None]
    if given in known:
        return given
    if given is not None or not known:
        raise LedgerFault("No such organisation is registered; `steward orgs` shows them.")
    if len(known) > 1:
        raise LedgerFault("Many organisations are registered; say which with --org. `steward orgs` shows them.")
    return known[0]


def told(key: ProviderKey, json_wanted: bool) -> str:
    """What is kept now."""
    if json_wanted:
        return as_json(_facts(key))
    return f"kept a key of {key.provider} for the jobs of {key.org_id}; Butler's is not used\n"


def listed(directory: Directory, json_wanted: bool) -> str:
    """All that are kept, without the keys."""
    keys = directory.provider_keys()
    if json_wanted:
        return as_json([_facts(each) for each in keys])
    if not keys:
        return "No provider's key is kept; jobs that need one do not run.\n"
    return "".join(map(_line, keys))


def removed(provider: str, was_there: bool, json_wanted: bool) -> str:
    """Raises LedgerFault where there was none."""
    if not was_there:
        raise LedgerFault("There is no such local key; `steward provider-keys list` shows them.")
    return as_json({"provider": provider, "removed": True}) if json_wanted else f"removed the key of {provider}\n"


def _facts(key: ProviderKey) -> dict[str, object]:
    return {
        "org_id": key.org_id,
        "provider": key.provider,
        "source": "local" if key.local else "butler",
        "scope": key.owner_type.value,
        "owner": key.owner_id,
        "usable": key.usable,
        "fingerprint": key.fingerprint,
        "kept_at": key.kept_at,
    }


def _line(key: ProviderKey) -> str:
    source = "local" if key.local else "butler"
    state = "usable" if key.usable else f"waits: steward approve {key.fingerprint}"
    return f"{key.org_id}  {key.provider:12}  {source:6}  {key.owner_type.value:4}  {state}\n"
