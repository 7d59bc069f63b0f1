"""A stand-in of Lambda's Extensions API, which says when it is asked and hands out what a test puts in."""

from __future__ import annotations

import json
import queue
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

INVOKE = (200, {"eventType": "INVOKE", "deadlineMs": 1})


def invoke(request_id: str) -> tuple[int, object]:
    """The event of an invocation that says its id."""
    return 200, {"eventType": "INVOKE", "deadlineMs": 1, "requestId": request_id}


class Api:
    """Hands out the events that a test puts in; says when it is asked for one."""

    def __init__(self) -> None:
        self.events: queue.Queue[tuple[int, object]] = queue.Queue()
        self.asked: queue.Queue[str] = queue.Queue()
        self.registered: list[tuple[str, object]] = []
        self.status = 200
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:  # noqa: N802
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                api.registered.append((self.headers["Lambda-Extension-Name"], body))
                self.answer(api.status, {}, {"Lambda-Extension-Identifier": "an-identifier"})

            def do_GET(self) -> None:  # noqa: N802
                api.asked.put(self.headers["Lambda-Extension-Identifier"])
                status, event = api.events.get()
                if status == 0:
                    self.close_connection = True
                    return
                self.answer(status, event, {})

            def answer(self, status: int, document: object, headers: dict[str, str]) -> None:
                body = json.dumps(document).encode() if not isinstance(document, bytes) else document
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                """Says nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Closes it, and every connection that waits for an event."""
        for _ in range(8):
            self.events.put((0, None))
        self.server.shutdown()
        self.server.server_close()
