"""What comes within one turn of the loop: written together, told together, and each with the fate it has alone."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest

from steward.adapters.spool import Spool, SpoolLimits
from steward.adapters.spool_files import SEGMENT_HEADER_BYTES
from steward.adapters.spool_turn import HELD_BYTES, Turn
from steward.errors import NotAccepted
from steward.wire.frames import Frame, Kind, decode
from tests.adapters.test_spool import KEYS, MIB, ROOT, SMALL, call, found, intent
from tests.spooled import KEYRING


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def joined(folder: Path, limits: SpoolLimits = SMALL) -> Spool:
    """A spool that writes by the turns of the running loop."""
    return Spool(folder, KEYRING, limits, asyncio.get_running_loop())


def test_a_turn_is_what_runs_until_the_loop_looks_again() -> None:
    async def story() -> list[tuple[int, int]]:
        ended: list[tuple[int, int]] = []
        turn = Turn(asyncio.get_running_loop(), lambda: ended.append((turn.size_bytes, len(turn.take()))))
        assert not turn.holds()
        turn.written()
        turn.written()
        assert turn.holds()
        kept = turn.hold(1, intent(call()), 100)
        await asyncio.sleep(0)
        assert not turn.holds(), "one more came: the next comes alone, perhaps"
        assert not kept.done(), "whoever takes it tells it"
        await asyncio.sleep(0)
        return ended

    assert asyncio.run(story()) == [(100, 1)]


def test_where_others_came_in_the_last_turn_the_first_waits_for_them() -> None:
    async def story() -> None:
        turn = Turn(asyncio.get_running_loop(), lambda: taken.append(len(turn.take())))
        taken: list[int] = []
        turn.written()
        for wanted in (2, 1):
            for _ in range(wanted):
                assert turn.holds()
                turn.hold(1, intent(call()))
            await asyncio.sleep(0)
        assert taken == [2, 1]
        assert not turn.holds()

    asyncio.run(story())


def test_without_a_loop_no_turn_runs() -> None:
    turn = Turn(None, lambda: None)
    turn.written()
    assert not turn.holds()
    assert turn.take() == []


def test_a_call_that_comes_alone_waits_for_nothing(folder: Path) -> None:
    async def story() -> None:
        spool = joined(folder)
        for one in (call(), call()):
            assert spool.intend(intent(one)) is None
            assert one.id in {each.id for each in found(folder).intents}
            await asyncio.sleep(0)
            assert spool.submit(one) is None
            assert one.id in found(folder).ids()
            await asyncio.sleep(0)
        await spool.close()

    asyncio.run(story())


def test_what_comes_behind_it_is_with_the_kernel_before_anybody_is_told(folder: Path) -> None:
    async def story() -> None:
        spool = joined(folder)
        calls = [call(b"asked", os.urandom(500)) for _ in range(20)]
        waits = [spool.intend(intent(one)) for one in calls]
        assert waits[0] is None
        assert len(found(folder).intents) == 1, "the others wait for the end of the turn"
        for wait in waits[1:]:
            assert wait is not None
            await wait
            assert len(found(folder).intents) == 20
        ends = [spool.submit(one) for one in calls]
        assert len(found(folder).ends) == 0, "after others, the first waits, too"
        await asyncio.gather(*(end for end in ends if end is not None))
        there = found(folder)
        assert [each.id for each in there.intents] == [one.id for one in calls] == [end.id for end in there.ends]
        assert [end.response.data for end in there.ends] == [one.response.data for one in calls]
        assert there.numbers == [list(range(40))]
        await spool.close()

    asyncio.run(story())


def test_who_leaves_while_he_waits_holds_nobody_up(folder: Path) -> None:
    async def story() -> None:
        spool = joined(folder)
        calls = [call() for _ in range(4)]

        async def begins(one: int) -> str:
            wait = spool.intend(intent(calls[one]))
            if wait is not None:
                await wait
            return "kept"

        tasks = [asyncio.ensure_future(begins(one)) for one in range(4)]
        await asyncio.sleep(0)
        tasks[2].cancel()
        told = await asyncio.gather(*tasks, return_exceptions=True)
        assert [each if isinstance(each, str) else type(each).__name__ for each in told] == [
            "kept",
            "kept",
            "CancelledError",
            "kept",
        ]
        await spool.close()
        assert {each.id for each in found(folder).intents} == {one.id for one in calls}

    asyncio.run(story())


def test_an_end_stands_behind_its_intent_however_it_is_written(folder: Path) -> None:
    """A large body's end, and one whose bodies are shed, are written at once: what is held goes before them."""

    calls = [call(), call(os.urandom(HELD_BYTES + 1)), call(os.urandom(MIB), key=KEYS[0])]

    async def story() -> None:
        spool = joined(folder)
        for one in calls:
            spool.intend(intent(one))
            spool.submit(one)
        await spool.close()

    asyncio.run(story())
    (segment,) = folder.rglob("*.seg")
    frames, _ = decode(segment.read_bytes()[SEGMENT_HEADER_BYTES:], ended=True)
    assert all(isinstance(each, Frame) for each in frames)
    kinds = {one.id: [each.kind for each in frames if isinstance(each, Frame) and each.id == one.id] for one in calls}
    assert list(kinds.values()) == [[Kind.INTENT, Kind.END]] * 3


