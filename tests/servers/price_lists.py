"""Price lists to be read, good and poisoned, and a server that hands them out. Nothing here knows how they are read."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def model(model_id: str, match: object = None, prices: object = None, **more: object) -> dict[str, object]:
    """A model as genai-prices publishes it."""
    return {
        "id": model_id,
        "match": {"equals": model_id} if match is None else match,
        "prices": {"input_mtok": 2.5, "output_mtok": 10} if prices is None else prices,
        **more,
    }


def provider(provider_id: str, *models: object, **more: object) -> dict[str, object]:
    """A provider as genai-prices publishes it."""
    return {"id": provider_id, "name": provider_id.title(), "models": list(models), **more}


def genai(*providers: object) -> bytes:
    """A document in the shape of genai-prices' v2 `data.json`."""
    return json.dumps(list(providers)).encode()


def openai(*models: object) -> bytes:
    """A document with one provider."""
    return genai(provider("openai", *models))


def llm_prices(*rows: tuple[str, str, object, object, object]) -> bytes:
    """A document in llm-prices' shape, from (vendor, id, input, output, input_cached)."""
    names = ("vendor", "id", "input", "output", "input_cached")
    prices = [dict(zip(names, row, strict=True)) | {"name": row[1].upper()} for row in rows]
    return json.dumps({"updated_at": "2026-08-05", "prices": prices}).encode()


class Asked:
    """What a server was asked, for the tests to look at."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []


Reply = Callable[[BaseHTTPRequestHandler], None]


def replying(status: int, body: bytes = b"", **headers: str) -> Reply:
    """An ordinary answer; underscores of field names are hyphens."""

    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return reply


def raw(octets: bytes) -> Reply:
    """These octets, and the connection is closed."""

    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(octets)

    return reply


def endless(piece: bytes, pause: threading.Event, pause_s: float) -> Reply:
    """An answer without end: pieces, each after a pause (none for 0), until the other side leaves or `pause` is set."""

    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not (pause_s and pause.wait(pause_s)):
            try:
                handler.wfile.write(piece)
                handler.wfile.flush()
            except OSError:
                return

    return reply


@contextmanager
def serving(replies: Sequence[Reply]) -> Iterator[tuple[str, Asked]]:
    """A server that gives each reply once, the last for ever; its address, and what it was asked."""
    asked = Asked()
    left = list(replies)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.paths.append(self.path)
            asked.headers.append({name.lower(): value for name, value in self.headers.items()})
            (left.pop(0) if len(left) > 1 else left[0])(self)

        def log_message(self, *_: object) -> None:
            """Nothing is said."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/data.json", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
