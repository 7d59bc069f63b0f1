"""SPOOL_DIR before anything is kept there: ours alone or one line, and a warning where it would not outlive us."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from handlers.spool_folder import check, file_system, prepare
from steward.errors import SettingError

MOUNTS = """\
22 1 0:20 / / rw,relatime - overlay overlay rw,lowerdir=/a
23 22 0:21 / /proc rw - proc proc rw
30 22 8:1 / {folder} rw,relatime shared:1 master:2 - ext4 /dev/sda1 rw
31 30 0:44 / {folder}/in\\040memory rw - tmpfs tmpfs rw
32 30 0:45 / {folder}/remote rw - nfs4 server:/x rw
33 30 0:46 / {folder}/twice rw - ext4 /dev/sdb1 rw
34 33 0:47 / {folder}/twice rw - tmpfs tmpfs rw
not a mount
"""


@pytest.fixture
def mounts(tmp_path: Path) -> Path:
    """What the kernel would list."""
    file = tmp_path / "mountinfo"
    file.write_text(MOUNTS.format(folder=tmp_path))
    return file


def refused(folder: Path) -> str:
    with pytest.raises(SettingError) as caught:
        prepare(folder)
    line = caught.value.message
    assert line.startswith("SPOOL_DIR: ")
    assert "\n" not in line
    assert str(folder) not in line
    return line


def test_a_folder_is_made_for_us_alone_and_found_again(tmp_path: Path, mounts: Path) -> None:
    before = os.umask(0)
    try:
        assert prepare(tmp_path / "spool", mounts) == []
    finally:
        os.umask(before)
    assert (tmp_path / "spool").stat().st_mode & 0o777 == 0o700
    assert prepare(tmp_path / "spool", mounts) == []
    assert list((tmp_path / "spool").iterdir()) == []


@pytest.mark.parametrize("mode", [0o755, 0o710, 0o701, 0o770, 0o500])
def test_what_others_may_enter_or_we_may_not_write_is_refused_and_left_as_it_is(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "spool"
    folder.mkdir()
    folder.chmod(mode)
    assert "0700" in refused(folder)
    assert folder.stat().st_mode & 0o777 == mode


def test_a_link_and_a_file_are_no_folder(tmp_path: Path) -> None:
    real, link, file = tmp_path / "real", tmp_path / "link", tmp_path / "file"
    real.mkdir(mode=0o700)
    link.symlink_to(real)
    file.touch(0o700)
    assert "link" in refused(link)
    assert "not a folder" in refused(file)
    assert list(real.iterdir()) == []


def test_a_folder_whose_parent_is_missing_is_not_made(tmp_path: Path) -> None:
    assert "parent" in refused(tmp_path / "missing" / "spool")
    with pytest.raises(SettingError, match="no such folder"):
        check(tmp_path / "missing")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_another_users_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    folder.mkdir(mode=0o700)
    os.chown(folder, 12345, -1)
    assert "another user" in refused(folder)


@pytest.mark.parametrize(
    ("name", "word"), [("in memory", "tmpfs"), ("remote", "network"), ("twice", "tmpfs"), ("disk", None)]
)
def test_a_folder_that_would_not_outlive_us_is_warned_of_once(
    tmp_path: Path, mounts: Path, name: str, word: str | None
) -> None:
    said = prepare(tmp_path / name, mounts)
    assert [word in sentence for sentence in said if word] == ([True] if word else [])
    assert len(said) == (1 if word else 0)


def test_the_containers_own_layer_is_known(tmp_path: Path, mounts: Path) -> None:
    assert file_system(Path("/"), mounts) == "overlay"
    assert file_system(tmp_path, mounts) == "ext4"
    assert file_system(tmp_path, tmp_path / "no such list") is None
    assert file_system(Path("/proc")) in ("proc", None)
