"""`steward demo` as a person meets it: a process on a terminal, from nothing to Ctrl-C, with nothing left behind."""

from __future__ import annotations

import gzip
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from steward.standin.said import SENTENCE
from tests.servers.plain_http import Request, call
from tests.servers.socket_provider import Answer, Provider
from tests.servers.waiting import eventually

REPOSITORY = Path(__file__).parents[1]
WITHIN_S = 90.0
PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR")
READY = "until Ctrl-C"


@dataclass
class Running:
    """One demo, its words on the way to a file."""

    process: subprocess.Popen[bytes]
    words: Path
    port: int
    seen: set[psutil.Process] = field(default_factory=set)

    def said(self) -> str:
        """What it has written so far, stdout and stderr."""
        return self.words.read_text()

    def wait_for(self, words: str) -> None:
        """Until it says so; it must not end before."""

        def there() -> bool:
            if words in self.said():
                return True
            assert self.process.poll() is None, self.said()
            return False

        eventually(there, WITHIN_S)

    def family(self) -> set[psutil.Process]:
        """The process and all below it, remembered."""
        parent = psutil.Process(self.process.pid)
        self.seen |= {parent, *parent.children(recursive=True)}
        return self.seen

    def ends(self) -> int:
        """The exit code, once there is one."""
        return self.process.wait(WITHIN_S)

    def nothing_is_left(self) -> None:
        """No process that was seen lives on, and nobody listens on the port."""
        eventually(lambda: not any(_lives(process) for process in self.seen), WITHIN_S)
        with socket.create_server(("127.0.0.1", self.port)):
            pass


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts `steward demo` in an empty folder, with an environment that has nothing of ours."""
    started: list[Running] = []

    def start(*arguments: str, port: int | None = None, **environ: str) -> Running:
        port = _free_port() if port is None else port
        kept = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
        words = tmp_path / f"words-{len(started)}"
        with words.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "steward", "demo", *arguments],
                env={**kept, "PYTHONPATH": path, "PORT": str(port), **environ},
                cwd=tmp_path,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        started.append(Running(process, words, port))
        return started[-1]

    yield start
    for running in started:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait()


def _row(said: str) -> dict[str, str]:
    """The row that the story shows."""
    shown = said.partition("table llm_requests:\n")[2].partition("\n\n")[0]
    return dict(re.findall(r"^  (\w+) +(\S.*)$", shown, re.MULTILINE))


def test_the_story_once(demo: Callable[..., Running], tmp_path: Path) -> None:
    """Exit 0; a row that is whole and a body that is there, and no word of a traceback."""
    running = demo("--once")
    assert running.ends() == 0, running.said()
    said = running.said()
    row = _row(said)
    assert row["model"] == "gpt-4o-mini"
    assert re.fullmatch(r"\d+ in, \d+ out", row["tokens"])
    assert row["cost"].startswith("$0.0")
    assert (row["outcome"], row["body_state"], row["status"]) == ("complete", "stored", "200")
    (body,) = (tmp_path / ".demo" / "bodies").rglob(f"{row['id']}.json.gz")
    assert str(body.relative_to(tmp_path)) in said
    document = json.loads(gzip.decompress(body.read_bytes()))
    assert SENTENCE in document["response"]["body"]["choices"][0]["message"]["content"]
    assert SENTENCE in said
    assert "Traceback" not in said
    assert max(len(line) for line in said.splitlines() if "curl" not in line) < 120
    assert len(said.splitlines()) < 95
    assert re.search(r"The dashboard:\n  http://127\.0\.0\.1:\d+\n  e-mail +\S+@\S+\n  password +\S{12,}\n", said)
    assert re.search(r"takes this token:\n  http://localhost:\d+\n  mdm_vt_\S+\n", said)
    running.nothing_is_left()


def test_it_serves_until_ctrl_c(demo: Callable[..., Running]) -> None:
    """The curl line works while it serves, the call appears, its sockets are loopback only, Ctrl-C ends all of it."""
    running = demo()
    running.wait_for(READY)
    listening = [
        each.laddr.ip
        for process in running.family()
        for each in process.net_connections(kind="inet")
        if each.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert set(listening) == {"127.0.0.1"}
    plain, streamed = [line for line in running.said().splitlines() if line.startswith("curl ")]
    assert SENTENCE in _paste(plain).decode()
    assert b"data: [DONE]" in _paste(streamed)
    running.wait_for("200 complete")
    running.process.send_signal(signal.SIGINT)
    assert running.ends() == 0, running.said()
    assert "Stopped" in running.said()
    assert "Traceback" not in running.said()
    running.nothing_is_left()


def _paste(line: str) -> bytes:
    """What the shown line does, without asking that curl be installed."""
    words = shlex.split(line)
    headers = [words[at + 1].partition(": ") for at, word in enumerate(words) if word == "-H"]
    fields = [(name.encode(), value.encode()) for name, _, value in headers]
    address = re.fullmatch(r"http://127\.0\.0\.1:(\d+)(/.*)", words[2])
    assert address is not None
    request = Request(b"POST", address[2].encode(), fields, words[words.index("-d") + 1].encode())
    return call(int(address[1]), request).body


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_it_may_be_ended_while_it_starts(demo: Callable[..., Running], number: signal.Signals) -> None:
    """A signal between the database and the Steward: all of it goes, without a traceback; twice is once."""
    running = demo()
    running.wait_for("ready")
    running.family()
    running.process.send_signal(number)
    running.process.send_signal(number)
    running.ends()
    assert "Traceback" not in running.said()
    assert "Stopped" in running.said()
    running.nothing_is_left()


def test_killed_it_leaves_nothing(demo: Callable[..., Running]) -> None:
    """`kill -9`: the database goes too."""
    running = demo()
    running.wait_for(READY)
    assert len(running.family()) > 2
    running.process.kill()
    running.ends()
    running.nothing_is_left()


def test_a_port_in_use_is_one_line(demo: Callable[..., Running]) -> None:
    """Before anything is started, with what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        running = demo("--once", port=port)
        assert running.ends() == 2
    (line,) = running.said().splitlines()
    assert f"127.0.0.1:{port} is in use" in line
    assert f"PORT={port + 1}" in line


