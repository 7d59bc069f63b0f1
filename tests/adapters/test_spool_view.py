"""What the spool still has, seen beside a settler at work."""

from __future__ import annotations

from pathlib import Path

import pytest

from steward.adapters.spool_view import waiting_ids
from steward.errors import SettingError
from tests.spools import call, number_of, reader_of, relay_in, request_id, settle_all


def ids(*numbers: int) -> set[object]:
    return {request_id(number) for number in numbers}


def test_an_empty_spool_has_nothing(tmp_path: Path) -> None:
    assert waiting_ids(tmp_path / "spool") == set()
    with relay_in(tmp_path / "spool"):
        assert waiting_ids(tmp_path / "spool") == set()


def test_a_call_is_named_from_its_intent_until_it_is_settled(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    with relay_in(spool) as relay, reader_of(spool) as reader:
        relay.intend(0)
        assert waiting_ids(spool) == ids(0)
        relay.calls(1)
        relay.next_segment()
        relay.end(0)
        assert waiting_ids(spool) == ids(0, 1)
        handed = reader.take(2, 1 << 20)
        reader.later([each for each in handed if number_of(each) == 1], recorded=True)
        assert waiting_ids(spool) == ids(0, 1)
        reader.done([each for each in handed if number_of(each) == 0])
        assert waiting_ids(spool) == ids(1)
        reader.done(reader.take_bodies(1, 1))
        assert waiting_ids(spool) == set()


def test_it_disturbs_nobody(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    with relay_in(spool) as relay:
        relay.calls(0, 1)
        relay.segment().write_bytes(relay.segment().read_bytes()[:-5])
        (spool / "relays" / str(request_id(5))).symlink_to("/")
        before = {path: path.lstat().st_size for path in spool.rglob("*")}
        assert waiting_ids(spool) == ids(0, 1)
        assert {path: path.lstat().st_size for path in spool.rglob("*")} == before
    found = settle_all(spool)
    assert (found.ends, found.intents) == ([0], [1])
    assert waiting_ids(spool) == set()


def test_a_folder_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir(0o755)
    with pytest.raises(SettingError):
        waiting_ids(tmp_path / "spool")


def test_many_segments_are_read_through(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    with relay_in(spool) as relay:
        for number in range(30):
            relay.calls(number)
            if number % 3 == 0:
                relay.next_segment()
        with relay.segment(2).open("r+b") as file:
            file.seek(relay.frames(2)[0].start)
            file.write(bytes(10))
    assert waiting_ids(spool) == {call(number).id for number in range(30)}
