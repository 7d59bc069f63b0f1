"""Counts in memory: shown as those in files are, and bounded likewise; nothing on a disk."""

from __future__ import annotations

from steward import metric_names as names
from steward.metric_files import Board, temporary_board
from steward.metric_memory import MemoryBoard
from steward.metric_names import MOST_SETS
from tests.said import listening
from tests.scraped import scraped, value


def count_some(board: Board) -> None:
    board.add(names.POISONED, by=0)
    board.add(names.POISONED)
    board.add(names.COST, ("openai", 'a"b\n'), 1.25)
    board.add(names.COST, ("openai", 'a"b\n'), 1.0)
    board.put(names.IN_FLIGHT, 7)
    board.put(names.IN_FLIGHT, 3)
    for seconds in (0.0001, 0.002, 0.002, 99.0):
        board.observe(names.ADDED, ("openai",), seconds)


def test_it_shows_what_files_would() -> None:
    in_memory, in_files = MemoryBoard(), temporary_board()
    count_some(in_memory)
    count_some(in_files)
    assert scraped(in_memory.text()) == scraped(in_files.text())
    assert value(in_memory.text(), "steward_poisoned_total") == 1


def test_many_models_become_one_and_the_providers_stay_apart() -> None:
    board = MemoryBoard()
    for number in range(3 * MOST_SETS):
        board.add(names.COST, ("openai", f"model-{number}"))
    board.add(names.COST, ("gemini", "late"), 5.0)
    lines = [line for line in board.text().splitlines() if line.startswith(b"steward_cost_usd_total{")]
    assert len(lines) < MOST_SETS
    assert sum(float(line.rpartition(b" ")[2]) for line in lines) == 3 * MOST_SETS + 5
    assert any(b'"gemini"' in line and b'"other"' in line and line.endswith(b" 5.0") for line in lines)


def test_a_defect_in_counting_never_reaches_what_is_counted() -> None:
    board = MemoryBoard()
    with listening() as said:
        board.add(names.CALLS, ("too", "few"))
        board.add(names.COST, ("openai", "\ud800"), 1.0)
        board.observe(names.ADDED, (), 1.0)
    board.add(names.POISONED)
    assert value(board.text(), "steward_poisoned_total") == 1
    assert said.text.count("metrics_failed") == 1
