"""BODY_STORE_ALLOW becomes the closed list of buckets that bodies may go to. Pure; names alone, no ARN, no pattern.

`s3://bucket@region` (with `/123456789012` the account that must own it), `gs://bucket`, `https://endpoint/bucket`.
"""

from __future__ import annotations

import re
from typing import Final

from steward import values
from steward.destination import Allowed, is_gcs_bucket, is_region, is_s3_bucket

MAX_ALLOWED: Final = 1000
_S3: Final = re.compile(r"s3://(?P<bucket>[^@/]+)@(?P<region>[^@/]+)(?:/(?P<account>[0-9]{12}))?")
_GS: Final = re.compile(r"gs://(?P<bucket>[^@/]+)")
_OTHER: Final = re.compile(r"(?P<endpoint>https?://[^@/?#]+)/(?P<bucket>[^@/?#]+)")


def allow_list(given: str) -> tuple[Allowed, ...]:
    """The comma-separated list. Raises ValueError, which does not repeat what was given."""
    listed = tuple(_allowed(part.strip()) for part in given.split(",") if part.strip())
    if not 1 <= len(listed) <= MAX_ALLOWED:
        raise ValueError(f"names no bucket, or more than {MAX_ALLOWED}")
    return listed


def shown(listed: tuple[Allowed, ...]) -> str:
    """As it was given, in one way."""
    return ",".join(map(_shown, listed))


def _shown(each: Allowed) -> str:
    if each.endpoint is not None:
        return f"{each.endpoint}/{each.bucket}"
    if each.vendor == "gcs":
        return f"gs://{each.bucket}"
    return f"s3://{each.bucket}@{each.region}{f'/{each.account}' if each.account else ''}"


def _allowed(text: str) -> Allowed:
    if (s3 := _S3.fullmatch(text)) and is_s3_bucket(s3["bucket"]) and is_region(s3["region"]):
        return Allowed("s3", s3["bucket"], region=s3["region"], account=s3["account"])
    if (gs := _GS.fullmatch(text)) and is_gcs_bucket(gs["bucket"]):
        return Allowed("gcs", gs["bucket"])
    if (other := _OTHER.fullmatch(text)) and is_s3_bucket(other["bucket"]):
        return Allowed("s3", other["bucket"], endpoint=values.store_endpoint(other["endpoint"]))
    raise ValueError("each is s3://bucket@region, s3://bucket@region/account, gs://bucket or https://endpoint/bucket")
