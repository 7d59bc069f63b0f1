"""A Butler in hostile hands says where bodies are to go, and a hand in the database helps it: they go where they went.

Three replicas over one PostgreSQL and a real S3 server. SECURITY F1, F7, F8.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy.engine import Engine

from steward import ingress
from steward.adapters.postgres_connection import open_engine
from steward.adapters.postgres_directory import PostgresDirectory
from steward.adapters.postgres_ledger import PostgresLedger
from steward.arriving import config_id
from steward.body_store_allow import allow_list
from steward.errors import LedgerFault
from steward.exchange import BodyState, Caller
from steward.policy import Local
from steward.ports import Identity, Registration
from steward.price import bundled
from steward.settle import Settler
from steward.stores import LOOK_EVERY_S, DecidedStores, Looking
from steward.wiring.body_stores import open_decided
from steward.words import Secret
from tests.contracts.records import ORG, OTHER_ORG
from tests.exchanges import exchange, route
from tests.servers.postgres import Database
from tests.servers.stores import S3Server
from tests.servers.waiting import eventually
from tests.test_ingress import GCS_ROW, GOOGLE_KEY
from tests.wanted import USER

REPLICAS = 3
CALLS = 201
CHAT = route("/v1/chat/completions")
AFTER = Local(window_s=0)
TOKEN = Secret("mdm_st_" + "t" * 32)


@dataclass
class Traps:
    """What must see nothing: an address of the attacker's, a metadata service, a file with a token."""

    evil: socket.socket
    metadata: socket.socket
    token: Path
    watch: int

    def untouched(self) -> None:
        for listener in (self.evil, self.metadata):
            with pytest.raises(BlockingIOError):
                listener.accept()
        with pytest.raises(BlockingIOError):
            os.read(self.watch, struct.calcsize("iIII"))


def opened(watch: int, file: Path) -> None:
    """The kernel tells of every open of this file."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.inotify_add_watch(watch, os.fsencode(file), 0x20) >= 0


@pytest.fixture
def looker(s3_server: S3Server) -> Iterator[Any]:
    """The test's own client: made before the traps are set, for it looks into every file there is."""
    with contextlib.closing(s3_server.client()) as client:
        yield client


@pytest.fixture
def traps(tmp_path: Path, looker: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Traps]:
    token = tmp_path / "token"
    token.write_text("[default]\naws_access_key_id=AKIAHOST\naws_secret_access_key=of-the-host\n")
    watch = ctypes.CDLL(None).inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    opened(watch, token)
    with socket.create_server(("127.0.0.66", 0)) as evil, socket.create_server(("127.0.0.67", 0)) as metadata:
        evil.setblocking(False)
        metadata.setblocking(False)
        place = f"127.0.0.67:{metadata.getsockname()[1]}"
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://{place}")
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"http://{place}/credentials")
        monkeypatch.setenv("GCE_METADATA_HOST", place)
        for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "GOOGLE_APPLICATION_CREDENTIALS"):
            monkeypatch.setenv(name, str(token))
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
        monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/host")
        yield Traps(evil, metadata, token, watch)
    os.close(watch)


class Replica:
    """One Steward's settling side, with an engine of its own."""

    def __init__(self, postgres: Database, local: Local) -> None:
        self.engine: Engine = open_engine(postgres.address)
        self.directory = PostgresDirectory(self.engine, postgres.keyring, local)
        self.stores = DecidedStores(self.directory, local, None, open_decided)
        book = bundled({})
        self.settler = Settler(PostgresLedger(self.engine), self.stores, lambda: book)

    def close(self) -> None:
        self.stores.close()
        self.engine.dispose()


