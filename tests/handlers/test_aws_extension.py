"""The extension against a stand-in of Lambda's API: registered at the start, and asking only when its work is done."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from handlers.aws_extension import Extension, NotRegistered, register
from tests.said import Said, listening


@pytest.fixture(autouse=True)
def said() -> Iterator[Said]:
    with listening() as heard:
        yield heard


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


@pytest.fixture
def api() -> Iterator[Api]:
    served = Api()
    yield served
    served.server.shutdown()
    served.server.server_close()


INVOKE = (200, {"eventType": "INVOKE", "deadlineMs": 1})


def test_it_registers_for_invocations_alone(api: Api) -> None:
    assert register(api.address) == "an-identifier"
    assert api.registered == [("steward-after-response", {"events": ["INVOKE"]})]


def test_a_refusal_and_a_silence_are_told_apart_from_success(api: Api) -> None:
    api.status = 403
    with pytest.raises(NotRegistered):
        register(api.address)
    for nobody in ("127.0.0.1:1", "nobody.invalid:80"):
        with pytest.raises(NotRegistered):
            register(nobody)


def test_it_asks_for_the_next_event_only_when_its_work_is_done(api: Api) -> None:
    begun, done, given = threading.Event(), threading.Event(), []

    def work(until: float | None) -> None:
        given.append(until)
        begun.set()
        done.wait(20)

    extension = Extension(api.address, "an-identifier", work)
    extension.start()
    assert api.asked.get(timeout=10) == "an-identifier"
    api.events.put(INVOKE)
    assert not begun.wait(0.05), "the invocation has not ended"
    extension.invocation_ended(12.5)
    assert begun.wait(10) and given == [12.5]
    assert api.asked.empty(), "asked, Lambda would freeze the work"
    done.set()
    assert api.asked.get(timeout=10) == "an-identifier"


def test_work_that_fails_does_not_end_it(api: Api, said: Said) -> None:
    def work(until: float | None) -> None:
        raise KeyError("canary")

    extension = Extension(api.address, "i", work)
    extension.start()
    for _ in range(3):
        assert api.asked.get(timeout=10)
        extension.invocation_ended()
        api.events.put(INVOKE)
    assert api.asked.get(timeout=10)
    assert said.events().count("after_response_failed") == 3 and "canary" not in said.text


@pytest.mark.parametrize("odd", [(500, {}), (200, b"no json"), (200, []), (200, {"eventType": "SHUTDOWN"}), (0, None)])
def test_what_is_no_invocation_is_passed_over(api: Api, odd: tuple[int, object]) -> None:
    worked: queue.Queue[float | None] = queue.Queue()
    extension = Extension(api.address, "i", worked.put)
    extension.start()
    assert api.asked.get(timeout=10)
    api.events.put(odd)
    assert api.asked.get(timeout=10), "it asks again"
    assert worked.empty()
    api.events.put(INVOKE)
    extension.invocation_ended(1.0)
    assert worked.get(timeout=10) == 1.0
