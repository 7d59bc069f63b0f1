"""AFTER_RESPONSE=sqs, whole: a relay's process sends, another settles, and nobody else can read what lies between."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from steward.adapters.sqs import SqsCarrier
from steward.errors import MessageRefused, MessageWaits, SettingError
from steward.exchange import BodyState
from steward.queue_values import SqsQueue
from steward.seal import Keyring
from steward.sealed_message import Claim
from steward.stores import OneStore
from steward.wiring.hosted import build_hosted
from steward.wiring.queues import open_queue, queue_claims, queue_name, queue_sealer
from steward.wiring.settler import build_settler
from tests.messages import call
from tests.servers.plain_http import Message, Request
from tests.servers.socket_provider import Provider
from tests.servers.steward import COMMAND, RunningSteward
from tests.servers.stores import S3Server
from tests.servers.waiting import eventually
from tests.services import settings

CANARY = "CANARY-51eeb"
URL = "https://sqs.eu-west-1.amazonaws.com/123456789012/calls"
TOPIC = "projects/acme-prod/topics/calls"


def chat(size: int = 10) -> Request:
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": CANARY + "q" * size}]}
    octets = json.dumps(body).encode()
    fields = [(b"Authorization", b"Bearer sk-x"), (b"Content-Type", b"application/json")]
    return Request(b"POST", b"/v1/chat/completions", fields, octets)


def request_id(answer: Message) -> bytes:
    [ident] = answer.head.values(b"x-majordomo-request-id")
    return ident


def test_messages_are_bound_to_region_account_and_name_or_to_the_topic() -> None:
    sqs = settings(AFTER_RESPONSE="sqs", SQS_QUEUE_URL=URL)
    assert queue_name(sqs) == "sqs:eu-west-1:123456789012/calls"
    assert queue_name(settings(AFTER_RESPONSE="pubsub", PUBSUB_TOPIC=TOPIC)) == f"pubsub:{TOPIC}"
    with pytest.raises(SettingError, match="AFTER_RESPONSE"):
        queue_name(settings())
    with pytest.raises(SettingError, match="AFTER_RESPONSE"):
        open_queue(settings())


def test_who_settles_reads_no_object_beyond_its_own_capture_max_bytes() -> None:
    made = settings(AFTER_RESPONSE="sqs", SQS_QUEUE_URL=URL, CAPTURE_MAX_BYTES="16MiB")
    keyring = Keyring(made.encryption_key)
    claims = queue_claims(made, keyring, OneStore(None), lambda: None)
    one = call()

    def reason(size: int) -> str:
        claim = Claim(one.id, one.caller, one.requested_at, None, "0" * 64, size, bytes(32))
        with pytest.raises((MessageRefused, MessageWaits)) as fault:
            claims.open(queue_sealer(made, keyring).claim(claim))
        return fault.value.reason

    assert (reason(33 << 20), reason(64 << 20)) == ("no_store", "too_large")


def test_who_pulls_must_be_told_from_where() -> None:
    with pytest.raises(SettingError, match="PUBSUB_SUBSCRIPTION"):
        build_settler(settings(AFTER_RESPONSE="pubsub", PUBSUB_TOPIC=TOPIC, PUBSUB_EMULATOR_HOST="127.0.0.1:1"))


@pytest.mark.parametrize(
    "given",
    [
        {"AFTER_RESPONSE": "sqs", "SQS_QUEUE_URL": "http://127.0.0.1:1/123456789012/calls"},
        {"AFTER_RESPONSE": "pubsub", "PUBSUB_TOPIC": TOPIC, "PUBSUB_EMULATOR_HOST": "127.0.0.1:1"},
    ],
    ids=["sqs", "pubsub"],
)
def test_a_process_that_its_host_freezes_sends_too_and_settles_what_is_not_taken(
    given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")

    async def story() -> int:
        hosted = build_hosted(settings(**given, POSTGRES_HOST="127.0.0.1", POSTGRES_PORT="1"), caller_waits=False)
        accepted = hosted.services.after_response.submit(call())
        assert accepted is not None
        await accepted
        waiting = hosted.by_call.waiting()
        await hosted.close()
        return waiting

    assert asyncio.run(story()) == 1


def in_environment(server: S3Server, queue: SqsQueue) -> dict[str, str]:
    """What a process needs to speak to it, as the host's own role."""
    keys = {"AWS_ACCESS_KEY_ID": server.access_key_id, "AWS_SECRET_ACCESS_KEY": server.secret_access_key}
    return {"AFTER_RESPONSE": "sqs", "SQS_QUEUE_URL": queue.url, **keys}


