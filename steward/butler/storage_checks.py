"""Whether a storage config can be one: names as S3 and Google define them, https, no secret where it does not belong.

It connects to nothing: the Steward tries it, inside its own network. Pure.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from steward.butler.errors import NotAcceptable
from steward.butler.nouns import StorageSettings

_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_REGION: Final = re.compile(r"[a-z0-9-]{2,64}")
_ACCESS_KEY: Final = re.compile(r"[A-Za-z0-9_.+/=-]{3,128}")
_PROJECT: Final = re.compile(r"[a-z0-9][a-z0-9:.-]{1,63}")
_HOST: Final = re.compile(r"[A-Za-z0-9.-]{1,253}")
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1"})


def checked(wanted: StorageSettings) -> StorageSettings:
    """The same. Raises NotAcceptable with the field's name: an ARN, a foreign field, an endpoint without https."""
    if not _BUCKET.fullmatch(wanted.bucket):
        raise NotAcceptable("bucket")
    s3 = {"s3_region": wanted.s3_region, "s3_access_key_id": wanted.s3_access_key_id, "s3_endpoint": wanted.s3_endpoint}
    foreign = {"gcs_project_id": wanted.gcs_project_id} if wanted.provider == "s3" else s3
    for name, value in foreign.items():
        if value is not None:
            raise NotAcceptable(name)
    patterns = {"s3_region": _REGION, "s3_access_key_id": _ACCESS_KEY, "gcs_project_id": _PROJECT}
    for name, pattern in patterns.items():
        value = getattr(wanted, name)
        if value is not None and not pattern.fullmatch(value):
            raise NotAcceptable(name)
    if wanted.s3_endpoint is not None:
        _endpoint(wanted.s3_endpoint)
    if wanted.provider == "s3" and wanted.secret is not None and wanted.s3_access_key_id is None:
        raise NotAcceptable("s3_access_key_id")
    return wanted


def _endpoint(url: str) -> None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise NotAcceptable("s3_endpoint") from None
    plain = parts.scheme == "http" and parts.hostname in _LOOPBACK
    named = parts.hostname is not None and _HOST.fullmatch(parts.hostname) is not None
    bare = parts.path in {"", "/"} and not parts.query and not parts.fragment and parts.username is None
    if not (parts.scheme == "https" or plain) or not named or not bare or port == 0:
        raise NotAcceptable("s3_endpoint")
