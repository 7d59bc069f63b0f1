"""Every command that a page tells people to type is one of ours, with options that it has."""

from __future__ import annotations

import argparse
import re
import shlex
from importlib.resources import files

import pytest

from steward import cli, majordomo


def commands_told() -> set[str]:
    found: set[str] = set()
    for folder in ("templates", "pages"):
        for file in (files("steward.butler") / folder).iterdir():
            if file.name.endswith((".html", ".py")):
                text = file.read_text("utf-8")
                for quoted in re.findall(
                    r"<code>([^<{]*)</code>|parts\.command\(\"([^\"]*)\"\)|f\"(steward [^\"]*)\"", text
                ):
                    for line in "".join(quoted).split("\\n"):
                        if line.startswith(("steward ", "majordomo ")):
                            found.add(re.sub(r"\{[^}]*\}", "https://butler.example.com", line))
    return found


def understood(command: str) -> bool:
    """Whether the command's own parser takes it; options that it must have may be missing from a page's sentence."""
    name, *words = shlex.split(command)
    parser = {"steward": cli, "majordomo": majordomo}[name]._parser()
    for index, word in enumerate(words):
        choices = next((each.choices for each in parser._actions if isinstance(each, argparse._SubParsersAction)), None)
        if choices is None:
            return _takes(parser, words[index:])
        if word not in choices:
            return False
        parser = choices[word]
    return True


def _takes(parser: argparse.ArgumentParser, words: list[str]) -> bool:
    for action in parser._actions:
        action.required = False
        action.type = None if "FINGERPRINT" in words else action.type
    try:
        parser.parse_args(words)
    except SystemExit:
        return False
    return True


def test_there_are_some() -> None:
    told = commands_told()
    assert {"steward pending", "majordomo stewards create --name prod"} <= told
    assert not understood("steward provider-keys set --provider anthropic")
    assert not understood("steward keys mint")


@pytest.mark.parametrize("command", sorted(commands_told()))
def test_a_command_on_a_page_exists(command: str) -> None:
    assert understood(command)
