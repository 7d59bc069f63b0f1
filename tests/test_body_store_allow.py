"""BODY_STORE_ALLOW: a closed list of exact names; whatever could stand for more is refused."""

from __future__ import annotations

import pytest

from steward.body_store_allow import allow_list, shown
from steward.destination import Allowed

GOOD = {
    "s3://acme@eu-west-1": Allowed("s3", "acme", region="eu-west-1"),
    "s3://acme@eu-west-1/123456789012": Allowed("s3", "acme", region="eu-west-1", account="123456789012"),
    "gs://acme.example.com": Allowed("gcs", "acme.example.com"),
    "https://minio.example:9000/acme": Allowed("s3", "acme", endpoint="https://minio.example:9000"),
    "http://minio.internal:9000/acme": Allowed("s3", "acme", endpoint="http://minio.internal:9000"),
    "https://MINIO.example:443/acme": Allowed("s3", "acme", endpoint="https://minio.example"),
}


@pytest.mark.parametrize("text", GOOD)
def test_one_bucket(text: str) -> None:
    assert allow_list(text) == (GOOD[text],)
    assert allow_list(shown((GOOD[text],))) == (GOOD[text],)


def test_a_list() -> None:
    assert allow_list(" , ".join(GOOD)) == tuple(GOOD.values())
    assert allow_list(shown(tuple(GOOD.values()))) == tuple(GOOD.values())


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "acme",
        "s3://acme",
        "s3://*@eu-west-1",
        "s3://acme@*",
        "s3://acme/prefix@eu-west-1",
        "s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/x@eu-west-1",
        "s3://acme-s3alias@eu-west-1",
        "s3://acme.mrap@eu-west-1",
        "s3://ACME@eu-west-1",
        "s3://acme@eu-west-1/1234",
        "s3://acme@eu-west-1.evil.example",
        "s3://acme@evil.example",
        "gs://acme/prefix",
        "gs://a*",
        "https://minio.example",
        "https://minio.example/",
        "https://minio.example/a/b",
        "https://user@minio.example/acme",
        "https://minio.example/acme?x",
        "http://minio.example.com/acme",
        "https://169.254.169.254/acme",
        "file:///var/lib",
        "s3://acme@eu-west-1 gs://acme",
        "s3://acme@eu-west-1\n",
        ",".join(["gs://acme"] * 1001),
    ],
    ids=lambda text: text[:40],
)
def test_what_is_not_exactly_one_is_refused_and_not_repeated(text: str) -> None:
    if text == "s3://acme@eu-west-1\n":
        assert allow_list(text) == (Allowed("s3", "acme", region="eu-west-1"),), "space around one is none of it"
        return
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - each sentence is ours
        allow_list(text)
    assert "acme" not in caught.value.args[0]
