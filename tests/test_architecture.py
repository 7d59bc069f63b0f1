"""The house keeps its shape: who imports whom, what stands where, and what no file may do.

The direction of imports itself is a contract of import-linter, in pyproject.toml; here it is checked to be complete.
Each test looks at every file and names all that break its rule.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

from steward.log_fields import DOMAINS, event_name

ROOT = Path(__file__).parents[1]
PACKAGES = ("steward", "handlers", "migrations")
SOURCES = sorted(file.relative_to(ROOT) for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
TESTS = sorted(file.relative_to(ROOT) for file in (ROOT / "tests").rglob("*.py"))

SANS_IO = (
    *("exchange", "detect", "meter", "price", "pricebook", "pricelist", "pricemoves", "pricenames", "rates"),
    *("domains", "egress", "ingress"),
    *("body_reading", "conversation", "streamed_answer", "view_values", "queue_values"),
    *("body_object", "codec", "destination", "errors", "ports", "rewrite", "log_fields", "words"),
)
SANS_IO_PACKAGES = ("wire", "providers")
OUTSIDE = frozenset(
    {
        *("asyncio", "boto3", "botocore", "concurrent", "google", "http", "httpx", "httpx2", "pg8000", "requests"),
        *("select", "selectors", "signal", "socket", "socketserver", "sqlalchemy", "ssl", "subprocess", "threading"),
        *("urllib3", "uvicorn", "uvloop", "time", "random", "secrets", "multiprocessing"),
    }
)
"""Network, clock, chance and the machine."""

CLOCKS = frozenset({"datetime.now", "datetime.utcnow", "date.today", "os.urandom", "uuid4", "uuid.uuid4"})
VENDORS = frozenset({"boto3", "botocore", "google", "s3transfer"})
BLIND = frozenset({"Exception", "BaseException"})
MUTABLE = frozenset({"list", "dict", "set", "deque", "defaultdict", "Lock", "threading.Lock"})
FORBIDDEN_NAMES = frozenset({"utils", "helpers", "common", "base", "manager"})
LONGEST_FUNCTION = 60
HAND_ON = frozenset(
    {"steward/cli.py", "handlers/aws_lambda.py", "handlers/aws_lambda_stream.py", "handlers/cloud_function.py"}
)
"""Where a process begins, and its environment is handed to whoever reads it."""

MIRRORED_ELSEWHERE = {
    "steward/__main__.py": "run as a program by tests/test_docs.py and tests/test_packaging.py",
    "steward/version.py": "tests/test_packaging.py compares it with the wheel's",
}
"""Files without a test of their own name, and who tests them."""

PORTS = re.compile(r"steward/(?:forward|adapters/(?:files|gcs|httpx_upstream|inline|memory\w*|postgres_\w+|s3))\.py")
"""What implements a port may be tested by the port's suite in tests/contracts, once for all."""


@cache
def _text(file: Path) -> str:
    return (ROOT / file).read_text()


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(_text(file))


@cache
def _nodes(file: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(_tree(file)))


