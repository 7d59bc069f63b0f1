"""`steward serve` as a container runs it: real processes and signals; what they drain, cut and restart."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID

import psutil  # type: ignore[import-untyped]
import pytest

from handlers.spool_folder import file_system
from migrations import migrate
from steward.adapters.postgres_connection import open_engine
from steward.adapters.postgres_ledger import PostgresLedger
from steward.adapters.postgres_local import LocalPostgres
from steward.exchange import LOCAL_ORG, BodyState, Outcome, Record
from tests.servers.examples import respond
from tests.servers.function import ON_GOOGLE, running_on_cloud_run
from tests.servers.plain_http import Ended, Head, Message, Request, call, read_body, read_head
from tests.servers.postgres import KEYRING, address_of
from tests.servers.socket_provider import Answer, Provider, Received
from tests.servers.steward import (
    COMMAND,
    REPOSITORY,
    RunningSteward,
    _environ,
    new_database,
    run_command,
    running_steward,
)
from tests.servers.stores import S3Server
from tests.servers.waiting import eventually

SSE = [(b"Content-Type", b"text/event-stream")]
EVENT = b'data: {"id":"1","object":"chat.completion.chunk","model":"gpt-4o-mini","choices":[]}\n\n'
USAGE = b'data: {"id":"1","model":"gpt-4o-mini","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n'
DONE = b"data: [DONE]\n\n"
CHAT = Request(b"POST", b"/v1/chat/completions", [(b"Authorization", b"Bearer sk-x")], b'{"model":"gpt-4o-mini"}')
TOKEN = "an-admin-token-of-thirty-two-characters"
WITHIN_S = 30.0


class Scripted:
    """A provider whose streams wait for the test after their first event; other calls are answered by the examples."""

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.server = Provider(self._answer)

    def _answer(self, received: Received) -> Answer:
        if b'"silent"' in received.message.body:
            assert self.may_end.wait(60)
        if b'"stream"' not in received.message.body:
            return respond(received)
        return Answer(200, SSE, self._stream(), "chunked")

    def _stream(self) -> Iterator[bytes]:
        yield EVENT
        assert self.may_end.wait(60)
        yield USAGE
        yield DONE


@pytest.fixture
def provider() -> Iterator[Scripted]:
    scripted = Scripted()
    yield scripted
    scripted.may_end.set()
    scripted.server.close()


@pytest.fixture
def steward(postgres_server: LocalPostgres, provider: Scripted, tmp_path: Path) -> Callable[..., Any]:
    """Starts one on an installation of its own: `with steward(SETTING="value") as running:`."""

    def start(**settings: str) -> Any:
        return running_steward(postgres_server, tmp_path, provider.server.url, settings)

    return start


class Stream:
    """A streamed call whose first event is here."""

    def __init__(self, port: int, key: str) -> None:
        fields = [*CHAT.fields, (b"X-Majordomo-Key", key.encode())]
        asked = replace(CHAT, fields=fields, body=b'{"model":"gpt-4o-mini","stream":true}')
        self._sock = socket.create_connection(("127.0.0.1", port), timeout=WITHIN_S)
        self._sock.sendall(asked.octets(b"127.0.0.1"))
        self._stream: BinaryIO = self._sock.makefile("rb")
        head = read_head(self._stream)
        assert head is not None
        self._head: Head = head
        size = int(self._stream.readline(), 16)
        assert self._stream.read(size + 2) == EVENT + b"\r\n"
        [self.id] = head.values(b"x-majordomo-request-id")

    def rest(self) -> bytes:
        """What comes until the stream ends well. Raises Ended when it is cut."""
        try:
            return read_body(self._stream, self._head)
        except ConnectionError:
            raise Ended from None
        finally:
            self.close()

    def close(self) -> None:
        self._stream.close()
        self._sock.close()


def readyz(port: int, token: str = "") -> tuple[int, str]:
    """Status, and the state for whom the token opens the details."""
    fields = [(b"Authorization", b"Bearer " + token.encode())] if token else []
    answer = call(port, Request(b"GET", b"/readyz", fields))
    with suppress(ValueError):
        return answer.status, json.loads(answer.body)["state"]
    return answer.status, answer.body.decode()


def ops_port(running: RunningSteward) -> int:
    found = re.search(rb'"ops_port": ?(\d+)', running.said())
    assert found is not None
    return int(found[1])


def chat(running: RunningSteward) -> Message:
    answer = running.call(CHAT)
    assert answer.status == 200
    return answer


def listens(port: int) -> bool:
    """Whether new connections are taken."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=WITHIN_S).close()
    except ConnectionRefusedError:
        return False
    return True


