"""What Butler refuses with: each with status, code and a sentence, all drawn, none with a value."""

from __future__ import annotations

import re

import pytest

from steward.butler import errors
from steward.butler.errors import DoorFault, NotAcceptable

TREE = [each for each in DoorFault.__subclasses__() if each.__module__ == "steward.butler.errors"]


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_each_is_drawn_with_its_status(kind: type[DoorFault]) -> None:
    assert re.search(rf"{kind.__name__} {kind.status}\b", str(errors.__doc__))
    assert re.fullmatch(r"[a-z_]+", kind.code)
    assert re.fullmatch(r"[ -~]+[.]", kind.message)


def test_codes_are_told_apart() -> None:
    assert len({kind.code for kind in TREE}) == len(TREE) == 10


def test_what_is_not_acceptable_names_its_place() -> None:
    fault = NotAcceptable("model", 3)
    assert (fault.field, fault.index, fault.message) == ("model", 3, NotAcceptable.message)
    assert NotAcceptable("x", message="Why.").message == "Why."
