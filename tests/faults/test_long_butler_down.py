"""Butler away, two hundred thousand rows pending, calls at fifty a second: no caller notices, and all of it arrives.

Callers' times are held against those of the same run before Butler went and after all had arrived.
"""

from __future__ import annotations

import json
import socket
import statistics
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from steward.exchange import LOCAL_ORG
from tests.faults.account import now_and_then
from tests.faults.load import Call, Load
from tests.faults.plays import Kind
from tests.faults.scene import Scene
from tests.faults.soak import Watched
from tests.servers.export_replicas import FILL
from tests.servers.ingest_butler import IngestButler, Organisation, serving
from tests.servers.steward import run_command
from tests.servers.waiting import eventually

pytestmark = pytest.mark.faults

BACKLOG = 200_000
RATE = 50
USUAL_S = 10.0
"""Of traffic with nothing pending, before and after."""
AWAY_S = 60.0
LOOK_EVERY_S = 1.0
SLOWER, SLACK_S = 2.0, 0.01
"""What the median and the 95th percentile may be: so many times the usual ones, and that much more."""
NEWEST = 250
"""Half a batch."""

WAITING = "SELECT count(*) FROM llm_requests WHERE revision > exported_revision"
SETTLED = "SELECT count(*) FROM llm_requests WHERE body_state <> 'pending'"
FROM_THE_FIRST = "UPDATE registrations SET local_from = '00000000-0000-0000-0000-000000000000'"
IDS = "SELECT CAST(id AS text) FROM llm_requests ORDER BY id DESC"


class Noting(IngestButler):
    """Keeps of each record what is asked of it here, and not all of two hundred thousand."""

    def apply(self, organisation: Organisation, records: list[dict[str, Any]]) -> int:
        """Of the newest revision."""
        status = super().apply(organisation, records)
        for record in records:
            kept = organisation.records[record["id"]]
            organisation.records[record["id"]] = {"revision": kept["revision"], "org_id": kept["org_id"]}
        self.bodies.clear()
        return status


def run(scene: Scene, statement: str, **values: object) -> list[Any]:
    """What a person at `psql` would see, the first column."""
    with scene.steward.engine.begin() as connection:
        result = connection.execute(text(statement), values)
        return list(result.scalars()) if result.returns_rows else []


def register(scene: Scene, butler: IngestButler) -> UUID:
    """The organisation's id; from now on every call is told, whichever key it has."""
    environ = {**scene.steward.environ, "MDM_STEWARD_TOKEN": butler.organisations[0].token}
    done = run_command(environ, "register", "--butler-url", butler.url, "--json")
    assert done.returncode == 0, done.stderr
    run(scene, FROM_THE_FIRST)
    return UUID(json.loads(done.stdout)["org_id"])


def traffic(scene: Scene, seconds: float, look: Callable[[], object] = lambda: None) -> Load:
    """Calls for so long, each answered; `look` is called now and then."""
    load = scene.load(RATE, [Kind.PLAIN], keep=False)
    began = looked = time.monotonic()

    def over() -> bool:
        nonlocal looked
        if time.monotonic() >= looked:
            looked += LOOK_EVERY_S
            look()
        return time.monotonic() >= began + seconds

    eventually(over, seconds + 60)
    eventually(lambda: load.served > seconds * RATE / 2, 60)  # a machine that stood still meanwhile proves nothing
    load.stop()
    assert [call for call in load.calls if not call.served] == []
    assert load.altered == []
    return load


def times(calls: Iterable[Call]) -> tuple[float, float]:
    """The median and the 95th percentile, in seconds."""
    each = [call.took_s for call in calls]
    return statistics.median(each), statistics.quantiles(each, n=20)[-1]


def away(scene: Scene, port: int, watched: Watched) -> Load:
    """The first half nobody listens there; then somebody takes the call, and never answers."""
    ended = time.monotonic() + AWAY_S / 2
    silent: list[socket.socket] = []

    def look() -> None:
        watched.look()
        if not silent and time.monotonic() > ended:
            silent.append(socket.create_server(("127.0.0.1", port), backlog=16))

    try:
        return traffic(scene, AWAY_S, look)
    finally:
        for each in silent:
            each.close()


def assert_arrived(scene: Scene, organisation: Organisation, calls: Collection[Call]) -> None:
    """Every row of the ledger, those of all calls among them, and none told twice."""
    told = Counter(each for batch in organisation.batches for each in batch)
    ledger = run(scene, IDS)
    assert set(organisation.records) == set(ledger)
    assert {str(call.id) for call in calls} <= set(ledger)
    assert len(ledger) == BACKLOG + len(calls)
    assert [each for each, count in told.items() if count > organisation.records[each]["revision"]] == []
    assert {record["org_id"] for record in organisation.records.values()} == {str(organisation.org_id)}


def test_a_butler_that_is_away_is_nothing_that_a_caller_notices(
    make_scene: Callable[..., Scene], record_property: Callable[..., None]
) -> None:
    scene = make_scene(BATCH_INTERVAL="200ms", WORKERS="1")
    butler = Noting([Organisation("mdm_st_0" + "t" * 32)])
    organisation = butler.organisations[0]
    scene.steward.start()
    eventually(lambda: scene.steward.settler() is not None, 60)
    with serving(butler):
        port = int(butler.url.rpartition(":")[2])
        assert register(scene, butler) == organisation.org_id
        usual = traffic(scene, USUAL_S).calls
        eventually(lambda: butler.taken() == len(usual), 60)
    settler = scene.steward.settler()
    assert settler is not None
    watched = Watched("settler", settler)
    run(scene, FILL, count=BACKLOG, org_id=LOCAL_ORG, registration_id=None)
    missed = away(scene, port, watched).calls
    settled = len(usual) + len(missed) + BACKLOG
    eventually(now_and_then(lambda: run(scene, SETTLED) == [settled]), 60)
    assert butler.taken() == len(usual), "it was away"
    assert run(scene, WAITING) == [BACKLOG + len(missed)]
    newest, before = run(scene, f"{IDS} LIMIT {NEWEST}"), len(organisation.batches)
    with serving(butler, port):
        eventually(lambda: len(organisation.batches) >= before + 3, 150)
        first = [each for batch in organisation.batches[before : before + 3] for each in batch]
        assert set(newest) <= set(first)
        eventually(lambda: butler.taken() == settled, 300)
        eventually(now_and_then(lambda: run(scene, WAITING) == [0]), 60)
        again = traffic(scene, USUAL_S).calls
        eventually(lambda: butler.taken() == settled + len(again), 60)
        assert_arrived(scene, organisation, [*usual, *missed, *again])
    assert scene.steward.settler() == settler, "it never died"
    assert not watched.grew(), watched.line()
    (median, high), (usually, highest) = times(missed), times([*usual, *again])
    record_property("usual and away, ms", [round(each * 1000, 1) for each in (usually, highest, median, high)])
    assert median <= usually * SLOWER + SLACK_S
    assert high <= highest * SLOWER + SLACK_S
    scene.steward.stop()
