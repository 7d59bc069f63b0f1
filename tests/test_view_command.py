"""`steward view-token` and `view-audit`: plaintexts once, strangers' words harmless."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

from steward.exchange import LOCAL_ORG
from steward.ports import ViewAct, ViewEntry, ViewToken
from steward.view_command import listed, made, noted, revoked
from tests.contracts.records import ORG

AT = datetime(2026, 11, 20, 8, tzinfo=UTC)
NASTY = "ada\x1b[2J\u202e\n"
TOKEN = ViewToken(UUID(int=1), ORG, NASTY, AT, AT.replace(hour=16))
ENTRY = ViewEntry(ViewAct.REFUSED, NASTY, "10.0.0.9", UUID(int=2), ORG, UUID(int=3), "no_such_call", AT)


def test_a_new_token_is_shown_once_with_where_to_use_it() -> None:
    text = made("mdm_vt_x", TOKEN, "https://view.example.com", False)
    assert "mdm_vt_x" in text and "https://view.example.com" in text and "2026-11-20 16:00" in text
    said = json.loads(made("mdm_vt_x", TOKEN, "https://view.example.com", True))
    assert (said["token"], said["org_id"], said["url"]) == ("mdm_vt_x", str(ORG), "https://view.example.com")
    assert "local" in made("mdm_vt_x", replace(TOKEN, org_id=LOCAL_ORG), "https://v", False)


def test_lists_tell_what_is_in_force() -> None:
    gone = replace(TOKEN, revoked_at=AT)
    lines = listed([TOKEN, gone], False).splitlines()
    assert len(lines) == 3
    assert "issued" in lines[1] and "revoked" in lines[2]
    assert "view-token create" in listed([], False)
    assert json.loads(listed([], True)) == []
    assert json.loads(revoked(gone, True))["revoked_at"] == "2026-11-20T08:00:00Z"


def test_the_account_tells_who_what_when_from_where() -> None:
    line = noted([ENTRY], False)
    for word in ("2026-11-20 08:00:00", "ada", "10.0.0.9", "refused", "no_such_call", str(UUID(int=3))):
        assert word in line
    (said,) = json.loads(noted([ENTRY], True))
    assert (said["act"], said["who"], said["code"]) == ("refused", NASTY, "no_such_call")
    assert json.loads(noted([], True)) == []
    assert "Nobody" in noted([], False)


def test_no_name_moves_the_cursor_or_turns_text_around() -> None:
    texts = [
        *(made("t", TOKEN, "u", as_json) for as_json in (False, True)),
        *(listed([TOKEN], as_json) for as_json in (False, True)),
        *(revoked(TOKEN, as_json) for as_json in (False, True)),
        *(noted([ENTRY], as_json) for as_json in (False, True)),
    ]
    assert all(each.isprintable() or each == "\n" for text in texts for each in text)
    assert len(noted([ENTRY], False).splitlines()) == 1
