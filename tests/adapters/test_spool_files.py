"""The spool's folders: ours alone, by plain names, through no link; its locks; its segments' seals."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from steward.adapters.spool_files import (
    OWNER,
    RELAYS,
    SEGMENT_HEADER_BYTES,
    SETTLER,
    Folder,
    adopt,
    beside_facts,
    beside_name,
    lock,
    new_relay,
    new_segment,
    open_segment,
    open_spool,
    relay_names,
    segment_name,
    segment_number,
)
from steward.errors import SealBroken, SettingError
from steward.seal import Keyring
from steward.wire.frames import Frame, Kind
from steward.words import Secret
from tests.spooled import KEYRING

ROOT = Path(__file__).parents[2]
ID = UUID("0198c0de-0000-7000-8000-00000000000a")
OTHER = UUID("0198c0de-0000-7000-8000-00000000000b")


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Folder]:
    made = open_spool(tmp_path / "spool")
    yield made
    made.close()


# The folder itself


def test_it_is_made_for_us_alone(tmp_path: Path) -> None:
    with closing(open_spool(tmp_path / "not" / "there" / "yet")) as folder:
        assert (folder.name, folder.names()) == ("yet", [])
    assert (tmp_path / "not" / "there" / "yet").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o701, 0o500])
def test_other_modes_are_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(SettingError, match=r"^SPOOL_DIR: .* 0700\.$"):
        open_spool(tmp_path)
    tmp_path.chmod(0o700)


def test_a_groups_volume_may_hold_it(tmp_path: Path) -> None:
    """Kubernetes' fsGroup: what is made below inherits the group, and the bit that says so."""
    tmp_path.chmod(0o2770)
    with closing(open_spool(tmp_path / "spool")) as spool:
        relay, owner = new_relay(spool)
        relay.close()
        os.close(owner)
    assert (tmp_path / "spool").stat().st_mode & 0o777 == 0o700


def test_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(0o700)
    (tmp_path / "spool").symlink_to(tmp_path / "real")
    with pytest.raises(SettingError, match="SPOOL_DIR: the folder must not be a link"):
        open_spool(tmp_path / "spool")


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("x")
    with pytest.raises(SettingError, match="SPOOL_DIR"):
        open_spool(tmp_path / "spool")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_anothers_folder_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 12345)
    with pytest.raises(SettingError, match="belong"):
        open_spool(tmp_path)


# What stands in it

NAMES = ["", ".", "..", "a/b", "/etc/passwd", "../x", "a\0b"]


@pytest.mark.parametrize("name", NAMES)
def test_only_plain_names_are_opened(spool: Folder, name: str) -> None:
    for opens in (spool.folder, spool.create, spool.open, spool.size, spool.remove, spool.remove_folder):
        with pytest.raises(ValueError, match="plain name"):
            opens(name)
    with pytest.raises(ValueError, match="plain name"):
        spool.rename("a", name)


def test_no_link_is_followed(spool: Folder, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("keep")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "spool" / "file").symlink_to(secret)
    (tmp_path / "spool" / "folder").symlink_to(tmp_path / "elsewhere")
    for opens in (spool.open, spool.create, spool.folder):
        with pytest.raises(OSError, match=r"."):
            opens("file")
    with pytest.raises(OSError, match=r"."):
        spool.open("file", write=True, make=True)
    with pytest.raises(OSError, match=r"."):
        spool.folder("folder", make=True)
    spool.remove("file")
    assert secret.read_text() == "keep"


def test_what_is_no_file_is_not_opened_and_holds_nobody(spool: Folder, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "spool" / "pipe")
    (tmp_path / "spool" / "sub").mkdir()
    for name in ("pipe", "sub"):
        with pytest.raises(OSError, match=r"."):
            spool.open(name)


def test_files_are_made_once(spool: Folder) -> None:
    os.close(spool.create("a"))
    with pytest.raises(FileExistsError):
        spool.create("a")
    os.close(spool.open("a", write=True, make=True))
    assert spool.size("a") == 0
    spool.rename("a", "b")
    assert (spool.names(), spool.size("a")) == (["b"], None)
    spool.remove("b")
    spool.remove("b")
    assert spool.names() == []


def test_what_it_all_weighs(spool: Folder) -> None:
    below = spool.folder("one", make=True).folder("two", make=True)
    for folder, size in ((spool, 10_000), (below, 50_000)):
        handle = folder.create("file")
        os.write(handle, b"x" * size)
        os.fsync(handle)
        os.close(handle)
    assert 60_000 <= spool.bytes_below() < 80_000
    spool.close()
    spool.close()


def test_names_tell_what_they_are() -> None:
    assert (segment_name(7), segment_number("00000007.seg")) == ("00000007.seg", 7)
    for name in ("7.seg", "00000007.done", "00000007.seg.x", "x00000007.seg", ""):
        assert segment_number(name) is None
    assert beside_facts(beside_name(ID, "q")) == (ID, "q")
    for name in (str(ID), f"{ID}.x", f"{ID}.q.r", f"{str(ID).upper()}.q", ".q"):
        assert beside_facts(name) is None


