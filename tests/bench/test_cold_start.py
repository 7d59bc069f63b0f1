"""A cold start of Lambda's archive, beside the same without byte code; absolute figures are `make bench`'s to print."""

from __future__ import annotations

from tests.bench.cold_start import cold_start_bench

RUNS = 3


def test_the_byte_code_is_what_a_cold_start_runs_on() -> None:
    """An archive whose byte code nobody reads would start as slowly as one without (measured: half as long)."""
    with cold_start_bench() as it:
        assert it.starts(it.with_byte_code, RUNS).ready_ms < 0.8 * it.starts(it.without, RUNS).ready_ms
