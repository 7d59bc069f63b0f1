"""What Butler says is read into closed types, or it is nonsense."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steward import ingress
from steward.destination import HostRole
from steward.errors import ButlerNonsense
from steward.ports import Identity
from steward.sent import OwnerType, SentProviderKey, StorageConfig
from steward.words import Secret
from tests.wanted import PEM, gcs, s3

ID = UUID("0192f0c1-8a53-7c3e-9d1a-2b6f5a1c0d3e")
WHO: dict[str, Any] = {"steward_id": str(ID), "org_id": str(ID), "org_name": "Acme"}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=50),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
    max_leaves=20,
)


def test_an_identity_is_read() -> None:
    assert ingress.identity(WHO) == Identity(ID, ID, "Acme")
    more = ingress.identity({**WHO, "record_fields": ["id", "revision", "id", 7, "A b"], "what a later one says": 1})
    assert more.record_fields == {"id", "revision"}


@pytest.mark.parametrize(
    "changes",
    [
        {"org_id": "../../x"},
        {"org_id": str(ID).upper() + " "},
        {"org_id": "{" + str(ID) + "}"},
        {"org_id": ID.hex},
        {"org_id": str(ID).upper()},
        {"org_id": "00000000-0000-0000-0000-000000000000"},
        {"org_id": 7},
        {"org_id": None},
        {"steward_id": ["x"]},
        {"org_name": ""},
        {"org_name": "  "},
        {"org_name": 5},
        {"org_name": None},
        {"record_fields": "id"},
        {"record_fields": ["model"]},
        {"record_fields": ["id"] * 201},
        {"record_fields": []},
    ],
    ids=lambda changes: f"{next(iter(changes))}-{next(iter(changes.values()))!s:.12}",
)
def test_what_is_of_another_type_is_nonsense(changes: dict[str, Any]) -> None:
    with pytest.raises(ButlerNonsense):
        ingress.identity({**WHO, **changes})


@given(json_values)
def test_any_document_is_an_identity_or_nonsense(document: object) -> None:
    for said in (document, {**WHO, "org_name": document}, {**WHO, "org_id": document}):
        try:
            found = ingress.identity(said)
        except ButlerNonsense:
            continue
        assert 1 <= len(found.org_name) <= ingress.MAX_NAME
        assert "\0" not in found.org_name
        found.org_name.encode()


def test_a_terminal_is_shown_no_command() -> None:
    assert ingress.shown("Müller & Söhne") == "Müller & Söhne"
    assert ingress.shown("\x1b[31mred\x07\u202eback\r\n") == "\\x1b[31mred\\x07\\u202eback\\r\\n"


NOW = datetime(2026, 6, 1, tzinfo=UTC)
KEY: dict[str, Any] = {
    "id": str(ID),
    "key_hash": "ab" * 32,
    "name": "checkout",
    "is_active": True,
    "created_at": "2026-01-01T00:00:00Z",
    "updated_at": "2026-01-02T03:04:05.123456789+01:00",
}


def test_a_key_is_read() -> None:
    other = UUID("0192f0c1-8a53-7c3e-9d1a-2b6f5a1c0d3f")
    more = {
        "description": " the shop ",
        "user_id": str(other),
        "org_id": str(ID),
        "revoked_at": "2026-01-03T00:00:00Z",
        "deprecated_model_behavior": "warn",
        "what a later one says": [1],
    }
    said = ingress.api_keys([KEY, {**KEY, **more}], ID, NOW)
    plain, full = said.keys
    assert plain.updated_at == datetime(2026, 1, 2, 2, 4, 5, 123456, UTC)
    assert (plain.id, plain.key_hash, plain.name, plain.is_active) == (ID, "ab" * 32, "checkout", True)
    assert (plain.description, plain.user_id, plain.revoked_at) == (None, None, None)
    assert (full.description, full.user_id, full.deprecated_model_behavior) == ("the shop", other, "warn")
    assert full.revoked_at == datetime(2026, 1, 3, tzinfo=UTC)
    assert (said.size, said.skipped, said.seen, said.newest) == (2, 0, {ID}, plain.updated_at)


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "../../x"},
        {"id": None},
        {"key_hash": "mdm_sk_plaintext"},
        {"key_hash": "AB" * 32},
        {"key_hash": None},
        {"name": ""},
        {"name": " \n"},
        {"name": 7},
        {"is_active": 1},
        {"is_active": None},
        {"is_active": "true"},
        {"created_at": None},
        {"updated_at": "yesterday"},
        {"updated_at": "2026-01-01"},
        {"updated_at": "2026-01-01T00:00:00"},
        {"updated_at": "2026-13-01T00:00:00Z"},
        {"updated_at": "0001-01-01T00:00:00+23:59"},
        {"updated_at": 1767225600},
        {"user_id": "anna"},
        {"user_id": 7},
        {"org_id": "0192f0c1-8a53-7c3e-9d1a-2b6f5a1c0d3f"},
        {"org_id": "x"},
        {"org_id": 0},
        {"revoked_at": "never"},
        {"description": ["x"]},
        {"description": {"a": 1}},
    ],
    ids=lambda changes: f"{next(iter(changes))}-{next(iter(changes.values()))!s:.12}",
)
def test_a_row_that_is_not_understood_is_skipped_alone(changes: dict[str, Any]) -> None:
    said = ingress.api_keys([{**KEY, **changes}, KEY], ID, NOW)
    assert [key.name for key in said.keys] == ["checkout"]
    assert (said.size, said.skipped) == (2, 1)
    for row in (None, 7, "x", [], {}):
        assert ingress.api_keys([row, KEY], ID, NOW).skipped == 1


def test_names_are_cut_and_cleaned_and_behaviours_are_of_a_list() -> None:
    changes = {"name": "x\0" + "y" * 500, "description": "", "deprecated_model_behavior": "explode"}
    [key] = ingress.api_keys([{**KEY, **changes}], ID, NOW).keys
    assert key.name == "x\ufffd" + "y" * 198
    assert (key.description, key.deprecated_model_behavior) == (None, "passthrough")
    for empty in (None, "", "passthrough"):
        [key] = ingress.api_keys([{**KEY, "deprecated_model_behavior": empty}], ID, NOW).keys
        assert key.deprecated_model_behavior == "passthrough"


def test_a_date_of_the_future_leads_no_further() -> None:
    far = {**KEY, "updated_at": "9999-12-31T23:59:59Z"}
    said = ingress.api_keys([KEY, far], ID, NOW)
    assert len(said.keys) == 2
    assert said.newest == said.keys[0].updated_at
    assert ingress.api_keys([far], ID, NOW).newest is None
    assert ingress.api_keys([{**KEY, "updated_at": "9999-12-31T23:59:59-23:59"}], ID, NOW).skipped == 1


def test_a_row_that_is_garbled_is_still_there() -> None:
    said = ingress.api_keys([{**KEY, "name": 7}], ID, NOW)
    assert (said.keys, said.seen) == ((), {ID})
    assert said.newest is not None, "and its page leads on"


def test_work_is_read_each_item_once_and_what_is_not_understood_can_be_failed() -> None:
    jobs = [UUID(int=number) for number in range(1, 9)]
    kinds = ["sync_api_keys", "replay", "dig", None, 7, {"a": 1}]
    rows: list[Any] = [{"job_id": str(j), "job_type": k} for j, k in zip(jobs, kinds, strict=False)]
    rows.append({"job_id": str(jobs[6]), "job_type": "eval", "org_id": str(ID), "run_id": str(ID)})
    rows.append({"job_id": str(jobs[7]), "job_type": "eval", "org_id": str(jobs[0])})
    rows += [rows[0], {"job_id": "../x", "job_type": "eval"}, {"job_type": "eval"}, None, 7]
    said = ingress.work(rows, ID)
    assert [item.job_id for item in said.items] == jobs
    assert [item.kind for item in said.items] == ["sync_api_keys", "replay", None, None, None, None, "eval", None]
    assert said.size == len(rows)


def test_assignments_are_read() -> None:
    good = {"id": str(ID), "org_id": str(ID), "org_name": "Acme", "token": "mdm_st_" + "t" * 32}
    wrong: list[Any] = [{**good, "token": "mdm_sk_" + "t" * 32}, {**good, "id": "x"}, {**good, "org_id": None}, None, 7]
    found, skipped = ingress.managed_pending([*wrong, good, good])
    assert [(each.id, each.org_id, each.token.reveal()) for each in found] == [(ID, ID, good["token"])]
    assert skipped == 6
    assert "tttt" not in repr(found)


@pytest.mark.parametrize("said", [None, {}, "x", 7, {"items": []}, [{}] * 10_001])
def test_what_is_no_list_or_too_long_is_nonsense(said: object) -> None:
    for read in (
        lambda: ingress.api_keys(said, ID, NOW),
        lambda: ingress.work(said, ID),
        lambda: ingress.managed_pending(said),
    ):
        with pytest.raises(ButlerNonsense):
            read()


@given(json_values)
def test_any_row_is_read_or_skipped(document: object) -> None:
    rows: list[Any] = [document, *({**KEY, name: document} for name in KEY), {**KEY, "org_id": document}]
    rows += [{"job_id": str(ID), "job_type": document}, {"job_id": document, "job_type": "eval"}]
    said = ingress.api_keys(rows, ID, NOW)
    assert said.skipped == len(rows) - len(said.keys)
    assert all(key.updated_at.tzinfo is UTC and 1 <= len(key.name) <= 200 for key in said.keys)
    assert len(ingress.work(rows, ID).items) <= len(rows)
    assert ingress.managed_pending(rows)[1] == len(rows)


S3_ROW: dict[str, Any] = {
    "owner_type": "org",
    "owner_id": str(ID),
    "provider": "s3",
    "s3_bucket": "acme-prompts",
    "s3_region": "eu-west-1",
    "s3_endpoint": None,
    "s3_access_key_id": "AKIAEXAMPLE",
    "s3_secret_access_key": "very-secret",
}
GOOGLE_KEY = {
    "type": "service_account",
    "project_id": "acme",
    "private_key_id": "abc123",
    "private_key": PEM,
    "client_email": "writer@acme.iam.gserviceaccount.com",
    "client_id": "1234567890",
    "auth_uri": "https://accounts.google.com/o/oauth2/auth",
    "token_uri": "https://oauth2.googleapis.com/token",
    "auth_provider_x509_cert_url": "https://www.googleapis.com/oauth2/v1/certs",
    "client_x509_cert_url": "https://www.googleapis.com/robot/v1/metadata/x509/writer%40acme.iam.gserviceaccount.com",
    "universe_domain": "googleapis.com",
}
GCS_ROW: dict[str, Any] = {
    "owner_type": "user",
    "owner_id": str(ID),
    "provider": "gcs",
    "gcs_bucket": "acme-prompts",
    "gcs_project_id": "acme",
    "gcs_credentials_json": json.dumps(GOOGLE_KEY),
}


def read(row: dict[str, Any]) -> StorageConfig:
    [config] = ingress.storage_configs([row])
    return config


def test_a_storage_config_is_read() -> None:
    assert read(S3_ROW) == StorageConfig(OwnerType.ORG, ID, s3())
    assert read(GCS_ROW) == StorageConfig(OwnerType.USER, ID, gcs())
    assert read({**GCS_ROW, "gcs_credentials_json": GOOGLE_KEY}) == read(GCS_ROW), "as an object, too"
    blank = dict.fromkeys(("gcs_bucket", "gcs_project_id", "gcs_credentials_json"), "")
    assert read({**S3_ROW, **blank, "id": str(ID), "updated_at": "2026-11-20T12:00:00Z"}) == read(S3_ROW)
    assert ingress.not_understood([S3_ROW, GCS_ROW], ingress.storage_configs([S3_ROW, GCS_ROW])) == 0


def test_a_config_without_credentials_is_read_as_one_that_wants_the_hosts_role() -> None:
    bare = {**S3_ROW, "s3_access_key_id": "", "s3_secret_access_key": None}
    assert read(bare).destination == s3(credentials=HostRole())
    assert read({**GCS_ROW, "gcs_credentials_json": ""}).destination == gcs(credentials=HostRole())


ENDPOINTS = {
    "https://s3.eu-west-1.amazonaws.com": None,
    "https://s3.amazonaws.com/": None,
    "https://S3.EU-WEST-1.amazonaws.com:443": None,
    "https://s3.us-east-1.amazonaws.com": "https://s3.us-east-1.amazonaws.com",
    "https://evil.eu-west-1.elb.amazonaws.com": "https://evil.eu-west-1.elb.amazonaws.com",
    "https://s3.eu-west-1.amazonaws.com.evil.example": "https://s3.eu-west-1.amazonaws.com.evil.example",
    "HTTPS://Minio.Example.COM:9000": "https://minio.example.com:9000",
    "http://minio.internal:9000": "http://minio.internal:9000",
}


@pytest.mark.parametrize("given", ENDPOINTS)
def test_an_endpoint_is_written_in_one_way_and_only_the_vendors_own_is_none(given: str) -> None:
    assert read({**S3_ROW, "s3_endpoint": given}).destination == s3(endpoint=ENDPOINTS[given])


def test_a_region_that_is_not_said_is_amazons_default_and_elsewhere_none() -> None:
    assert read({**S3_ROW, "s3_region": ""}).destination == s3(region="us-east-1")
    elsewhere = {**S3_ROW, "s3_region": None, "s3_endpoint": "https://minio.example.com"}
    assert read(elsewhere).destination == s3(region=None, endpoint="https://minio.example.com")


def google(**changes: Any) -> dict[str, Any]:
    return {**GCS_ROW, "gcs_credentials_json": json.dumps({**GOOGLE_KEY, **changes})}


HOSTILE_ROWS: dict[str, dict[str, Any]] = {
    "an access point's ARN": {**S3_ROW, "s3_bucket": "arn:aws:s3:eu-west-1:123456789012:accesspoint/x"},
    "an outpost's ARN": {**S3_ROW, "s3_bucket": "arn:aws:s3-outposts:eu-west-1:1:outpost/op/accesspoint/x"},
    "an access point's alias": {**S3_ROW, "s3_bucket": "x-1234567890-s3alias"},
    "a bucket with a path": {**S3_ROW, "s3_bucket": "acme/../evil"},
    "a bucket with a final newline": {**S3_ROW, "s3_bucket": "acme-prompts\n"},
    "a bucket that is an address": {**S3_ROW, "s3_bucket": "10.0.0.1"},
    "a region that is a host": {**S3_ROW, "s3_region": "eu-west-1.evil.example"},
    "a region with a newline": {**S3_ROW, "s3_region": "eu-west-1\n"},
    "the metadata service": {**S3_ROW, "s3_endpoint": "http://169.254.169.254"},
    "the metadata service by https": {**S3_ROW, "s3_endpoint": "https://169.254.169.254"},
    "the metadata service, mapped": {**S3_ROW, "s3_endpoint": "https://[::ffff:169.254.169.254]"},
    "plain http to anywhere": {**S3_ROW, "s3_endpoint": "http://evil.example"},
    "an endpoint with a path": {**S3_ROW, "s3_endpoint": "https://minio.example/evil"},
    "an endpoint with a user": {**S3_ROW, "s3_endpoint": "https://a@minio.example"},
    "an endpoint that is a file": {**S3_ROW, "s3_endpoint": "file:///etc"},
    "half a credential": {**S3_ROW, "s3_secret_access_key": ""},
    "a session token": {**S3_ROW, "s3_session_token": "x"},
    "a role": {**S3_ROW, "s3_role_arn": "arn:aws:iam::123456789012:role/x"},
    "fields of two vendors": {**S3_ROW, "gcs_bucket": "acme"},
    "another vendor": {**S3_ROW, "provider": "file"},
    "no vendor": {**S3_ROW, "provider": None},
    "a number for a bucket": {**S3_ROW, "s3_bucket": 7},
    "a list for a secret": {**S3_ROW, "s3_secret_access_key": ["very-secret"]},
    "no bucket": {**S3_ROW, "s3_bucket": ""},
    "external_account": google(type="external_account"),
    "external_account with a file": google(credential_source={"file": "/etc/passwd"}),
    "authorized_user": google(type="authorized_user"),
    "a token address of its own": google(token_uri="https://evil.example/token"),
    "the metadata service as token address": google(token_uri="http://169.254.169.254/token"),
    "another universe": google(universe_domain="evil.example"),
    "impersonation": google(service_account_impersonation_url="https://evil.example"),
    "an address for certificates": google(client_x509_cert_url="https://evil.example"),
    "no private key": google(private_key=""),
    "no account": google(client_email=None),
    "somebody of another name": google(client_email="writer@evil.example"),
    "a key that is none": google(private_key="CANARY"),
    "text that is no JSON": {**GCS_ROW, "gcs_credentials_json": "{"},
    "JSON that is no object": {**GCS_ROW, "gcs_credentials_json": "[]"},
    "JSON that is deep": {**GCS_ROW, "gcs_credentials_json": "[" * 10_000},
    "JSON that is long": {**GCS_ROW, "gcs_credentials_json": json.dumps({**GOOGLE_KEY, "client_id": "1" * 20_000})},
    "a lone surrogate": {**GCS_ROW, "gcs_credentials_json": "\ud800"},
    "a project with a path": {**GCS_ROW, "gcs_project_id": "acme/../evil"},
    "a bucket of Google's with a path": {**GCS_ROW, "gcs_bucket": "acme/evil"},
}


@pytest.mark.parametrize("what", HOSTILE_ROWS)
def test_a_hostile_row_is_refused_alone(what: str) -> None:
    other = {**S3_ROW, "owner_type": "user", "owner_id": "0192f0c1-8a53-7c3e-9d1a-2b6f5a1c0d3f"}
    said = [HOSTILE_ROWS[what], other]
    refused, good = ingress.storage_configs(said)
    assert (refused.owner_id, refused.destination) == (ID, None), "its owner is known: what was in force stays"
    assert good.destination == s3()
    assert ingress.not_understood(said, [refused, good]) == 1


@pytest.mark.parametrize(
    "changes",
    [{"owner_id": "../../x"}, {"owner_id": None}, {"owner_type": "everybody"}, {"owner_type": ["org"]}],
    ids=str,
)
def test_a_row_of_nobody_is_skipped(changes: dict[str, Any]) -> None:
    said = [{**S3_ROW, **changes}, "no row", 7]
    assert ingress.storage_configs(said) == ()
    assert ingress.not_understood(said, ()) == 3


def test_who_stands_twice_has_no_destination() -> None:
    said = [S3_ROW, {**S3_ROW, "s3_bucket": "evil"}]
    assert ingress.storage_configs(said) == (StorageConfig(OwnerType.ORG, ID, None),)


KEY_ROW = {"id": str(ID), "org_id": str(ID), "provider": "openai", "key": "sk-provider-key-of-acme"}


def test_a_provider_key_is_read() -> None:
    [key] = ingress.provider_keys([KEY_ROW])
    assert key == SentProviderKey(ID, OwnerType.ORG, ID, "openai", Secret("sk-provider-key-of-acme"), ID)
    user = "0192f0c1-8a53-7c3e-9d1a-2b6f5a1c0d3f"
    [theirs] = ingress.provider_keys([{**KEY_ROW, "user_id": user}])
    assert (theirs.owner_type, theirs.owner_id, theirs.org_id) == (OwnerType.USER, UUID(user), ID)


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "x"},
        {"org_id": None},
        {"org_id": "", "user_id": ""},
        {"user_id": 7},
        {"provider": "../openai"},
        {"provider": None},
        {"key": ""},
        {"key": "with space in it"},
        {"key": "new\nline-in-it"},
        {"key": "x" * 4097},
        {"key": {"a": 1}},
    ],
    ids=str,
)
def test_a_provider_key_that_is_none_is_skipped(changes: dict[str, Any]) -> None:
    said = [{**KEY_ROW, **changes}]
    assert ingress.provider_keys(said) == ()
    assert ingress.not_understood(said, ()) == 1


@pytest.mark.parametrize("said", [None, {}, "rows", 7, [{}] * 10_001], ids=lambda said: str(said)[:20])
def test_what_is_no_set_is_nonsense(said: object) -> None:
    for reader in (ingress.storage_configs, ingress.provider_keys):
        with pytest.raises(ButlerNonsense):
            reader(said)


@given(json_values, st.sampled_from(sorted(S3_ROW | GCS_ROW | KEY_ROW)))
def test_any_value_of_any_field_is_read_or_refused(value: object, name: str) -> None:
    for row in (S3_ROW, GCS_ROW, KEY_ROW):
        for config in ingress.storage_configs([{**row, name: value}]):
            assert isinstance(config.owner_id, UUID)
        for key in ingress.provider_keys([{**row, name: value}]):
            assert isinstance(key.id, UUID)
