"""How this network is left: whose certificates are believed, and which addresses lie behind the egress proxy.

It speaks to nobody.
"""

from __future__ import annotations

from ssl import SSLContext

from steward import values
from steward.errors import SettingError
from steward.forward import tls_context
from steward.settings import Settings
from steward.words import Secret


def outward_tls(settings: Settings) -> SSLContext:
    """Towards providers, and whoever has no file of his own. Raises SettingError."""
    try:
        return tls_context(str(settings.ssl_cert_file) if settings.ssl_cert_file else None)
    except OSError:
        raise SettingError("SSL_CERT_FILE: the file holds no certificate that can be read") from None


def butler_tls(settings: Settings) -> SSLContext:
    """Towards Butler. Raises SettingError."""
    file = settings.butler_ca_file
    try:
        return outward_tls(settings) if file is None else tls_context(str(file))
    except OSError:
        raise SettingError("BUTLER_CA_FILE: the file holds no certificate that can be read") from None


def proxy_towards(url: str, settings: Settings) -> Secret[str] | None:
    """The egress proxy, when calls to this address take it."""
    if settings.https_proxy is None:
        return None
    from steward.adapters.httpx_upstream import goes_through_proxy

    through = goes_through_proxy(values.origin(url), True, ",".join(settings.no_proxy))
    return settings.https_proxy if through else None
