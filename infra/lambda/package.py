#!/usr/bin/env python3
"""Makes the archive that Lambda runs: what its entries import and nothing else, with byte code; the same octets each
time. `make lambda` calls it; it needs Python and its venv alone, and asks pip's own index for wheels of the target.

Nothing here runs on Lambda.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "infra" / "requirements" / "lambda.txt"
STREAM = Path(__file__).parent / "stream"
PACKAGES = ("steward", "handlers", "migrations")

ENTRIES = ("handlers.aws_lambda", "handlers.aws_lambda_stream")
"""What Lambda calls. What they import, also when first used, is taken along; nothing else of ours is."""

DEFAULT_PYTHON = "3.12"
MACHINES = {"arm64": "aarch64", "x86_64": "x86_64"}
GLIBC = 34
"""Of Amazon Linux 2023, which Lambda's runtimes stand on from Python 3.12 on: wheels may ask for 2.17 to 2.34."""
OLDEST_RUNTIME = (3, 12)

MOST_BYTES = 40 << 20
"""Lambda takes 50 MB at once, and every octet of them is fetched and unpacked at a cold start."""

SERVICES = ("rds", "s3", "secretsmanager", "sqs", "ssm", "sts")
"""Whose descriptions botocore keeps: those that are called (tests/test_lambda_package.py reads the code for others)."""

UNUSED = (
    # Tables are made from elsewhere: `steward migrate`.
    *("alembic/*", "alembic-*", "mako/*", "mako-*", "markupsafe/*", "markupsafe-*"),
    "bin/*",
    "*.pyi",
    "*/py.typed",
    "*.pyx",
    "*.pxd",
    "*.h",
    "*.js",
    "*.css",
    "*/__pycache__/*",
    # Tests of theirs, and what helps to write such.
    "*/tests/*",
    "sqlalchemy/testing/*",
    # Reads headers of C; what was built with it needs `_cffi_backend` alone.
    *("cffi/*", "pycparser/*", "pycparser-*"),
    # The other of two ways to call the same library, for interpreters that cannot load the first.
    "zstandard/_cffi.*",
    "zstandard/backend_cffi.py",
    # Its clients are made of botocore's descriptions; these are of an interface above them that is not used.
    "boto3/data/*",
    "boto3/examples/*",
    # Notes of the installer. A scanner's names and versions (METADATA), entry points and licences stay.
    "*.dist-info/RECORD",
    "*.dist-info/INSTALLER",
    "*.dist-info/REQUESTED",
    "*.dist-info/WHEEL",
    "*.dist-info/top_level.txt",
    "*.dist-info/sboms/*",
)
"""Files of the dependencies that nothing reads at run time."""

AT = (1980, 1, 1, 0, 0, 0)
"""The earliest time that an archive can hold."""


class Refused(Exception):
    """What stands in the way, in one line."""


@dataclass(frozen=True)
class Target:
    """What is built for."""

    arch: str
    version: tuple[int, int]
    interpreter: Path
    """Of exactly that version: its byte code is nobody else's."""

    @property
    def name(self) -> str:
        """`3.12`."""
        return "{}.{}".format(*self.version)

    @property
    def tags(self) -> list[str]:
        """pip's words for it, best wheel first."""
        machine, digits = MACHINES[self.arch], "{}{}".format(*self.version)
        platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(GLIBC, 16, -1)]
        platforms.append(f"manylinux2014_{machine}")
        words = [
            f"--python-version={self.name}",
            "--implementation=cp",
            f"--abi=cp{digits}",
            "--abi=abi3",
            "--abi=none",
        ]
        return words + [f"--platform={platform}" for platform in platforms]


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="make lambda", description="Makes the archive for AWS Lambda.")
    parser.add_argument("--arch", choices=sorted(MACHINES), default="arm64")
    parser.add_argument("--python", metavar="3.N", help=f"Lambda's runtime (default: {DEFAULT_PYTHON})")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "steward-lambda.zip")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "lambda", help="where wheels are unpacked")
    arguments = parser.parse_args(argv)
    try:
        target = chosen(arguments.arch, arguments.python or None)
        size = build(target, arguments.work, arguments.out)
    except Refused as refused:
        _say(str(refused))
        return 1
    _say(f"{arguments.out}: {size / 1e6:.1f} MB, for Runtime: python{target.name}, Architecture: {target.arch}")
    return 0


