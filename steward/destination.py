"""Where bodies go: decided destinations with closed credentials (SECURITY F7). Pure nouns; nothing here connects.

A store adapter takes one of these and never a configuration row: whoever builds one has already decided that bodies
may go there. The host's own role is a choice that only this network's settings can make.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from steward.words import Secret

_S3_BUCKET: Final = re.compile(r"(?!xn--|sthree-|\d+\.\d+\.\d+\.\d+$)[a-z0-9](?:[a-z0-9-]|\.(?!\.)){1,61}[a-z0-9]")
_NOT_BUCKETS: Final = ("-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3")
"""Ends of names that are not buckets but doors to them, perhaps another account's.
https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html"""
_GCS_BUCKET: Final = re.compile(r"[a-z0-9](?=.{1,220}[a-z0-9]\Z)[a-z0-9_-]{0,62}(?:\.[a-z0-9_-]{1,63})*")
_REGION: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


def is_s3_bucket(name: str) -> bool:
    """A bucket's plain name: no ARN, no access point, no alias."""
    return _S3_BUCKET.fullmatch(name) is not None and not name.endswith(_NOT_BUCKETS)


def is_gcs_bucket(name: str) -> bool:
    """A bucket's plain name."""
    return _GCS_BUCKET.fullmatch(name) is not None


def is_region(name: str) -> bool:
    """A plain word: it becomes part of a host's name."""
    return _REGION.fullmatch(name) is not None


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
    public_only: bool = False
    """The endpoint's addresses are looked up again at each connect, and only public ones are connected to."""


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


@dataclass(frozen=True, slots=True)
class Allowed:
    """One bucket that BODY_STORE_ALLOW names. Exactly it: no part of it stands for more."""

    vendor: str
    """`s3` or `gcs`."""
    bucket: str
    region: str | None = None
    """Of a bucket at the vendor's own address."""
    endpoint: str | None = None
    """Another address than the vendor's own; then the region does not count."""
    account: str | None = None
    """The twelve digits of who must own it."""
