"""An organisation becomes this installation's only as its Butler confirms it, where it may be registered."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from steward.adapters.butler import HttpButler
from steward.adapters.memory import MemoryDirectory, MemoryLedger
from steward.adapters.memory_outbox import MemoryOutbox
from steward.errors import ButlerDenied, ButlerNonsense, SettingError
from steward.policy import Local
from steward.ports import ControlPlane, Identity, Registration
from steward.registering import (
    UNHEARD_S,
    counting,
    facts,
    longest_unheard_s,
    nothing_waits,
    org_id,
    register,
    unheard_s,
    whose,
)
from steward.words import Secret
from tests.contracts.records import ORG, a_record, new_id
from tests.servers.butler_stub import Organisation, document, stub_butler
from tests.wanted import for_org, s3


def opener(url: str, token: Secret[str]) -> ControlPlane:
    return HttpButler(url, token, deadline_s=5)


def test_whose_a_token_is_says_butler() -> None:
    acme = Organisation()
    with stub_butler(acme) as butler:
        assert whose(opener, butler.url, Secret(acme.token)).org_id == acme.id
        with pytest.raises(ButlerDenied):
            whose(opener, butler.url, Secret("mdm_st_" + "x" * 32))
        butler.instead["/me"] = document(404, None)
        with pytest.raises(ButlerDenied):
            whose(opener, butler.url, Secret(acme.token))
        butler.instead["/me"] = document(200, {"org_id": "../x"})
        with pytest.raises(ButlerNonsense):
            whose(opener, butler.url, Secret(acme.token))


def test_an_address_that_is_not_allowed_is_not_even_asked() -> None:
    acme, directory = Organisation(), MemoryDirectory()
    with stub_butler(acme) as butler:
        with pytest.raises(SettingError, match="BUTLER_URLS_ALLOW"):
            register(directory, opener, butler.url, Secret(acme.token), ("https://butler.example",))
        assert (butler.asked, directory.registrations()) == ([], [])
        made = register(directory, opener, butler.url, Secret(acme.token), ("https://butler.example", butler.url))
        assert directory.registrations() == [made]


def test_what_is_told_of_an_organisation_holds_no_token() -> None:
    acme, directory = Organisation(), MemoryDirectory()
    with stub_butler(acme) as butler:
        made = register(directory, opener, butler.url, Secret(acme.token))
    told = facts(made, {"rows": 7})
    assert (told["org_id"], told["pending"], told["fault"]) == (acme.id, {"rows": 7}, None)
    assert acme.token not in repr(told)
    assert nothing_waits(made) == {}


def test_an_id_is_read_as_it_is_printed_and_no_other_way() -> None:
    each = uuid4()
    assert org_id(str(each)) == each
    for wrong in ("", "x", each.hex, str(each).upper(), "{" + str(each) + "}", str(each) + " ", "../" + str(each)):
        assert org_id(wrong) is None
    assert org_id(str(UUID(int=0))) == UUID(int=0)


def test_how_long_a_butler_was_not_heard() -> None:
    now = datetime(2026, 6, 1, 12, tzinfo=UTC)
    hour = timedelta(hours=1)
    never = Registration(uuid4(), uuid4(), "Never", uuid4(), "https://butler.example", now - 3 * hour)
    lately = replace(never, heard_at=now - hour)
    assert (unheard_s(never, now), unheard_s(lately, now)) == (3 * UNHEARD_S, UNHEARD_S)
    assert unheard_s(replace(never, heard_at=now + hour), now) == 0, "two clocks may differ"
    assert longest_unheard_s([lately, never], now) == 3 * UNHEARD_S
    assert longest_unheard_s([], now) == 0


def test_what_waits_is_counted_for_an_organisation_by_itself() -> None:
    """Rows of its own keys that its Butler has not, and what of its own a person must approve."""
    directory, ledger = MemoryDirectory(Local(window_s=0)), MemoryLedger()
    token = Secret("mdm_st_" + "t" * 32)
    mine = directory.register(Identity(ORG, ORG, "Acme"), "https://butler.example", token)
    other = directory.register(Identity(uuid4(), uuid4(), "Other"), "https://butler.example", token)
    rows = [a_record(id=new_id(datetime.now(UTC)), org_id=ORG, registration_id=mine.id) for _ in range(2)]
    ledger.record(rows)
    directory.replace_storage_configs(mine, [for_org(s3())])
    waiting = counting(MemoryOutbox(ledger, directory), directory)
    assert waiting(mine) == {"rows": 2, "approvals": 1}
    assert waiting(other) == {"rows": 0, "approvals": 0}
