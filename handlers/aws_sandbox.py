"""One Lambda sandbox: what it is made of, and the way of one invocation through it.

It never logs an event, lets no exception out to the runtime (which would print its words), and answers every request:
what goes wrong is one of our errors. What comes after a response is done by an extension while the caller has it
already, or, where there is none, before the answer is returned.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Protocol

from handlers import aws_answers, aws_events
from handlers.aws_extension import Extension, NotRegistered, register
from handlers.aws_log import LambdaLog
from handlers.aws_secrets import Fetch, plain_secrets, settings_of
from handlers.buffered_cycle import BufferedCycle, bounded, refusal
from handlers.emf import EmfBoard
from handlers.loop_thread import LoopThread
from steward import log
from steward.app import create_app
from steward.errors import InternalError, StewardError
from steward.metric_files import Board
from steward.proxy import Application, out_of_time
from steward.refusals import Refusals
from steward.settings import Settings
from steward.wiring.hosted import Hosted, build_hosted

DEFAULTS: dict[str, str] = {"AFTER_RESPONSE": "inline", "POSTGRES_MAX_CONNS": "1", "PRICING_REFRESH_INTERVAL": "6h"}
"""Of this host, beneath what the operator sets."""

HEALTH = b"/health"
"""Asked often, by balancers; it says that this process lives, and needs no database for it."""

_SPELL_AS_IT_IS = (
    "AWS_Lambda_python3.12",
    "AWS_Lambda_python3.13",
    "AWS_Lambda_python3.14",
    "AWS_Lambda_python3.15",
)
"""Runtimes whose client spells the answer as it is; every other escapes what is beyond ASCII."""
_NO_CONTEXT_S = 60.0
_LAST_S = 0.5
"""Kept of an invocation's time for what we do not see: the runtime's own work."""
_SHARE = 0.4
"""Of a short time, the most that is kept for what comes behind the provider's answer."""


class Consumer(Protocol):
    """What settles a queue's messages; see steward.wiring.consumer."""

    def settle(self, messages: Sequence[tuple[str, str | bytes]], until: float | None = None) -> dict[str, str | None]:
        """None for each that is settled, else a word that says why not."""

    def close(self) -> None:
        """Gives back what it was made of."""


def _open_consumer(settings: Settings, board: Board) -> Consumer:
    from steward.wiring.consumer import build_consumer

    return build_consumer(settings, board)


