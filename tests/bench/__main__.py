"""`make bench`: prints what the relay does, each figure beside nginx's of the same run."""

from __future__ import annotations

import statistics
import sys

from tests.bench.measure import bench, median_ratio, missing_tools

PAIRS = 7
SECONDS = 4


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
        print(f"server-sent events, 32 streams\n  CPU {statistics.median(chunks):.1f} us an event (at most 45)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
