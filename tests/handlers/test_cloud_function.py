"""The target of functions-framework, by the framework's own servers on a socket; what is the function's alone.

What it shares with Cloud Run stands in test_hosted_app.py; what no entry lets in, in tests/hostile/test_desync.py.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import pytest
from starlette.applications import Starlette
from starlette.requests import Request as FrameworkRequest
from starlette.responses import Response
from starlette.routing import Route

from handlers.cloud_function import Calls, HandedOver, House, waited_for
from handlers.framework_listener import Connection
from handlers.hosted_app import HostedApp
from steward.adapters.postgres_local import LocalPostgres
from steward.errors import Cut, ShuttingDown
from steward.exchange import BodyState, Outcome
from steward.proxy import Application, Receive, Scope, Send
from tests.servers.examples import respond
from tests.servers.function import FRAMEWORK, ON_GOOGLE, SOURCE, running_function
from tests.servers.listening import free_port, listening
from tests.servers.plain_http import Ended, Request, call
from tests.servers.raw_caller import say
from tests.servers.socket_provider import Provider
from tests.servers.steward import REPOSITORY, RunningSteward, serving
from tests.servers.waiting import eventually

CHAT = Request(b"POST", b"/v1/chat/completions", [(b"Authorization", b"Bearer sk-x")], b'{"model":"gpt-4o-mini"}')
SERVERS = [{}, {"DEBUG": "true"}]


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    server = Provider(respond)
    yield server
    server.close()


@pytest.fixture(scope="module", params=SERVERS, ids=["gunicorn", "development"])
def house(
    request: pytest.FixtureRequest,
    postgres_server: LocalPostgres,
    provider: Provider,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[RunningSteward]:
    """On each of the framework's servers."""
    folder = tmp_path_factory.mktemp("function")
    with running_function(postgres_server, folder, provider.url, request.param) as running:
        yield running
        if request.param:  # uvicorn without gunicorn ends by the signal itself
            running.process.terminate()
            assert running.process.wait(60) == -signal.SIGTERM


def test_a_call_goes_as_it_came_and_leaves_its_row(house: RunningSteward, provider: Provider) -> None:
    """The raw path and query; no field that the framework adds, and none of its server's in the answer."""
    provider.take()
    asked = Request(
        b"POST", b"/v1/chat/completions?x=%2F&y=a+b", [*CHAT.fields, (b"X-Odd", b"1"), (b"X-Odd", b"2")], CHAT.body
    )
    answer = house.call(asked)
    assert answer.status == 200
    [received] = provider.take()
    assert received.target == asked.target
    names = [name.lower() for name, _ in received.message.head.fields]
    assert b"function-execution-id" not in names and names.count(b"x-odd") == 2
    assert not {b"server", b"date"} & {name.lower() for name, _ in answer.head.fields}
    record = house.settled(answer.head.values(b"x-majordomo-request-id")[0])
    assert (record.outcome, record.body_state) == (Outcome.COMPLETE, BodyState.STORED)


def test_an_encoded_path_is_compared_and_sent_as_it_stands(house: RunningSteward, provider: Provider) -> None:
    provider.take()
    answer = house.call(Request(b"GET", b"/v1/models/ft%3Agpt%2F1", [(b"Authorization", b"Bearer sk-x")]))
    assert answer.status in (200, 404)
    [received] = provider.take()
    assert received.target == b"/v1/models/ft%3Agpt%2F1"
    assert call(house.port, Request(b"GET", b"/h%65alth", [])).status == 401


def test_our_own_paths_are_ours(house: RunningSteward) -> None:
    assert call(house.port, Request(b"GET", b"/health")).body == b"alive"
    assert call(house.port, Request(b"GET", b"/readyz")).status == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [(b"GET", b"/robots.txt", 404), (b"GET", b"/favicon.ico", 404), (b"PROPFIND", b"/v1/models", 405)],
)
def test_what_the_framework_keeps_to_itself(
    house: RunningSteward, provider: Provider, method: bytes, path: bytes, status: int
) -> None:
    provider.take()
    assert house.call(Request(method, path, [])).status == status
    assert provider.take() == []


