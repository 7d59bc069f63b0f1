"""The command: exit codes, one clear line for what is wrong, keys shown once, and never a traceback."""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from migrations import LOCK
from steward.adapters.postgres_directory import PostgresDirectory
from steward.exchange import LOCAL_ORG
from steward.policy import Local
from steward.ports import Identity, SentKey
from steward.setting_table import TABLE
from steward.version import VERSION
from steward.words import Secret
from tests.contracts.records import ORG
from tests.contracts.test_directory import a_hash
from tests.servers.butler_wire import says, wire_butler
from tests.servers.postgres import Database
from tests.servers.steward import COMMAND, REPOSITORY
from tests.servers.waiting import eventually
from tests.test_settings import WRONG
from tests.wanted import for_org, for_user, s3

KEY = bytes(range(32)).hex()
CANARY = "CANARY-51aa"
WITHIN_S = 60.0

MANY = """
import io, json, os, sys
from steward.cli import main

real = sys.stdout, sys.stderr
for line in sys.stdin:
    folder, calls = json.loads(line)
    os.chdir(folder)
    answers = []
    for environ, argv in calls:
        os.environ.clear()
        os.environ.update(environ)
        sys.stdout, sys.stderr = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
        try:
            code = main(argv)
        except SystemExit as exited:
            code = exited.code
        answers.append([code, *(stream.buffer.getvalue().decode() for stream in (sys.stdout, sys.stderr))])
    sys.stdout, sys.stderr = real
    print(json.dumps(answers), flush=True)
"""
"""Calls `main` as the console script does, many times: a process for each would take a second each."""


@dataclass(frozen=True)
class Said:
    """What one command answered."""

    code: int
    out: str
    err: str

    def complaint(self) -> str:
        """Its one line on stderr, beside lines of the log."""
        [line] = [line for line in self.err.splitlines() if not line.startswith("{")]
        return line


@cache
def caller() -> subprocess.Popen[bytes]:
    """The one process for all that needs none of its own. What goes to its real streams is no answer, and fails."""
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)}
    made = subprocess.Popen([sys.executable, "-c", MANY], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    atexit.register(made.communicate)
    return made


def commands(calls: Sequence[tuple[Mapping[str, str], Sequence[str]]], folder: str = "/") -> list[Said]:
    """Commands, one after the other, each with an environment of its own."""
    process = caller()
    assert process.stdin is not None and process.stdout is not None
    given = json.dumps([folder, [[dict(each), list(argv)] for each, argv in calls]])
    process.stdin.write(given.encode("ascii") + b"\n")
    process.stdin.flush()
    if not (answered := process.stdout.readline()):
        caller.cache_clear()
        pytest.fail(f"a command ended its process, with {process.wait()}")
    return [Said(*answer) for answer in json.loads(answered)]


def command(*argv: str, folder: str = "/", **environ: str) -> Said:
    """One command."""
    return commands([(environ, argv)], folder)[0]


def environ_of(database: Database, **more: str) -> dict[str, str]:
    """Settings that lead to this database."""
    address = database.address
    return {
        "ENCRYPTION_KEY": KEY,
        "POSTGRES_HOST": address.host,
        "POSTGRES_PORT": str(address.port),
        "POSTGRES_USER": address.user,
        "POSTGRES_DB": address.database,
        "PRICING_REMOTE_URL": "",
        "AFTER_RESPONSE": "inline",
        **more,
    }


def start(environ: Mapping[str, str], *argv: str, **more: object) -> subprocess.Popen[bytes]:
    """A process of its own, for what needs one: signals, pipes, ports."""
    whole = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), **environ}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
    return subprocess.Popen([*COMMAND, *argv], env=whole, cwd="/", **options)  # type: ignore[call-overload,no-any-return]


def ended(process: subprocess.Popen[bytes]) -> Said:
    """To its end."""
    out, err = process.communicate(timeout=WITHIN_S)
    return Said(process.returncode, (out or b"").decode(), (err or b"").decode())


# help and version

