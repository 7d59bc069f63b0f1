"""The spool's writer: with the kernel before anyone knows, sealed, bounded, and never in the way of a caller."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from steward.adapters.spool import UNSYNCED_FILES, Spool, SpoolLimits
from steward.adapters.spool_files import adopt
from steward.capture import MEMORY_BYTES, Capture
from steward.errors import NotAccepted, SettingError
from steward.exchange import LOCAL_ORG, Body, Caller, Exchange, Intent
from tests.exchanges import exchange, route
from tests.servers.waiting import eventually
from tests.spooled import KEYRING, Written, files_below, folder_of, relays, written

ROOT = Path(__file__).parents[2]
MIB = 1024 * 1024
SMALL = SpoolLimits(max_bytes=16 * MIB, reserve_bytes=64 * 1024, flush_interval_s=0.01)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def spool(folder: Path) -> Iterator[Spool]:
    made = Spool(folder, KEYRING, SMALL)
    yield made
    asyncio.run(made.close())


def call(asked: bytes = b"{}", answered: bytes = b"{}", key: UUID | None = None) -> Exchange:
    one = exchange(route("/v1/chat/completions"), answered, asked=asked)
    one.id = uuid4()
    one.request.size_bytes, one.response.size_bytes = len(asked), len(answered)
    if key is not None:
        one.caller = Caller(key, LOCAL_ORG)
    return one


def intent(of: Exchange) -> Intent:
    return Intent(of.id, of.caller, of.route, of.requested_at, of.method)


def found(folder: Path) -> Written:
    (relay,) = relays(folder)
    return written(relay)


def adopted(relay: Path) -> int | None:
    """The lock of a relay whose process is gone."""
    with closing(folder_of(relay)) as folder:
        return adopt(folder)


def content(body: Body) -> bytes:
    kept = body.content().reveal()
    body.close()
    return kept


def test_what_is_said_is_the_kernels_when_it_returns(folder: Path, spool: Spool) -> None:
    one = call(b"asked", b"answered")
    spool.intend(intent(one))
    assert [each.id for each in found(folder).intents] == [one.id]
    assert found(folder).ends == []
    spool.submit(one)
    (end,) = found(folder).ends
    assert (end.id, end.caller, end.route, end.outcome) == (one.id, one.caller, one.route, one.outcome)
    assert (end.request.data, end.response.data, end.bodies_shed) == (b"asked", b"answered", False)


KILLED = """
import os, sys
from pathlib import Path
from steward.adapters.spool import Spool, SpoolLimits
from tests.adapters.test_spool import SMALL, call, intent
from tests.spooled import KEYRING

spool = Spool(Path(sys.argv[1]), KEYRING, SMALL)
while True:
    one = call(os.urandom(1000), os.urandom(3000))
    spool.intend(intent(one))
    spool.submit(one)
    os.write(1, one.id.hex.encode() + b"\\n")
