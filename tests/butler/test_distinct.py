"""The estimate of distinct values: right within some percent, whatever the order and however often."""

from __future__ import annotations

import pytest

from steward.butler.distinct import EMPTY, REGISTERS, added, estimate


@pytest.mark.parametrize("count", [0, 1, 2, 10, 100, 1000, 2560, 3000, 10_000, 50_000])
def test_it_is_right_within_some_percent(count: int) -> None:
    registers = added(EMPTY, (f"value-{number}" for number in range(count)))
    assert len(registers) == REGISTERS
    assert abs(estimate(registers) - count) <= max(1, 0.1 * count)


def test_order_and_repetition_change_nothing() -> None:
    values = [f"v{number}" for number in range(500)]
    once = added(EMPTY, values)
    assert added(added(EMPTY, reversed(values)), values) == once


def test_any_text_is_a_value() -> None:
    assert estimate(added(EMPTY, ["", "\ud800", "\0", "é" * 300])) == 4
