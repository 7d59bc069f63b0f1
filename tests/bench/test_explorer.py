"""The explorer's part of `make bench` runs and tells what it should; how long a page takes is that one's to print."""

from __future__ import annotations

import re

import pytest

from tests.bench.__main__ import main
from tests.bench.explorer import PAGE, PAGES, NoRoom, explorer_bench


def test_a_small_one_tells_each_page_with_its_time_and_its_rows(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "explorer", "--rows", "20000"]) == 0
    told = capsys.readouterr()
    assert "request explorer, 20,000 calls, 0." in told.out
    for name in PAGES:
        line = re.search(
            rf"^  {name} +([0-9.]+) ms \(PostgreSQL +([0-9.]+)\) +(\d+) calls shown +([0-9,]+) rows read",
            told.out,
            re.MULTILINE,
        )
        assert line is not None, told.out
        assert float(line[1]) > 0 and float(line[2]) > 0
        assert 0 < int(line[3]) <= PAGE
        assert int(line[3]) <= int(line[4].replace(",", "")) <= 5 * (PAGE + 1) + 5
    assert "20,000 calls need up to" in told.err
    assert "2026-11: " in told.err


def test_what_the_disk_has_no_room_for_is_not_begun() -> None:
    with pytest.raises(NoRoom, match="are free"), explorer_bench(10**12):
        pass


@pytest.mark.parametrize("rows", ["9999", "many", "-1"])
def test_too_few_to_measure_are_refused(rows: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "explorer", "--rows", rows])
    assert "--rows" in capsys.readouterr().err
