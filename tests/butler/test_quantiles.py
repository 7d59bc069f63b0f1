"""Quantiles from histograms: within 5 % of the true ones, and the database's buckets are the same."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from steward.butler.quantiles import bucket, middle_ms, quantiles
from steward.butler.views import Quantiles
from tests.servers.butler import ButlerBench


@pytest.mark.parametrize("seed", range(5))
def test_they_are_within_five_percent(seed: int) -> None:
    chance = random.Random(seed)
    times = sorted(round(chance.lognormvariate(7, 1.2)) + 10 for _ in range(2000))
    found = quantiles(Counter(bucket(ms) for ms in times))
    for said, share in ((found.p50, 0.5), (found.p95, 0.95), (found.p99, 0.99)):
        true = times[round(share * len(times)) - 1]
        assert said is not None and abs(said - true) <= 0.05 * true + 1


def test_none_and_one() -> None:
    assert quantiles({}) == quantiles({3: 0}) == Quantiles(None, None, None)
    one = quantiles({bucket(1000): 1})
    assert one.p50 == one.p99 == middle_ms(bucket(1000))


def test_the_database_sorts_into_the_same_buckets(butler: ButlerBench) -> None:
    rows = butler.postgres.run("SELECT n, butler.latency_bucket(n) FROM generate_series(0::bigint, 20000) AS n")
    assert [(n, bucket(n)) for n, _ in rows] == rows  # type: ignore[arg-type]
    assert butler.postgres.run("SELECT butler.latency_bucket(1000000000000)") == [(bucket(10**12),)]
