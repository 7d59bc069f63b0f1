"""`steward pending` and `approve`: all that a fingerprint covers, in words, and nothing that commands a terminal."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest

from steward.adapters.memory import MemoryDirectory
from steward.arriving import pending as waiting
from steward.body_store_allow import allow_list
from steward.errors import LedgerFault
from steward.policy import NOTHING_SAID, Local
from steward.ports import Directory, Identity
from steward.trust_command import WHY, approve, pending, whoever
from steward.words import Secret
from tests.contracts.records import ORG
from tests.wanted import EVIL, VARIANTS, for_org, for_user, provider_key, s3

TOKEN = Secret("mdm_st_" + "t" * 32)
NAME = "Acme \x1b[31m\u202e"


def house(local: Local = NOTHING_SAID) -> Directory:
    directory = MemoryDirectory(local)
    registration = directory.register(Identity(uuid4(), ORG, NAME), "https://butler.example", TOKEN)
    directory.replace_storage_configs(registration, [for_org(s3(endpoint=EVIL)), for_user(None)])
    directory.replace_provider_keys(registration, [provider_key()])
    return directory


def test_it_says_everything_a_fingerprint_covers_and_no_secret() -> None:
    directory = house()
    text = pending(directory, json_wanted=False)
    listed = directory.pending_approvals()
    for each in listed:
        assert all(value in text for value in each.names.values())
        assert (f"steward approve {each.fingerprint}" in text) is each.approvable
    assert "Acme \\x1b[31m\\u202e" in text
    assert all(each.isprintable() or each == "\n" for each in text)
    facts = json.loads(pending(directory, json_wanted=True))
    assert [each["fingerprint"] for each in facts] == [each.fingerprint for each in listed]
    assert facts[0]["endpoint"] == EVIL
    for said in (text, json.dumps(facts)):
        assert "very-secret" not in said
        assert "sk-provider" not in said


def test_what_is_approved_waits_no_more() -> None:
    directory = house()
    fingerprints = [each.fingerprint for each in directory.pending_approvals() if each.approvable]
    said = approve(directory, fingerprints, "alice", json_wanted=False)
    assert said.count("approved ") == 2
    assert EVIL in said
    assert not [each for each in directory.pending_approvals() if each.approvable]
    again = json.loads(approve(directory, fingerprints, "alice", json_wanted=True))
    assert [each["fingerprint"] for each in again] == fingerprints, "safe to repeat"


def test_one_that_cannot_be_approved_means_none_is() -> None:
    directory = house()
    good = [each.fingerprint for each in directory.pending_approvals() if each.approvable]
    [bad] = [each for each in directory.pending_approvals() if not each.approvable]
    with pytest.raises(LedgerFault, match="not understood"):
        approve(directory, [*good, bad.fingerprint], "alice", json_wanted=False)
    with pytest.raises(LedgerFault, match="steward pending"):
        approve(directory, ["0" * 64], "alice", json_wanted=False)
    assert len(directory.pending_approvals()) == 3


def test_with_an_allow_list_nothing_of_storage_is_approved() -> None:
    directory = house(Local(allow=allow_list("s3://acme-prompts@eu-west-1")))
    [first, *_] = directory.pending_approvals()
    with pytest.raises(LedgerFault, match="BODY_STORE_ALLOW"):
        approve(directory, [first.fingerprint], "alice", json_wanted=False)
    assert "BODY_STORE_ALLOW" in pending(directory, json_wanted=False)


def test_nothing_that_waits_is_said() -> None:
    assert pending(MemoryDirectory(), json_wanted=False).startswith("Nothing waits")
    assert json.loads(pending(MemoryDirectory(), json_wanted=True)) == []


def test_every_reason_has_its_words() -> None:
    directory = MemoryDirectory()
    registration = directory.register(Identity(uuid4(), ORG, NAME), "https://butler.example", TOKEN)
    for local in (Local(window_s=0), Local(managed=True), Local(allow=allow_list("gs://other"))):
        for variant in VARIANTS.values():
            directory.replace_storage_configs(registration, [for_org(variant)])
            assert {each.reason for each in waiting(directory.kept_configs(), local)} <= set(WHY)


def test_who_did_it_is_who_runs_it() -> None:
    assert 1 <= len(whoever()) <= 100
