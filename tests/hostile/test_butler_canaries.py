"""A registered Steward and our own Butler, with words planted everywhere: what Butler hears, keeps and writes of them.

The key comes from Butler by sync, and every octet between the two is kept at the socket. A caller's own words leave in
tags and the alias alone: those arrive.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from steward.adapters.postgres_local import LocalPostgres
from tests.hostile.planting import Stand, as_recorded, by_hand, every_recording, refused
from tests.hostile.test_canaries import SECRET, canary
from tests.hostile.test_metrics import ADMIN, TOKEN
from tests.servers.dumped import asked, database_of, dumped
from tests.servers.plain_http import Ended, Fields, Request, call
from tests.servers.running_butler import RunningButler, running_butler
from tests.servers.socket_provider import Answer, Provider, Received
from tests.servers.steward import RunningSteward, run_command
from tests.servers.tee import Tee, tee
from tests.servers.waiting import eventually

RECORDINGS = every_recording()
ABSENT = pytest.mark.skipif(not RECORDINGS, reason="no recordings: ../shared/corpus is absent")
TAG, ALIAS = "own words of a caller", "own name of a credential"
OWN: Fields = [(b"X-Majordomo-Feature", TAG.encode()), (b"X-Majordomo-Provider-Alias", ALIAS.encode())]
TEAPOT = 418

SUMS = """
    SELECT count(*), sum(input_tokens), sum(output_tokens), sum(total_cost), count(*) FILTER (WHERE input_tokens > 0)
    FROM {table} WHERE org_id = :org_id
"""
SETTLED = "SELECT count(*) FROM llm_requests WHERE outcome <> 'interrupted' AND body_state <> 'pending'"


@dataclass
class Scene:
    """Everything real but the provider."""

    steward: RunningSteward
    butler: RunningButler
    wire: Tee
    provider: Provider
    key: bytes
    made: int = 0
    """Calls that reached the provider."""

    def calls(self, requests: Iterable[Request]) -> int:
        """Makes them, however they end; how many reached the provider."""
        for each in requests:
            self.call(each)
        return self.count()

    def count(self) -> int:
        """Calls that reached the provider since the last count."""
        reached = len(self.provider.take())
        self.made += reached
        return reached

    def call(self, request: Request) -> int | None:
        """With the key from Butler. The status; None when the answer was cut."""
        fields = [*request.fields, (b"X-Majordomo-Key", self.key)]
        try:
            return call(self.steward.port, Request(request.method, request.target, fields, request.body)).status
        except (OSError, Ended):
            return None

    def arrived(self) -> None:
        """Returns once Butler holds a row of each call, with the sums that the ledger has in the end."""
        theirs, ours = (SUMS.format(table=table) for table in ("butler.requests", "llm_requests"))

        def same() -> bool:
            if asked(self.steward.environ, SETTLED) != [(self.made,)]:
                return False
            held = asked(self.butler.environ, theirs, org_id=self.butler.org_id)
            return held[0][0] == self.made and held == asked(self.steward.environ, ours, org_id=self.butler.org_id)

        eventually(same, 120)

    def places(self) -> dict[str, bytes]:
        """Where a word of a call must not be."""
        with database_of(self.butler.environ) as engine:
            in_butler = dumped(engine, "butler")
        with database_of(self.steward.environ) as engine:
            in_steward = dumped(engine, "public")
        assert TAG in repr(in_butler), "the rows are among what is looked at"
        return {
            "asked of Butler": bytes(self.wire.asked),
            "answered by Butler": bytes(self.wire.answered),
            "Butler's database": repr(in_butler).encode(),
            "Butler's log": self.butler.log.read_bytes(),
            "Butler's readyz": call(self.butler.port, Request(b"GET", b"/readyz")).body,
            "the Steward's log": self.steward.said(),
            "the Steward's database": repr(in_steward).encode(),
            "metrics": call(self.steward.port, Request(b"GET", b"/metrics", [ADMIN])).body,
            "readyz": call(self.steward.port, Request(b"GET", b"/readyz", [ADMIN])).body,
            "the egress log": repr(in_steward["egress_log"]).encode(),
            "what left, shown again": self.steward.run("egress", "tail", "-n", "1000", "--json", "--content").stdout,
            "quarantine": self.steward.run("spool", "ls", "--json").stdout,
        }


@pytest.fixture
def wire(postgres_server: LocalPostgres, tmp_path: Path) -> Iterator[tuple[RunningButler, Tee]]:
    with running_butler(postgres_server, tmp_path) as butler, tee(butler.port) as heard:
        yield butler, heard


@pytest.fixture
def scene(wire: tuple[RunningButler, Tee], make_steward: Callable[..., RunningSteward]) -> Iterator[Scene]:
    butler, heard = wire
    butler.confirm()
    token = butler.ask("POST", "/stewards", {"name": "prod"})["token"]
    provider = Provider(Stand(RECORDINGS).respond)
    try:
        steward = make_steward(provider.url, STEWARD_ADMIN_TOKEN=TOKEN, BATCH_INTERVAL="200ms", WORK_TICK_INTERVAL="1s")
        done = run_command(
            {**steward.environ, "MDM_STEWARD_TOKEN": token}, "register", "--butler-url", heard.url, "--json"
        )
        assert done.returncode == 0, done.stderr
        key = butler.ask("POST", "/keys", {"name": "checkout"})["key"].encode()
        made = Scene(steward, butler, heard, provider, key)
        eventually(lambda: made.call(Request(b"PUT", b"/v1/files")) not in {None, 401}, 60)
        assert made.count() == 1
        yield made
    finally:
        provider.close()


def forms(word: str) -> list[bytes]:
    """A word as it stands, in hexadecimal, and in base64 wherever it begins."""
    octets = word.encode()
    packed = [base64.b64encode(b"x" * before + octets)[4 if before else 0 : -4] for before in range(3)]
    return [octets, octets.hex().encode(), *packed]


def assert_silent(places: dict[str, bytes]) -> None:
    """No place is empty, and none says a canary."""
    assert [place for place, said in places.items() if not said] == []
    found = {
        place: said[max(0, at - 200) : at + 200]
        for place, said in places.items()
        for form in forms(SECRET)
        if (at := max(said.find(form), said.lower().find(form))) >= 0
    }
    assert found == {}


def assert_told(scene: Scene, tagged: int) -> None:
    """A caller's own words are where they may be."""
    named = "SELECT count(*) FROM butler.requests WHERE tags = CAST(:tags AS jsonb) AND provider_api_key_alias = :alias"
    tags = json.dumps({"Feature": TAG})
    assert asked(scene.butler.environ, named, tags=tags, alias=ALIAS) == [(tagged,)]
    assert TAG.encode() in scene.wire.asked


