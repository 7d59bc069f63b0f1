"""`steward view-token create|list|revoke` and `view-audit`: who may open bodies, and what they opened.

It shows a token's plaintext once. Names of people are a provider's words: what would move a cursor is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import orjson

from steward import ingress
from steward.ports import ViewEntry, ViewToken
from steward.view_values import shown_organisation


def made(plaintext: str, token: ViewToken, view_url: str, as_json: bool) -> str:
    """A new token, with its plaintext, this once."""
    if as_json:
        return _json({"token": plaintext, "url": view_url, **_token(token)})
    return (
        f"token    {plaintext}\nid       {token.id}\nopens    {shown_organisation(token.org_id)}\n"
        f"expires  {token.expires_at:%Y-%m-%d %H:%M} UTC\n\n"
        f"Keep the token now: it is not shown again. Sign in with it at {view_url}\n"
    )


def listed(tokens: Sequence[ViewToken], as_json: bool) -> str:
    """All tokens."""
    if as_json:
        return _json([_token(each) for each in tokens])
    if not tokens:
        return "There are no view tokens. Make one: steward view-token create --org local --expires 8h\n"
    head = f"{'id':36}  {'opens':36}  {'expires (UTC)':16}  {'state':7}  name\n"
    return head + "".join(map(_line, tokens))


def revoked(token: ViewToken, as_json: bool) -> str:
    """A token that opens nothing any more."""
    if as_json:
        return _json(_token(token))
    return f"revoked {ingress.shown(token.name)} ({token.id}); every session that began with it has ended\n"


def noted(entries: Sequence[ViewEntry], as_json: bool) -> str:
    """The account of what was opened, newest first."""
    if as_json:
        return _json([_entry(each) for each in entries])
    if not entries:
        return "Nobody has signed in to the viewer yet.\n"
    return "".join(map(_note, entries))


def _token(each: ViewToken) -> dict[str, object]:
    return {
        "id": each.id,
        "org_id": each.org_id,
        "name": each.name,
        "created_at": each.created_at,
        "expires_at": each.expires_at,
        "revoked_at": each.revoked_at,
    }


def _entry(each: ViewEntry) -> dict[str, object]:
    return {
        "at": each.at,
        "act": each.act,
        "who": each.who,
        "peer": each.peer,
        "org_id": each.org_id,
        "request_id": each.request_id,
        "code": each.code,
        "session_id": each.session_id,
    }


def _line(each: ViewToken) -> str:
    state = "revoked" if each.revoked_at else "issued"
    opens = shown_organisation(each.org_id)
    name = ingress.shown(each.name)
    return f"{each.id!s:36}  {opens:36}  {each.expires_at:%Y-%m-%d %H:%M}  {state:7}  {name}\n"


def _note(each: ViewEntry) -> str:
    what = " ".join(str(part) for part in (each.act, each.code, each.request_id) if part)
    return f"{each.at:%Y-%m-%d %H:%M:%S}  {ingress.shown(each.who)}  from {ingress.shown(each.peer)}  {what}\n"


def _json(value: object) -> str:
    text = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z).decode()
    return "".join(each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text)
