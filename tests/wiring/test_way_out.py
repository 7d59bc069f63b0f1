"""How this network is left: whose certificates are believed, and what lies behind the egress proxy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from ssl import SSLContext

import pytest
import trustme

from steward.errors import SettingError
from steward.settings import Settings
from steward.wiring.way_out import butler_tls, outward_tls, proxy_towards
from tests.services import settings


@pytest.mark.parametrize(
    ("name", "made"),
    [("SSL_CERT_FILE", outward_tls), ("SSL_CERT_FILE", butler_tls), ("BUTLER_CA_FILE", butler_tls)],
)
def test_a_file_that_holds_no_certificate_is_named(
    name: str, made: Callable[[Settings], SSLContext], tmp_path: Path
) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("-----BEGIN CERTIFICATE-----\nCANARY\n-----END CERTIFICATE-----\n")
    with pytest.raises(SettingError) as refused:
        made(settings(**{name: str(file)}))
    assert refused.value.message.startswith(f"{name}: ")
    assert "CANARY" not in refused.value.message


def test_butler_s_own_authority_is_believed_of_butler_alone(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(file))
    found = settings(BUTLER_CA_FILE=str(file))
    ours = butler_tls(found).get_ca_certs(binary_form=True)
    assert len(ours) == 1
    assert ours[0] not in outward_tls(found).get_ca_certs(binary_form=True)


def test_the_proxy_is_taken_but_towards_hosts_that_are_spared() -> None:
    found = settings(HTTPS_PROXY="http://proxy.internal:3128", NO_PROXY="butler.internal")
    through = proxy_towards("https://butler.example", found)
    assert through is not None and through.reveal() == "http://proxy.internal:3128"
    assert proxy_towards("https://butler.internal/api", found) is None
    assert proxy_towards("https://butler.example", settings()) is None
