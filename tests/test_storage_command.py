"""`steward storage check`: each place that bodies go to is tried, under a prefix of its own, and left as it was."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from steward.adapters.memory_bodies import MemoryBodyStore
from steward.arriving import all_in_force, config_id
from steward.body_store_allow import allow_list
from steward.destination import Destination, FilesDestination, S3Destination, S3Keys
from steward.errors import SettingError, StoreRefused
from steward.policy import Local
from steward.ports import BodyStore
from steward.sent import KeptConfig, OwnerType
from steward.storage_command import PREFIX, Checked, Target, check, targets, told
from steward.wiring.body_stores import open_decided
from steward.words import Secret
from tests.contracts.records import ORG
from tests.servers.stores import S3Server
from tests.wanted import USER, s3

NONCE = UUID("0198c0de-0000-7000-8000-0000000000ff")


def test_a_bucket_is_tried_and_left_as_it_was(s3_server: S3Server) -> None:
    bucket = s3_server.bucket()
    checked = check(Target("BODY_STORE_URL", bucket), open_decided, NONCE)
    assert (checked.step, checked.place) == (None, f"s3://{bucket.bucket}/calls/of%20this/{PREFIX}")
    with contextlib.closing(s3_server.client()) as client:
        assert "Contents" not in client.list_objects_v2(Bucket=bucket.bucket)
    assert told([checked], 0, json_wanted=False).startswith("ok ")


def test_a_folder_is_tried(tmp_path: Path) -> None:
    checked = check(Target("BODY_STORE_URL", FilesDestination(f"{tmp_path}/bodies")), open_decided, NONCE)
    assert checked.step is None
    assert not [each for each in tmp_path.rglob("*") if each.is_file()]


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"bucket": "no-such-bucket-here"}, "NoSuchBucket", "there is no such bucket"),
        ({"credentials": S3Keys("AKIANOBODY", Secret("nothing-at-all"))}, "InvalidAccessKeyId", "unknown"),
        ({"endpoint": "http://127.0.0.1:1"}, "EndpointConnectionError", "no connection"),
    ],
    ids=["bucket", "key", "address"],
)
def test_what_is_wrong_is_said_by_the_vendors_code(
    s3_server: S3Server, changes: dict[str, object], code: str, words: str
) -> None:
    wrong: S3Destination = replace(s3_server.bucket(), **changes)  # type: ignore[arg-type]
    checked = check(Target("organisation", wrong), open_decided, NONCE)
    line = told([checked], 0, json_wanted=False)
    assert (checked.step, checked.code) == ("put", code)
    assert words in line
    facts = json.loads(told([checked], 0, json_wanted=True))
    assert [(each["ok"], each["step"], each["code"]) for each in facts] == [(False, "put", code)]


class Half(MemoryBodyStore):
    """Takes and does not give."""

    def get(self, key: str) -> bytes:
        raise StoreRefused

    def delete(self, key: str) -> None:
        raise StoreRefused


def test_one_that_may_be_written_alone_says_so() -> None:
    def opener(destination: Destination) -> BodyStore:
        return Half()

    checked = check(Target("organisation", s3()), opener, NONCE)
    assert (checked.step, checked.code) == ("get", "store_refused")


def test_one_that_cannot_be_opened_says_so() -> None:
    def opener(destination: Destination) -> BodyStore:
        raise SettingError("S3 needs boto3.")

    assert check(Target("organisation", s3()), opener, NONCE).step == "open"


def test_only_what_is_followed_is_a_target() -> None:
    local = Local(allow=allow_list("s3://acme-prompts@eu-west-1/123456789012"))
    config = KeptConfig(config_id("a" * 64), ORG, OwnerType.ORG, ORG, "a" * 64, s3(), True, False, datetime.now(UTC))
    other = replace(config, id=uuid4(), owner_type=OwnerType.USER, owner_id=USER, destination=s3("evil"))
    found = targets(FilesDestination("/bodies"), all_in_force([config, other], local))
    assert [each.whose for each in found] == ["BODY_STORE_URL", f"organisation {ORG}"]
    assert isinstance(found[1].destination, S3Destination)
    assert found[1].destination.expected_owner == "123456789012"
    assert targets(None, []) == []


def test_what_waits_is_said_to_be_untouched() -> None:
    assert "bodies are not kept" in told([], 0, json_wanted=False)
    assert "steward pending" in told([Checked(Target("organisation", s3()), "s3://b")], 2, json_wanted=False)
