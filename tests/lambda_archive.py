"""The archive that `make lambda` makes, built for this machine, unpacked, and run where nothing else can be imported.

What it runs sees no environment of this project's, no site-packages and no user's folder: a module comes from the
archive, or from Python itself.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILDER = ROOT / "infra" / "lambda" / "package.py"
ARCH = "arm64" if platform.machine() in {"arm64", "aarch64"} else "x86_64"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
CLIENT = ("awslambdaric", "runtime_client", "snapshot_restore_py", "simplejson")
"""What Lambda's own runtime brings: its client, and what that needs."""


def build(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs the builder for this machine, unless options say otherwise."""
    command = [sys.executable, str(BUILDER), "--arch", ARCH, "--python", PYTHON, "--out", str(out), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


def unpacked(archive: Path, folder: Path, byte_code: bool = True) -> Path:
    """The archive's content in `folder`, with the modes that it says, as Lambda unpacks it."""
    with zipfile.ZipFile(archive) as opened:
        for entry in opened.infolist():
            if byte_code or not entry.filename.endswith(".pyc"):
                Path(opened.extract(entry, folder)).chmod(entry.external_attr >> 16)
    return folder


def environ(*folders: Path, **more: str) -> dict[str, str]:
    """What a program sees: folders to import from, nothing that is written beside them, and what else is said."""
    paths = os.pathsep.join(str(folder) for folder in folders)
    return {"PATH": os.defpath, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0", **more}


def alone(*words: str) -> list[str]:
    """A command of this Python without any environment's packages."""
    return [sys.executable, "-S", "-s", "-P", *words]


def run(task: Path, program: str, **more: str) -> str:
    """What a program says that has the unpacked archive, and nothing else."""
    ran = subprocess.run(
        alone("-c", program),
        env=environ(task, **more),
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def runtime_client(folder: Path) -> Path:
    """A folder with AWS's runtime client alone, of the tests' environment."""
    folder.mkdir(parents=True)
    for name in CLIENT:
        spec = find_spec(name)
        assert spec is not None and spec.origin is not None, name
        origin = Path(spec.origin)
        source = origin.parent if spec.submodule_search_locations else origin
        (folder / source.name).symlink_to(source)
    return folder


def function_environ(task: Path, api: str, handler: str, settings: Mapping[str, str]) -> dict[str, str]:
    """What Lambda sets for a function, beside its settings."""
    return {
        **settings,
        "AWS_LAMBDA_RUNTIME_API": api,
        "AWS_LAMBDA_FUNCTION_NAME": "steward",
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1024",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_EXECUTION_ENV": f"AWS_Lambda_python{PYTHON}",
        "AWS_REGION": "eu-central-1",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "LAMBDA_TASK_ROOT": str(task),
        "_HANDLER": handler,
        "TZ": ":UTC",
    }
