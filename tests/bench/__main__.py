"""`make bench`: what the relay does, each figure beside nginx's of the same run, what settling does, how long Lambda's
archive takes to start, and the request explorer in ten million calls. A part, and smaller:
`make bench ARGS="--only explorer --rows 1000000"`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence

from tests.bench.cold_start import CALLS, Cold, cold_start_bench
from tests.bench.cold_start import RUNS as STARTS
from tests.bench.explorer import PAGE, PAGES, ROWS, RUNS, NoRoom, explorer_bench
from tests.bench.measure import bench, median_ratio, missing_tools
from tests.bench.settling import BODY_BYTES, settling_bench

PAIRS = 7
SECONDS = 4
SETTLING_RUNS = 3


PARTS = ("relay", "settling", "cold-start", "explorer")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 1 when the tools or the room on the disk are missing."""
    parser = argparse.ArgumentParser(
        prog="make bench", description="Measures; figures go to stdout, progress to stderr."
    )
    parser.add_argument("--only", choices=PARTS, action="append", help="this part (may be repeated; default: all)")
    parser.add_argument(
        "--rows", type=_rows, default=ROWS, metavar="N", help=f"the explorer's calls (default: {ROWS:,})"
    )
    arguments = parser.parse_args(argv)
    parts = arguments.only or PARTS
    if "relay" in parts and (missing := missing_tools()):
        print(
            f"bench: {' and '.join(missing)} not found; install with: apt-get install wrk nginx-light", file=sys.stderr
        )
        return 1
    if "relay" in parts:
        relay()
    if "settling" in parts:
        settling()
    if "cold-start" in parts:
        cold_start()
    return explorer(arguments.rows) if "explorer" in parts else 0


def _rows(said: str) -> int:
    rows = int(said.replace("_", ""))
    if rows < 10_000:
        raise argparse.ArgumentTypeError("at least 10000")
    return rows


def relay() -> None:
    """What one relaying process does on one core."""
    with bench() as it:
        it.throughput(1)
        print(f"plain call, 1 KB, 32 connections, {PAIRS} interleaved pairs of {SECONDS} s")
        pairs = []
        for _ in range(PAIRS):
            pairs.append(it.throughput(SECONDS))
            print(
                f"  steward {pairs[-1].steward:9,.0f}/s   nginx {pairs[-1].nginx:9,.0f}/s   ratio {pairs[-1].ratio:.3f}"
            )
        print(f"  median ratio {median_ratio(pairs):.3f} (at least 0.18, aim 0.25)\n")
        print("the same with the spool on")
        spooled = []
        it.spooled_throughput(1)
        for _ in range(PAIRS):
            spooled.append(it.spooled_throughput(SECONDS))
            print(
                f"  steward {spooled[-1].steward:9,.0f}/s   nginx {spooled[-1].nginx:9,.0f}/s   "
                f"ratio {spooled[-1].ratio:.3f}"
            )
        print(f"  median ratio {median_ratio(spooled):.3f} (at least 0.16)\n")
        added = [it.latency(2) for _ in range(PAIRS)]
        print(f"plain call, 1 connection, median of {PAIRS}")
        print(
            f"  direct {statistics.median(each.direct_ms for each in added):.3f} ms   "
            f"nginx adds {statistics.median(each.nginx_added_ms for each in added):.3f} ms   "
            f"steward adds {statistics.median(each.added_ms for each in added):.3f} ms (aim: at most 0.15)\n"
        )
        chunks = [it.chunk_cpu_us(3) for _ in range(3)]
        print(f"server-sent events, 32 streams\n  CPU {statistics.median(chunks):.1f} us an event (at most 45)\n")


def settling() -> None:
    """What one settling process does on one core, the database and the store on another."""
    print(f"settling, {BODY_BYTES / 1024:.0f} KB bodies, one core, median of {SETTLING_RUNS}")
    with settling_bench() as it:
        for name, run, count, aim in (("files", it.files, 6000, 1500), ("S3", it.s3, 1500, 250)):
            runs = [run(count) for _ in range(SETTLING_RUNS)]
            print(
                f"  {name:<6}{statistics.median(each.per_s for each in runs):9,.0f}/s   "
                f"CPU {statistics.median(each.cpu_us for each in runs):7,.0f} us an exchange: "
                f"{statistics.median(1e6 / each.cpu_us for each in runs):7,.0f}/s of a whole core (at least {aim:,})"
            )
    print()


def cold_start() -> None:
    """What the archive for Lambda takes to start, and a call once it runs."""
    with cold_start_bench() as it:
        print(f"Lambda's archive by AWS's runtime client, median of {STARTS} starts")
        for name, task in (("with byte code", it.with_byte_code), ("without", it.without)):
            print(f"  {name:<15}{_told(it.starts(task))}")
        print("  of that, imports (each with what it imports first):")
        for name, ms in it.imports():
            print(f"    {ms:8.1f} ms   {name}")
        print(f"warm, behind an ALB, CPU of {CALLS} calls each")
        for name, event in (("a relayed call", it.call()), ("/health", it.probe())):
            cost = it.warm(event)
            print(
                f"  {name:<15}{cost.answering:6.2f} ms until the answer (asked: at most 1.5)   "
                f"{cost.drivers:6.2f} ms beside it in SQLAlchemy and pg8000   "
                f"{cost.settled:6.2f} ms in all, row and body stored"
            )
    print()


def _told(cold: Cold) -> str:
    return (
        f"{cold.ready_ms:7.0f} ms until it asks for an event   {cold.first_ms:6.0f} ms more for the first answer   "
        f"{cold.settled_ms:6.0f} ms until that call is stored"
    )


def explorer(rows: int) -> int:
    """What PostgreSQL and the explorer take for a page. Returns the exit code."""
    try:
        with explorer_bench(rows, lambda said: print(f"bench: {said}", file=sys.stderr, flush=True)) as it:
            print(
                f"request explorer, {it.calls():,} calls, {it.disk_bytes() / 1e9:.2f} GB, pages of {PAGE}, "
                f"median of {RUNS}"
            )
            for name in PAGES:
                cost = it.page(name)
                print(
                    f"  {name:<18}{cost.median_ms:8.1f} ms (PostgreSQL {cost.server_ms:6.2f})   "
                    f"{cost.rows:3} calls shown   "
                    f"{cost.rows_read:5,} rows read (at most {5 * (PAGE + 1)})"
                )
    except NoRoom as refused:
        print(f"bench: no room: {refused}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