COMMANDS = (
    *((), ("serve",), ("settle",), ("migrate",), ("keys",), ("keys", "create"), ("keys", "list"), ("keys", "revoke")),
    *(("spool",), ("spool", "ls"), ("spool", "show"), ("spool", "retry"), ("spool", "drop"), ("reconcile",)),
    *(("queue",), ("queue", "depth"), ("queue", "redrive")),
    *(("register",), ("orgs",), ("deregister",)),
    *(("view-token",), ("view-token", "create"), ("view-token", "list"), ("view-token", "revoke"), ("view-audit",)),
    *(("egress",), ("egress", "schema"), ("egress", "hosts"), ("egress", "tail"), ("egress", "verify")),
    *(("export",), ("export", "backfill"), ("export", "resend"), ("config",), ("demo",), ("version",)),
    *(("butler",), ("butler", "serve"), ("butler", "migrate"), ("butler", "create-admin")),
    *(("pending",), ("approve",), ("storage",), ("storage", "check")),
    *(("provider-keys",), ("provider-keys", "set"), ("provider-keys", "list"), ("provider-keys", "rm")),
)


_ACTIONS = (
    "create-admin|create|list|revoke|ls|show|retry|drop|schema|hosts|tail|verify|backfill|resend|set|rm|check|serve"
    "|migrate|depth|redrive"
)
_NAMED = rf"\bsteward ([a-z-]+(?: (?:{_ACTIONS})\b)?)"


@cache
def helped() -> dict[tuple[str, ...], Said]:
    """The help of every command, with a setting that is wrong."""
    calls: list[tuple[Mapping[str, str], Sequence[str]]] = [
        ({"PORT": "wrong"}, (*words, "--help")) for words in COMMANDS
    ]
    return dict(zip(COMMANDS, commands(calls), strict=True))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_shows_examples_that_are_commands(words: tuple[str, ...]) -> None:
    said = helped()[words]
    assert (said.code, said.err) == (0, "")
    examples = said.out.partition("examples:\n")[2]
    named = re.findall(_NAMED, examples)
    assert named
    assert {tuple(name.split()) for name in named} <= set(COMMANDS)
    assert all(name.startswith(" ".join(words[:1])) for name in named)


def test_the_list_of_commands_is_whole() -> None:
    listed = re.findall(r"^    ([a-z-]+)(?: |$)", helped()[()].out, re.MULTILINE)
    assert {words[0] for words in COMMANDS if words} == set(listed)


def test_the_version_is_told_whatever_the_settings_are() -> None:
    plain, as_json = commands([({"PORT": "wrong"}, ["version"]), ({"PORT": "wrong"}, ["version", "--json"])])
    assert (plain.code, plain.out, plain.err) == (0, f"majordomo-steward {VERSION}\n", "")
    assert (as_json.code, json.loads(as_json.out)) == (0, {"version": VERSION})


def test_what_is_no_command_is_two() -> None:
    wrong = ["", "nothing", "keys", "serve --workers 0", "serve --workers 65", "keys create", "keys revoke", "config x"]
    wrong += ["spool", "spool show", "spool show x", "spool drop", "spool retry x", "reconcile --since yesterday"]
    for said in commands([({}, argv.split()) for argv in wrong]):
        assert (said.code, said.out) == (2, "")
        assert said.err.startswith("usage:")
        assert "Traceback" not in said.err


# settings

FREE_TEXT = (
    *("POSTGRES_DB", "BODY_STORE_S3_REGION", "BODY_STORE_S3_KMS_KEY_ID", "BODY_STORE_S3_EXPECTED_OWNER"),
    *("BODY_STORE_GCS_PROJECT", "AWS_ACCESS_KEY_ID"),
)
BAD = {
    **dict(WRONG),
    **dict.fromkeys(FREE_TEXT, f"{CANARY}\n"),
    "BODY_STORE_S3_ENDPOINT": f"https://{CANARY}:x",
    "BODY_STORE_GCS_ENDPOINT": f"ftp://{CANARY}",
    "AWS_SECRET_ACCESS_KEY": f"{CANARY}\udcff",
    "POSTGRES_PASSWORD": f"{CANARY}\udcff",
}
"""One value a setting that it cannot have. (NUL cannot stand in an environment.)"""


@cache
def refusals() -> dict[str, Said]:
    """`serve` with each of them."""
    environs = [{"ENCRYPTION_KEY": KEY, "PORT": "7680", name: value} for name, value in BAD.items()]
    return dict(zip(BAD, commands([(environ, ["serve"]) for environ in environs]), strict=True))


@pytest.mark.parametrize("name", [row.name for row in TABLE])
def test_a_wrong_setting_is_one_line_that_names_it(name: str) -> None:
    said = refusals()[name]
    assert (said.code, said.out) == (2, "")
    [line] = said.err.splitlines()
    assert line.startswith(f"steward: {name}: ")
    assert "CANARY" not in line


