"""What a cloud's own signed calls run: who may make them, by the settings. `api/tasks.py` has the routes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

from steward.api.tasks import Pushed, Tasks
from steward.consuming import Consumer
from steward.settings import Settings
from steward.wiring.consumer import build_consumer
from steward.wiring.way_out import outward_tls, proxy_towards


class PushedCalls:
    """What pushed messages are handed to: put together at the first, and one batch at a time, whoever pushes."""

    def __init__(self, build: Callable[[], Consumer]) -> None:
        self._build = build
        self._lock = threading.Lock()
        self._consumer: Consumer | None = None

    def __call__(self, messages: Sequence[Pushed]) -> Mapping[str, str | None]:
        """See api.tasks.Settle. Raises SettingError."""
        with self._lock:
            if self._consumer is None:
                self._consumer = self._build()
            return self._consumer.settle([(each.id, each.data) for each in messages])

    def close(self) -> None:
        """Gives back what was put together."""
        with self._lock:
            if self._consumer is not None:
                self._consumer.close()


def open_tasks(settings: Settings, sweep: Callable[[float], None]) -> Tasks | None:
    """None where no account is set. Fetches no key and opens no queue yet. Raises SettingError.

    `sweep`: what a schedule runs, until a monotonic moment.
    """
    account, audience = settings.tasks_service_account, settings.tasks_audience
    if account is None or audience is None:
        return None
    from steward.adapters.oidc_calls import SignedCaller, SignedCalls

    keys_url = settings.tasks_keys_url
    caller = SignedCaller(account, audience, settings.tasks_issuer, keys_url)
    signed = SignedCalls(caller, outward_tls(settings), proxy_towards(keys_url, settings))
    pushed = PushedCalls(lambda: build_consumer(settings)) if settings.after_response == "pubsub" else None

    def close() -> None:
        signed.close()
        if pushed is not None:
            pushed.close()

    return Tasks(signed, pushed, sweep, close)
