"""`steward butler ...` as processes: tables made once, an owner, a Butler that our own Steward's adapter takes."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from datetime import UTC, datetime
from uuid import uuid4

import httpx
import pytest

from steward import ingress
from steward.adapters.butler import HttpButler
from steward.butler.command import given_password
from steward.egress import Ack, ApiKeys, Experiments, Ingest, Me, MetadataRecord, ProviderKeys, StorageConfigs, Work
from steward.errors import ButlerDenied, ButlerRejected, SettingError
from steward.exchange import BodyState, Outcome, UsageSource
from steward.words import Secret
from tests.servers.butler_process import EMAIL, ServedButler, environ_of, run
from tests.servers.postgres import Database


def test_tables_are_made_once_and_nothing_runs_before(empty_postgres: Database) -> None:
    environ = environ_of(empty_postgres)
    early = run(environ, "steward", ["butler", "serve"])
    assert (early.returncode, early.stdout) == (1, "")
    assert "steward butler migrate" in early.stderr
    first = run(environ, "steward", ["butler", "migrate", "--json"])
    again = run(environ, "steward", ["butler", "migrate", "--json"])
    assert json.loads(first.stdout)["before"] is None
    assert json.loads(again.stdout)["before"] == json.loads(again.stdout)["after"] == json.loads(first.stdout)["after"]
    other = {**environ, "BUTLER_ENCRYPTION_KEY": bytes(range(32)).hex()}
    wrong = run(other, "steward", ["butler", "migrate"])
    assert (wrong.returncode, "Traceback" in wrong.stderr) == (1, False)


def test_a_given_password_comes_by_standard_input_alone(empty_postgres: Database) -> None:
    environ = environ_of(empty_postgres)
    run(environ, "steward", ["butler", "migrate"])
    words = ["butler", "create-admin", "--email", EMAIL, "--org", "Acme", "--json", "--password"]
    said = run(environ, "steward", [*words, "correct horse battery"])
    assert (said.returncode, said.stdout) == (2, "")
    assert "correct horse" not in said.stderr
    made = run(environ, "steward", [*words, "-"], "correct horse battery\n")
    assert made.returncode == 0
    assert "password" not in json.loads(made.stdout)
    short = run(environ, "steward", [*words, "-"], "short\n")
    assert (short.returncode, "12" in short.stderr) == (1, True)
    assert given_password(None, None) is None  # type: ignore[arg-type]
    with pytest.raises(SettingError):
        given_password("x", None)  # type: ignore[arg-type]


def token_of(served: ServedButler) -> Secret[str]:
    """A fresh Steward's token, made over the management API."""
    with httpx.Client(base_url=served.url, trust_env=False) as client:
        login = client.post("/api/v1/login", json={"email": EMAIL, "password": served.password})
        client.headers["authorization"] = f"Bearer {login.json()['token']}"
        client.post("/api/v1/keys", json={"name": "checkout"})
        return Secret(client.post("/api/v1/stewards", json={"name": "prod"}).json()["token"])


def test_our_own_steward_s_adapter_and_this_butler_understand_each_other(served_butler: ServedButler) -> None:
    token = token_of(served_butler)
    butler = HttpButler(served_butler.url, token)
    try:
        said = ingress.identity(butler.ask(Me()))
        assert (str(said.org_id), said.org_name) == (served_butler.org_id, "Acme")
        (key,) = butler.ask(ApiKeys())  # type: ignore[misc]
        assert key["name"] == "checkout"
        assert butler.ask(StorageConfigs()) == butler.ask(ProviderKeys()) == butler.ask(Experiments()) == []
        butler.ask(Work(limit=10))
        record = a_record()
        assert butler.ask(Ingest(records=(record,)), said.record_fields)["added"] == 1  # type: ignore[index]
        assert butler.ask(Ingest(records=(record,)), said.record_fields)["ignored"] == 1  # type: ignore[index]
        with pytest.raises(ButlerRejected):
            butler.ask(Ack(job_id=uuid4()))
        with pytest.raises(ButlerRejected):
            butler.ask(Ingest(records=(record.model_copy(update={"org_id": uuid4()}),)), said.record_fields)
    finally:
        butler.close()
    stranger = HttpButler(served_butler.url, Secret("mdm_st_" + "x" * 43))
    with pytest.raises(ButlerDenied):
        stranger.ask(Me())
    stranger.close()
    assert served_butler.stop() == 0
    written = served_butler.log.read_text()
    assert token.reveal() not in written
    assert "Traceback" not in written


def a_record() -> MetadataRecord:
    now = datetime.now(UTC)
    return MetadataRecord(
        id=uuid4(),
        revision=1,
        provider="openai",
        model="gpt-5",
        request_path="/v1/chat/completions",
        request_method="POST",
        requested_at=now,
        responded_at=now,
        outcome=Outcome.COMPLETE,
        usage_source=UsageSource.NONE,
        model_alias_found=True,
        body_state=BodyState.OFF,
    )


def test_a_port_in_use_is_one_line(served_butler: ServedButler) -> None:
    port = served_butler.url.rpartition(":")[2]
    said = run({**served_butler.environ, "BUTLER_PORT": port}, "steward", ["butler", "serve"])
    assert (said.returncode, "BUTLER_PORT" in said.stderr, "Traceback" in said.stderr) == (2, True, False)


def test_a_head_without_end_is_cut(served_butler: ServedButler) -> None:
    host, _, port = served_butler.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), 10) as caller:
        caller.settimeout(10)
        with contextlib.suppress(OSError):
            caller.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\nx-long: ")
            for _ in range(64):
                caller.sendall(b"x" * 65536)
        with contextlib.suppress(ConnectionError):
            assert not caller.recv(100).startswith(b"HTTP/1.1 200")
    assert httpx.get(f"{served_butler.url}/health", trust_env=False).status_code == 200


def test_who_is_slow_is_let_go(served_butler: ServedButler) -> None:
    """Sign-in pages are for anyone: a head that never ends must not hold a connection for ever."""
    host, _, port = served_butler.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), 10) as caller:
        caller.settimeout(20)
        caller.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n")
        began = time.monotonic()
        answer = b""
        with contextlib.suppress(ConnectionError):
            while piece := caller.recv(4096):
                answer += piece
        assert answer.startswith(b"HTTP/1.1 408")
        assert 5 < time.monotonic() - began < 20
