"""Destinations: closed kinds of credentials, and none that prints."""

from __future__ import annotations

import dataclasses
from typing import get_args, get_type_hints

import pytest

from steward import destination
from steward.destination import (
    Anonymous,
    Destination,
    GcsDestination,
    GoogleServiceAccount,
    HostRole,
    S3Destination,
    S3Keys,
)
from steward.words import Secret

CANARY = "CANARY"


def test_a_store_takes_its_own_kinds_of_credentials_and_no_other() -> None:
    hints = {kind: get_type_hints(kind, vars(destination)) for kind in (S3Destination, GcsDestination)}
    assert set(get_args(hints[S3Destination]["credentials"])) == {HostRole, S3Keys}
    assert set(get_args(hints[GcsDestination]["credentials"])) == {HostRole, GoogleServiceAccount, Anonymous}


def test_a_google_credential_has_no_address_of_its_own() -> None:
    names = {field.name for field in dataclasses.fields(GoogleServiceAccount)}
    assert names == {"client_email", "private_key", "private_key_id", "project_id"}


def test_the_hosts_role_carries_nothing() -> None:
    assert dataclasses.fields(HostRole) == ()
    assert HostRole() == HostRole()


@pytest.mark.parametrize(
    "held",
    [
        S3Destination("bucket", "", S3Keys(CANARY, Secret(CANARY))),
        GcsDestination("bucket", "", GoogleServiceAccount("a@b", Secret(CANARY), CANARY, "project")),
    ],
    ids=["s3", "gcs"],
)
def test_credentials_do_not_print(held: Destination) -> None:
    assert CANARY not in repr(held)


def test_two_destinations_are_equal_only_with_equal_secrets() -> None:
    first, second = (S3Destination("b", "", S3Keys("id", Secret(secret))) for secret in ("one", "two"))
    assert first != second
    assert hash(first) != hash(second)
