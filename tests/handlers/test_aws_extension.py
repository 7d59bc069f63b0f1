"""The extension against a stand-in of Lambda's API: registered at the start, and asking only when its work is done."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

import pytest

from handlers.aws_extension import Extension, NotRegistered, register
from tests.handlers.extensions import INVOKE, Api
from tests.said import Said, listening


@pytest.fixture(autouse=True)
def said() -> Iterator[Said]:
    with listening() as heard:
        yield heard


@pytest.fixture
def api() -> Iterator[Api]:
    served = Api()
    yield served
    served.close()


Extend = Callable[[Callable[[float | None], None]], Extension]


@pytest.fixture
def extend(api: Api) -> Iterator[Extend]:
    """Extensions that are closed before the API is."""
    made: list[Extension] = []

    def extended(work: Callable[[float | None], None]) -> Extension:
        made.append(Extension(api.address, "an-identifier", work))
        made[-1].start()
        return made[-1]

    yield extended
    for each in made:
        each.close()


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


def test_it_asks_for_the_next_event_only_when_its_work_is_done(api: Api, extend: Extend) -> None:
    begun, done, given = threading.Event(), threading.Event(), []

    def work(until: float | None) -> None:
        given.append(until)
        begun.set()
        done.wait(20)

    extension = extend(work)
    assert api.asked.get(timeout=10) == "an-identifier"
    api.events.put(INVOKE)
    assert not begun.wait(0.05), "the invocation has not ended"
    extension.invocation_ended(12.5)
    assert begun.wait(10) and given == [12.5]
    assert api.asked.empty(), "asked, Lambda would freeze the work"
    done.set()
    assert api.asked.get(timeout=10) == "an-identifier"


def test_work_that_fails_does_not_end_it(api: Api, extend: Extend, said: Said) -> None:
    def work(until: float | None) -> None:
        raise KeyError("canary")

    extension = extend(work)
    for _ in range(3):
        assert api.asked.get(timeout=10)
        extension.invocation_ended()
        api.events.put(INVOKE)
    assert api.asked.get(timeout=10)
    assert said.events().count("after_response_failed") == 3 and "canary" not in said.text


def test_once_closed_it_asks_no_more(api: Api, extend: Extend, said: Said) -> None:
    extension = extend(lambda until: None)
    assert api.asked.get(timeout=10)
    extension.close()
    api.events.put((0, None))
    extension._thread.join(10)
    assert not extension._thread.is_alive() and said.events() == []


@pytest.mark.parametrize("odd", [(500, {}), (200, b"no json"), (200, []), (200, {"eventType": "SHUTDOWN"}), (0, None)])
def test_what_is_no_invocation_is_passed_over(api: Api, extend: Extend, odd: tuple[int, object]) -> None:
    worked: queue.Queue[float | None] = queue.Queue()
    extension = extend(worked.put)
    assert api.asked.get(timeout=10)
    api.events.put(odd)
    assert api.asked.get(timeout=10), "it asks again"
    assert worked.empty()
    api.events.put(INVOKE)
    extension.invocation_ended(1.0)
    assert worked.get(timeout=10) == 1.0
