"""Fixtures: an S3 server that checks signatures and owners, a Google storage emulator, and one that answers by script.

They run in processes and threads of their own, on ports of their own, and are gone when the run ends.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import uuid4

import botocore.session
import pytest
from botocore.config import Config

from steward.adapters.sqs import SqsCarrier
from steward.destination import Anonymous, GcsDestination, S3Destination, S3Keys
from steward.queue_values import SqsQueue, sqs_queue
from steward.words import Secret

OWNER = "123456789012"
"""The account that owns every bucket of the S3 server."""

_S3 = """
import os, sys
os.environ["INITIAL_NO_AUTH_ACTION_COUNT"] = "1000000"
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
os._exit(0)
"""

_GCS = """
import os, sys
from gcp_storage_emulator.server import create_server
server = create_server("127.0.0.1", 0, in_memory=True)
server.start()
print(server._api._httpd.server_address[1], flush=True)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
sys.stdin.read()
os._exit(0)
"""


@dataclass(frozen=True)
class S3Server:
    """A server with one user, whose signatures it checks."""

    address: str
    access_key_id: str
    secret_access_key: str

    @property
    def keys(self) -> S3Keys:
        return S3Keys(self.access_key_id, Secret(self.secret_access_key))

    def client(self) -> Any:
        """The user's own client, to look at what others stored."""
        return _aws_client(self.address, self.access_key_id, self.secret_access_key)

    def queue(self, max_receives: int = 3) -> SqsQueue:
        """A new queue, with a dead-letter queue behind it."""
        name = f"calls-{uuid4().hex}"
        with contextlib.closing(self.sqs()) as client:
            dead = client.create_queue(QueueName=f"{name}-dead")["QueueUrl"]
            asked = client.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])
            policy = {"deadLetterTargetArn": asked["Attributes"]["QueueArn"], "maxReceiveCount": max_receives}
            client.create_queue(QueueName=name, Attributes={"RedrivePolicy": json.dumps(policy)})
        return sqs_queue(f"{self.address}/{OWNER}/{name}")

    def user(self, policy: dict[str, Any]) -> tuple[str, str]:
        """A new user who may do this alone: access key and secret."""
        name = f"user-{uuid4().hex}"
        with contextlib.closing(_aws_client(self.address, *self._pair, service="iam")) as iam:
            iam.create_user(UserName=name)
            iam.put_user_policy(UserName=name, PolicyName="all", PolicyDocument=json.dumps(policy))
            key = iam.create_access_key(UserName=name)["AccessKey"]
        return key["AccessKeyId"], key["SecretAccessKey"]

    @property
    def _pair(self) -> tuple[str, str]:
        return self.access_key_id, self.secret_access_key

    def sqs(self) -> Any:
        """The user's own client of SQS, to look at what lies there."""
        return _aws_client(self.address, self.access_key_id, self.secret_access_key, service="sqs")

    def bucket(self) -> S3Destination:
        """A new bucket, and how to reach it."""
        name = f"bodies-{uuid4().hex}"
        with contextlib.closing(self.client()) as client:
            client.create_bucket(Bucket=name)
        return S3Destination(name, "calls/of this", self.keys, endpoint=self.address)


@dataclass(frozen=True)
class GcsServer:
    """An emulator; it asks nobody who he is."""

    address: str

    def bucket(self) -> GcsDestination:
        """A new bucket, and how to reach it."""
        name = f"bodies-{uuid4().hex}"
        _post(f"{self.address}/storage/v1/b?project=none", json.dumps({"name": name}).encode())
        return GcsDestination(name, "calls/of this", Anonymous(), endpoint=self.address)


@dataclass(frozen=True)
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes
    peer: int
    """The asking connection's port."""


@dataclass(frozen=True)
class Said:
    """One answer."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class Script:
    """A server that keeps what it was asked and answers as it is told; until told, 404 and nothing."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.answer: Callable[[Asked], Said] = lambda asked: Said(404)
        self.address = ""


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    with s3() as server:
        yield server


@pytest.fixture
def host_role(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server, whose user is the host's own role."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_access_key)
    return s3_server


@pytest.fixture
def sqs_carrier(host_role: S3Server) -> Iterator[SqsCarrier]:
    """A new queue, with a dead-letter queue behind it; three tries."""
    with contextlib.closing(SqsCarrier(host_role.queue())) as carrier:
        yield carrier


@contextlib.contextmanager
def s3() -> Iterator[S3Server]:
    """The server itself, for who is no test."""
    with _process(_S3) as port:
        address = f"http://127.0.0.1:{port}"
        allowed = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
        with contextlib.closing(_aws_client(address, "nobody", "nothing", service="iam")) as iam:
            iam.create_user(UserName="steward")
            iam.put_user_policy(UserName="steward", PolicyName="all", PolicyDocument=json.dumps(allowed))
            key = iam.create_access_key(UserName="steward")["AccessKey"]
        # From here on every request is checked: signature, user and policy.
        _post(f"{address}/moto-api/reset-auth", b"0")
        yield S3Server(address, key["AccessKeyId"], key["SecretAccessKey"])


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[GcsServer]:
    with _process(_GCS) as port:
        yield GcsServer(f"http://127.0.0.1:{port}")


@pytest.fixture
def script() -> Iterator[Script]:
    with scripted() as server:
        yield server


@contextlib.contextmanager
def scripted() -> Iterator[Script]:
    """One more scripted server, for tests that need two."""
    script = Script()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60

        def __getattr__(self, name: str) -> Callable[[], None]:
            if name.startswith("do_"):
                return self.handle_any
            raise AttributeError(name)

        def handle_any(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            if headers.get("expect") == "100-continue":
                self.send_response_only(100)
                self.end_headers()
            body = self.rfile.read(int(headers.get("content-length", 0)))
            asked = Asked(self.command, self.path, headers, body, self.client_address[1])
            script.asked.append(asked)
            said = script.answer(asked)
            self.send_response_only(said.status)
            for name, value in {"Content-Length": str(len(said.body)), **said.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(said.body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    script.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _post(address: str, body: bytes) -> None:
    """Raises urllib.error.HTTPError for anything but success."""
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"}, method="POST")
    with urllib.request.urlopen(request, timeout=30) as answer:
        answer.read()


def _aws_client(address: str, key: str, secret: str, service: str = "s3") -> Any:
    return botocore.session.Session().create_client(
        service,
        "us-east-1",
        endpoint_url=address,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        config=Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required"),
    )


@contextlib.contextmanager
def _process(code: str) -> Iterator[int]:
    """A server of its own process, which says its port and ends when its input does."""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line.strip().isdigit(), "the server did not start"
            yield int(line)
        finally:
            process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
