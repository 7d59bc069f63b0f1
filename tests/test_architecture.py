"""The house keeps its shape: who imports whom, what stands where, and what no file may do.

The direction of imports itself is a contract of import-linter, in pyproject.toml; here it is checked to be complete.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

import pytest

from steward.log_fields import DOMAINS, event_name

ROOT = Path(__file__).parents[1]
PACKAGES = ("steward", "handlers", "migrations")
SOURCES = sorted(file.relative_to(ROOT) for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
TESTS = sorted(file.relative_to(ROOT) for file in (ROOT / "tests").rglob("*.py"))
NAMES = [str(file) for file in SOURCES]

SANS_IO = (
    *("exchange", "detect", "meter", "price", "pricebook", "pricelist", "pricemoves", "pricenames", "rates", "egress"),
    *("body_object", "destination", "errors", "ports", "rewrite", "log_fields", "words"),
)
SANS_IO_PACKAGES = ("wire", "providers")
OUTSIDE = frozenset(
    {
        *(
            "asyncio",
            "boto3",
            "botocore",
            "concurrent",
            "ftplib",
            "google",
            "http",
            "httpx",
            "httpx2",
            "pg8000",
            "requests",
        ),
        *("select", "selectors", "smtplib", "socket", "socketserver", "sqlalchemy", "ssl", "subprocess", "threading"),
        *("urllib3", "uvicorn", "uvloop", "time", "random", "secrets", "signal", "multiprocessing"),
    }
)
"""Network, clock, chance and the machine."""

VENDORS = frozenset({"boto3", "botocore", "google", "s3transfer"})
BLIND = frozenset({"Exception", "BaseException"})
MIRRORED_ELSEWHERE = {
    "steward/__init__.py": "a docstring",
    "handlers/__init__.py": "a docstring",
    "steward/__main__.py": "run as a program by tests/test_cli.py and tests/test_packaging.py",
    "steward/version.py": "tests/test_packaging.py compares it with the wheel's",
}
"""Files without a test of their own name, and who tests them."""

CONTRACTS = re.compile(r"steward/(?:adapters/(?!postgres_(?:local|tls|driver|partitions|keeper))|ports\.py).*")
"""Implementations of ports are tested by the suites in tests/contracts, once for all."""


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse((ROOT / file).read_text())


def _imports(node: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Every absolute import below the node, as (statement, module)."""
    for each in ast.walk(node):
        if isinstance(each, ast.Import):
            yield from ((each, alias.name) for alias in each.names)
        elif isinstance(each, ast.ImportFrom) and each.module:
            yield each, each.module


def _at_import(tree: ast.Module) -> Iterator[ast.stmt]:
    """Statements that run when the module is imported, without those that only a type checker sees."""
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        statement = waiting.pop()
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.dump(statement.test):
            waiting += statement.orelse
        elif isinstance(statement, ast.If | ast.Try | ast.With | ast.For | ast.While):
            waiting += [child for child in ast.iter_child_nodes(statement) if isinstance(child, ast.stmt)]
        else:
            yield statement


def _calls(file: Path) -> Iterator[ast.Call]:
    return (node for node in ast.walk(_tree(file)) if isinstance(node, ast.Call))


def _name(node: ast.AST) -> str:
    """A dotted name, as written; empty for anything else."""
    return ast.unparse(node) if isinstance(node, ast.Attribute | ast.Name) else ""


def _is_sans_io(file: Path) -> bool:
    parts = file.parts
    return parts[0] == "steward" and (parts[1] in SANS_IO_PACKAGES or (len(parts) == 2 and file.stem in SANS_IO))


def test_every_module_stands_in_the_contract_of_imports() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (contract,) = [one for one in config["tool"]["importlinter"]["contracts"] if one["type"] == "layers"]
    placed = {name.strip(" ()") for layer in contract["layers"] for name in layer.split("|")}
    top = {
        ".".join(file.with_suffix("").parts[:2])
        for file in SOURCES
        if file.parts[0] == "steward" and file.name != "__init__.py"
    }
    top.discard("steward.standin")
    assert top <= placed, "a new module needs its place in pyproject.toml's layers"


