"""`majordomo ...` against a served Butler: sign in, make, list, revoke, set, count; and what it never prints."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from steward.errors import SettingError
from steward.majordomo import main, secret_of
from tests.servers.butler_process import EMAIL, ServedButler

Line = Callable[..., CompletedProcess[str]]


def enter(line: Line, served: ServedButler) -> CompletedProcess[str]:
    said = line("login", "--url", served.url, "--email", EMAIL, "--password", "-", stdin=f"{served.password}\n")
    assert said.returncode == 0, said.stderr
    return said


def as_json(line: Line, *arguments: str, stdin: str = "") -> Any:
    said = line(*arguments, "--json", stdin=stdin)
    assert said.returncode == 0, said.stderr
    return json.loads(said.stdout)


def test_a_morning_at_the_terminal(served_butler: ServedButler, line: Line, tmp_path: Path) -> None:
    assert "Acme" in enter(line, served_butler).stdout
    kept = tmp_path / "config" / "majordomo" / "credentials.json"
    assert (stat.S_IMODE(kept.stat().st_mode), stat.S_IMODE(kept.parent.stat().st_mode)) == (0o600, 0o700)
    token = line("stewards", "create", "--name", "prod").stdout
    assert token.count("mdm_st_") == 1 and "steward register" in token
    key = as_json(line, "keys", "create", "--name", "checkout", "--deprecated-models", "warn")
    assert key["key"].startswith("mdm_sk_")
    listed = line("keys", "list").stdout
    assert "checkout" in listed and key["key"] not in listed
    assert [each["name"] for each in as_json(line, "stewards", "list")] == ["prod"]
    arguments = ("--provider", "s3", "--bucket", "acme-bodies", "--region", "eu-central-1", "--access-key-id", "AKIA1")
    assert line("storage", "set", *arguments, "--secret", "-", stdin="s3cr3t").returncode == 0
    assert "acme-bodies" in line("storage", "list").stdout
    usage = as_json(line, "usage", "--by", "model", "--since", "7d")
    assert (usage["by"], usage["total"]["calls"], usage["groups"]) == ("model", 0, [])
    assert "total" in line("usage", "--by", "key").stdout
    assert line("keys", "revoke", key["id"]).returncode == 0
    (state,) = [each["is_active"] for each in as_json(line, "keys", "list")]
    assert state is False
    assert line("logout").returncode == 0
    assert (line("keys", "list").returncode, kept.exists()) == (2, False)


def test_a_wrong_password_is_one_line(served_butler: ServedButler, line: Line) -> None:
    said = line("login", "--url", served_butler.url, "--email", EMAIL, "--password", "-", stdin="wrong\n")
    assert (said.returncode, said.stdout) == (1, "")
    assert said.stderr == "majordomo: The e-mail address or the password is wrong.\n"


def test_a_change_after_a_while_asks_for_the_password_and_says_so(
    served_butler: ServedButler, line: Line, empty_postgres: Any
) -> None:
    enter(line, served_butler)
    empty_postgres.run("UPDATE butler.sessions SET fresh_until = created_at")
    said = line("stewards", "create", "--name", "prod")
    assert (said.returncode, said.stdout) == (2, "")
    assert "password again" in said.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("login", "--url", "http://butler.example.com", "--email", "a@b.co", "--password", "-"),
        ("login", "--url", "https://b.example", "--email", "a@b.co", "--password", "plain"),
        ("keys", "list"),
        ("keys", "revoke", "../../me"),
        ("usage",),
    ],
)
def test_what_cannot_be_is_two_and_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert main(arguments, {"XDG_CONFIG_HOME": str(tmp_path)}) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert "plain" not in said.err


@pytest.mark.parametrize("arguments", [(), ("keys",), ("usage", "--since", "yesterday"), ("storage", "set")])
def test_wrong_words_are_usage(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments, {})
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("usage: majordomo")


def test_a_secret_is_never_an_argument() -> None:
    with pytest.raises(SettingError, match="standard input"):
        secret_of("s3cr3t", "Secret")
