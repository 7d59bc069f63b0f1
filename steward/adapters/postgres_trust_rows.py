"""How storage configs, provider keys and approvals stand in their rows: sealed, or under a MAC, bound to their place.

A row that was changed by whoever writes to the database opens no more: a bucket edited in its column changes the
fingerprint, and with it what the credentials are sealed for; an approval that was not written here bears no MAC of ours
(SECURITY F1, F18). Raises SealBroken for the first; says the second is none.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import orjson
from sqlalchemy.engine import Row

from steward.arriving import config_id, said
from steward.destination import GcsDestination, GoogleServiceAccount, HostRole, S3Destination, S3Keys
from steward.errors import SealBroken
from steward.policy import fingerprint, names
from steward.seal import Keyring, Purpose, SealFacts
from steward.sent import KeptConfig, OwnerType, SentDestination
from steward.words import Secret

_COLUMN: Final[Mapping[str, str]] = {
    "scope": "owner_type",
    "owner": "owner_id",
    "vendor": "vendor",
    "bucket": "bucket",
    "region": "region",
    "endpoint": "endpoint",
    "project": "project",
    "principal": "principal",
}
"""Where each name that a fingerprint covers stands."""


def config_row(keyring: Keyring, config: KeptConfig) -> dict[str, object]:
    """The columns of a config; its secret half sealed for exactly this row, owner and destination."""
    named = names(said(config))
    columns: dict[str, object] = {_COLUMN[name]: value for name, value in named.items()}
    sealed = keyring.seal(Purpose.SECRETS, _secret_half(config.destination), _config_facts(config.org_id, named))
    return columns | {
        "org_id": str(config.org_id),
        "id": str(config.id),
        "sealed": sealed.hex(),
        "is_current": config.current,
        "said_at": config.said_at.isoformat(),
    }


def kept_config(keyring: Keyring, row: Row[Any], approved: set[str]) -> KeptConfig:
    """The config of a row. Raises SealBroken for one that is not as it was written."""
    named = {name: str(getattr(row, column)) for name, column in _COLUMN.items()}
    printed = fingerprint(row.org_id, named)
    opened = keyring.open(Purpose.SECRETS, bytes(row.sealed), _config_facts(row.org_id, named))
    if row.id != config_id(printed):
        raise SealBroken
    return KeptConfig(
        row.id,
        row.org_id,
        OwnerType(row.owner_type),
        row.owner_id,
        printed,
        _destination(named, orjson.loads(opened.reveal())),
        row.is_current,
        printed in approved,
        row.said_at,
    )


def broken_config(row: Row[Any]) -> KeptConfig:
    """What is left of a row that does not open: whose it claims to be."""
    owner = OwnerType(row.owner_type), row.owner_id
    return KeptConfig(row.id, row.org_id, *owner, "", None, row.is_current, False, row.said_at, broken=True)


def key_facts(org_id: UUID, key_id: UUID, source: str, owner: str, provider: str) -> SealFacts:
    """A provider's key opens for its row, organisation, owner and provider alone; Butler's never as a local one."""
    return SealFacts(row_id=str(key_id), org_id=org_id, owner=f"provider_key/{source}/{owner}", provider=provider)


@dataclass(frozen=True, slots=True)
class Approval:
    """One approval, or the registration that opens the first day."""

    org_id: UUID
    kind: str
    fingerprint: str
    how: str
    approved_by: str
    approved_at: datetime
    names: str

    def mac(self, subkey: Secret[bytes]) -> bytes:
        """Over all of it, each part behind its length."""
        at = self.approved_at.astimezone(UTC).isoformat(timespec="microseconds")
        texts = (str(self.org_id), self.kind, self.fingerprint, self.how, self.approved_by, at, self.names)
        parts = [text.encode() for text in texts]
        whole = b"approval/1" + b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        return hmac.new(subkey.reveal(), whole, hashlib.sha256).digest()


def sound(row: Row[Any], subkey: Secret[bytes]) -> bool:
    """Whether a row of `approvals` was written by who has the key."""
    facts = (row.org_id, row.kind, row.fingerprint, row.how, row.approved_by, row.approved_at, row.names)
    return hmac.compare_digest(Approval(*facts).mac(subkey), bytes(row.mac))


def _config_facts(org_id: UUID, named: Mapping[str, str]) -> SealFacts:
    printed = fingerprint(org_id, named)
    owner = f"storage_config/{named['scope']}/{named['owner']}"
    return SealFacts(str(config_id(printed)), org_id, owner, provider=named["vendor"], destination=printed)


def _secret_half(destination: SentDestination | None) -> bytes:
    match destination.credentials if destination is not None else None:
        case S3Keys(secret_access_key=secret):
            return orjson.dumps({"kind": "s3", "secret": secret.reveal()})
        case GoogleServiceAccount(private_key=key, private_key_id=key_id, project_id=project):
            said = {"kind": "google", "secret": key.reveal(), "key_id": key_id, "project": project}
            return orjson.dumps(said)
        case _:
            return orjson.dumps({"kind": "none"})


def _destination(named: Mapping[str, str], secret: Mapping[str, str]) -> SentDestination | None:
    endpoint = named["endpoint"] or None
    if named["vendor"] == "s3":
        s3 = S3Keys(named["principal"], Secret(secret["secret"])) if secret["kind"] == "s3" else HostRole()
        return S3Destination(named["bucket"], "", s3, named["region"] or None, endpoint)
    if named["vendor"] == "gcs":
        google: HostRole | GoogleServiceAccount = HostRole()
        if secret["kind"] == "google":
            parts = Secret(secret["secret"]), secret["key_id"], secret["project"]
            google = GoogleServiceAccount(named["principal"], *parts)
        return GcsDestination(named["bucket"], "", google, named["project"] or None, endpoint)
    return None