def test_no_turn_holds_more_than_one_large_body(folder: Path) -> None:
    async def story() -> None:
        spool = joined(folder)
        calls = [call(os.urandom(100_000), key=KEYS[number]) for number in range(6)]
        spool.intend(intent(calls[0]))
        waits = [spool.submit(one) for one in calls]
        assert len(found(folder).ends) == 4, "written in the middle of the turn, twice"
        for wait in waits:
            assert wait is not None
            await wait
        await spool.close()

    asyncio.run(story())


def test_segments_end_between_turns_and_every_record_is_whole(folder: Path) -> None:
    async def story() -> None:
        spool = joined(folder, SpoolLimits(max_bytes=4 * MIB, reserve_bytes=64 * 1024))
        calls = [call(os.urandom(1_000), os.urandom(7_000), KEYS[number % 8]) for number in range(200)]
        for start in range(0, len(calls), 10):
            waits = [
                wait for one in calls[start : start + 10] for wait in (spool.intend(intent(one)), spool.submit(one))
            ]
            await asyncio.gather(*(wait for wait in waits if wait is not None))
        there = found(folder)
        assert there.ids() == {one.id for one in calls} == {each.id for each in there.intents}
        assert there.gaps == 0
        assert len(there.numbers) > 4
        assert all(numbers == list(range(len(numbers))) for numbers in there.numbers)
        await spool.close()

    asyncio.run(story())


def test_what_is_held_when_it_closes_is_written(folder: Path) -> None:
    async def story() -> None:
        spool = joined(folder)
        calls = [call() for _ in range(5)]
        for one in calls:
            spool.intend(intent(one))
            spool.submit(one)
        await spool.close()
        assert found(folder).ids() == {one.id for one in calls}
        with pytest.raises(NotAccepted):
            spool.intend(intent(call()))

    asyncio.run(story())


