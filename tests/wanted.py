"""Storage configs and provider keys as Butler might send them, for whoever decides on them. Asserts nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

from steward.destination import GcsDestination, GoogleServiceAccount, HostRole, S3Destination, S3Keys
from steward.sent import OwnerType, SentDestination, SentProviderKey, StorageConfig
from steward.words import Secret
from tests.contracts.records import ORG

USER = UUID("0198c0de-0000-7000-8000-0000000000b1")
OTHER_USER = UUID("0198c0de-0000-7000-8000-0000000000b2")
PEM = "-----BEGIN PRIVATE KEY-----\nMIIEvQ==\n-----END PRIVATE KEY-----\n"


def s3(bucket: str = "acme-prompts", secret: str = "very-secret", **changes: Any) -> S3Destination:
    """A bucket at Amazon's own address, with its own keys."""
    return replace(S3Destination(bucket, "", S3Keys("AKIAEXAMPLE", Secret(secret)), region="eu-west-1"), **changes)


def gcs(bucket: str = "acme-prompts", secret: str = PEM, **changes: Any) -> GcsDestination:
    """A bucket at Google's own address, with its own key."""
    key = GoogleServiceAccount("writer@acme.iam.gserviceaccount.com", Secret(secret), "abc123", "acme")
    return replace(GcsDestination(bucket, "", key, project="acme"), **changes)


def for_org(destination: SentDestination | None, org_id: UUID = ORG) -> StorageConfig:
    """The organisation's own."""
    return StorageConfig(OwnerType.ORG, org_id, destination)


def for_user(destination: SentDestination | None, user_id: UUID = USER) -> StorageConfig:
    """A Personal one."""
    return StorageConfig(OwnerType.USER, user_id, destination)


def provider_key(key: str = "sk-provider-key-of-acme", org_id: UUID = ORG, **changes: Any) -> SentProviderKey:
    """The organisation's key at OpenAI."""
    made = SentProviderKey(uuid4(), OwnerType.ORG, org_id, "openai", Secret(key), org_id)
    return replace(made, **changes)


EVIL = "https://evil.example"
VARIANTS: dict[str, SentDestination | None] = {
    "another bucket": s3("evil-prompts"),
    "another endpoint": s3(endpoint=EVIL),
    "another region": s3(region="us-east-1"),
    "another partition": s3(region="cn-north-1"),
    "another principal": s3(credentials=S3Keys("AKIAEVIL", Secret("very-secret"))),
    "another vendor": gcs(),
    "no credentials": s3(credentials=HostRole()),
    "no credentials, another endpoint": s3(credentials=HostRole(), endpoint=EVIL),
    "not understood": None,
}
"""What a hostile Butler makes of `s3()`."""
