"""BODY_STORE_URL and its options become a decided destination (SECURITY F7).

Never lets the host's own role reach an address that is not the vendor's: another endpoint is served with keys that
were given for it, or without credentials. Connects to nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from urllib.parse import urlsplit

from steward import values
from steward.destination import (
    Anonymous,
    Destination,
    FilesDestination,
    GcsDestination,
    HostRole,
    S3Destination,
    S3Keys,
)
from steward.errors import SettingError
from steward.words import Secret

_BUCKETS: Mapping[str, re.Pattern[str]] = MappingProxyType(
    {
        "s3": re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"),
        "gs": re.compile(r"[a-z0-9](?=.{1,220}[a-z0-9]\Z)[a-z0-9_-]{0,62}(?:\.[a-z0-9_-]{1,63})*"),
    }
)
_PREFIX = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]+(?:/[A-Za-z0-9._~!$&'()*+,;=:@-]+)*)?")
_REGION = re.compile(r"[a-z0-9-]{1,40}")
_ACCOUNT = re.compile(r"[0-9]{12}")
_AWS_ENDS = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws")
_GOOGLE_ENDS = (".googleapis.com",)


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """What may be said beside the URL."""

    s3_endpoint: str | None = None
    s3_region: str | None = None
    s3_kms_key_id: str | None = None
    s3_expected_owner: str | None = None
    gcs_endpoint: str | None = None
    gcs_project: str | None = None
    aws_access_key_id: str | None = field(default=None, repr=False)
    aws_secret_access_key: Secret[str] | None = None


def destination(url: str, options: StoreOptions) -> Destination:
    """`s3://bucket/prefix`, `gs://bucket/prefix` or `file:///folder`. Raises SettingError with one line."""
    try:
        parts = values.url_parts(url, ("s3", "gs", "file"))
        if "?" in url or "#" in url or "@" in parts.netloc or ":" in parts.netloc:
            raise ValueError("neither user, port, query nor fragment is accepted")
        if parts.scheme == "file":
            return _files(parts.netloc, parts.path)
        bucket, prefix = _bucket(parts.scheme, parts.netloc, parts.path)
    except ValueError as refused:
        raise SettingError(f"BODY_STORE_URL: {refused.args[0]}") from None
    return _s3(bucket, prefix, options) if parts.scheme == "s3" else _gcs(bucket, prefix, options)


def _files(authority: str, path: str) -> FilesDestination:
    """A folder of this host."""
    folder = values.unquoted(path)
    if authority or not folder.strip("/") or ".." in folder.split("/"):
        raise ValueError("file:// needs an absolute folder, as file:///var/lib/steward/bodies")
    return FilesDestination(folder.rstrip("/"))


def _bucket(scheme: str, bucket: str, path: str) -> tuple[str, str]:
    """Bucket and prefix, each in its grammar: no ARN, no dot segment."""
    prefix = path.strip("/")
    if not _BUCKETS[scheme].fullmatch(bucket):
        raise ValueError("not a bucket's name (names alone, no ARN)")
    if not _PREFIX.fullmatch(prefix) or {".", ".."} & set(prefix.split("/")):
        raise ValueError("its prefix holds empty, dot or percent-encoded segments")
    return bucket, prefix


def _s3(bucket: str, prefix: str, options: StoreOptions) -> S3Destination:
    """An S3 bucket. At another endpoint than the vendor's only keys that were given are used."""
    if options.s3_region is not None and not _REGION.fullmatch(options.s3_region):
        raise SettingError("BODY_STORE_S3_REGION: not a region's name")
    if options.s3_expected_owner is not None and not _ACCOUNT.fullmatch(options.s3_expected_owner):
        raise SettingError("BODY_STORE_S3_EXPECTED_OWNER: not an account of 12 digits")
    return S3Destination(
        bucket,
        prefix,
        _s3_credentials(options),
        region=options.s3_region,
        endpoint=options.s3_endpoint,
        kms_key_id=options.s3_kms_key_id,
        expected_owner=options.s3_expected_owner,
    )


def _s3_credentials(options: StoreOptions) -> HostRole | S3Keys:
    """The host's role at the vendor's own addresses; elsewhere the keys of the environment."""
    if options.s3_endpoint is None or _ends_in(options.s3_endpoint, _AWS_ENDS):
        return HostRole()
    if not options.aws_access_key_id or not options.aws_secret_access_key:
        raise SettingError(
            "BODY_STORE_S3_ENDPOINT: needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; "
            "the host's own role is never used at another endpoint than the vendor's"
        )
    return S3Keys(options.aws_access_key_id, options.aws_secret_access_key)


def _gcs(bucket: str, prefix: str, options: StoreOptions) -> GcsDestination:
    """A Google bucket. Another endpoint than Google's gets no credentials at all."""
    google = options.gcs_endpoint is None or _ends_in(options.gcs_endpoint, _GOOGLE_ENDS)
    return GcsDestination(
        bucket,
        prefix,
        HostRole() if google else Anonymous(),
        project=options.gcs_project,
        endpoint=options.gcs_endpoint,
    )


def _ends_in(endpoint: str, ends: tuple[str, ...]) -> bool:
    """Whether the endpoint is https and its host stands under one of these names."""
    parts = urlsplit(endpoint)
    return parts.scheme == "https" and (parts.hostname or "").endswith(ends)
