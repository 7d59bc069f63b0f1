"""`steward spool`: what was set aside in a real spool, told as facts, shown on demand, put back, given up."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from steward.adapters.spool import Spool, SpoolLimits
from steward.adapters.spool_reader import SpoolReader
from steward.exchange import Intent, uuid7
from steward.seal import Keyring
from steward.spool_command import NONE_SUCH
from steward.words import Secret
from tests.exchanges import exchange, route
from tests.test_cli import KEY, Said, commands

KEYRING = Keyring(Secret(bytes(range(32))))
CHAT = route("/v1/chat/completions")
CANARY = "CANARY-7e21"
NOW_MS = round(datetime.now(UTC).timestamp() * 1000)
LARGE = 300_000


def ident(number: int) -> UUID:
    """The call's, of the moment when the tests began."""
    return uuid7(NOW_MS + number, number.to_bytes(10, "big"))


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """With a call and a body that were set aside, a call of which only the beginning is known, and one that waits."""
    folder = tmp_path / "spool"
    asyncio.run(_relayed(folder))
    reader = SpoolReader(folder, KEYRING)
    assert reader.acquire()
    handed = {each.item.id: each for each in reader.take(100, 1 << 30)}
    assert set(handed) == {ident(number) for number in range(4)}
    reader.set_aside(handed[ident(0)], "unreadable")
    reader.keep_body(handed[ident(1)], "AccessDenied")
    reader.set_aside(handed[ident(2)], "22P02")
    reader.close()
    return folder