def _catches(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler of its own for the signal."""
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)


@contextlib.contextmanager
def settling(environ: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A `steward settle` beside it, until the block ends; then it must end well."""
    with log.open("wb") as out:
        process = subprocess.Popen([*COMMAND, "settle"], env=dict(environ), cwd="/", stdout=out, stderr=out)
    try:
        yield process
        eventually(lambda: _catches(process.pid, signal.SIGTERM), 30)  # another may have settled all before it began
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_what_one_process_relays_another_settles(
    host_role: S3Server, provider: Provider, make_steward: Callable[..., RunningSteward], tmp_path: Path
) -> None:
    queue = host_role.queue()
    running = make_steward(provider.url, **in_environment(host_role, queue))
    sizes = [10, 10, 400_000, 10]
    answers = [running.call(chat(size)) for size in sizes]
    ids = [request_id(answer) for answer in answers]
    assert [answer.status for answer in answers] == [200] * 4
    assert running.rows() == []
    with contextlib.closing(SqsCarrier(queue)) as carrier:
        assert carrier.depth() == 4
        lying = carrier.receive(10, 0, 60)
        carrier.hide([each.receipt for each in lying], 0)
        assert sorted(len(each.text) > 1000 for each in lying) == [False, True, True, True]
        assert not [each for each in lying if CANARY in each.text or "gpt-4o" in each.text]
        queued = list((running.bodies / "queued").rglob("*-*-*"))
        assert not [path for path in queued if path.is_file() and CANARY.encode() in path.read_bytes()]
        with settling(running.environ, tmp_path / "one.log"), settling(running.environ, tmp_path / "two.log"):
            rows = [running.settled(ident) for ident in ids]
            assert [row.body_state for row in rows] == [BodyState.STORED] * 4
            assert CANARY in json.dumps(running.body(rows[2]))
            eventually(lambda: carrier.depth() == 0)
    assert len(running.rows()) == 4
    logs = running.said() + (tmp_path / "one.log").read_bytes() + (tmp_path / "two.log").read_bytes()
    assert CANARY.encode() not in logs


def test_while_the_queue_is_away_calls_are_settled_by_the_relay_itself(
    host_role: S3Server, provider: Provider, make_steward: Callable[..., RunningSteward]
) -> None:
    gone = SqsQueue(f"{host_role.address}/123456789012/no-such-queue", host_role.address, "us-east-1", "x")
    running = make_steward(provider.url, **in_environment(host_role, gone), BODY_RETRY_FOR="1h")
    ident = request_id(running.call(chat()))
    assert running.settled(ident).body_state is BodyState.STORED
    assert b"message_not_sent" in running.said()
    assert CANARY.encode() not in running.said()


def test_the_commands_show_what_waits_and_send_back_what_was_set_aside(
    host_role: S3Server, provider: Provider, make_steward: Callable[..., RunningSteward]
) -> None:
    queue = host_role.queue(max_receives=1)
    running = make_steward(provider.url, **in_environment(host_role, queue))
    ident = request_id(running.call(chat()))
    with contextlib.closing(SqsCarrier(queue)) as carrier:
        carrier.receive(10, 0, 0)
        assert carrier.receive(10, 0, 0) == []
        depth = running.run("queue", "depth", "--json")
        assert json.loads(depth.stdout) == {"queue": 0, "dead_letters": 1}
        dead = carrier.dead()
        assert dead is not None
        with contextlib.closing(dead):
            dead.send("forged", running.key_id)
        dry = running.run("queue", "redrive", "--dry-run", "--json")
        assert (dry.returncode, json.loads(dry.stdout)["moved"]) == (1, 1)
        done = running.run("queue", "redrive")
        assert done.returncode == 1
        assert b"1 messages went back to the queue.\n" in done.stdout
        assert b"stays: not_a_message\n" in done.stdout
        assert json.loads(running.run("queue", "depth", "--json").stdout) == {"queue": 1, "dead_letters": 1}
    with settling(running.environ, running.log.with_name("settle.log")):
        assert running.settled(ident).body_state is BodyState.STORED
