"""Starts nginx, the relay and wrk, and takes the figures: always in pairs, one beside the other, never alone.

The relay (and the nginx it is measured against) runs on one core, load and provider on another. Refuses to say a
figure for a run in which a single answer was not 2xx.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.servers.waiting import eventually

ROOT = Path(__file__).parents[2]
CONNECTIONS = 32
_TOOL_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
_ANSWER = (
    '{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"gpt-4o-mini","choices":[{"index":0,"message":'
    '{"role":"assistant","content":"' + "0123456789" * 60 + '"},"finish_reason":"stop"}],'
    '"usage":{"prompt_tokens":12,"completion_tokens":5,"total_tokens":17}}'
)


def tool(name: str) -> str | None:
    """Where a program is, also where only root looks."""
    return shutil.which(name, path=_TOOL_PATH)


def missing_tools() -> list[str]:
    """Which of nginx and wrk are not here."""
    return [name for name in ("nginx", "wrk") if tool(name) is None]


@dataclass(frozen=True)
class Pair:
    """One measurement of the relay, and nginx's beside it."""

    steward: float
    nginx: float

    @property
    def ratio(self) -> float:
        """Steward to nginx."""
        return self.steward / self.nginx


@dataclass(frozen=True)
class Latency:
    """Median answer times of one connection, in milliseconds."""

    direct_ms: float
    nginx_ms: float
    through_ms: float

    @property
    def added_ms(self) -> float:
        """What the Steward added."""
        return self.through_ms - self.direct_ms

    @property
    def nginx_added_ms(self) -> float:
        """What nginx added in its place: the price of one more process on this machine."""
        return self.nginx_ms - self.direct_ms


