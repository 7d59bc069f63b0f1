"""The extension against a stand-in of Lambda's API: registered at the start, and asking only when its work is done."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

import pytest

from handlers.aws_extension import Extension, NotRegistered, register
from tests.handlers.extensions import INVOKE, Api, invoke
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


def test_after_a_lost_event_it_waits_for_the_end_of_the_next_invocation(api: Api, extend: Extend) -> None:
    """Not for the one whose event it never saw: its work would come a call too early from then on."""
    worked: queue.Queue[float | None] = queue.Queue()
    extension = extend(worked.put)
    assert api.asked.get(timeout=10)
    extension.invocation_ended(1.0, "first")
    api.events.put((200, b"of the first, and broken"))
    assert api.asked.get(timeout=10)
    api.events.put(invoke("second"))
    with pytest.raises(queue.Empty):
        worked.get(timeout=0.05)
    extension.invocation_ended(2.0, "second")
    assert worked.get(timeout=10) == 2.0
    assert api.asked.get(timeout=10)


def test_an_event_may_come_before_the_invocation_ahead_of_it_has_ended(api: Api, extend: Extend) -> None:
    worked: queue.Queue[float | None] = queue.Queue()
    extension = extend(worked.put)
    assert api.asked.get(timeout=10)
    extension.invocation_ended(1.0, "first")
    extension.invocation_ended(2.0, "second")
    for ident, until in (("second", 2.0), ("first", 1.0)):
        api.events.put(invoke(ident))
        assert worked.get(timeout=10) == until


def test_who_says_no_id_is_taken_as_he_comes(api: Api, extend: Extend) -> None:
    worked: queue.Queue[float | None] = queue.Queue()
    extension = extend(worked.put)
    for event, said in ((INVOKE, "an-id"), (invoke("an-id"), None), (INVOKE, None)):
        assert api.asked.get(timeout=10)
        api.events.put(event)
        extension.invocation_ended(3.0, said)
        assert worked.get(timeout=10) == 3.0


def test_what_ended_without_an_event_is_kept_in_bounds(api: Api) -> None:
    extension = Extension(api.address, "an-identifier", lambda until: None)
    for number in range(1000):
        extension.invocation_ended(1.0, str(number))
    assert len(extension._ended) == 64


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
