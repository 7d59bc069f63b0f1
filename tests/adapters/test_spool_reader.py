"""The spool's reader beyond what every Settled promises: one settler, many relays, full disks and long backlogs."""

from __future__ import annotations

import os
import resource
import signal
import stat
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from steward.adapters.spool_files import Folder
from steward.adapters.spool_quarantine import Quarantine
from steward.adapters.spool_reader import SpoolReader
from steward.codec import encode_intent
from steward.errors import SettingError
from steward.wire.frames import Kind
from tests.spools import (
    KEYRING,
    NOW_S,
    WrittenRelay,
    intent,
    number_of,
    reader_of,
    relay_in,
    relays_left,
    request_id,
    settle,
    settle_all,
)


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def test_there_is_one_settler_at_a_time(spool: Path) -> None:
    first, second = SpoolReader(spool, KEYRING), SpoolReader(spool, KEYRING)
    assert second.depth().items == 0
    assert first.acquire() and first.acquire()
    assert not second.acquire()
    first.close()
    assert second.acquire()
    second.close()


@pytest.mark.parametrize("wrong", [lambda path: path.mkdir(0o755), lambda path: path.write_bytes(b"")])
def test_a_folder_that_is_not_for_us_alone_is_refused(spool: Path, wrong: Callable[[Path], object]) -> None:
    wrong(spool)
    with pytest.raises(SettingError):
        SpoolReader(spool, KEYRING)


