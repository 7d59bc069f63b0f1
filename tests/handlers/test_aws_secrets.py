"""Secrets by name: what is a name, what is fetched, and that a fault names the setting alone."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator

import boto3
import pytest

from handlers import aws_secrets
from handlers.aws_secrets import (
    ANEW_EVERY_S,
    Named,
    NamedPassword,
    fetcher,
    named,
    plain_secrets,
    settings_of,
    with_secrets,
)
from steward.errors import SettingError
from steward.setting_table import TABLE
from steward.words import Secret
from tests.said import Said, listening
from tests.servers.stores import S3Server

ARN = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:steward/key-AbCdEf"
PARAMETER = "arn:aws:ssm:eu-central-1:123456789012:parameter/steward/key"


@pytest.fixture(autouse=True)
def said() -> Iterator[Said]:
    with listening() as heard:
        yield heard


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (ARN, Named("secretsmanager", "eu-central-1", ARN)),
        (f"{ARN}:password", Named("secretsmanager", "eu-central-1", ARN, "password")),
        (f"{ARN}:password::", Named("secretsmanager", "eu-central-1", ARN, "password")),
        (f"{ARN}::AWSPREVIOUS:", Named("secretsmanager", "eu-central-1", ARN, None, "AWSPREVIOUS")),
        (f"{ARN}:a:b:c", Named("secretsmanager", "eu-central-1", ARN, "a", "b", "c")),
        (PARAMETER, Named("ssm", "eu-central-1", "/steward/key")),
        ("ssm:///steward/key", Named("ssm", None, "/steward/key")),
        ("ssm://key", Named("ssm", None, "key")),
        ("a" * 64, None),
        ("", None),
    ],
)
def test_a_name_is_told_from_a_secret(value: str, place: Named | None) -> None:
    assert named(value) == place


@pytest.mark.parametrize("value", ["arn:aws:s3:::bucket", "arn:", "ssm:/x", f"{ARN}:a:b:c:d", f"{ARN}\n", "ssm://a b"])
def test_what_only_begins_like_a_name_is_refused(value: str) -> None:
    with pytest.raises(SettingError, match="^ENCRYPTION_KEY: ") as wrong:
        with_secrets({"ENCRYPTION_KEY": value}, lambda place: "never")
    assert value.strip() not in wrong.value.message or value == "arn:"


def test_every_secret_setting_may_be_named_and_each_place_is_asked_once() -> None:
    asked: list[Named] = []

    def fetch(place: Named) -> str:
        asked.append(place)
        return "the secret"

    names = [setting.name for setting in TABLE if setting.secret]
    found = with_secrets({"HOST": ARN, **dict.fromkeys(names, ARN)}, fetch)
    assert len(names) > 4 and {"ENCRYPTION_KEY", "POSTGRES_PASSWORD"} <= set(names)
    assert all(found[name] == "the secret" for name in names) and found["HOST"] == ARN
    assert asked == [Named("secretsmanager", "eu-central-1", ARN)]


def test_they_are_asked_for_at_the_same_time() -> None:
    together = threading.Barrier(2)

    def fetch(place: Named) -> str:
        together.wait(10)
        return place.name

    found = with_secrets({"ENCRYPTION_KEY": "ssm:///a", "POSTGRES_PASSWORD": "ssm:///b"}, fetch)
    assert (found["ENCRYPTION_KEY"], found["POSTGRES_PASSWORD"]) == ("/a", "/b")


def test_a_secret_of_rds_is_its_password() -> None:
    kept = json.dumps({"username": "steward", "password": "of rds", "port": 5432})
    environ = {"POSTGRES_PASSWORD": ARN, "ENCRYPTION_KEY": f"{ARN}:password"}
    found = with_secrets(environ, lambda place: kept)
    assert found == {"POSTGRES_PASSWORD": "of rds", "ENCRYPTION_KEY": "of rds"}


@pytest.mark.parametrize("kept", ["no json", "[]", "{}", '{"password": 3}', '{"password": ""}'])
def test_a_secret_without_the_key_is_told_by_its_setting(kept: str) -> None:
    with pytest.raises(SettingError, match="^POSTGRES_PASSWORD: ") as wrong:
        with_secrets({"POSTGRES_PASSWORD": f"{ARN}:password"}, lambda place: kept)
    assert kept not in wrong.value.message or kept in ("[]", "{}")


def test_a_fault_names_the_setting_and_none_of_the_vendors_words(said: Said) -> None:
    def fetch(place: Named) -> str:
        raise RuntimeError("canary")

    with pytest.raises(SettingError, match="^ENCRYPTION_KEY: secretsmanager did not give it") as wrong:
        with_secrets({"ENCRYPTION_KEY": ARN}, fetch)
    assert "canary" not in wrong.value.message + said.text and said.events() == ["secret_not_fetched"]


def test_a_service_that_does_not_answer_ends_the_start_in_time() -> None:
    hangs = threading.Event()

    def fetch(place: Named) -> str:
        hangs.wait(60)
        return ""

    with pytest.raises(SettingError, match="did not answer in time"):
        with_secrets({"ENCRYPTION_KEY": ARN}, fetch, within_s=0.05)
    hangs.set()


def test_nothing_is_fetched_where_nothing_is_named() -> None:
    def never(place: Named) -> str:
        raise AssertionError(place)

    assert with_secrets({"ENCRYPTION_KEY": "a" * 64}, never) == {"ENCRYPTION_KEY": "a" * 64}


class Kept:
    """A password under a name, which somebody changes."""

    def __init__(self, password: str) -> None:
        self.password = password
        self.asked = 0
        self.away = False
        self.now = 1000.0

    def __call__(self, place: Named) -> str:
        self.asked += 1
        if self.away:
            raise RuntimeError("canary")
        return json.dumps({"password": self.password})

    def named(self) -> NamedPassword:
        return NamedPassword(ARN, Secret(self.password), self, lambda: self.now)


def test_a_refused_password_is_fetched_anew(said: Said) -> None:
    kept = Kept("old-canary")
    password = kept.named()
    assert password() == Secret("old-canary") and kept.asked == 0
    kept.password = "new-canary"
    assert password.refused(Secret("old-canary")) and password() == Secret("new-canary")
    kept.now += ANEW_EVERY_S
    assert password.refused(Secret("old-canary")), "another thread had the old one in hand"
    assert kept.asked == 1 and said.events() == ["password_fetched_anew"] and "canary" not in said.text


def test_it_is_asked_for_seldom_while_there_is_no_other() -> None:
    """A rotation changes the database before it says so; a password may also just be wrong."""
    kept = Kept("old")
    password = kept.named()
    for _ in range(5):
        assert not password.refused(Secret("old"))
    assert kept.asked == 1
    kept.password = "new"
    kept.now += ANEW_EVERY_S - 1
    assert not password.refused(Secret("old")) and kept.asked == 1
    kept.now += 1
    assert password.refused(Secret("old")) and kept.asked == 2


def test_what_cannot_be_fetched_anew_leaves_what_was_known(said: Said) -> None:
    kept = Kept("old")
    password = kept.named()
    kept.away = True
    assert not password.refused(Secret("old")) and password() == Secret("old")
    assert said.events() == ["secret_not_fetched", "password_not_fetched"] and "canary" not in said.text


def test_only_a_password_that_is_named_may_change() -> None:
    for given, named_so in (({}, False), ({"POSTGRES_PASSWORD": "plain"}, False), ({"POSTGRES_PASSWORD": ARN}, True)):
        settings = settings_of(given, {}, lambda place: "of the manager")
        assert (settings.postgres_sign_in is not None) is named_so
    assert settings.postgres_password == Secret("of the manager")


def test_a_plain_key_is_warned_of() -> None:
    assert plain_secrets({"ENCRYPTION_KEY": "a" * 64}) and not plain_secrets({"ENCRYPTION_KEY": ARN})
    assert not plain_secrets({}) and aws_secrets.WITHIN_S < 10


def test_they_come_from_aws_as_the_functions_own_role(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "AWS_ACCESS_KEY_ID": s3_server.access_key_id,
        "AWS_SECRET_ACCESS_KEY": s3_server.secret_access_key,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3_server.address,
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    make: Callable[..., object] = boto3.session.Session().client
    secrets, parameters = make("secretsmanager"), make("ssm")
    arn = secrets.create_secret(Name="steward/key", SecretString='{"key": "of the manager"}')["ARN"]  # type: ignore[attr-defined]
    parameters.put_parameter(Name="/steward/password", Value="of the store", Type="SecureString")  # type: ignore[attr-defined]
    found = with_secrets({"ENCRYPTION_KEY": f"{arn}:key", "POSTGRES_PASSWORD": "ssm:///steward/password"}, fetcher())
    assert found == {"ENCRYPTION_KEY": "of the manager", "POSTGRES_PASSWORD": "of the store"}
    secrets.put_secret_value(SecretId=arn, SecretString='{"key": "changed"}')  # type: ignore[attr-defined]
    assert with_secrets({"ENCRYPTION_KEY": f"{arn}:key"}, fetcher()) == {"ENCRYPTION_KEY": "changed"}, "nothing is kept"
    with pytest.raises(SettingError, match="^ENCRYPTION_KEY: secretsmanager did not give it"):
        with_secrets({"ENCRYPTION_KEY": arn.replace("steward/key", "steward/other")}, fetcher())