# Locks


def test_one_settler(spool: Folder) -> None:
    first = lock(spool, SETTLER)
    assert first is not None
    assert lock(spool, SETTLER) is None
    os.close(first)
    second = lock(spool, SETTLER)
    assert second is not None
    os.close(second)


def test_a_relay_is_its_owners_until_he_is_gone(spool: Folder, tmp_path: Path) -> None:
    relay, owner = new_relay(spool)
    assert UUID(relay.name)
    assert adopt(relay) is None
    os.close(owner)
    adopted = adopt(relay)
    assert adopted is not None
    assert adopt(relay) is None
    os.close(adopted)
    relay.remove(OWNER)
    with pytest.raises(FileNotFoundError):
        adopt(relay)
    relay.close()


def test_a_killed_owner_is_gone_at_once(spool: Folder, tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from steward.adapters.spool_files import *\n"
        "held = new_relay(open_spool(Path(sys.argv[1])))\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    ran = subprocess.run([sys.executable, "-c", program, str(tmp_path / "spool")], cwd=ROOT, check=False)
    assert ran.returncode == -9
    with closing(spool.folder(RELAYS)) as relays:
        (name,) = relay_names(relays)
        adopted = adopt(relays.folder(name))
    assert adopted is not None
    os.close(adopted)


def test_what_is_not_a_relays_name_is_passed_over(spool: Folder, tmp_path: Path) -> None:
    relay, owner = new_relay(spool)
    with closing(spool.folder(RELAYS)) as relays:
        for other in (f".{uuid4()}", uuid4().hex, "lost+found", str(uuid4()).upper(), "x"):
            relays.folder(other, make=True).close()
        assert list(relay_names(relays)) == [relay.name]
    os.close(owner)
    relay.close()


# Seals


def sealed(kind: int = Kind.END, number: int = 3, request_id: UUID = ID) -> tuple[bytes, Frame]:
    header, seal = new_segment(KEYRING, "relay-1", 0)
    return header, Frame(Kind(kind), number, request_id, seal.seal(kind, number, request_id.bytes, b"said"), 0, 0)


def test_a_segments_header_gives_its_seal_back() -> None:
    header, frame = sealed()
    assert len(header) == SEGMENT_HEADER_BYTES
    assert header[:9] == b"MDSPOOL\n\x01"
    assert open_segment(KEYRING, "relay-1", 0, header).open(frame) == b"said"


def test_every_segment_has_a_key_of_its_own() -> None:
    (first, frame), (second, _) = sealed(), sealed()
    assert first != second
    with pytest.raises(SealBroken):
        open_segment(KEYRING, "relay-1", 0, second).open(frame)


def test_a_header_opens_nowhere_else() -> None:
    header, _ = sealed()
    broken = [header[:-1], header + b"x", b"", b"x" * len(header)]
    broken += [header[:at] + bytes((header[at] ^ 1,)) + header[at + 1 :] for at in range(len(header))]
    for octets in broken:
        with pytest.raises(SealBroken):
            open_segment(KEYRING, "relay-1", 0, octets)
    for keyring, relay, number in (
        (KEYRING, "relay-2", 0),
        (KEYRING, "relay-1", 1),
        (Keyring(Secret(bytes(range(2, 34)))), "relay-1", 0),
    ):
        with pytest.raises(SealBroken):
            open_segment(keyring, relay, number, header)


def test_a_record_opens_as_nothing_else() -> None:
    header, frame = sealed()
    seal = open_segment(KEYRING, "relay-1", 0, header)
    moved = [
        Frame(Kind.INTENT, 3, ID, frame.payload, 0, 0),
        Frame(Kind.END, 4, ID, frame.payload, 0, 0),
        Frame(Kind.END, 3, OTHER, frame.payload, 0, 0),
        Frame(Kind.END, 3, ID, frame.payload[:-1] + bytes((frame.payload[-1] ^ 1,)), 0, 0),
        Frame(Kind.END, 3, ID, b"", 0, 0),
    ]
    for each in moved:
        with pytest.raises(SealBroken):
            seal.open(each)


def test_the_format_is_what_it_was() -> None:
    """A spool that a release left behind, the next one settles."""
    header = bytes.fromhex(HEADER)
    seal = open_segment(KEYRING, "relay-1", 5, header)
    assert seal.open(Frame(Kind.END, 3, ID, bytes.fromhex(PAYLOAD), 0, 0)) == b"said"


HEADER = (
    "4d4453504f4f4c0a010102b1b05d399a60514e4015e33a6bdc3b34e9a74d33b35d5c7dacf24f911a5adcb3535fab32db4ee9"
    "d88b301b62e73a541cfee59457a231ba0504c5b1751e7f7bfc76c5af"
)
PAYLOAD = "4fa846711100fbac8e40840a08b79b10b6e02440"
