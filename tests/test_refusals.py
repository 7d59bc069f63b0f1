"""Callers turned away are counted by code and said once a period, however many they are."""

from __future__ import annotations

import asyncio
import io

import orjson

from steward import log
from steward.refusals import Refusals
from tests.servers.waiting import eventually_async


def test_a_flood_is_one_line_a_code() -> None:
    out = io.BytesIO()
    log.configure("info", out)

    async def flood() -> Refusals:
        refusals = Refusals(every_s=0.05)
        for _ in range(1000):
            refusals.count("invalid_key")
        refusals.count("missing_key")
        await eventually_async(lambda: out.getvalue().count(b"\n") == 2)
        refusals.count("invalid_key")
        await eventually_async(lambda: out.getvalue().count(b"\n") == 3)
        return refusals

    refusals = asyncio.run(flood())
    said = [orjson.loads(line) for line in out.getvalue().splitlines()]
    assert [(each["event"], each["code"], each["count"]) for each in said] == [
        ("callers_refused", "invalid_key", 1000),
        ("callers_refused", "missing_key", 1),
        ("callers_refused", "invalid_key", 1),
    ]
    assert refusals.total == 1002


def test_a_host_that_may_freeze_has_it_said_at_once() -> None:
    out = io.BytesIO()
    log.configure("info", out)

    async def story() -> None:
        refusals = Refusals(every_s=3600)
        refusals.count("invalid_key")
        refusals.tell()
        refusals.tell()

    asyncio.run(story())
    assert [orjson.loads(line)["count"] for line in out.getvalue().splitlines()] == [1]


def test_whoever_counts_is_told_with_the_line() -> None:
    log.configure("info", io.BytesIO())
    told: list[tuple[str, int]] = []

    async def flood() -> None:
        refusals = Refusals(0.01, lambda code, count: told.append((code, count)))
        for code in ("invalid_key", "invalid_key", "head_too_large"):
            refusals.count(code)
        await eventually_async(lambda: len(told) == 2)

    asyncio.run(flood())
    assert told == [("head_too_large", 1), ("invalid_key", 2)]
