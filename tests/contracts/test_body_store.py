"""What every body store promises, over all of them: memory, a folder, S3 and Google Cloud Storage."""

from __future__ import annotations

import gzip
import hashlib
import io
import tempfile
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from steward.adapters.files import FilesBodyStore
from steward.adapters.gcs import GcsBodyStore
from steward.adapters.memory_bodies import MemoryBodyStore
from steward.adapters.s3 import S3BodyStore
from steward.destination import FilesDestination
from steward.errors import BodyNotFound, BodyTooLarge
from steward.ports import BodyStore, Put

KEY = "0192f0c1-0000-7000-8000-000000000001/2026-11-20/0192f0c1-0000-7000-8000-000000000002.json.gz"

BAD_KEYS = [
    "",
    "/etc/passwd",
    "../outside",
    "a/../../outside",
    "a/./b",
    "a//b",
    "a/",
    ".hidden",
    "a/b\x00c",
    "a/b\nc",
    "a\\..\\b",
    "a/b?versionId=1",
    "a/%2e%2e/b",
    "a/\u202eb",
    "k" * 600,
]


@pytest.fixture(params=["memory", "files", "s3", "gcs"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BodyStore]:
    stores: dict[str, Callable[[], BodyStore]] = {
        "memory": MemoryBodyStore,
        "files": lambda: FilesBodyStore(FilesDestination(str(tmp_path / "bodies"))),
        "s3": lambda: S3BodyStore(request.getfixturevalue("s3_server").bucket()),
        "gcs": lambda: GcsBodyStore(request.getfixturevalue("gcs_server").bucket(), patience_s=2),
    }
    made = stores[request.param]()
    yield made
    made.close()


def put(octets: bytes, key: str = KEY) -> Put:
    return Put(key, octets, hashlib.sha256(octets).hexdigest(), len(octets))


def test_what_was_put_is_got_octet_for_octet(store: BodyStore) -> None:
    octets = gzip.compress(b'{"request_id":"1"}', mtime=0)
    [result] = store.put_many([put(octets)])
    assert result.ref is not None
    assert (result.refused, result.code) == (False, None)
    assert result.ref.key == KEY
    assert result.ref.url.endswith(KEY)
    assert (result.ref.sha256, result.ref.size_bytes) == (hashlib.sha256(octets).hexdigest(), len(octets))
    assert store.get(KEY) == octets


def test_no_more_is_read_than_was_asked_for(store: BodyStore) -> None:
    octets = bytes(range(256)) * 40
    store.put_many([put(octets)])
    for enough in (len(octets), len(octets) + 1, None):
        assert store.get(KEY, enough) == octets
    for less in (len(octets) - 1, 1):
        with pytest.raises(BodyTooLarge):
            store.get(KEY, less)
    with pytest.raises(BodyNotFound):
        store.get(KEY.replace("0002.json", "0003.json"), 1)


def test_a_file_is_read_from_its_start_and_left_open(store: BodyStore) -> None:
    octets = bytes(range(256)) * 5000
    with tempfile.TemporaryFile() as file:
        file.write(octets)
        for _ in range(2):
            [result] = store.put_many([Put(KEY, file, hashlib.sha256(octets).hexdigest(), len(octets))])
            assert result.ref is not None
            assert store.get(KEY) == octets
        assert not file.closed


def test_a_file_larger_than_one_piece(store: BodyStore) -> None:
    octets = hashlib.shake_256(b"body").digest(9_000_001)
    [result] = store.put_many([Put(KEY, io.BytesIO(octets), hashlib.sha256(octets).hexdigest(), len(octets))])
    assert result.ref is not None
    assert store.get(KEY) == octets


def test_many_at_once_are_answered_in_order(store: BodyStore) -> None:
    puts = [put(b"body %d" % number, f"key/{number:03d}") for number in range(40)]
    results = store.put_many(puts)
    assert [result.ref.key if result.ref else None for result in results] == [each.key for each in puts]
    assert [store.get(each.key) for each in puts] == [each.source for each in puts]


def test_nothing_to_put_is_no_error(store: BodyStore) -> None:
    assert store.put_many([]) == []


def test_putting_again_changes_nothing(store: BodyStore) -> None:
    first, second = store.put_many([put(b"body")]), store.put_many([put(b"body")])
    assert first == second
    assert store.get(KEY) == b"body"


def test_what_is_not_there_is_not_found(store: BodyStore) -> None:
    with pytest.raises(BodyNotFound):
        store.get("no/such/key")


def test_deleting_removes_and_may_be_repeated(store: BodyStore) -> None:
    store.put_many([put(b"body"), put(b"other", "other/key")])
    store.delete(KEY)
    store.delete(KEY)
    store.delete("no/such/key")
    with pytest.raises(BodyNotFound):
        store.get(KEY)
    assert store.get("other/key") == b"other"


@pytest.mark.parametrize("key", BAD_KEYS)
def test_a_key_that_could_lead_elsewhere_is_refused(store: BodyStore, key: str) -> None:
    results = store.put_many([put(b"evil", key), put(b"good")])
    assert (results[0].ref, results[0].refused, results[0].code) == (None, True, "InvalidKey")
    assert results[1].ref is not None
    with pytest.raises(ValueError, match="key"):
        store.get(key)
    with pytest.raises(ValueError, match="key"):
        store.delete(key)
    assert store.get(KEY) == b"good"


KEY_ID = "0192f0c1-0000-7000-8000-000000000001"
OTHER_KEY_ID = "0192f0c1-0000-7000-8000-00000000000a"


def an_object(day: str, key_id: str = KEY_ID) -> str:
    """A key as calls have it."""
    return f"{key_id}/{day}/{uuid4()}.json.gz"


def test_objects_are_listed_by_the_day_of_their_call(store: BodyStore) -> None:
    before = datetime.now(UTC) - timedelta(seconds=5)
    old = [an_object("2026-11-18"), an_object("2026-11-19", OTHER_KEY_ID)]
    new = [an_object("2026-11-20"), an_object("2026-11-21"), an_object("2026-12-01", OTHER_KEY_ID)]
    foreign = [f"{KEY_ID}/2026-11-20/notes.txt", f"{KEY_ID}/readme", "other/2026-11-20/x.json.gz", "loose"]
    assert all(result.ref for result in store.put_many([put(key.encode(), key) for key in old + new + foreign]))
    found = {each.key: each for each in store.listed(date(2026, 11, 20))}
    assert sorted(found) == sorted(new)
    for key, each in found.items():
        assert each.size_bytes == len(key)
        assert before <= each.stored_at <= datetime.now(UTC) + timedelta(seconds=5)
    assert {each.key for each in store.listed(date(2026, 1, 1))} == {*old, *new}
    assert list(store.listed(date(2027, 1, 1))) == []


def test_an_empty_store_lists_nothing(store: BodyStore) -> None:
    assert list(store.listed(date(2026, 11, 20))) == []


def test_an_object_has_the_address_its_row_was_given(store: BodyStore) -> None:
    [result] = store.put_many([put(b"x", KEY)])
    assert result.ref is not None
    assert store.url(KEY) == result.ref.url
    with pytest.raises(ValueError, match="key"):
        store.url("../x")


def test_a_store_may_be_closed_unused_and_twice(store: BodyStore) -> None:
    store.close()
    store.close()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("body-")]