def test_all_it_makes_is_for_us_alone(spool: Path) -> None:
    with relay_in(spool) as relay, reader_of(spool) as reader:
        relay.calls(0, 1)
        reader.set_aside(reader.take(1, 1)[0], "poison")
        for path in spool.rglob("*"):
            assert stat.S_IMODE(path.lstat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_an_intent_is_in_flight_while_its_process_lives_and_interrupted_after(spool: Path) -> None:
    with relay_in(spool) as relay, reader_of(spool) as reader:
        relay.calls(0)
        relay.intend(1)
        assert settle(reader).all == [0]
        relay.die()
        found = settle(reader)
        assert (found.intents, found.ends) == ([1], [])
    assert relays_left(spool) == []


def test_an_end_in_a_later_segment_answers_its_intent_and_each_segment_goes_by_itself(spool: Path) -> None:
    with relay_in(spool) as relay, reader_of(spool) as reader:
        relay.intend(0)
        relay.calls(1)
        relay.next_segment()
        assert settle(reader).all == [1]
        assert relay.segment(0).exists()
        relay.end(0)
        relay.calls(2)
        [first] = reader.take(1, 1 << 20)
        assert number_of(first) == 0
        reader.done([first])
        assert not relay.segment(0).exists()
        assert relay.segment(1).exists()
        assert not relay.segment(0).with_suffix(".done").exists()
        assert settle(reader).all == [2]


def test_an_intent_whose_end_went_with_its_segment_is_not_interrupted_later(spool: Path) -> None:
    with relay_in(spool) as relay:
        with reader_of(spool) as reader:
            relay.intend(0)
            relay.calls(1)
            relay.next_segment()
            relay.end(0)
            relay.next_segment()
            [kept, answered] = reader.take(1, 1), reader.take(1, 1)
            assert sorted(map(number_of, kept + answered)) == [0, 1]
            reader.done([each for each in kept + answered if number_of(each) == 0])
            assert not relay.segment(1).exists()
            assert relay.segment(0).exists()
        relay.die()
        assert settle_all(spool).all == [1]


def test_an_end_that_cannot_be_read_leaves_its_intent_of_an_earlier_segment(spool: Path) -> None:
    with relay_in(spool) as relay:
        relay.intend(0)
        relay.calls(1)
        relay.next_segment()
        relay.append(Kind.END, request_id(2), b"")
        relay.end(0)
        frame = relay.frames(1)[-1]
        with reader_of(spool) as reader:
            assert reader.depth().items == 3
            with relay.segment(1).open("r+b") as file:
                file.seek(frame.start + 60)
                file.write(b"overwritten")
            found = settle(reader)
            assert (found.ends, found.intents, found.depth.lost) == ([1], [0], 1)


def test_relays_are_served_oldest_call_first_whoever_lives(spool: Path) -> None:
    with relay_in(spool) as one, relay_in(spool) as other, reader_of(spool) as reader:
        one.calls(0, 3, 4, 7)
        other.calls(1, 2, 5, 6)
        assert [number_of(handed) for handed in reader.take(5, 1 << 20)] == [0, 1, 2, 3, 4]
        other.die()
        assert [number_of(handed) for handed in reader.take(5, 1 << 20)] == [5, 6, 7]


def test_a_dead_relay_goes_with_all_its_files_once_it_is_settled(spool: Path) -> None:
    with relay_in(spool) as relay:
        relay.intend(0)
        relay.end(0, 300_000, beside=True)
        (relay.path / f"{request_id(9)}.q").write_bytes(b"begun and never ended")
        (relay.path / "reserve").write_bytes(bytes(4096))
    assert settle_all(spool).ends == [0]
    assert relays_left(spool) == []


def test_bodies_beside_go_when_their_call_is_settled_and_not_before(spool: Path) -> None:
    with relay_in(spool) as relay, reader_of(spool) as reader:
        relay.intend(0)
        relay.end(0, 300_000, beside=True)
        besides = [relay.path / f"{request_id(0)}.{side}" for side in "qr"]
        handed = reader.take(1, 1)
        assert handed[0].size_bytes > 600_000
        assert reader.depth().size_bytes > 600_000
        reader.later(handed, recorded=True)
        assert all(file.exists() for file in besides)
        reader.done(reader.take_bodies(1, 1))
        assert not any(file.exists() for file in besides)
        assert reader.depth().size_bytes == 0


def test_what_was_left_unfinished_is_cleared_and_what_lives_is_not(spool: Path) -> None:
    with relay_in(spool) as living:
        relays = spool / "relays"
        (relays / f".{request_id(1)}").mkdir(0o700)
        (relays / f".{request_id(1)}" / "owner").write_bytes(b"")
        (relays / str(request_id(2))).mkdir(0o700)
        with reader_of(spool):
            assert relays_left(spool) == [living.path.name]


def test_poison_tried_again_is_handed_out_anew_with_its_bodies(spool: Path) -> None:
    with relay_in(spool) as relay, reader_of(spool) as reader:
        relay.intend(0)
        relay.end(0, 300_000, beside=True)
        relay.intend(1)
        relay.die()
        for handed in reader.take(2, 1 << 30):
            reader.set_aside(handed, "poison")
        assert (reader.depth().items, reader.depth().set_aside) == (0, 2)
        quarantine = Quarantine(spool, KEYRING)
        quarantine.retry(request_id(0))
        quarantine.retry(request_id(1))
        quarantine.close()
        found = settle(reader)
        assert (found.ends, found.intents, found.shed) == ([0], [1], [])
        assert found.depth.set_aside == 0
    assert relays_left(spool) == []


def test_a_crash_between_setting_aside_and_the_mark_sets_aside_again(spool: Path) -> None:
    with relay_in(spool) as relay:
        relay.intend(0)
        relay.end(0, 300_000, beside=True)
        with reader_of(spool) as reader:
            [handed] = reader.take(1, 1)
            reader.set_aside(handed, "poison")
        (relay.path / "00000000.done").unlink()
        for side in "qr":
            os.link(spool / f"quarantine/exchanges/{request_id(0)}.{side}", relay.path / f"{request_id(0)}.{side}")
        with reader_of(spool) as reader:
            [handed] = reader.take(1, 1)
            reader.set_aside(handed, "poison")
            assert reader.depth().set_aside == 1
        quarantine = Quarantine(spool, KEYRING)
        _, call = quarantine.show(request_id(0), content=True)
        assert call is not None
        assert call.request.content().reveal() == b"q" * 300_000  # type: ignore[union-attr]
        call.request.close()  # type: ignore[union-attr]
        call.response.close()  # type: ignore[union-attr]
        quarantine.close()


def test_a_long_backlog_becomes_known_bit_by_bit_and_is_settled_whole(spool: Path) -> None:
    with relay_in(spool) as relay:
        octets = encode_intent(intent(0)) + bytes(1 << 20)
        for number in range(20):
            relay.append(Kind.INTENT, request_id(number), encode_intent(intent(number)))
            relay.append(Kind.END, request_id(100 + number), octets)
            relay.end(number)
        with reader_of(spool) as reader:
            depth = reader.depth()
            assert depth.items < 40
            assert depth.size_bytes >= 20 << 20
            found = settle(reader)
            assert found.ends == list(range(20))
            assert found.depth.set_aside == 20


class Full:
    """A thread's file size limit does not exist, so the settler runs in a process of its own on a full disk."""

    def __init__(self, body: Callable[[Callable[[int], None]], str]) -> None:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

                def room(octets: int) -> None:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (hard if octets < 0 else octets, hard))

                os.write(write, body(room).encode())
            finally:
                os._exit(0)
        os.close(write)
        with os.fdopen(read) as said:
            self.said = said.read()
        os.waitpid(child, 0)


