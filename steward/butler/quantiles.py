"""Latencies as a histogram of eight steps a doubling, and quantiles read from it within 5 %. Pure.

Histograms of hours add up where quantiles do not; `butler.latency_bucket` in the database is the same function.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from steward.butler.views import Quantiles

STEPS_A_DOUBLING = 8


def bucket(ms: int) -> int:
    """The step a latency falls in: 0 for below two milliseconds' first eighth, then growing by 9 %."""
    return 0 if ms < 1 else math.floor(math.log(ms) * STEPS_A_DOUBLING / math.log(2))


def middle_ms(number: int) -> int:
    """The latency that a step stands for."""
    return round(2 ** ((number + 0.5) / STEPS_A_DOUBLING))


def quantiles(counts: Mapping[int, int]) -> Quantiles:
    """p50, p95 and p99 of a histogram: step -> calls."""
    total = sum(counts.values())
    if total <= 0:
        return Quantiles()
    return Quantiles(*(_at(counts, total, share) for share in (0.5, 0.95, 0.99)))


def _at(counts: Mapping[int, int], total: int, share: float) -> int:
    wanted, passed = math.ceil(total * share), 0
    for number in sorted(counts):
        passed += counts[number]
        if passed >= wanted:
            return middle_ms(number)
    return middle_ms(max(counts))