@cache
def _functions(file: Path) -> tuple[ast.FunctionDef | ast.AsyncFunctionDef, ...]:
    return tuple(node for node in _nodes(file) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def _calls(file: Path) -> Iterator[ast.Call]:
    return (node for node in _nodes(file) if isinstance(node, ast.Call))


def _imports(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """The module of every absolute import among the nodes."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def _at_import(file: Path) -> Iterator[ast.stmt]:
    """Statements that run when the module is imported, without those that only a type checker sees."""
    waiting: list[ast.stmt] = list(_tree(file).body)
    while waiting:
        statement = waiting.pop()
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.dump(statement.test):
            waiting += statement.orelse
        elif isinstance(statement, ast.If | ast.Try | ast.With | ast.For | ast.While):
            waiting += [child for child in ast.iter_child_nodes(statement) if isinstance(child, ast.stmt)]
        else:
            yield statement


def _name(node: ast.AST) -> str:
    """A dotted name, as written; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (before := _name(node.value)):
        return f"{before}.{node.attr}"
    return ""


def _at(file: Path, node: ast.AST, what: str = "") -> str:
    return f"{file}:{getattr(node, 'lineno', 0)} {what}".rstrip()


def test_every_module_stands_in_the_contract_of_imports() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = {one["name"]: one for one in config["tool"]["importlinter"]["contracts"]}
    contract = contracts["the direction of imports"]
    placed = {name.strip(" ()") for layer in contract["layers"] for name in layer.split("|")}
    ours = [file for file in SOURCES if file.parts[0] == "steward" and str(file) != "steward/__init__.py"]
    top = {".".join(file.with_suffix("").parts[:2]) for file in ours}
    assert top <= placed, "a new module needs its place in pyproject.toml's layers"


def test_every_file_has_its_test() -> None:
    missing = []
    for file in SOURCES:
        if str(file) in MIRRORED_ELSEWHERE or file.name == "__init__.py" or file.parts[0] == "migrations":
            continue
        if PORTS.fullmatch(str(file)) and _named_in_contracts(file):
            continue
        inside = file.relative_to("steward") if file.parts[0] == "steward" else file
        twin = Path("tests") / inside.parent / f"test_{file.name}"
        if not (ROOT / twin).is_file() or not [each for each in _functions(twin) if each.name.startswith("test_")]:
            missing.append(f"{file}: {twin}")
    assert not missing


@cache
def _contract_texts() -> str:
    suites = [*(ROOT / "tests" / "contracts").glob("*.py"), *(ROOT / "tests" / "servers").glob("*.py")]
    return "\n".join(suite.read_text() for suite in suites)


def _named_in_contracts(file: Path) -> bool:
    return ".".join(file.with_suffix("").parts) in _contract_texts()


def _is_sans_io(file: Path) -> bool:
    parts = file.parts
    return parts[0] == "steward" and (parts[1] in SANS_IO_PACKAGES or (len(parts) == 2 and file.stem in SANS_IO))


def test_a_sans_io_file_imports_no_network_clock_or_chance() -> None:
    # `os` is used for fstat alone there; what would make it an environment is looked for below.
    files = [file for file in SOURCES if _is_sans_io(file)]
    outside = [f"{file}: {name}" for file in files for name in _imports(_nodes(file)) if name.split(".")[0] in OUTSIDE]
    clocks = [_at(file, call) for file in files for call in _calls(file) if _name(call.func) in CLOCKS]
    assert len(files) > 20
    assert not outside + clocks


def test_only_settings_reads_the_environment() -> None:
    reads = {"os.environ", "os.environb", "os.getenv"}
    for file in SOURCES:
        found = [node for node in _nodes(file) if isinstance(node, ast.Attribute) and _name(node) in reads]
        if str(file) in HAND_ON:
            handed = [arg for call in _calls(file) for arg in _arguments(call) if _name(arg) == "os.environ"]
            assert len(handed) == len(found), "it hands the environment to whoever reads it, and looks into it nowhere"
        else:
            assert not found, file
        assert "from os import" not in _text(file), file


def _arguments(call: ast.Call) -> list[ast.expr]:
    return [*call.args, *(keyword.value for keyword in call.keywords)]


def test_vendors_are_imported_when_first_used() -> None:
    early = [(file, name) for file in SOURCES for name in _imports(_at_import(file)) if name.split(".")[0] in VENDORS]
    assert not early


def test_only_wiring_imports_adapters_and_adapters_never_each_other() -> None:
    allowed = {
        "steward/demo_stage.py": "steward.adapters.postgres_",
        "migrations/__init__.py": "steward.adapters.postgres_",
        "steward/butler/database.py": "steward.adapters.postgres_connection",
        "steward/butler/wiring.py": "steward.adapters.postgres_connection",
    }
    wrong = []
    for file in SOURCES:
        imported = [name for name in _imports(_nodes(file)) if name.startswith("steward.adapters")]
        if file.parts[:2] == ("steward", "adapters"):
            family = f"steward.adapters.{file.stem.split('_')[0]}"
            wrong += [f"{file}: {name}" for name in imported if not name.startswith(family)]
        elif file.parts[:2] == ("steward", "wiring"):
            early = [name for name in _imports(_at_import(file)) if name.startswith("steward.adapters")]
            wrong += [f"{file}: {name} outside its branch" for name in early]
        else:
            wrong += [f"{file}: {name}" for name in imported if not name.startswith(allowed.get(str(file), "nowhere"))]
    assert not wrong


def test_the_words_of_an_error_go_nowhere() -> None:
    worded = []
    for file in SOURCES:
        for node in _nodes(file):
            if isinstance(node, ast.keyword) and node.arg in {"exc_info", "stack_info"}:
                worded.append(_at(file, node.value, node.arg))
            if isinstance(node, ast.Call) and re.fullmatch(r"_?(?:log|logger|logging)\.exception", _name(node.func)):
                worded.append(_at(file, node, ".exception("))
            if isinstance(node, ast.ExceptHandler) and node.name:
                worded += [_at(file, each, f"the words of {node.name}") for each in _worded(node)]
    assert not worded


def _worded(handler: ast.ExceptHandler) -> list[ast.AST]:
    """Where the caught exception becomes text: str(), repr(), format(), print() or an f-string of it."""
    found: list[ast.AST] = []
    for node in ast.walk(handler):
        if isinstance(node, ast.Call) and _name(node.func) in {"str", "repr", "format", "print"}:
            found += [arg for arg in node.args if _name(arg) == handler.name]
        if isinstance(node, ast.FormattedValue) and _name(node.value) == handler.name:
            found.append(node)
    return found


def test_whoever_catches_everything_says_or_keeps_it() -> None:
    swallowed = []
    for file in SOURCES:
        for node in _nodes(file):
            if not isinstance(node, ast.ExceptHandler):
                continue
            kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            blind = node.type is None or bool(BLIND & {_name(kind) for kind in kinds if kind is not None})
            inside = [each for statement in node.body for each in ast.walk(statement)]
            used = any(isinstance(each, ast.Raise) or (node.name and _name(each) == node.name) for each in inside)
            if blind and not used:
                swallowed.append(_at(file, node))
    assert not swallowed


def test_a_line_of_the_log_is_a_literal_event_with_declared_fields() -> None:
    wrong = []
    for file in SOURCES:
        for call in _calls(file):
            name = _name(call.func)
            if name in {"log.say", "log.error"}:
                words = _literals(file, call.args[0])
                fields = {keyword.arg for keyword in call.keywords} - {"level", None}
                if not words or any(event_name(word) != word for word in words) or not fields <= set(DOMAINS):
                    wrong.append(_at(file, call, name))
            elif re.fullmatch(r"_?(?:logging|logger)\.(?:debug|info|warning|error|critical|log)", name):
                wrong.append(_at(file, call, "words go through steward.log"))
    assert not wrong


def _literals(file: Path, node: ast.expr) -> list[str]:
    """What a string expression may be, as far as it is literals, choices between them and names for such."""
    if isinstance(node, ast.Constant):
        return [str(node.value)]
    if isinstance(node, ast.IfExp):
        return [word for branch in (node.body, node.orelse) for word in _literals(file, branch)]
    if isinstance(node, ast.Name):
        assigned = [each for each in _nodes(file) if isinstance(each, ast.Assign)]
        given = [each.value for each in assigned if _name(each.targets[0]) == node.id]
        return [word for value in given for word in _literals(file, value)]
    return []


def test_module_level_names_are_constants() -> None:
    wrong = []
    for file in SOURCES:
        if file.parts[0] == "migrations":
            continue  # Alembic's own form
        for statement in _at_import(file):
            if not isinstance(statement, ast.Assign | ast.AnnAssign):
                continue
            value = statement.value
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            if isinstance(value, ast.Call) and _name(value.func) in MUTABLE:
                wrong.append(_at(file, statement))
            if isinstance(value, ast.List | ast.Dict | ast.Set):
                constant = all(re.fullmatch(r"_?[A-Z][A-Z0-9_]*|__all__", _name(target)) for target in targets)
                wrong += [] if constant else [_at(file, statement)]
        wrong += [_at(file, node, "global") for node in _nodes(file) if isinstance(node, ast.Global)]
    assert not wrong


def test_files_and_functions_stay_readable() -> None:
    wrong = [f"{file}: says nothing of itself" for file in SOURCES if not ast.get_docstring(_tree(file))]
    for file in SOURCES:
        wrong += [f"{file}: its name" for part in file.parts if part.removesuffix(".py") in FORBIDDEN_NAMES]
        for each in _functions(file):
            if (each.end_lineno or each.lineno) - each.lineno > LONGEST_FUNCTION:
                wrong.append(_at(file, each, f"{each.name} is long"))
    assert not wrong


def test_nothing_is_left_for_later() -> None:
    marks = re.compile(rf"\b(?:{'|'.join(('TO' + 'DO', 'FIX' + 'ME', 'X' + 'XX', 'HA' + 'CK'))})\b")
    assert not [str(file) for file in (*SOURCES, *TESTS) if marks.search(_text(file))]


def test_tests_patch_nothing_and_hope_for_nothing() -> None:
    patches = re.compile(r"(?:mock\.)?patch(?:\.\w+)?|monkeypatch\.(?:setattr|setitem|delattr)|\w*MagicMock")
    wrong = [str(file) for file in TESTS if any(name.startswith("unittest.mock") for name in _imports(_nodes(file)))]
    for file in TESTS:
        for call in _calls(file):
            name = _name(call.func)
            if patches.fullmatch(name):
                wrong.append(_at(file, call, name))
            sleeps = name in {"time.sleep", "sleep", "asyncio.sleep", "anyio.sleep"} and bool(call.args)
            paced = file.parts[1] == "bench"  # whoever measures a stream has it come at a pace
            if sleeps and not paced and not (isinstance(call.args[0], ast.Constant) and call.args[0].value == 0):
                wrong.append(_at(file, call, "waits for a time, not for a condition"))
    assert not wrong


def test_a_test_asserts_something() -> None:
    checkers = _checkers()
    wrong = []
    for file in TESTS:
        tests = [each for each in _functions(file) if each.name.startswith("test_")]
        wrong += [_at(file, each, each.name) for each in tests if not _checks(each, checkers)]
    assert not wrong, "cannot fail"


def _checks(node: ast.AST, checkers: frozenset[str]) -> bool:
    for each in ast.walk(node):
        if isinstance(each, ast.Assert | ast.Raise):
            return True
        if isinstance(each, ast.Call):
            last = each.func.attr if isinstance(each.func, ast.Attribute) else _name(each.func)
            if _name(each.func).startswith("pytest.") or "assert" in last or last in checkers:
                return True
    return False


def _checkers() -> frozenset[str]:
    """Functions of the tests that check something themselves or by one that does."""
    functions = [each for file in TESTS for each in _functions(file) if not each.name.startswith("test_")]
    known: frozenset[str] = frozenset()
    while True:
        found = known | {each.name for each in functions if each.name not in known and _checks(each, known)}
        if found == known:
            return known
        known = found


def test_no_file_names_a_registry_or_this_machine() -> None:
    hosts = "|".join(
        (r"py" + r"pi\.", "python" + "hosted", r"np" + r"mjs\.", "/ro" + "ot/", "/ho" + "me/[a-z]", "/o" + "pt/")
    )
    found = []
    for file in _kept():
        text = file.read_bytes().decode("utf-8", "replace")
        found += [f"{file.relative_to(ROOT)}: {match[0]}" for match in re.finditer(hosts, text)]
    assert not found


def _kept() -> list[Path]:
    """Every file of the project, environments and caches aside."""
    apart = re.compile(r"\.git|\.venv|\.demo|\.hypothesis|build|dist|__pycache__|.*_cache|.*\.egg-info")
    top = [path for path in ROOT.iterdir() if not apart.fullmatch(path.name)]
    files = [file for path in top for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]
    return [file for file in files if not any(apart.fullmatch(part) for part in file.relative_to(ROOT).parts)]


def test_nothing_else_stands_at_the_root() -> None:
    given = {"pyproject.toml", "steward", "handlers", "infra", "migrations", "tests", "Dockerfile", "template.yaml"}
    usual = {"README.md", "CHANGELOG.md", "LICENSE", "SECURITY.md", "Makefile", "build", "dist"}
    assert {path.name for path in ROOT.iterdir() if not path.name.startswith(".")} <= given | usual


def test_butler_calls_nobody() -> None:
    """Its database apart, which the Steward's adapter dials: SECURITY says so."""
    clients = {"httpx", "http.client", "urllib.request", "smtplib", "ftplib", *VENDORS}
    files = [file for file in SOURCES if file.parts[:2] == ("steward", "butler")]
    assert len(files) > 40
    found = {(str(file), name) for file in files for name in _imports(_nodes(file))}
    assert not [each for each in found if any(each[1] == name or f"{name}." in f"{each[1]}." for name in clients)]
    assert {file for file, name in found if name.split(".")[0] == "socket"} == {"steward/butler/command.py"}


def test_importing_the_product_connects_to_nothing_and_imports_no_vendor() -> None:
    program = (
        "import sys\n"
        "def guard(event, args):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo', 'subprocess.Popen'): raise SystemExit(event)\n"
        "sys.addaudithook(guard)\n"
        "import steward.app, steward.cli, handlers.container\n"
        f"print([name for name in {sorted(VENDORS)!r} if name in sys.modules and name != 'google'])\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (ran.returncode, ran.stdout.strip()) == (0, "[]"), ran.stderr


def test_no_dependency_runs_code_at_start_by_a_pth_file() -> None:
    locked = (ROOT / "infra" / "requirements" / "runtime.txt").read_text()
    pinned = set(re.findall(r"^([a-z0-9-]+)==", locked, re.MULTILINE))
    running = []
    for distribution in distributions():
        if re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower() in pinned:
            running += [str(file) for file in distribution.files or [] if file.name.endswith(".pth")]
    assert pinned
    assert not running
