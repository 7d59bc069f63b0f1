"""Who runs the embedded server, and what that user reaches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from steward.adapters.postgres_runner import MAX_SOCKET_PATH, Runner, runner, wheel_binaries


@pytest.fixture
def stranger() -> Runner:
    """A user who owns nothing here, as root would choose one."""
    return Runner(uid=2**31 - 7, gid=2**31 - 7, other=True)


def test_root_is_never_the_runner() -> None:
    chosen = runner()
    assert chosen.uid != 0
    assert chosen.other is (os.geteuid() == 0)


def test_a_closed_folder_anywhere_above_is_out_of_reach(server_folder: Path, stranger: Runner) -> None:
    inner = server_folder / "closed" / "inner"
    inner.mkdir(parents=True)
    assert stranger.reaches(inner)
    inner.parent.chmod(0o700)
    assert not stranger.reaches(inner)
    assert stranger.reaches(server_folder)
    inner.parent.chmod(0o711)
    assert stranger.reaches(inner)


def test_owner_and_group_have_bits_of_their_own(server_folder: Path) -> None:
    facts = server_folder.stat()
    owner = Runner(facts.st_uid, 2**31 - 7, other=True)
    group = Runner(2**31 - 7, facts.st_gid, other=True)
    folder = server_folder / "folder"
    folder.mkdir()
    for mode, reached in ((0o700, (True, False)), (0o010, (False, True)), (0o001, (False, False))):
        folder.chmod(mode)
        assert (owner.reaches(folder), group.reaches(folder)) == reached, oct(mode)
    folder.chmod(0o700)


def test_who_runs_as_himself_reaches_what_he_reaches(tmp_path: Path) -> None:
    assert Runner(os.geteuid(), os.getegid(), other=False).reaches(tmp_path)


def test_a_temporary_folder_is_ours_closed_and_short(stranger: Runner) -> None:
    folder = stranger.temporary()
    facts = folder.stat()
    assert (facts.st_uid, facts.st_mode & 0o777) == (os.geteuid(), 0o700)
    assert len(os.fsencode(folder / ".s.PGSQL.65535")) <= MAX_SOCKET_PATH
    folder.rmdir()


def test_the_wheels_programs_are_there() -> None:
    assert {"postgres", "initdb"} <= {path.name for path in wheel_binaries().iterdir()}


def test_the_command_names_the_user_only_when_it_is_another() -> None:
    assert Runner(5, 6, other=True).command(["/bin/true"])[-3:] == ["5", "6", "/bin/true"]
    assert Runner(5, 6, other=False).command(["/bin/true"])[-3:] == ["-", "-", "/bin/true"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user without a name")
def test_a_user_without_a_name_is_told() -> None:
    """As `docker run --user 12345` makes one."""
    script = "import os; os.setuid(2**31 - 7); from steward.adapters.postgres_runner import runner; runner()"
    code = f"import steward.adapters.postgres_runner\n{script}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "does not run as user 2147483641: it has no name here" in done.stderr
