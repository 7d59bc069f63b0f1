"""How commands print what others chose the words of: nothing that moves a cursor, colours, hides or turns text around.

Pure. Control characters are escaped, in lines and in JSON alike (SECURITY F20).
"""

from __future__ import annotations

import json

import orjson


def as_json(value: object) -> str:
    """Indented JSON with a final newline."""
    text = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z).decode()
    # JSON need not escape what moves a terminal's cursor or turns its text around: we do.
    return "".join(each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text)
