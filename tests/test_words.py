"""Masks: every way to describe a secret or content gives the mask, and only `reveal` the value."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import dataclass
from string import Template

import orjson
import pytest

from steward.words import Content, Secret

CANARY = "CANARY-secret"
MASKED = [Secret(CANARY), Secret(CANARY.encode()), Content(CANARY), Content(CANARY.encode())]


@dataclass(frozen=True, slots=True)
class Noun:
    key: object


@pytest.mark.parametrize("masked", MASKED, ids=lambda masked: type(masked).__name__)
def test_every_description_is_the_mask(masked: Secret[str]) -> None:
    described = [
        *(repr(masked), str(masked), f"{masked}", f"{masked!r}", f"{masked:>40}", "%s" % masked, "%r" % masked),  # noqa: UP031
        *("{}".format(masked), Template("$x").substitute(x=masked), repr([masked]), repr({"k": masked})),  # noqa: UP032
        repr(Noun(masked)),
    ]
    assert not [text for text in described if "CANARY" in text]
    assert all(masked.MASK in text for text in described)


@pytest.mark.parametrize("masked", MASKED, ids=lambda masked: type(masked).__name__)
def test_no_serialiser_takes_it(masked: Secret[str]) -> None:
    for serialise in (json.dumps, orjson.dumps, pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError) as caught:
            serialise(masked)
        assert "CANARY" not in str(caught.value)


@pytest.mark.parametrize("masked", MASKED, ids=lambda masked: type(masked).__name__)
def test_reveal_is_the_only_way_to_the_value(masked: Secret[str]) -> None:
    assert masked.reveal() in (CANARY, CANARY.encode())
    assert not hasattr(masked, "__dict__")
    assert bool(masked)
    with pytest.raises(TypeError):
        "".join([masked])  # type: ignore[list-item]


def test_equality_is_of_values_and_never_with_the_bare_value() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") == Secret(b"a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert Secret("\udcff") == Secret("\udcff")
    assert hash(Secret("a")) == hash(Secret("a"))


def test_an_empty_one_is_false_and_content_has_a_length() -> None:
    assert not Secret("")
    assert not Content(b"")
    assert len(Content(b"abc")) == 3
