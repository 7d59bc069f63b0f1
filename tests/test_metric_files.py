"""Counts over several processes: exact when they are killed, bounded whatever is counted, harmless on a full disk."""

from __future__ import annotations

import os
import random
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.mmap_dict import MmapedDict

from steward import metric_names as names
from steward.metric_files import Board, prepared_board, temporary_board
from steward.metric_names import MOST_SETS
from tests.scraped import scraped, value
from tests.servers.waiting import eventually

ROOT = Path(__file__).parents[1]
HEAD = (
    "import os, resource, sys\n"
    "from pathlib import Path\n"
    "from steward import metric_names as names\n"
    "from steward.metric_files import Board\n"
    "board = Board(Path(sys.argv[1]))\n"
    "board.put(names.IN_FLIGHT, 7)\n"
)
COUNTS_ONCE = HEAD + "board.add(names.POISONED, (), 5)\nprint('done', flush=True)\nsys.stdin.read()\n"
COUNTS_ON = (
    HEAD + "for n in range(10**9):\n"
    "    board.add(names.POISONED)\n"
    "    board.observe(names.ADDED, ('openai',), 0.002)\n"
    "    if n % 100 == 99: print(n + 1, flush=True)\n"
)
COUNTS_MODELS = (
    HEAD + "for n in range(int(sys.argv[2]), int(sys.argv[3])):\n"
    "    board.add(names.COST, ('openai', f'model-{n}'), 1.0)\n"
    "print('done', flush=True)\nsys.stdin.read()\n"
)
ON_A_FULL_DISK = (
    "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))\n" + HEAD + "for n in range(2000):\n"
    "    board.add(names.CALLS, ('openai', f'm{n}', '200', 'complete'))\n"
    "    board.observe(names.ADDED, ('openai',), 0.002)\n"
    "board.text()\nprint('done', flush=True)\nsys.stdin.read()\n"
)
FORKS = (
    "import os, sys\nfrom pathlib import Path\nfrom steward import metric_names as names\n"
    "from steward.metric_files import Board\n"
    "board = Board(Path(sys.argv[1]))\n"
    "board.add(names.POISONED, (), 1)\n"
    "board.put(names.IN_FLIGHT, 1)\n"
    "for _ in range(3):\n"
    "    child = os.fork()\n"
    "    if child == 0:\n"
    "        board.add(names.POISONED, (), 10)\n"
    "        board.put(names.IN_FLIGHT, 100)\n"
    "        os._exit(0)\n"
    "    os.waitpid(child, 0)\n"
    "board.add(names.POISONED, (), 1)\n"
    "print('done', flush=True)\nsys.stdin.read()\n"
)

