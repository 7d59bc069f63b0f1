"""The model a request asks for, in the places where the dialects put it.

It refuses to look at anything else of a request, and at more than 16 MiB of one.
"""

from __future__ import annotations

import re

from steward.providers.reading import Json, listed, mapping, model_name
from steward.wire import jsondoc

_MARKS = (b'name="model"', b"name=model")
_FIELD = re.compile(
    rb"content-disposition:[ \t]*form-data;[^\r\n]{0,64}\r?\n(?:[^\r\n]+\r?\n){0,8}\r?\n([^\r\n]{1,256})\r?\n",
    re.IGNORECASE,
)
"""RFC 7578: a part's head, and its value where that is one line."""
_LOOKS = 16
"""Files may hold the mark by chance, so the first find need not be the field."""


def asked_model(content_type: bytes, body: bytes) -> str | None:
    """The model that a decoded request body names; None when it names none, or is not of a known shape."""
    if content_type.lower().startswith(b"multipart/form-data"):
        return _form_model(body)
    if body[:64].lstrip()[:1] != b"{":
        return None
    return _named(mapping(jsondoc.parse(body)))


def _form_model(body: bytes) -> str | None:
    """The form field called `model`."""
    for mark in _MARKS:
        at = -1
        for _ in range(_LOOKS):
            if (at := body.find(mark, at + 1)) < 0:
                break
            found = _FIELD.match(body, body.rfind(b"\n", 0, at) + 1)
            if found is not None:
                return model_name(found[1].decode("utf-8", "replace").strip())
    return None


def _named(request: Json) -> str | None:
    direct = model_name(request.get("model"))
    if direct is not None:
        return direct
    counted = mapping(request.get("generateContentRequest"))
    batch = mapping(mapping(request.get("batch")).get("inputConfig")).get("requests")
    lists = (request.get("requests"), mapping(batch).get("requests"))
    firsts = [mapping(item) for value in lists for item in listed(value)[:1]]
    for inner in (counted, *firsts, *(mapping(first.get("request")) for first in firsts)):
        if (name := model_name(inner.get("model"))) is not None:
            return name
    return None
