"""What the viewer's process runs on: `handlers/viewer.py` runs it.

It relays nothing, settles nothing and tells Butler nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from steward import metrics
from steward.metric_files import Board
from steward.ports import IdentityProvider
from steward.settings import Settings
from steward.stores import Looking
from steward.viewing import CALLBACK_PATH, Viewing
from steward.wiring.body_stores import decided_stores
from steward.wiring.database import directory_on, open_database, viewer_conns
from steward.wiring.way_out import outward_tls, proxy_towards


@dataclass(frozen=True, slots=True)
class ViewerServices:
    """Everything the viewer's process runs on."""

    viewing: Viewing
    provider: IdentityProvider | None
    looking: Looking
    """Follows where bodies lie, once it is started."""
    close: Callable[[], None]


def build_viewer(settings: Settings, board: Board | None = None) -> ViewerServices:
    """Puts a viewer together. Connects to nothing yet. Raises SettingError.

    `board`: where all processes of this Steward count; None: this one counts for itself.
    """
    from steward.adapters.postgres_ledger import PostgresLedger
    from steward.adapters.postgres_view_book import PostgresViewBook

    engine, keyring = open_database(settings, viewer_conns(settings))
    directory = directory_on(settings, engine, keyring)
    stores = decided_stores(settings, directory)
    looking = Looking(stores)
    provider = identity_provider(settings)
    board = board or metrics.prepare(None)

    def close() -> None:
        if provider is not None:
            provider.close()
        looking.end()
        stores.close()
        engine.dispose()
        board.close()

    viewing = Viewing(
        PostgresViewBook(engine, metrics.ViewMetrics(board).noted),
        PostgresLedger(engine),
        lambda row: stores.holding(row.org_id, row.storage_config_id),
        settings.view_oidc_groups,
        lambda: [each.butler_url for each in directory.registrations() if each.deregistered_at is None],
    )
    return ViewerServices(viewing, provider, looking, close)


def identity_provider(settings: Settings) -> IdentityProvider | None:
    """Who signs people in; None where they sign in by token. Connects to nothing yet. Raises SettingError."""
    if settings.view_auth != "oidc":
        return None
    from steward.adapters.oidc import OidcClient, OidcProvider

    callback = f"{settings.view_url}{CALLBACK_PATH}"
    issuer = settings.view_oidc_issuer or ""
    client = OidcClient(issuer, settings.view_oidc_client_id or "", settings.view_oidc_client_secret, callback)
    return OidcProvider(client, outward_tls(settings), proxy_towards(issuer, settings))