CUT = """
import asyncio, json, os, resource, signal, sys
from pathlib import Path
from steward import log
from steward.adapters.spool import Spool, SpoolLimits
from steward.errors import NotAccepted
from tests.adapters.test_spool import call, found, intent
from tests.spooled import KEYRING

log.configure("error")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

async def main():
    limits = SpoolLimits(reserve_bytes=int(sys.argv[3]), flush_interval_s=60)
    loop = asyncio.get_running_loop() if sys.argv[4] == "turns" else None
    spool = Spool(Path(sys.argv[1]), KEYRING, limits, loop)
    began = [call(os.urandom(3000)) for _ in range(10)]
    for one in began:
        wait = spool.intend(intent(one))
        if wait is not None:
            await wait
    (segment,) = Path(sys.argv[1]).rglob("*.seg")
    room = segment.stat().st_size + int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    late = [call() for _ in range(10)]
    ends = [spool.submit(one) for one in began]
    intents = []
    for one in late:
        try:
            intents.append(spool.intend(intent(one)))
        except NotAccepted as refusal:
            intents.append(refusal)
    waits = [each for each in intents if asyncio.isfuture(each)]
    refused = sum(isinstance(each, NotAccepted) for each in intents)
    refused += sum(isinstance(each, NotAccepted) for each in await asyncio.gather(*waits, return_exceptions=True))
    await asyncio.gather(*(each for each in ends if each is not None))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await asyncio.wait_for(spool.close(), 20)
    there = found(Path(sys.argv[1]))
    print(json.dumps({
        "all ends": [end.id for end in there.ends] == [one.id for one in began],
        "shed": sum(end.bodies_shed for end in there.ends) == spool.shed > 0,
        "begun": len({each.id for each in there.intents} & {one.id for one in late}) + refused,
        "refused": refused > 0,
        "numbers twice": len(sum(there.numbers, [])) - len(set(sum(there.numbers, []))),
        "lost": spool.lost, "gaps": there.gaps,
        "numbers": sum(there.numbers, []),
        "fates": [[end.bodies_shed for end in there.ends], len(there.intents)],
    }))

asyncio.run(main())
"""


