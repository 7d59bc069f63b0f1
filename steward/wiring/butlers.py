"""How a Butler is spoken to: by a token, and so that the egress log keeps what was told.

It asks nothing; `schedule.py` and the commands say what is asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from steward.ports import ControlPlane, EgressLog, Registration
from steward.registering import OpenButler
from steward.settings import Settings
from steward.wiring.way_out import butler_tls, proxy_towards
from steward.words import Secret

if TYPE_CHECKING:
    from steward.logged_butler import Polls


def butler_opener(settings: Settings) -> OpenButler:
    """How a Butler at an address is spoken to with a token; no log keeps it. Raises SettingError."""
    from steward.adapters.butler import HttpButler

    tls = butler_tls(settings)

    def opened(url: str, token: Secret[str]) -> ControlPlane:
        return HttpButler(url, token, tls, proxy_url=proxy_towards(url, settings))

    return opened


def logged_butlers(settings: Settings, egress_log: EgressLog) -> OpenButler:
    """How it is asked before anybody is registered there. Raises SettingError."""
    from steward.logged_butler import LoggedButler

    opener = butler_opener(settings)

    def opened(url: str, token: Secret[str]) -> ControlPlane:
        return LoggedButler(opener(url, token), egress_log)

    return opened


def registered_butlers(
    settings: Settings, egress_log: EgressLog
) -> Callable[[Registration, Secret[str]], ControlPlane]:
    """How a registration's Butler is spoken to. Raises SettingError."""
    from steward.logged_butler import LoggedButler

    opener = butler_opener(settings)

    def opened(registration: Registration, token: Secret[str]) -> ControlPlane:
        return LoggedButler(opener(registration.butler_url, token), egress_log, registration.id)

    return opened


def butlers_when_asked(settings: Settings, egress_log: EgressLog) -> OpenButler:
    """As `logged_butlers`, made at its first use: who relays seldom speaks to Butler, and needs no client till then."""
    kept: list[Polls] = []

    def open_butler(url: str, token: Secret[str]) -> ControlPlane:
        from steward.logged_butler import LoggedButler, Polls

        kept[:] = kept or [Polls()]  # it polls one address alone, by a connection of its own each time
        return LoggedButler(butler_opener(settings)(url, token), egress_log, polls=kept[0])

    return open_butler
