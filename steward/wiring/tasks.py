"""What a cloud's own signed calls run: who may make them, by the settings. `api/tasks.py` has the routes."""

from __future__ import annotations

from collections.abc import Callable

from steward.api.tasks import Settle, Tasks
from steward.settings import Settings
from steward.wiring.way_out import outward_tls, proxy_towards


def open_tasks(settings: Settings, sweep: Callable[[float], None], settle: Settle | None = None) -> Tasks | None:
    """None where no account is set. Fetches no key yet. Raises SettingError.

    `sweep`: what a schedule runs, until a monotonic moment. `settle`: what a queue's messages are handed to.
    """
    account, audience = settings.tasks_service_account, settings.tasks_audience
    if account is None or audience is None:
        return None
    from steward.adapters.oidc_calls import SignedCaller, SignedCalls

    keys_url = settings.tasks_keys_url
    caller = SignedCaller(account, audience, settings.tasks_issuer, keys_url)
    signed = SignedCalls(caller, outward_tls(settings), proxy_towards(keys_url, settings))
    return Tasks(signed, settle, sweep)