"""


def test_nothing_that_was_answered_is_lost_by_a_kill(folder: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED, str(folder)], stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        answered = [process.stdout.readline() for _ in range(500)]
        process.send_signal(signal.SIGKILL)
        answered += process.stdout.readlines()
    ids = {UUID(line.decode().strip()) for line in answered if line.endswith(b"\n")}
    there = found(folder)
    assert len(ids) >= 500
    assert ids <= there.ids()
    assert len(there.intents) - len(there.ends) in {0, 1}
    (relay,) = relays(folder)
    owner = adopted(relay)
    assert owner is not None, "whoever is dead holds no lock"
    os.close(owner)


def test_while_it_lives_nobody_takes_it_for_dead(folder: Path) -> None:
    spool = Spool(folder, KEYRING, SMALL)
    (relay,) = relays(folder)
    assert adopted(relay) is None
    asyncio.run(spool.close())
    owner = adopted(relay)
    assert owner is not None
    os.close(owner)
    assert not (relay / "reserve").exists()


def test_each_process_has_a_folder_of_its_own(folder: Path) -> None:
    spools = [Spool(folder, KEYRING, SMALL) for _ in range(3)]
    calls = [call() for _ in spools]
    for each, one in zip(spools, calls, strict=True):
        each.submit(one)
    assert sorted(written(relay).ends[0].id for relay in relays(folder)) == sorted(one.id for one in calls)
    for each in spools:
        asyncio.run(each.close())


# Sealed (SECURITY F12)

CANARIES = [b"canary-prompt", b"canary-answer", b"canary-path", b"canary-header", b"canary-tag", b"canary-query"]


def secretive(asked: bytes, answered: bytes) -> Exchange:
    """A call with a canary wherever a caller or a provider can put one."""
    one = call(asked, answered)
    one.route = route("/v1/files/canary-path")
    one.request_headers = [(b"x-stainless", b"canary-header")]
    one.response_headers = [(b"x-canary-header", b"canary-header")]
    one.tags, one.query = {"Team": "canary-tag"}, [("alt", "canary-query")]
    one.claude_session_name = "canary-tag"
    return one


@pytest.mark.parametrize("size", [0, 2 * MEMORY_BYTES])
def test_no_octet_of_a_call_stands_there_in_clear(folder: Path, spool: Spool, size: int) -> None:
    """Neither while it runs nor afterwards, in segments and files, names and all."""
    asked, answered = (word * (1 + size // len(word)) for word in CANARIES[:2])
    one = secretive(b"", b"")
    spool.intend(intent(one))
    request = Capture(64 * MIB, spool.spill, (one.id, "q", one.caller.key_id))
    response = Capture(64 * MIB, spool.spill, (one.id, "r", one.caller.key_id))
    for at in range(0, len(asked), 50_000):
        request.add(asked[at : at + 50_000])
        response.add(answered[at : at + 50_000])
    seen = list(files_below(folder))
    one.request, one.response = request.body(), response.body()
    spool.submit(one)
    seen += files_below(folder)
    assert sum(len(octets) for _, octets in seen) > 2 * size
    assert not [path for path, octets in seen for canary in CANARIES if canary in octets or canary in bytes(path)]
    assert len(list(folder.rglob("*.[qr]"))) == (2 if size else 0)
    (end,) = found(folder).ends
    assert (content(end.request), content(end.response)) == (asked, answered)


def test_the_same_call_is_never_the_same_octets(folder: Path) -> None:
    bodies: list[bytes] = []
    for _ in range(2):
        spool = Spool(folder, KEYRING, SMALL)
        one = call(b"same", b"same")
        one.id = UUID(int=9)
        spool.submit(one)
        asyncio.run(spool.close())
    for relay in relays(folder):
        (segment,) = relay.glob("*.seg")
        bodies.append(segment.read_bytes())
    assert bodies[0][:9] == bodies[1][:9]
    windows = [{body[at : at + 12] for at in range(160, len(body) - 12)} for body in bodies]
    assert not windows[0] & windows[1]


def test_everything_is_for_us_alone(folder: Path, spool: Spool) -> None:
    spool.submit(call(b"x" * (MEMORY_BYTES + 1)))
    paths = [folder, *folder.rglob("*")]
    modes = {stat.S_IMODE(path.lstat().st_mode) for path in paths if path.is_dir()}
    assert modes == {0o700}
    assert {stat.S_IMODE(path.lstat().st_mode) for path in paths if path.is_file()} == {0o600}
    assert {path.name.rpartition(".")[2] for path in paths if path.is_file()} == {"owner", "reserve", "seg", "q"}


def test_a_folder_that_is_open_to_others_is_refused(folder: Path) -> None:
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    with pytest.raises(SettingError, match="SPOOL_DIR"):
        Spool(folder, KEYRING, SMALL)
    assert list(folder.iterdir()) == []


KILLED_WITH_FILES = """
import os, sys
from pathlib import Path
from steward.adapters.spool import Spool
from steward.capture import Capture
from tests.adapters.test_spool import CANARIES, SMALL, intent, secretive
from tests.spooled import KEYRING