def row_of(running: RunningSteward, ident: bytes) -> Record:
    """The row as it is now."""
    row = running.ledger.get(LOCAL_ORG, UUID(ident.decode()))
    assert row is not None
    return row.record


# one process


def test_a_call_is_relayed_and_a_running_stream_is_drained(steward: Callable[..., Any], provider: Scripted) -> None:
    """SIGTERM: no new connection, the stream to its end, its row and body written, exit 0."""
    with steward() as running:
        assert chat(running).body
        limits = Path(f"/proc/{running.process.pid}/limits").read_text()
        assert re.search(r"Max core file size +0 +0 ", limits)
        soft, hard = re.findall(r"Max open files +(\d+) +(\d+) ", limits)[0]
        assert soft == hard
        stream = Stream(running.port, running.key)
        running.process.send_signal(signal.SIGTERM)
        eventually(lambda: not listens(running.port), WITHIN_S)
        assert running.process.poll() is None
        provider.may_end.set()
        assert stream.rest() == USAGE + DONE
        assert running.process.wait(WITHIN_S) == 0
        row = row_of(running, stream.id)
        assert (row.outcome, row.body_state, row.input_tokens) == (Outcome.COMPLETE, BodyState.STORED, 7)
        said = running.said()
        assert b'"stopped"' in said and b"Traceback" not in said


def test_unready_while_it_drains_and_a_second_signal_cuts(steward: Callable[..., Any], provider: Scripted) -> None:
    """The listener stays open for the delay, so that balancers notice first. Then: no clean end; the row says so."""
    with steward(SHUTDOWN_DELAY="1h", OPS_PORT="0", STEWARD_ADMIN_TOKEN=TOKEN) as running:
        ops = ops_port(running)
        assert readyz(running.port) == (200, "ready")
        assert readyz(running.port, TOKEN) == readyz(ops) == (200, "ready")
        stream = Stream(running.port, running.key)
        running.process.send_signal(signal.SIGTERM)
        eventually(lambda: readyz(running.port)[0] == 503, WITHIN_S)
        assert readyz(running.port) == (503, "unready")
        assert readyz(running.port, TOKEN) == readyz(ops) == (503, "draining")
        assert call(running.port, Request(b"GET", b"/health")).status == 200
        assert chat(running).body
        assert running.process.poll() is None
        running.process.send_signal(signal.SIGTERM)
        with pytest.raises(Ended):
            stream.rest()
        assert running.process.wait(WITHIN_S) == 0
        assert not listens(running.port) and not listens(ops)
        row = row_of(running, stream.id)
        assert (row.outcome, row.status_code, row.body_state) == (Outcome.INTERRUPTED, 200, BodyState.STORED)
        assert row.response_bytes == len(EVENT)
        assert running.body(row)["response"]["body"] == EVENT.decode()


def test_a_second_signal_begins_nothing_that_waits(steward: Callable[..., Any], provider: Scripted) -> None:
    """The call that runs is told; the one behind it on its connection never goes out."""
    seen: list[bytes] = []

    def arrived() -> bool:
        seen.extend(each.message.body for each in provider.server.take())
        return bool(seen)

    with steward(SHUTDOWN_DELAY="1h") as running:
        fields = [*CHAT.fields, (b"X-Majordomo-Key", running.key.encode())]
        silent, behind = (replace(CHAT, fields=fields, body=body) for body in (b'{"silent":true}', CHAT.body))
        with socket.create_connection(("127.0.0.1", running.port), timeout=WITHIN_S) as sock:
            sock.sendall(silent.octets(b"127.0.0.1") + behind.octets(b"127.0.0.1"))
            eventually(arrived, WITHIN_S)
            running.process.send_signal(signal.SIGTERM)
            eventually(lambda: readyz(running.port)[0] == 503, WITHIN_S)
            running.process.send_signal(signal.SIGTERM)
            with sock.makefile("rb") as stream:
                heard = stream.read()
        assert running.process.wait(WITHIN_S) == 0
        assert heard.startswith(b"HTTP/1.1 503 ") and heard.count(b"HTTP/1.1 ") == 1
        assert b"connection: close" in heard
        assert arrived() and seen == [silent.body]


