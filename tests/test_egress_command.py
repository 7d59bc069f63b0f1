"""`steward egress`: a schema that a validator takes, and the list of hosts that a firewall needs."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from steward.egress import CALLS
from steward.egress_command import UNKNOWN_BUTLERS, Host, allowed_hosts, hosts, schema
from steward.ports import Registration
from tests.services import settings

PROVIDERS = [
    ("openai", "api.openai.com", 443, "OPENAI_BASE_URL"),
    ("anthropic", "api.anthropic.com", 443, "ANTHROPIC_BASE_URL"),
    ("gemini", "generativelanguage.googleapis.com", 443, "GEMINI_BASE_URL"),
]


APPROVED = ("bodies", "as approved: steward storage check", 443, "steward approve")
BUTLER = ("butler", UNKNOWN_BUTLERS, 443, "steward register")
AWS_ROLE = [("role", "169.254.169.254", 80), ("role", "169.254.170.2", 80), ("role", "169.254.170.23", 80)]
AWS_ROLE += [("role", "sts.*.amazonaws.com", 443)]
GOOGLE_ROLE = [("role", "metadata.google.internal", 80), ("role", "oauth2.googleapis.com", 443)]
GOOGLE_ROLE += [("role", "sts.googleapis.com", 443), ("role", "iamcredentials.googleapis.com", 443)]


def found(**given: str) -> list[tuple[str, str, int | None, str]]:
    """What these settings allow, but for the providers' own addresses."""
    everything = [(each.what, each.host, each.port, each.setting) for each in allowed_hosts(settings(**given))]
    through = ", through HTTPS_PROXY unless NO_PROXY names it" if "HTTPS_PROXY" in given else ""
    assert everything[-1] == (*BUTLER[:3], BUTLER[3] + through)
    others = {name for name, *_ in PROVIDERS}
    return [each for each in everything[:-1] if each[0] not in others and each != APPROVED]


def test_the_schema_names_every_call() -> None:
    out = io.StringIO()
    assert schema(out) == 0
    said: dict[str, Any] = json.loads(out.getvalue())
    assert said["$schema"].startswith("https://json-schema.org/")
    assert {call.__name__ for call in CALLS} <= set(said["$defs"])
    assert said["$defs"]["Ack"]["x-path"] == "/api/v1/steward/work/{job_id}/ack"