async def _relayed(folder: Path) -> None:
    relay = Spool(folder, KEYRING, SpoolLimits())
    for number in (0, 1, 3):
        answer = {"said": CANARY * (LARGE // len(CANARY) if number == 1 else 1)}
        call = replace(exchange(CHAT, answer, asked={"number": number}), id=ident(number))
        relay.intend(Intent(call.id, call.caller, call.route, call.requested_at, call.method))
        relay.submit(call)
    relay.intend(Intent(ident(2), call.caller, call.route, call.requested_at, call.method))
    await relay.close()


def ran(spool: Path, *argvs: str) -> list[Said]:
    """`steward spool ...`, one after the other."""
    environ = {"ENCRYPTION_KEY": KEY, "SPOOL_DIR": str(spool)}
    said = commands([(environ, ["spool", *argv.split()]) for argv in argvs])
    assert not [each for each in said if "Traceback" in each.err]
    return said


def waiting(spool: Path) -> Mapping[UUID, object]:
    """What a settler finds."""
    reader = SpoolReader(spool, KEYRING)
    assert reader.acquire()
    found = {each.item.id: each.item for each in reader.take(100, 1 << 30)}
    reader.close()
    return found


def test_what_was_set_aside_is_listed_by_its_facts(spool: Path) -> None:
    plain, as_json = ran(spool, "ls", "ls --json")
    rows = [re.split(r"\s{2,}", line) for line in plain.out.splitlines()]
    assert rows[0] == ["id", "what", "called", "set aside", "octets", "code"]
    assert [(row[0], row[1], row[5]) for row in rows[1:]] == [
        (str(ident(0)), "call", "unreadable"),
        (str(ident(1)), "body", "AccessDenied"),
        (str(ident(2)), "beginning", "22P02"),
    ]
    facts = json.loads(as_json.out)
    assert [fact["id"] for fact in facts] == [row[0] for row in rows[1:]]
    assert set(facts[0]) == {"id", "what", "code", "called_at", "set_aside_at", "size_bytes"}
    assert facts[1]["size_bytes"] > LARGE
    assert CANARY not in plain.out + as_json.out
    assert (plain.code, plain.err) == (0, "")


def test_an_empty_quarantine_says_so(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir(mode=0o700)
    plain, as_json, none = ran(tmp_path / "spool", "ls", "ls --json", "retry --all")
    assert (plain.out, json.loads(as_json.out)) == ("Nothing is set aside.\n", [])
    assert (none.code, none.out) == (0, "0 records: tried again.\n")


@pytest.mark.parametrize("number", [0, 1])
def test_what_was_said_in_a_call_is_shown_on_demand_alone(spool: Path, number: int) -> None:
    facts, as_json, content = ran(
        spool, f"show {ident(number)}", f"show {ident(number)} --json", f"show {ident(number)} --content"
    )
    assert str(ident(number)) in facts.out
    assert json.loads(as_json.out)["id"] == str(ident(number))
    assert CANARY not in facts.out + as_json.out
    document = json.loads(content.out)
    assert document["request"]["body"] == {"number": number}
    assert CANARY in document["response"]["body"]["said"]
    assert content.err == ""


def test_of_a_call_that_only_began_there_is_nothing_to_show(spool: Path) -> None:
    facts, content = ran(spool, f"show {ident(2)}", f"show {ident(2)} --content")
    assert "beginning" in facts.out
    assert (content.code, content.out) == (1, "")
    assert "it has no content" in content.complaint()


def test_what_is_tried_again_waits_with_the_rest_and_is_set_aside_no_more(spool: Path) -> None:
    one, rest, listed = ran(spool, f"retry {ident(1)}", "retry --all --json", "ls --json")
    assert (one.code, one.out) == (0, f"{ident(1)}: tried again.\n")
    assert sorted(json.loads(rest.out)) == sorted([str(ident(0)), str(ident(2))])
    assert json.loads(listed.out) == []
    found = waiting(spool)
    assert set(found) == {ident(number) for number in range(4)}
    assert isinstance(found[ident(2)], Intent)


def test_what_is_dropped_is_gone_with_its_bodies(spool: Path) -> None:
    dropped, listed = ran(spool, f"drop {ident(0)} {ident(1)} --json", "ls --json")
    assert json.loads(dropped.out) == [str(ident(0)), str(ident(1))]
    assert [fact["id"] for fact in json.loads(listed.out)] == [str(ident(2))]
    left = [path.name for path in (spool / "quarantine").rglob("*") if path.is_file()]
    assert left == [str(ident(2))]
    assert set(waiting(spool)) == {ident(3)}


@pytest.mark.parametrize("action", ["show", "retry", "drop"])
def test_what_is_not_there_is_one_line(spool: Path, action: str) -> None:
    [said] = ran(spool, f"{action} {uuid4()}")
    assert (said.code, said.out, said.complaint()) == (1, "", f"steward: {NONE_SUCH}")


def test_one_asks_for_some_or_for_all(spool: Path) -> None:
    for said in ran(spool, "retry", f"retry --all {ident(0)}"):
        assert (said.code, said.out) == (2, "")
        assert "--all" in said.err


def test_under_another_key_nothing_is_opened_and_nothing_is_lost(spool: Path) -> None:
    environ = {"ENCRYPTION_KEY": "0123456789abcdef" * 4, "SPOOL_DIR": str(spool)}
    argvs = ([action, str(ident(0)), *more] for action, *more in (["show", "--content"], ["retry"]))
    for said in commands([(environ, ["spool", *argv]) for argv in argvs]):
        assert (said.code, said.out) == (1, "")
        assert said.complaint().startswith("steward: ")
        assert "Traceback" not in said.err and CANARY not in said.err
    assert len(json.loads(ran(spool, "ls --json")[0].out)) == 3


def test_a_record_that_was_written_over_is_one_line(spool: Path) -> None:
    file = spool / "quarantine" / "exchanges" / str(ident(0))
    file.write_bytes(b"\0" * file.stat().st_size)
    for said in ran(spool, f"show {ident(0)} --content", f"retry {ident(0)}"):
        assert (said.code, said.out) == (1, "")
        assert said.complaint().startswith("steward: ")
    assert ran(spool, f"drop {ident(0)}")[0].code == 0
