"""`steward provider-keys`: keys come by standard input or file, are kept for one organisation, and never print."""

from __future__ import annotations

import io
import json
from uuid import uuid4

import pytest

from steward.adapters.memory import MemoryDirectory
from steward.errors import LedgerFault, SettingError
from steward.ports import Directory, Identity
from steward.provider_keys_command import listed, organisation, read_key, removed, told
from steward.words import Secret
from tests.contracts.records import ORG, OTHER_ORG
from tests.wanted import provider_key

TOKEN = Secret("mdm_st_" + "t" * 32)


@pytest.fixture
def directory() -> Directory:
    made = MemoryDirectory()
    made.register(Identity(uuid4(), ORG, "Acme"), "https://butler.example", TOKEN)
    return made


def test_a_key_is_one_line() -> None:
    assert read_key(io.StringIO("  sk-canary-key \nmore\n")).reveal() == "sk-canary-key"


@pytest.mark.parametrize("given", ["", "\n", "short", "two words-here", "CANARY\x1bCANARY", "sk-ü-CANARY", "x" * 4097])
def test_what_is_no_key_is_refused_and_not_told(given: str) -> None:
    with pytest.raises(SettingError) as caught:
        read_key(io.StringIO(given))
    assert "CANARY" not in caught.value.message


def test_the_only_organisation_need_not_be_named(directory: Directory) -> None:
    assert organisation(directory, None) == organisation(directory, ORG) == ORG
    with pytest.raises(LedgerFault, match="steward orgs"):
        organisation(directory, OTHER_ORG)
    directory.register(Identity(uuid4(), OTHER_ORG, "Other"), "https://butler.example", TOKEN)
    with pytest.raises(LedgerFault, match="--org"):
        organisation(directory, None)
    directory.deregister(OTHER_ORG)
    assert organisation(directory, None) == ORG
    with pytest.raises(LedgerFault):
        organisation(MemoryDirectory(), None)


def test_what_is_printed_holds_no_key(directory: Directory) -> None:
    kept = directory.set_provider_key(ORG, "openai", Secret("sk-canary-key"))
    [registration] = directory.registrations()
    directory.replace_provider_keys(registration, [provider_key("sk-canary-key", provider="anthropic")])
    printed = [told(kept, json_wanted) for json_wanted in (True, False)]
    printed += [listed(directory, json_wanted) for json_wanted in (True, False)]
    assert not [text for text in printed if "canary" in text]
    facts = json.loads(printed[2])
    assert [(each["provider"], each["source"], each["usable"]) for each in facts] == [
        ("anthropic", "butler", False),
        ("openai", "local", True),
    ]
    assert f"steward approve {facts[0]['fingerprint']}" in printed[3]
    assert "No provider's key" in listed(MemoryDirectory(), json_wanted=False)


def test_one_that_is_not_there_cannot_be_removed() -> None:
    assert json.loads(removed("openai", True, True)) == {"provider": "openai", "removed": True}
    assert "openai" in removed("openai", True, False)
    with pytest.raises(LedgerFault):
        removed("openai", False, False)
