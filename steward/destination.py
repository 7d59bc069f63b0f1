"""Where bodies go: decided destinations with closed credentials (SECURITY F7). Pure nouns; nothing here connects.

A store adapter takes one of these and never a configuration row: whoever builds one has already decided that bodies
may go there. The host's own role is a choice that only this network's settings can make.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from steward.words import Secret


@dataclass(frozen=True, slots=True)
class HostRole:
    """The host's own credentials (instance role, environment, workload identity). Reachable from settings alone."""


@dataclass(frozen=True, slots=True)
class S3Keys:
    """Static S3 keys."""

    access_key_id: str = field(repr=False)
    secret_access_key: Secret[str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class GoogleServiceAccount:
    """A Google key of type `service_account`, rebuilt from four fields; its token address is always Google's own."""

    client_email: str
    private_key: Secret[str] = field(repr=False)
    private_key_id: str = field(repr=False)
    project_id: str


@dataclass(frozen=True, slots=True)
class Anonymous:
    """No credentials: a storage emulator on a loopback address."""


@dataclass(frozen=True, slots=True)
class S3Destination:
    """A bucket that speaks S3."""

    bucket: str
    prefix: str
    """Without leading or final slash; empty for none."""
    credentials: HostRole | S3Keys
    region: str | None = None
    endpoint: str | None = None
    """Another address than the vendor's own (MinIO, R2, moto)."""
    kms_key_id: str | None = None
    """SSE-KMS with this key; None leaves the bucket's own default."""
    expected_owner: str | None = None
    """The twelve digits of the account that must own the bucket."""


@dataclass(frozen=True, slots=True)
class GcsDestination:
    """A Google Cloud Storage bucket."""

    bucket: str
    prefix: str
    credentials: HostRole | GoogleServiceAccount | Anonymous
    project: str | None = None
    endpoint: str | None = None


@dataclass(frozen=True, slots=True)
class FilesDestination:
    """A folder of this host."""

    folder: str
    """Absolute."""


Destination = S3Destination | GcsDestination | FilesDestination
