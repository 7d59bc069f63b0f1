"""The ways to the providers: straight, or through the egress proxy when the settings name one.

It chooses no provider and sends nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from steward.exchange import Origin
from steward.forward import Pool, PoolLimits
from steward.ports import Upstream
from steward.settings import Settings
from steward.wiring.way_out import outward_tls

if TYPE_CHECKING:
    from steward.adapters.httpx_upstream import HttpxUpstream


class Upstreams:
    """The pool, and the way through the egress proxy when the settings name one."""

    def __init__(self, settings: Settings) -> None:
        """Raises SettingError. Connects to nothing yet."""
        limits = PoolLimits(
            connect_timeout_s=settings.connect_timeout_s,
            header_timeout_s=settings.stream_header_timeout_s,
            silence_timeout_s=settings.upstream_timeout_s,
            max_conns=settings.upstream_max_conns,
        )
        tls = outward_tls(settings)
        self._pool = Pool(limits, tls)
        self._proxied: HttpxUpstream | None = None
        self._through: frozenset[Origin] = frozenset()
        if settings.https_proxy is not None:
            from steward.adapters.httpx_upstream import HttpxUpstream, goes_through_proxy

            self._proxied = HttpxUpstream(limits, settings.https_proxy, tls)
            no_proxy = ",".join(settings.no_proxy)
            self._through = frozenset(o for o in settings.origins.values() if goes_through_proxy(o, True, no_proxy))

    def connections(self) -> int:
        """How many are open to providers."""
        return self._pool.connections() + (0 if self._proxied is None else self._proxied.connections())

    @property
    def all(self) -> tuple[Upstream, ...]:
        """What must be closed."""
        return (self._pool,) if self._proxied is None else (self._pool, self._proxied)

    def of(self, origin: Origin) -> Upstream:
        """The way to this origin."""
        return self._proxied if self._proxied is not None and origin in self._through else self._pool
