"""One execution environment of AWS Lambda: its Runtime and Extensions API over a real socket, and the process it runs.

The process is stopped (SIGSTOP to its group) as soon as the runtime and every extension that it registered have asked
for what comes next, and goes on when an event comes. It refuses to be kind: no registering after Init, no SHUTDOWN for
an extension of the runtime's own process, no second answer, none to a call that is not under way, 6 MB at most.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self
from uuid import uuid4

import orjson

from tests.servers.plain_http import Ended, Fields, Head, read_body, read_head
from tests.servers.waiting import eventually

REPOSITORY = Path(__file__).parents[2]
RUNTIME_CLIENT = (sys.executable, "-m", "awslambdaric")
ANSWER_MAX_BYTES = 6 * 1024 * 1024 + 100
TIMEOUT_S = 60.0
INIT_WITHIN_S = 60.0
SHUTDOWN_S = 0.5
"""What Lambda leaves a sandbox with an extension of its own process between SIGTERM and SIGKILL."""

ARN = "arn:aws:lambda:eu-central-1:000000000000:function:steward"
PRELUDE_END = bytes(8)

Then = Literal["goes_on", "kill", "freeze"]
"""What becomes of the process in the instant in which its answer is complete, before it is told so."""


class Reset(Exception):
    """The sandbox ended before the call was answered: what its caller is told is a 502."""


@dataclass
class Answered:
    """What the runtime gave for one event."""

    fields: Fields
    kind: Literal["response", "error"]
    chunks: list[tuple[float, bytes]] = field(default_factory=list)
    """Each with the monotonic moment at which it was here; one piece for an answer that came by its length."""
    trailers: Fields = field(default_factory=list)
    complete: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(piece for _, piece in self.chunks)

    @property
    def streams(self) -> bool:
        return self.value(b"lambda-runtime-function-response-mode") == b"streaming"

    def value(self, name: bytes) -> bytes:
        """The first value of a field, `name` in lower case; or nothing."""
        return next((value for key, value in self.fields if key.lower() == name), b"")

    def json(self) -> Any:
        return orjson.loads(self.body)

    def prelude(self) -> dict[str, Any]:
        """Status, headers and cookies of a streamed answer."""
        said: dict[str, Any] = orjson.loads(self.body.partition(PRELUDE_END)[0])
        return said

    def streamed(self) -> bytes:
        """What follows the prelude."""
        return self.body.partition(PRELUDE_END)[2]


@dataclass
class Invocation:
    """One event that was handed over, and what became of it."""

    event: object
    deadline_ms: int
    then: Then = "goes_on"
    id: str = field(default_factory=lambda: str(uuid4()))
    began_at: float = field(default_factory=time.monotonic)
    answer: Answered | None = None
    """Stands from the first octet of the answer on."""
    over: threading.Event = field(default_factory=threading.Event)
    """Answered, or its sandbox is no more."""

    def answered(self, within_s: float = TIMEOUT_S) -> Answered:
        """The whole answer. Raises Reset."""
        assert self.over.wait(within_s), f"no answer within {within_s} s"
        if self.answer is None or not self.answer.complete:
            raise Reset
        return self.answer

    def response(self, within_s: float = TIMEOUT_S) -> Any:
        """The answer as a document; AssertionError when the function reported an error instead."""
        answered = self.answered(within_s)
        assert answered.kind == "response", answered.body
        return answered.json()


@dataclass
class _Asker:
    """Who asks for what comes next: the runtime, or an extension."""

    name: str
    asks: bool = False
    handed: queue.SimpleQueue[Invocation | None] = field(default_factory=queue.SimpleQueue)


def function_environ(
    environ: Mapping[str, str], api: str, handler: str, tmp: Path, memory_mb: int = 1024
) -> dict[str, str]:
    """`environ` and what Lambda sets beside it for a function of the managed Python runtime."""
    return {
        **environ,
        "AWS_LAMBDA_RUNTIME_API": api,
        "AWS_LAMBDA_FUNCTION_NAME": "steward",
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(memory_mb),
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/steward",
        "AWS_LAMBDA_LOG_STREAM_NAME": "2026/11/21/[$LATEST]0",
        "AWS_EXECUTION_ENV": "AWS_Lambda_python3.12",
        "AWS_REGION": "eu-central-1",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "LAMBDA_TASK_ROOT": str(REPOSITORY),
        "LAMBDA_RUNTIME_DIR": "/var/runtime",
        "PYTHONDONTWRITEBYTECODE": "1",
        "TZ": ":UTC",
        "TMPDIR": str(tmp),
        "_HANDLER": handler,
    }


class Sandbox:
    """One process and its API. `with` starts it; leaving ends it as Lambda does: SIGTERM, and SIGKILL soon after.

    `extensions=False` refuses them all, as a host that does not know of any.
    """

    def __init__(
        self,
        handler: str,
        environ: Mapping[str, str],
        folder: Path,
        command: tuple[str, ...] = RUNTIME_CLIENT,
        timeout_s: float = TIMEOUT_S,
        extensions: bool = True,
    ) -> None:
        self.folder = folder
        self.tmp = folder / "tmp"
        self.log = folder / "log"
        self.timeout_s = timeout_s
        self.init_error: Any = None
        self.refused: list[tuple[str, str]] = []
        """What this API was asked for and refused: the path and the error type."""
        self._extensions_allowed = extensions
        self._command = command
        self._handler = handler
        self._environ = environ
        self._changed = threading.Condition()
        self._runtime = _Asker("runtime")
        self._extensions: dict[str, _Asker] = {}
        self._initialised = False
        self._frozen = False
        self._ended = False
        self._current: Invocation | None = None
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._open: dict[socket.socket, threading.Thread] = {}
        self._timer: threading.Timer | None = None
        self._acceptor = threading.Thread(target=self._accept, name="lambda", daemon=True)

    def __enter__(self) -> Self:
        self.tmp.mkdir(parents=True, exist_ok=True)
        api = "{}:{}".format(*self._listener.getsockname())
        environ = function_environ(self._environ, api, self._handler, self.tmp)
        self._acceptor.start()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self._command, self._handler],
                env=environ,
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        threading.Thread(target=self._watch, name="lambda process", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self._signal(signal.SIGCONT)
            self._signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(SHUTDOWN_S)
        self.kill()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join()
        with self._changed:
            running = dict(self._open)
        for sock in running:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in running.values():
            thread.join()

    # What a test does

    def begin(self, event: object, then: Then = "goes_on") -> Invocation:
        """Hands an event over once the sandbox is idle, as Lambda does, and returns at once."""
        self.idle()
        invocation = Invocation(event, int((time.time() + self.timeout_s) * 1000), then)
        with self._changed:
            self._current = invocation
            self._frozen = False
            self._signal(signal.SIGCONT)
            for asker in (self._runtime, *self._extensions.values()):
                asker.asks = False
                asker.handed.put(invocation)
        self._timer = threading.Timer(self.timeout_s, self._timed_out, (invocation,))
        self._timer.daemon = True
        self._timer.start()
        return invocation

    def invoke(self, event: object, then: Then = "goes_on") -> Any:
        """The answer to one event, as a document. What comes after the answer may still be under way. Raises Reset."""
        return self.begin(event, then).response()

    def idle(self, within_s: float = INIT_WITHIN_S) -> None:
        """Returns once all have asked for what comes next, and the process is stopped. Raises Reset."""

        def still() -> bool:
            if self._ended or self.process.poll() is not None:
                self._end()
                raise Reset(self.said().decode(errors="replace")[-4000:])
            return self.frozen and self._all_ask()

        eventually(still, within_s)

    def freeze(self) -> None:
        """At once, whatever the process is doing."""
        with self._changed:
            self._frozen = True
            self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets the process go on where `freeze` stopped it."""
        with self._changed:
            self._frozen = False
            self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """As a host does that loses it."""
        self._signal(signal.SIGKILL)
        self.process.wait()
        self._end()

    @property
    def frozen(self) -> bool:
        """Whether the process is stopped."""
        return self._frozen

    @property
    def extensions(self) -> list[str]:
        """Names of those that registered."""
        return [each.name for each in self._extensions.values()]

    def said(self) -> bytes:
        """All that it wrote, stdout and stderr."""
        return self.log.read_bytes()

    def left(self) -> list[str]:
        """What lies in its TMPDIR."""
        return sorted(str(path.relative_to(self.tmp)) for path in self.tmp.rglob("*"))

    def descriptors(self) -> dict[int, str]:
        """What its process holds open, by number."""
        held: dict[int, str] = {}
        for entry in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                held[int(entry.name)] = os.readlink(entry)
        return held

    def _signal(self, number: signal.Signals) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)

    def _watch(self) -> None:
        self.process.wait()
        self._end()

    def _all_ask(self) -> bool:
        return self._runtime.asks and all(each.asks for each in self._extensions.values())

    def _end(self) -> None:
        with self._changed:
            self._ended = True
            if self._timer is not None:
                self._timer.cancel()
            for asker in (self._runtime, *self._extensions.values()):
                asker.handed.put(None)
            if self._current is not None:
                self._current.over.set()

    def _timed_out(self, invocation: Invocation) -> None:
        """The function's time is up for runtime and extensions alike: the sandbox is reset."""
        with self._changed:
            running = self._current is invocation
        if running:
            self.kill()

    # What the process asks for

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                thread = threading.Thread(target=self._serve, args=(sock,), name="lambda connection", daemon=True)
                with self._changed:
                    self._open[sock] = thread
                thread.start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            with sock, sock.makefile("rb") as stream, contextlib.suppress(OSError, Ended):
                while (head := read_head(stream)) is not None:
                    if head.values(b"expect"):
                        sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                    reply = self._reply(head, stream)
                    if reply is None:
                        return
                    sock.sendall(reply)
        finally:
            with self._changed:
                self._open.pop(sock, None)

    def _reply(self, head: Head, stream: BinaryIO) -> bytes | None:
        """What is written back; None when the sandbox ended meanwhile."""
        method, target, _ = head.first.decode().split(" ")
        match method, target.strip("/").split("/"):
            case "GET", ["2018-06-01", "runtime", "invocation", "next"]:
                return self._next_for_runtime()
            case "POST", ["2018-06-01", "runtime", "invocation", ident, "response" | "error" as kind]:
                return self._take(ident, kind, head, stream)
            case "POST", ["2018-06-01", "runtime", "init", "error"]:
                self.init_error = orjson.loads(read_body(stream, head))
                return _reply(202, {"status": "OK"})
            case "POST", ["2020-01-01", "extension", "register"]:
                return self._register(head, read_body(stream, head))
            case "GET", ["2020-01-01", "extension", "event", "next"]:
                return self._next_for_extension(head)
            case "POST", ["2020-01-01", "extension", "init" | "exit", "error"]:
                read_body(stream, head)
                return _reply(202, {"status": "OK"})
        read_body(stream, head)
        return self._refuse(404, target, "NotFound")

    def _refuse(self, status: int, target: str, kind: str) -> bytes:
        self.refused.append((target, kind))
        return _reply(status, {"errorType": kind, "errorMessage": kind})

    def _ask(self, asker: _Asker) -> Invocation | None:
        with self._changed:
            asker.asks = True
            if self._all_ask():
                if self._timer is not None:
                    self._timer.cancel()
                self._current = None
                self._frozen = True
                self._signal(signal.SIGSTOP)
        return asker.handed.get()

    def _next_for_runtime(self) -> bytes | None:
        self._initialised = True
        invocation = self._ask(self._runtime)
        if invocation is None:
            return None
        fields = {
            "Lambda-Runtime-Aws-Request-Id": invocation.id,
            "Lambda-Runtime-Deadline-Ms": str(invocation.deadline_ms),
            "Lambda-Runtime-Invoked-Function-Arn": ARN,
            "Lambda-Runtime-Trace-Id": "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Parent=9a9197af755a6419;Sampled=0",
        }
        return _reply(200, invocation.event, fields)

    def _next_for_extension(self, head: Head) -> bytes | None:
        ident = b"".join(head.values(b"lambda-extension-identifier")).decode()
        asker = self._extensions.get(ident)
        if asker is None:
            return self._refuse(403, "/extension/event/next", "Extension.InvalidExtensionIdentifier")
        invocation = self._ask(asker)
        if invocation is None:
            return None
        said = {
            "eventType": "INVOKE",
            "deadlineMs": invocation.deadline_ms,
            "requestId": invocation.id,
            "invokedFunctionArn": ARN,
            "tracing": {"type": "X-Amzn-Trace-Id", "value": "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Sampled=0"},
        }
        return _reply(200, said, {"Lambda-Extension-Event-Identifier": str(uuid4())})

    def _register(self, head: Head, body: bytes) -> bytes:
        name = b"".join(head.values(b"lambda-extension-name")).decode()
        events = orjson.loads(body).get("events", [])
        if not name:
            return self._refuse(403, "/extension/register", "Extension.InvalidExtensionName")
        if self._initialised or not self._extensions_allowed:
            return self._refuse(403, "/extension/register", "Extension.RegistrationClosed")
        if any(event != "INVOKE" for event in events):
            return self._refuse(403, "/extension/register", "ShutdownEventNotSupportedForInternalExtension")
        if len(self._extensions) == 10:
            return self._refuse(403, "/extension/register", "Extension.TooManyExtensions")
        ident = str(uuid4())
        with self._changed:
            self._extensions[ident] = _Asker(name)
        said = {"functionName": "steward", "functionVersion": "$LATEST", "handler": self._handler}
        return _reply(200, said, {"Lambda-Extension-Identifier": ident})

    def _take(self, ident: str, kind: str, head: Head, stream: BinaryIO) -> bytes | None:
        invocation = self._current
        if invocation is None or invocation.id != ident or invocation.answer is not None:
            read_body(stream, head)
            return self._refuse(400, f"/invocation/{kind}", "InvalidRequestID")
        answer = Answered(head.fields, "response" if kind == "response" else "error")
        invocation.answer = answer
        for piece in _pieces(stream, head, answer.trailers):
            answer.chunks.append((time.monotonic(), piece))
        if not answer.streams and len(answer.body) > ANSWER_MAX_BYTES:
            invocation.answer = None
            return self._refuse(413, f"/invocation/{kind}", "Function.ResponseSizeTooLarge")
        answer.complete = True
        if invocation.then == "kill":
            self.kill()
        elif invocation.then == "freeze":
            self.freeze()
        invocation.over.set()
        return _reply(202, {"status": "OK"})


def _reply(status: int, said: object, fields: Mapping[str, str] | None = None) -> bytes:
    """One message in one piece: of two, the second would wait for the first's acknowledgement."""
    body = orjson.dumps(said)
    lines = [f"HTTP/1.1 {status} Said", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (fields or {}).items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def _pieces(stream: BinaryIO, head: Head, trailers: Fields) -> Iterator[bytes]:
    """The body as it comes; `trailers` has what follows the last chunk. Raises Ended."""
    if not any(b"chunked" in value.lower() for value in head.values(b"transfer-encoding")):
        yield read_body(stream, head)
        return
    while True:
        line = stream.readline()
        if not line.endswith(b"\n"):
            raise Ended
        size = int(line.split(b";")[0], 16)
        if size == 0:
            break
        piece = stream.read(size + 2)
        if len(piece) < size + 2:
            raise Ended
        yield piece[:-2]
    while (line := stream.readline()) != b"\r\n":
        if not line:
            raise Ended
        name, _, value = line.partition(b":")
        trailers.append((name, value.strip()))
