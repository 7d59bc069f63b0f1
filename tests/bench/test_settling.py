"""What settling costs, beside a known work on the same machine; absolute figures are `make bench`'s to print."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.bench.settling import Settling, settling_bench

FILES_CEILING = 16
"""CPU for settling one exchange to that for building its object alone: what no change may go beyond (measured: 7)."""
S3_CEILING = 75
"""The same with a bucket, where botocore has most of it (measured: 33)."""


@pytest.fixture(scope="module")
def running() -> Iterator[Settling]:
    """The servers, started once."""
    with settling_bench() as it:
        yield it


def test_an_exchange_is_settled_into_files_for_a_few_times_its_object(running: Settling) -> None:
    settled = running.files(600)
    assert settled.cpu_us < FILES_CEILING * settled.built_us


def test_an_exchange_is_settled_into_a_bucket_for_what_its_library_takes(running: Settling) -> None:
    settled = running.s3(100)
    assert settled.cpu_us < S3_CEILING * settled.built_us
