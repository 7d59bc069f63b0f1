"""`make lambda`: the archive holds what that host needs and nothing else, the same octets each time, and runs alone."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.util import MAGIC_NUMBER
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import Marker, default_environment

from tests.bench.cold_start import cold_start_bench
from tests.infra.expanded import template
from tests.lambda_archive import BUILDER, ROOT, build, run, unpacked

MOST_BYTES = 40 << 20
LOCK = ROOT / "infra" / "requirements" / "lambda.txt"
OURS = ("handlers/", "steward/", "migrations/")
NEVER = re.compile(
    r"(google|functions_framework|cloudevents|flask|gunicorn|uvicorn|uvloop|jwt|jinja2|argon2|alembic|mako|playwright|pytest|"
    r"moto|awslambdaric|pip|tests|bin|migrations)(/|[-.])|"
    r"handlers/(container|listening_sockets|supervisor|settler|viewer|spool_folder|cloud_function)\.py|"
    r"steward/(butler|standin)/|steward/(demo\w*|cli|majordomo|\w+_command|listener)\.py|"
    r"steward/(adapters/(memory|postgres_(local|runner)|oidc)|wiring/(viewer|commands)|api/viewer)\w*\.py|"
    r".*\.(pyi|c|h|js|css|html|env|pth)$|.*/(tests|test)/"
)
"""What no function of ours runs."""

LACKING = {"google", "requests", "uvloop"}
"""What our files import when first used, and the archive lacks: Google's store is refused with a clear word, see below;
without uvloop the streaming runtime takes asyncio's own loop."""

NEVER_EARLY = {"alembic", "boto3", "botocore.session", "fastapi", "google", "pydantic.v1", "s3transfer", "starlette"}
"""What nothing imports before it is first used: vendors' clients, and what only our own routes need."""

IMPORTED = {
    *("handlers", "steward"),
    *("aiohappyeyeballs", "cryptography", "_cffi_backend", "dotenv", "httptools", "orjson", "structlog", "zstandard"),
    *("_brotli", "brotli", "prometheus_client"),
    *("aws_lambda_powertools", "jmespath", "mangum", "typing_extensions"),
    "botocore",  # Powertools looks whether it is there: the package's own file, nothing below it
}
"""All that the handler imports before its first event, ahead of what the settings ask for."""


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `make lambda` makes it, for this machine."""
    out = tmp_path_factory.mktemp("lambda") / "steward-lambda.zip"
    built = build(out)
    assert built.returncode == 0, built.stderr
    return out


@pytest.fixture(scope="session")
def task(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Lambda has in /var/task."""
    return unpacked(archive, tmp_path_factory.mktemp("task"))


@pytest.fixture(scope="session")
def names(archive: Path) -> set[str]:
    """Every file of it."""
    with zipfile.ZipFile(archive) as opened:
        return set(opened.namelist())


def test_it_holds_what_the_host_needs_and_nothing_else(names: set[str]) -> None:
    assert {"handlers/aws_lambda.py", "handlers/aws_lambda_stream.py", "steward/proxy.py", "stream"} <= names
    assert {"mangum/__init__.py", "boto3/__init__.py", "aws_lambda_powertools/__init__.py", "_cffi_backend"} <= {
        re.sub(r"\.cpython-.*", "", name) for name in names
    }
    assert not sorted(name for name in names if NEVER.match(name))


def test_it_is_small_enough(archive: Path) -> None:
    assert archive.stat().st_size < MOST_BYTES


def test_every_source_has_byte_code_that_nobody_compares_with_it(archive: Path, names: set[str]) -> None:
    tag = sys.implementation.cache_tag
    sources = {name for name in names if name.endswith(".py")}
    wanted = {f"{(path := Path(name)).parent}/__pycache__/{path.stem}.{tag}.pyc".removeprefix("./") for name in sources}
    assert len(sources) > 1000
    assert {name for name in names if name.endswith(".pyc")} == wanted
    with zipfile.ZipFile(archive) as opened:
        heads = {opened.read(name)[:8] for name in wanted}
    assert heads == {MAGIC_NUMBER + b"\x01\0\0\0"}, "by the sources' hashes, unchecked (PEP 552)"


def test_the_byte_code_is_what_a_cold_start_runs_on(archive: Path) -> None:
    """An archive whose byte code nobody reads would start as slowly as one without (measured: half as long)."""
    with cold_start_bench(archive) as it:
        assert it.starts(it.with_byte_code, 3).ready_ms < 0.8 * it.starts(it.without, 3).ready_ms