class Story:
    """An organisation whose bucket a person approved, three replicas, and a Butler that turns."""

    def __init__(self, postgres: Database, s3_server: S3Server, looker: Any, local: Local = AFTER) -> None:
        self.server = s3_server
        self.looker = looker
        self.bucket = self.another()
        self.postgres = postgres
        self.replicas = [Replica(postgres, local) for _ in range(REPLICAS)]
        self.registration = self.register(ORG)

    @property
    def directory(self) -> PostgresDirectory:
        return self.replicas[0].directory

    def register(self, org_id: UUID) -> Registration:
        return self.directory.register(Identity(uuid4(), org_id, "Acme"), "https://butler.example", TOKEN)

    def row(self, **changes: Any) -> dict[str, Any]:
        return {
            "owner_type": "org",
            "owner_id": str(ORG),
            "provider": "s3",
            "s3_bucket": self.bucket,
            "s3_region": "us-east-1",
            "s3_endpoint": self.server.address,
            "s3_access_key_id": self.server.access_key_id,
            "s3_secret_access_key": self.server.secret_access_key,
            **changes,
        }

    def says(self, *rows: dict[str, Any]) -> None:
        """Butler's answer reaches one replica, which keeps it for all."""
        configs = ingress.storage_configs(json.loads(json.dumps(rows)))
        self.directory.replace_storage_configs(self.registration, configs)

    def approve_all(self) -> None:
        for each in self.directory.pending_approvals():
            self.directory.approve(each.fingerprint, "alice")

    def calls(self, count: int = CALLS, user_id: UUID | None = USER, org_id: UUID = ORG) -> list[BodyState]:
        """Settled by all replicas in turn, each after its next look."""
        states: list[BodyState] = []
        for replica in self.replicas:
            replica.stores.look()
            caller = Caller(uuid4(), org_id, user_id)
            made = exchange(CHAT, {"model": "gpt-4o"})
            batch = [replace(made, id=uuid4(), caller=caller) for _ in range(count // REPLICAS)]
            states += [each.record.body_state for each in replica.settler.settle(batch)]
        return states

    def another(self) -> str:
        """A new bucket."""
        name = f"bodies-{uuid4().hex}"
        self.looker.create_bucket(Bucket=name)
        return name

    def stored(self, bucket: str | None = None) -> int:
        """How many bodies a bucket has."""
        pages = self.looker.get_paginator("list_objects_v2").paginate(Bucket=bucket or self.bucket)
        return sum(len(page.get("Contents", ())) for page in pages)

    def close(self) -> None:
        for replica in self.replicas:
            replica.close()


@pytest.fixture
def story(postgres: Database, s3_server: S3Server, looker: Any) -> Iterator[Story]:
    it = Story(postgres, s3_server, looker)
    it.says(it.row())
    it.approve_all()
    yield it
    it.close()


def plays(story: Story, traps: Traps) -> dict[str, dict[str, Any]]:
    """One row each, of what Butler may try."""
    evil = f"https://127.0.0.66:{traps.evil.getsockname()[1]}"
    plain = evil.replace("https", "http")
    role = {"s3_access_key_id": "", "s3_secret_access_key": ""}
    external = {
        "type": "external_account",
        "audience": "//iam.googleapis.com/x",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": f"{plain}/token",
        "credential_source": {"file": str(traps.token)},
    }
    google = {**GCS_ROW, "owner_type": "org", "owner_id": str(ORG)}
    return {
        "another endpoint": story.row(s3_endpoint=evil),
        "another endpoint, in clear": story.row(s3_endpoint=plain),
        "another bucket": story.row(s3_bucket="evil-prompts"),
        "another partition": story.row(s3_region="cn-north-1"),
        "another principal": story.row(s3_access_key_id="AKIAEVILEVIL"),
        "an access point": story.row(s3_bucket="arn:aws:s3:us-east-1:999999999999:accesspoint/evil", s3_endpoint=""),
        "no credentials": story.row(**role, s3_endpoint=""),
        "no credentials at an endpoint": story.row(**role, s3_endpoint=plain),
        "the metadata service": story.row(s3_endpoint="http://169.254.169.254"),
        "a Personal config": story.row(owner_type="user", owner_id=str(USER), s3_endpoint=evil),
        "a file for Google": {**google, "gcs_credentials_json": json.dumps(external)},
        "a token address": {**google, "gcs_credentials_json": json.dumps({**GOOGLE_KEY, "token_uri": f"{plain}/t"})},
        "Google's own way to the host": {**google, "gcs_credentials_json": ""},
    }


def test_every_body_stays_in_the_approved_bucket(story: Story, traps: Traps) -> None:
    assert set(story.calls(3)) == {BodyState.STORED}
    before, expected = story.stored(), 3
    assert before == expected
    for what, row in plays(story, traps).items():
        also = [story.row()] if row["owner_type"] == "user" else []
        story.says(row, *also)
        assert set(story.calls()) == {BodyState.STORED}, what
        expected += CALLS
        assert len(story.directory.pending_approvals()) == 1, what
    assert story.stored() == expected
    traps.untouched()


EDITS = {
    "the endpoint": "endpoint = '{evil}'",
    "the bucket": "bucket = '{other}'",
    "the owner": f"owner_type = 'user', owner_id = '{USER}'",
}


@pytest.mark.parametrize("what", EDITS)
def test_a_hand_in_the_database_sends_no_body_elsewhere(story: Story, traps: Traps, what: str) -> None:
    evil = f"http://127.0.0.66:{traps.evil.getsockname()[1]}"
    other = story.another()
    assert set(story.calls(3)) == {BodyState.STORED}
    story.postgres.run(f"UPDATE storage_configs SET {EDITS[what].format(evil=evil, other=other)}")
    assert set(story.calls()) == {BodyState.PENDING}, "they wait, and go nowhere"
    assert (story.stored(), story.stored(other)) == (3, 0)
    story.says(story.row())
    assert set(story.calls(3)) == {BodyState.STORED}
    traps.untouched()


def test_a_forged_approval_opens_nothing(story: Story, traps: Traps) -> None:
    story.says(story.row(s3_endpoint=f"http://127.0.0.66:{traps.evil.getsockname()[1]}"))
    [waits] = story.directory.pending_approvals()
    story.postgres.run(
        "INSERT INTO approvals (org_id, kind, fingerprint, how, approved_by, approved_at, names, mac) "
        f"SELECT org_id, kind, '{waits.fingerprint}', how, approved_by, approved_at, names, mac FROM approvals "
        "WHERE kind = 'storage'"
    )
    assert set(story.calls(30)) == {BodyState.STORED}
    assert story.stored() == 30
    traps.untouched()


def test_after_the_approval_all_replicas_switch_at_their_next_look(story: Story, traps: Traps) -> None:
    assert set(story.calls(3)) == {BodyState.STORED}
    other = story.another()
    story.says(story.row(s3_bucket=other))
    assert set(story.calls(30)) == {BodyState.STORED}
    assert story.stored(other) == 0
    story.approve_all()
    assert set(story.calls(30)) == {BodyState.STORED}
    assert (story.stored(), story.stored(other)) == (33, 30)
    story.says(story.row(s3_bucket=other, s3_secret_access_key="renewed-and-wrong"))
    assert set(story.calls(3)) <= {BodyState.FAILED, BodyState.PENDING}, "a renewed secret is another client"
    traps.untouched()


def test_three_replicas_follow_by_themselves_in_time(story: Story, traps: Traps) -> None:
    assert LOOK_EVERY_S <= 5, "with a look under way that is within 10 s"
    looking = [Looking(replica.stores, 0.05) for replica in story.replicas]
    for each in looking:
        each.start()
    caller = Caller(uuid4(), ORG)

    def config(replica: Replica) -> object:
        place = replica.stores.of(caller)
        return None if place is None else place.config_id

    first = {each.id for each in story.directory.kept_configs()}
    eventually(lambda: {config(replica) for replica in story.replicas} == first)
    story.says(story.row(s3_bucket=story.another()))
    [waits] = story.directory.pending_approvals()
    assert {config(replica) for replica in story.replicas} == first
    story.directory.approve(waits.fingerprint, "alice")
    new = {config_id(waits.fingerprint)}
    eventually(lambda: {config(replica) for replica in story.replicas} == new)
    for each in looking:
        each.end()
    traps.untouched()


def test_with_an_allow_list_an_approval_is_refused(
    postgres: Database, s3_server: S3Server, looker: Any, traps: Traps
) -> None:
    bucket = f"bodies-{uuid4().hex}"
    looker.create_bucket(Bucket=bucket)
    it = Story(postgres, s3_server, looker, Local(allow=allow_list(f"{s3_server.address}/{bucket}")))
    it.bucket = bucket
    it.says(it.row())
    assert set(it.calls(3)) == {BodyState.STORED}, "named: no approval is needed"
    for row in plays(it, traps).values():
        it.says(row, *([it.row()] if row["owner_type"] == "user" else []))
        waiting = it.directory.pending_approvals()
        for each in waiting:
            with pytest.raises(LedgerFault):
                it.directory.approve(each.fingerprint, "alice")
        # The list names bucket and endpoint: another principal there is the customer's own bucket still.
        assert {each.reason for each in waiting} <= {"not_in_allow_list", "not_understood", "host_role"}
    it.says(it.row())
    assert set(it.calls(3)) == {BodyState.STORED}
    it.close()
    traps.untouched()


def test_another_organisations_bucket_is_not_opened_by_its_name(story: Story, traps: Traps) -> None:
    """Tenant A says B's bucket, without credentials or with its own; and a row for B's calls."""
    theirs = story.register(OTHER_ORG)
    b_bucket = story.another()
    row = story.row(owner_id=str(OTHER_ORG), s3_bucket=b_bucket)
    story.directory.replace_storage_configs(theirs, ingress.storage_configs([row]))
    story.approve_all()
    story.says(story.row(s3_bucket=b_bucket), story.row(owner_id=str(OTHER_ORG), s3_bucket=story.bucket))
    assert set(story.calls(30)) == {BodyState.STORED}
    assert set(story.calls(3, org_id=OTHER_ORG, user_id=None)) == {BodyState.STORED}
    assert (story.stored(), story.stored(b_bucket)) == (30, 3)
    traps.untouched()


def test_the_traps_would_notice(traps: Traps) -> None:
    with socket.create_connection(traps.evil.getsockname()):
        accepted, _ = traps.evil.accept()
        accepted.close()
    traps.token.read_text()
    assert os.read(traps.watch, 4096)