@pytest.mark.parametrize("file", SOURCES, ids=NAMES)
def test_a_file_has_its_test(file: Path) -> None:
    if str(file) in MIRRORED_ELSEWHERE or file.name == "__init__.py" or file.parts[0] == "migrations":
        return
    if CONTRACTS.fullmatch(str(file)) and _named_in_contracts(file):
        return
    inside = file.relative_to("steward") if file.parts[0] == "steward" else file
    twin = ROOT / "tests" / inside.parent / f"test_{file.name}"
    assert twin.is_file(), f"{twin.relative_to(ROOT)} is missing"
    assert re.search(r"^\s*(?:async )?def test_", twin.read_text(), re.MULTILINE)


def _named_in_contracts(file: Path) -> bool:
    suites = [*(ROOT / "tests" / "contracts").glob("*.py"), *(ROOT / "tests" / "servers").glob("*.py")]
    return any(f"steward.adapters.{file.stem}" in suite.read_text() for suite in suites)


@pytest.mark.parametrize("file", [file for file in SOURCES if _is_sans_io(file)], ids=str)
def test_a_sans_io_file_imports_no_network_clock_or_chance(file: Path) -> None:
    # `os` is used for fstat and `sys` for limits; what would make them an environment is looked for below.
    assert not [name for _, name in _imports(_tree(file)) if name.split(".")[0] in OUTSIDE]
    clocks = {
        "datetime.now",
        "datetime.utcnow",
        "datetime.datetime.now",
        "date.today",
        "os.urandom",
        "uuid4",
        "uuid.uuid4",
    }
    assert not [name for call in _calls(file) if (name := _name(call.func)) in clocks]


@pytest.mark.parametrize("file", SOURCES, ids=NAMES)
def test_only_settings_reads_the_environment(file: Path) -> None:
    names = [_name(node) for node in ast.walk(_tree(file)) if isinstance(node, ast.Attribute | ast.Name)]
    reads = [
        name
        for name in names
        if name in {"os.environ", "os.environb", "os.getenv", "environ", "getenv"} and name != "environ"
    ]
    if str(file) == "steward/cli.py":
        handed = [call for call in _calls(file) if any(_name(arg) == "os.environ" for arg in _arguments(call))]
        assert len(handed) == len(reads), "cli hands the environment to whoever reads it, and looks into it nowhere"
    else:
        assert not reads


def _arguments(call: ast.Call) -> list[ast.expr]:
    return [*call.args, *(keyword.value for keyword in call.keywords)]


@pytest.mark.parametrize("file", SOURCES, ids=NAMES)
def test_vendors_are_imported_when_first_used(file: Path) -> None:
    at_import = [
        name
        for statement in _at_import(_tree(file))
        if isinstance(statement, ast.Import | ast.ImportFrom)
        for _, name in _imports(statement)
    ]
    assert not [name for name in at_import if name.split(".")[0] in VENDORS]


@pytest.mark.parametrize("file", SOURCES, ids=NAMES)
def test_only_wiring_imports_adapters(file: Path) -> None:
    imported = [name for _, name in _imports(_tree(file)) if name.startswith("steward.adapters")]
    if file.parts[:2] == ("steward", "adapters"):
        family = file.stem.split("_")[0]
        assert not [name for name in imported if not name.startswith(f"steward.adapters.{family}")], (
            "adapters never import each other"
        )
    elif str(file) == "steward/wiring.py":
        at_import = [statement for statement in _at_import(_tree(file)) if isinstance(statement, ast.ImportFrom)]
        assert not [each.module for each in at_import if (each.module or "").startswith("steward.adapters")], (
            "each inside its branch"
        )
    elif str(file) == "steward/demo.py":
        assert set(imported) <= {"steward.adapters.postgres_local"}
    elif str(file) == "migrations/__init__.py":
        assert all(name.startswith("steward.adapters.postgres_") for name in imported)
    else:
        assert not imported


@pytest.mark.parametrize("file", SOURCES, ids=NAMES)
def test_the_words_of_an_error_go_nowhere(file: Path) -> None:
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.keyword) and node.arg in {"exc_info", "stack_info"}:
            pytest.fail(f"{file}:{node.lineno} {node.arg}")
        if isinstance(node, ast.Call) and re.fullmatch(
            r"(?:log|logger|logging|_log|_logger)\.exception", _name(node.func)
        ):
            pytest.fail(f"{file}:{node.lineno} .exception(")
        if isinstance(node, ast.ExceptHandler) and node.name:
            _assert_not_worded(file, node)