Run = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Runs a program over the folder; what still lives at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def make(program: str, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", program, str(tmp_path), *map(str, arguments)]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True))
        return started[-1]

    yield make
    for process in started:
        process.kill()
        process.communicate()


def done(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "done\n"


def killed(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(10)


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    made = Board(tmp_path)
    yield made
    made.close()


def test_processes_are_added_up_and_a_dead_ones_gauges_go(run: Run, board: Board) -> None:
    processes = [run(COUNTS_ONCE) for _ in range(3)]
    for process in processes:
        done(process)
    assert value(board.text(), "steward_poisoned_total") == 15
    assert value(board.text(), "steward_calls_in_flight") == 21
    killed(processes[1])
    assert value(board.text(), "steward_poisoned_total") == 15
    assert value(board.text(), "steward_calls_in_flight") == 14


def test_what_a_killed_process_counted_stays_to_the_last_one(run: Run, board: Board) -> None:
    process = run(COUNTS_ON)
    assert process.stdout is not None
    for _ in range(50):
        said = int(process.stdout.readline())
    killed(process)
    said = max([said, *(int(line) for line in process.stdout.read().split())])
    text = board.text()
    counted = value(text, "steward_poisoned_total")
    assert counted is not None
    assert said <= counted <= said + 100
    assert counted - 1 <= (value(text, "steward_added_seconds_count") or 0) <= counted
    assert value(text, "steward_added_seconds_bucket", le="0.0025") == value(text, "steward_added_seconds_count")


def test_who_comes_after_the_dead_counts_on_in_his_files(run: Run, board: Board, tmp_path: Path) -> None:
    for lives in range(1, 6):
        process = run(COUNTS_ONCE)
        done(process)
        assert value(board.text(), "steward_poisoned_total") == 5 * lives
        assert value(board.text(), "steward_calls_in_flight") == 7
        killed(process)
        assert value(board.text(), "steward_calls_in_flight") is None
    assert len(list(tmp_path.glob("counter_*.db"))) == 1


def test_a_fork_takes_a_place_of_its_own(run: Run, board: Board, tmp_path: Path) -> None:
    process = run(FORKS)
    done(process)
    assert value(board.text(), "steward_poisoned_total") == 32
    assert value(board.text(), "steward_calls_in_flight") == 1
    assert len(list(tmp_path.glob("counter_*.db"))) == 2
    killed(process)
    assert value(board.text(), "steward_calls_in_flight") is None


def test_over_all_processes_a_metric_has_two_hundred_sets_and_loses_none(run: Run, board: Board) -> None:
    processes = [run(COUNTS_MODELS, at, at + 250) for at in (0, 100, 500)]
    for process in processes:
        done(process)
    killed(processes[0])
    after = run(COUNTS_MODELS, 900, 1000)
    done(after)
    costs = {key: number for key, number in scraped(board.text()).items() if key[0] == "steward_cost_usd_total"}
    assert len(costs) <= MOST_SETS
    assert len(costs) > MOST_SETS // 2
    assert sum(costs.values()) == 850
    assert costs["steward_cost_usd_total", (("model", "other"), ("provider", "openai"))] > 500


def test_beyond_the_bound_a_provider_is_still_told_apart(board: Board) -> None:
    for number in range(1000):
        board.add(names.CALLS, ("openai", f"m{number}", "200", "complete"))
    board.add(names.CALLS, ("anthropic", "claude", "529", "complete"))
    assert value(board.text(), "steward_calls_total", provider="anthropic", status="529", model="other") == 1
    for number in range(1000):
        board.add(names.CALLS, (f"provider{number}", "m", "200", "complete"))
    text = board.text()
    sets = [key for key in scraped(text) if key[0] == "steward_calls_total"]
    assert len(sets) <= MOST_SETS
    assert value(text, "steward_calls_total") == 2001
    assert value(text, "steward_calls_total", provider="other") == 1000 - 37


def test_a_histogram_is_what_was_observed(board: Board) -> None:
    chance = random.Random(7)
    seen = [chance.expovariate(100) for _ in range(500)]
    for number in seen:
        board.observe(names.ADDED, ("gemini",), number)
    text = board.text()
    for bound in names.ADDED.buckets:
        wanted = sum(number <= bound for number in seen)
        assert value(text, "steward_added_seconds_bucket", le=str(bound), provider="gemini") == wanted
    assert value(text, "steward_added_seconds_bucket", le="+Inf") == len(seen)
    assert value(text, "steward_added_seconds_count") == len(seen)
    assert value(text, "steward_added_seconds_sum") == pytest.approx(sum(seen))


def test_threads_lose_no_count(board: Board) -> None:
    def count() -> None:
        for _ in range(2000):
            board.add(names.POISONED)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert value(board.text(), "steward_poisoned_total") == 8000


def test_a_full_disk_costs_numbers_and_no_process(run: Run, board: Board) -> None:
    process = run(ON_A_FULL_DISK)
    done(process)
    assert process.poll() is None
    board.add(names.POISONED)
    assert value(board.text(), "steward_poisoned_total") == 1


def test_no_page_is_mapped_that_the_disk_has_not_given(board: Board, tmp_path: Path) -> None:
    for metric in names.TABLE:
        labels = tuple("x" for _ in metric.labels)
        if metric.kind == "histogram":
            board.observe(metric, labels, 1.0)
        elif metric.kind == "counter":
            board.add(metric, labels)
        else:
            board.put(metric, 1.0, labels)
    for file in tmp_path.glob("*.db"):
        found = file.stat()
        assert found.st_blocks * 512 >= found.st_size


def test_a_sheet_that_is_full_takes_no_more_and_stays_whole(board: Board, tmp_path: Path) -> None:
    for metric in (names.CALLS, names.TOKENS, names.COST, names.UNPRICED, names.ERRORS, names.OCTETS):
        for number in range(400):
            board.add(metric, tuple(f"{label}-{number}-{'x' * 100}" for label in metric.labels))
    (file,) = tmp_path.glob("counter_*.db")
    assert file.stat().st_size == 512 * 1024
    assert value(board.text(), "steward_calls_total") == 400
    assert list(MmapedDict.read_all_values_from_file(str(file)))


@pytest.mark.parametrize("octets", [b"", b"\xff" * 4096, b"\x00" * 64, os.urandom(70_000)])
def test_a_torn_file_hides_itself_alone(board: Board, tmp_path: Path, octets: bytes) -> None:
    board.add(names.POISONED)
    (tmp_path / "counter_77.db").write_bytes(octets)
    (tmp_path / "histogram_77.db").write_bytes(octets)
    assert value(board.text(), "steward_poisoned_total") == 1


def test_whoever_takes_the_place_of_a_torn_file_begins_it_anew(tmp_path: Path) -> None:
    (tmp_path / "counter_0.db").write_bytes(b"\xff\xff\xff\x7f" * 1024)
    board = Board(tmp_path)
    board.add(names.POISONED)
    board.add(names.POISONED)
    assert value(board.text(), "steward_poisoned_total") == 2
    board.close()


def test_torn_sets_are_no_reason_to_fail(tmp_path: Path) -> None:
    (tmp_path / "sets").write_bytes(b'["steward_cost_usd","open\n[]\n{"')
    board = Board(tmp_path)
    board.add(names.COST, ("openai", "m"), 2.0)
    assert value(board.text(), "steward_cost_usd_total") == 2
    board.close()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "metrics", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.write_bytes(b"kept")
    (folder / "counter_0.db").symlink_to(elsewhere)
    board = Board(folder)
    board.add(names.POISONED)
    board.close()
    assert elsewhere.read_bytes() == b"kept"


def test_an_older_releases_metric_is_not_shown(board: Board, tmp_path: Path) -> None:
    sheet = MmapedDict(str(tmp_path / "counter_9.db"))
    sheet.write_value('["steward_gone", "steward_gone_total", {"note": "text"}, "help"]', 3.0, 0.0)
    sheet.close()
    board.add(names.POISONED)
    assert b"gone" not in board.text()


def test_a_prepared_folder_is_ours_alone_and_begins_anew_when_nobody_lives(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    first = prepared_board(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    first.add(names.POISONED)
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
    assert value(prepared_board(folder).text(), "steward_poisoned_total") == 1  # the first lives
    first.close()
    second = prepared_board(folder)
    assert second.text() == b""
    assert {file.name for file in folder.iterdir()} == {"lock"}


def test_a_temporary_board_goes_with_its_maker() -> None:
    board = temporary_board()
    folder = board.folder
    board.add(names.POISONED)
    assert value(board.text(), "steward_poisoned_total") == 1
    board.close()
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    assert folder.is_dir()


def test_temporary_folders_are_gone_after_the_program() -> None:
    program = "from steward.metric_files import *\nfrom steward import metric_names as names\n"
    program += "b = temporary_board()\nb.add(names.POISONED)\nprint(b.folder)"
    command = [sys.executable, "-c", program]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60).stdout
    assert said.startswith("/")
    eventually(lambda: not Path(said.strip()).exists())


def test_a_defect_in_counting_never_reaches_what_is_counted(board: Board) -> None:
    board.add(names.CALLS, ("too", "few"))
    board.add(names.COST, ("openai", "\ud800"), 1.0)
    board.add(names.POISONED)
    assert value(board.text(), "steward_poisoned_total") == 1