def test_without_a_setting_there_are_the_database_and_the_providers() -> None:
    assert found(POSTGRES_HOST="db.internal", POSTGRES_PORT="5433") == [
        ("database", "db.internal", 5433, "POSTGRES_HOST")
    ]
    everything = [(each.what, each.host, each.port, each.setting) for each in allowed_hosts(settings())]
    assert everything[1:] == [*PROVIDERS, APPROVED, BUTLER]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"BODY_STORE_URL": "file:///var/lib/bodies"}, []),
        (
            {"BODY_STORE_URL": "s3://bucket/prefix"},
            [("bodies", "bucket.s3.amazonaws.com", 443), ("bodies", "bucket.s3.*.amazonaws.com", 443), *AWS_ROLE],
        ),
        (
            {"BODY_STORE_URL": "s3://bucket/prefix", "BODY_STORE_S3_REGION": "eu-central-1"},
            [("bodies", "bucket.s3.eu-central-1.amazonaws.com", 443), *AWS_ROLE],
        ),
        (
            {"BODY_STORE_URL": "s3://my.bucket/prefix", "BODY_STORE_S3_REGION": "cn-north-1"},
            [("bodies", "s3.cn-north-1.amazonaws.com.cn", 443), *AWS_ROLE],
        ),
        ({"BODY_STORE_URL": "gs://bucket/prefix"}, [("bodies", "storage.googleapis.com", 443), *GOOGLE_ROLE]),
        (
            {"BODY_STORE_ALLOW": "s3://bucket@eu-west-1,gs://bucket,https://minio.example:9000/bucket"},
            [
                ("bodies", "bucket.s3.eu-west-1.amazonaws.com", 443),
                *AWS_ROLE,
                ("bodies", "storage.googleapis.com", 443),
                *GOOGLE_ROLE,
                ("bodies", "minio.example", 9000),
            ],
        ),
        ({"PRICING_REMOTE_URL": "https://prices.example/all.json"}, [("prices", "prices.example", 443)]),
        ({"HTTPS_PROXY": "http://anna:secret@proxy.internal:3128"}, [("proxy", "proxy.internal", 3128)]),
        (
            {
                "VIEW_AUTH": "oidc",
                "VIEW_OIDC_ISSUER": "https://login.example/t",
                "VIEW_OIDC_CLIENT_ID": "viewer",
                "VIEW_OIDC_GROUPS": "readers=local",
            },
            [("sign-in", "login.example", 443)],
        ),
        ({"VIEW_OIDC_ISSUER": "https://login.example/t"}, []),
        (
            {"TASKS_SERVICE_ACCOUNT": "a@b.iam.gserviceaccount.com", "TASKS_AUDIENCE": "https://steward.example"},
            [("keys", "www.googleapis.com", 443)],
        ),
        (
            {
                "AFTER_RESPONSE": "sqs",
                "SQS_QUEUE_URL": "https://sqs.eu-west-1.amazonaws.com/123456789012/calls",
            },
            [("queue", "sqs.eu-west-1.amazonaws.com", 443), *AWS_ROLE],
        ),
        (
            {"AFTER_RESPONSE": "pubsub", "PUBSUB_TOPIC": "projects/acme-prod/topics/calls"},
            [("queue", "pubsub.googleapis.com", 443), *GOOGLE_ROLE],
        ),
        (
            {
                "AFTER_RESPONSE": "pubsub",
                "PUBSUB_TOPIC": "projects/acme-prod/topics/calls",
                "PUBSUB_EMULATOR_HOST": "127.0.0.1:8085",
            },
            [("queue", "127.0.0.1", 8085)],
        ),
    ],
    ids=[
        "files",
        "s3",
        "s3-region",
        "s3-china",
        "gcs",
        "allowed",
        "prices",
        "proxy",
        "sign-in",
        "no sign-in",
        "tasks",
        "sqs",
        "pubsub",
        "emulator",
    ],
)
def test_each_setting_adds_what_it_needs(given: dict[str, str], expected: list[tuple[str, str, int]]) -> None:
    assert [each[:3] for each in found(POSTGRES_HOST="/run/postgresql", **given)] == [
        ("database", "/run/postgresql", None),
        *expected,
    ]


def test_a_provider_s_other_address_takes_the_place_of_its_own() -> None:
    there = allowed_hosts(settings(OPENAI_BASE_URL="http://127.0.0.1:8080/v1"))
    assert Host("openai", "127.0.0.1", 8080, "OPENAI_BASE_URL") in there
    assert "api.openai.com" not in {each.host for each in there}


def test_the_butlers_are_those_that_are_registered() -> None:
    now = datetime.now(UTC)

    def at(url: str, ended: datetime | None = None) -> Registration:
        return Registration(uuid4(), uuid4(), "Acme", uuid4(), url, now, ended)

    known = [
        at("https://b.example/x"),
        at("https://b.example"),
        at("http://127.0.0.1:9"),
        at("https://old.example", now),
    ]
    said = [each for each in allowed_hosts(settings(), known) if each.what == "butler"]
    assert [(each.host, each.port) for each in said] == [("127.0.0.1", 9), ("b.example", 443)]
    assert [each for each in allowed_hosts(settings(), []) if each.what == "butler"] == []


def test_no_secret_is_printed() -> None:
    given = settings(HTTPS_PROXY="http://anna:CANARY@proxy.internal:3128", BODY_STORE_URL="s3://bucket/CANARY")
    for as_json in (True, False):
        out = io.StringIO()
        assert hosts(given, as_json, None, out) == 0
        assert "CANARY" not in out.getvalue()
        assert "proxy.internal" in out.getvalue()
    assert {each["what"] for each in json.loads(_printed(given))} >= {"database", "proxy", "bodies"}


def _printed(given: Any) -> str:
    out = io.StringIO()
    hosts(given, True, None, out)
    return out.getvalue()
