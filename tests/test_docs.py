"""What is written for people is true: settings, commands, error codes, tests that are named as proofs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from steward import errors
from steward.setting_table import TABLE, Setting

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SECURITY = (ROOT / "SECURITY.md").read_text()
PAGES = [ROOT / name for name in ("README.md", "SECURITY.md", "CHANGELOG.md", "infra/README.md")]


def line(setting: Setting) -> str:
    """A setting's line in the README, as it must stand there."""
    default = f"`{setting.unset}`" if setting.unset else ("needed by " + setting.required if setting.required else "")
    twin = " + `_FILE`" if setting.secret else ""
    return f"| `{setting.name}`{twin} | {default} | {setting.unit} | {setting.says} |"


@pytest.mark.parametrize("setting", TABLE, ids=lambda setting: setting.name)
def test_a_setting_has_its_line_with_default_and_unit(setting: Setting) -> None:
    assert line(setting) in README.splitlines()


def test_the_readme_names_no_setting_that_does_not_exist() -> None:
    table = README[README.index("## Settings") : README.index("## What leaves")]
    named = re.findall(r"^\| `([A-Z0-9_]+)`", table, re.MULTILINE)
    assert named == [setting.name for setting in TABLE]


def test_the_error_codes_of_the_readme_are_ours() -> None:
    codes = {
        kind.code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.StewardError)
    }
    trouble = README[README.index("## When something is wrong") :]
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", trouble[: trouble.index("## Develop")]))
    named -= {"body_lost", "body_state", "rows_lost", "settler_died", "stream_options"}
    named -= {"task_failed", "row_not_exported"}
    assert named
    assert named <= codes


def test_every_command_of_the_readme_is_one() -> None:
    block = README[README.index("## Commands") :].split("```")[1]
    commands = [words for line in block.strip().splitlines() if (words := re.split(r"\s{2,}", line)[0].split())]
    assert len(commands) >= 8
    for words in commands:
        plain = [word for word in words[1:] if word.islower() and not word.startswith("-") and word != "checkout"]
        ran = _steward(*plain, "--help")
        assert ran.returncode == 0, words
        for option in (word for word in words if word.startswith("--")):
            assert option in ran.stdout, words


def test_help_shows_examples() -> None:
    for words in ((), ("keys",), ("spool",), ("serve",)):
        assert "example" in _steward(*words, "--help").stdout


@cache
def _steward(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "steward", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def test_python_in_the_readme_compiles() -> None:
    snippets = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(snippets) == 3
    for snippet in snippets:
        assert "X-Majordomo-Key" in snippet
        assert compile(snippet, "README.md", "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"`((?:steward|handlers|migrations|tests|infra)/[\w./-]+\.(?:py|txt|md))", page.read_text())
    assert not [name for name in named if not (ROOT / name).exists()]


def test_the_readme_takes_five_minutes() -> None:
    prose = re.sub(r"```.*?```|^\|.*$", "", README, flags=re.DOTALL | re.MULTILINE)
    assert len(prose.split()) < 1200


def test_every_proof_that_security_names_is_a_test() -> None:
    rows = re.findall(r"^\| (F\d+) .*$", SECURITY, re.MULTILINE)
    assert {f"F{number}" for number in (3, 4, 7, 8, 9, 10, 11, 13, 14, 15, 16, 18, 21, 23)} <= set(rows)
    proofs = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", SECURITY)
    missing = [f"{file}::{name}" for file, name in proofs if name not in _tests(ROOT / file)]
    assert not missing


def test_every_row_of_security_has_a_proof() -> None:
    rows = [row for row in SECURITY.splitlines() if re.match(r"\| F\d+ ", row)]  # noqa: TID251 - a prefix is meant
    assert rows
    for row in rows:
        assert re.search(r"`tests/[\w/]+\.py::\w+`", row), row


@cache
def _tests(file: Path) -> frozenset[str]:
    if not file.is_file():
        return frozenset()
    tree = ast.parse(file.read_text())
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(node.name for node in functions if node.name.startswith("test_"))
