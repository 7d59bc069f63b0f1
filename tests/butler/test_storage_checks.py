"""Storage configs: what can be one, and what is refused by the name of its field."""

from __future__ import annotations

from dataclasses import replace

import pytest

from steward.butler.errors import NotAcceptable
from steward.butler.nouns import StorageSettings
from steward.butler.storage_checks import checked
from steward.words import Secret

S3 = StorageSettings("s3", "acme-bodies", "eu-central-1", None, "AKIA123", secret=Secret("s"))
GCS = StorageSettings("gcs", "acme_bodies.example.com", gcs_project_id="acme-1", secret=Secret("{}"))


@pytest.mark.parametrize(
    "good",
    [
        S3,
        GCS,
        replace(S3, s3_endpoint="https://minio.example.com:9000"),
        replace(S3, s3_endpoint="http://127.0.0.1:9000"),
        replace(S3, s3_region=None, secret=None, s3_access_key_id=None),
    ],
)
def test_what_can_be_one_is_taken(good: StorageSettings) -> None:
    assert checked(good) == good


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (replace(S3, bucket="arn:aws:s3:eu-central-1:999:accesspoint/evil"), "bucket"),
        (replace(S3, bucket="a/b"), "bucket"),
        (replace(S3, bucket=""), "bucket"),
        (replace(S3, bucket="Up"), "bucket"),
        (replace(S3, s3_region="eu central"), "s3_region"),
        (replace(S3, s3_access_key_id="a b"), "s3_access_key_id"),
        (replace(S3, s3_access_key_id=None), "s3_access_key_id"),
        (replace(S3, gcs_project_id="x"), "gcs_project_id"),
        (replace(GCS, s3_endpoint="https://x.example"), "s3_endpoint"),
        (replace(GCS, s3_region="eu"), "s3_region"),
        *(
            (replace(S3, s3_endpoint=url), "s3_endpoint")
            for url in (
                "http://minio.example.com",
                "http://169.254.169.254",
                "https://",
                "https://u:p@x.example",
                "https://x.example/path",
                "https://x.example?q",
                "https://x.example:99999",
                "ftp://x.example",
                "x",
            )
        ),
    ],
)
def test_what_cannot_is_refused_by_its_field(bad: StorageSettings, field: str) -> None:
    with pytest.raises(NotAcceptable) as caught:
        checked(bad)
    assert caught.value.field == field
