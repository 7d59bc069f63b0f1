"""AWS's own emulator: that a function of the real runtime client runs in it, and what it enforces."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.lambda_rie import Emulator

ENVIRON = {"PATH": os.environ["PATH"]}


@pytest.fixture(scope="module")
def trivial(lambda_emulator: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """The trivial function with an extension of its own process."""
    environ = ENVIRON | {"EXTENDS": "1"}
    folder = tmp_path_factory.mktemp("emulator")
    with Emulator(lambda_emulator, "tests.hosts.trivial.handler", environ, folder, timeout_s=3) as made:
        yield made


def test_it_hands_over_events_and_gives_the_answer(trivial: Emulator) -> None:
    assert trivial.invoke({"do": "nothing"})["event"] == {"do": "nothing"}
    assert trivial.invoke({"do": "fail"})["errorType"] == "ValueError"
    assert trivial.left() == []


def test_it_keeps_the_rules_that_our_stand_in_keeps(trivial: Emulator) -> None:
    """Registering after Init and SHUTDOWN for an extension of the runtime's own process: both in AWS's own words."""
    late, _, shutdown, _ = trivial.invoke({"do": "register"})
    assert (late, shutdown) == (403, 403)


def test_it_refuses_an_answer_over_six_megabytes(trivial: Emulator) -> None:
    answered = trivial.post({"do": "large", "size": 7_000_000})
    assert b"ResponseSizeTooLarge" in answered.body


def test_it_ends_a_function_whose_time_is_up_and_starts_another(trivial: Emulator) -> None:
    answered = trivial.post({"do": "hang"})
    assert b"timed out" in answered.body
    assert trivial.invoke({"do": "nothing"})["event"] == {"do": "nothing"}
