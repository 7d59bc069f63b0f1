"""Two hundred megabytes up and two hundred down in one call, through settle and the S3 store, in bounded memory."""

from __future__ import annotations

import hashlib
import http.client
import re
import socket
import threading
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from steward.exchange import BodyState, Outcome
from tests.servers.steward import RunningSteward
from tests.servers.stores import S3Server

MIB = 1 << 20
SIZE_MIB = 200
MOST_MIB = 238
"""What any process of ours may ever hold, resident, at its highest: 250 MB."""

_BLOCK = b64encode(Random(7).randbytes(MIB * 3 // 4))


def document(name: bytes) -> Iterator[bytes]:
    """A JSON document of about 200 MiB, a piece a MiB."""
    yield b'{"model":"gpt-4o-mini","' + name + b'":"'
    for _ in range(SIZE_MIB):
        yield _BLOCK
    yield b'","usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}'


def zipped(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same, gzip."""
    deflate = zlib.compressobj(1, zlib.DEFLATED, 31)
    for piece in pieces:
        yield deflate.compress(piece)
    yield deflate.flush()


class LargeProvider:
    """Takes a large body and answers with one, keeping nothing but what it hashed."""

    def __init__(self) -> None:
        self.received = hashlib.sha256()
        self.received_bytes = 0
        self.sent = hashlib.sha256()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        sock, _ = self._listener.accept()
        with sock, sock.makefile("rb") as stream:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += stream.readline()
            found = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            left = int(found[1]) if found else 0
            while left:
                piece = stream.read(min(MIB, left))
                self.received.update(piece)
                self.received_bytes += len(piece)
                left -= len(piece)
            sock.sendall(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\n"
                b"transfer-encoding: chunked\r\n\r\n"
            )
            for piece in zipped(document(b"answer")):
                if piece:
                    self.sent.update(piece)
                    sock.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
            sock.sendall(b"0\r\n\r\n")

    def close(self) -> None:
        """Ends the listener and waits for the thread."""
        self._listener.close()
        self._thread.join(10)


@pytest.fixture
def provider() -> Iterator[LargeProvider]:
    made = LargeProvider()
    yield made
    made.close()


def highest_mib(pid: int) -> float:
    """The most memory the process ever held."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


@pytest.mark.faults
def test_large_both_ways(
    make_steward: Callable[..., RunningSteward], provider: LargeProvider, s3_server: S3Server
) -> None:
    bucket = s3_server.bucket()
    steward = make_steward(
        provider.url,
        BODY_STORE_URL=f"s3://{bucket.bucket}",
        BODY_STORE_S3_ENDPOINT=s3_server.address,
        BODY_STORE_S3_REGION="us-east-1",
        AWS_ACCESS_KEY_ID=s3_server.access_key_id,
        AWS_SECRET_ACCESS_KEY=s3_server.secret_access_key,
    )
    asked, length = hashlib.sha256(), sum(len(piece) for piece in document(b"question"))

    def pieces() -> Iterator[bytes]:
        for piece in document(b"question"):
            asked.update(piece)
            yield piece

    connection = http.client.HTTPConnection("127.0.0.1", steward.port, timeout=120)
    headers = {
        "X-Majordomo-Key": steward.key,
        "Authorization": "Bearer sk-x",
        "Content-Type": "application/json",
        "Content-Length": str(length),
    }
    connection.request("POST", "/v1/chat/completions", pieces(), headers)
    answer = connection.getresponse()
    got, got_bytes = hashlib.sha256(), 0
    while piece := answer.read(MIB):
        got.update(piece)
        got_bytes += len(piece)
    connection.close()
    assert answer.status == 200
    assert answer.getheader("content-encoding") == "gzip"
    assert (provider.received_bytes, provider.received.digest()) == (length, asked.digest())
    assert got.digest() == provider.sent.digest()
    record = steward.settled(str(answer.getheader("x-majordomo-request-id")), within_s=120)
    assert (record.outcome, record.body_state) == (Outcome.COMPLETE, BodyState.STORED)
    assert (record.request_bytes, record.response_bytes) == (length, got_bytes)
    stored = s3_server.client().head_object(Bucket=bucket.bucket, Key=record.body_key)
    assert stored["ContentLength"] == record.body_bytes
    highest = highest_mib(steward.process.pid)
    assert highest < MOST_MIB, f"{highest:.0f} MiB"
