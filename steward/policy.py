"""May this, which Butler sent, take effect here? Local facts in; yes, no or wait out. Pure.

A hostile Butler chooses every word of what is decided on, and none of the facts. Yes comes from a list in the local
settings, from a person inside, or from the first day after a person inside registered; never from Butler (F1, F2, F7).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final
from uuid import UUID

from steward import values
from steward.destination import Allowed, GoogleServiceAccount, HostRole, S3Destination, S3Keys
from steward.sent import SentDestination, SentProviderKey, StorageConfig
from steward.words import Secret

DAY_S: Final = 86_400.0


class Reason(StrEnum):
    """Why. The first four are yes, the next five no: nobody's approval helps; the last two wait for a person."""

    ALLOW_LIST = "allow_list"
    APPROVED = "approved"
    WINDOW = "window"
    MANAGED_OWN = "managed_own"
    NOT_UNDERSTOOD = "not_understood"
    NOT_IN_ALLOW_LIST = "not_in_allow_list"
    HOST_ROLE = "host_role"
    MANAGED_ENDPOINT = "managed_endpoint"
    LOCAL_KEY = "local_key"
    NOT_APPROVED = "not_approved"
    CUSTOM_ENDPOINT = "custom_endpoint"


@dataclass(frozen=True, slots=True)
class Yes:
    """It takes effect, for its owner's calls alone."""

    reason: Reason
    destination: SentDestination
    """What may be connected to."""


@dataclass(frozen=True, slots=True)
class No:
    """It takes no effect, whoever approves it."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class Wait:
    """It takes no effect until a person inside approves it."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class Local:
    """What this network's own settings say."""

    allow: tuple[Allowed, ...] | None = None
    """BODY_STORE_ALLOW; None: not set."""
    window_s: float = DAY_S
    managed: bool = False


NOTHING_SAID: Final = Local()
"""No setting of trust is set."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known inside of one fingerprint."""

    local: Local
    approved: bool = False
    """It was approved, and the approval bears our MAC."""
    since_registered_s: float | None = None
    """As it arrives: the time since a person inside registered its organisation; None at any other time."""


def decide(config: StorageConfig, facts: Facts) -> Yes | No | Wait:
    """May bodies of this owner go there?"""
    wanted, local = config.destination, facts.local
    if wanted is None:
        return No(Reason.NOT_UNDERSTOOD)
    own_credentials = not isinstance(wanted.credentials, HostRole)
    listed = _listed(wanted, local.allow or ())
    if not own_credentials and (local.managed or wanted.endpoint is not None or listed is None):
        return No(Reason.HOST_ROLE)
    if local.allow is not None:
        return Yes(Reason.ALLOW_LIST, _bound(wanted, listed, local)) if listed else No(Reason.NOT_IN_ALLOW_LIST)
    if local.managed:
        public = wanted.endpoint is None or _is_public(wanted.endpoint)
        return Yes(Reason.MANAGED_OWN, _bound(wanted, None, local)) if public else No(Reason.MANAGED_ENDPOINT)
    if facts.approved:
        return Yes(Reason.APPROVED, wanted)
    if wanted.endpoint is not None:
        return Wait(Reason.CUSTOM_ENDPOINT)
    if facts.since_registered_s is not None and 0 <= facts.since_registered_s < local.window_s:
        return Yes(Reason.WINDOW, wanted)
    return Wait(Reason.NOT_APPROVED)


def may_use_key(local_key: bool, approved: bool) -> bool:
    """May jobs use this provider key? A proxied call never does."""
    return local_key or approved


def fingerprint(org_id: UUID, named: Mapping[str, str]) -> str:
    """Of `names`, for an organisation: a change of any of them, and of nothing else, makes another. 64 hex digits."""
    said = _joined("storage", str(org_id), *(f"{name}={named[name]}" for name in sorted(named)))
    return hashlib.sha256(said).hexdigest()


def key_fingerprint(subkey: Secret[bytes], org_id: UUID, provider: str, key: Secret[str]) -> str:
    """Names a provider's key for an organisation, and tells nothing of it. 64 hex digits."""
    said = _joined("provider_key", str(org_id), provider, key.reveal())
    return hmac.new(subkey.reveal(), said, hashlib.sha256).hexdigest()


def names(config: StorageConfig) -> Mapping[str, str]:
    """Everything that the fingerprint covers but for the organisation, by name; empty for what is not said.

    Not the secret half of a credential: it may be renewed without a person inside.
    """
    wanted = config.destination
    return {
        "scope": config.owner_type.value,
        "owner": str(config.owner_id),
        "vendor": "" if wanted is None else "s3" if isinstance(wanted, S3Destination) else "gcs",
        "bucket": "" if wanted is None else wanted.bucket,
        "region": (wanted.region or "") if isinstance(wanted, S3Destination) else "",
        "endpoint": "" if wanted is None else wanted.endpoint or "",
        "project": "" if wanted is None or isinstance(wanted, S3Destination) else wanted.project or "",
        "principal": "" if wanted is None else _principal(wanted),
    }


def belongs(org_id: UUID, sent: StorageConfig | SentProviderKey) -> bool:
    """Whether its owner may be of this organisation: the one whose token fetched it, and no other (SECURITY F8)."""
    if sent.owner_type == "org" and sent.owner_id != org_id:
        return False
    return not isinstance(sent, SentProviderKey) or sent.org_id in (None, org_id)


def _principal(wanted: SentDestination) -> str:
    """Who it signs as. A host's own role has no name here."""
    match wanted.credentials:
        case S3Keys(access_key_id=access_key_id):
            return access_key_id
        case GoogleServiceAccount(client_email=client_email):
            return client_email
        case _:
            return ""


def _listed(wanted: SentDestination, allow: tuple[Allowed, ...]) -> Allowed | None:
    """The entry that names exactly this bucket at exactly this place."""
    s3 = isinstance(wanted, S3Destination)
    region = wanted.region if isinstance(wanted, S3Destination) and wanted.endpoint is None else None
    place = ("s3" if s3 else "gcs", wanted.bucket, region, wanted.endpoint)
    return next((each for each in allow if (each.vendor, each.bucket, each.region, each.endpoint) == place), None)


def _bound(wanted: SentDestination, listed: Allowed | None, local: Local) -> SentDestination:
    """With the account that must own the bucket; in managed mode, public addresses alone at each connect."""
    if not isinstance(wanted, S3Destination):
        return wanted
    public_only = local.managed and wanted.endpoint is not None
    return replace(wanted, expected_owner=listed.account if listed else None, public_only=public_only)


def _is_public(endpoint: str) -> bool:
    """As far as its name tells: https, and neither a private name nor an address that is not everybody's."""
    host = values.web_address(endpoint).hostname or ""
    literal = values.address(host)
    public = not values.is_private(host) if literal is None else literal.is_global
    return endpoint.startswith("https://") and public


def _joined(*parts: str) -> bytes:
    """Each behind its length: no two lists give the same octets."""
    octets = [part.encode() for part in parts]
    return b"steward/1" + b"".join(len(each).to_bytes(4, "big") + each for each in octets)
