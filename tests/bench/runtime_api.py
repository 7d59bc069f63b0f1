"""The least of Lambda's Runtime and Extensions API that a function can be timed with: it hands out events one by one,
and notes when the runtime asks and when it answers. It freezes nothing and checks nothing.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import SimpleQueue
from typing import Any

WITHIN_S = 120.0


class RuntimeStandIn:
    """One function's. `with` listens and, in the end, hangs up."""

    def __init__(self) -> None:
        self._events: SimpleQueue[bytes] = SimpleQueue()
        self._ends: SimpleQueue[bytes] = SimpleQueue()
        self._told: SimpleQueue[float] = SimpleQueue()
        self._asked: SimpleQueue[float] = SimpleQueue()
        self._answers: SimpleQueue[tuple[float, bytes]] = SimpleQueue()
        self.extensions = 0
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1

            def do_GET(self) -> None:
                api._next(self)

            def do_POST(self) -> None:
                api._posted(self)

            def handle_expect_100(self) -> bool:
                told = super().handle_expect_100()
                self.wfile.flush()
                return told

            def log_message(self, *said: object) -> None:
                """Nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def process_request(self, request: Any, client_address: Any) -> None:
                request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                super().process_request(request, client_address)

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A function that was ended leaves its connections."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> RuntimeStandIn:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def asked_at(self) -> float:
        """When, by the monotonic clock, the runtime next asks for an event; it is handed none yet."""
        return self._asked.get(timeout=WITHIN_S)

    def settled_at(self) -> float:
        """When the extension next asks, which it does when nothing is left to do."""
        return self._told.get(timeout=WITHIN_S)

    def invoke(self, event: Mapping[str, Any], told: bool = True) -> tuple[float, Any]:
        """The seconds until the answer, and the answer. The runtime must have asked. `told`: the extension is, too."""
        begun = time.monotonic()
        self._events.put(json.dumps(event).encode())
        if told and self.extensions:
            self._ends.put(b'{"eventType":"INVOKE"}')
        at, said = self._answers.get(timeout=WITHIN_S)
        return at - begun, json.loads(said)

    def _next(self, request: BaseHTTPRequestHandler) -> None:
        extension = "/extension/" in request.path
        (self._told if extension else self._asked).put(time.monotonic())
        event = (self._ends if extension else self._events).get()
        if extension:
            self._answer(request, event)
            return
        fields = {
            "Lambda-Runtime-Aws-Request-Id": "00000000-0000-4000-8000-000000000000",
            "Lambda-Runtime-Deadline-Ms": str(int((time.time() + WITHIN_S) * 1000)),
            "Content-Type": "application/json",
            "Lambda-Runtime-Trace-Id": "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Sampled=0",
            "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:eu-central-1:000000000000:function:steward",
        }
        self._answer(request, event, fields)

    def _posted(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("content-length", 0)))
        if request.path.endswith("/register"):
            self.extensions += 1
            self._answer(request, b"{}", {"Lambda-Extension-Identifier": "steward"})
            return
        self._answers.put((time.monotonic(), body))
        self._answer(request, b'{"status":"OK"}', status=202)

    @staticmethod
    def _answer(
        request: BaseHTTPRequestHandler, body: bytes, fields: Mapping[str, str] | None = None, status: int = 200
    ) -> None:
        request.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(fields or {})}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)
