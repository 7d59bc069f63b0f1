"""CSV that a spreadsheet reads, and never runs (SECURITY F22)."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steward.butler.pages import csv_lines
from steward.butler.views import CallRow

KEY = UUID("0198c0de-0000-7000-8000-000000000001")


def _call(**changes: object) -> CallRow:
    facts: dict[str, object] = {
        **{"id": KEY, "requested_at": datetime(2026, 3, 1, 12, tzinfo=UTC), "provider": "openai", "model": "o3"},
        **{"api_key_id": KEY, "status_code": 200, "outcome": "complete", "error_message": None, "is_error": False},
        **{"response_time_ms": 9, "ttft_ms": None, "input_tokens": 1, "output_tokens": None},
        **{"usage_source": "provider", "total_cost": Decimal("1E-7"), "price_source": "p 1", "body_state": "stored"},
        "tags": {},
    }
    return CallRow(**{**facts, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("begins", ["=", "+", "-", "@", "\t", "\r"])
def test_a_cell_that_would_run_gets_an_apostrophe(begins: str) -> None:
    assert csv_lines.cell(f"{begins}HYPERLINK").lstrip('"').startswith(f"'{begins}")


@given(st.text(max_size=60))
def test_every_cell_comes_back_as_one_cell(text: str) -> None:
    read = list(csv.reader(io.StringIO(csv_lines.cell(text) + ",next\r\n", newline="")))
    guarded = f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
    assert read == [[guarded, "next"]] or "\x00" in text


def test_a_line_has_every_column_and_leaves_unknown_empty() -> None:
    line = csv_lines.line_of(_call(tags={"B": "=1", "A": 'say "hi", you'}), {KEY: "-key"})
    (cells,) = csv.reader(io.StringIO(line))
    told = dict(zip(csv_lines.COLUMNS, cells, strict=True))
    assert (told["ttft_ms"], told["output_tokens"], told["error"]) == ("", "", "")
    assert (told["api_key"], told["total_cost_usd"]) == ("'-key", "0.0000001")
    assert told["tags"] == 'A=say "hi", you; B==1'


def test_a_key_that_is_gone_is_an_empty_cell() -> None:
    (cells,) = csv.reader(io.StringIO(csv_lines.line_of(_call(api_key_id=None), {})))
    assert cells[csv_lines.COLUMNS.index("api_key")] == ""
