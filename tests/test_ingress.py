"""What Butler says is read into closed types, or it is nonsense."""

from __future__ import annotations

from datetime import UTC, datetime
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


NOW = datetime(2026, 6, 1, tzinfo=UTC)
KEY: dict[str, Any] = {
    "id": str(ID),
    "key_hash": "ab" * 32,
    "name": "checkout",
    "is_active": True,
    "created_at": "2026-01-01T00:00:00Z",
    "updated_at": "2026-01-02T03:04:05.123456789+01:00",
}


def test_a_key_is_read() -> None:
    other = UUID("0192f0c1-8a53-7c3e-9d1a-2b6f5a1c0d3f")
    more = {
        "description": " the shop ",
        "user_id": str(other),
        "org_id": str(ID),
        "revoked_at": "2026-01-03T00:00:00Z",
        "deprecated_model_behavior": "warn",
        "what a later one says": [1],
    }
    said = ingress.api_keys([KEY, {**KEY, **more}], ID, NOW)
    plain, full = said.keys
    assert plain.updated_at == datetime(2026, 1, 2, 2, 4, 5, 123456, UTC)
    assert (plain.id, plain.key_hash, plain.name, plain.is_active) == (ID, "ab" * 32, "checkout", True)
    assert (plain.description, plain.user_id, plain.revoked_at) == (None, None, None)
    assert (full.description, full.user_id, full.deprecated_model_behavior) == ("the shop", other, "warn")
    assert full.revoked_at == datetime(2026, 1, 3, tzinfo=UTC)
    assert (said.size, said.skipped, said.seen, said.newest) == (2, 0, {ID}, plain.updated_at)


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "../../x"},
        {"id": None},
        {"key_hash": "mdm_sk_plaintext"},
        {"key_hash": "AB" * 32},
        {"key_hash": None},
        {"name": ""},
        {"name": " \n"},
        {"name": 7},
        {"is_active": 1},
        {"is_active": None},
        {"is_active": "true"},
        {"created_at": None},
        {"updated_at": "yesterday"},
        {"updated_at": "2026-01-01"},
        {"updated_at": "2026-01-01T00:00:00"},
        {"updated_at": "2026-13-01T00:00:00Z"},
        {"updated_at": "0001-01-01T00:00:00+23:59"},
        {"updated_at": 1767225600},
        {"user_id": "anna"},
        {"user_id": 7},
        {"org_id": "0192f0c1-8a53-7c3e-9d1a-2b6f5a1c0d3f"},
        {"org_id": "x"},
        {"org_id": 0},
        {"revoked_at": "never"},
        {"description": ["x"]},
        {"description": {"a": 1}},
    ],
    ids=lambda changes: f"{next(iter(changes))}-{next(iter(changes.values()))!s:.12}",
)
def test_a_row_that_is_not_understood_is_skipped_alone(changes: dict[str, Any]) -> None:
    said = ingress.api_keys([{**KEY, **changes}, KEY], ID, NOW)
    assert [key.name for key in said.keys] == ["checkout"]
    assert (said.size, said.skipped) == (2, 1)
    for row in (None, 7, "x", [], {}):
        assert ingress.api_keys([row, KEY], ID, NOW).skipped == 1


def test_names_are_cut_and_cleaned_and_behaviours_are_of_a_list() -> None:
    changes = {"name": "x\0" + "y" * 500, "description": "", "deprecated_model_behavior": "explode"}
    [key] = ingress.api_keys([{**KEY, **changes}], ID, NOW).keys
    assert key.name == "x\ufffd" + "y" * 198
    assert (key.description, key.deprecated_model_behavior) == (None, "passthrough")
    for empty in (None, "", "passthrough"):
        [key] = ingress.api_keys([{**KEY, "deprecated_model_behavior": empty}], ID, NOW).keys
        assert key.deprecated_model_behavior == "passthrough"


def test_a_date_of_the_future_leads_no_further() -> None:
    far = {**KEY, "updated_at": "9999-12-31T23:59:59Z"}
    said = ingress.api_keys([KEY, far], ID, NOW)
    assert len(said.keys) == 2
    assert said.newest == said.keys[0].updated_at
    assert ingress.api_keys([far], ID, NOW).newest is None
    assert ingress.api_keys([{**KEY, "updated_at": "9999-12-31T23:59:59-23:59"}], ID, NOW).skipped == 1


def test_a_row_that_is_garbled_is_still_there() -> None:
    said = ingress.api_keys([{**KEY, "name": 7}], ID, NOW)
    assert (said.keys, said.seen) == ((), {ID})
    assert said.newest is not None, "and its page leads on"


def test_work_is_read_each_item_once_and_what_is_not_understood_can_be_failed() -> None:
    jobs = [UUID(int=number) for number in range(1, 9)]
    kinds = ["sync_api_keys", "replay", "dig", None, 7, {"a": 1}]
    rows: list[Any] = [{"job_id": str(j), "job_type": k} for j, k in zip(jobs, kinds, strict=False)]
    rows.append({"job_id": str(jobs[6]), "job_type": "eval", "org_id": str(ID), "run_id": str(ID)})
    rows.append({"job_id": str(jobs[7]), "job_type": "eval", "org_id": str(jobs[0])})
    rows += [rows[0], {"job_id": "../x", "job_type": "eval"}, {"job_type": "eval"}, None, 7]
    said = ingress.work(rows, ID)
    assert [item.job_id for item in said.items] == jobs
    assert [item.kind for item in said.items] == ["sync_api_keys", "replay", None, None, None, None, "eval", None]
    assert said.size == len(rows)


def test_assignments_are_read() -> None:
    good = {"id": str(ID), "org_id": str(ID), "org_name": "Acme", "token": "mdm_st_" + "t" * 32}
    wrong: list[Any] = [{**good, "token": "mdm_sk_" + "t" * 32}, {**good, "id": "x"}, {**good, "org_id": None}, None, 7]
    found, skipped = ingress.managed_pending([*wrong, good, good])
    assert [(each.id, each.org_id, each.token.reveal()) for each in found] == [(ID, ID, good["token"])]
    assert skipped == 6
    assert "tttt" not in repr(found)


@pytest.mark.parametrize("said", [None, {}, "x", 7, {"items": []}, [{}] * 10_001])
def test_what_is_no_list_or_too_long_is_nonsense(said: object) -> None:
    for read in (
        lambda: ingress.api_keys(said, ID, NOW),
        lambda: ingress.work(said, ID),
        lambda: ingress.managed_pending(said),
    ):
        with pytest.raises(ButlerNonsense):
            read()


@given(json_values)
def test_any_row_is_read_or_skipped(document: object) -> None:
    rows: list[Any] = [document, *({**KEY, name: document} for name in KEY), {**KEY, "org_id": document}]
    rows += [{"job_id": str(ID), "job_type": document}, {"job_id": document, "job_type": "eval"}]
    said = ingress.api_keys(rows, ID, NOW)
    assert said.skipped == len(rows) - len(said.keys)
    assert all(key.updated_at.tzinfo is UTC and 1 <= len(key.name) <= 200 for key in said.keys)
    assert len(ingress.work(rows, ID).items) <= len(rows)
    assert ingress.managed_pending(rows)[1] == len(rows)
