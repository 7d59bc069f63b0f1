"""How the viewer's settings become values: its address, the OpenID provider's name, which group opens what. Pure.

Each raises ValueError with one of our own fixed sentences, which `settings.py` puts behind the setting's name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from uuid import UUID

from steward import values

LOCAL = "local"
"""How people write the organisation of keys that were made inside, whose id is nil."""
MAX_GROUPS = 100
_GROUP = re.compile(r"[^,=\x00-\x1f\x7f-\uffff]{1,200}")
"""Visible ASCII and spaces, but for the comma and the equals sign."""
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def view_url(given: str) -> str:
    """Scheme, host and port as browsers write them; https, or http on loopback."""
    parts = values.web_address(given)
    if parts.scheme == "http" and not values.is_loopback(parts.hostname or ""):
        raise ValueError("http:// is accepted for loopback addresses only; use https://")
    if parts.path.strip("/") or "?" in given:
        raise ValueError("an address of scheme, host and port, without path and query")
    name = (parts.hostname or "").lower()
    host = f"[{name}]" if ":" in name else name
    default = 443 if parts.scheme == "https" else 80
    return f"{parts.scheme}://{host}" + ("" if parts.port in (None, default) else f":{parts.port}")


def issuer(given: str) -> str:
    """An OpenID provider's name, which is compared octet for octet: https, or http on loopback."""
    parts = values.web_address(given)
    if parts.scheme == "http" and not values.is_loopback(parts.hostname or ""):
        raise ValueError("http:// is accepted for loopback addresses only; use https://")
    values.origin(given)
    return given


def organisation(given: str) -> UUID:
    """An organisation's id, or `local`."""
    if given == LOCAL:
        return UUID(int=0)
    if not _UUID.fullmatch(given):
        raise ValueError("not an organisation: its id, as `steward orgs` shows it, or `local`")
    return UUID(given)


def shown_organisation(org_id: UUID) -> str:
    """The id, or `local`."""
    return str(org_id) if org_id.int else LOCAL


def groups(given: str) -> Mapping[str, frozenset[UUID]]:
    """`group=organisation,group=organisation`; a group may stand more than once."""
    found: dict[str, frozenset[UUID]] = {}
    for pair in filter(None, (part.strip() for part in given.split(","))):
        group, equals, org = (part.strip() for part in pair.rpartition("="))
        if not equals or not _GROUP.fullmatch(group):
            raise ValueError("not group=organisation, comma-separated")
        found[group] = found.get(group, frozenset()) | {organisation(org)}
    if not 1 <= len(found) <= MAX_GROUPS:
        raise ValueError(f"not 1 to {MAX_GROUPS} of group=organisation, comma-separated")
    return MappingProxyType(found)


def shown_groups(found: Mapping[str, frozenset[UUID]]) -> str:
    """As it would be written."""
    pairs = [(group, org) for group, orgs in found.items() for org in sorted(orgs)]
    return ",".join(f"{group}={shown_organisation(org)}" for group, org in pairs)
