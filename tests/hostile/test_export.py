"""A Steward in production's own processes, registered by its own command: what Butler hears, and what it never does."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.hostile.test_canaries import SECRET, canary, chat, fields
from tests.servers.ingest_butler import IngestButler, Organisation, serving
from tests.servers.plain_http import Request
from tests.servers.socket_provider import Answer, Provider, Received
from tests.servers.steward import RunningSteward, run_command
from tests.servers.waiting import eventually


@pytest.fixture
def butler() -> Iterator[IngestButler]:
    made = IngestButler([Organisation("mdm_st_0" + "t" * 32)])
    with serving(made):
        yield made


def _answer(received: Received) -> Answer:
    said = {
        "model": "gpt-4o-mini",
        "usage": {"prompt_tokens": 11, "completion_tokens": 3},
        "choices": [{"message": {"content": canary("completion").decode()}}],
    }
    return Answer(200, [(b"Content-Type", b"application/json")], [json.dumps(said).encode()])


def _error(received: Received) -> Answer:
    body = b'{"error":{"message":"' + canary("error") + b'","code":"' + canary("code") + b'"}}'
    return Answer(400, [(b"Content-Type", b"application/json")], [body])


@pytest.fixture
def provider() -> Iterator[Provider]:
    made = Provider(lambda received: _error(received) if b"fail" in received.target else _answer(received))
    yield made
    made.close()


def register(steward: RunningSteward, butler: IngestButler) -> dict[str, Any]:
    token = butler.organisations[0].token
    done = run_command(
        {**steward.environ, "MDM_STEWARD_TOKEN": token}, "register", "--butler-url", butler.url, "--json"
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def asked(target: bytes) -> Request:
    return Request(b"POST", target, fields(), chat())


@pytest.mark.parametrize("after", ["spool", "inline"])
def test_from_register_to_the_record_and_nothing_of_the_call_but_its_metadata(
    after: str, make_steward: Callable[..., RunningSteward], provider: Provider, butler: IngestButler
) -> None:
    steward = make_steward(provider.url, AFTER_RESPONSE=after, BATCH_INTERVAL="100ms", EXPORT_TAGS="Route")
    before = steward.settled(_call(steward, asked(b"/v1/chat/completions")))
    said = register(steward, butler)
    made = [
        steward.settled(_call(steward, request))
        for request in (
            asked(b"/v1/chat/completions?note=" + canary("query")),
            asked(b"/v1/chat/completions?fail=" + canary("query")),
            asked(b"/v1/files/" + canary("segment") + b"/content"),
        )
    ]
    organisation = butler.organisations[0]
    ids = {str(record.id) for record in made}
    eventually(lambda: ids <= set(organisation.records), 30)
    assert str(before.id) not in organisation.records, "a call of before stays"
    assert {each["org_id"] for each in organisation.records.values()} == {said["org_id"]}
    first = organisation.records[str(made[0].id)]
    assert (first["input_tokens"], first["output_tokens"], first["model"]) == (11, 3, "gpt-4o-mini")
    assert first["total_cost"] > 0
    heard = b"".join(butler.bodies) + repr(butler.heard).encode()
    alias = canary("alias")
    assert alias in heard
    assert SECRET.encode() not in heard.replace(alias, b"")
    assert SECRET not in steward.log.read_text()
    told = steward.run("egress", "tail", "-n", "50", "--json", "--content").stdout.splitlines()
    tail = next(each for each in map(json.loads, told) if each["kind"] == "Ingest")  # among the calls of sync
    assert (tail["kind"], tail["answer"], len(tail["content"]["records"])) == ("Ingest", "ok", tail["count"])
    verified = steward.run("egress", "verify")
    assert (verified.returncode, verified.stdout.startswith(b"whole: ")) == (0, True)
    assert b"127.0.0.1" in steward.run("egress", "hosts").stdout
    filled = steward.run("export", "backfill", "--since", "1d", "--json")
    assert json.loads(filled.stdout)["rows"] == 1
    eventually(lambda: str(before.id) in organisation.records, 30)


def test_a_steward_killed_while_butler_is_silent_leaves_the_row_of_what_left(
    make_steward: Callable[..., RunningSteward], provider: Provider, butler: IngestButler
) -> None:
    steward = make_steward(provider.url, AFTER_RESPONSE="inline", BATCH_INTERVAL="100ms")
    register(steward, butler)
    butler.fault = lambda path, token: "hang" if path.endswith("/metadata") else None
    made = steward.settled(_call(steward, asked(b"/v1/chat/completions")))
    eventually(lambda: [path for path, _ in butler.heard if path.endswith("/metadata")], 30)
    steward.process.send_signal(signal.SIGKILL)
    steward.process.wait()
    rows = run_command(steward.environ, "egress", "tail", "--json").stdout.splitlines()
    last = json.loads(rows[-1])
    assert (last["kind"], last["answer"], last["first_id"]) == ("Ingest", None, str(made.id)), (
        "it left; no more is known"
    )


def test_what_hangs_at_butler_keeps_nobody_from_ending(
    make_steward: Callable[..., RunningSteward], provider: Provider, butler: IngestButler
) -> None:
    """The fixture demands that SIGTERM ends it with 0, in time."""
    steward = make_steward(provider.url, AFTER_RESPONSE="spool", BATCH_INTERVAL="100ms")
    register(steward, butler)
    butler.fault = lambda path, token: "hang" if path.endswith("/metadata") else None
    steward.settled(_call(steward, asked(b"/v1/chat/completions")))
    eventually(lambda: [path for path, _ in butler.heard if path.endswith("/metadata")], 30)
    assert steward.settled(_call(steward, asked(b"/v1/chat/completions"))).input_tokens == 11, "callers notice nothing"
    steward.process.send_signal(signal.SIGTERM)
    assert steward.process.wait(30) == 0


def _call(steward: RunningSteward, request: Request) -> bytes:
    answer = steward.call(request)
    return next(value for name, value in answer.head.fields if name.lower() == b"x-majordomo-request-id")
