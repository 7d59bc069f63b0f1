"""The export, over a ledger in memory and a Butler on the wire: what is sent, and what becomes of what is not taken."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID, uuid4

import pytest

from steward.adapters.butler import HttpButler
from steward.adapters.memory import MemoryDirectory, MemoryLedger
from steward.adapters.memory_outbox import MemoryOutbox
from steward.errors import LedgerUnavailable
from steward.exchange import LOCAL_ORG, BodyState, Record
from steward.export import Clocks, Exporter, ExportLimits, Ways
from steward.export_record import ExportRules
from steward.metric_files import temporary_board
from steward.metrics import ExportMetrics
from steward.ports import ControlPlane, Lane, Registration
from steward.words import Secret
from tests.contracts.records import a_record
from tests.said import Said, listening
from tests.scraped import value
from tests.servers.ingest_butler import IngestButler, Organisation, serving
from tests.servers.waiting import eventually

RULES = ExportRules()
LIMITS = ExportLimits(batch=10, every_s=0.0, patience_s=20.0, look_s=0.0)
BAD = "bad"
"""The model of a record that this Butler refuses."""


class Line(HttpButler):
    """Knows whether it was closed."""

    closed = False

    def close(self) -> None:
        self.closed = True
        super().close()


@dataclass
class House:
    """A Steward's export, some registrations and their Butler."""

    butler: IngestButler
    ledger: MemoryLedger = field(default_factory=MemoryLedger)
    directory: MemoryDirectory = field(default_factory=MemoryDirectory)
    rules: ExportRules = RULES
    limits: ExportLimits = LIMITS
    made: list[Exporter] = field(default_factory=list)
    opened: list[Line] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.outbox = MemoryOutbox(self.ledger, self.directory)
        self.board = temporary_board()
        self.exporter = self.another()

    def another(self) -> Exporter:
        """As another process would have it."""
        ways = Ways(self.directory, self.outbox, self.open)
        self.made.append(Exporter(ways, self.rules, self.limits, ExportMetrics(self.board)))
        return self.made[-1]

    def open(self, registration: Registration, token: Secret[str]) -> ControlPlane:
        self.opened.append(Line(registration.butler_url, token, deadline_s=5))
        return self.opened[-1]

    def register(self, number: int = 0) -> Registration:
        who = self.butler.organisations[number]
        return self.directory.register(who.identity, self.butler.url, Secret(who.token))

    def rows(self, owner: Registration | None, count: int = 1, **changes: Any) -> list[Record]:
        facts = {"registration_id": owner.id, "org_id": owner.org_id} if owner else {"org_id": LOCAL_ORG}
        made = [a_record(**(facts | {"model": "gpt-4o"} | changes)) for _ in range(count)]
        assert self.ledger.record(made) == []
        return made

    def taken(self, number: int = 0) -> dict[str, dict[str, Any]]:
        return self.butler.organisations[number].records

    def run(self, turns: int = 1) -> None:
        for _ in range(turns):
            self.exporter.run_once()

    def counted(self, name: str, **labels: str) -> float | None:
        return value(self.board.text(), name, **labels)


@pytest.fixture(autouse=True)
def said() -> Iterator[Said]:
    with listening() as heard:
        yield heard


@pytest.fixture
def house() -> Iterator[House]:
    organisations = [Organisation(f"mdm_st_{number}" + "t" * 32) for number in range(2)]
    with serving(IngestButler(organisations)) as butler:
        house = House(butler)
        yield house
        butler.ended.set()
        for exporter in house.made:
            exporter.finish(5.0)
        house.board.close()


def ids(records: list[Record]) -> set[str]:
    return {str(record.id) for record in records}


def test_with_nobody_registered_nothing_is_asked_and_it_is_said_once(house: House, said: Said) -> None:
    house.rows(None, 3)
    house.run(3)
    assert house.butler.heard == []
    assert said.events() == ["nothing_registered"]


def test_rows_arrive_and_are_sent_once(house: House) -> None:
    mine = house.register()
    made = house.rows(mine, 25)
    house.run(5)
    assert set(house.taken()) == ids(made)
    assert sorted(map(len, house.butler.organisations[0].batches)) == [5, 10, 10]
    house.run(3)
    assert len(house.butler.organisations[0].batches) == 3
    assert [path for path, _ in house.butler.heard].count("/api/v1/steward/me") == 1


def test_the_newest_are_there_first(house: House) -> None:
    mine = house.register()
    made = house.rows(mine, 100)
    house.run(1)
    assert set(house.taken()) == ids(made[-5:] + made[:5])


