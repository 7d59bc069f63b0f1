"""`steward storage check`: puts, reads and deletes one small object at each place that bodies go to now.

It touches nothing but its own prefix `.steward-check/`, connects to decided destinations alone, and prints codes,
never a vendor's text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final
from uuid import UUID

from steward import ingress
from steward.arriving import InForce
from steward.destination import Destination, FilesDestination
from steward.errors import SettingError, StoreFault
from steward.ports import BodyStore, Put
from steward.printing import as_json

PREFIX: Final = ".steward-check"
_SAYS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "AccessDenied": "the credentials may not do this here",
        "Forbidden": "the credentials may not do this here",
        "forbidden": "the credentials may not do this here",
        "NoSuchBucket": "there is no such bucket",
        "notFound": "there is no such bucket",
        "InvalidAccessKeyId": "the access key is unknown",
        "SignatureDoesNotMatch": "the secret does not belong to the access key",
        "PermanentRedirect": "the bucket is in another region",
        "AuthorizationHeaderMalformed": "the bucket is in another region",
        "IllegalLocationConstraintException": "the bucket is in another region",
        "NoCredentialsError": "no credentials were found",
        "RefreshError": "Google does not take the key",
        "EndpointConnectionError": "no connection to the address",
        "ConnectTimeoutError": "no connection to the address",
        "ConnectionError": "no connection to the address",
        "SSLError": "the certificate is not trusted",
    }
)


@dataclass(frozen=True, slots=True)
class Target:
    """One place that bodies go to."""

    whose: str
    destination: Destination


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of it."""

    target: Target
    place: str
    step: str | None = None
    """Where it failed: `open`, `put`, `get` or `delete`; None: all went well."""
    code: str | None = None


def targets(own: Destination | None, followed: Iterable[InForce]) -> list[Target]:
    """That of BODY_STORE_URL, and each that is followed."""
    found = [] if own is None else [Target("BODY_STORE_URL", own)]
    for config, decided in followed:
        scope = f"{config.owner_type.value} {config.owner_id}"
        whose = f"organisation {config.org_id}" if config.owner_id == config.org_id else f"{scope} of {config.org_id}"
        found.append(Target(whose, decided.destination))
    return found


def check(target: Target, opener: Callable[[Destination], BodyStore], nonce: UUID) -> Checked:
    """Tries it; raises nothing that a store or its address can bring about."""
    try:
        store = opener(_below(target.destination))
    except (SettingError, ValueError):
        return Checked(target, "?", "open", "NotOpened")
    try:
        return _tried(target, store, f"{nonce}")
    finally:
        store.close()


def told(checked: Sequence[Checked], waiting: int, json_wanted: bool) -> str:
    """One line a place."""
    if json_wanted:
        return as_json([_facts(each) for each in checked])
    lines = [_line(each) for each in checked] or ["no place: bodies are not kept\n"]
    more = f"{waiting} more that Butler names wait or are refused, and were not touched: steward pending\n"
    return "".join(lines) + (more if waiting else "")


def _below(destination: Destination) -> Destination:
    if isinstance(destination, FilesDestination):
        return replace(destination, folder=f"{destination.folder}/{PREFIX}")
    return replace(destination, prefix=f"{destination.prefix}/{PREFIX}".lstrip("/"))


def _tried(target: Target, store: BodyStore, key: str) -> Checked:
    octets = b"steward storage check"
    good = Checked(target, store.url(key).rpartition("/")[0])
    [put] = store.put_many([Put(key, octets, hashlib.sha256(octets).hexdigest(), len(octets))])
    if put.ref is None:
        return replace(good, step="put", code=put.code or "unavailable")
    try:
        if store.get(key) != octets:
            return replace(good, step="get", code="Different")
    except StoreFault as fault:
        return replace(good, step="get", code=_code(fault))
    finally:
        deleted = _delete(store, key)
    return good if deleted is None else replace(good, step="delete", code=deleted)


def _delete(store: BodyStore, key: str) -> str | None:
    try:
        store.delete(key)
    except StoreFault as fault:
        return _code(fault)
    return None


def _code(fault: StoreFault) -> str:
    """The vendor's, where the error that was mapped had one."""
    response = getattr(fault.__cause__, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    return code if isinstance(code, str) and code.isalnum() and len(code) <= 64 else fault.code


def _facts(each: Checked) -> dict[str, object]:
    return {
        "whose": each.target.whose,
        "place": each.place,
        "ok": each.step is None,
        "step": each.step,
        "code": each.code,
    }


def _line(each: Checked) -> str:
    place = ingress.shown(each.place)
    if each.step is None:
        return f"ok      {each.target.whose}: {place}\n"
    why = _SAYS.get(each.code or "", "")
    return f"failed  {each.target.whose}: {place}: {each.step}: {each.code}{f' ({why})' if why else ''}\n"
