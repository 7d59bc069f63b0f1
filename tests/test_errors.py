"""The error tree: drawn as it is, each with status, code, level and a sentence; and facts that hold no text."""

from __future__ import annotations

import json
import logging
import re

import pg8000.exceptions
import pytest
import sqlalchemy.exc

from steward import errors
from steward.errors import SettingError, StewardError, facts

CANARY = "CANARY row contents"


def _tree(kind: type[StewardError] = StewardError) -> list[type[StewardError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in _tree(child))]


TREE = [kind for kind in _tree() if kind.__module__ == "steward.errors"]


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_each_error_knows_its_status_code_level_and_sentence(kind: type[StewardError]) -> None:
    assert 400 <= kind.status <= 599
    assert re.fullmatch(r"[a-z][a-z0-9_]+", kind.code)
    assert kind.level in {logging.INFO, logging.WARNING, logging.ERROR}
    assert re.fullmatch(r"[ -~]+", kind.message)
    assert kind().message == str(kind()) == kind.message
    assert kind.__doc__


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_the_tree_is_drawn_in_the_docstring(kind: type[StewardError]) -> None:
    fault = any(base in errors.__doc__ for base in [each.__name__ for each in kind.__mro__[:-3]])  # type: ignore[operator]
    assert kind.__name__ in str(errors.__doc__) or fault


def test_what_asks_to_try_again_says_when() -> None:
    again = [kind for kind in TREE if "try again" in kind.message.lower() and kind.status == 503]
    assert again
    assert all(kind.retry_after_s for kind in again)


def test_an_outage_is_never_a_401() -> None:
    assert {kind.__name__ for kind in TREE if kind.status == 401} == {"MissingKey", "InvalidKey", "RevokedKey"}
    assert {kind.__name__ for kind in TREE if kind.status == 403} == {"ViewFault", "SignInRefused"}


def test_an_error_may_carry_another_sentence_of_ours() -> None:
    error = SettingError("PORT: not a whole number")
    assert (error.message, error.code) == ("PORT: not a whole number", "bad_setting")
    assert SettingError.message == "A setting is wrong."


def test_facts_are_class_code_and_frames() -> None:
    said = facts(_raised(json.JSONDecodeError(CANARY, CANARY, 0)))
    assert said["error"] == "JSONDecodeError"
    assert said["code"] == "foreign"
    assert [frame for frame in said["frames"] if re.fullmatch(r"tests/test_errors\.py:\d+ _raised", frame)]  # type: ignore[attr-defined]
    assert "CANARY" not in repr(said)


def test_facts_of_ours_carry_the_code_and_the_cause_its_class() -> None:
    error = errors.LedgerUnavailable()
    error.__cause__ = ValueError(CANARY)
    said = facts(error)
    assert (said["code"], said["cause"]) == ("ledger_unavailable", "ValueError")
    assert "CANARY" not in repr(said)


def test_a_database_error_gives_its_sqlstate_and_no_row() -> None:
    driver = pg8000.exceptions.DatabaseError({"C": "23514", "M": CANARY, "D": f"Failing row contains ({CANARY})"})
    wrapped = sqlalchemy.exc.IntegrityError(f"INSERT {CANARY}", {"body": CANARY}, driver)
    for error in (driver, wrapped):
        said = facts(error)
        assert said["sqlstate"] == "23514"
        assert "CANARY" not in repr(said)


@pytest.mark.parametrize("state", [CANARY, "2351\n", "235141", None, 23514, "ééééé"])
def test_what_is_no_sqlstate_is_not_said(state: object) -> None:
    assert "sqlstate" not in facts(pg8000.exceptions.DatabaseError({"C": state}))


def test_frames_are_bounded() -> None:
    def deeper(depth: int) -> None:
        if depth == 0:
            raise ValueError(CANARY)
        deeper(depth - 1)

    with pytest.raises(ValueError, match="CANARY") as caught:
        deeper(50)
    assert len(facts(caught.value)["frames"]) == errors.MAX_FRAMES  # type: ignore[arg-type]


def test_every_foreign_exception_is_foreign() -> None:
    for error in (
        SystemExit(CANARY),
        KeyboardInterrupt(),
        ExceptionGroup(CANARY, [ValueError(CANARY)]),
        UnicodeDecodeError("utf-8", b"CANARY", 0, 1, CANARY),
    ):
        said = facts(error)
        assert said["code"] == "foreign"
        assert "CANARY" not in repr(said)


def _raised(error: Exception) -> Exception:
    try:
        raise error
    except type(error) as caught:
        return caught
