"""What Butler says is read into closed types, or it is nonsense."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steward import ingress
from steward.errors import ButlerNonsense
from steward.ports import Identity

ID = UUID("0192f0c1-8a53-7c3e-9d1a-2b6f5a1c0d3e")
WHO: dict[str, Any] = {"steward_id": str(ID), "org_id": str(ID), "org_name": "Acme"}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=50),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
    max_leaves=20,
)


def test_an_identity_is_read() -> None:
    assert ingress.identity(WHO) == Identity(ID, ID, "Acme")
    more = ingress.identity({**WHO, "record_fields": ["id", "revision", "id", 7, "A b"], "what a later one says": 1})
    assert more.record_fields == {"id", "revision"}


@pytest.mark.parametrize(
    "changes",
    [
        {"org_id": "../../x"},
        {"org_id": str(ID).upper() + " "},
        {"org_id": "{" + str(ID) + "}"},
        {"org_id": ID.hex},
        {"org_id": str(ID).upper()},
        {"org_id": "00000000-0000-0000-0000-000000000000"},
        {"org_id": 7},
        {"org_id": None},
        {"steward_id": ["x"]},
        {"org_name": ""},
        {"org_name": "  "},
        {"org_name": 5},
        {"org_name": None},
        {"record_fields": "id"},
        {"record_fields": ["model"]},
        {"record_fields": ["id"] * 201},
        {"record_fields": []},
    ],
    ids=lambda changes: f"{next(iter(changes))}-{next(iter(changes.values()))!s:.12}",
)
def test_what_is_of_another_type_is_nonsense(changes: dict[str, Any]) -> None:
    with pytest.raises(ButlerNonsense):
        ingress.identity({**WHO, **changes})


@given(json_values)
def test_any_document_is_an_identity_or_nonsense(document: object) -> None:
    for said in (document, {**WHO, "org_name": document}, {**WHO, "org_id": document}):
        try:
            found = ingress.identity(said)
        except ButlerNonsense:
            continue
        assert 1 <= len(found.org_name) <= ingress.MAX_NAME
        assert "\0" not in found.org_name
        found.org_name.encode()


def test_a_terminal_is_shown_no_command() -> None:
    assert ingress.shown("Müller & Söhne") == "Müller & Söhne"
    assert ingress.shown("\x1b[31mred\x07\u202eback\r\n") == "\\x1b[31mred\\x07\\u202eback\\r\\n"