def test_many_first_calls_start_it_once(postgres_server: LocalPostgres, provider: Provider, tmp_path: Path) -> None:
    """Sixteen at once at a process that served nobody yet, not even a probe: one start, sixteen rows."""
    with running_function(postgres_server, tmp_path, provider.url) as first:
        port = free_port()
        log = tmp_path / "second.log"
        environ = {**first.environ, "PORT": str(port)}
        command = (FRAMEWORK, "--source", SOURCE, "--target", "steward")
        with serving(environ, log, command) as process:
            eventually(lambda: listens(port) or process.poll() is not None, 60)
            fields = [*CHAT.fields, (b"X-Majordomo-Key", first.key.encode())]
            together = threading.Barrier(16)

            def ask(_: int) -> bytes:
                together.wait(30)
                answer = call(port, Request(CHAT.method, CHAT.target, fields, CHAT.body))
                assert answer.status == 200
                return answer.head.values(b"x-majordomo-request-id")[0]

            with ThreadPoolExecutor(16) as callers:
                asked = list(callers.map(ask, range(16)))
        assert {first.settled(ident).outcome for ident in asked} == {Outcome.COMPLETE}
        said = [line["event"] for line in map(orjson.loads, log.read_bytes().splitlines())]
        assert said.count("started") == 1


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


