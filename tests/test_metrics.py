"""What is counted of a call, a queue and a process: every fact once, in labels that may leave."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steward import metric_names as names
from steward.adapters.memory import MemoryLedger
from steward.adapters.memory_bodies import MemoryBodyStore
from steward.counted_calls import CountedCalls
from steward.errors import LedgerUnavailable, SettingError, StoreRefused, StoreUnavailable
from steward.exchange import Body, BodyState, Exchange, Outcome, Record, Timings
from steward.metric_files import Board
from steward.metrics import (
    CODES,
    CallMetrics,
    Connections,
    ExportMetrics,
    QueueMetrics,
    RelayMetrics,
    RelayState,
    ViewMetrics,
    prepare,
)
from steward.ports import Depth, Refused, ViewAct
from steward.price import bundled
from steward.settle import Settler
from steward.stores import OneStore
from tests.exchanges import exchange, route
from tests.scraped import scraped, value
from tests.servers.waiting import eventually_async

CHAT = route("/v1/chat/completions")
USAGE = {"prompt_tokens": 1000, "completion_tokens": 100, "prompt_tokens_details": {"cached_tokens": 600}}
ANSWER = {"model": "gpt-4o-mini-2024-07-18", "choices": [], "usage": USAGE}
OCTETS = json.dumps(ANSWER).encode()
PRICES = bundled({})
TIMES = Timings(sent_us=1_500, head_us=300_000, first_byte_us=310_000, last_byte_us=2_000_000)


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    made = Board(tmp_path)
    yield made
    made.close()


class House(MemoryLedger):
    """A settler that counts, and its ledger, which may be away."""

    def __init__(self, board: Board) -> None:
        super().__init__()
        self.away = False
        self.store = MemoryBodyStore()
        self.settler = Settler(self, OneStore(self.store), lambda: PRICES, metrics=CallMetrics(board))

    def record(self, batch: Sequence[Record]) -> list[Refused]:
        if self.away:
            raise LedgerUnavailable
        return super().record(batch)


def test_a_call_is_counted_once_with_all_that_is_known_of_it(board: Board) -> None:
    made = replace(exchange(CHAT, ANSWER, timings=TIMES), request=_body(b"{}"), response=_body(OCTETS))
    House(board).settler.settle([made])
    text = board.text()
    of = {"provider": "openai", "model": "gpt-4o-mini-2024-07-18"}
    assert value(text, "steward_calls_total", status="200", outcome="complete", **of) == 1
    assert value(text, "steward_calls_total") == 1
    tokens = {kind: value(text, "steward_tokens_total", kind=kind, **of) for kind in ("input", "output", "cached")}
    assert tokens == {"input": 1000, "output": 100, "cached": 600}
    assert value(text, "steward_cost_usd_total", **of) == pytest.approx(0.000165)
    assert value(text, "steward_unpriced_calls_total") is None
    assert value(text, "steward_call_errors_total") is None
    assert value(text, "steward_body_bytes_total", side="request") == 2
    assert value(text, "steward_body_bytes_total", side="response") == len(OCTETS)
    assert value(text, "steward_added_seconds_sum", provider="openai") == pytest.approx(0.0015)
    assert value(text, "steward_first_byte_seconds_sum", provider="openai") == pytest.approx(0.31)
    assert value(text, "steward_call_seconds_sum", provider="openai") == pytest.approx(2)
    assert value(text, "steward_rows_total", body_state="stored") == 1
    assert value(text, "steward_body_puts_total", result="stored") == 1
    assert value(text, "steward_ledger_writes_total", result="written") == 1


def _body(octets: bytes) -> Body:
    return Body(octets, size_bytes=len(octets))


def test_what_is_metered_again_is_not_counted_again(board: Board) -> None:
    settler = House(board).settler
    made = exchange(CHAT, ANSWER)
    settler.meter(made)
    settler.meter(made, again=True)
    assert value(board.text(), "steward_calls_total") == 1


def test_who_settles_after_a_dead_one_counts_no_call_twice(board: Board, tmp_path: Path) -> None:
    calls = [replace(exchange(CHAT, ANSWER), id=UUID(int=number)) for number in range(1, 6)]
    for life in (calls[:3], calls[1:]):
        counted = CountedCalls(tmp_path / "counted")
        settler = Settler(MemoryLedger(), OneStore(None), lambda: PRICES, metrics=CallMetrics(board, counted))
        for call in life:
            settler.meter(call)
        settler.metrics.interrupted(settler.meter(replace(calls[0], id=UUID(int=9)), again=True).record)
        counted.close()
    text = board.text()
    assert value(text, "steward_calls_total") == 6
    assert value(text, "steward_tokens_total", kind="input") == 5000
    assert value(text, "steward_interrupted_calls_total") == 1


def test_what_is_read_again_costs_nothing_and_is_told_once(board: Board) -> None:
    again = route("/v1/responses/resp_1", method="GET")
    answer = {"model": "gpt-4o-mini", "object": "response", "usage": {"input_tokens": 5, "output_tokens": 6}}
    House(board).settler.settle([replace(exchange(again, answer), method="GET")])
    text = board.text()
    assert value(text, "steward_calls_total") == 1
    assert value(text, "steward_tokens_total") is None
    assert value(text, "steward_unpriced_calls_total") is None


def test_tokens_without_a_price_are_told(board: Board) -> None:
    answer = {**ANSWER, "model": "our-own-model"}
    House(board).settler.settle([exchange(CHAT, answer)])
    text = board.text()
    assert value(text, "steward_unpriced_calls_total", model="our-own-model") == 1
    assert value(text, "steward_cost_usd_total") is None


def test_a_failed_call_has_its_code_and_no_status_when_nobody_was_answered(board: Board) -> None:
    gone = replace(exchange(CHAT, None, status=None, outcome=Outcome.CLIENT_CANCELLED), error="client_cancelled")
    limited = exchange(CHAT, {"error": {"type": "x", "code": "rate_limit_exceeded"}}, status=429)
    House(board).settler.settle([gone, replace(limited, id=UUID(int=8))])
    text = board.text()
    assert value(text, "steward_calls_total", status="none", outcome="client_cancelled") == 1
    assert value(text, "steward_calls_total", status="429") == 1
    assert value(text, "steward_call_errors_total", code="client_cancelled") == 1
    assert value(text, "steward_call_errors_total", code="rate_limited") == 1


def test_poison_is_counted_beside_the_rest(board: Board) -> None:
    poison: Any = exchange(CHAT, ANSWER)
    poison.timings = None
    House(board).settler.settle([poison, replace(exchange(CHAT, ANSWER), id=UUID(int=9))])
    text = board.text()
    assert value(text, "steward_poisoned_total") == 1
    assert value(text, "steward_rows_total") == 1


def test_calls_are_counted_while_database_and_store_are_away(board: Board) -> None:
    house = House(board)
    house.store.fail(StoreUnavailable)
    house.away = True
    with pytest.raises(LedgerUnavailable):
        house.settler.settle([exchange(CHAT, ANSWER)])
    text = board.text()
    assert value(text, "steward_calls_total") == 1
    assert value(text, "steward_rows_total") == 0
    assert value(text, "steward_ledger_writes_total", result="failed") == 1
    assert value(text, "steward_body_puts_total", result="unavailable") == 1


def test_a_store_that_refuses_is_counted(board: Board) -> None:
    house = House(board)
    house.store.fail(StoreRefused)
    house.settler.settle([exchange(CHAT, ANSWER)])
    text = board.text()
    assert value(text, "steward_body_puts_total", result="refused") == 1
    assert value(text, "steward_rows_total", body_state="failed") == 1


def test_shed_and_lost_bodies_and_interrupted_calls_are_counted(board: Board) -> None:
    metrics = CallMetrics(board)
    record = House(board).settler.meter(exchange(CHAT, ANSWER)).record
    rows = [replace(record, body_state=state) for state in (BodyState.SHED, BodyState.LOST, BodyState.LOST)]
    metrics.written(rows, refused=1)
    metrics.interrupted(replace(record, outcome=Outcome.INTERRUPTED, status_code=None, model=None))
    text = board.text()
    assert value(text, "steward_rows_total", body_state="shed") == 1
    assert value(text, "steward_rows_total", body_state="lost") == 2
    assert value(text, "steward_rows_refused_total") == 1
    assert value(text, "steward_calls_total", outcome="interrupted", model="none", status="none") == 1
    assert value(text, "steward_interrupted_calls_total") == 1


def test_what_alerts_ask_for_is_there_before_it_happens(board: Board) -> None:
    CallMetrics(board)
    text = board.text()
    assert {value(text, "steward_rows_total", body_state=state) for state in BodyState} == {0}
    assert {value(text, "steward_body_puts_total", result=said) for said in ("refused", "unavailable")} == {0}
    assert value(text, "steward_rows_refused_total") == value(text, "steward_poisoned_total") == 0


def test_without_a_board_nothing_is_counted(board: Board) -> None:
    record = Settler(MemoryLedger(), OneStore(None), lambda: PRICES).settle([exchange(CHAT, ANSWER)])[0].record
    metrics = CallMetrics()
    metrics.written([record], 0)
    metrics.interrupted(record)
    metrics.poisoned()
    metrics.not_written()
    assert board.text() == b""


def test_a_queue_is_shown_as_it_is(board: Board) -> None:
    QueueMetrics(board, limit_bytes=1000).observe(Depth(5, 700, 12.5, 2, 3, 4), database_up=False)
    text = board.text()
    shown = {each.name: value(text, each.name) for each in names.TABLE if value(text, each.name) is not None}
    assert shown.pop("steward_resident_bytes") or 0 > 1 << 20
    assert shown == {
        "steward_spool_items": 5,
        "steward_spool_bytes": 700,
        "steward_spool_oldest_seconds": 12.5,
        "steward_spool_bodies": 2,
        "steward_quarantine_items": 3,
        "steward_spool_lost_records": 4,
        "steward_spool_limit_bytes": 1000,
        "steward_processes": 1,
        "steward_database_up": 0,
    }


def test_a_relay_is_shown_until_it_ends(board: Board) -> None:
    calls = iter(range(1, 1000))

    def read() -> RelayState:
        return RelayState(True, True, next(calls), 5, 7, Connections(6, 1, 2), 1 << 30, butler_unheard_s=11.5)

    async def shown() -> None:
        keeping = asyncio.ensure_future(RelayMetrics(board).keep(read, every_s=0))
        await eventually_async(lambda: (value(board.text(), "steward_calls_in_flight") or 0) > 3)
        keeping.cancel()

    asyncio.run(shown())
    text = board.text()
    assert value(text, "steward_ready") == value(text, "steward_database_up", role="relay") == 1
    assert value(text, "steward_caller_connections") == 5
    assert value(text, "steward_upstream_connections") == 6
    assert value(text, "steward_known_keys") == 7
    assert value(text, "steward_butler_unheard_seconds") == 11.5
    assert value(text, "steward_spool_limit_bytes") == 1 << 30
    assert value(text, "steward_database_connections", state="in_use") == 1
    assert value(text, "steward_database_connections", state="idle") == 2
    assert value(text, "steward_processes", role="relay") == 1


def test_refused_callers_are_counted_by_a_code_of_ours(board: Board) -> None:
    metrics = RelayMetrics(board)
    metrics.refused("missing_key", 3)
    metrics.refused("whatever-a-stranger-sent", 2)
    text = board.text()
    assert value(text, "steward_refused_callers_total", code="missing_key") == 3
    assert value(text, "steward_refused_callers_total", code="other") == 2


def test_a_folder_that_cannot_be_used_is_a_setting_that_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SettingError, match="SPOOL_DIR"):
        prepare(tmp_path / "file" / "metrics")
    board = prepare(None)
    assert board.folder.is_dir()


CANARY = "zqCANARY"
SAID = st.one_of(st.text(max_size=40), st.just(CANARY), st.text(max_size=20).map(lambda said: f"{CANARY}-{said}"))


@given(model=SAID, code=SAID, tier=SAID, tag=SAID, status=st.integers(-1, 10_000), known=st.booleans())
def test_whatever_is_said_no_word_of_it_is_a_label(
    tmp_path_factory: pytest.TempPathFactory, model: str, code: str, tier: str, tag: str, status: int, known: bool
) -> None:
    """Model names are shown where the provider answered 2xx by that name (SECURITY F3): there it is `gpt-4o-mini`."""
    board = Board(tmp_path_factory.mktemp("board"))
    answer = {
        "model": "gpt-4o-mini" if known else model,
        "error": {"code": code, "type": code, "message": code},
        "service_tier": tier,
        "usage": {"prompt_tokens": model, "completion_tokens": random.Random(tag).randint(-5, 5)},
    }
    made: Exchange = exchange(
        CHAT, answer, asked={"model": answer["model"], "user": tag}, status=status if known else 404
    )
    made = replace(made, tags={"Feature": tag}, client=tag, error=code, method=tag, claude_session_name=tag)
    House(board).settler.settle([made])
    labels = {label for (_, has), _ in scraped(board.text()).items() for label in has}
    board.close()
    allowed = {"openai", "gpt-4o-mini", "other", "none", "request", "response", *CODES, *BodyState, *Outcome}
    allowed |= {"input", "output", "stored", "refused", "unavailable", "written", "failed"}
    for name, said in labels:
        assert said in allowed or (name == "status" and re.fullmatch("[1-5][0-9][0-9]", said)) or name == "le"


def test_what_goes_to_butler_is_counted_and_what_waits_is_shown(board: Board) -> None:
    export = ExportMetrics(board)
    assert value(board.text(), "steward_exported_rows_total", result="set_aside") == 0
    export.taken(500)
    export.set_aside(2)
    export.kept_local(3)
    export.kept_local(0)
    export.observe(1234, 5.5)
    text = board.text()
    assert value(text, "steward_exported_rows_total", result="taken") == 500
    assert value(text, "steward_exported_rows_total", result="set_aside") == 2
    assert value(text, "steward_kept_local_rows_total") == 3
    assert (value(text, "steward_export_waiting_rows"), value(text, "steward_export_lag_seconds")) == (1234, 5.5)


def test_an_export_without_a_board_counts_nothing_and_fails_nothing() -> None:
    export = ExportMetrics()
    export.taken(1)
    export.set_aside(1)
    export.kept_local(1)
    export.observe(1, 1.0)
    assert export._board is None


def test_what_is_opened_in_the_viewer_is_counted_from_nought() -> None:
    board = prepare(None)
    metrics = ViewMetrics(board)
    acts = ("opened", "downloaded", "refused")
    assert [value(board.text(), "steward_viewer_acts_total", act=act) for act in acts] == [0, 0, 0]
    for act in (ViewAct.OPENED, ViewAct.OPENED, ViewAct.REFUSED):
        metrics.noted(act)
    assert [value(board.text(), "steward_viewer_acts_total", act=act) for act in acts] == [2, 0, 1]
    board.close()