def test_it_is_the_same_octets_each_time(archive: Path, tmp_path: Path) -> None:
    again = build(tmp_path / "again.zip")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "again.zip").read_bytes() == archive.read_bytes()
    with zipfile.ZipFile(archive) as opened:
        entries = opened.infolist()
    assert [entry.filename for entry in entries] == sorted(entry.filename for entry in entries)
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}
    assert {entry.filename for entry in entries if entry.external_attr >> 16 != 0o100644} == {"stream"}
    assert str(ROOT).encode() not in (tmp_path / "again.zip").read_bytes()


def test_what_our_files_import_is_there(task: Path, names: set[str]) -> None:
    files = [name for name in names if name.startswith(OURS) and name.endswith(".py")]
    assert len(files) > 100
    missing = {each for name in files for each in _imported(task / name) if not _there(each, names)}
    assert {each.partition(".")[0] for each in missing} == LACKING


def _imported(file: Path) -> Iterator[str]:
    """Modules, wherever in the file; what only a type checker sees aside."""
    waiting: list[ast.AST] = [ast.parse(file.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, file
            yield node.module
        waiting += ast.iter_child_nodes(node)


def _there(module: str, names: set[str]) -> bool:
    path, top = module.replace(".", "/"), module.partition(".")[0]
    return (
        top in sys.stdlib_module_names
        or f"{path}.py" in names
        or f"{path}/__init__.py" in names
        or any(name.startswith(f"{path}.cpython-") for name in names)
    )


def test_a_scanner_finds_every_package_and_its_licence(names: set[str]) -> None:
    told = {name.split("/")[0] for name in names if ".dist-info/" in name}
    assert len(told) > 30
    assert {f"{each}/METADATA" for each in told} <= names
    locked = {re.sub(r"[-_.]+", "_", name) for name in re.findall(r"^([a-z0-9._-]+)==", LOCK.read_text(), re.MULTILINE)}
    assert {re.sub(r"[-_.]+", "_", each.split("-")[0]).lower() for each in told} <= locked
    licensed = {name.split("/")[0] for name in names if re.search(r"\.dist-info/.*(LICEN[CS]E|COPYING)", name)}
    assert len(licensed) > 25


def test_the_handler_imports_no_vendor_before_its_first_use(task: Path) -> None:
    imported = json.loads(run(task, f"import handlers.aws_lambda\n{_TELLS}"))
    assert not imported["elsewhere"]
    assert {name.partition(".")[0] for name in imported["foreign"]} == IMPORTED
    assert not NEVER_EARLY & {*imported["foreign"]}


def test_a_sandbox_that_was_begun_has_imported_no_vendor_either(task: Path) -> None:
    """With bodies in a bucket: its client is made when the first body is put."""
    begun = "import os\nfrom handlers.aws_sandbox import Sandbox\nsandbox = Sandbox(os.environ)\nsandbox.begin()\n"
    *_, said = run(task, f"{begun}sandbox.app, sandbox.log\n{_TELLS}", **_BUCKET, **_SETTINGS).splitlines()
    imported = json.loads(said)
    assert not imported["elsewhere"]
    assert "sqlalchemy" in imported["foreign"]
    assert not NEVER_EARLY & {*imported["foreign"]}


def test_the_streaming_runtime_imports_no_vendor_before_its_first_use(task: Path) -> None:
    imported = json.loads(run(task, f"import handlers.aws_lambda_stream\n{_HOSTED}{_TELLS}", **_BUCKET, **_SETTINGS))
    assert not imported["elsewhere"]
    assert not (NEVER_EARLY | {"aws_lambda_powertools", "mangum"}) & {*imported["foreign"]}


def test_googles_entry_imports_nothing_of_amazons() -> None:
    """The other way round, in an environment that has both."""
    program = "import sys, json\nimport handlers.cloud_function\nprint(json.dumps([*sys.modules]))\n"
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    imported = set(json.loads(ran.stdout.splitlines()[-1]))
    assert "functions_framework.aio" in imported
    assert not {"boto3", "botocore", "s3transfer", "mangum", "aws_lambda_powertools", "handlers.aws_lambda"} & imported
    assert not {"google.cloud.storage", "google.auth"} & imported


_TELLS = (
    "import json, os, sys\n"
    "task, stdlib = os.environ['PYTHONPATH'], os.path.dirname(os.__file__)\n"
    "files = {name: getattr(module, '__file__', None) or '' for name, module in sys.modules.items()}\n"
    "elsewhere = [name for name, file in files.items() if file and not file.startswith((task, stdlib))]\n"
    "foreign = [name for name, file in files.items() if file.startswith(task)]\n"
    "print(json.dumps({'elsewhere': elsewhere, 'foreign': foreign}))\n"
)
"""Which modules came from the archive, and which from anywhere but it and Python itself."""


def test_clients_are_made_of_the_descriptions_that_are_kept(task: Path, names: set[str]) -> None:
    """Each as it is called; others have none, and no file of ours asks for one."""
    kept = {name.split("/")[2] for name in names if re.fullmatch(r"botocore/data/[^/]+/.*", name)}
    asked = set()
    for name in names:
        if name.startswith(OURS) and name.endswith(".py"):
            asked |= set(re.findall(r"client\(\s*\"([a-z0-9-]+)\"", (task / name).read_text()))
    assert "s3" in asked and asked <= kept
    said = run(
        task,
        "import boto3, botocore.session\n"
        "session = botocore.session.Session()\n"
        "session.set_credentials('id', 'secret')\n"
        "made = {name: session.create_client(name, region_name='eu-central-1') for name in "
        + repr(sorted(kept))
        + "}\n"
        "token = made['rds'].generate_db_auth_token('db', 5432, 'steward')\n"
        "assert token.startswith('db:5432/?Action=connect'), token\n"
        "url = made['s3'].generate_presigned_url('get_object', {'Bucket': 'bodies', 'Key': 'k'})\n"
        "assert url.startswith('https://bodies.s3.'), url\n"
        "boto3.session.Session('id', 'secret', region_name='eu-central-1').client('secretsmanager')\n"
        "print(*sorted(client.meta.endpoint_url for client in made.values()))\n",
        AWS_EC2_METADATA_DISABLED="true",
    )
    assert len(said.split()) == len(kept) >= 6
    assert all(url.endswith(".amazonaws.com") for url in said.split())


def test_powertools_reads_secrets_and_parameters_with_what_is_kept(task: Path) -> None:
    run(
        task,
        "from aws_lambda_powertools.utilities import parameters\n"
        "parameters.SecretsProvider(), parameters.SSMProvider()\n"
        "from aws_lambda_powertools import Logger\n"
        "from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response\n"
        "BatchProcessor(event_type=EventType.SQS)\n",
        AWS_DEFAULT_REGION="eu-central-1",
        AWS_EC2_METADATA_DISABLED="true",
    )


def test_what_a_call_comes_to_in_the_end_is_there_too(task: Path) -> None:
    """Pieces that are imported when first used: the price list, the database's driver, compression, keys, TLS."""
    run(
        task,
        "from steward.price import bundled\n"
        "bundled({})\n"
        "import brotli, re2, zstandard, httptools, orjson, cryptography.hazmat.primitives.ciphers.aead as aead\n"
        "assert zstandard.decompress(zstandard.compress(b'call')) == b'call'\n"
        "assert brotli.decompress(brotli.compress(b'call')) == b'call'\n"
        "assert aead.AESGCM(bytes(32)).encrypt(bytes(12), b'call', b'')\n"
        "from steward.adapters.postgres_connection import PostgresAddress, open_engine\n"
        "from steward.words import Secret\n"
        "address = PostgresAddress('db', 5432, 'steward', Secret('p'), 'steward', 'verify-full', max_conns=1)\n"
        "open_engine(address)\n"
        "import ssl, certifi\n"
        "assert ssl.create_default_context(cafile=certifi.where()).get_ca_certs()\n",
    )


def test_a_process_is_put_together_of_what_is_there(task: Path) -> None:
    assert run(task, _HOSTED, **_BUCKET, **_SETTINGS) == ""


def test_another_clouds_store_is_refused_with_one_clear_word(task: Path) -> None:
    said = run(task, _HOSTED, BODY_STORE_URL="gs://bodies", **_SETTINGS)
    assert said.strip() == "Google Cloud Storage needs google-cloud-storage. Install majordomo-steward[gcp]."


_BUCKET = {"BODY_STORE_URL": "s3://bodies/llm", "BODY_STORE_S3_REGION": "eu-central-1"}
_SETTINGS = {
    "ENCRYPTION_KEY": "0123456789abcdef" * 4,
    "POSTGRES_HOST": "db.example",
    "AFTER_RESPONSE": "inline",
    "POSTGRES_MAX_CONNS": "1",
}
_HOSTED = (
    "import os\n"
    "from steward.app import create_app\n"
    "from steward.errors import SettingError\n"
    "from steward.settings import load\n"
    "from steward.wiring.hosted import build_hosted\n"
    "try: create_app(build_hosted(load(os.environ, None), False).services)\n"
    "except SettingError as refused: print(refused)\n"
)


def test_the_wrapper_starts_our_own_loop_with_lambdas_interpreter(task: Path, tmp_path: Path) -> None:
    """AWS_LAMBDA_EXEC_WRAPPER=/var/task/stream: Lambda hands it the interpreter and AWS's client."""
    interpreter = tmp_path / "python3"
    interpreter.write_text('#!/bin/sh\npwd\nprintf "%s\\n" "$@"\n')
    interpreter.chmod(0o755)
    ran = subprocess.run(
        [task / "stream", interpreter, "/var/runtime/bootstrap.py"],
        env={"LAMBDA_TASK_ROOT": str(task), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ran.returncode, ran.stdout.split()) == (0, [str(task), "-m", "handlers.aws_lambda_stream"])


def test_nothing_is_written_beside_it(task: Path, names: set[str]) -> None:
    """After all that ran of it here: /var/task is read-only."""
    run(task, "import handlers.aws_lambda")
    assert {str(path.relative_to(task)) for path in task.rglob("*") if path.is_file()} == names


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("3.99", "no python3.99 on PATH runs, and only it can make byte code for that runtime"),
        ("2.7", "PY='2.7': 3.11 or a newer 3.N is meant"),
        ("3.x; rm", "PY='3.x; rm': 3.11 or a newer 3.N is meant"),
    ],
)
def test_a_runtime_that_cannot_be_built_for_is_one_line(asked: str, said: str, tmp_path: Path) -> None:
    out = tmp_path / "steward-lambda.zip"
    out.write_bytes(b"what was made before")
    ran = build(out, "--python", asked)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith(f"lambda: {said}") and ran.stderr.count("\n") == 1
    assert out.read_bytes() == b"what was made before"


@pytest.fixture(scope="module")
def builder() -> Any:
    """The builder as a module: here one interpreter alone is there to build with."""
    spec = importlib.util.spec_from_file_location("lambda_package", BUILDER)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look
    spec.loader.exec_module(module)
    del sys.modules[spec.name]
    return module


@pytest.mark.parametrize(("arch", "machine"), [("arm64", "aarch64"), ("x86_64", "x86_64")])
@pytest.mark.parametrize(("version", "abi"), [((3, 12), "cp312"), ((3, 13), "cp313")])
def test_pip_is_asked_for_the_targets_wheels_alone(
    builder: Any, arch: str, machine: str, version: tuple[int, int], abi: str
) -> None:
    tags = builder.Target(arch, version, Path("python")).tags
    platforms = [tag.removeprefix("--platform=") for tag in tags if tag.startswith("--platform=")]
    assert platforms[0] == f"manylinux_2_34_{machine}"
    assert all(platform.endswith(machine) for platform in platforms)
    assert [tag for tag in tags if tag.startswith("--abi=")] == [f"--abi={abi}", "--abi=abi3", "--abi=none"]


def test_the_template_runs_what_is_built_unless_told_otherwise(builder: Any) -> None:
    parameters = template()["Parameters"]
    runtimes = parameters["PythonRuntime"]
    assert runtimes["Default"] == f"python{builder.DEFAULT_PYTHON}"
    oldest = "python{}.{}".format(*builder.OLDEST_RUNTIME)
    assert runtimes["AllowedValues"][0] == oldest
    assert sorted(parameters["Architecture"]["AllowedValues"]) == sorted(builder.MACHINES)
    assert parameters["Architecture"]["Default"] == "arm64"


def test_the_lock_reads_the_same_wherever_the_archive_is_made() -> None:
    """pip asks the machine that it runs on, not the one that it installs for: no marker may differ between them."""
    markers = {
        Marker(said.strip()) for said in re.findall(r"^[^#\s][^;\n]*;([^\\\n]+)", LOCK.read_text(), re.MULTILINE)
    }
    assert markers
    for marker in markers:
        answers = {
            marker.evaluate({**default_environment(), "sys_platform": system, "python_full_version": f"3.{minor}.0"})
            for system, minor in product(("linux", "darwin", "win32"), (11, 12, 13, 14))
        }
        assert len(answers) == 1, marker
