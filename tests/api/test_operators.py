"""Who is an operator: the bearer of the admin token, or whoever comes by the operators' door."""

from __future__ import annotations

import pytest
from fastapi import FastAPI, Request

from steward.api.operators import Doors, is_operator
from steward.words import Secret

TOKEN = "t" * 40


def asked(doors: Doors, *headers: tuple[bytes, bytes]) -> Request:
    app = FastAPI()
    app.state.doors = doors
    return Request({"type": "http", "headers": list(headers), "app": app})


@pytest.mark.parametrize(
    ("value", "opens"),
    [
        (f"Bearer {TOKEN}", True),
        (f"bearer {TOKEN}", True),
        (f"Bearer {TOKEN}x", False),
        (f"Bearer {TOKEN[:-1]}", False),
        (f"Basic {TOKEN}", False),
        (TOKEN, False),
        (f"Bearer{TOKEN}", False),
        (f"Bearer  {TOKEN}", False),
        (f"Bearer {TOKEN} {TOKEN}", False),
        (f"Bearer {TOKEN},{TOKEN}", False),
        (f"Bearer {TOKEN.upper()}", False),
        ("Bearer ***", False),
        ("Bearer ", False),
        ("Bearer mdm_sk_" + "a" * 40, False),
        ("", False),
    ],
)
def test_the_token_opens(value: str, opens: bool) -> None:
    assert is_operator(asked(Doors(Secret(TOKEN)), (b"authorization", value.encode()))) is opens


def test_octets_that_are_no_text_open_nothing() -> None:
    assert not is_operator(asked(Doors(Secret(TOKEN)), (b"authorization", b"Bearer \xff\xfe" + TOKEN.encode())))


def test_without_a_token_the_main_port_opens_for_nobody() -> None:
    closed = Doors(None)
    assert not is_operator(asked(closed, (b"authorization", b"Bearer ")))
    assert not is_operator(asked(closed, (b"authorization", b"Bearer None")))
    assert not is_operator(asked(closed))


def test_the_operators_port_opens_for_all_who_reach_it() -> None:
    assert is_operator(asked(Doors(None, open_to_all=True)))
