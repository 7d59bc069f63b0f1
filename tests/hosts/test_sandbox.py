"""The stand-in for Lambda itself: the rules it claims to keep, shown with functions that use nothing of ours."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest

from tests.servers.lambda_sandbox import Reset, Sandbox
from tests.servers.waiting import eventually

MakeSandbox = Callable[..., Sandbox]
ENVIRON = {"PATH": os.environ["PATH"]}


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[MakeSandbox]:
    """Starts sandboxes of the trivial function; each is ended with the test."""
    numbers = count()
    with ExitStack() as undo:

        def made(environ: dict[str, str] | None = None, **options: object) -> Sandbox:
            folder = tmp_path / f"sandbox-{next(numbers)}"
            return undo.enter_context(
                Sandbox("tests.hosts.trivial.handler", ENVIRON | (environ or {}), folder, **options)  # type: ignore[arg-type]
            )

        yield made


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A pipe: who reads from it waits until the test has written."""
    os.mkfifo(tmp_path / "gate")
    return tmp_path / "gate"


def stopped(pid: int) -> bool:
    """Whether the kernel says so of every thread: one on another processor stops a moment later."""
    states = {task.read_text().rpartition(")")[2].split()[0] for task in Path(f"/proc/{pid}/task").glob("*/stat")}
    return states == {"T"}


def ticks_of(pid: int) -> int:
    """Processor time that a process used so far, in the kernel's own small unit: nanoseconds."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir())


def test_a_thread_makes_no_progress_while_frozen(sandbox: MakeSandbox) -> None:
    """It counts within calls alone: the process is stopped before the next event comes, and used nothing since."""
    one, other = sandbox(), sandbox()
    first = one.invoke({"do": "count"})
    one.idle()
    eventually(lambda: stopped(one.process.pid))
    used = ticks_of(one.process.pid)
    for _ in range(50):
        other.invoke({"do": "nothing"})
    assert ticks_of(one.process.pid) == used
    assert one.frozen
    eventually(lambda: one.invoke({"do": "count"}) > first)


def test_an_extension_of_its_own_keeps_the_sandbox_awake(sandbox: MakeSandbox, gate: Path, tmp_path: Path) -> None:
    """The answer is there before the work is done, and the process is stopped after it, not before."""
    one = sandbox({"EXTENDS": "1", "GATE": str(gate)})
    left = tmp_path / "left"
    assert one.invoke({"do": "later", "file": str(left)}) == "answered"
    assert not one.frozen
    assert not left.exists()
    gate.write_text("on")
    one.idle()
    assert left.read_text() == "done"
    assert one.extensions == ["trivial"]


def test_without_an_extension_it_is_frozen_after_the_answer(sandbox: MakeSandbox, tmp_path: Path) -> None:
    one = sandbox(extensions=False)
    assert one.invoke({"do": "later", "file": str(tmp_path / "left")}) == "answered"
    one.idle()
    assert one.frozen


def test_it_refuses_what_lambda_refuses(sandbox: MakeSandbox, gate: Path) -> None:
    """SHUTDOWN for an extension of the runtime's own process, and registering after Init."""
    one = sandbox({"EXTENDS": "1", "GATE": str(gate)})
    said = one.invoke({"do": "register"})
    assert said == [
        *(403, "Extension.RegistrationClosed"),
        *(403, "ShutdownEventNotSupportedForInternalExtension"),
    ]
    assert len(one.refused) == 2


def test_the_context_is_lambdas_own(sandbox: MakeSandbox) -> None:
    one = sandbox(timeout_s=30.0)
    call = one.begin({"do": "nothing", "ümlaut": "ü"})
    said = call.response()
    assert said["id"] == call.id
    assert said["event"] == {"do": "nothing", "ümlaut": "ü"}
    assert 0 < said["left_ms"] <= 30_000


def test_errors_are_kept_as_reported(sandbox: MakeSandbox) -> None:
    answered = sandbox().begin({"do": "fail"}).answered()
    assert (answered.kind, answered.json()["errorType"], answered.json()["errorMessage"]) == (
        *("error", "ValueError", "as told"),
    )


def test_an_init_error_is_kept_and_there_is_no_sandbox(tmp_path: Path) -> None:
    with Sandbox("tests.hosts.absent.handler", ENVIRON, tmp_path) as one:
        with pytest.raises(Reset):
            one.invoke({})
        assert one.init_error["errorType"] == "Runtime.ImportModuleError"


def test_an_answer_that_is_too_large_is_refused(sandbox: MakeSandbox) -> None:
    """Six megabytes; then the runtime reports an error, or ends."""
    one = sandbox()
    assert len(one.invoke({"do": "large", "size": 5_000_000})) == 5_000_000
    call = one.begin({"do": "large", "size": 7_000_000})
    eventually(lambda: call.over.is_set() or one.process.poll() is not None)
    assert one.refused == [("/invocation/response", "Function.ResponseSizeTooLarge")]


@pytest.mark.parametrize("end", ["exit", "hang"])
def test_a_sandbox_that_ends_answers_nobody(sandbox: MakeSandbox, end: str) -> None:
    """Whether it ends itself or its time is up."""
    one = sandbox(timeout_s=1.0)
    call = one.begin({"do": end})
    with pytest.raises(Reset):
        call.answered()
    one.process.wait()


def test_killed_in_the_instant_of_the_answer(sandbox: MakeSandbox) -> None:
    """The caller has it; the process never heard that he has."""
    one = sandbox()
    assert one.invoke({"do": "nothing"}, then="kill")["event"] == {"do": "nothing"}
    with pytest.raises(Reset):
        one.idle()


def test_frozen_in_the_instant_of_the_answer(sandbox: MakeSandbox) -> None:
    one = sandbox()
    one.invoke({"do": "nothing"}, then="freeze")
    eventually(lambda: stopped(one.process.pid))
    one.thaw()
    assert one.invoke({"do": "nothing"})["event"] == {"do": "nothing"}


def test_two_sandboxes_are_two_processes_with_their_own_folders(sandbox: MakeSandbox) -> None:
    one, other = sandbox(), sandbox()
    kept = Path(one.invoke({"do": "keep"}))
    assert (one.left(), other.left()) == ([kept.name], [])
    one.idle()
    assert str(kept) in one.descriptors().values()
    assert one.process.pid != other.process.pid


def test_a_stream_is_here_piece_by_piece(gate: Path, tmp_path: Path) -> None:
    """Each as it was sent, with its moment; the prelude apart, and the trailers."""
    environ = ENVIRON | {"GATE": str(gate), "PYTHONPATH": str(Path(__file__).parents[2])}
    with Sandbox("x", environ, tmp_path / "one", (sys.executable, "-m", "tests.hosts.trivial")) as one:
        call = one.begin({"pieces": ["a", "b"], "fails": True})
        eventually(lambda: call.answer is not None and len(call.answer.chunks) == 2)
        assert not call.over.is_set()
        gate.write_text("on")
        answered = call.answered()
        assert answered.streams
        assert answered.prelude() == {"statusCode": 200}
        assert answered.streamed() == b"ab"
        assert answered.trailers == [(b"Lambda-Runtime-Function-Error-Type", b"Trivial")]
        assert [at for at, _ in answered.chunks] == sorted(at for at, _ in answered.chunks)
        one.idle()