def test_who_is_registered_is_asked_once_a_turn_however_many_are(house: House) -> None:
    """With 1,000 of them, each asking for all of them would keep a processor busy with nothing else."""

    class Counting(MemoryDirectory):
        asked = 0

        def registrations(self) -> list[Registration]:
            self.asked += 1
            return super().registrations()

    directory = Counting()
    directory.__dict__ = house.directory.__dict__  # the same, and the outbox is not counted
    exporter = Exporter(Ways(directory, house.outbox, house.open), house.rules, house.limits)
    house.made.append(exporter)
    one, other = house.register(0), house.register(1)
    house.rows(one), house.rows(other)
    exporter.run_once()
    eventually(lambda: len(house.taken(0)) + len(house.taken(1)) == 2)
    assert directory.asked == 1


def test_a_change_goes_out_under_the_same_id(house: House) -> None:
    mine = house.register()
    (record,) = house.rows(mine, 1, body_state=BodyState.PENDING)
    house.run()
    key = f"{record.api_key_id}/2026-11-20/{record.id}.json.gz"
    house.ledger.record([replace(record, body_state=BodyState.STORED, body_key=key)])
    house.run()
    assert [(each["revision"], each["body_state"], each["body_s3_key"]) for each in house.taken().values()] == [
        (2, "stored", key)
    ]


def test_each_registration_s_rows_go_to_it_alone(house: House) -> None:
    one, other = house.register(0), house.register(1)
    of_one, of_other = house.rows(one, 3), house.rows(other, 4)
    kept = house.rows(None, 2)
    eventually(lambda: house.run() or len(house.taken(0)) + len(house.taken(1)) >= 7)
    assert (set(house.taken(0)), set(house.taken(1))) == (ids(of_one), ids(of_other))
    assert {each["org_id"] for each in house.taken(0).values()} == {str(one.org_id)}
    assert {house.outbox.state(record.id)[1] for record in kept} == {"local"}
    assert house.counted("steward_kept_local_rows_total") == 2


def test_calls_with_keys_made_inside_go_out_without_the_key(house: House) -> None:
    mine = house.register()
    house.directory.say_local_from(mine.id, UUID(int=0))
    own, local = house.rows(mine, 1), house.rows(None, 1)
    house.run(2)
    assert set(house.taken()) == ids(own + local)
    sent = [house.taken()[str(record.id)] for record in own + local]
    assert [each.get("majordomo_api_key_id") for each in sent] == [str(own[0].api_key_id), None]
    assert {each["org_id"] for each in sent} == {str(mine.org_id)}


def test_in_managed_mode_they_go_nowhere(house: House) -> None:
    mine = house.register()
    house.directory.say_local_from(mine.id, UUID(int=0))
    house.rules = ExportRules(managed=True)
    house.exporter = house.another()
    house.rows(None, 3)
    house.run(2)
    assert house.taken() == {}
    assert house.counted("steward_kept_local_rows_total") == 3


def test_a_deregistered_one_is_sent_nothing_and_a_new_token_is_used(house: House) -> None:
    mine = house.register()
    house.rows(mine, 1)
    house.run()
    house.directory.deregister(mine.org_id)
    late = house.rows(mine, 2)
    calls = len(house.butler.heard)
    house.run(2)
    assert len(house.butler.heard) == calls
    assert [each.closed for each in house.opened] == [True], "nobody is kept on the line"
    house.butler.organisations[0].token = "mdm_st_new" + "t" * 32
    house.register()
    house.run()
    assert ids(late) <= set(house.taken())
    assert house.butler.heard[-1][1].startswith("mdm_st_new")


def test_a_token_of_another_organisation_gets_no_row(house: House, said: Said) -> None:
    """SECURITY F8: whose it is decides who it was registered as, each time it is opened."""
    mine = house.register()
    house.rows(mine, 2)
    house.butler.organisations[0].org_id = uuid4()
    house.run()
    assert house.taken() == {}
    assert [line["code"] for line in said.lines("task_failed")] == ["butler_nonsense"]
    assert house.outbox.waiting(_lane(mine), 9).rows == 2


def _lane(registration: Registration) -> Lane:
    return Lane(registration.id, registration.org_id)


def test_butler_is_sent_the_fields_it_takes(house: House) -> None:
    house.butler.fields = ("id", "model", "provider")
    house.rows(house.register(), 1)
    house.run()
    (record,) = house.taken().values()
    assert set(record) == {"id", "model", "provider"}


