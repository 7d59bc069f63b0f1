"""A bucket on the S3 server, behind a gate: what the Steward is told of it, and a look into it past the gate."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from tests.faults.gates import HttpGate
from tests.faults.loop_thread import LoopThread
from tests.servers.stores import S3Server

_PREFIX = "calls"


class Bucket:
    """A new bucket; its gate is open until a test says otherwise."""

    def __init__(self, running: LoopThread, server: S3Server) -> None:
        self._server = server
        self._running = running
        self._name = server.bucket().bucket
        self.gate = running.ask(lambda: HttpGate(int(urlsplit(server.address).port or 0)))
        running.do(self.gate.start())
        client = server.client()
        self.close = client.close
        self._get: Callable[..., dict[str, object]] = client.get_object

    @property
    def settings(self) -> dict[str, str]:
        """As an operator writes them."""
        return {
            "BODY_STORE_URL": f"s3://{self._name}/{_PREFIX}",
            "BODY_STORE_S3_ENDPOINT": f"http://127.0.0.1:{self.gate.port}",
            "BODY_STORE_S3_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": self._server.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self._server.secret_access_key,
        }

    def read(self, key: str) -> bytes:
        """A stored object, past the gate. Raises OSError when it is not there."""
        try:
            octets: bytes = self._get(Bucket=self._name, Key=f"{_PREFIX}/{key}")["Body"].read()  # type: ignore[attr-defined]
        except Exception as exc:
            raise FileNotFoundError(key) from exc
        return octets

    def end(self) -> None:
        """The gate goes; the bucket goes with its server."""
        self._running.do(self.gate.stop())
        self.close()