spool = Spool(Path(sys.argv[1]), KEYRING, SMALL)
running = []
while True:
    one = secretive(b"", CANARIES[1])
    spool.intend(intent(one))
    capture = Capture(1 << 30, spool.spill, (one.id, "q", one.caller.key_id))
    for _ in range(5):
        capture.add(CANARIES[0] * 5000)
    running.append((one, capture))
    if len(running) > 3:
        one, capture = running.pop(0)
        one.request = capture.body()
        spool.submit(one)
        os.write(1, one.id.hex.encode() + b"\\n")
"""


def test_no_octet_in_clear_is_left_by_a_kill(folder: Path, tmp_path: Path) -> None:
    """Neither below the spool nor in the folder for temporary files."""
    (tmp_path / "temporary").mkdir()
    command = [sys.executable, "-c", KILLED_WITH_FILES, str(folder)]
    inside = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=inside) as process:
        assert process.stdout is not None
        answered = [process.stdout.readline() for _ in range(10)]
        process.send_signal(signal.SIGKILL)
        process.stdout.read()
    seen = list(files_below(tmp_path))
    assert len([path for path, _ in seen if path.suffix == ".q"]) > 10
    assert not [path for path, octets in seen for canary in CANARIES if canary in octets]
    there = {end.id: end for end in found(folder).ends}
    whole = [there[UUID(line.decode().strip())] for line in answered]
    assert {end.request.kept_bytes for end in whole if not end.bodies_shed} == {5 * 5000 * len(CANARIES[0])}


# Large bodies


@pytest.mark.parametrize("size", [MEMORY_BYTES, MEMORY_BYTES + 1, 5 * MEMORY_BYTES + 7])
def test_a_large_side_goes_beside_and_comes_back(folder: Path, spool: Spool, size: int) -> None:
    asked, answered = os.urandom(size), os.urandom(10)
    spool.submit(call(asked, answered))
    (end,) = found(folder).ends
    assert (end.request.file is not None) == (size > MEMORY_BYTES)
    assert (end.request.kept_bytes, end.response.kept_bytes) == (size, 10)
    assert (content(end.request), content(end.response)) == (asked, answered)


def test_a_file_that_is_not_ours_is_taken_over_and_given_back(folder: Path, spool: Spool) -> None:
    data = os.urandom(300_000)
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the spool closes it
    file.write(data)
    one = call()
    one.response = Body(b"", cast(Any, file), 300_000)
    spool.submit(one)
    assert file.closed
    assert content(found(folder).ends[0].response) == data


def test_a_copy_that_nobody_takes_leaves_no_file(folder: Path, spool: Spool) -> None:
    one = call()
    capture = Capture(64 * MIB, spool.spill, (one.id, "r", one.caller.key_id))
    capture.add(b"x" * 2 * MEMORY_BYTES)
    assert list(folder.rglob("*.r"))
    capture.discard()
    capture.discard()
    assert not list(folder.rglob("*.r"))


def test_a_copy_that_was_cut_says_so(folder: Path, spool: Spool) -> None:
    one = call()
    capture = Capture(3 * MEMORY_BYTES, spool.spill, (one.id, "r", one.caller.key_id))
    capture.add(b"x" * 5 * MEMORY_BYTES)
    one.response = capture.body()
    spool.submit(one)
    (end,) = found(folder).ends
    assert (end.response.kept_bytes, end.response.size_bytes, end.response.truncated) == (
        3 * MEMORY_BYTES,
        5 * MEMORY_BYTES,
        True,
    )


# Segments


def test_segments_follow_each_other_and_every_record_is_whole(folder: Path) -> None:
    spool = Spool(folder, KEYRING, SpoolLimits(max_bytes=4 * MIB, reserve_bytes=64 * 1024))
    calls = [call(os.urandom(2_000), os.urandom(8_000)) for _ in range(100)]
    for one in calls:
        spool.intend(intent(one))
        spool.submit(one)
    there = found(folder)
    assert there.ids() == {one.id for one in calls} == {each.id for each in there.intents}
    assert there.gaps == 0
    assert len(there.numbers) > 2
    assert all(numbers == list(range(len(numbers))) for numbers in there.numbers)
    asyncio.run(spool.close())


def test_large_bodies_end_a_segment_too(folder: Path, spool: Spool) -> None:
    """Else the octets of settled bodies would count until the process ends."""
    for _ in range(8):
        spool.submit(call(os.urandom(MEMORY_BYTES + 1)))
    assert len(found(folder).numbers) > 1


# Bounds (SECURITY F15)

KEYS = [UUID(int=number) for number in range(1, 9)]


def begun(spool: Spool) -> bool:
    """Whether one more call is taken."""
    one = call(b"x" * 500)
    try:
        spool.intend(intent(one))
    except NotAccepted:
        return False
    spool.submit(one)
    return True


def fill(spool: Spool, octets: int, keys: list[UUID] = KEYS) -> list[Exchange]:
    """Calls of all these keys that weigh so much together."""
    calls = [call(os.urandom(50_000), key=keys[number % len(keys)]) for number in range(octets // 50_000)]
    for one in calls:
        spool.submit(one)
    return calls


def test_when_it_is_nearly_full_bodies_give_way_and_calls_go_on(folder: Path, spool: Spool) -> None:
    calls = fill(spool, 20 * MIB)
    spool.intend(intent(calls[0]))
    there = found(folder)
    assert there.ids() == {one.id for one in calls}
    shed = [end for end in there.ends if end.bodies_shed]
    assert len(shed) == spool.shed > 50
    assert {(end.request.data, end.request.size_bytes) for end in shed} == {(b"", 50_000)}
    assert 12 * MIB < sum(len(octets) for _, octets in files_below(folder)) < 15 * MIB


def test_when_it_is_full_no_call_begins(folder: Path) -> None:
    spool = Spool(folder, KEYRING, SpoolLimits(max_bytes=MIB, reserve_bytes=64 * 1024))
    assert any(not begun(spool) for _ in range(10_000))
    assert spool.refused == 1
    spool.submit(call())
    assert spool.lost == 0
    assert 0.9 * MIB < sum(len(octets) for path, octets in files_below(folder) if path.suffix) < 1.1 * MIB
    asyncio.run(spool.close())


def test_it_may_reject_calls_instead_of_shedding_bodies(folder: Path) -> None:
    limits = SpoolLimits(max_bytes=8 * MIB, reserve_bytes=64 * 1024, full="reject")
    spool = Spool(folder, KEYRING, limits)
    calls = fill(spool, 7 * MIB + 200_000)
    with pytest.raises(NotAccepted):
        spool.intend(intent(calls[0]))
    spool.submit(call(os.urandom(10_000), key=KEYS[0]))
    assert spool.shed == 0
    assert len(found(folder).ends) == len(calls) + 1
    asyncio.run(spool.close())


def test_one_key_sheds_its_own_bodies_alone(folder: Path, spool: Spool) -> None:
    flood = fill(spool, 12 * MIB, [KEYS[0]])
    neighbour = fill(spool, MIB, [KEYS[1]])
    ends = {end.id: end.bodies_shed for end in found(folder).ends}
    kept = sum(not ends[one.id] for one in flood)
    assert 60 < kept <= 4 * MIB // 50_000
    assert not any(ends[one.id] for one in neighbour)


def test_a_key_that_streams_large_bodies_is_bounded_while_they_run(spool: Spool) -> None:
    """What is not handed over yet counts, too: else one key could fill the disk with calls that never end."""
    captures = []
    for _ in range(12):
        captures.append(Capture(64 * MIB, spool.spill, (uuid4(), "r", KEYS[0])))
        captures[-1].add(os.urandom(MIB))
    bodies = [capture.body() for capture in captures]
    assert sum(body.truncated for body in bodies) >= 8
    other = Capture(64 * MIB, spool.spill, (uuid4(), "r", KEYS[1]))
    other.add(os.urandom(MIB))
    assert not other.body().truncated
    for capture in [*captures, other]:
        capture.discard()
    again = Capture(64 * MIB, spool.spill, (uuid4(), "r", KEYS[0]))
    again.add(os.urandom(3 * MIB))
    assert not again.body().truncated
    again.discard()


def test_room_comes_back_when_the_settler_is_through(folder: Path, spool: Spool) -> None:
    fill(spool, 20 * MIB)
    shed = spool.shed
    assert shed > 0
    (relay,) = relays(folder)
    for segment in sorted(relay.glob("*.seg"))[:-1]:
        segment.unlink()

    def kept_again() -> bool:
        spool.intend(intent(call()))
        before = spool.shed
        spool.submit(call(os.urandom(50_000), key=KEYS[0]))
        return spool.shed == before

    eventually(kept_again)


def test_what_others_left_counts(folder: Path) -> None:
    """Of dead processes, say, or of the quarantine: SPOOL_DIR as a whole has one bound."""
    first = Spool(folder, KEYRING, SMALL)
    fill(first, 14 * MIB)
    asyncio.run(first.close())
    limits = SpoolLimits(max_bytes=8 * MIB, whole_bytes=16 * MIB, reserve_bytes=64 * 1024)
    second = Spool(folder, KEYRING, limits)
    second.intend(intent(call()))
    second.submit(call(b"x" * 1000))
    fill(second, 2 * MIB)
    assert second.shed > 0
    asyncio.run(second.close())


# Failing


class Broken(io.RawIOBase):
    """A body's file whose disk fails."""

    def read(self, size: int = -1) -> bytes:
        raise OSError(5, "no words of ours")

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return 0