def test_wrong_settings_are_said_and_answered(tmp_path: Path) -> None:
    """Every call gets 500 and no word; the log names the setting and not its value."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    port = free_port()
    wrong = {"ENCRYPTION_KEY": "not-hex-SECRET", "PORT": str(port), "HOST": "127.0.0.1"}
    environ = {**kept, **ON_GOOGLE, "PYTHONPATH": str(REPOSITORY), **wrong}
    log = tmp_path / "log"
    with serving(environ, log, (FRAMEWORK, "--source", SOURCE, "--target", "steward")) as process:
        eventually(lambda: listens(port) or process.poll() is not None, 60)
        for _ in range(2):
            answer = call(port, CHAT)
            assert (answer.status, json.loads(answer.body)) == (500, {"error": {"code": "misconfigured"}})
    assert b"ENCRYPTION_KEY: " in log.read_bytes()
    assert b"SECRET" not in log.read_bytes() and b"Traceback" not in log.read_bytes()


# The end: at SIGTERM the framework's server closes, waits for its calls, and ends the process in that instant


def served_by(calls: Calls, seen: list[Scope], gate: asyncio.Event) -> Application:
    """An application of one call, which waits for the gate."""

    async def call_of(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        try:
            await gate.wait()
        except asyncio.CancelledError:
            raise Cut from None
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await calls.serve(call_of, scope, receive, send)
        except ShuttingDown:
            await send({"type": "http.response.start", "status": 503, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    return app


def test_what_is_left_is_done_behind_the_last_call_while_the_server_waits() -> None:
    """A turn under way, and what waits for one: the process would end with it."""
    calls, seen, gate, may_close = Calls(), list[Scope](), asyncio.Event(), asyncio.Event()
    happened: list[str] = []

    async def close() -> None:
        happened.append("closes")
        await may_close.wait()
        happened.append("closed")

    with listening(served_by(calls, seen, gate), Connection) as served, ThreadPoolExecutor(1) as caller:
        running = caller.submit(call, served.port, Request(b"GET", b"/", []))
        eventually(lambda: bool(seen))
        cycle = seen[0]["extensions"]["steward"]
        loop = cycle.task.get_loop()
        loop.call_soon_threadsafe(calls.end, 60.0, close, waited_for(seen[0]))
        eventually(lambda: served.tasks == 2)
        assert happened == []
        loop.call_soon_threadsafe(gate.set)
        assert running.result(20).status == 204
        eventually(lambda: happened == ["closes"])
        assert served.tasks == 1, "the server waits for it"
        assert call(served.port, Request(b"GET", b"/", [])).status == 503
        loop.call_soon_threadsafe(may_close.set)
        eventually(lambda: served.tasks == 0)
        assert happened == ["closes", "closed"]


def test_the_server_that_brought_the_first_call_waits_for_the_end() -> None:
    waits: list[object] = []
    seen: list[Scope] = []

    class Noting(House):
        def _open(self, server_waits_for: set[asyncio.Task[Any]]) -> HostedApp:
            waits.append(server_waits_for)
            raise ShuttingDown

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        await HandedOver(Noting({}))(scope, receive, send)

    with listening(app, Connection) as served:
        assert call(served.port, Request(b"GET", b"/", [])).status == 503
        assert waits[0] is seen[0]["extensions"]["steward"].waited_for


def test_a_call_that_outlasts_the_grace_is_cut_and_then_comes_the_end() -> None:
    calls, seen, closed = Calls(), list[Scope](), threading.Event()

    async def close() -> None:
        closed.set()

    with listening(served_by(calls, seen, asyncio.Event()), Connection) as served, ThreadPoolExecutor(1) as caller:
        running = caller.submit(call, served.port, Request(b"GET", b"/", []))
        eventually(lambda: bool(seen))
        loop = seen[0]["extensions"]["steward"].task.get_loop()
        loop.call_soon_threadsafe(calls.end, 0.05, close, waited_for(seen[0]))
        assert closed.wait(20)
        with pytest.raises((Ended, ConnectionError)):
            running.result(20)


# A server that is not our listener: what it hands over cannot be told from what stood in the head


def framework_on(protocol: str, house: House) -> Any:
    """The framework's way to the target, on a protocol of uvicorn's own."""

    async def endpoint(request: FrameworkRequest) -> Response:
        return HandedOver(house)

    return listening(Starlette(routes=[Route("/{path:path}", endpoint, methods=["GET", "POST"])]), protocol)


@pytest.mark.parametrize("protocol", ["httptools", "h11"])
def test_on_a_server_that_merges_trailers_a_body_needs_a_length(protocol: str) -> None:
    """uvicorn adds a trailer's fields to the head's. Refused before a setting is read or a field is looked at."""
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-Majordomo-Team: smuggled\r\n\r\n"
    counted = head + b"Content-Length: 2\r\n\r\n{}"
    with framework_on(protocol, House({"ENCRYPTION_KEY": "wrong"})) as served:
        heard = say(served.port, chunked)
        assert (heard.statuses, b"length_required" in heard.octets) == ([411], True)
        assert say(served.port, counted).statuses == [500], "and one with a length comes as far as the settings"


def test_it_imports_nothing_of_amazon_s_and_no_vendor_s_client() -> None:
    program = (
        "import sys, handlers.cloud_function\n"
        "roots = {'boto3', 'botocore', 'mangum', 'awslambdaric', 'aws_lambda_powertools', 's3transfer'}\n"
        "found = {name.split('.')[0] for name in sys.modules} & roots\n"
        "print(sorted(found | {'google.cloud.storage', 'google.auth', 'jwt'} & set(sys.modules)))\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert (ran.returncode, ran.stdout.strip()) == (0, "[]"), ran.stderr


def test_a_deployed_main_only_names_the_target(tmp_path: Path) -> None:
    """As a buildpack looks for it."""
    (tmp_path / "main.py").write_text("from handlers.cloud_function import steward\n")
    program = (
        "import functions_framework\n"
        "app = functions_framework.create_app('steward', 'main.py')\n"
        "print(type(app).__module__.split('.')[0])\n"
    )
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120
    )
    assert (ran.returncode, ran.stdout.strip()) == (0, "starlette"), ran.stderr
