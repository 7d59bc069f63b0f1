"""`steward register`, `orgs` and `deregister`, over PostgreSQL and a Butler on the wire."""

from __future__ import annotations

import io
import json
from uuid import UUID, uuid4

import pytest

from steward.adapters.butler import HttpButler
from steward.adapters.memory import MemoryDirectory
from steward.errors import ButlerDenied, ButlerNonsense, ButlerUnavailable, LedgerFault, SettingError
from steward.ports import ControlPlane, Directory, Registration
from steward.registering import register
from steward.registration_command import given_token, listed, told
from steward.words import Secret
from tests.servers.butler_wire import Reply, says, wire_butler
from tests.services import settings

TOKEN = "mdm_st_" + "t" * 32
ORG = UUID("0192f0c1-8a53-7c3e-9d1a-2b6f5a1c0d3e")
WHO = {"steward_id": str(uuid4()), "org_id": str(ORG), "org_name": "Acme \x1b[31m\u009b\u202e"}


@pytest.fixture
def directory() -> Directory:
    return MemoryDirectory()


def opener(url: str, token: Secret[str]) -> ControlPlane:
    return HttpButler(url, token, deadline_s=5)


def registered(directory: Directory, *replies: Reply) -> Registration:
    with wire_butler(replies) as wire:
        return register(directory, opener, wire.url, Secret(TOKEN))


def test_a_token_is_checked_with_butler_and_kept(directory: Directory) -> None:
    made = registered(directory, says(200, WHO))
    (known,) = directory.registrations()
    assert known == made
    assert (known.org_id, known.org_name) == (ORG, WHO["org_name"])
    token = directory.token(ORG)
    assert token is not None
    assert token.reveal() == TOKEN


def test_what_is_printed_holds_no_token_and_no_command_for_the_terminal(directory: Directory) -> None:
    made = registered(directory, says(200, WHO))
    printed = [told(made, as_json=False), listed([made], as_json=False)]
    assert printed[0].startswith("registered Acme \\x1b[31m\\x9b\\u202e (")
    assert str(ORG) in printed[1]
    as_json = [told(made, as_json=True), listed([made], as_json=True)]
    assert json.loads(as_json[0])["org_id"] == json.loads(as_json[1])[0]["org_id"] == str(ORG)
    assert not [text for text in printed + as_json if TOKEN in text or not set("\x1b\u009b\u202e").isdisjoint(text)]


def test_registering_again_keeps_the_registration_and_takes_the_new_token(directory: Directory) -> None:
    with wire_butler([says(200, WHO)]) as wire:
        made = [register(directory, opener, wire.url, Secret(f"mdm_st_{n}" + "t" * 32)) for n in (1, 2)]
    (known,) = directory.registrations()
    assert made[0].id == made[1].id == known.id
    token = directory.token(ORG)
    assert token is not None
    assert token.reveal().startswith("mdm_st_2")


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        (says(401), ButlerDenied),
        (says(404), ButlerDenied),
        (says(500), ButlerUnavailable),
        (says(200, {"org_id": "x"}), ButlerNonsense),
        (says(204), ButlerNonsense),
        (says(302, None, "location: /me"), ButlerNonsense),
    ],
    ids=["401", "404", "500", "nonsense", "empty", "redirect"],
)
def test_what_butler_does_not_confirm_is_not_kept(directory: Directory, reply: Reply, fault: type[Exception]) -> None:
    with pytest.raises(fault):
        registered(directory, reply)
    assert directory.registrations() == []


def test_another_butler_takes_no_organisation_over(directory: Directory) -> None:
    """SECURITY F8: whoever claims an organisation at `/me`."""
    registered(directory, says(200, WHO))
    before = directory.registrations()
    with pytest.raises(LedgerFault, match="deregister"):
        registered(directory, says(200, WHO))
    assert directory.registrations() == before


def test_a_deregistered_organisation_is_listed_so_and_may_come_back(directory: Directory) -> None:
    registered(directory, says(200, WHO))
    ended = directory.deregister(ORG)
    assert ended is not None
    assert told(ended, as_json=False).startswith("deregistered Acme")
    assert "deregistered" in listed([ended], as_json=False)
    assert registered(directory, says(200, WHO)).deregistered_at is None


def test_what_waits_and_what_is_wrong_stand_in_the_list(directory: Directory) -> None:
    made = registered(directory, says(200, WHO))
    directory.heard(made, "butler_denied")
    shown = listed(directory.registrations(), False, lambda _: {"rows": 12, "approvals": 0})
    assert shown.endswith(", 12 rows waiting, butler denied\n")
    [told_of] = json.loads(listed(directory.registrations(), True, lambda _: {"rows": 12, "approvals": 0}))
    assert (told_of["pending"], told_of["fault"]) == ({"rows": 12, "approvals": 0}, "butler_denied")


def test_nobody_is_registered_at_first() -> None:
    assert "steward register" in listed([], as_json=False)
    assert json.loads(listed([], as_json=True)) == []


def test_a_token_comes_from_the_line_the_input_or_the_setting() -> None:
    nothing = io.StringIO()
    assert given_token(TOKEN, settings(), nothing).reveal() == TOKEN
    assert given_token("-", settings(), io.StringIO(f"  {TOKEN}\nmore\n")).reveal() == TOKEN
    assert given_token(None, settings(MDM_STEWARD_TOKEN=TOKEN), nothing).reveal() == TOKEN


@pytest.mark.parametrize("wrong", ["", "mdm_sk_" + "t" * 32, "mdm_st_short", "mdm_st_" + "t" * 32 + "\x00", "Bearer x"])
def test_what_is_no_token_is_refused_and_not_repeated(wrong: str) -> None:
    with pytest.raises(SettingError) as refused:
        given_token("-", settings(), io.StringIO(wrong + "\n"))
    assert not wrong or wrong not in refused.value.message
    with pytest.raises(SettingError, match="MDM_STEWARD_TOKEN"):
        given_token(None, settings(), io.StringIO())