def test_a_body_that_cannot_be_read_is_shed(folder: Path, spool: Spool) -> None:
    one = call()
    one.response = Body(b"", cast(Any, Broken()), 7)
    spool.submit(one)
    (end,) = found(folder).ends
    assert (end.bodies_shed, spool.lost) == (True, 0)
    assert not list(folder.rglob("*.[qr]"))


def test_submit_never_raises(folder: Path) -> None:
    spool = Spool(folder, KEYRING, SMALL)
    odd = call()
    odd.request_headers = cast(Any, 7)
    spool.submit(odd)
    asyncio.run(spool.close())
    asyncio.run(spool.close())
    spool.submit(call())
    spool.submit(call(b"x" * 300_000))
    assert spool.lost == 3
    assert found(folder).ends == []
    with pytest.raises(NotAccepted):
        spool.intend(intent(call()))


def test_it_is_all_on_the_disk_once_it_is_closed(folder: Path) -> None:
    spool = Spool(folder, KEYRING, SMALL)
    before = set(os.listdir("/proc/self/fd"))
    calls = [call(os.urandom(MEMORY_BYTES + 1)) for _ in range(5)]
    for one in calls:
        spool.submit(one)
    asyncio.run(spool.close())
    assert found(folder).ids() == {one.id for one in calls}
    assert len(os.listdir("/proc/self/fd")) <= len(before)