class Bench:
    """Everything that runs for a measurement."""

    def __init__(self, folder: Path, relay_core: int, load_core: int) -> None:
        self._folder = folder
        self._relay_core = relay_core
        self._load_core = load_core
        self._running = contextlib.ExitStack()
        self._key = "mdm_sk_" + secrets.token_urlsafe(32)
        self.provider_port, self.nginx_port, self.relay_port, *rest = _free_ports(6)
        self.spool_relay_port, self.streams_port, self.stream_relay_port = rest
        self._spool = folder / "spool"
        self._script = folder / "call.lua"
        self._relays: dict[int, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Bench:
        self._script.write_text(self._lua())
        self._nginx("provider", self._load_core, _provider_conf(self.provider_port))
        self._nginx("proxy", self._relay_core, _proxy_conf(self.nginx_port, self.provider_port))
        self._relay(self.relay_port, self.provider_port)
        self._spool.mkdir(mode=0o700)
        self._relay(self.spool_relay_port, self.provider_port, str(self._spool))
        self._python(self._load_core, "tests.bench.streams", str(self.streams_port), "200", "2")
        self._relay(self.stream_relay_port, self.streams_port)
        ports = (self.provider_port, self.nginx_port, *self._relays, self.streams_port)
        eventually(lambda: all(_listens(port) for port in ports), 20)
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def throughput(self, seconds: int) -> Pair:
        """Requests a second at 32 connections, nginx first, the relay right after."""
        nginx = self._wrk(self.nginx_port, CONNECTIONS, seconds)
        return Pair(_rate(self._wrk(self.relay_port, CONNECTIONS, seconds)), _rate(nginx))

    def spooled_throughput(self, seconds: int) -> Pair:
        """The same with the spool on, in the folder's file system. What was spooled is thrown away afterwards."""
        nginx = self._wrk(self.nginx_port, CONNECTIONS, seconds)
        pair = Pair(_rate(self._wrk(self.spool_relay_port, CONNECTIONS, seconds)), _rate(nginx))
        for segment in sorted(self._spool.glob("relays/*/*.seg"))[:-1]:
            segment.unlink()
        return pair

    def latency(self, seconds: int) -> Latency:
        """The median at one connection: straight to the provider, through nginx, through the relay."""
        ports = (self.provider_port, self.nginx_port, self.relay_port)
        return Latency(*(_median_ms(self._wrk(port, 1, seconds)) for port in ports))

    def chunk_cpu_us(self, seconds: int) -> float:
        """CPU of the relay a streamed event, in microseconds, with 32 streams of 200 events, 2 ms apart."""
        pid = self._relays[self.stream_relay_port].pid
        cpu_s, sent = _cpu_s(pid), self._sent()
        self._wrk(self.stream_relay_port, CONNECTIONS, seconds)
        return (_cpu_s(pid) - cpu_s) / (self._sent() - sent) * 1e6

    def call_cpu_us(self, seconds: int) -> float:
        """CPU of the relay a plain call, in microseconds, at 32 connections."""
        pid = self._relays[self.relay_port].pid
        cpu_s = _cpu_s(pid)
        said = self._wrk(self.relay_port, CONNECTIONS, seconds)
        return (_cpu_s(pid) - cpu_s) / _calls(said) * 1e6

    def _sent(self) -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.streams_port}/sent", timeout=10) as answer:  # noqa: S310
            return int(answer.read())

    def _lua(self) -> str:
        body = '{"model":"gpt-4o-mini","messages":[{"role":"user","content":"' + "x" * 900 + '"}]}'
        return (
            f"wrk.method = 'POST'\nwrk.body = '{body}'\nwrk.headers['Content-Type'] = 'application/json'\n"
            f"wrk.headers['Authorization'] = 'Bearer sk-bench'\nwrk.headers['X-Majordomo-Key'] = '{self._key}'\n"
        )

    def _wrk(self, port: int, connections: int, seconds: int) -> str:
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        command = [
            str(tool("wrk")),
            "-t1",
            f"-c{connections}",
            f"-d{seconds}s",
            "--latency",
            "-s",
            str(self._script),
            url,
        ]
        said = subprocess.run(  # noqa: S603
            _pinned(self._load_core, command), capture_output=True, text=True, check=True, timeout=seconds + 60
        ).stdout
        if "Non-2xx" in said or "Socket errors" in said:
            raise RuntimeError("not every call was answered 2xx")
        return said

    def _nginx(self, name: str, core: int, conf: str) -> None:
        folder = self._folder / name
        folder.mkdir()
        path = folder / "nginx.conf"
        path.write_text(f"pid {folder}/pid;\nerror_log {folder}/errors;\n" + conf.replace("FOLDER", str(folder)))
        self._start(core, [str(tool("nginx")), "-p", str(folder), "-e", f"{folder}/errors", "-c", str(path)])

    def _relay(self, port: int, provider_port: int, *spool: str) -> None:
        self._relays[port] = self._python(
            self._relay_core, "tests.bench.relay", str(port), str(provider_port), self._key, *spool
        )

    def _python(self, core: int, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        return self._start(core, [sys.executable, "-m", module, *arguments])

    def _start(self, core: int, command: Sequence[str]) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(  # noqa: S603
            _pinned(core, command), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._running.callback(_end, process)
        return process


@contextlib.contextmanager
def bench() -> Iterator[Bench]:
    """A bench in a folder of its own, on the first two cores this process may use."""
    cores = sorted(os.sched_getaffinity(0))
    # Not pytest's folder: nginx started by root works as another user, who must reach its own.
    with tempfile.TemporaryDirectory(prefix="steward-bench-") as folder, Bench(Path(folder), cores[0], cores[-1]) as it:
        yield it


def median_ratio(pairs: Sequence[Pair]) -> float:
    """The median of the pairs' ratios."""
    return statistics.median(pair.ratio for pair in pairs)


def _pinned(core: int, command: Sequence[str]) -> list[str]:
    taskset = tool("taskset")
    return [taskset, "-c", str(core), *command] if taskset else list(command)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rate(said: str) -> float:
    found = re.search(r"Requests/sec:\s+([\d.]+)", said)
    assert found is not None
    return float(found[1])


def _calls(said: str) -> int:
    found = re.search(r"(\d+) requests in", said)
    assert found is not None
    return int(found[1])


def _median_ms(said: str) -> float:
    found = re.search(r"50%\s+([\d.]+)(us|ms|s)\b", said)
    assert found is not None
    return float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[found[2]]


def _provider_conf(port: int) -> str:
    return _conf(
        f"listen 127.0.0.1:{port} backlog=4096; default_type application/json; location / {{ return 200 '{_ANSWER}'; }}"
    )


def _proxy_conf(port: int, provider_port: int) -> str:
    upstream = f"upstream provider {{ server 127.0.0.1:{provider_port}; keepalive 64; keepalive_requests 100000000; }}"
    server = (
        f"listen 127.0.0.1:{port} backlog=4096; location / {{ proxy_pass http://provider; proxy_http_version 1.1; "
        'proxy_set_header Connection ""; }'
    )
    return _conf(server, upstream)


def _conf(server: str, upstream: str = "") -> str:
    temporary = " ".join(
        f"{name}_temp_path FOLDER/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return (
        "worker_processes 1; daemon off; master_process off; events { worker_connections 4096; }\n"
        f"http {{ access_log off; keepalive_requests 100000000; client_body_buffer_size 64k; {temporary}\n"
        f"{upstream}\nserver {{ {server} }} }}\n"
    )
