"""Every way into the product, as one noun: a caller's request in, what he gets back; and what stands behind it.

An entry says what its host cannot keep of a message (the order of repeats, their separation), and nothing else: what
it does not name, the suite expects unchanged.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from steward.adapters.postgres_local import LocalPostgres
from tests.hosts.fronts import ADDED_NAMES, Alb, Front, FunctionUrl, StreamingUrl, by_name, fields_of, joined
from tests.servers.function import ON_GOOGLE, function
from tests.servers.ingest_butler import IngestButler, Organisation, serving
from tests.servers.lambda_rie import Emulator
from tests.servers.lambda_sandbox import Answered, Sandbox
from tests.servers.listening import free_port
from tests.servers.plain_http import Fields, Message, Request, call
from tests.servers.steward import Installation, RunningSteward, installed, served

BUFFERED = "handlers.aws_lambda.handler"
STREAMING = (sys.executable, "-m")
COUNTS = "steward-metrics-"
"""The folder in which a server's processes count for `/metrics`, from their start on: numbers, of no one call."""
NOT_ON_LAMBDA = ("HOST", "PORT", "SPOOL_DIR", "SHUTDOWN_DELAY", "TMPDIR")
TOKEN = "mdm_st_0" + "t" * 32

Call = Callable[[Request], Message]


def unchanged(fields: Fields) -> Fields:
    """A host that keeps everything."""
    return fields


@dataclass
class Entry:
    """One of them, served."""

    name: str
    installation: Installation
    butler: IngestButler
    carried: Call
    """A request without a key added, as its front carries it."""
    kept: Callable[[Fields], Fields] = unchanged
    """Of the fields of a message, what the host can keep."""
    added: set[bytes] = field(default_factory=set)
    """Names of fields that the host puts into a request."""
    framed: set[bytes] = field(default_factory=set)
    """Names of fields that the host puts into an answer."""
    verdicts: Mapping[str, int] = field(default_factory=dict)
    """Lines of F9's table that the host's own framework refuses, in its words and with its status."""
    buffered: bool = False
    """Streams arrive whole."""
    sandbox: Sandbox | None = None
    front: Front | None = None
    handed: Callable[[Any], Any] | None = None
    """Hands an event over and gives the function's answer; None where callers come by socket."""
    port: int = 0
    """Where they do."""
    sample: bool = False
    """Differs from another entry so little that one recording of each kind is enough."""
    left: Callable[[], list[str]] = list
    """What lies in the host's temporary folder."""

    def call(self, request: Request) -> Message:
        """One request with the key."""
        fields = [*request.fields, (b"X-Majordomo-Key", self.installation.key.encode())]
        return self.carried(replace(request, fields=fields))

    def exported(self) -> dict[str, dict[str, Any]]:
        """What Butler has by id."""
        with self.butler.lock:
            return dict(self.butler.organisations[0].records)


def register(installation: Installation, butler: IngestButler) -> None:
    """By the product's own command."""
    done = installation.run("register", "--token", butler.organisations[0].token, "--butler-url", butler.url)
    assert done.returncode == 0, done.stderr


@contextmanager
def butler_of_one() -> Iterator[IngestButler]:
    """A Butler with one organisation."""
    with serving(IngestButler([Organisation(TOKEN)])) as butler:
        yield butler


def on_lambda(environ: Mapping[str, str], **settings: str) -> dict[str, str]:
    """An installation's environment as a function has it: no port, no spool."""
    return {name: value for name, value in environ.items() if name not in NOT_ON_LAMBDA} | settings


@contextmanager
def registered(
    server: LocalPostgres, folder: Path, provider_url: str, tcp: bool = False
) -> Iterator[tuple[Installation, IngestButler]]:
    """An installation that nobody serves yet, and its Butler. `tcp`: see `installed`."""
    with butler_of_one() as butler, installed(server, folder, provider_url, tcp=tcp) as made:
        register(made, butler)
        yield made, butler


@dataclass(frozen=True)
class Ground:
    """What an entry is started on: one installation serves all of them, one after the other."""

    made: Installation
    butler: IngestButler
    folder: Path
    """Of the entry's own."""
    emulator: Callable[[], Path]
    """Where AWS's emulator lies; it may skip the test."""


Start = Callable[[Ground, ExitStack], Entry]


def container(ground: Ground, undo: ExitStack) -> Entry:
    """`steward serve` by socket, settled by its own process."""
    made = settled_at_once(ground.made, ground.folder / "log")
    running: RunningSteward = undo.enter_context(served(made))

    def carried(request: Request) -> Message:
        return call(running.port, request)

    return Entry("container", running, ground.butler, carried, port=running.port)