FULL_TO_THE_LAST = """
import asyncio, json, os, resource, sys
from pathlib import Path
from steward import log
from steward.adapters.spool import Spool, SpoolLimits
from steward.errors import NotAccepted
from tests.adapters.test_spool import call, found, intent
from tests.spooled import KEYRING

log.configure("error")
spool = Spool(Path(sys.argv[1]), KEYRING, SpoolLimits(reserve_bytes=300_000, flush_interval_s=60))
calls = [call(b"x" * 100) for _ in range(5)]
for one in calls:
    spool.intend(intent(one))
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
for one in calls:
    spool.submit(one)
turned_away = call()
turned_away.error = NotAccepted.code
spool.submit(turned_away)
told = [len(found(Path(sys.argv[1])).ends), spool.lost]
try:
    spool.intend(intent(call()))
except NotAccepted:
    told.append("refused")
resource.setrlimit(resource.RLIMIT_FSIZE, limits)
try:
    spool.intend(intent(call()))
except NotAccepted:
    told.append("still")
there = found(Path(sys.argv[1]))
told += [there.ids() == {one.id for one in calls}, there.gaps, all(end.bodies_shed for end in there.ends)]
asyncio.run(spool.close())
print(json.dumps(told))
"""


def test_an_end_that_no_disk_takes_is_written_when_one_does(folder: Path) -> None:
    """With the reserve spent, too. No call begins before; one that was refused for it leaves no record."""
    ran = subprocess.run(
        [sys.executable, "-c", FULL_TO_THE_LAST, str(folder)], capture_output=True, cwd=ROOT, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == [0, 0, "refused", "still", True, 0, True]


def test_a_disk_that_lets_files_pile_up_costs_no_descriptors(folder: Path) -> None:
    spool = Spool(folder, KEYRING, SpoolLimits(reserve_bytes=64 * 1024, flush_interval_s=60))
    before = len(os.listdir("/proc/self/fd"))
    calls = [call(os.urandom(MEMORY_BYTES + 1)) for _ in range(UNSYNCED_FILES + 50)]
    for one in calls:
        spool.submit(one)
    assert len(os.listdir("/proc/self/fd")) - before <= UNSYNCED_FILES + 3  # and segments
    assert len(list(folder.rglob("*.q"))) == len(calls)
    asyncio.run(spool.close())


# A full disk: a small one of its own, in a process of its own

FULL = """
import asyncio, json, os, sys
from pathlib import Path
from steward import log
from steward.adapters.spool import Spool, SpoolLimits
from steward.capture import Capture
from steward.errors import NotAccepted
from tests.adapters.test_spool import call, found, intent
from tests.servers.waiting import eventually
from tests.spooled import KEYRING

log.configure("error")
disk = Path(sys.argv[1])
spool = Spool(disk / "spool", KEYRING, SpoolLimits(reserve_bytes=1 << 20, flush_interval_s=0.01))
running, accepted, refused = [], [], 0
cut = Capture(1 << 30, spool.spill, (call().id, "r", call().caller.key_id))
for size in (60_000, 7_000, 100) * 400:
    one = call(os.urandom(size))
    try:
        spool.intend(intent(one))
    except NotAccepted:
        refused += 1
        break
    running.append(one)
    accepted.append(one.id)
    if len(running) > 300:
        spool.submit(running.pop(0))
cut.add(b"x" * (1 << 20))
for one in running:
    spool.submit(one)
there = found(disk / "spool")
late = not any(end.id == accepted[-1] for end in there.ends)
told = {
    "accepted": len(accepted), "refused": refused, "ended": len(there.ids() & set(accepted)), "gaps": there.gaps,
    "shed": sum(end.bodies_shed for end in there.ends), "counted": spool.shed, "lost": spool.lost, "late": late,
    "cut": cut.body().truncated,
}
cut.discard()
for segment in sorted(disk.rglob("*.seg")):
    os.truncate(segment, 78) if segment.name == "00000000.seg" else segment.unlink()

def begins():
    try:
        spool.intend(intent(call()))
    except NotAccepted:
        return False
    return True

eventually(begins)
(reserve,) = disk.rglob("reserve")
told["reserve"] = reserve.stat().st_blocks * 512
asyncio.run(spool.close())
print(json.dumps(told))
"""


def test_on_a_full_disk_every_call_that_began_has_its_end(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    script = f'mount -t tmpfs -o size=16m spool "{disk}" && exec "$@"'
    inside = ["unshare", "-rm", "sh", "-c", script, "sh"]
    if subprocess.run([*inside, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no small disk can be mounted here")
    ran = subprocess.run([*inside, sys.executable, "-c", FULL, str(disk)], capture_output=True, cwd=ROOT, timeout=60)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert told["accepted"] > 300
    assert told["ended"] == told["accepted"]
    assert (told["refused"], told["lost"], told["gaps"], told["late"]) == (1, 0, 0, False)
    assert told["shed"] == told["counted"] > 100
    assert told["cut"]
    assert told["reserve"] == 1 << 20