def _assert_not_worded(file: Path, handler: ast.ExceptHandler) -> None:
    """Neither str(), repr(), format nor an f-string of a caught exception."""
    for node in ast.walk(handler):
        worded = []
        if isinstance(node, ast.Call) and _name(node.func) in {"str", "repr", "format", "print"}:
            worded = [arg for arg in node.args if _name(arg) == handler.name]
        if isinstance(node, ast.FormattedValue):
            worded = [node.value] if _name(node.value) == handler.name else []
        assert not worded, f"{file}:{node.lineno} says the words of {handler.name}"


@pytest.mark.parametrize("file", SOURCES, ids=NAMES)
def test_whoever_catches_everything_says_or_keeps_it(file: Path) -> None:
    for node in ast.walk(_tree(file)):
        if not isinstance(node, ast.ExceptHandler):
            continue
        assert node.type is not None, f"{file}:{node.lineno} a bare except"
        kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        if BLIND & {_name(kind) for kind in kinds}:
            raises = any(isinstance(each, ast.Raise) for each in ast.walk(node))
            used = node.name is not None and any(
                _name(each) == node.name for stmt in node.body for each in ast.walk(stmt)
            )
            assert raises or used, f"{file}:{node.lineno} swallows everything"


@pytest.mark.parametrize("file", SOURCES, ids=NAMES)
def test_a_line_of_the_log_is_a_literal_event_with_declared_fields(file: Path) -> None:
    for call in _calls(file):
        if _name(call.func) in {"log.say", "log.error"} and str(file) != "steward/log.py":
            words = _literals(file, call.args[0])
            assert words, f"{file}:{call.lineno} an event is one of our own words"
            assert all(event_name(word) == word for word in words), f"{file}:{call.lineno}"
            names = {keyword.arg for keyword in call.keywords} - {"level", None}
            assert names <= set(DOMAINS), f"{file}:{call.lineno} {names - set(DOMAINS)}"
        logging_call = re.fullmatch(
            r"(?:logging|logger|_logger)\.(?:debug|info|warning|error|critical|log)", _name(call.func)
        )
        assert not logging_call, f"{file}:{call.lineno} words go through steward.log"


def _literals(file: Path, node: ast.expr) -> list[str]:
    """What a string expression may be, as far as it is literals, choices between them and names for such."""
    if isinstance(node, ast.Constant):
        return [str(node.value)]
    if isinstance(node, ast.IfExp):
        return [word for branch in (node.body, node.orelse) for word in _literals(file, branch)]
    if isinstance(node, ast.Name):
        given = [
            each.value
            for each in ast.walk(_tree(file))
            if isinstance(each, ast.Assign) and _name(each.targets[0]) == node.id
        ]
        return [word for value in given for word in _literals(file, value)]
    return []


@pytest.mark.parametrize("file", SOURCES, ids=NAMES)
def test_module_level_names_are_constants(file: Path) -> None:
    if file.parts[0] == "migrations":
        return
    for statement in _at_import(_tree(file)):
        value = getattr(statement, "value", None)
        if isinstance(statement, ast.Assign | ast.AnnAssign) and isinstance(value, ast.Call):
            assert _name(value.func) not in {
                "list",
                "dict",
                "set",
                "deque",
                "defaultdict",
                "Lock",
                "threading.Lock",
            }, f"{file}:{statement.lineno}"
        if isinstance(statement, ast.Assign | ast.AnnAssign) and isinstance(value, ast.List | ast.Dict | ast.Set):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            names = [_name(target) for target in targets]
            assert all(re.fullmatch(r"_?[A-Z][A-Z0-9_]*|__all__", name) or _is_alias(value) for name in names), (
                f"{file}:{statement.lineno} {names}"
            )
    assert not [node for node in ast.walk(_tree(file)) if isinstance(node, ast.Global)]


def _is_alias(value: ast.expr) -> bool:
    return isinstance(value, ast.Subscript)


@pytest.mark.parametrize("file", SOURCES, ids=NAMES)
def test_a_module_opens_with_what_it_does(file: Path) -> None:
    assert ast.get_docstring(_tree(file)), file


@pytest.mark.parametrize("file", SOURCES, ids=NAMES)
def test_files_and_functions_stay_readable(file: Path) -> None:
    assert not {"utils", "helpers", "common", "base", "manager"} & {part.removesuffix(".py") for part in file.parts}
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno
            assert length <= 60, f"{file}:{node.lineno} {node.name} has {length} lines"


@pytest.mark.parametrize("file", [*SOURCES, *TESTS], ids=str)
def test_nothing_is_left_for_later(file: Path) -> None:
    marks = "|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX", "HA" + "CK"))
    assert not re.search(rf"\b(?:{marks})\b", (ROOT / file).read_text())


