"""Pub/Sub's REST interface on a socket: Google's emulator where it is installed, and a stand-in of ours everywhere.

The stand-in keeps what it was asked; a test says what it answers wrong. The emulator knows no credentials.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from steward.adapters.pubsub import PubsubCarrier, PubsubPlace
from steward.carrier import MemoryCarrier
from tests.servers.waiting import eventually

PROJECT = "projects/acme-prod"
JAR = Path("/usr/lib/google-cloud-sdk/platform/pubsub-emulator/lib")
_ASKED = re.compile(r"/v1/(projects/[^/]+/(?:topics|subscriptions)/[^/:]+):([a-zA-Z]+)")


class PubsubStandIn:
    """Topics whose messages lie in memory; a subscription has its topic's name."""

    def __init__(self) -> None:
        self.queues: dict[str, MemoryCarrier] = {}
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        """Name, verb and headers."""
        self.wrong: Callable[[str], tuple[int, bytes] | None] = lambda verb: None
        """What a verb is answered instead; None: what is right."""
        self.host = ""

    def place(self, max_receives: int = 3) -> PubsubPlace:
        """A new topic with a subscription, and a dead-letter topic behind it."""
        name = f"calls-{uuid4().hex}"
        dead = self.queues[f"{name}-dead"] = MemoryCarrier()
        self.queues[name] = MemoryCarrier(max_receives, dead)
        below = f"{PROJECT}/subscriptions/{name}"
        return PubsubPlace(f"{PROJECT}/topics/{name}", below, f"{below}-dead", self.host)

    def answer(self, path: str, said: dict[str, Any], headers: dict[str, str]) -> tuple[int, bytes]:
        """Status and body."""
        matched = _ASKED.fullmatch(path)
        if matched is None:
            return 404, b"{}"
        name, verb = matched[1], matched[2]
        self.asked.append((name, verb, headers))
        wrong = self.wrong(verb)
        queue = self.queues.get(name.rpartition("/")[2])
        if wrong is not None or queue is None:
            return wrong or (404, b'{"error": {"status": "NOT_FOUND"}}')
        return 200, json.dumps(_DO[verb](queue, said)).encode()


def _publish(queue: MemoryCarrier, said: dict[str, Any]) -> dict[str, Any]:
    for message in said["messages"]:
        queue.send(message["data"], UUID(message["attributes"]["request_id"]))
    return {"messageIds": [str(uuid4()) for _ in said["messages"]]}


def _pull(queue: MemoryCarrier, said: dict[str, Any]) -> dict[str, Any]:
    found = queue.receive(said["maxMessages"], 0, 10)
    if not found:
        return {}
    return {
        "receivedMessages": [
            {"ackId": each.receipt, "message": {"messageId": each.message_id, "data": each.text}} for each in found
        ]
    }


def _acknowledge(queue: MemoryCarrier, said: dict[str, Any]) -> dict[str, Any]:
    queue.done(said["ackIds"])
    return {}


def _hide(queue: MemoryCarrier, said: dict[str, Any]) -> dict[str, Any]:
    assert 0 <= said["ackDeadlineSeconds"] <= 600
    queue.hide(said["ackIds"], said["ackDeadlineSeconds"])
    return {}


_DO = {"publish": _publish, "pull": _pull, "acknowledge": _acknowledge, "modifyAckDeadline": _hide}


@contextlib.contextmanager
def pubsub() -> Iterator[PubsubStandIn]:
    """The stand-in, until the block ends."""
    stand_in = PubsubStandIn()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60

        def do_POST(self) -> None:
            said = json.loads(self.rfile.read(int(self.headers["content-length"])))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, body = stand_in.answer(self.path, said, headers)
            self.send_response_only(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    class Server(ThreadingHTTPServer):
        request_queue_size = 128

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    stand_in.host = f"127.0.0.1:{server.server_port}"
    try:
        yield stand_in
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def pubsub_server() -> Iterator[PubsubStandIn]:
    with pubsub() as stand_in:
        yield stand_in


@pytest.fixture
def pubsub_carrier(pubsub_server: PubsubStandIn) -> Iterator[PubsubCarrier]:
    """A new topic, with a dead-letter topic behind it; three tries."""
    with contextlib.closing(PubsubCarrier(pubsub_server.place())) as carrier:
        yield carrier


@pytest.fixture(scope="session")
def pubsub_emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`host:port` of Google's own emulator."""
    jars, java = sorted(JAR.glob("cloud-pubsub-emulator-*-all.jar")), shutil.which("java")
    if not jars or java is None:
        pytest.skip("Google's Pub/Sub emulator is not installed here (gcloud components install pubsub-emulator)")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("pubsub")
    command = [java, "-jar", str(jars[-1]), "--host=127.0.0.1", f"--port={port}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        eventually(lambda: _answers(port) or process.poll() is not None, 60)
        assert process.poll() is None, (folder / "log").read_text()
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1):
            return True
    except OSError:
        return False


@pytest.fixture
def emulated_carrier(pubsub_emulator: str) -> Iterator[PubsubCarrier]:
    """As `pubsub_carrier`, in Google's emulator. It allows five tries at least."""
    name = f"calls-{uuid4().hex}"
    for each in (name, f"{name}-dead"):
        _put(pubsub_emulator, f"{PROJECT}/topics/{each}", {})
    below, topic = f"{PROJECT}/subscriptions/{name}", f"{PROJECT}/topics/{name}"
    policy = {"deadLetterTopic": f"{topic}-dead", "maxDeliveryAttempts": 5}
    _put(pubsub_emulator, f"{below}-dead", {"topic": f"{topic}-dead"})
    _put(pubsub_emulator, below, {"topic": topic, "deadLetterPolicy": policy})
    place = PubsubPlace(topic, below, f"{below}-dead", pubsub_emulator)
    with contextlib.closing(PubsubCarrier(place)) as carrier:
        yield carrier


def _put(host: str, name: str, said: dict[str, Any]) -> None:
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"http://{host}/v1/{name}", json.dumps(said).encode(), headers, method="PUT")
    with urllib.request.urlopen(request, timeout=30) as answer:
        answer.read()
