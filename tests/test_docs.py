"""What is written for people is true: settings, commands, error codes, tests that are named as proofs."""

from __future__ import annotations

import ast
import contextlib
import io
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from steward import errors
from steward.butler.settings import TABLE as BUTLER_TABLE
from steward.butler.settings import load as load_butler
from steward.cli import _parser as steward_parser
from steward.majordomo import _parser as majordomo_parser
from steward.setting_table import TABLE, Setting
from steward.settings import load

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SECURITY = (ROOT / "SECURITY.md").read_text()
COMPLIANCE = (ROOT / "infra" / "COMPLIANCE.md").read_text()
PAGES = [ROOT / name for name in ("README.md", "SECURITY.md", "CHANGELOG.md", "infra/README.md", "infra/COMPLIANCE.md")]
KEY = "0123456789abcdef" * 4
FINGERPRINT = "5f" * 32
ID = "0192f0c1-8a53-7c3e-9d1a-2b6f5a1c0d3e"
WRITTEN_FOR = {"FINGERPRINT": FINGERPRINT, "ID": ID, "ORG_ID": ID}
"""What a person puts in a word's place."""


def line(setting: Setting) -> str:
    """A setting's line in the README, as it must stand there."""
    default = f"`{setting.unset}`" if setting.unset else ("needed by " + setting.required if setting.required else "")
    twin = " + `_FILE`" if setting.secret else ""
    return f"| `{setting.name}`{twin} | {default} | {setting.unit} | {setting.says} |"


def chapter(title: str) -> str:
    """A chapter of the README, without its heading."""
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize("setting", TABLE, ids=lambda setting: setting.name)
def test_a_setting_has_its_line_with_default_and_unit(setting: Setting) -> None:
    assert line(setting) in README.splitlines()


def test_the_readme_names_no_setting_that_does_not_exist() -> None:
    assert _named_settings("Settings") == [setting.name for setting in TABLE]


@pytest.mark.parametrize("setting", BUTLER_TABLE, ids=lambda setting: setting.name)
def test_a_setting_of_butler_has_its_line_too(setting: Setting) -> None:
    assert line(setting) in chapter("Butler").splitlines()


def test_the_readme_names_no_setting_of_butler_that_does_not_exist() -> None:
    assert _named_settings("Butler") == [setting.name for setting in BUTLER_TABLE]


def _named_settings(title: str) -> list[str]:
    return re.findall(r"^\| `([A-Z0-9_]+)`", chapter(title), re.MULTILINE)


def test_the_error_codes_of_the_readme_are_ours() -> None:
    codes = {
        kind.code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.StewardError)
    }
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", chapter("When something is wrong")))
    named -= {"body_lost", "body_state", "rows_lost", "settler_died", "stream_options"}
    named -= {"task_failed", "row_not_exported"}
    assert named
    assert named <= codes


def test_every_command_of_the_readme_is_one() -> None:
    block = chapter("Commands").split("```")[1]
    commands = [words for line in block.strip().splitlines() if (words := re.split(r"\s{2,}", line)[0].split())]
    assert len(commands) >= 8
    for words in commands:
        plain = [word for word in words[1:] if word.islower() and not word.startswith("-") and word != "checkout"]
        told = _help(*plain)
        for option in (word for word in words if word.startswith("--")):
            assert option in told, words