def test_a_butler_that_says_nothing_of_fields_gets_the_original_s(house: House) -> None:
    house.butler.fields = None
    house.rows(house.register(), 1)
    house.run()
    (record,) = house.taken().values()
    assert {"id", "model", "input_tokens", "request_path"} <= set(record)
    assert not {"revision", "outcome", "usage_source", "body_state"} & set(record)


def test_what_butler_takes_may_change_while_it_runs(house: House) -> None:
    mine = house.register()
    house.rows(mine, 1)
    house.run()
    house.butler.fields = ("id", "model")
    house.rows(mine, 3)
    house.run()
    assert len(house.taken()) == 4
    assert house.counted("steward_exported_rows_total", result="set_aside") == 0


# what is refused


def refuse_bad(record: dict[str, Any]) -> bool:
    return record["model"] == BAD


@pytest.mark.parametrize("where", [[0], [9], [4, 5], [0, 9], list(range(9))], ids=str)
def test_what_is_refused_is_found_and_set_aside_alone(where: list[int], house: House, said: Said) -> None:
    house.butler.refuses = refuse_bad
    mine = house.register()
    made = [house.rows(mine, 1, model=BAD if number in where else "gpt-4o")[0] for number in range(10)]
    house.run()
    assert set(house.taken()) == ids([made[number] for number in range(10) if number not in where])
    assert {number for number in range(10) if house.outbox.state(made[number].id)[1] == "set_aside"} == set(where)
    lines = said.lines("row_not_exported")
    assert [(line["id"], line["code"]) for line in sorted(lines, key=lambda line: str(line["id"]))] == [
        (str(made[number].id), "butler_rejected") for number in where
    ]
    assert BAD not in said.text
    assert house.counted("steward_exported_rows_total", result="set_aside") == len(where)
    assert house.counted("steward_exported_rows_total", result="taken") == 10 - len(where)


def test_what_was_set_aside_is_tried_again_when_it_changes(house: House) -> None:
    house.butler.refuses = refuse_bad
    mine = house.register()
    house.rows(mine, 1)
    (bad,) = house.rows(mine, 1, model=BAD, body_state=BodyState.PENDING)
    house.run(2)
    assert house.outbox.state(bad.id)[1] == "set_aside"
    house.ledger.record([replace(bad, model="gpt-4o", body_state=BodyState.STORED)])
    house.run()
    assert house.taken()[str(bad.id)]["revision"] == 2
    assert house.outbox.state(bad.id) == (2, None, None)


def test_a_record_that_comes_alone_is_judged_by_one_that_was_taken(house: House) -> None:
    house.butler.refuses = refuse_bad
    mine = house.register()
    (good,) = house.rows(mine, 1)
    house.run()
    (bad,) = house.rows(mine, 1, model=BAD)
    house.run()
    assert house.outbox.state(bad.id)[1] == "set_aside"
    assert house.butler.organisations[0].batches == [[str(good.id)]] * 2


def test_a_door_that_says_no_to_everything_judges_nothing(house: House, said: Said) -> None:
    """A wrong path, a proxy of somebody's: 404 for all that is sent."""
    mine = house.register()
    house.rows(mine, 1)
    house.run()
    made = house.rows(mine, 10)
    house.butler.fault = lambda path, token: "refuse" if path.endswith("/metadata") else None
    house.run()
    assert {house.outbox.state(record.id)[1] for record in made} == {None}
    assert [line["code"] for line in said.lines("task_failed")] == ["butler_unavailable"]
    assert said.lines("row_not_exported") == []
    house.butler.fault = lambda path, token: None
    house.exporter = house.another()
    house.run()
    assert ids(made) <= set(house.taken())


def test_a_row_of_which_no_record_can_be_made_stays_alone_and_nothing_is_said_of_it(house: House, said: Said) -> None:
    mine = house.register()
    good = house.rows(mine, 2)
    (odd,) = house.rows(mine, 1, provider="CANARY of a provider", price_source="CANARY")
    house.run()
    assert set(house.taken()) == ids(good)
    assert house.outbox.state(odd.id) == (1, "set_aside", "not_exportable")
    assert "CANARY" not in said.text
    assert [line["id"] for line in said.lines("row_not_exported")] == [str(odd.id)]


# what goes wrong


@pytest.mark.parametrize("fault", ["fail", "deny", "break"])
def test_what_is_not_taken_now_waits_and_is_given_back(fault: Any, house: House, said: Said) -> None:
    mine = house.register()
    made = house.rows(mine, 3)
    house.butler.fault = lambda path, token: fault if path.endswith("/metadata") else None
    house.run()
    assert house.taken() == {}
    assert len(said.lines("task_failed")) == 1
    house.butler.fault = lambda path, token: None
    house.exporter = house.another()
    house.run()
    assert set(house.taken()) == ids(made)


