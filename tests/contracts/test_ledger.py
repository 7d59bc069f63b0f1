"""What every ledger promises, over the one in memory and the one in PostgreSQL (two versions of it)."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Sequence
from dataclasses import fields, replace
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from steward.adapters.memory import MemoryLedger
from steward.adapters.postgres_ledger import PostgresLedger
from steward.exchange import MAX_COST_USD, MAX_TOKENS, BodyState, Outcome, Record
from steward.ports import Ledger, LedgerRow
from tests.contracts.records import NOON, ORG, OTHER_ORG, a_full_record, a_record, new_id

OUTCOME_RANK = {
    Outcome.INTERRUPTED: 0,
    Outcome.COMPLETE: 1,
    Outcome.CLIENT_CANCELLED: 1,
    Outcome.UPSTREAM_FAILED: 1,
    Outcome.TIMED_OUT: 1,
}
BODY_RANK = {
    BodyState.NONE: 0,
    BodyState.OFF: 0,
    BodyState.LOST: 0,
    BodyState.PENDING: 1,
    BodyState.FAILED: 2,
    BodyState.SHED: 2,
    BodyState.STORED: 3,
}
"""DESIGN 10, written down a second time."""


@pytest.fixture(params=["memory", "postgres", "installed_postgres"])
def ledger(request: pytest.FixtureRequest) -> Ledger:
    if request.param == "memory":
        return MemoryLedger()
    return PostgresLedger(request.getfixturevalue(request.param).engine)


def row(ledger: Ledger, record: Record) -> LedgerRow:
    found = ledger.get(record.org_id, record.id)
    assert found is not None
    return found


def test_an_empty_ledger_is_ready_and_has_nothing(ledger: Ledger) -> None:
    ledger.ready()
    assert ledger.record([]) == []
    assert ledger.newest(ORG, 10) == []
    assert ledger.get(ORG, uuid4()) is None


def test_a_row_comes_back_as_it_went_in(ledger: Ledger) -> None:
    small, full = a_record(), a_full_record()
    assert ledger.record([small, full]) == []
    assert row(ledger, small) == LedgerRow(small, 1)
    assert row(ledger, full) == LedgerRow(full, 1)


def test_which_calls_have_a_row_is_known_whatever_it_says(ledger: Ledger) -> None:
    there, pending, missing = a_record(), a_record(body_state=BodyState.PENDING), new_id()
    ledger.record([there, pending])
    assert ledger.known(ORG, [there.id, missing, pending.id]) == {there.id, pending.id}
    assert ledger.known(ORG, [missing]) == ledger.known(ORG, []) == set()
    assert ledger.known(uuid4(), [there.id]) == set(), "another organisation learns nothing of it"


def test_the_full_record_leaves_no_field_at_its_default() -> None:
    """Else the test above would prove less than it says when a field is added."""
    small, full = a_record(), a_full_record()
    same = {field.name for field in fields(Record) if getattr(small, field.name) == getattr(full, field.name)}
    assert same == {"org_id", "api_key_id", "provider", "request_path", "request_method", "requested_at"}


def test_money_is_exact_to_the_last_digit(ledger: Ledger) -> None:
    amounts = ["0", "0.000000000000000000000000001", "9999.999999999999999999999", "10000", "0.10", "1E-20", "1E+2"]
    records = [a_record(total_cost=Decimal(amount)) for amount in amounts]
    assert ledger.record(records) == []
    assert [row(ledger, record).record.total_cost for record in records] == [Decimal(amount) for amount in amounts]


WORDS = [
    "",
    "plain",
    "Grüße, 世界",
    "😀👩‍👩‍👧",
    "\u202eright to left",
    "\ufffd\uffff",
    "\x01\x1f\x7f\u0085\u2028",
    "\\u0000 \"'%s :x $1",
]


def test_any_clean_text_comes_back(ledger: Ledger) -> None:
    records = [
        a_record(model=words, client=words, claude_session_name=words, tags={"Words": words, words: "value"})
        for words in WORDS
    ]
    assert ledger.record(records) == []
    assert [row(ledger, record).record for record in records] == records


def test_numbers_at_their_bounds_come_back(ledger: Ledger) -> None:
    low = a_record(input_tokens=0, output_tokens=0, total_cost=Decimal(0), status_code=100, body_bytes=0, sent_us=0)
    high = a_record(
        input_tokens=MAX_TOKENS,
        output_tokens=MAX_TOKENS,
        reasoning_tokens=MAX_TOKENS,
        total_cost=MAX_COST_USD,
        request_bytes=2**62,
        last_byte_us=2**53,
    )
    assert ledger.record([low, high]) == []
    assert [row(ledger, record).record for record in (low, high)] == [low, high]


def test_unknown_stays_unknown_and_is_not_nought(ledger: Ledger) -> None:
    record = a_record()
    ledger.record([record])
    assert row(ledger, record).record.input_tokens is None
    assert row(ledger, record).record.total_cost is None


def test_recording_twice_changes_nothing(ledger: Ledger) -> None:
    records = [a_full_record(id=new_id()) for _ in range(3)]
    for _ in range(3):
        assert ledger.record(records) == []
    assert ledger.newest(ORG, 10) == [LedgerRow(record, 1) for record in reversed(records)]


STATES = list(itertools.product(Outcome, BodyState))


def test_every_change_of_state_is_allowed_or_not_as_the_rank_table_says(ledger: Ledger) -> None:
    pairs = [(before, after, new_id()) for before, after in itertools.product(STATES, STATES)]
    ledger.record([a_record(id=call, outcome=was[0], body_state=was[1], model="first") for was, _, call in pairs])
    ledger.record([a_record(id=call, outcome=now[0], body_state=now[1], model="second") for _, now, call in pairs])
    found = {row.record.id: row for row in ledger.newest(ORG, 2 * len(pairs))}
    for before, after, call in pairs:
        old = (OUTCOME_RANK[before[0]], BODY_RANK[before[1]])
        new = (OUTCOME_RANK[after[0]], BODY_RANK[after[1]])
        advances = new[0] >= old[0] and new[1] >= old[1] and new != old
        record = found[call].record
        seen = ((record.outcome, record.body_state), record.model, found[call].revision)
        assert seen == ((after, "second", 2) if advances else (before, "first", 1)), (before, after)


def life() -> list[Record]:
    """One call from intent to stored body, each step with more of its facts."""
    intent = a_record(outcome=Outcome.INTERRUPTED, body_state=BodyState.LOST)
    ended = replace(intent, outcome=Outcome.COMPLETE, body_state=BodyState.PENDING, status_code=200, input_tokens=5)
    failed = replace(ended, body_state=BodyState.FAILED)
    stored = replace(ended, body_state=BodyState.STORED, body_key="k", body_url="u", body_sha256="s", body_bytes=1)
    return [intent, ended, failed, stored]


def test_a_life_out_of_order_ends_the_same(ledger: Ledger) -> None:
    for order in itertools.permutations(range(4)):
        steps = life()
        for step in order:
            assert ledger.record([steps[step]]) == []
            assert ledger.record([steps[step]]) == []
        found = row(ledger, steps[3])
        assert found.record == steps[3]
        assert found.revision == 1 + sum(1 for i in range(1, 4) if order[i] > max(order[:i]))


def test_a_life_within_one_batch_ends_the_same(ledger: Ledger) -> None:
    for order in itertools.permutations(range(4)):
        steps = life()
        assert ledger.record([steps[step] for step in order]) == []
        assert row(ledger, steps[3]).record == steps[3]


@pytest.mark.parametrize("state", [BodyState.NONE, BodyState.OFF, BodyState.LOST])
def test_what_is_known_of_a_cut_call_takes_the_place_of_its_intent(ledger: Ledger, state: BodyState) -> None:
    """Where no body is kept, neither its outcome nor its body comes further; its status tells it from an intent."""
    intent = a_record(outcome=Outcome.INTERRUPTED, body_state=state)
    cut = replace(intent, status_code=200, output_tokens=3)
    for steps, revision in (([intent, cut, cut, intent], 2), ([cut, intent, cut], 1)):
        ident = new_id()
        for step in steps:
            assert ledger.record([replace(step, id=ident)]) == []
        assert row(ledger, replace(cut, id=ident)) == LedgerRow(replace(cut, id=ident), revision)
        both = new_id()
        ledger.record([replace(step, id=both) for step in steps])
        assert row(ledger, replace(cut, id=both)).record == replace(cut, id=both)


def test_only_a_cut_call_is_replaced_by_one_that_is_no_further(ledger: Ledger) -> None:
    left = a_record(outcome=Outcome.CLIENT_CANCELLED)
    ledger.record([left])
    ledger.record([replace(left, status_code=200)])
    assert row(ledger, left) == LedgerRow(left, 1)


def test_nothing_leaves_stored_and_nothing_is_blanked(ledger: Ledger) -> None:
    full = a_full_record(outcome=Outcome.COMPLETE)
    ledger.record([full])
    bare = a_record(id=full.id)
    for state in BodyState:
        for outcome in Outcome:
            ledger.record([replace(bare, outcome=outcome, body_state=state)])
    assert row(ledger, full) == LedgerRow(full, 1)


BAD: dict[str, dict[str, Any]] = {
    "NUL": {"model": "a\0b"},
    "NUL in a tag": {"tags": {"Name": "a\0b"}},
    "NUL in a tag's name": {"tags": {"a\0b": "x"}},
    "lone surrogate": {"client": "\ud800"},
    "lone surrogate in a tag": {"tags": {"Name": "\udfff"}},
    "too many tokens": {"input_tokens": MAX_TOKENS + 1},
    "fewer than none": {"output_tokens": -1},
    "not an integer of 64 bits": {"request_bytes": 2**63},
    "not an integer of 65 bits": {"request_bytes": 2**64},
    "too dear": {"total_cost": MAX_COST_USD + Decimal("0.01")},
    "negative cost": {"input_cost": Decimal("-0.01")},
    "no number": {"provider_cost": Decimal("NaN")},
    "infinite": {"provider_cost": Decimal("Infinity")},
}


def test_a_bad_row_is_refused_alone(ledger: Ledger) -> None:
    for fault, changes in BAD.items():
        good, bad = [a_record(), a_record()], a_record(**changes)
        refused = ledger.record([good[0], bad, good[1]])
        assert [refusal.id for refusal in refused] == [bad.id], fault
        assert len(refused[0].sqlstate) == 5, fault
        assert ledger.get(ORG, bad.id) is None, fault
        assert [row(ledger, record).record for record in good] == good, fault


def test_the_bad_rows_of_five_hundred_are_found_and_the_rest_is_in(ledger: Ledger) -> None:
    chosen = random.Random(7).sample(range(500), len(BAD))
    bad = dict(zip(chosen, BAD.values(), strict=True))
    records = [a_record(**bad.get(number, {})) for number in range(500)]
    refused = ledger.record(records)
    assert {refusal.id for refusal in refused} == {records[number].id for number in chosen}
    assert len(refused) == len(BAD)
    kept = [record for number, record in enumerate(records) if number not in bad]
    assert [found.record for found in ledger.newest(ORG, 1000)] == kept[::-1]


def test_organisations_see_their_own_rows_only(ledger: Ledger) -> None:
    mine, theirs = a_record(), a_record(org_id=OTHER_ORG)
    ledger.record([mine, theirs])
    assert ledger.get(OTHER_ORG, mine.id) is None
    assert ledger.get(ORG, theirs.id) is None
    assert [found.record for found in ledger.newest(ORG, 10)] == [mine]
    assert [found.record for found in ledger.newest(OTHER_ORG, 10)] == [theirs]


def test_a_row_never_changes_hands(ledger: Ledger) -> None:
    mine = a_record(outcome=Outcome.INTERRUPTED)
    ledger.record([mine])
    ledger.record([replace(mine, org_id=OTHER_ORG, outcome=Outcome.COMPLETE, body_state=BodyState.STORED)])
    assert row(ledger, mine) == LedgerRow(mine, 1)
    assert ledger.get(OTHER_ORG, mine.id) is None


def test_newest_is_newest_first_and_no_more_than_asked(ledger: Ledger) -> None:
    records = [a_record() for _ in range(6)]
    ledger.record(random.Random(1).sample(records, 6))
    assert [found.record for found in ledger.newest(ORG, 4)] == records[:1:-1]
    assert ledger.newest(ORG, 0) == []


def test_ids_of_any_month_and_of_no_month_are_taken(ledger: Ledger) -> None:
    stepped = [a_record(id=new_id(NOON.replace(year=year))) for year in (1971, 2025, 2027, 9999)]
    random_id = a_record(id=uuid4())
    assert ledger.record([*stepped, random_id]) == []
    assert {found.record.id for found in ledger.newest(ORG, 10)} == {record.id for record in [*stepped, random_id]}


def test_two_writers_of_the_same_rows_end_with_one_of_each(ledger: Ledger) -> None:
    lives = [life() for _ in range(60)]

    def write(seed: int, failures: list[BaseException]) -> None:
        order = random.Random(seed)
        steps = [step for steps in lives for step in steps]
        order.shuffle(steps)
        try:
            for start in range(0, len(steps), 24):
                assert ledger.record(steps[start : start + 24]) == []
        except BaseException as failure:  # handed to the test's own thread
            failures.append(failure)

    failures: list[BaseException] = []
    threads = [threading.Thread(target=write, args=(seed, failures)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert ended(ledger.newest(ORG, 1000)) == ended([LedgerRow(steps[3], 0) for steps in lives])


def ended(rows: Sequence[LedgerRow]) -> set[object]:
    return {(found.record.id, found.record.body_state, found.record.body_sha256) for found in rows}