def set_aside(scene: Scene) -> None:
    """A row that the database refuses rests in quarantine, with a note of why."""
    asked(scene.steward.environ, f"ALTER TABLE llm_requests ADD CHECK (status_code IS DISTINCT FROM {TEAPOT})")

    def teapot(received: Received) -> Answer:
        return Answer(TEAPOT, [(b"X-Note", canary("answer-header"))], [canary("error")])

    scene.provider.respond = teapot
    assert scene.calls(list(by_hand(OWN))[:1]) == 1

    def noted() -> bool:
        return len(json.loads(scene.steward.run("spool", "ls", "--json").stdout)) == 1

    eventually(noted, 60)


@pytest.mark.parametrize("before", ["", "x", "xx"])
def test_a_word_is_found_however_it_is_written(before: str) -> None:
    said = f"{before}{canary('place').decode()} and on".encode()
    for packed in (said, said.upper(), said.hex().encode(), base64.b64encode(said)):
        with pytest.raises(AssertionError):
            assert_silent({"here": b"..." + packed + b"..."})
    with pytest.raises(AssertionError):
        assert_silent({"nothing was looked at": b""})
    assert_silent({"here": b"something else"})


def test_nothing_of_a_call_leaves_but_its_metadata(scene: Scene) -> None:
    unknown = [(b"X-Majordomo-Key", b"mdm_sk_" + canary("unknown-key").replace(b"-", b"_")), *OWN]
    assert call(scene.steward.port, Request(b"POST", b"/v1/responses", unknown)).status == 401
    assert [scene.call(each) for each in refused()] == [400, 400]
    made = scene.calls(by_hand(OWN))
    assert made == len(list(by_hand(OWN))) > 25
    scene.arrived()
    assert_told(scene, made)
    metered = asked(scene.butler.environ, "SELECT count(*) FROM butler.requests WHERE output_tokens > 0")
    assert metered[0][0] > 12  # type: ignore[operator]
    set_aside(scene)
    assert_silent(scene.places())


@ABSENT
def test_nothing_of_any_recording_leaves_but_its_metadata(scene: Scene) -> None:
    """With a canary in every free string of what was asked and answered."""
    made = scene.calls(as_recorded(each, OWN) for each in RECORDINGS.values())
    ambiguous = [each for each in RECORDINGS.values() if each.target.startswith("//")]
    assert made == len(RECORDINGS) - len(ambiguous)
    assert len(ambiguous) < 5
    scene.arrived()
    assert_told(scene, made)
    metered = asked(scene.butler.environ, "SELECT count(*) FROM butler.requests WHERE input_tokens > 0")
    assert metered[0][0] > len(RECORDINGS) // 4  # type: ignore[operator]
    set_aside(scene)
    assert_silent(scene.places())