@pytest.mark.parametrize("file", TESTS, ids=str)
def test_tests_patch_nothing_and_hope_for_nothing(file: Path) -> None:
    assert not [name for _, name in _imports(_tree(file)) if name.startswith("unittest.mock")]
    for call in _calls(file):
        name = _name(call.func)
        assert not re.fullmatch(
            r"(?:mock\.)?patch(?:\.\w+)?|monkeypatch\.(?:setattr|setitem|delattr)|\w*MagicMock", name
        ), f"{file}:{call.lineno}"
        if name in {"time.sleep", "sleep", "asyncio.sleep", "anyio.sleep"} and call.args:
            waits = call.args[0]
            assert isinstance(waits, ast.Constant) and waits.value == 0, (
                f"{file}:{call.lineno} waits for a time, not for a condition"
            )


@pytest.mark.parametrize("file", TESTS, ids=str)
def test_a_test_asserts_something(file: Path) -> None:
    checkers = _checkers(file)
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            assert _checks(node, checkers), f"{file}:{node.lineno} {node.name} cannot fail"


def _checks(node: ast.AST, checkers: frozenset[str]) -> bool:
    for each in ast.walk(node):
        if isinstance(each, ast.Assert | ast.Raise):
            return True
        if isinstance(each, ast.Call):
            name = _name(each.func)
            if name.startswith("pytest.") or "assert" in name or name.split(".")[-1] in checkers:
                return True
    return False


def _checkers(file: Path) -> frozenset[str]:
    """Functions, here or imported from tests, that check something themselves or by one that does."""
    functions = [
        node
        for each in (file, *_imported_tests(file))
        for node in ast.walk(_tree(each))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    known: frozenset[str] = frozenset()
    while True:
        found = known | {node.name for node in functions if _checks(node, known)}
        if found == known:
            return known
        known = found


def _imported_tests(file: Path) -> list[Path]:
    modules = [name for _, name in _imports(_tree(file)) if name.startswith("tests")]
    paths = [Path(*name.split(".")).with_suffix(".py") for name in modules]
    return [path for path in paths if (ROOT / path).is_file()]


def test_no_file_names_a_registry_or_this_machine() -> None:
    hosts = "|".join(
        (r"py" + r"pi\.", "python" + "hosted", r"np" + r"mjs\.", "/ro" + "ot/", "/ho" + "me/[a-z]", "/o" + "pt/")
    )
    found = []
    for file in _tracked():
        text = file.read_bytes().decode("utf-8", "replace")
        found += [f"{file.relative_to(ROOT)}: {match[0]}" for match in re.finditer(hosts, text)]
    assert not found


def _tracked() -> list[Path]:
    """Every file of the project, environments and caches aside."""
    apart = {".git", ".venv", ".demo", "build", "dist", "__pycache__"}
    files = [file for file in ROOT.rglob("*") if file.is_file() and not apart & set(file.relative_to(ROOT).parts)]
    return [
        file
        for file in files
        if not any(part.endswith(("_cache", ".egg-info")) or part == ".hypothesis" for part in file.parts)
    ]


def test_nothing_else_stands_at_the_root() -> None:
    given = {"pyproject.toml", "steward", "handlers", "infra", "migrations", "tests", "Dockerfile", "template.yaml"}
    usual = {"README.md", "CHANGELOG.md", "LICENSE", "SECURITY.md", "Makefile", "build", "dist"}
    assert {path.name for path in ROOT.iterdir() if not path.name.startswith(".")} <= given | usual


def test_importing_the_product_connects_to_nothing_and_imports_no_vendor() -> None:
    program = (
        "import sys\n"
        "def guard(event, args):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo', 'subprocess.Popen'): raise SystemExit(event)\n"
        "sys.addaudithook(guard)\n"
        "import steward.app, steward.cli, handlers.container\n"
        f"found = {sorted(VENDORS)!r}\n"
        "print([name for name in found if name in sys.modules and name != 'google'])\n"
    )
    import subprocess

    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (ran.returncode, ran.stdout.strip()) == (0, "[]"), ran.stderr


def test_no_dependency_runs_code_at_start_by_a_pth_file() -> None:
    pinned = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "infra/requirements/runtime.txt").read_text(), re.MULTILINE))
    running = []
    for distribution in distributions():
        if re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower() in pinned:
            running += [str(file) for file in distribution.files or [] if file.name.endswith(".pth")]
    assert pinned
    assert not running
