"""BODY_STORE_URL becomes a destination whose credentials cannot stray."""

from __future__ import annotations

import pytest

from steward.body_store_url import StoreOptions, destination
from steward.destination import Anonymous, FilesDestination, GcsDestination, HostRole, S3Destination, S3Keys
from steward.errors import SettingError
from steward.settings import load
from steward.words import Secret

KEYS = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"}


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("s3://bucket", S3Destination("bucket", "", HostRole())),
        ("s3://bucket/", S3Destination("bucket", "", HostRole())),
        ("s3://my.bucket-1/a/b/", S3Destination("my.bucket-1", "a/b", HostRole())),
        ("gs://bucket_1/a", GcsDestination("bucket_1", "a", HostRole())),
        ("file:///var/lib/steward/bodies/", FilesDestination("/var/lib/steward/bodies")),
        ("file:///a%20b", FilesDestination("/a b")),
    ],
)
def test_a_url_names_a_store(url: str, meant: object) -> None:
    assert load({"BODY_STORE_URL": url}, None).body_store == meant


@pytest.mark.parametrize(
    "url",
    [
        "s3:bucket",
        "s3://",
        "s3:///prefix",
        "s3://Bucket/",
        "s3://b/",
        "s3://bucket:9000/p",
        "s3://user@bucket/p",
        "s3://bucket/p?region=x",
        "s3://bucket/p#x",
        "s3://bucket/a//b",
        "s3://bucket/a/../b",
        "s3://bucket/%2e%2e/b",
        "s3://arn:aws:s3:us-east-1:123456789012:accesspoint/evil",
        "s3://bucket/a\\b",
        "gs://-bucket/",
        "gs://b./",
        "file://host/folder",
        "file:///",
        "file://relative",
        "file:///a/../etc",
        "file:///a%00b",
        "file:///a%ff",
        "https://bucket.s3.amazonaws.com/",
    ],
)
def test_a_url_that_names_none_is_one_line(url: str) -> None:
    with pytest.raises(SettingError, match="^BODY_STORE_URL: [ -~]+$"):
        load({"BODY_STORE_URL": url}, None)


def test_options_reach_the_destination() -> None:
    environ = {
        "BODY_STORE_URL": "s3://bucket/p",
        "BODY_STORE_S3_REGION": "eu-central-1",
        "BODY_STORE_S3_KMS_KEY_ID": "alias/bodies",
        "BODY_STORE_S3_EXPECTED_OWNER": "123456789012",
    }
    meant = S3Destination("bucket", "p", HostRole(), "eu-central-1", None, "alias/bodies", "123456789012")
    assert load(environ, None).body_store == meant
    gcs = load({"BODY_STORE_URL": "gs://bucket", "BODY_STORE_GCS_PROJECT": "billing"}, None).body_store
    assert gcs == GcsDestination("bucket", "", HostRole(), project="billing")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BODY_STORE_S3_REGION", "us-east-1\n"),
        ("BODY_STORE_S3_REGION", "evil.example/"),
        ("BODY_STORE_S3_EXPECTED_OWNER", "12345678901"),
        ("BODY_STORE_S3_KMS_KEY_ID", "\n"),
        ("BODY_STORE_S3_ENDPOINT", "http://minio.example.com"),
        ("BODY_STORE_S3_ENDPOINT", "https://minio.example.com/path"),
        ("BODY_STORE_S3_ENDPOINT", "https://user@minio.example.com"),
        ("BODY_STORE_GCS_ENDPOINT", "not a url"),
        ("AWS_ACCESS_KEY_ID", "\n"),
        ("AWS_SECRET_ACCESS_KEY", "\0"),
    ],
)
def test_a_wrong_option_is_one_line_that_names_it(name: str, value: str) -> None:
    with pytest.raises(SettingError, match=f"^{name}: [ -~]+$"):
        load({"BODY_STORE_URL": "s3://bucket", **KEYS, name: value}, None)


@pytest.mark.parametrize(
    "endpoint", ["https://minio.corp.example", "http://minio:9000", "https://s3.amazonaws.com.evil.example"]
)
def test_the_hosts_role_never_goes_to_another_endpoint_than_the_vendors(endpoint: str) -> None:
    with pytest.raises(SettingError, match="^BODY_STORE_S3_ENDPOINT: needs AWS_ACCESS_KEY_ID"):
        load({"BODY_STORE_URL": "s3://bucket", "BODY_STORE_S3_ENDPOINT": endpoint}, None)
    store = load({"BODY_STORE_URL": "s3://bucket", "BODY_STORE_S3_ENDPOINT": endpoint, **KEYS}, None).body_store
    assert isinstance(store, S3Destination)
    assert store.credentials == S3Keys("id", Secret("secret"))
    assert store.endpoint == endpoint


def test_an_endpoint_of_the_vendors_is_served_by_the_hosts_role() -> None:
    vpc = "https://bucket.vpce-1a2b.s3.eu-west-1.vpce.amazonaws.com"
    store = destination("s3://bucket", StoreOptions(s3_endpoint=vpc))
    assert isinstance(store, S3Destination)
    assert store.credentials == HostRole()


@pytest.mark.parametrize(
    ("endpoint", "credentials"),
    [
        ("http://127.0.0.1:4443", Anonymous()),
        ("http://gcs:4443", Anonymous()),
        ("https://storage.googleapis.com.evil.example", Anonymous()),
        ("https://storage-corp.p.googleapis.com", HostRole()),
    ],
)
def test_only_googles_own_addresses_see_googles_credentials(endpoint: str, credentials: object) -> None:
    store = load({"BODY_STORE_URL": "gs://bucket", "BODY_STORE_GCS_ENDPOINT": endpoint}, None).body_store
    assert isinstance(store, GcsDestination)
    assert store.credentials == credentials


def test_an_option_of_another_store_is_a_warning() -> None:
    settings = load({"BODY_STORE_URL": "file:///bodies", "BODY_STORE_S3_REGION": "us-east-1"}, None)
    assert settings.warnings == ("BODY_STORE_S3_REGION: has no effect without a BODY_STORE_URL of its kind",)


def test_options_do_not_print_their_keys() -> None:
    options = StoreOptions(aws_access_key_id="CANARY", aws_secret_access_key=Secret("CANARY"))
    assert "CANARY" not in repr(options)