def cut_in_a_turn(folder: Path, room: int, reserve: int, how: str) -> dict[str, object]:
    """Ten calls end and ten begin on a disk that has room for so many octets more."""
    ran = subprocess.run(
        [sys.executable, "-c", CUT, str(folder), str(room), str(reserve), how],
        capture_output=True,
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    told: dict[str, object] = json.loads(ran.stdout)
    return told


@pytest.mark.parametrize("room", [0, 100, 3_500, 8_000, 20_000])
def test_a_disk_that_takes_a_part_of_a_turn_decides_each_call_alone(folder: Path, room: int) -> None:
    """The write is cut somewhere: ends keep their records, without bodies if need be; intents that found no room are
    refused before anything of theirs was sent; and nothing half written stays."""
    told = cut_in_a_turn(folder, room, 0, "turns")
    del told["fates"], told["numbers"]
    assert told == {
        "all ends": True,
        "shed": True,
        "begun": 10,
        "refused": True,
        "numbers twice": 0,
        "lost": 0,
        "gaps": 0,
    }


@pytest.mark.parametrize("room", [0, 3_500, 20_000])
@pytest.mark.parametrize("reserve", [0, 1 << 20])
def test_calls_have_the_fate_that_they_would_have_had_one_by_one(tmp_path: Path, room: int, reserve: int) -> None:
    """Once the disk is full the reserve is for records alone: no body and no new call takes of it."""
    together, alone = (cut_in_a_turn(tmp_path / how, room, reserve, how) for how in ("turns", "alone"))
    del together["numbers"], alone["numbers"]
    assert together == alone
    assert together["refused"]


def test_what_the_disk_took_whole_stays_where_a_settler_may_have_read_it(folder: Path) -> None:
    """Ten intents stand there; two of the ten ends fit: they keep the numbers that they were written with."""
    numbers = cut_in_a_turn(folder, 8_000, 0, "turns")["numbers"]
    assert isinstance(numbers, list)
    assert numbers[:12] == list(range(12))
    assert numbers[12] >= 30, "and nobody else is ever given those of what was cut off"


FULL = """
import asyncio, json, os, sys
from pathlib import Path
from steward import log
from steward.adapters.spool import Spool, SpoolLimits
from steward.errors import NotAccepted
from tests.adapters.test_spool import call, found, intent
from tests.spooled import KEYRING

log.configure("error")
disk = Path(sys.argv[1])

async def main():
    loop = asyncio.get_running_loop() if sys.argv[2] == "turns" else None
    spool = Spool(disk / "spool", KEYRING, SpoolLimits(reserve_bytes=1 << 20, flush_interval_s=60), loop)
    first, large, late, last = call(), call(os.urandom(200_000)), call(), call(os.urandom(60_000))
    spool.intend(intent(first))
    (segment,) = disk.rglob("*.seg")
    sizes = [segment.stat().st_size]
    for _ in range(2):  # up to the last octets of a page: a full disk still takes what goes into one that it has
        await asyncio.sleep(0.01)
        filled = 0 if len(sizes) == 1 else (4096 - 60 - sizes[1] % 4096 - (sizes[1] - sizes[0])) % 4096
        spool.submit(call(b"x" * filled, b""))
        sizes.append(segment.stat().st_size)
    assert 4096 - 100 < sizes[2] % 4096
    # No pause from here on: that was the first record of the turn, and what comes behind it is held.
    with (disk / "filler").open("wb", buffering=0) as filler:
        try:
            while filler.write(b"x" * 4096):
                pass
        except OSError:
            pass
    refused = False
    waits = [spool.submit(large)]
    try:
        waits.append(spool.intend(intent(late)))
    except NotAccepted:
        refused = True
    waits.append(spool.submit(last))
    told = await asyncio.gather(*(each for each in waits if each is not None), return_exceptions=True)
    refused = refused or any(isinstance(each, NotAccepted) for each in told)
    there = found(disk / "spool")
    began = late.id in {each.id for each in there.intents}
    print(json.dumps([refused, began, [end.bodies_shed for end in there.ends if end.id in {large.id, last.id}]]))
    await spool.close()

asyncio.run(main())
"""


@pytest.mark.parametrize("how", ["turns", "alone"])
def test_once_the_reserve_is_broken_into_no_call_begins_and_no_body_is_kept(tmp_path: Path, how: str) -> None:
    """Also of those that were held before it was known: what is left is for the ends of calls that were sent."""
    disk = tmp_path / "disk"
    disk.mkdir()
    script = f'mount -t tmpfs -o size=4m spool "{disk}" && exec "$@"'
    inside = ["unshare", "-rm", "sh", "-c", script, "sh"]
    if subprocess.run([*inside, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no small disk can be mounted here")
    ran = subprocess.run(
        [*inside, sys.executable, "-c", FULL, str(disk), how], capture_output=True, cwd=ROOT, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == [True, False, [True, True]]


def test_one_record_that_cannot_be_written_takes_no_other_with_it(folder: Path) -> None:
    async def story() -> None:
        spool = joined(folder)
        calls = [call() for _ in range(5)]
        calls[2].request_headers = cast(Any, None)  # no record can be made of it
        for one in calls:
            spool.intend(intent(one))
        ends = [spool.submit(one) for one in calls]
        async with asyncio.timeout(20):
            for end in ends:
                assert end is not None
                await end
        assert spool.lost == 1
        assert found(folder).ids() == {one.id for one in calls} - {calls[2].id}
        await spool.close()
        assert spool.submit(calls[0]) is None
        await asyncio.sleep(0)
        assert spool.lost == 2, "closed: nothing more is held"

    asyncio.run(story())


KILLED = """
import asyncio, os, sys
from pathlib import Path
from steward.adapters.spool import Spool
from tests.adapters.test_spool import SMALL, call, intent
from tests.spooled import KEYRING

async def caller(spool):
    while True:
        one = call(os.urandom(300), os.urandom(1000))
        for wait in (spool.intend(intent(one)), spool.submit(one)):
            if wait is not None:
                await wait
        os.write(1, one.id.hex.encode() + b"\\n")
        await asyncio.sleep(0)

async def main():
    spool = Spool(Path(sys.argv[1]), KEYRING, SMALL, asyncio.get_running_loop())
    await asyncio.gather(*(caller(spool) for _ in range(30)))

asyncio.run(main())
"""


def test_nothing_that_was_answered_is_lost_by_a_kill_in_the_middle_of_a_turn(folder: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED, str(folder)], stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        answered = [process.stdout.readline() for _ in range(1500)]
        process.send_signal(signal.SIGKILL)
        answered += process.stdout.readlines()
    ids = {UUID(line.decode().strip()) for line in answered if line.endswith(b"\n")}
    assert len(ids) >= 1500
    assert ids <= found(folder).ids()