def typed(text: str, program: str) -> list[list[str]]:
    """What follows `program` in lines of the text's code blocks, without settings before it and notes behind it."""
    blocks = re.findall(r"^```\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    lines = re.findall(rf"^(?:[A-Z_]+=\S+ +)*{program} (\S+(?: \S+)*)", "".join(blocks), re.MULTILINE)
    return [[WRITTEN_FOR.get(word, word) for word in shlex.split(each, comments=True)] for each in lines]


@pytest.mark.parametrize("words", typed(README, "steward"), ids=shlex.join)
def test_what_is_to_be_typed_is_what_the_command_takes(words: list[str]) -> None:
    assert callable(steward_parser().parse_args(words).run)


@pytest.mark.parametrize("words", typed(README, "majordomo"), ids=shlex.join)
def test_what_is_to_be_typed_for_butler_is_what_its_command_takes(words: list[str]) -> None:
    assert callable(majordomo_parser().parse_args(words).run)


def test_the_story_by_hand_names_each_of_its_commands_in_order() -> None:
    story = chapter("The whole story, by hand")
    assert [" ".join(words[:2]) for words in typed(story, "steward")] == [
        "migrate",
        "butler migrate",
        "butler create-admin",
        "butler serve",
        "register --token",
        "serve",
        "pending",
        f"approve {FINGERPRINT}",
        "storage check",
        "orgs",
        "view-token create",
    ]
    assert [" ".join(words[:2]) for words in typed(story, "majordomo")] == [
        "login --url",
        "stewards create",
        "keys create",
        "storage set",
        "usage --by",
    ]


def test_the_settings_of_the_story_fit_each_other_in_both_halves() -> None:
    (written,) = re.findall(r"^cat > \.env <<END\n(.*?)^END$", chapter("The whole story, by hand"), re.DOTALL | re.M)
    said = dict(each.split("=", 1) for each in written.splitlines())
    environ = {name: re.sub(r"\$\(openssl rand -hex 32\)", KEY, value) for name, value in said.items()}
    environ = {name: value.replace("$HOME", "/srv/you") for name, value in environ.items()}
    assert "$" not in "".join(environ.values())
    stewards, butlers = load(environ, None), load_butler(environ, None)
    assert set(environ) <= {setting.name for setting in (*TABLE, *BUTLER_TABLE)}
    assert (stewards.view_url, stewards.view_auth) == (butlers.steward_view_url, "token")
    assert f"--butler-url {butlers.public_url}\n" in chapter("The whole story, by hand")
    assert (stewards.warnings, butlers.warnings) == ((), ())


def test_the_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^(?:[A-Z]+=\S+ )?make ([a-z]+)", README, re.MULTILINE))
    assert targets == {"test", "demo", "lint", "faults", "bench"}
    assert targets <= set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_help_shows_examples() -> None:
    for words in ((), ("keys",), ("spool",), ("serve",)):
        assert "example" in _help(*words)


@cache
def _help(*words: str) -> str:
    """What a command says of itself, to somebody who gets 0 for it."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit) as ended:
        steward_parser().parse_args([*words, "--help"])
    assert ended.value.code == 0, words
    return said.getvalue()


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
    """As far as it is read; from "Nothing is lost" on it is looked up."""
    read = README[: README.index("\n## Nothing is lost\n")]
    prose = re.sub(r"^\|.*$", "", re.sub(r"```.*?```", "", read, flags=re.DOTALL), flags=re.MULTILINE)
    assert 600 < len(prose.split()) < 1200


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_chapters_that_are_linked_to_exist(page: Path) -> None:
    for file, anchor in re.findall(r"\]\(([\w/.]*)#([\w-]+)\)", page.read_text()):
        titles = re.findall(r"^#+ (.+)$", ((page.parent / file) if file else page).read_text(), re.MULTILINE)
        assert anchor in {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_proof_that_security_names_is_a_test() -> None:
    rows = re.findall(r"^\| (F\d+) .*$", SECURITY, re.MULTILINE)
    assert {f"F{number}" for number in range(1, 25)} - set(rows) == {"F6", "F17"}  # of what is not built yet
    assert rows == sorted(rows, key=lambda name: int(name[1:]))
    proofs = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", SECURITY)
    missing = [f"{file}::{name}" for file, name in proofs if name not in _tests(ROOT / file)]
    assert not missing


def test_every_answer_of_compliance_names_proofs_that_are_tests() -> None:
    rows = [
        row for row in COMPLIANCE.splitlines() if row[:1] == "|" and not re.fullmatch(r"\|(-.*|.*\| proof \|)", row)
    ]
    assert len(rows) > 25
    for row in rows:
        proofs = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
        assert proofs, row
        assert not [f"{file}::{name}" for file, name in proofs if name not in _tests(ROOT / file)]
        assert len(set(proofs)) == len(proofs), row


def test_no_row_of_security_stands_twice_nor_a_proof_in_one() -> None:
    rows = [row for row in SECURITY.splitlines() if "`tests/" in row and row[:1] == "|"]
    assert len({row.split("|")[1] for row in rows}) == len(rows)
    for row in rows:
        proofs = re.findall(r"`(tests/[^`]+)`", row)
        assert len(set(proofs)) == len(proofs), row


@pytest.mark.parametrize("title", ["What a compromised Butler can play", "Requirements and their proofs"])
def test_every_row_of_security_has_a_proof(title: str) -> None:
    section = SECURITY.split(f"\n## {title}\n")[1].split("\n## ")[0]
    rows = [row for row in section.splitlines() if row[:1] == "|"][2:]
    assert len(rows) > 10
    for row in rows:
        assert re.search(r"`tests/[\w/]+\.py::\w+`", row), row


@cache
def _tests(file: Path) -> frozenset[str]:
    if not file.is_file():
        return frozenset()
    tree = ast.parse(file.read_text())
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(node.name for node in functions if node.name.startswith("test_"))