class Sandbox:
    """One a process. Nothing of it is made before `begin`, and nothing is connected to before the first invocation."""

    def __init__(
        self,
        environ: Mapping[str, str],
        fetch: Fetch | None = None,
        open_consumer: Callable[[Settings, Board], Consumer] = _open_consumer,
    ) -> None:
        """`environ`: the process's own. Raises nothing."""
        self._environ = environ
        self._fetch = fetch
        self._open_consumer = open_consumer
        self.extension: Extension | None = None

    @property
    def on_lambda(self) -> bool:
        """Whether Lambda starts this process."""
        return "AWS_LAMBDA_RUNTIME_API" in self._environ

    def begin(self) -> None:
        """While the function starts: settings, secrets, the extension. Raises SettingError."""
        _, settings = self.log, self.settings
        log.catch_crashes()
        log.setting_warnings([*settings.warnings, *plain_secrets(self._environ)])
        if not self._environ.get("_HANDLER", ".handler").endswith(".handler"):
            return
        self._register()
        _ = self.app, self.loop
        if self.extension is not None:
            self.extension.start()

    def _register(self) -> None:
        """The extension, where it is on: not set, wherever one process serves one call at a time."""
        wanted = self.settings.lambda_extension
        if wanted is None:
            wanted = "AWS_LAMBDA_MAX_CONCURRENCY" not in self._environ
        if not wanted or not self.on_lambda:
            return
        api = self._environ["AWS_LAMBDA_RUNTIME_API"]
        try:
            self.extension = Extension(api, register(api), self._turn)
        except NotRegistered:
            log.say("extension_not_registered", logging.WARNING)

    # what it is made of, each when first asked for

    @cached_property
    def settings(self) -> Settings:
        """Raises SettingError."""
        return settings_of(self._environ, DEFAULTS, self._fetch)

    @cached_property
    def log(self) -> LambdaLog:
        """From here on lines go to stdout, by way of Powertools."""
        level = self._environ.get("LOG_LEVEL", "info").lower()
        return LambdaLog(level if level in log.LEVELS else "info")

    @cached_property
    def board(self) -> EmfBoard:
        """Where this process counts."""
        return EmfBoard()

    @cached_property
    def loop(self) -> LoopThread:
        """Where calls are relayed."""
        return LoopThread()

    @cached_property
    def hosted(self) -> Hosted:
        """Raises SettingError."""
        built = build_hosted(self.settings, self.extension is None, self.board)
        stages = replace(built.services.stages, upstream=bounded(built.services.stages.upstream))
        return replace(built, services=replace(built.services, stages=stages))

    @cached_property
    def app(self) -> Application:
        """The core."""
        return create_app(self.hosted.services)

    @cached_property
    def consumer(self) -> Consumer:
        """Raises SettingError."""
        return self._open_consumer(self.settings, self.board)

    # an invocation

    def answer(self, event: Any, context: Any) -> dict[str, Any]:
        """A request's. Raises TypeError for an event that is no request: it has a handler of its own."""
        until = time.monotonic() + _remaining_s(context)
        try:
            self.log.begins(context)
            sent_by = aws_events.front(event)
            if sent_by is None:
                log.say("event_unknown", logging.ERROR)
                raise TypeError("no HTTP request: queues are for handlers.aws_lambda.settle, schedules for .scheduled")
            return self._answer(event, sent_by, until)
        finally:
            self._ended(until, context)

    def _answer(self, event: Mapping[str, Any], sent_by: aws_events.Front, until: float) -> dict[str, Any]:
        request = aws_events.read(event, sent_by)
        if request.refused is not None:
            self.loop.run(_count(self.hosted.services.stages.refusals, request.refused))
            return aws_answers.spelled(refusal(request.refused, request), event, sent_by)
        streaming = sent_by is not aws_events.ALB_FRONT or self.settings.alb_streaming == "buffered"
        cycle = BufferedCycle(request, sent_by, self._ascii_only, streaming)
        left = until - time.monotonic()
        within_s = left - kept_s(left, self.settings.after_response_budget_s)
        try:
            response = self.loop.run(self._relay(cycle, within_s), left - _LAST_S)
        except TimeoutError:
            response = cycle.answer() or refusal(out_of_time(), request)
        except Exception as exc:  # the runtime would print its words
            log.error("relay_failed", exc)
            response = refusal(InternalError(), request)
        return cycle.spelled(response, event)

    async def _relay(self, cycle: BufferedCycle, within_s: float) -> aws_answers.Response:
        ends = time.monotonic() + within_s
        if cycle.request.raw_path != HEALTH:
            await self.hosted.prepare()
        return await cycle.run(self.app, ends - time.monotonic())

    def _ended(self, until: float, context: Any) -> None:
        """The invocation is over, well or not."""
        ends = min(until - _LAST_S, time.monotonic() + self.settings.after_response_budget_s)
        if self.extension is not None:
            self.extension.invocation_ended(ends, _request_id(context))
        else:
            self._turn(ends)

    def _turn(self, until: float | None) -> None:
        """In the extension's thread; without one in the caller's, where as a rule nothing waits any more.

        A call that was turned away leaves nothing, and costs the database nothing.
        """
        if self.hosted.by_call.waiting():
            self.hosted.turn(until)
        self.loop.run(_tell(self.hosted.services.stages.refusals))
        self.board.flush()

    @property
    def _ascii_only(self) -> bool:
        return self._environ.get("AWS_EXECUTION_ENV") not in _SPELL_AS_IT_IS

    def settle(self, event: Any, context: Any) -> dict[str, Any]:
        """A batch of SQS: the ids of those that the queue is to hand out again."""
        from handlers.aws_batch import partial_failures

        self.log.begins(context)
        until = time.monotonic() + _remaining_s(context) - 2 * _LAST_S
        try:
            return partial_failures(event, lambda messages: self.consumer.settle(messages, until))
        finally:
            self.board.flush()
            self._unasked(context)

    def sweep(self, context: Any) -> dict[str, Any]:
        """What a schedule runs."""
        self.log.begins(context)
        try:
            self.hosted.sweep(time.monotonic() + _remaining_s(context) - 2 * _LAST_S)
        finally:
            self.board.flush()
            self._unasked(context)
        return {"swept": True}

    def _unasked(self, context: Any) -> None:
        """An extension that was registered waits for every invocation, also for one that left nothing to do."""
        if self.extension is not None:
            self.extension.invocation_ended(time.monotonic(), _request_id(context))

    def close(self) -> None:
        """For a process that ends well: one last turn, and everything is given back."""
        if self.extension is not None:
            self.extension.close()
        if "consumer" in self.__dict__:
            self.consumer.close()
        if "hosted" in self.__dict__:
            self.loop.run(self.hosted.close(), 30.0)
        if "loop" in self.__dict__:
            self.loop.close()


def kept_s(left_s: float, budget_s: float) -> float:
    """Of the time that is left, what a call must leave so that it can still be settled: two budgets and a reserve.

    Its intent, or its turn, is waited for; then the turn behind it has as long, in the extension or before the answer.
    """
    return min(2 * budget_s + 2 * _LAST_S, left_s * _SHARE)


async def _count(refusals: Refusals, error: StewardError) -> None:
    refusals.count(error.code)


async def _tell(refusals: Refusals) -> None:
    refusals.tell()


def _remaining_s(context: Any) -> float:
    """Of this invocation. Where nobody says, a minute."""
    asked = getattr(context, "get_remaining_time_in_millis", None)
    return max(1.0, asked() / 1000) if callable(asked) else _NO_CONTEXT_S


def _request_id(context: Any) -> str | None:
    """As the extension's event names this invocation."""
    said = getattr(context, "aws_request_id", None)
    return said if isinstance(said, str) else None