def cloud_function(ground: Ground, undo: ExitStack) -> Entry:
    """The framework's own server by socket, in the environment that Google gives a function."""
    tmp = ground.folder / "tmp"
    tmp.mkdir()
    environ = {**on_lambda(ground.made.environ), **ON_GOOGLE, "PORT": str(free_port()), "TMPDIR": str(tmp)}
    made = replace(ground.made, environ=environ, log=ground.folder / "log")
    running = undo.enter_context(served(made, function))

    def carried(request: Request) -> Message:
        return call(running.port, request)

    return Entry(
        "function",
        running,
        ground.butler,
        carried,
        framed={b"function-execution-id"},
        verdicts={"an asterisk": 404},
        port=running.port,
        left=lambda: sorted(path.name for path in tmp.iterdir() if not path.name.startswith(COUNTS)),
    )


def settled_at_once(made: Installation, log: Path) -> Installation:
    """With a settler that does not let anybody wait."""
    return replace(made, environ={**made.environ, "BATCH_INTERVAL": "100ms"}, log=log)


def over_events(front: Front, handed: Callable[[Any], Any]) -> Call:
    """A request as an event, and what comes of it as an answer."""
    return lambda request: front.message(handed(front.event(request, fields_of(request))))


def sandboxed(front: Front, name: str, **settings: str) -> Start:
    """The buffered handler by the real runtime client in the sandbox that freezes."""

    def start(ground: Ground, undo: ExitStack) -> Entry:
        environ = on_lambda(ground.made.environ, **settings)
        sandbox = undo.enter_context(Sandbox(BUFFERED, environ, ground.folder))
        entry = of_sandbox(name, ground.made, ground.butler, sandbox, front)
        return replace(entry, sample=name != "alb")

    return start


def of_sandbox(name: str, made: Installation, butler: IngestButler, sandbox: Sandbox, front: Front) -> Entry:
    """An entry over a sandbox of the buffered handler."""

    kept = joined if isinstance(front, FunctionUrl) else by_name
    return Entry(
        name,
        replace(made, log=sandbox.log),
        butler,
        over_events(front, sandbox.invoke),
        kept,
        ADDED_NAMES,
        buffered=True,
        sandbox=sandbox,
        front=front,
        handed=sandbox.invoke,
        left=sandbox.left,
    )


def emulated(ground: Ground, undo: ExitStack) -> Entry:
    """The same handler in AWS's own emulator."""
    binary = ground.emulator()
    emulator = undo.enter_context(Emulator(binary, BUFFERED, on_lambda(ground.made.environ), ground.folder))
    front = Alb()
    return Entry(
        "emulator",
        replace(ground.made, log=emulator.log),
        ground.butler,
        over_events(front, emulator.invoke),
        by_name,
        ADDED_NAMES,
        buffered=True,
        front=front,
        handed=emulator.invoke,
        left=emulator.left,
    )


def streaming(ground: Ground, undo: ExitStack) -> Entry:
    """The streaming runtime in the sandbox, behind a Function URL."""
    environ = on_lambda(ground.made.environ)
    sandbox = undo.enter_context(Sandbox("handlers.aws_lambda_stream", environ, ground.folder, STREAMING))
    return of_stream(ground.made, ground.butler, sandbox)


def of_stream(made: Installation, butler: IngestButler, sandbox: Sandbox) -> Entry:
    """An entry over a sandbox of the streaming runtime."""
    front = StreamingUrl()

    def handed(event: Any) -> Answered:
        return sandbox.begin(event).answered()

    return Entry(
        "stream",
        replace(made, log=sandbox.log),
        butler,
        over_events(front, handed),
        joined,
        ADDED_NAMES,
        sandbox=sandbox,
        front=front,
        handed=handed,
        left=sandbox.left,
    )


ENTRIES: dict[str, Start] = {
    "container": container,
    "lambda behind a load balancer": sandboxed(Alb(), "alb"),
    "lambda behind a function URL": sandboxed(FunctionUrl(), "url"),
    "lambda that makes its caller wait": sandboxed(Alb(), "waits", AFTER_RESPONSE_WAIT="on"),
    "lambda in the emulator": emulated,
    "lambda that streams": streaming,
    "cloud function": cloud_function,
}


def request_id(answer: Message) -> str:
    """By which the row is found."""
    (value,) = (value for name, value in answer.ours() if name == b"x-majordomo-request-id")
    return value.decode()