def test_on_a_full_disk_settling_goes_on_and_frees_whole_segments(spool: Path) -> None:
    with relay_in(spool) as relay:
        relay.calls(*range(5))
        relay.next_segment()
        relay.calls(5, 6)

        def full(room: Callable[[int], None]) -> str:
            with reader_of(spool) as reader:
                room(0)
                found = settle(reader)
                return f"{found.all} {relay.segment(0).exists()} {found.depth.items}"

        assert Full(full).said == "[0, 1, 2, 3, 4, 5, 6] False 0"
        assert relay.segment(1).exists()


def test_on_a_full_disk_nothing_is_set_aside_and_it_may_be_said_again(spool: Path) -> None:
    with relay_in(spool) as relay:
        relay.intend(0)
        relay.end(0, 300_000, beside=True)

        def full(room: Callable[[int], None]) -> str:
            with reader_of(spool) as reader:
                [handed] = reader.take(1, 1)
                room(10)
                try:
                    reader.set_aside(handed, "poison")
                except OSError:
                    said = f"{reader.depth().items} {reader.depth().set_aside}"
                room(-1)
                reader.set_aside(handed, "poison")
                return f"{said} {reader.depth().items} {reader.depth().set_aside}"

        assert Full(full).said == "1 0 0 1"


def test_with_no_descriptor_left_it_hands_out_what_it_can_and_the_rest_later(spool: Path) -> None:
    with relay_in(spool) as relay:
        for number in range(30):
            relay.intend(number)
            relay.end(number, 300_000, beside=True)

        def few(room: Callable[[int], None]) -> str:
            with reader_of(spool) as reader:
                reader.depth()
                _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
                resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, hard))
                got = []
                while handed := reader.take(100, 1 << 30):
                    got += [number_of(each) for each in handed]
                    assert len(handed) < 15
                    reader.done(handed)
                return f"{got == list(range(30))} {reader.depth().items} {reader.depth().lost}"

        assert Full(few).said == "True 0 0"


def test_a_backlog_is_held_by_its_places_alone(spool: Path) -> None:
    with relay_in(spool) as relay:
        plain = b"\x01" + bytes(30)
        for number in range(6_000):
            relay.append(Kind.END, request_id(number), plain)
        with reader_of(spool) as reader:
            tracemalloc.start()
            try:
                while reader.depth().items < 6_000:
                    assert reader.depth().size_bytes > 0
                held, _ = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert held < 6_000 * 200


@pytest.fixture(autouse=True)
def _nothing_is_left_open() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) <= before


def test_descriptors_do_not_grow_with_relays_that_come_and_go(spool: Path) -> None:
    with reader_of(spool) as reader:
        for number in range(30):
            relay = WrittenRelay(spool)
            relay.calls(number)
            relay.die()
            assert settle(reader).all == [number]
        assert relays_left(spool) == []
        assert len(os.listdir("/proc/self/fd")) < 60


def test_what_is_in_hand_when_its_segment_vanishes_may_still_be_spoken_of(spool: Path) -> None:
    with relay_in(spool) as relay, reader_of(spool) as reader:
        relay.calls(0, 1, 2, 3, 4)
        relay.next_segment()
        relay.calls(5)
        first, second, third, fourth = reader.take(4, 1 << 20)
        relay.segment(0).unlink()
        assert settle(reader).ends == [5]
        reader.done([first])
        reader.later([second], recorded=True)
        reader.later([third], recorded=False)
        reader.set_aside(fourth, "poison")
        found = settle(reader)
        assert (found.all, found.depth.items) == ([], 0)
        relay.die()
        assert settle(reader).all == []
    assert relays_left(spool) == []


def test_saying_done_twice_is_no_error(spool: Path) -> None:
    with relay_in(spool) as relay, reader_of(spool) as reader:
        relay.calls(0, 1)
        relay.die()
        handed = reader.take(2, 1 << 20)
        for _ in range(2):
            reader.done(handed)
            assert reader.depth().items == 0
        reader.later(handed, recorded=True)
        assert settle(reader).all == []


def test_it_needs_no_clock_but_for_ages(spool: Path) -> None:
    """A clock that jumps decides nothing."""
    times = iter([NOW_S, 0.0, NOW_S * 3, -5.0, NOW_S, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0])
    with relay_in(spool) as relay:
        relay.calls(0)
        relay.intend(1)
        reader = SpoolReader(spool, KEYRING, lambda: next(times))
        assert reader.acquire()
        assert settle(reader).all == [0]
        assert reader.depth().oldest_s >= 0
        relay.die()
        assert settle(reader).all == [1]
        reader.close()


def test_a_folder_that_cannot_be_opened_is_left_and_the_others_are_read(spool: Path) -> None:
    with relay_in(spool) as relay, reader_of(spool) as reader:
        relay.calls(0)
        folder = Folder(os.open(spool / "relays", os.O_RDONLY), "relays")
        os.symlink("/", str(request_id(77)), dir_fd=folder.descriptor)
        folder.close()
        assert settle(reader).all == [0]
