"""Our side of the Lambda Runtime API against a server on real sockets: what is written, and what breaks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import uvloop

from handlers.runtime_api import Fault, Invocation, ResponseRefused, RuntimeApi, RuntimeApiLost, StreamedResponse
from tests.servers.streaming_runtime_api import Invoked, RuntimeApiServer

LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
FAULT = Fault("Steward.Broken", "It broke.")
DOCUMENT = {"errorMessage": "It broke.", "errorType": "Steward.Broken", "stackTrace": []}


@pytest.fixture
def server() -> Iterator[RuntimeApiServer]:
    running = RuntimeApiServer()
    yield running
    running.close()


@pytest.fixture(params=LOOPS.values(), ids=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    """Runs a story on each kind of loop."""

    def told(story: Coroutine[Any, Any, None]) -> None:
        async def in_time() -> None:
            async with asyncio.timeout(60):
                await story
                for _ in range(5):  # what was closed is gone before the loop is
                    await asyncio.sleep(0)

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(in_time())

    return told


Run = Callable[[Coroutine[Any, Any, None]], None]


async def begun(server: RuntimeApiServer, **options: Any) -> tuple[RuntimeApi, Invoked, StreamedResponse]:
    """An event that was taken, and its response before the first octet."""
    invoked = server.invoke(b"{}", **options)
    api = RuntimeApi(server.authority)
    taken = await api.next()
    assert taken.id == invoked.id
    return api, invoked, await api.respond(taken.id)


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_the_next_event_with_its_id_and_deadline(server: RuntimeApiServer, run: Run, chunked: bool) -> None:
    server.chunked_events = chunked
    event = b'{"a":"' + b"x" * 300_000 + b'"}'
    invoked = server.invoke(event)

    async def story() -> None:
        taken = await RuntimeApi(server.authority).next()
        assert taken == Invocation(invoked.id, int(invoked.deadline_s * 1000) / 1000, event)
        assert "xxxx" not in repr(taken)

    run(story())


def test_each_piece_is_a_chunk_of_its_own_there_before_the_next_is_given(server: RuntimeApiServer, run: Run) -> None:
    async def story() -> None:
        _, invoked, response = await begun(server)
        for piece in (b"one", b"two" * 100_000, b"three"):
            await response.write(piece)
            assert await asyncio.to_thread(invoked.next_chunk) == piece
        await response.end()
        assert await asyncio.to_thread(invoked.next_chunk) is None
        assert invoked.done.is_set()
        assert (invoked.trailers, invoked.cut) == ([], False)
        assert invoked.head is not None
        assert invoked.head.first.endswith(b"/invocation/" + invoked.id.encode() + b"/response HTTP/1.1")
        assert invoked.head.values(b"lambda-runtime-function-response-mode") == [b"streaming"]
        assert invoked.head.values(b"content-type") == [b"application/vnd.awslambda.http-integration-response"]
        assert invoked.head.values(b"transfer-encoding") == [b"chunked"]
        assert invoked.head.values(b"trailer")

    run(story())


def test_what_cannot_be_finished_says_so_in_its_trailers(server: RuntimeApiServer, run: Run) -> None:
    async def story() -> None:
        _, invoked, response = await begun(server)
        await response.write(b"one")
        await response.break_off(FAULT)
        assert invoked.done.wait(60)
        assert invoked.fault() == ("Steward.Broken", DOCUMENT)
        assert not invoked.cut

    run(story())


def test_errors_of_an_invocation_and_of_the_start(server: RuntimeApiServer, run: Run) -> None:
    async def story() -> None:
        api = RuntimeApi(server.authority)
        invoked = server.invoke(b"{}")
        await api.fail((await api.next()).id, FAULT)
        await api.init_failed(FAULT)
        assert invoked.error == DOCUMENT
        head, document = server.init_errors.get(timeout=60)
        assert document == DOCUMENT
        assert invoked.head is not None
        for each in (head, invoked.head):
            assert each.values(b"lambda-runtime-function-error-type") == [b"Steward.Broken"]

    run(story())


def test_nothing_more_is_written_than_the_other_side_takes(server: RuntimeApiServer, run: Run) -> None:
    """Of an endless response only what buffers hold is written; it goes on when the other side reads."""

    async def story() -> None:
        holds = threading.Event()
        _, invoked, response = await begun(server, reads=holds)
        piece, written = b"x" * 65_536, 0
        writing = asyncio.ensure_future(response.write(piece))
        while (await asyncio.wait((writing,), timeout=1.0))[0]:
            written += 1
            assert written < 1_000, "nobody reads, and it is written all the same"
            writing = asyncio.ensure_future(response.write(piece))
        invoked.reads.set()
        await writing
        await response.end()
        assert invoked.read_bytes == (written + 1) * len(piece)

    run(story())


def test_a_response_that_is_refused_before_its_end(server: RuntimeApiServer, run: Run) -> None:
    async def story() -> None:
        _, invoked, response = await begun(server, refuse_after=b"one")
        refused = asyncio.ensure_future(response.refused())
        await response.write(b"one")
        assert await asyncio.to_thread(invoked.next_chunk) == b"one"
        await refused
        with pytest.raises(ResponseRefused):
            await response.write(b"two")
        with pytest.raises(ResponseRefused):
            await response.end()
        with pytest.raises(ResponseRefused):
            await response.break_off(FAULT)
        response.close()

    run(story())


NEXT = {
    "hangs up": b"",
    "no HTTP": b"hello\r\n\r\n",
    "an error": b"HTTP/1.1 500 Error\r\nLambda-Runtime-Aws-Request-Id: a\r\nLambda-Runtime-Deadline-Ms: 1\r\n"
    b"Content-Length: 0\r\n\r\n",
    "no id": b"HTTP/1.1 200 OK\r\nLambda-Runtime-Deadline-Ms: 1\r\nContent-Length: 2\r\n\r\n{}",
    "a path for an id": b"HTTP/1.1 200 OK\r\nLambda-Runtime-Aws-Request-Id: ../x\r\nLambda-Runtime-Deadline-Ms: 1\r\n"
    b"Content-Length: 2\r\n\r\n{}",
    "no deadline": b"HTTP/1.1 200 OK\r\nLambda-Runtime-Aws-Request-Id: a\r\nLambda-Runtime-Deadline-Ms: soon\r\n"
    b"Content-Length: 2\r\n\r\n{}",
    "half an event": b"HTTP/1.1 200 OK\r\nLambda-Runtime-Aws-Request-Id: a\r\nLambda-Runtime-Deadline-Ms: 1\r\n"
    b"Content-Length: 20\r\n\r\n{}",
    "too much": b"HTTP/1.1 200 OK\r\nLambda-Runtime-Aws-Request-Id: a\r\nLambda-Runtime-Deadline-Ms: 1\r\n"
    b"Content-Length: 34000000\r\n\r\n" + b"x" * 34_000_000,
}


@pytest.mark.parametrize("said", NEXT.values(), ids=NEXT)
def test_a_runtime_api_that_says_what_it_may_not(server: RuntimeApiServer, run: Run, said: bytes) -> None:
    server.answer_next = said

    async def story() -> None:
        with pytest.raises(RuntimeApiLost):
            await RuntimeApi(server.authority).next()

    run(story())


def test_nobody_is_there(server: RuntimeApiServer, run: Run) -> None:
    server.close()

    async def story() -> None:
        with pytest.raises(RuntimeApiLost):
            await RuntimeApi(server.authority).next()
        with pytest.raises(RuntimeApiLost):
            await RuntimeApi(server.authority).init_failed(FAULT)

    run(story())


def test_waiting_for_an_event_can_be_ended(server: RuntimeApiServer, run: Run) -> None:
    """Who stops waiting takes no event with him."""

    async def story() -> None:
        api = RuntimeApi(server.authority)
        waiting = asyncio.ensure_future(api.next())
        assert await asyncio.to_thread(server.next_asked.acquire, timeout=60)
        waiting.cancel()
        await asyncio.wait((waiting,))
        for _ in range(5):
            await asyncio.sleep(0)
        invoked = server.invoke(b"{}")
        assert (await api.next()).id == invoked.id

    run(story())
