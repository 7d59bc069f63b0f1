"""`make bench`: prints what the relay does, each figure beside nginx's of the same run, and what settling does."""

from __future__ import annotations

import statistics
import sys

from tests.bench.measure import bench, median_ratio, missing_tools
from tests.bench.settling import BODY_BYTES, settling_bench

PAIRS = 7
SECONDS = 4
SETTLING_RUNS = 3


def main() -> int:
    """Returns the exit code: 1 when the tools are not here."""
    if missing := missing_tools():
        print(
            f"bench: {' and '.join(missing)} not found; install with: apt-get install wrk nginx-light", file=sys.stderr
        )
        return 1
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
    settling()
    return 0


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


if __name__ == "__main__":
    sys.exit(main())