@pytest.mark.parametrize(
    "argv",
    ["serve", "settle", "spool ls", "migrate", "keys create --name x", "keys list", f"keys revoke {UUID(int=7)}"],
)
def test_a_missing_encryption_key_is_one_line_that_says_how_to_make_one(argv: str) -> None:
    said = command(*argv.split())
    assert (said.code, said.out) == (2, "")
    [line] = said.err.splitlines()
    assert line.startswith("steward: ENCRYPTION_KEY: ")
    assert "openssl rand" in line


@pytest.mark.parametrize("workers", ["1", "2"])
def test_files_that_are_there_and_wrong_are_refused_before_anything_listens(tmp_path: Path, workers: str) -> None:
    """Once, also where several workers would read them."""
    aliases, pem = tmp_path / "aliases.json", tmp_path / "ca.pem"
    aliases.write_text(f'["{CANARY}"]')
    pem.write_text(f"-----BEGIN CERTIFICATE-----\n{CANARY}\n-----END CERTIFICATE-----\n")
    for name, file in (("PRICING_ALIASES_FILE", aliases), ("SSL_CERT_FILE", pem)):
        said = ended(start({"ENCRYPTION_KEY": KEY, "PORT": "0", name: str(file)}, "serve", "--workers", workers))
        assert (said.code, said.out) == (2, "")
        [line] = said.err.splitlines()
        assert line.startswith(f"steward: {name}")
        assert CANARY not in said.err