def build(target: Target, work: Path, out: Path) -> int:
    """Writes the archive and returns its octets. Raises Refused; what stood at `out` is then as it was."""
    wheels = fetched(target, work / f"{target.arch}-{target.name}")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work) as folder:
        tree, made = Path(folder, "tree"), Path(folder, "made")
        for file in needed(wheels):
            _put(wheels / file, tree / file)
        for file in reached(ENTRIES):
            _put(ROOT / file, tree / file)
        _put(STREAM, tree / STREAM.name)
        compiled(target, tree)
        written(tree, made)
        size = made.stat().st_size
        if size > MOST_BYTES:
            raise Refused(f"the archive has {size} octets, more than {MOST_BYTES}")
        shutil.move(made, out)
    return size


def chosen(arch: str, asked: str | None) -> Target:
    """The target, with the interpreter that compiles for it. Raises Refused if the one that was asked is not here."""
    wanted = _version(asked or DEFAULT_PYTHON)
    interpreter = _interpreter(wanted)
    if interpreter is None and asked:
        raise Refused(
            f"no python{asked} on PATH runs, and only it can make byte code for that runtime; "
            "install it, put its folder on PATH, or ask for PY= one that is there"
        )
    if interpreter is None:
        wanted, interpreter = sys.version_info[:2], Path(sys.executable)
        _say(f"no python{DEFAULT_PYTHON} on PATH runs: built with, and for, this {wanted[0]}.{wanted[1]} instead")
    if wanted < OLDEST_RUNTIME:
        _say(f"Lambda's own python{wanted[0]}.{wanted[1]} cannot load all of it (glibc 2.26): good for trying it out")
    return Target(arch, wanted, interpreter)


def _version(said: str) -> tuple[int, int]:
    major, _, minor = said.partition(".")
    if major != "3" or not minor.isdecimal() or int(minor) < 11:
        raise Refused(f"PY={said!r}: 3.11 or a newer 3.N is meant")
    return 3, int(minor)


def _interpreter(wanted: tuple[int, int]) -> Path | None:
    """Where an interpreter of that very version is."""
    if sys.version_info[:2] == wanted:
        return Path(sys.executable)
    name = f"python{wanted[0]}.{wanted[1]}"
    for folder in [*os.environ.get("PATH", os.defpath).split(os.pathsep), "/usr/bin", "/usr/local/bin"]:
        path = Path(folder, name)
        if path.is_file() and _runs(path, wanted):
            return path
    return None


def _runs(path: Path, wanted: tuple[int, int]) -> bool:
    program = f"import sys; sys.exit(sys.version_info[:2] != {wanted} or sys.implementation.name != 'cpython')"
    return _ran(path, "-I", "-c", program, quiet=True)


def fetched(target: Target, folder: Path) -> Path:
    """The lock's wheels of the target, unpacked; kept until the lock changes. Raises Refused."""
    state = hashlib.sha256(LOCK.read_bytes() + repr(target.tags).encode()).hexdigest()
    wheels = folder.with_name(f"{folder.name}-{state[:16]}")
    if wheels.is_dir():
        return wheels
    folder.parent.mkdir(parents=True, exist_ok=True)
    for older in folder.parent.glob(f"{folder.name}-*"):
        shutil.rmtree(older)
    pip = _with_pip(folder.parent / "pip")
    with tempfile.TemporaryDirectory(dir=folder.parent) as begun:
        _install(pip, target, Path(begun, "wheels"))
        try:
            Path(begun, "wheels").replace(wheels)
        except OSError:
            if not wheels.is_dir():  # else another was here first, with the same
                raise
    return wheels


def _install(pip: Path, target: Target, to: Path) -> None:
    words = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile", "--no-deps")
    exactly: tuple[str | Path, ...] = ("--require-hashes", "--only-binary", ":all:", "-r", LOCK, *target.tags)
    environ = {**os.environ, "PIP_ROOT_USER_ACTION": "ignore"}
    if not _ran(pip, *words, "--target", to, *exactly, environ=environ):
        raise Refused(f"the wheels for python{target.name} on {target.arch} could not be had; pip said why")


