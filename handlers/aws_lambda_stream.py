"""Lambda with streaming: `python -m handlers.aws_lambda_stream` is the runtime. It takes an event, streams the answer,
settles and exports behind its last byte, and then asks for the next event.

It answers a Function URL whose invoke mode is RESPONSE_STREAM and API Gateway REST proxies whose transfer mode is
STREAM; anything else is an invocation error. Lambda does not tell it when a caller leaves: such a response is streamed,
and paid for, to its end; UPSTREAM_TIMEOUT bounds a provider's silence. The fronts end a response at 200 MB by
themselves. A response that cannot be finished, by the provider's fault or at the function's deadline, ends with error
trailers, never as if it were whole.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

from handlers.aws_events import ALB_FRONT, REST_FRONT, front, read
from handlers.aws_streamed_answers import Asked, Responding
from handlers.runtime_api import Fault, Invocation, RuntimeApi, RuntimeApiLost
from steward import log
from steward.errors import Cut, InternalError, SettingError, StewardError, TooLarge
from steward.proxy import EXPIRED, Application, out_of_time

if TYPE_CHECKING:
    from steward.wiring.hosted import Hosted

DEFAULTS: Final[dict[str, str]] = {
    "AFTER_RESPONSE": "inline",
    "AFTER_RESPONSE_WAIT": "off",
    "CAPTURE_MAX_BYTES": "64MiB",
    "POSTGRES_MAX_CONNS": "1",
}
"""What holds on this host unless the environment says otherwise. What is captured is kept in memory."""
REQUEST_MAX_BYTES: Final = 6 << 20
"""Of an event, bodies in base64: what Lambda takes for an invocation."""
_HEALTH: Final = b"/health"
"""It says that this process lives, and needs no database for it."""
_RESERVE_S: Final = 0.25
"""Before the deadline nothing of ours begins any more."""
_STOPPED_S: Final = 0.2
"""What is left to a process that was told to end: Lambda kills it 300 to 500 ms after the signal."""
BROKEN: Final = Fault("Steward.StreamBroken", "The response could not be finished. What came is not all of it.")
DEADLINE: Final = Fault("Steward.Deadline", "The function's time ran out before the provider's answer ended.")
STOPPED: Final = Fault("Steward.Stopped", "The function was stopped before the provider's answer ended.")
NO_EVENT: Final = Fault("Steward.NotHttp", "The event is not JSON.")
OTHER_EVENT: Final = Fault(
    "Steward.NotHttp",
    "This function answers HTTP requests of a Function URL or an API Gateway REST proxy, streamed. "
    "Queues, schedules and tests belong to the functions of handlers.aws_lambda.",
)
ALB_EVENT: Final = Fault(
    "Steward.NotHttp", "An ALB cannot stream from Lambda. Its events belong to the function of handlers.aws_lambda."
)
NOT_STARTED: Final = Fault("Steward.InitFailed", "The Steward could not start. Its log says why.")


@dataclass(frozen=True, slots=True)
class Times:
    """In seconds."""

    budget: float = 2.0
    """What settling and exporting may take behind a response."""
    share: float = 0.4
    """Of a function's whole time, the most that is kept for what comes behind the response."""

    def cut_at(self, now: float, deadline: float) -> float:
        """When a response must end, so that its call can still be settled: its intent waited for, a turn, a reserve."""
        return deadline - min(2 * self.budget + 2 * _RESERVE_S, (deadline - now) * self.share)