def test_what_was_applied_and_not_heard_of_is_sent_again_and_does_no_harm(house: House) -> None:
    mine = house.register()
    made = house.rows(mine, 3)
    house.butler.fault = lambda path, token: "break_after" if path.endswith("/metadata") else None
    house.run()
    assert set(house.taken()) == ids(made)
    house.butler.fault = lambda path, token: None
    house.exporter = house.another()
    house.run()
    assert len(house.butler.organisations[0].batches) == 2
    assert {each["revision"] for each in house.taken().values()} == {1}
    assert house.outbox.waiting(_lane(mine), 9).rows == 0


def test_one_that_hangs_delays_no_other(house: House) -> None:
    house.limits = replace(house.limits, patience_s=0.05)
    house.exporter = house.another()
    slow, quick = house.register(0), house.register(1)
    house.rows(slow, 3)
    token = house.butler.organisations[0].token
    house.butler.fault = lambda path, asked: "hang" if asked == token else None

    def asked() -> int:
        return [asked for _, asked in house.butler.heard].count(token)

    eventually(lambda: house.run() or asked())  # it hangs, before anything of the other's is there
    made = house.rows(quick, 30)
    eventually(lambda: house.run() or len(house.taken(1)) == 30)
    assert set(house.taken(1)) == ids(made)
    assert house.taken(0) == {}
    assert asked() == 1


def test_without_a_ledger_it_says_so_to_who_calls(house: House) -> None:
    class Away(MemoryOutbox):
        def keep_local(self, limit: int, managed: bool) -> int:
            raise LedgerUnavailable

    house.register()
    house.outbox = Away(house.ledger, house.directory)
    house.exporter = house.another()
    with pytest.raises(LedgerUnavailable):
        house.run()


def test_what_waits_is_shown(house: House) -> None:
    mine = house.register()
    house.rows(mine, 25)
    house.run()
    assert house.counted("steward_export_waiting_rows") == 15
    assert (house.counted("steward_export_lag_seconds") or 0) > 0
    house.run(4)
    assert house.counted("steward_export_waiting_rows") == 0


def test_what_is_sent_is_nothing_but_records(house: House) -> None:
    mine = house.register()
    house.rows(mine, 2, tags={"Feature": "search"}, claude_session_name="CANARY", client="CANARY", body_url="CANARY")
    house.run()
    bodies: list[dict[str, Any]] = [json.loads(body) for body in house.butler.bodies if body]
    assert [set(body) for body in bodies] == [{"records"}]
    assert b"CANARY" not in b"".join(house.butler.bodies)
    assert {each["raw_metadata"]["Feature"] for each in bodies[0]["records"]} == {"search"}


# on hosts that run by the call


def test_called_by_the_host_it_sends_all_that_is_due_and_returns(house: House) -> None:
    one, other = house.register(0), house.register(1)
    mine, others = house.rows(one, 25), house.rows(other, 3)
    house.exporter.drain(float("inf"))
    assert set(house.taken(0)) == ids(mine) and set(house.taken(1)) == ids(others)
    house.exporter.drain(float("inf"))
    assert len(house.butler.organisations[0].batches) == 3


def test_after_its_time_no_batch_begins(house: House) -> None:
    house.rows(house.register(), 5)
    house.exporter.drain(float("-inf"))
    assert house.butler.heard == []


def test_a_butler_that_is_away_is_left_alone_for_a_while_and_holds_up_no_other(house: House, said: Said) -> None:
    now = [0.0]
    ways, clocks = Ways(house.directory, house.outbox, house.open), Clocks(lambda: now[0], lambda: 1.0)
    house.made.append(exporter := Exporter(ways, RULES, LIMITS, clocks=clocks))
    away, there = house.register(0), house.register(1)
    waiting, made = house.rows(away, 2), house.rows(there, 2)
    token = house.butler.organisations[0].token
    house.butler.fault = lambda path, asked: "fail" if asked == token and path.endswith("/metadata") else None
    for _ in range(5):
        exporter.drain(float("inf"))
    assert set(house.taken(1)) == ids(made) and house.taken(0) == {}
    tried = [path for path, asked in house.butler.heard if asked == token and path.endswith("/metadata")]
    assert len(tried) == 1 == len(said.lines("task_failed"))
    house.butler.fault = lambda path, asked: None
    now[0] += 2.0
    exporter.drain(float("inf"))
    assert set(house.taken(0)) == ids(waiting)