def test_settings_come_from_a_dotenv_too_and_are_shown_with_their_source(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PORT=7777\nOPENAI_BASE_URL=https://example.com/v1\n")
    said = command("config", "--json", folder=str(tmp_path), PORT="7778")
    shown = {line["name"]: line for line in json.loads(said.out)}
    assert (shown["PORT"]["value"], shown["PORT"]["source"]) == ("7778", "env")
    assert (shown["OPENAI_BASE_URL"]["value"], shown["OPENAI_BASE_URL"]["source"]) == ("https://example.com", ".env")
    assert list(shown) == [row.name for row in TABLE]


def test_config_masks_every_secret() -> None:
    secret = "s3cr3t" * 8
    environ = {row.name: secret for row in TABLE if row.secret}
    environ |= {"ENCRYPTION_KEY": KEY, "HTTPS_PROXY": f"http://someone:{secret}@proxy:3128", "POSTGRES_PORTT": secret}
    environ |= dict.fromkeys(("MDM_STEWARD_TOKEN", "MANAGED_MASTER_TOKEN"), f"mdm_st_{secret}")
    for said in commands([(environ, ["config"]), (environ, ["config", "--json"])]):
        assert said.code == 0
        for word in (secret, KEY, "someone"):
            assert word not in said.out + said.err
        assert "***" in said.out
        assert "proxy:3128" in said.out
    assert "POSTGRES_PORTT: not a setting; is POSTGRES_PORT meant?" in commands([(environ, ["config"])])[0].err


# keys


def everything(database: Database) -> str:
    """Every value of every table, as text."""
    tables = database.run("SELECT quote_ident(table_name) FROM information_schema.tables WHERE table_schema = 'public'")
    return "\n".join(str(row) for (table,) in tables for row in database.run(f"SELECT t::text FROM {table} t"))


def test_a_keys_life(postgres: Database) -> None:
    environ = environ_of(postgres)
    [created, as_json, listed] = commands(
        [
            (environ, ["keys", "create", "--name", "  checkout  ", "--description", "the web shop"]),
            (environ, ["keys", "create", "--name", "größe", "--json"]),
            (environ, ["keys", "list"]),
        ]
    )
    assert (created.code, as_json.code, listed.code) == (0, 0, 0)
    plaintext = re.findall(r"mdm_sk_\S+", created.out)
    assert len(plaintext) == 1
    made = json.loads(as_json.out)
    assert re.fullmatch(r"mdm_sk_[A-Za-z0-9_-]{43}", made["key"])
    assert {name: made[name] for name in ("name", "is_active", "revoked_at", "description")} == {
        **{"name": "größe", "is_active": True},
        **{"revoked_at": None, "description": None},
    }
    stored = everything(postgres)
    for key in (plaintext[0], made["key"]):
        assert key not in stored + listed.out + listed.err
        assert hashlib.sha256(key.encode()).hexdigest() in stored
    lines = listed.out.splitlines()
    assert [re.split(r"\s{2,}", line)[3] for line in lines[1:]] == ["größe", "checkout"]
    [revoked, again, unknown, shown] = commands(
        [
            (environ, ["keys", "revoke", made["id"]]),
            (environ, ["keys", "revoke", made["id"], "--json"]),
            (environ, ["keys", "revoke", str(uuid4())]),
            (environ, ["keys", "list", "--json"]),
        ]
    )
    assert (revoked.code, again.code, unknown.code) == (0, 0, 1)
    assert made["id"] in revoked.out
    assert json.loads(again.out)["is_active"] is False
    assert unknown.complaint() == "steward: there is no such key; `steward keys list` shows them"
    assert [(key["name"], key["is_active"]) for key in json.loads(shown.out)] == [("größe", False), ("checkout", True)]
    assert not [said for said in (created, as_json, listed, revoked, again, shown) if said.err]


def test_keys_that_cannot_be_made_or_found(postgres: Database) -> None:
    environ = environ_of(postgres)
    names = ["", " ", "a" * 201, "two\nlines", "\x1b[2J", "\udcff"]
    said = commands(
        [
            *((environ, ["keys", "create", "--name", name]) for name in names),
            *((environ, ["keys", "revoke", ident]) for ident in ("", "1", "x" * 36, "'; DROP TABLE api_keys; --")),
            (environ, ["keys", "list"]),
            (environ, ["keys", "list", "--json"]),
        ]
    )
    for refused in said[:-2]:
        assert (refused.code, refused.out) == (2, "")
        assert "Traceback" not in refused.err
    assert said[-2].out == "There are no keys yet. Make one: steward keys create --name NAME\n"
    assert json.loads(said[-1].out) == []


def test_a_key_of_another_organisation_is_neither_listed_nor_revoked(postgres: Database) -> None:
    theirs = uuid4()
    postgres.run(
        "INSERT INTO api_keys (id, org_id, key_hash, name) VALUES (:id, :org, :hash, 'theirs')",
        **{"id": theirs, "org": uuid4(), "hash": "a" * 64},
    )
    environ = environ_of(postgres)
    listed, revoked = commands([(environ, ["keys", "list", "--json"]), (environ, ["keys", "revoke", str(theirs)])])
    assert (json.loads(listed.out), revoked.code) == ([], 1)
    assert postgres.run("SELECT is_active FROM api_keys") == [(True,)]
    assert LOCAL_ORG.int == 0


# migrate


def test_migrating_twice_changes_nothing_the_second_time(empty_postgres: Database) -> None:
    environ = environ_of(empty_postgres)
    before, first, second, as_json = commands(
        [(environ, ["keys", "list"]), *((environ, argv) for argv in (["migrate"], ["migrate"], ["migrate", "--json"]))]
    )
    assert (before.code, before.complaint()) == (1, "steward: The database schema is too old. Run: steward migrate")
    assert (first.code, first.out) == (0, "The schema went from nothing to 0008.\n")
    assert (second.code, second.out) == (0, "The schema is up to date (0008).\n")
    assert json.loads(as_json.out) == {"before": "0008", "after": "0008"}


def test_two_migrations_at_once_are_one_and_a_look(empty_postgres: Database) -> None:
    running = [start(environ_of(empty_postgres), "migrate", "--json") for _ in range(2)]
    said = [ended(process) for process in running]
    assert [each.code for each in said] == [0, 0], said
    answers = sorted((json.loads(each.out) for each in said), key=lambda answer: answer["before"] or "")
    assert answers == [{"before": None, "after": "0008"}, {"before": "0008", "after": "0008"}]


# register


def test_an_organisation_is_registered_listed_and_deregistered(postgres: Database) -> None:
    """The token in the environment alone: it stands in no argument, and in nothing that is printed."""
    token, org = "mdm_st_" + "t" * 32, "0192f0c1-8a53-7c3e-9d1a-2b6f5a1c0d3e"
    with wire_butler([says(200, {"steward_id": org, "org_id": org, "org_name": "Acme"}), says(401)]) as butler:
        environ = environ_of(postgres, MDM_STEWARD_TOKEN=token)
        made = command("register", "--butler-url", butler.url, **environ)
        refused = command("register", "--butler-url", butler.url, **environ)
    assert (made.code, made.out) == (0, f"registered Acme ({org}) at {butler.url}\n")
    assert (refused.code, refused.complaint()[:14]) == (1, "steward: Butle")
    listed, ended, unknown = (
        command(*argv, **environ_of(postgres))
        for argv in (["orgs", "--json"], ["deregister", org], ["deregister", "0192f0c1-8a53-7c3e-9d1a-000000000000"])
    )
    assert [each["org_id"] for each in json.loads(listed.out)] == [org]
    assert (ended.code, unknown.code) == (0, 1)
    assert not [said for said in (made, refused, listed, ended, unknown) if token in said.out + said.err]


def test_a_key_that_came_with_an_organisation_is_listed_and_revoked_inside(postgres: Database) -> None:
    """And what Butler calls it moves no cursor."""
    directory = PostgresDirectory(postgres.engine, postgres.keyring)
    acme = directory.register(
        Identity(uuid4(), uuid4(), "Acme"), "https://butler.example", Secret("mdm_st_" + "t" * 32)
    )
    now = datetime.now(UTC)
    keys = [SentKey(uuid4(), a_hash(), name, name != "rests", now, now) for name in ("shop \x1b[31m", "rests")]
    directory.apply_keys(acme, keys)
    environ, org = environ_of(postgres), str(acme.org_id)
    revoked, listed, elsewhere = (
        command(*argv, **environ)
        for argv in (
            ["keys", "revoke", "--org", org, str(keys[0].id)],
            ["keys", "list", "--org", org],
            ["keys", "revoke", "--org", str(uuid4()), str(keys[1].id)],
        )
    )
    assert (revoked.code, elsewhere.code) == (0, 1)
    states = {line[-1]: line[1] for line in map(str.split, listed.out.splitlines()[1:])}
    assert states == {"\\x1b[31m": "revoked", "rests": "rests"}
    assert "\x1b" not in revoked.out + listed.out
    assert directory.apply_keys(acme, keys).refused == ()
    found = directory.find_key(keys[0].key_hash)
    assert found is not None
    assert found.is_active is False


def test_only_allowed_butlers_are_registered_at(postgres: Database) -> None:
    environ = environ_of(postgres, MDM_STEWARD_TOKEN="mdm_st_" + "t" * 32, BUTLER_URLS_ALLOW="https://butler.example")
    said = command("register", "--butler-url", "http://127.0.0.1:1", **environ)
    assert (said.code, said.complaint()[:26]) == (2, "steward: BUTLER_URLS_ALLOW")


# trust


def test_what_waits_is_shown_approved_and_tried(postgres: Database, tmp_path: Path) -> None:
    directory = PostgresDirectory(postgres.engine, postgres.keyring, Local(window_s=0))
    token = Secret("mdm_st_" + "t" * 32)
    made = directory.register(Identity(ORG, ORG, "Acme"), "https://butler.example", token)
    directory.replace_storage_configs(made, [for_org(s3(endpoint="http://127.0.0.1:1")), for_user(None)])
    environ = environ_of(postgres, BODY_STORE_URL=f"file://{tmp_path}/bodies")
    waits, as_json = commands([(environ, ["pending"]), (environ, ["pending", "--json"])])
    first, second = sorted(json.loads(as_json.out), key=lambda each: not each["approvable"])
    assert f"steward approve {first['fingerprint']}" in waits.out
    closed = {**environ, "BODY_STORE_ALLOW": "gs://another"}
    refused, unknown, forbidden, wrong = commands(
        [
            (environ, ["approve", second["fingerprint"]]),
            (environ, ["approve", "0" * 64]),
            (closed, ["approve", first["fingerprint"]]),
            (environ, ["approve", first["fingerprint"][:32]]),
        ]
    )
    assert [each.code for each in (refused, unknown, forbidden, wrong)] == [1, 1, 1, 2]
    assert "BODY_STORE_ALLOW" in forbidden.complaint()
    approved = command("approve", first["fingerprint"], **environ)
    assert (approved.code, approved.out.count("approved ")) == (0, 1)
    checked = command("storage", "check", "--json", **environ)
    assert [(each["ok"], each["step"]) for each in json.loads(checked.out)] == [(True, None), (False, "put")]
    assert checked.code == 1


def test_a_providers_key_is_entered_and_never_shown(postgres: Database, tmp_path: Path) -> None:
    directory = PostgresDirectory(postgres.engine, postgres.keyring)
    directory.register(Identity(ORG, ORG, "Acme"), "https://butler.example", Secret("mdm_st_" + "t" * 32))
    (tmp_path / "key").write_text("sk-canary-of-acme\n")
    environ = environ_of(postgres)
    entered, bad, listed, gone, again = (
        command(*argv, **environ)
        for argv in (
            ["provider-keys", "set", "openai", "--file", str(tmp_path / "key")],
            ["provider-keys", "set", "openai", "--file", str(tmp_path / "missing")],
            ["provider-keys", "list", "--json"],
            ["provider-keys", "rm", "openai"],
            ["provider-keys", "rm", "openai"],
        )
    )
    assert [each.code for each in (entered, bad, listed, gone, again)] == [0, 2, 0, 0, 1]
    assert [each["provider"] for each in json.loads(listed.out)] == ["openai"]
    assert not [each for each in (entered, bad, listed, gone, again) if "canary" in each.out + each.err]


def test_another_key_than_the_databases_is_one_line(postgres: Database) -> None:
    said = command("migrate", **environ_of(postgres, ENCRYPTION_KEY="0123456789abcdef" * 4))
    assert said.code == 1
    assert "ENCRYPTION_KEY" in said.complaint()


# the database away


def test_a_database_that_cannot_be_used_is_one_clear_line(postgres: Database) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nowhere = {"POSTGRES_HOST": "127.0.0.1", "POSTGRES_PORT": str(taken.getsockname()[1])}
        tcp = {"POSTGRES_HOST": "127.0.0.1", "POSTGRES_PORT": str(postgres.tcp.port)}
        environs = {
            "cannot be reached": environ_of(postgres, **nowhere),
            "POSTGRES_PASSWORD": environ_of(postgres, **tcp, POSTGRES_PASSWORD=CANARY),
            "POSTGRES_DB": environ_of(postgres, POSTGRES_DB=CANARY),
            "POSTGRES_USER": environ_of(postgres, **tcp, POSTGRES_USER=CANARY, POSTGRES_PASSWORD=CANARY),
        }
        for argv in (["migrate"], ["keys", "list"], ["keys", "create", "--name", "x"]):
            said = commands([(environ, argv) for environ in environs.values()])
            for expected, each in zip(environs, said, strict=True):
                assert (each.code, each.out) == (1, "")
                assert expected in each.complaint()
                assert CANARY not in each.err
                assert "Traceback" not in each.err


# pipes, signals, ports


@pytest.mark.parametrize("argv", [["keys", "list"], ["config"], ["--help"], ["keys", "list", "--json"]], ids=" ".join)
def test_a_reader_who_leaves_early_is_no_error(postgres: Database, argv: list[str]) -> None:
    """`steward keys list | head -0`."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        said = ended(start(environ_of(postgres), *argv, stdout=writing))
    finally:
        os.close(writing)
    assert (said.code, said.err) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full disk is played by /dev/full")
def test_an_answer_that_cannot_be_written_is_one_line(postgres: Database) -> None:
    with open("/dev/full", "wb") as full:
        said = ended(start(environ_of(postgres), "config", stdout=full))
    assert said.code == 1
    assert said.complaint().startswith("steward: ")
    assert "Traceback" not in said.err and "Exception ignored" not in said.err


def test_ctrl_c_ends_a_command_that_waits_without_a_traceback(postgres: Database) -> None:
    """`migrate` behind another that holds the lock."""
    with postgres.engine.connect() as other:
        other.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
        waiting = start(environ_of(postgres), "migrate")
        eventually(lambda: postgres.run("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"), WITHIN_S)
        waiting.send_signal(signal.SIGINT)
        said = ended(waiting)
        other.rollback()
    assert (said.code, said.out, said.err) == (130, "", "")
    eventually(lambda: not postgres.run("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'"), WITHIN_S)


def test_ctrl_c_ends_serve_well(postgres: Database) -> None:
    serving = start(environ_of(postgres, PORT="0", HOST="127.0.0.1", SHUTDOWN_DELAY="0"), "serve")
    assert serving.stderr is not None
    first = serving.stderr.readline()
    assert json.loads(first)["event"] == "listening"
    serving.send_signal(signal.SIGINT)
    said = ended(serving)
    assert said.code in (0, 130)
    assert (said.out, "Traceback" in said.err) == ("", False)


@pytest.mark.parametrize("argv", ["serve", "settle", "spool ls", f"spool drop {UUID(int=7)}"])
def test_a_spool_that_others_may_enter_is_one_clear_line(postgres: Database, tmp_path: Path, argv: str) -> None:
    """Before anything listens or is read; and a folder that is missing is made by nobody who only looks."""
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool").chmod(0o755)
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("spool", "link"):
        environ = environ_of(postgres, AFTER_RESPONSE="spool", SPOOL_DIR=str(tmp_path / name), PORT="0")
        said = command(*argv.split(), **environ)
        assert (said.code, said.out) == (2, "")
        [line] = said.err.splitlines()
        assert line.startswith("steward: SPOOL_DIR: ")
    if argv.startswith("spool"):
        said = command(*argv.split(), **environ_of(postgres, SPOOL_DIR=str(tmp_path / "missing")))
        assert (said.code, said.complaint()) == (2, "steward: SPOOL_DIR: there is no such folder")
        assert not (tmp_path / "missing").exists()


def test_a_folder_is_spooled_to_by_default_and_workers_leave_the_settler_a_connection() -> None:
    said = command("serve", "--workers", "5", ENCRYPTION_KEY=KEY, PORT="0")
    assert (said.code, said.complaint()) == (
        2,
        "steward: POSTGRES_MAX_CONNS: 5 workers need at least 12, two each, one to settle and one to sync",
    )


def test_who_settles_alone_needs_a_connection_to_settle_and_one_to_sync(postgres: Database, tmp_path: Path) -> None:
    environ = environ_of(postgres, SPOOL_DIR=str(tmp_path / "spool"), POSTGRES_MAX_CONNS="1", WORKERS="5")
    said = command("settle", **environ)
    assert (said.code, said.complaint()) == (
        2,
        "steward: POSTGRES_MAX_CONNS: settling needs at least 2, one to settle and one to sync",
    )
    assert not (tmp_path / "spool").exists()


@pytest.mark.parametrize("name", ["PORT", "OPS_PORT"])
def test_a_port_in_use_is_one_clear_line(name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        given = {"PORT": "0", name: port}
        said = command("serve", ENCRYPTION_KEY=KEY, HOST="127.0.0.1", **given)
    assert (said.code, said.out) == (2, "")
    [line] = said.err.splitlines()
    assert line.startswith(f"steward: {name}: 127.0.0.1:{port} ")


def test_a_host_that_is_not_ours_is_one_clear_line() -> None:
    hosts = ("203.0.113.7", "no-such-host.invalid")
    environs = [{"ENCRYPTION_KEY": KEY, "HOST": host, "PORT": "0"} for host in hosts]
    for host, said in zip(hosts, commands([(environ, ["serve"]) for environ in environs]), strict=True):
        assert (said.code, len(said.err.splitlines())) == (2, 1)
        assert host in said.err


def test_what_nobody_foresaw_is_facts_and_a_line_and_no_traceback(tmp_path: Path) -> None:
    """A defect, played by a stream that breaks: its words stay inside (SECURITY F4)."""
    program = f"""
import io, sys
from steward.cli import main
class Broken(io.TextIOWrapper):
    def write(self, text):
        raise RuntimeError({CANARY!r})
sys.stdout = Broken(open({str(tmp_path / "out")!r}, "wb"))
sys.exit(main(["config"]))
"""
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)}
    ran = subprocess.run([sys.executable, "-c", program], env=environ, cwd="/", capture_output=True, text=True)
    said = Said(ran.returncode, ran.stdout, ran.stderr)
    assert said.code == 1
    assert said.complaint().startswith("steward: ")
    assert json.loads(said.err.splitlines()[0])["event"] == "command_failed"
    assert CANARY not in said.out + said.err


def test_every_answer_is_on_stdout_and_every_complaint_on_stderr(postgres: Database) -> None:
    runs: list[tuple[Callable[[Said], str], list[str]]] = [
        (lambda said: said.err, ["version"]),
        (lambda said: said.err, ["keys", "list"]),
        (lambda said: said.out, ["keys", "revoke", str(uuid4())]),
        (lambda said: said.out, ["nonsense"]),
    ]
    said = commands([(environ_of(postgres, LOG_LEVEL="debug"), argv) for _, argv in runs])
    assert [silent(each) for (silent, _), each in zip(runs, said, strict=True)] == [""] * len(runs)