def _with_pip(folder: Path) -> Path:
    """An interpreter with a pip of its own: this one inside an environment, else a new environment's."""
    if sys.prefix != sys.base_prefix and importlib.util.find_spec("pip"):
        return Path(sys.executable)
    python = folder / "bin" / "python"
    if not _ran(python, "-m", "pip", "--version", quiet=True):
        shutil.rmtree(folder, ignore_errors=True)
        if not _ran(sys.executable, "-m", "venv", folder):
            raise Refused(f"{sys.executable} has no venv (Debian, Ubuntu: apt-get install python3-venv)")
    return python


def needed(wheels: Path) -> list[Path]:
    """The files of the dependencies that are taken along, relative."""
    files = (path.relative_to(wheels) for path in wheels.rglob("*") if path.is_file())
    return sorted(file for file in files if not left_out(file.as_posix()))


def left_out(name: str) -> bool:
    """Whether a dependency's file stays behind."""
    if name.startswith("botocore/data/") and name.count("/") > 2:
        return name.split("/")[2] not in SERVICES
    return any(fnmatchcase(name, pattern) for pattern in UNUSED)


def reached(entries: Sequence[str]) -> list[Path]:
    """Our own files that the entries import, then or later, relative. Raises Refused for an entry that is not there."""
    waiting, found = list(entries), set[Path]()
    if missing := [entry for entry in entries if _file(entry) is None]:
        raise Refused(f"{', '.join(missing)}: no such file")
    while waiting:
        name = waiting.pop()
        file = _file(name)
        if file is None or file in found:
            continue
        found.add(file)
        waiting += [name.rpartition(".")[0], *imported(file)]
    return sorted(found)


def imported(file: Path) -> Iterator[str]:
    """The full names that a file of ours imports, wherever in it, what only a type checker sees aside.

    Raises Refused for a name that stands in no text: nobody could tell what it needs.
    """
    waiting: list[ast.AST] = [ast.parse((ROOT / file).read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            name = ast.literal_eval(node.args[0]) if isinstance(node.args[0], ast.Constant) else None
            if name is None:
                raise Refused(f"{file}:{node.lineno} imports what it does not name")
            yield name
        waiting += ast.iter_child_nodes(node)


def _file(name: str) -> Path | None:
    """The file of a module of ours, relative; None for anything else."""
    if name.partition(".")[0] not in PACKAGES:
        return None
    path = Path(*name.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((each for each in candidates if (ROOT / each).is_file()), None)


def compiled(target: Target, tree: Path) -> None:
    """Byte code beside every source, never compared with it: nothing changes /var/task. Raises Refused."""
    words = ("-P", "-s", "-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash")
    # Sets of constants stand in the order of their hashes.
    environ = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONHASHSEED": "0"}
    if not _ran(target.interpreter, *words, "-s", tree, "-p", "/var/task", tree, environ=environ):
        raise Refused(f"python{target.name} could not compile all of it")


def written(tree: Path, out: Path) -> None:
    """The tree as an archive: in order of names, at one time, readable by all, as Lambda's user is none of ours."""
    files = {path.relative_to(tree).as_posix(): path for path in tree.rglob("*") if path.is_file()}
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, path in sorted(files.items()):
            entry = zipfile.ZipInfo(name, AT)
            entry.create_system = 3
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o100755 if name == STREAM.name else 0o100644) << 16
            archive.writestr(entry, path.read_bytes())


def _put(source: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, to)


def _ran(*words: str | Path, environ: Mapping[str, str] | None = None, quiet: bool = False) -> bool:
    """Whether a program was there and ended with 0."""
    output = subprocess.DEVNULL if quiet else None
    try:
        return subprocess.run(words, env=environ, stdout=output, stderr=output, check=False).returncode == 0  # noqa: S603
    except OSError:
        return False


def _say(words: str) -> None:
    sys.stderr.write(f"lambda: {words}\n")


if __name__ == "__main__":
    sys.exit(main())
