"""Which provider key jobs use, and why something cannot be approved."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from steward.arriving import BROKEN
from steward.policy import Facts, Local, No, Reason, decide
from steward.sent import OwnerType, ProviderKey, Wanted
from steward.trust_book import NO_APPROVAL_HELPS, pending_key, usable
from tests.contracts.records import ORG
from tests.test_policy import FACTS, WANTED
from tests.wanted import OTHER_USER, USER, for_org

LOCAL_KEY = ProviderKey(ORG, "openai", True, OwnerType.ORG, ORG, "1" * 64, True, datetime(2026, 11, 20, tzinfo=UTC))
ORGS = replace(LOCAL_KEY, local=False, fingerprint="2" * 64)
USERS = replace(ORGS, owner_type=OwnerType.USER, owner_id=USER, fingerprint="3" * 64)


def test_the_local_key_then_the_users_then_the_organisations() -> None:
    assert usable([ORGS, USERS, LOCAL_KEY], "openai", USER) is LOCAL_KEY
    assert usable([ORGS, USERS], "openai", USER) is USERS
    assert usable([USERS, ORGS], "openai", OTHER_USER) is ORGS
    assert usable([USERS], "openai", None) is None
    assert usable([replace(ORGS, usable=False)], "openai", None) is None
    assert usable([ORGS], "anthropic", None) is None


def test_a_key_that_waits_is_told_without_the_key() -> None:
    waits = pending_key(replace(USERS, usable=False))
    assert (waits.wanted, waits.reason, waits.approvable) == (Wanted.PROVIDER_KEY, "not_approved", True)
    assert waits.names == {"scope": "user", "owner": str(USER), "provider": "openai"}
    assert pending_key(ORGS).reason == "approved"


def test_every_no_says_why_no_approval_helps() -> None:
    said = {decide(for_org(wanted), facts) for wanted in WANTED.values() for facts in FACTS.values()}
    noes = {each.reason.value for each in said if isinstance(each, No)}
    assert noes | {BROKEN} == set(NO_APPROVAL_HELPS)
    assert decide(for_org(None), Facts(Local())) == No(Reason.NOT_UNDERSTOOD)
