"""Pub/Sub beyond the contract of carriers: who it says it is, what faults mean, and what it never follows."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from steward.adapters.pubsub import PubsubCarrier, PubsubPlace, PubsubWay
from steward.errors import QueueFault, QueueRefused, QueueUnavailable
from tests.servers.pubsub import PubsubStandIn
from tests.servers.stores import Asked, Said, Script


def as_google(server: PubsubStandIn, token: str = "the-token") -> PubsubCarrier:
    """The stand-in in Google's place."""
    place = replace(server.place(), emulator=None)
    return PubsubCarrier(place, PubsubWay(token=lambda: token, address=f"http://{server.host}"))


def test_each_call_carries_the_hosts_own_token_and_a_stand_in_gets_none(pubsub_server: PubsubStandIn) -> None:
    with contextlib.closing(as_google(pubsub_server)) as carrier:
        carrier.send("dGV4dA==", uuid4())
        [one] = carrier.receive(1, 0, 60)
        carrier.done([one.receipt])
    assert {headers.get("authorization") for _, _, headers in pubsub_server.asked} == {"Bearer the-token"}
    pubsub_server.asked.clear()
    with contextlib.closing(PubsubCarrier(pubsub_server.place())) as carrier:
        carrier.send("dGV4dA==", uuid4())
    assert [headers.get("authorization") for _, _, headers in pubsub_server.asked] == [None]


@pytest.mark.parametrize(
    ("status", "fault"),
    [
        *((401, QueueRefused), (403, QueueRefused), (404, QueueRefused), (302, QueueRefused)),
        *((408, QueueUnavailable), (429, QueueUnavailable), (500, QueueUnavailable), (503, QueueUnavailable)),
    ],
)
def test_a_fault_passes_by_itself_or_does_not(
    pubsub_server: PubsubStandIn, status: int, fault: type[QueueFault]
) -> None:
    pubsub_server.wrong = lambda verb: (status, b'{"error": {"message": "CANARY"}}')
    with contextlib.closing(PubsubCarrier(pubsub_server.place())) as carrier, pytest.raises(fault) as raised:
        carrier.send("dGV4dA==", uuid4())
    assert "CANARY" not in str(raised.value)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"receivedMessages": [7]}', b'{"receivedMessages": [{}]}'])
def test_an_answer_that_is_garbage_is_an_outage(pubsub_server: PubsubStandIn, body: bytes) -> None:
    pubsub_server.wrong = lambda verb: (200, body)
    with contextlib.closing(PubsubCarrier(pubsub_server.place())) as carrier, pytest.raises(QueueUnavailable):
        carrier.receive(1, 0, 60)


def test_what_was_not_published_is_not_taken_for_sent(pubsub_server: PubsubStandIn) -> None:
    pubsub_server.wrong = lambda verb: (200, b"{}")
    with contextlib.closing(PubsubCarrier(pubsub_server.place())) as carrier, pytest.raises(QueueUnavailable):
        carrier.send("dGV4dA==", uuid4())


def test_without_a_subscription_it_can_send_and_not_read(pubsub_server: PubsubStandIn) -> None:
    place = replace(pubsub_server.place(), subscription=None, dead_subscription=None)
    with contextlib.closing(PubsubCarrier(place)) as carrier:
        carrier.send("dGV4dA==", uuid4())
        with pytest.raises(QueueRefused):
            carrier.receive(1, 0, 60)
        assert carrier.dead() is None


def test_nobody_there_is_an_outage() -> None:
    place = PubsubPlace("projects/acme-prod/topics/calls", None, None, "127.0.0.1:1")
    with contextlib.closing(PubsubCarrier(place)) as carrier, pytest.raises(QueueUnavailable):
        carrier.send("dGV4dA==", uuid4())


def test_once_closed_it_connects_no_more(pubsub_carrier: PubsubCarrier) -> None:
    pubsub_carrier.close()
    with pytest.raises(QueueUnavailable):
        pubsub_carrier.send("dGV4dA==", uuid4())


def test_the_hosts_own_account_is_asked_of_the_host(script: Script, tmp_path: Path) -> None:
    """In a process of its own: Google's library reads where the host's metadata is when it is imported."""
    answers = {
        "/token": {"access_token": "the-host-s", "expires_in": 3600, "token_type": "Bearer"},
        "/default/?recursive=true": {"email": "a@acme.iam.gserviceaccount.com", "scopes": [], "aliases": []},
    }

    def answer(asked: Asked) -> Said:
        flavour = {"Metadata-Flavor": "Google", "Content-Type": "application/json"}
        for ending, said in answers.items():
            if ending in asked.path:
                return Said(200, flavour, json.dumps(said).encode())
        return Said(200, {"Metadata-Flavor": "Google", "Content-Type": "text/plain"}, b"acme-prod")

    script.answer = answer
    host = script.address.removeprefix("http://")
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    environ |= {"GCE_METADATA_HOST": host, "GCE_METADATA_IP": host, "GCE_METADATA_ROOT": host}
    code = "from steward.adapters.pubsub import HostToken; token = HostToken(); print(token(), token())"
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=120)
    assert done.stdout == "the-host-s the-host-s\n", done.stderr
    assert len([asked for asked in script.asked if "/token" in asked.path]) == 1


def test_what_was_handed_out_is_kept_when_the_next_question_fails(pubsub_server: PubsubStandIn) -> None:
    pulls: list[str] = []

    def wrong(verb: str) -> tuple[int, bytes] | None:
        pulls.extend([verb] if verb == "pull" else [])
        return (503, b"{}") if verb == "pull" and len(pulls) > 1 else None

    with contextlib.closing(PubsubCarrier(pubsub_server.place())) as carrier:
        for _ in range(25):
            carrier.send("dGV4dA==", uuid4())
        pubsub_server.wrong = wrong
        assert len(carrier.receive(25, 0, 60)) == 20
        with pytest.raises(QueueUnavailable):
            carrier.receive(25, 0, 60)
