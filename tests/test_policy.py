"""Every kind of destination under every set of local facts: what takes effect, what never does, and what waits."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import replace
from uuid import uuid4

import pytest

from steward.body_store_allow import allow_list
from steward.destination import HostRole, S3Destination, S3Keys
from steward.policy import (
    DAY_S,
    Facts,
    Local,
    No,
    Reason,
    Wait,
    Yes,
    belongs,
    decide,
    fingerprint,
    key_fingerprint,
    may_use_key,
    names,
)
from steward.sent import OwnerType, SentDestination
from steward.words import Secret
from tests.contracts.records import ORG, OTHER_ORG
from tests.wanted import OTHER_USER, USER, for_org, for_user, gcs, provider_key, s3

MINIO = "https://minio.example.com"
NAMED = allow_list("s3://acme-prompts@eu-west-1, gs://acme-prompts, https://minio.example.com/acme-prompts")
OTHERS = allow_list("s3://somebody-elses@eu-west-1")

WANTED: dict[str, SentDestination | None] = {
    "own": s3(),
    "google": gcs(),
    "custom": s3(endpoint=MINIO),
    "private": s3(endpoint="http://10.0.0.5:9000"),
    "role": s3(credentials=HostRole()),
    "role_custom": s3(credentials=HostRole(), endpoint=MINIO),
    "google_role": gcs(credentials=HostRole()),
    "nonsense": None,
}
FACTS = {
    "nothing": Facts(Local()),
    "window": Facts(Local(), since_registered_s=DAY_S - 1),
    "window over": Facts(Local(), since_registered_s=DAY_S),
    "window ahead": Facts(Local(), since_registered_s=-1.0),
    "no window": Facts(Local(window_s=0), since_registered_s=0.0),
    "approved": Facts(Local(), approved=True),
    "named": Facts(Local(allow=NAMED)),
    "not named": Facts(Local(allow=OTHERS), approved=True, since_registered_s=1.0),
    "managed": Facts(Local(managed=True), approved=True, since_registered_s=1.0),
    "managed, named": Facts(Local(allow=NAMED, managed=True)),
}
WAIT, CUSTOM = Wait(Reason.NOT_APPROVED), Wait(Reason.CUSTOM_ENDPOINT)
ROLE, NONSENSE, UNNAMED = No(Reason.HOST_ROLE), No(Reason.NOT_UNDERSTOOD), No(Reason.NOT_IN_ALLOW_LIST)
PRIVATE = No(Reason.MANAGED_ENDPOINT)
TABLE: dict[str, dict[str, Reason | No | Wait]] = {
    "nothing": {"own": WAIT, "google": WAIT, "custom": CUSTOM, "private": CUSTOM},
    "window": {"own": Reason.WINDOW, "google": Reason.WINDOW, "custom": CUSTOM, "private": CUSTOM},
    "window over": {"own": WAIT, "google": WAIT, "custom": CUSTOM, "private": CUSTOM},
    "window ahead": {"own": WAIT, "google": WAIT, "custom": CUSTOM, "private": CUSTOM},
    "no window": {"own": WAIT, "google": WAIT, "custom": CUSTOM, "private": CUSTOM},
    "approved": dict.fromkeys(("own", "google", "custom", "private"), Reason.APPROVED),
    "named": {
        **dict.fromkeys(("own", "google", "custom", "role", "google_role"), Reason.ALLOW_LIST),
        "private": UNNAMED,
    },
    "not named": dict.fromkeys(("own", "google", "custom", "private"), UNNAMED),
    "managed": {**dict.fromkeys(("own", "google", "custom"), Reason.MANAGED_OWN), "private": PRIVATE},
    "managed, named": {**dict.fromkeys(("own", "google", "custom"), Reason.ALLOW_LIST), "private": UNNAMED},
}
"""For all that is not said here: no credentials are `ROLE`, nonsense is nonsense."""


@pytest.mark.parametrize(("facts", "wanted"), list(itertools.product(FACTS, WANTED)))
def test_the_whole_table(facts: str, wanted: str) -> None:
    default = NONSENSE if wanted == "nonsense" else ROLE
    expected = TABLE[facts].get(wanted, default)
    for config in (for_org(WANTED[wanted]), for_user(WANTED[wanted])):
        decided = decide(config, FACTS[facts])
        assert (decided.reason if isinstance(decided, Yes) else decided) == expected


def test_what_is_decided_is_what_was_wanted_and_no_more() -> None:
    for facts in FACTS.values():
        for wanted in WANTED.values():
            decided = decide(for_org(wanted), facts)
            if isinstance(decided, Yes):
                plain = decided.destination
                if isinstance(plain, S3Destination):
                    plain = replace(plain, public_only=False, expected_owner=None)
                assert plain == wanted


def test_the_account_of_the_allow_list_must_own_the_bucket() -> None:
    allow = allow_list("s3://acme-prompts@eu-west-1/123456789012")
    decided = decide(for_org(s3()), Facts(Local(allow=allow)))
    assert isinstance(decided, Yes)
    assert isinstance(decided.destination, S3Destination)
    assert decided.destination.expected_owner == "123456789012"


@pytest.mark.parametrize(
    "wanted",
    [
        s3("acme-prompts2"),
        s3("acme-prompt"),
        s3(region="eu-west-2"),
        s3(region="cn-north-1"),
        s3(endpoint="https://minio.example.com.evil.example"),
        s3(endpoint="https://minio.example.com:444"),
        s3("other", endpoint=MINIO),
        gcs("acme-prompts.evil.example"),
        gcs(endpoint=MINIO),
    ],
    ids=str,
)
def test_the_allow_list_is_exact(wanted: SentDestination) -> None:
    assert decide(for_org(wanted), Facts(Local(allow=NAMED), approved=True)) == UNNAMED


@pytest.mark.parametrize(
    ("endpoint", "public"),
    [
        ("https://r2.example.com", True),
        ("https://93.184.216.34", True),
        ("http://93.184.216.34", False),
        ("https://10.1.2.3", False),
        ("https://127.0.0.1:9000", False),
        ("https://localhost", False),
        ("https://minio", False),
        ("https://minio.internal", False),
        ("https://169.254.169.254", False),
        ("https://100.64.0.1", False),
        ("https://[::1]", False),
        ("https://[fd00::1]", False),
        ("https://[::ffff:10.0.0.1]", False),
        ("https://[2606:4700::1111]", True),
    ],
)
def test_in_managed_mode_an_endpoint_is_https_and_public(endpoint: str, public: bool) -> None:
    wanted = s3(endpoint=endpoint)
    if not endpoint.startswith("https://"):
        wanted = s3(endpoint="http://minio.internal:9000")
    decided = decide(for_org(wanted), Facts(Local(managed=True)))
    assert isinstance(decided, Yes) is public
    if isinstance(decided, Yes):
        assert isinstance(decided.destination, S3Destination)
        assert decided.destination.public_only


def test_every_change_but_the_secrets_is_another_fingerprint() -> None:
    base = for_org(s3())
    others = [
        for_user(s3()),
        for_user(s3(), OTHER_USER),
        for_org(s3("other-bucket")),
        for_org(s3(region="us-east-1")),
        for_org(s3(region=None)),
        for_org(s3(endpoint=MINIO)),
        for_org(s3(credentials=S3Keys("AKIAOTHER", Secret("very-secret")))),
        for_org(s3(credentials=HostRole())),
        for_org(gcs()),
        for_org(gcs(project="other")),
        for_org(gcs(project=None)),
        for_org(gcs(credentials=HostRole())),
        for_org(None),
    ]
    printed = [fingerprint(ORG, names(config)) for config in (base, *others)]
    printed.append(fingerprint(OTHER_ORG, names(base)))
    assert len(set(printed)) == len(printed)
    assert all(len(each) == 64 for each in printed)
    assert fingerprint(ORG, names(for_org(s3(secret="renewed")))) == printed[0]
    assert fingerprint(ORG, names(for_org(gcs(secret="renewed")))) == fingerprint(ORG, names(for_org(gcs())))


def test_a_fingerprint_covers_every_field_of_a_destination_but_those_butler_cannot_say() -> None:
    """A field that joins the noun later must be covered, or be one of those that only we set."""
    ours = {"prefix", "kms_key_id", "expected_owner", "public_only"}
    covered = set(names(for_org(s3()))) | {"credentials"}
    for kind in (s3(), gcs()):
        fields = {field.name for field in dataclasses.fields(kind)}
        assert fields - ours <= covered
    assert "very-secret" not in "".join(names(for_org(s3())).values())


def test_parts_do_not_run_into_each_other() -> None:
    one, other = names(for_org(s3("ab", region="c"))), names(for_org(s3("a", region="bc")))
    assert fingerprint(ORG, one) != fingerprint(ORG, other)


def test_a_key_is_known_by_organisation_provider_and_value_under_our_own_secret() -> None:
    subkey = Secret(bytes(32))
    key = Secret("sk-one-two-three")
    printed = {
        key_fingerprint(subkey, ORG, "openai", key),
        key_fingerprint(subkey, OTHER_ORG, "openai", key),
        key_fingerprint(subkey, ORG, "anthropic", key),
        key_fingerprint(subkey, ORG, "openai", Secret("sk-one-two-thref")),
        key_fingerprint(Secret(bytes(31) + b"x"), ORG, "openai", key),
    }
    assert len(printed) == 5
    assert [may_use_key(local, approved) for local in (True, False) for approved in (True, False)] == [
        True,
        True,
        True,
        False,
    ]


def test_whose_a_row_is_decides_the_token_that_fetched_it() -> None:
    assert belongs(ORG, for_org(s3(), ORG))
    assert not belongs(ORG, for_org(s3(), OTHER_ORG))
    assert belongs(ORG, for_user(s3(), USER))
    assert belongs(ORG, provider_key(org_id=ORG))
    assert not belongs(ORG, provider_key(org_id=OTHER_ORG))
    assert not belongs(ORG, provider_key(owner_type=OwnerType.USER, owner_id=USER, org_id=OTHER_ORG))
    assert belongs(ORG, replace(provider_key(), owner_type=OwnerType.USER, owner_id=uuid4()))
