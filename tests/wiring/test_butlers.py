"""How a Butler is spoken to, and what is kept of it."""

from __future__ import annotations

import socket
from pathlib import Path

import httpx
import pytest

from steward.adapters.memory import MemoryDirectory
from steward.adapters.memory_egress_log import MemoryEgressLog
from steward.egress import Me
from steward.errors import ButlerUnavailable, SettingError
from steward.ports import Identity
from steward.wiring.butlers import butler_opener, butlers_when_asked, logged_butlers, registered_butlers
from steward.words import Secret
from tests.contracts.records import ORG
from tests.servers.butler_wire import says, wire_butler
from tests.services import settings


def test_butler_is_spoken_to_through_the_egress_proxy_but_where_it_is_spared() -> None:
    """The way itself: nothing listens at the proxy's port, and at Butler's somebody does."""
    with wire_butler([says(200, {"org_name": "Acme"})]) as wire, socket.create_server(("127.0.0.1", 0)) as unused:
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}"
        unused.close()
        token = Secret("mdm_st_" + "t" * 32)
        spared = butler_opener(settings(HTTPS_PROXY=dead))(wire.url, token)
        assert spared.ask(Me()) == {"org_name": "Acme"}
        through = butler_opener(settings(HTTPS_PROXY=dead))("https://butler.example", token)
        with pytest.raises(ButlerUnavailable) as refused:
            through.ask(Me())
        assert isinstance(refused.value.__cause__, httpx.ConnectError)
        assert "111" in str(refused.value.__cause__)
        for each in (spared, through):
            each.close()


def test_what_is_told_a_butler_is_kept_with_the_registration_it_was_told_for() -> None:
    """Before there is one it is nobody's; the plain opener keeps nothing, and whoever relays makes his at first use."""
    log, token = MemoryEgressLog(), Secret("mdm_st_" + "t" * 32)
    with wire_butler([says(200, {"org_name": "Acme"})]) as wire:
        made = MemoryDirectory().register(Identity(ORG, ORG, "Acme"), wire.url, token)
        asked = [
            butler_opener(settings())(wire.url, token),
            logged_butlers(settings(), log)(wire.url, token),
            registered_butlers(settings(), log)(made, token),
            butlers_when_asked(settings(), log)(wire.url, token),
        ]
        for each in asked:
            assert each.ask(Me()) == {"org_name": "Acme"}
            each.close()
    assert [(row.kind, row.answer, row.registration_id) for row in log.newest(9)] == [
        ("Me", "ok", None),
        ("Me", "ok", made.id),
        ("Me", "ok", None),
    ]


def test_a_certificate_that_is_none_is_told_when_the_way_is_made_or_at_its_first_use(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("-----BEGIN CERTIFICATE-----\nCANARY\n-----END CERTIFICATE-----\n")
    found, log = settings(BUTLER_CA_FILE=str(file)), MemoryEgressLog()
    for opened in (
        butler_opener,
        lambda given: logged_butlers(given, log),
        lambda given: registered_butlers(given, log),
    ):
        with pytest.raises(SettingError, match="^BUTLER_CA_FILE: "):
            opened(found)
    later = butlers_when_asked(found, log)
    with pytest.raises(SettingError, match="^BUTLER_CA_FILE: "):
        later("https://butler.example", Secret("t"))