def test_a_real_provider_is_called_when_its_key_is_set(demo: Callable[..., Running]) -> None:
    """Anthropic's key: its own call goes there with the key, the others to the stand-in; the key is never shown."""
    message: Any = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-haiku-4-5-20251001"}
    message |= {"content": [{"type": "text", "text": "Really me."}], "stop_reason": "end_turn"}
    message["usage"] = {"input_tokens": 5, "output_tokens": 4}
    body = json.dumps(message).encode()
    real = Provider(lambda _: Answer(200, [(b"content-type", b"application/json")], [body]))
    running = demo("--once", ANTHROPIC_API_KEY="sk-ant-canary", ANTHROPIC_BASE_URL=real.url)
    assert running.ends() == 0, running.said()
    (received,) = real.take()
    real.close()
    assert (received.value("x-api-key"), received.target) == ("sk-ant-canary", b"/v1/messages")
    row = _row(running.said())
    assert (row["provider"], row["tokens"]) == ("anthropic", "5 in, 4 out")
    assert "Really me." in running.said()
    assert "$ANTHROPIC_API_KEY" in running.said()
    assert "answers for OpenAI, Gemini" in running.said()
    assert "sk-ant-canary" not in running.said()


def test_a_provider_that_refuses_is_part_of_the_story(demo: Callable[..., Running]) -> None:
    """A wrong key: the answer is shown, the row is there, unknown is unknown."""
    refusal = b'{"error": {"message": "Incorrect API key provided.", "code": "invalid_api_key"}}'
    real = Provider(lambda _: Answer(401, [(b"content-type", b"application/json")], [refusal]))
    running = demo("--once", OPENAI_API_KEY="sk-wrong", OPENAI_BASE_URL=f"{real.url}/v1")
    assert running.ends() == 0, running.said()
    real.close()
    row = _row(running.said())
    assert (row["status"], row["tokens"], row["cost"]) == ("401", "unknown in, unknown out", "unknown")
    assert "Incorrect API key" in running.said()
    assert "sk-wrong" not in running.said()


def test_nothing_of_the_environment_or_a_dotenv_reaches_it(demo: Callable[..., Running], tmp_path: Path) -> None:
    """Another installation's settings do no harm, and secrets are new each time.

    And a file stands where the folder would: a temporary one is used, and named.
    """
    (tmp_path / ".demo").write_text("in the way")
    (tmp_path / ".env").write_text("POSTGRES_HOST=db.invalid\nBODY_STORE_URL=s3://elsewhere\n")
    running = demo(
        "--once",
        POSTGRES_HOST="db.invalid",
        ENCRYPTION_KEY="0123456789abcdef" * 4,
        HTTPS_PROXY="http://127.0.0.1:1",
        TMPDIR=str(tmp_path),
    )
    assert running.ends() == 0, running.said()
    assert "steward-demo-" in running.said()
    assert (tmp_path / ".demo").read_text() == "in the way"
    (tmp_path / ".demo").unlink()
    again = demo("--once")
    assert again.ends() == 0, again.said()
    keys = [re.search(r"mdm_sk_[\w-]{20,}", each.said()) for each in (running, again)]
    assert keys[0] is not None
    assert keys[1] is not None
    assert keys[0][0] != keys[1][0]
