"""The file store: nobody else reads it, no link leads out of it, and a file is there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from steward.adapters.files import SYNCED_TOGETHER, FilesBodyStore, file_system_synced
from steward.destination import FilesDestination
from steward.errors import BodyNotFound, StoreRefused
from steward.ports import Put, PutResult


class Broken(io.BytesIO):
    """A source that fails half-way."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() > 0:
            raise OSError(errno.ENOSPC, "CANARY")
        return super().read(1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "bodies"


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[FilesBodyStore]:
    store = FilesBodyStore(FilesDestination(str(folder)))
    try:
        yield store
    finally:
        store.close()


def put_one(folder: Path, source: bytes | io.BytesIO = b"body", key: str = "a/b/c.json.gz") -> PutResult:
    with opened(folder) as store:
        [result] = store.put_many([Put(key, source, "00", 4)])
    return result


def test_the_address_is_a_file_url(tmp_path: Path) -> None:
    result = put_one(tmp_path / "with blank")
    assert result.ref is not None
    assert result.ref.url == f"file://{tmp_path}/with%20blank/a/b/c.json.gz"
    assert (tmp_path / "with blank/a/b/c.json.gz").read_bytes() == b"body"


def test_nobody_else_can_read_it(folder: Path) -> None:
    before = os.umask(0)
    try:
        put_one(folder)
    finally:
        os.umask(before)
    assert stat.S_IMODE((folder / "a/b/c.json.gz").stat().st_mode) == 0o600
    assert {stat.S_IMODE(each.stat().st_mode) for each in (folder, folder / "a", folder / "a/b")} == {0o700}


def test_a_folder_that_is_there_keeps_its_mode(folder: Path) -> None:
    folder.mkdir(mode=0o755)
    mode = folder.stat().st_mode
    assert put_one(folder).ref is not None
    assert folder.stat().st_mode == mode


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "bodies").symlink_to(tmp_path / "disk")
    assert put_one(tmp_path / "bodies").ref is not None
    assert (tmp_path / "disk/a/b/c.json.gz").read_bytes() == b"body"


@pytest.mark.parametrize("link", ["a", "a/b"])
def test_no_link_below_it_is_followed(tmp_path: Path, folder: Path, link: str) -> None:
    outside = tmp_path / "outside"
    (outside / "b").mkdir(parents=True)
    for each in (outside / "b/c.json.gz", outside / "c.json.gz"):
        each.write_bytes(b"theirs")
    (folder / link).parent.mkdir(parents=True)
    (folder / link).symlink_to(outside)
    assert put_one(folder) == PutResult(None, refused=True, code="ENOTDIR")
    with opened(folder) as store:
        with pytest.raises(StoreRefused):
            store.get("a/b/c.json.gz")
        with pytest.raises(StoreRefused):
            store.delete("a/b/c.json.gz")
    assert {each.read_bytes() for each in outside.rglob("*.gz")} == {b"theirs"}
    assert len(list(outside.rglob("*"))) == 3


def test_a_link_in_the_objects_place_is_replaced_and_never_read(tmp_path: Path, folder: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"theirs")
    (folder / "a/b").mkdir(parents=True)
    (folder / "a/b/c.json.gz").symlink_to(secret)
    with opened(folder) as store, pytest.raises(StoreRefused):
        store.get("a/b/c.json.gz")
    assert put_one(folder).ref is not None
    assert secret.read_bytes() == b"theirs"
    assert not (folder / "a/b/c.json.gz").is_symlink()


def test_what_is_no_file_is_not_read(folder: Path) -> None:
    (folder / "a/b/c.json.gz").mkdir(parents=True)
    os.mkfifo(folder / "a/pipe")
    with opened(folder) as store:
        for key in ("a/b/c.json.gz", "a/pipe"):
            with pytest.raises(StoreRefused):
                store.get(key)
    assert put_one(folder) == PutResult(None, refused=True, code="EISDIR")
    assert list((folder / "a/b").iterdir()) == [folder / "a/b/c.json.gz"]


def test_a_source_that_fails_leaves_nothing_behind_and_the_old_one_whole(folder: Path) -> None:
    put_one(folder, b"first")
    assert put_one(folder, Broken(b"second")) == PutResult(None, refused=False, code="ENOSPC")
    assert (folder / "a/b/c.json.gz").read_bytes() == b"first"
    assert [each.name for each in (folder / "a/b").iterdir()] == ["c.json.gz"]


def test_a_file_in_a_folders_place_is_a_refusal(folder: Path) -> None:
    folder.mkdir()
    (folder / "a").write_bytes(b"")
    assert put_one(folder) == PutResult(None, refused=True, code="ENOTDIR")
    assert put_one(folder / "a") == PutResult(None, refused=True, code="EEXIST")


def test_a_store_whose_folder_is_missing_has_nothing(folder: Path) -> None:
    with opened(folder) as store:
        store.delete("a/b")
        with pytest.raises(BodyNotFound):
            store.get("a/b")
    assert not folder.exists()


def test_writers_of_the_same_object_never_show_half_of_it(folder: Path) -> None:
    octets = hashlib.shake_256(b"x").digest(1 << 20)
    with opened(folder) as store:
        store.put_many([Put("a/b", octets, "00", len(octets))])
        with ThreadPoolExecutor(4) as pool:
            writing = [pool.submit(store.put_many, [Put("a/b", octets, "00", len(octets))] * 3) for _ in range(3)]
            seen = {store.get("a/b") for _ in range(20)}
            assert all(result.ref for each in writing for result in each.result())
    assert seen == {octets}
    assert [each.name for each in (folder / "a").iterdir()] == ["b"]


@pytest.mark.parametrize("folder_name", ["", "relative", "./relative", "/a\x00b"])
def test_a_folder_that_is_not_absolute_is_refused(folder_name: str) -> None:
    with pytest.raises(ValueError, match="absolute"):
        FilesBodyStore(FilesDestination(folder_name))


def _many(count: int) -> list[Put]:
    return [
        Put(f"{number % 3}/2026-11-03/{number}.json.gz", bytes([number % 256]), "0" * 64, 1) for number in range(count)
    ]


@pytest.mark.parametrize(("count", "calls"), [(SYNCED_TOGETHER - 1, 0), (SYNCED_TOGETHER, 1), (300, 2)])
@pytest.mark.parametrize("can", [True, False])
def test_a_batch_is_synced_at_once_and_where_that_fails_each_file_alone(
    folder: Path, count: int, calls: int, can: bool
) -> None:
    asked: list[int] = []

    def sync_all(handle: int) -> bool:
        asked.append(len(list(folder.rglob("*.json.gz"))))
        return can and file_system_synced(handle)

    store = FilesBodyStore(FilesDestination(str(folder)), sync_all)
    puts = _many(count)
    assert [result.ref is not None for result in store.put_many(puts)] == [True] * count
    assert [store.get(put.key) for put in puts] == [put.source for put in puts]
    assert list(folder.rglob(".*")) == []
    # No file has its name before its octets are on the disk: a call saw only those of the batches before.
    assert asked == [256 * call for call in range(calls)]


def test_a_file_system_is_synced_only_where_there_is_one(tmp_path: Path) -> None:
    handle = os.open(tmp_path, os.O_RDONLY)
    assert file_system_synced(handle)
    os.close(handle)
    assert not file_system_synced(handle)