def test_the_grace_ends_what_does_not_end_by_itself(steward: Callable[..., Any], provider: Scripted) -> None:
    with steward(SHUTDOWN_GRACE="1s") as running:
        stream = Stream(running.port, running.key)
        running.process.send_signal(signal.SIGTERM)
        with pytest.raises(Ended):
            stream.rest()
        assert running.process.wait(WITHIN_S) == 0
        row = row_of(running, stream.id)
        assert (row.outcome, row.body_state, row.response_bytes) == (
            *(Outcome.INTERRUPTED, BodyState.STORED),
            len(EVENT),
        )


# several workers


def children(pid: int) -> list[int]:
    return sorted(child.pid for child in psutil.Process(pid).children(recursive=True))


def relays(pid: int) -> list[int]:
    """The children that listen."""
    return [child for child in children(pid) if _listening(child)]


def settler(pid: int) -> int:
    """The one that does not."""
    [found] = [child for child in children(pid) if not _listening(child)]
    return found


def _listening(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return any(each.status == psutil.CONN_LISTEN for each in psutil.Process(pid).net_connections("tcp"))
    return False


def test_a_worker_that_is_killed_is_replaced_and_calls_go_on(steward: Callable[..., Any], provider: Scripted) -> None:
    """And SIGTERM ends every child, once its stream has ended."""
    with steward(WORKERS="2") as running:
        before = relays(running.process.pid)
        assert len(before) == 2
        assert len(children(running.process.pid)) == 3
        os.kill(before[0], signal.SIGKILL)
        eventually(lambda: b"worker_died" in running.said(), WITHIN_S)
        for _ in range(5):
            chat(running)
        eventually(lambda: len(relays(running.process.pid)) == 2, WITHIN_S)
        after = relays(running.process.pid)
        assert before[0] not in after and before[1] in after
        for pid in after:
            assert re.search(r"Max core file size +0 +0 ", Path(f"/proc/{pid}/limits").read_text())
        stream = Stream(running.port, running.key)
        running.process.send_signal(signal.SIGTERM)
        eventually(lambda: not listens(running.port), WITHIN_S)
        provider.may_end.set()
        assert stream.rest() == USAGE + DONE
        assert running.process.wait(WITHIN_S) == 0
        assert not [pid for pid in {*before, *after} if psutil.pid_exists(pid)]
        assert running.settled(stream.id).outcome is Outcome.COMPLETE
        assert running.said().count(b"worker_died") == 1


def test_workers_do_not_outlive_a_parent_that_is_killed(steward: Callable[..., Any]) -> None:
    with steward(WORKERS="2") as running:
        workers = children(running.process.pid)
        running.process.kill()
        running.process.wait(WITHIN_S)
        eventually(lambda: not [pid for pid in workers if psutil.pid_exists(pid)], WITHIN_S)
        assert not listens(running.port)


# the spool


def test_a_settler_that_is_killed_is_replaced_and_what_waited_is_settled(steward: Callable[..., Any]) -> None:
    """Callers notice nothing."""
    with steward() as running:
        before = settler(running.process.pid)
        os.kill(before, signal.SIGSTOP)
        waiting = [chat(running) for _ in range(20)]
        os.kill(before, signal.SIGKILL)
        waiting += [chat(running) for _ in range(20)]
        for answer in waiting:
            [ident] = answer.head.values(b"x-majordomo-request-id")
            row = running.settled(ident, WITHIN_S)
            assert (row.outcome, row.body_state) == (Outcome.COMPLETE, BodyState.STORED)
        assert len(running.rows()) == len(waiting)
        assert settler(running.process.pid) != before
        assert running.said().count(b"settler_died") == 1


def test_a_call_that_a_killed_worker_was_relaying_is_interrupted(steward: Callable[..., Any]) -> None:
    """And those that it had relayed are whole."""
    with steward() as running:
        [ident] = chat(running).head.values(b"x-majordomo-request-id")
        stream = Stream(running.port, running.key)
        [relay] = relays(running.process.pid)
        os.kill(relay, signal.SIGKILL)
        with pytest.raises(Ended):
            stream.rest()
        eventually(lambda: len(running.rows()) == 2, WITHIN_S)
        cut, whole = row_of(running, stream.id), running.settled(ident)
        assert (cut.outcome, cut.body_state, cut.status_code) == (Outcome.INTERRUPTED, BodyState.LOST, None)
        assert (whole.outcome, whole.body_state) == (Outcome.COMPLETE, BodyState.STORED)
        eventually(lambda: readyz(running.port) == (200, "ready"), WITHIN_S)
        assert chat(running).body


def test_a_container_is_replaced_on_its_volume_while_the_bucket_is_away(
    steward: Callable[..., Any], s3_server: S3Server, tmp_path: Path
) -> None:
    """The new one waits for its turn beside the old one; then it stores what the old one could not."""
    bucket = s3_server.bucket()
    told = {
        "BODY_STORE_URL": f"s3://{bucket.bucket}/kept",
        "BODY_STORE_S3_ENDPOINT": s3_server.address,
        "BODY_STORE_S3_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": s3_server.access_key_id,
        "AWS_SECRET_ACCESS_KEY": s3_server.secret_access_key,
    }
    with steward(**{**told, "BODY_STORE_S3_ENDPOINT": "http://127.0.0.1:1"}) as running:
        idents = [chat(running).head.values(b"x-majordomo-request-id")[0] for _ in range(5)]
        eventually(lambda: [row.body_state for row in running.rows()] == [BodyState.PENDING] * 5, WITHIN_S)
        with serving({**running.environ, **told, "OPS_PORT": "0"}, tmp_path / "new") as new:
            eventually(lambda: b'"settler_waits"' in new.log.read_bytes(), WITHIN_S)
            new.becomes("ready")
            running.process.send_signal(signal.SIGTERM)
            assert running.process.wait(WITHIN_S) == 0
            fields = [*CHAT.fields, (b"X-Majordomo-Key", running.key.encode())]
            answer = call(new.port, replace(CHAT, fields=fields))
            assert answer.status == 200
            idents += answer.head.values(b"x-majordomo-request-id")
            for ident in idents:
                row = running.settled(ident, WITHIN_S)
                assert (row.outcome, row.body_state) == (Outcome.COMPLETE, BodyState.STORED)
                document = json.loads(stored(s3_server, bucket.bucket, f"kept/{row.body_key}"))
                assert document["request_id"] == ident.decode()
            assert len(running.rows()) == 6


def test_it_settles_alone_what_another_left(steward: Callable[..., Any], provider: Scripted, tmp_path: Path) -> None:
    """`steward settle` on the volume of a container that is gone for good; SIGTERM ends it."""
    with steward() as running:
        os.kill(settler(running.process.pid), signal.SIGSTOP)
        [ident] = chat(running).head.values(b"x-majordomo-request-id")
        family = children(running.process.pid)
        for pid in (running.process.pid, *family):
            os.kill(pid, signal.SIGKILL)
        running.process.wait(WITHIN_S)
        eventually(lambda: not [pid for pid in family if psutil.pid_exists(pid)], WITHIN_S)
        assert running.rows() == []
        with (tmp_path / "settle.log").open("wb") as out:
            process = subprocess.Popen([*COMMAND, "settle"], env=dict(running.environ), cwd="/", stderr=out)
        try:
            assert running.settled(ident, WITHIN_S).body_state is BodyState.STORED
            process.terminate()
            assert process.wait(WITHIN_S) == 0
        finally:
            process.kill()
            process.wait()
        assert b"Traceback" not in (tmp_path / "settle.log").read_bytes()


def test_commands_beside_a_running_one_find_nothing_wrong_until_something_is(steward: Callable[..., Any]) -> None:
    """`reconcile` sees a body that somebody took away."""
    with steward() as running:
        idents = [chat(running).head.values(b"x-majordomo-request-id")[0] for _ in range(3)]
        rows = [running.settled(ident) for ident in idents]
        listed, whole = running.run("spool", "ls", "--json"), running.run("reconcile", "--since", "1h")
        assert (listed.returncode, json.loads(listed.stdout), whole.returncode) == (0, [], 0), whole.stdout
        assert rows[1].body_key is not None
        (running.bodies / rows[1].body_key).unlink()
        gap = running.run("reconcile", "--since", "1h", "--json")
        assert gap.returncode == 1
        assert idents[1].decode() in gap.stdout.decode()
        assert idents[0].decode() not in gap.stdout.decode()
        assert b"Traceback" not in whole.stderr + gap.stderr + listed.stderr


def test_what_the_spool_is_made_of_is_ours_alone(steward: Callable[..., Any], provider: Scripted) -> None:
    """Folders 0700, files 0600; nothing said in a call stands there in clear (SECURITY F12)."""
    with steward() as running:
        os.kill(settler(running.process.pid), signal.SIGSTOP)
        spool = Path(running.environ["SPOOL_DIR"])
        asked = replace(CHAT, body=b'{"model":"gpt-4o-mini","said":"' + b"CANARY" * 100_000 + b'"}')
        assert running.call(asked).status == running.call(replace(CHAT, body=b'{"a":"CANARY"}')).status == 200
        found = list(spool.rglob("*"))
        assert sum(path.stat().st_size for path in found if path.is_file()) > 600_000
        for path in (spool, *found):
            wanted = 0o700 if path.is_dir() else 0o600
            assert path.stat().st_mode & 0o777 == wanted, path
            assert path.is_dir() or b"CANARY" not in path.read_bytes(), path
        os.kill(settler(running.process.pid), signal.SIGCONT)


def test_a_spool_that_would_not_outlive_the_host_is_warned_of_once(
    postgres_server: LocalPostgres, provider: Scripted, tmp_path: Path
) -> None:
    if not Path("/dev/shm").is_dir() or file_system(Path("/dev/shm")) != "tmpfs":
        pytest.skip("there is no tmpfs at /dev/shm")
    environ = _environ(new_database(postgres_server), tmp_path, provider.server.url)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        with serving({**environ, "SPOOL_DIR": f"{memory}/spool", "WORKERS": "2"}, tmp_path / "log") as served:
            eventually(lambda: b"lies in memory" in served.log.read_bytes(), WITHIN_S)
        assert served.log.read_bytes().count(b"SPOOL_DIR") == 1


def stored(server: S3Server, bucket: str, key: str) -> bytes:
    """The object, unpacked."""
    return gzip.decompress(server.client().get_object(Bucket=bucket, Key=key)["Body"].read())


# a process of the test's own, that nobody waits to be ready


@dataclass(frozen=True)
class Served:
    """One `steward serve` that listens, ready or not."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def port(self) -> int:
        return self._named(b"port")

    @property
    def ops(self) -> int:
        return self._named(b"ops_port")

    def _named(self, name: bytes) -> int:
        found = re.search(rb'"%s": ?(\d+)' % name, self.log.read_bytes())
        assert found is not None
        return int(found[1])

    def becomes(self, state: str) -> None:
        """By the operators' port."""
        eventually(lambda: readyz(self.ops) == (200 if state == "ready" else 503, state), WITHIN_S)


@contextmanager
def serving(environ: Mapping[str, str], log: Path, arguments: Sequence[str] = ()) -> Iterator[Served]:
    """In a session of its own, as a terminal would have it; it ends by SIGTERM and in time, or the test fails."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*COMMAND, "serve", *arguments], env=dict(environ), cwd="/", stdout=out, stderr=out, start_new_session=True
        )
    try:
        eventually(lambda: b'"listening"' in log.read_bytes() or process.poll() is not None, WITHIN_S)
        assert process.poll() is None, log.read_text()
        yield Served(process, log)
        if process.poll() is None:
            process.terminate()
            assert process.wait(WITHIN_S) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def created_key(environ: Mapping[str, str]) -> str:
    made = run_command(environ, "keys", "create", "--name", "tests", "--json")
    assert made.returncode == 0, made.stderr
    key: str = json.loads(made.stdout)["key"]
    return key


def test_ctrl_c_counts_once_however_many_workers_hear_it(
    postgres_server: LocalPostgres, provider: Scripted, tmp_path: Path
) -> None:
    """A terminal tells every process of the group; the parent tells its workers too: still a drain, not a cut.

    And the first call of all, before any worker has heard of the database, waits and is served.
    """
    environ = _environ(new_database(postgres_server), tmp_path, provider.server.url)
    assert run_command(environ, "migrate").returncode == 0
    key = created_key(environ)
    with serving(environ, tmp_path / "log", ["--workers", "2"]) as served:
        first = call(served.port, replace(CHAT, fields=[*CHAT.fields, (b"X-Majordomo-Key", key.encode())]))
        assert first.status == 200
        workers = children(served.process.pid)
        for memory in (psutil.Process(pid).memory_full_info() for pid in workers):
            assert memory.uss < 0.45 * memory.rss, "most of what was imported is shared (measured: 0.25; else 0.6)"
        stream = Stream(served.port, key)
        os.killpg(served.process.pid, signal.SIGINT)
        eventually(lambda: not listens(served.port), WITHIN_S)
        provider.may_end.set()
        assert stream.rest() == USAGE + DONE
        assert served.process.wait(WITHIN_S) == 0
        assert not [pid for pid in workers if psutil.pid_exists(pid)]
        assert b"Traceback" not in served.log.read_bytes()


def test_a_schema_that_is_missing_then_migrated_and_a_wrong_key(
    postgres_server: LocalPostgres, provider: Scripted, tmp_path: Path
) -> None:
    """No crash loop: 503 with what to run, and ready without a restart. Another key than the database's is told too."""
    environ = _environ(new_database(postgres_server), tmp_path, provider.server.url) | {"OPS_PORT": "0"}
    with serving(environ, tmp_path / "log") as served:
        served.becomes("schema")
        said = json.loads(call(served.ops, Request(b"GET", b"/readyz")).body)
        assert "steward migrate" in said["reason"]
        assert readyz(served.port) == (503, "unready")
        refused = call(served.port, replace(CHAT, fields=[(b"X-Majordomo-Key", b"mdm_sk_" + b"a" * 40)]))
        assert refused.status == 503
        assert run_command(environ, "migrate").returncode == 0
        served.becomes("ready")
        key = created_key(environ)
        assert call(served.port, replace(CHAT, fields=[(b"X-Majordomo-Key", key.encode())])).status == 200
    wrong = {**environ, "ENCRYPTION_KEY": "0123456789abcdef" * 4}
    with serving(wrong, tmp_path / "wrong") as served:
        served.becomes("key")
        refused = call(served.port, replace(CHAT, fields=[(b"X-Majordomo-Key", key.encode())]))
        assert (refused.status, refused.head.values(b"retry-after") != []) == (503, True)
        assert wrong["ENCRYPTION_KEY"].encode() not in served.log.read_bytes()


def test_a_database_that_is_away_at_the_start_and_again_later(
    server_folder: Path, local_postgres: Callable[..., LocalPostgres], provider: Scripted, tmp_path: Path
) -> None:
    """It listens without it; ready without a restart once it is there; then a known key outlives the next outage."""
    server = local_postgres(server_folder, tcp=True)
    server.start()
    environ = _environ(address_of(server), tmp_path, provider.server.url)
    environ |= {"POSTGRES_HOST": "127.0.0.1", "OPS_PORT": "0", "ENCRYPTION_KEY": bytes(range(32)).hex()}
    engine = open_engine(address_of(server))
    migrate(engine, KEYRING)
    engine.dispose()
    key = [(b"X-Majordomo-Key", created_key(environ).encode())]
    server.stop()
    with serving(environ, tmp_path / "log") as served:
        served.becomes("database")
        assert readyz(served.port) == (503, "unready")
        assert call(served.port, Request(b"GET", b"/health")).status == 200
        refused = call(served.port, replace(CHAT, fields=key))
        assert refused.status == 503
        server.start()
        served.becomes("ready")
        assert call(served.port, replace(CHAT, fields=key)).status == 200
        server.stop()
        eventually(lambda: served.log.read_bytes().count(b'"key_poll_failing"') == 2, WITHIN_S)
        assert call(served.port, replace(CHAT, fields=key)).status == 200
        invented = call(served.port, replace(CHAT, fields=[(b"X-Majordomo-Key", b"mdm_sk_" + b"b" * 40)]))
        assert (invented.status, invented.head.values(b"retry-after") != []) == (503, True)
        server.start()
        eventually(lambda: served.log.read_bytes().count(b'"key_poll_recovered"') == 2, WITHIN_S)
        assert call(served.port, replace(CHAT, fields=key)).status == 200
        engine = open_engine(address_of(server))
        try:
            rows = PostgresLedger(engine)
            eventually(lambda: len(rows.newest(LOCAL_ORG, 9)) == 3, 2 * WITHIN_S)  # also that of the outage
        finally:
            engine.dispose()


def test_a_signal_before_it_serves_ends_it_without_a_word_too_many(
    postgres_server: LocalPostgres, provider: Scripted, tmp_path: Path
) -> None:
    """Several workers, told as soon as the port is bound: none is left behind."""
    environ = _environ(new_database(postgres_server), tmp_path, provider.server.url)
    for workers in ("1", "3"):
        log = tmp_path / f"log-{workers}"
        with serving(environ, log, ["--workers", workers]) as served:
            served.process.terminate()
            assert served.process.wait(WITHIN_S) in (0, -signal.SIGTERM)
        assert b"Traceback" not in log.read_bytes()
        assert not [each for each in psutil.process_iter(["environ"]) if _is_of(each, environ["SPOOL_DIR"])]


def _is_of(process: Any, spool: str) -> bool:
    environ = process.info["environ"] or {}
    return environ.get("SPOOL_DIR") == spool and process.pid != os.getpid()


# on Cloud Run; what it shares with Cloud Functions stands in test_hosted_app.py


def test_on_cloud_run_nothing_is_kept_on_its_disk(
    postgres_server: LocalPostgres, provider: Scripted, tmp_path: Path
) -> None:
    """It is memory: no spool is opened, by one worker or by two, and a call is settled all the same."""
    given = {"WORKERS": "2", "STEWARD_ADMIN_TOKEN": TOKEN}
    with running_on_cloud_run(postgres_server, tmp_path, provider.server.url, given) as running:
        assert readyz(running.port, TOKEN) == (200, "ready")
        answer = chat(running)
        record = row_of(running, answer.head.values(b"x-majordomo-request-id")[0])
        assert (record.outcome, record.body_state) == (Outcome.COMPLETE, BodyState.STORED)
        assert not Path(running.environ["SPOOL_DIR"]).exists()


def test_on_cloud_run_a_spool_or_a_second_port_is_refused(tmp_path: Path) -> None:
    """In one line that says why, before anything is opened."""
    there = {**ON_GOOGLE, "PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "ENCRYPTION_KEY": "ab" * 31 + "00"}
    for given, word in (({"AFTER_RESPONSE": "spool"}, b"memory"), ({"VIEW_AUTH": "token"}, b"one port")):
        done = run_command({**there, **given, "SPOOL_DIR": str(tmp_path / "spool")}, "serve")
        [name] = given
        assert done.returncode == 2
        assert name.encode() in done.stderr and word in done.stderr and done.stderr.count(b"\n") == 1
    assert not (tmp_path / "spool").exists()


def test_with_the_wait_off_a_turn_follows_each_response(
    postgres_server: LocalPostgres, provider: Scripted, tmp_path: Path
) -> None:
    """Where the processor stays (instance-based billing): nobody waits for a row, and every row comes by itself."""
    given = {"AFTER_RESPONSE_WAIT": "off"}
    with running_on_cloud_run(postgres_server, tmp_path, provider.server.url, given) as running:
        for _ in range(5):
            answer = chat(running)
            settled = running.settled(answer.head.values(b"x-majordomo-request-id")[0])
            assert (settled.outcome, settled.body_state) == (Outcome.COMPLETE, BodyState.STORED)