class Runtime:
    """The loop: one event after the other."""

    def __init__(
        self, api: RuntimeApi, hosted: Hosted, app: Application, times: Times, flush: Callable[[], None]
    ) -> None:
        """`flush`: writes what was counted, after each event."""
        self._api = api
        self._hosted = hosted
        self._app = app
        self._times = times
        self._flush = flush
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """Ends the loop: at once while it waits for an event, else when the response that runs is cut and settled."""
        self._stopped.set()

    async def run(self) -> None:
        """Until `stop`. Raises RuntimeApiLost."""
        stopping = asyncio.create_task(self._stopped.wait())
        try:
            while not self._stopped.is_set():
                waiting = asyncio.create_task(self._api.next())
                await asyncio.wait((waiting, stopping), return_when=asyncio.FIRST_COMPLETED)
                if not waiting.done():
                    waiting.cancel()
                    await asyncio.wait((waiting,))
                    return
                await self._serve(waiting.result(), stopping)
        finally:
            stopping.cancel()

    async def _serve(self, invocation: Invocation, stopping: asyncio.Task[Any]) -> None:
        # The deadline is by the wall clock, which a thaw sets right; from here on time is counted without it.
        deadline = time.monotonic() + invocation.deadline_s - time.time()
        asked = asked_of(invocation.event)
        if isinstance(asked, Fault):
            log.say("event_refused", logging.WARNING)
            try:
                await self._api.fail(invocation.id, asked)
            finally:
                self._flush()
            return
        if asked.request.raw_path != _HEALTH:
            await self._hosted.prepare()
        response = Responding(self._api, invocation.id, asked)
        try:
            await self._answer(asked, response, deadline, stopping)
        finally:
            response.close()
            await self._turn(deadline, stopping)

    async def _turn(self, deadline: float, stopping: asyncio.Task[Any]) -> None:
        """Behind the response: settles and exports, for as long as there is time.

        A call that was turned away leaves nothing, and costs the database nothing.
        """
        self._hosted.services.stages.refusals.tell()
        if self._hosted.by_call.waiting():
            await self._settle(deadline, stopping)
        self._flush()

    async def _settle(self, deadline: float, stopping: asyncio.Task[Any]) -> None:
        until = min(time.monotonic() + self._times.budget, deadline - _RESERVE_S)
        turn = asyncio.create_task(asyncio.to_thread(self._hosted.turn, until))
        await asyncio.wait((turn, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not turn.done():
            await asyncio.wait((turn,), timeout=_STOPPED_S)

    async def _answer(self, asked: Asked, response: Responding, deadline: float, stopping: asyncio.Task[Any]) -> None:
        now = time.monotonic()
        call = asyncio.create_task(self._call(asked, response))
        left = self._times.cut_at(now, deadline) - now
        await asyncio.wait((call, stopping), timeout=max(0.0, left), return_when=asyncio.FIRST_COMPLETED)
        fault = BROKEN
        if not call.done():
            fault = STOPPED if stopping.done() else DEADLINE
            call.cancel(EXPIRED if fault is DEADLINE else None)
            await asyncio.wait((call,), timeout=_STOPPED_S if stopping.done() else self._times.budget + _RESERVE_S)
        left = _STOPPED_S if stopping.done() else max(_STOPPED_S, deadline - time.monotonic())
        try:
            async with asyncio.timeout(left):
                await response.finish(fault)
        except TimeoutError:
            log.say("response_not_taken", logging.ERROR)

    async def _call(self, asked: Asked, response: Responding) -> None:
        """The application's part. What it raises has been said; what is not whole then is broken off."""
        try:
            if asked.request.refused is not None:
                self._hosted.services.stages.refusals.count(asked.request.refused.code)
                await response.refuse(asked.request.refused)
            else:
                await self._app(asked.request.scope(), response.receive, response.send)
        except Cut:
            return
        except StewardError as error:  # of one of our own paths: of a call the relay has made an answer
            await response.refuse(error)
        except asyncio.CancelledError as cancelled:
            if cancelled.args == (EXPIRED,):
                await response.refuse(out_of_time())
            raise
        except Exception as exc:  # the last line of defence: nothing of one call may end the process
            log.error("call_failed", exc)
            await response.refuse(InternalError())


def asked_of(octets: bytes) -> Asked | Fault:
    """The request that an event is; for one that is none, what is said of it."""
    try:
        event = orjson.loads(octets)
    except orjson.JSONDecodeError:
        return NO_EVENT
    sent_by = front(event)
    if sent_by is None:
        return OTHER_EVENT
    if sent_by is ALB_FRONT:
        return ALB_EVENT
    request = read(event, sent_by)
    if len(octets) > REQUEST_MAX_BYTES and request.refused is None:
        request = request.without_body(TooLarge())
    return Asked(request, sent_by is REST_FRONT)


def main(environ: Mapping[str, str], end: Callable[[int], None] = os._exit) -> int:
    """Runs until SIGTERM, or until the Runtime API is gone. Returns the exit code.

    `end`: how a process ends whose threads may hang in a call that nobody waits for any more.
    """
    log.configure()
    log.catch_crashes()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold keys and prompts (SECURITY F18)
    with asyncio.Runner(loop_factory=_loops()) as runner:
        code = runner.run(_main(environ))
        end(code)
    return code


def _loops() -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop's where it is installed: the package for Lambda is without it."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


async def _main(environ: Mapping[str, str]) -> int:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(log.loop_fault)
    api = RuntimeApi(environ.get("AWS_LAMBDA_RUNTIME_API", ""))
    try:
        try:
            hosted, app, times, flush = _started(environ)
        except Exception as exc:  # whatever it is: Lambda is told in a fixed sentence, the log in facts
            log.error("init_failed", exc)
            if isinstance(exc, SettingError):
                sys.stderr.write(f"steward: {exc.message}\n")
            await api.init_failed(NOT_STARTED)
            return 2
        runtime = Runtime(api, hosted, app, times, flush)
        loop.add_signal_handler(signal.SIGTERM, runtime.stop)
        try:
            await runtime.run()
        finally:
            await _close(hosted)
    except RuntimeApiLost as lost:
        log.error("runtime_api_lost", lost)
        return 1
    log.say("stopped")
    return 0


def _started(environ: Mapping[str, str]) -> tuple[Hosted, Application, Times, Callable[[], None]]:
    """Puts everything together; of networks only secrets by ARN are asked for.

    What is imported here can fail where Lambda is told of it.
    """
    from handlers.aws_secrets import plain_secrets, settings_of
    from handlers.emf import EmfBoard
    from steward.app import create_app
    from steward.wiring.hosted import build_hosted

    settings = settings_of(environ, DEFAULTS)
    log.configure(settings.log_level)
    log.setting_warnings([*settings.warnings, *plain_secrets(environ)])
    board = EmfBoard()
    hosted = build_hosted(settings, caller_waits=False, board=board)
    app = create_app(hosted.services)
    gc.collect()
    gc.freeze()  # what was imported lives as long as the process
    return hosted, app, Times(settings.after_response_budget_s), board.flush


async def _close(hosted: Hosted) -> None:
    """Nothing waits behind the last turn but what the database would not take; there is no time to ask it again."""
    closing = asyncio.ensure_future(hosted.close())
    await asyncio.wait((closing,), timeout=_STOPPED_S)


if __name__ == "__main__":
    sys.exit(main(os.environ))
