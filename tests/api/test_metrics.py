"""`/metrics`: everything for operators, nothing for anyone else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI

from steward import metric_names as names
from steward.api import metrics
from steward.api.operators import Doors
from steward.metric_files import Board
from steward.words import Secret
from tests.api.asking import ask, bearer
from tests.scraped import value

TOKEN = "t" * 40


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    made = Board(tmp_path / "metrics")
    made.folder.mkdir()
    made.add(names.COST, ("openai", "gpt-4o-mini"), 1.5)
    yield made
    made.close()


def app(board: Board, open_to_all: bool = False) -> FastAPI:
    made = FastAPI()
    made.include_router(metrics.router)
    made.state.doors = Doors(Secret(TOKEN), open_to_all)
    made.state.board = board
    return made


def test_operators_get_what_was_counted(board: Board) -> None:
    for answer in (ask(app(board), "/metrics", bearer(TOKEN)), ask(app(board, open_to_all=True), "/metrics")):
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain; version=")
        assert value(answer.content, "steward_cost_usd_total", provider="openai") == 1.5


@pytest.mark.parametrize("token", ["", "x" * 40, TOKEN[:-1], "mdm_sk_" + "a" * 40])
def test_nobody_else_learns_a_number_or_a_name(board: Board, token: str) -> None:
    answer = ask(app(board), "/metrics", bearer(token) if token else None)
    assert answer.status_code == 401
    assert b"openai" not in answer.content
    assert b"steward_" not in answer.content


def test_a_folder_that_is_gone_is_said_in_a_word_of_ours(board: Board) -> None:
    board.close()
    for file in board.folder.iterdir():
        file.unlink()
    board.folder.rmdir()
    answer = ask(app(board, open_to_all=True), "/metrics")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "metrics_gone")
    assert str(board.folder) not in answer.text
