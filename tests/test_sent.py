"""What Butler sent, as nouns: no secret prints, and no folder of this host can be named."""

from __future__ import annotations

from typing import get_args

from steward.destination import FilesDestination, GcsDestination, S3Destination
from steward.sent import OwnerType, SentDestination, Wanted
from tests.wanted import for_org, gcs, provider_key, s3


def test_no_secret_prints() -> None:
    printed = repr([for_org(s3()), for_org(gcs()), provider_key()])
    assert "very-secret" not in printed
    assert "PRIVATE" not in printed
    assert "sk-provider" not in printed


def test_a_folder_is_no_destination_of_butlers() -> None:
    assert set(get_args(SentDestination)) == {S3Destination, GcsDestination}
    assert FilesDestination not in get_args(SentDestination)


def test_words_are_those_of_the_wire_and_the_tables() -> None:
    assert [str(each) for each in OwnerType] == ["user", "org"]
    assert [str(each) for each in Wanted] == ["storage", "provider_key"]
