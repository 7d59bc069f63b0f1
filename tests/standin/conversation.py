"""Speaks to the stand-in's pure part as an application would, and reads what came.

It refuses sockets: `test_app.py` has those.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qs

import orjson

from steward.standin.app import Heard, reply
from steward.standin.said import Reply

CREDENTIAL = {"authorization": "Bearer any"}


def ask(path: str, body: Any, headers: dict[str, str] | None = None, method: str = "POST") -> Reply:
    """One call with a credential, unless other headers are given."""
    plain, _, query = path.partition("?")
    octets = body if isinstance(body, bytes) else orjson.dumps(body)
    return reply(Heard(method, plain, parse_qs(query), CREDENTIAL if headers is None else headers, octets))


def document(said: Reply) -> Any:
    """The answer's one JSON document."""
    return orjson.loads(b"".join(said.pieces))


def events(said: Reply) -> list[Any]:
    """The documents of an SSE answer, `[DONE]` left out."""
    lines = re.split(rb"\r?\n", b"".join(said.pieces))
    data = [line.removeprefix(b"data: ") for line in lines if line.startswith(b"data: ")]
    return [orjson.loads(each) for each in data if each != b"[DONE]"]
