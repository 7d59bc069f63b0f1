"""What is set aside: sealed, whole, its facts in clear, for 14 days."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from steward.adapters.spool_quarantine import KEPT_S, Quarantine, SetAside, Shelf, with_bodies
from steward.codec import encode_exchange, encode_intent
from steward.errors import SealBroken
from steward.exchange import Exchange, Intent
from steward.wire.frames import Kind
from tests.spools import (
    KEYRING,
    OTHER_KEYRING,
    WrittenRelay,
    call,
    folder_of,
    intent,
    reader_of,
    relay_in,
    request_id,
    settle,
)

CANARY = b"canary" * 8


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def relay(spool: Path) -> Iterator[WrittenRelay]:
    with relay_in(spool) as made:
        yield made


@pytest.fixture
def quarantine(relay: WrittenRelay, spool: Path) -> Iterator[Quarantine]:
    made = Quarantine(spool, KEYRING)
    yield made
    made.close()


def poison(number: int) -> SetAside:
    one = call(number)
    payload = encode_exchange(one, CANARY, CANARY)
    return SetAside(one.id, Kind.END, payload, "poison", one.requested_at)


def folder(spool: Path, shelf: str) -> Path:
    return spool / "quarantine" / shelf


def test_what_is_kept_shows_its_facts_and_only_when_asked_its_content(
    relay: WrittenRelay, quarantine: Quarantine, spool: Path
) -> None:
    quarantine.keep(Shelf.EXCHANGES, poison(1), relay.folder)
    quarantine.keep(Shelf.BODIES, poison(2), relay.folder)
    first, second = quarantine.entries()
    assert (first.id, first.shelf, first.code, first.requested_at, first.intent) == (
        request_id(1),
        Shelf.EXCHANGES,
        "poison",
        call(1).requested_at,
        False,
    )
    assert (second.id, second.shelf) == (request_id(2), Shelf.BODIES)
    assert first.size_bytes == (folder(spool, "exchanges") / str(first.id)).stat().st_size
    assert quarantine.show(first.id) == (first, None)
    _, shown = quarantine.show(first.id, content=True)
    assert isinstance(shown, Exchange)
    assert shown.request.content().reveal() == CANARY
    assert "canary" not in repr(first) + repr(shown)
    for file in (spool / "quarantine").rglob("*"):
        assert file.is_dir() or b"canary" not in file.read_bytes()


def test_an_intent_is_kept_as_one(relay: WrittenRelay, quarantine: Quarantine) -> None:
    one = intent(3)
    what = SetAside(one.id, Kind.INTENT, encode_intent(one), "22021", one.requested_at)
    quarantine.keep(Shelf.EXCHANGES, what, relay.folder)
    entry, shown = quarantine.show(one.id, content=True)
    assert entry.intent and isinstance(shown, Intent)


def test_large_bodies_come_along_and_stay_when_the_relay_gives_its_own_up(
    relay: WrittenRelay, quarantine: Quarantine, spool: Path
) -> None:
    relay.end(1, 300_000, beside=True)
    with reader_of(spool) as reader:
        [handed] = reader.take(1, 1)
        reader.keep_body(handed, "AccessDenied")
    assert not list(relay.path.glob("*.q"))
    entry, shown = quarantine.show(request_id(1), content=True)
    assert (entry.code, entry.size_bytes > 600_000) == ("AccessDenied", True)
    assert isinstance(shown, Exchange)
    assert shown.response.content().reveal() == b"r" * 300_000
    shown.request.close()
    shown.response.close()


def test_what_is_tried_again_is_in_the_spool_and_here_no_more(
    relay: WrittenRelay, quarantine: Quarantine, spool: Path
) -> None:
    relay.end(1, 300_000, beside=True)
    relay.end(2)
    with reader_of(spool) as reader:
        for handed in reader.take(9, 1 << 30):
            reader.keep_body(handed, "AccessDenied")
        quarantine.retry(request_id(1))
        quarantine.retry(request_id(2))
        assert quarantine.entries() == []
        assert list(folder(spool, "bodies").iterdir()) == []
        assert sorted(settle(reader).ends) == [1, 2]


def test_what_is_dropped_is_gone_with_its_bodies(relay: WrittenRelay, quarantine: Quarantine, spool: Path) -> None:
    relay.end(1, 300_000, beside=True)
    with reader_of(spool) as reader:
        reader.set_aside(reader.take(1, 1)[0], "poison")
    quarantine.drop(request_id(1))
    assert list(folder(spool, "exchanges").iterdir()) == []
    for ask in (quarantine.drop, quarantine.retry, quarantine.show):
        with pytest.raises(KeyError):
            ask(request_id(1))


def test_keeping_again_changes_nothing(relay: WrittenRelay, quarantine: Quarantine) -> None:
    for _ in range(2):
        quarantine.keep(Shelf.EXCHANGES, poison(1), relay.folder)
        quarantine.keep_octets("name", [b"octets"])
    assert (quarantine.count(), len(quarantine.entries())) == (1, 1)


def test_it_opens_under_its_own_key_id_and_shelf_alone(
    relay: WrittenRelay, quarantine: Quarantine, spool: Path
) -> None:
    quarantine.keep(Shelf.EXCHANGES, poison(1), relay.folder)
    record = folder(spool, "exchanges") / str(request_id(1))
    octets = record.read_bytes()
    (folder(spool, "exchanges") / str(request_id(2))).write_bytes(octets)
    (folder(spool, "bodies") / str(request_id(3))).write_bytes(octets)
    record.write_bytes(octets[:-1] + bytes((octets[-1] ^ 1,)))
    for number in (1, 2, 3):
        for ask in (lambda of: quarantine.show(of, content=True), quarantine.retry):
            with pytest.raises(SealBroken):
                ask(request_id(number))
    record.write_bytes(octets)
    stranger = Quarantine(spool, OTHER_KEYRING)
    assert [entry.code for entry in stranger.entries()] == ["poison"] * 3
    with pytest.raises(SealBroken):
        stranger.show(request_id(1), content=True)
    stranger.close()
    assert quarantine.count() == 3


@pytest.mark.parametrize(
    "facts",
    [
        b"",
        b"\n",
        b"[]\n",
        b"{}\n",
        b'{"code": 1, "kind": [], "requested_at": 7}\n',
        b"\xff" * 9000,
        b'{"requested_at": "then"}\n',
    ],
)
def test_facts_that_are_damaged_are_unknown_and_hide_nothing(
    relay: WrittenRelay, quarantine: Quarantine, spool: Path, facts: bytes
) -> None:
    quarantine.keep(Shelf.EXCHANGES, poison(1), relay.folder)
    (folder(spool, "exchanges") / str(request_id(2))).write_bytes(facts)
    entries = quarantine.entries()
    assert [entry.id for entry in entries] == [request_id(1), request_id(2)]
    assert entries[1].code in {"unknown", "1"}


def test_foreign_names_and_links_are_passed_over(
    relay: WrittenRelay, quarantine: Quarantine, spool: Path, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    for name in ("notes.txt", str(request_id(1)).upper(), f"{request_id(1)}.q"):
        (folder(spool, "exchanges") / name).write_bytes(b"foreign")
    assert (quarantine.count(), quarantine.entries()) == (0, [])
    (folder(spool, "bodies") / str(request_id(2))).symlink_to(precious)
    with pytest.raises(OSError, match="symbolic"):
        quarantine.show(request_id(2))
    assert quarantine.entries() == []


def test_after_fourteen_days_it_goes_and_what_is_younger_stays(
    relay: WrittenRelay, quarantine: Quarantine, spool: Path
) -> None:
    relay.end(1, 300_000, beside=True)
    with reader_of(spool) as reader:
        reader.set_aside(reader.take(1, 1)[0], "poison")
    quarantine.keep_octets("some", [b"octets"])
    (folder(spool, "bodies") / ".half").write_bytes(b"")
    set_aside_s = (folder(spool, "exchanges") / str(request_id(1))).stat().st_mtime
    assert quarantine.sweep(set_aside_s + KEPT_S - 60) == 0
    assert quarantine.count() == 1
    assert not (folder(spool, "bodies") / ".half").exists()
    assert quarantine.sweep(set_aside_s + KEPT_S + 60) == 2
    assert [file for file in (spool / "quarantine").rglob("*") if file.is_file()] == []


def test_a_clock_that_was_set_back_takes_nothing_away(relay: WrittenRelay, quarantine: Quarantine) -> None:
    quarantine.keep(Shelf.EXCHANGES, poison(1), relay.folder)
    assert quarantine.sweep(0.0) == 0
    assert quarantine.count() == 1


def test_a_record_with_bodies_that_cannot_be_opened_now_leaves_nothing_open(relay: WrittenRelay) -> None:
    relay.end(1, 300_000, beside=True)
    with reader_of(relay.path.parent.parent) as reader:
        [handed] = reader.take(1, 1)
        payload = handed.token.segment.payload(relay.frames()[0])  # type: ignore[attr-defined]
        reader.later([handed], recorded=False)
    empty = relay.path / "empty"
    empty.mkdir()
    before = len(os.listdir("/proc/self/fd"))
    exchange, beside_bytes, lost = with_bodies(payload, folder_of(empty))
    assert (beside_bytes, lost, exchange.bodies_shed, exchange.request.file) == (600_000, 2, True, None)
    assert len(os.listdir("/proc/self/fd")) <= before + 1
