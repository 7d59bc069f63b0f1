"""One relay's folder: which calls ended, which are in flight, which never will."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steward.adapters.spool_relay import Relay
from steward.adapters.spool_scan import Segment
from steward.wire.frames import Gap
from tests.spools import KEYRING, WrittenRelay, folder_of, relay_in


class Kept:
    """Octets that are no record, counted."""

    def __init__(self) -> None:
        self.gaps: list[Gap] = []
        self.takes_wrecks = True

    def gap(self, relay: Relay, segment: Segment, gap: Gap) -> None:
        self.gaps.append(gap)

    def wreck(self, relay: Relay, segment: Segment) -> bool:
        return self.takes_wrecks


@pytest.fixture
def written(tmp_path: Path) -> Iterator[WrittenRelay]:
    with relay_in(tmp_path / "spool") as made:
        yield made


def opened(written: WrittenRelay) -> tuple[Relay, Kept]:
    kept = Kept()
    return Relay(folder_of(written.path), KEYRING, kept), kept


def waiting(relay: Relay) -> int:
    return sum(segment.index.unsettled() for segment in relay.segments.values())


def settle(relay: Relay) -> None:
    for segment in relay.segments.values():
        for place in range(len(segment.index)):
            segment.index.settle(place)
    relay.drop_settled()


def test_it_reads_about_as_much_as_it_may(written: WrittenRelay) -> None:
    for number in range(4):
        written.calls(number)
        written.next_segment()
    relay, _ = opened(written)
    assert waiting(relay) == 0
    for known in range(1, 5):
        assert relay.look(1) > 0
        assert waiting(relay) == known
    assert relay.look(1) == 0
    relay.close()


def test_a_living_relays_last_segment_stays_and_the_others_go(written: WrittenRelay) -> None:
    written.calls(0)
    written.next_segment()
    written.calls(1)
    relay, _ = opened(written)
    relay.look(1 << 20)
    settle(relay)
    assert list(relay.segments) == [1]
    assert not relay.dead and not relay.finished()
    written.die()
    relay.look(1 << 20)
    settle(relay)
    assert relay.dead and relay.finished()
    assert relay.leave()
    assert list(written.path.iterdir()) == []
    relay.close()


def test_what_is_not_ours_keeps_the_folder_and_its_owner(written: WrittenRelay) -> None:
    written.calls(0)
    written.die()
    (written.path / "notes.txt").write_text("a person's")
    relay, _ = opened(written)
    relay.look(1 << 20)
    settle(relay)
    assert relay.finished() and not relay.leave()
    assert sorted(file.name for file in written.path.iterdir()) == ["notes.txt", "owner"]
    relay.close()


def test_a_wreck_that_nobody_takes_stays_where_it_is(written: WrittenRelay) -> None:
    written.calls(0)
    written.die()
    octets = bytearray(written.segment().read_bytes())
    octets[50] ^= 1
    written.segment().write_bytes(octets)
    relay, kept = opened(written)
    kept.takes_wrecks = False
    relay.look(1 << 20)
    relay.drop_settled()
    assert relay.known_lost() == 2
    assert not relay.leave()
    assert written.segment().read_bytes() == octets
    relay.close()


Step = tuple[str, int]
_STEPS = st.lists(
    st.tuples(st.sampled_from(["intend", "end", "segment", "look"]), st.integers(0, 5)), min_size=1, max_size=25
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_STEPS)
def test_in_whatever_order_it_is_written_and_read_each_call_is_known_as_what_it_is(
    tmp_path: Path, steps: list[Step]
) -> None:
    begun: set[int] = set()
    ended: set[int] = set()
    with relay_in(tmp_path / "spool") as written:
        relay, kept = opened(written)
        for step, number in steps:
            if step == "segment":
                written.next_segment()
            elif step == "look":
                relay.look(1 << 20)
                assert waiting(relay) == len(ended)
            elif step == "intend" and number not in begun | ended:
                written.intend(number)
                begun.add(number)
            elif step == "end" and number not in ended:
                written.end(number)
                ended.add(number)
        relay.look(1 << 20)
        assert waiting(relay) == len(ended)
        assert sum(segment.open_intents for segment in relay.segments.values()) == len(begun - ended)
        written.die()
        relay.look(1 << 20)
        assert waiting(relay) == len(begun | ended)
        assert (relay.known_lost(), kept.gaps) == (0, [])
        settle(relay)
        assert relay.finished() and relay.leave()
        relay.close()
