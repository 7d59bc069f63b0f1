"""Everything that Butler may say, read into closed types: ids are UUIDs, texts bounded, and all else is nonsense.

It believes nothing: what is read here takes effect only where local settings, or a person
inside, allow. Pure.
"""

from __future__ import annotations

import re
from typing import Final
from uuid import UUID

from steward.domains import clean_text
from steward.errors import ButlerNonsense
from steward.ports import Identity

MAX_NAME: Final = 200
MAX_FIELDS: Final = 200
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NIL: Final = str(UUID(int=0))
_FIELD: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")


def identity(said: object) -> Identity:
    """The answer to `Me`. Raises ButlerNonsense."""
    if not isinstance(said, dict):
        raise ButlerNonsense
    name = said.get("org_name")
    if not isinstance(name, str) or not (named := clean_text(name, MAX_NAME).strip()):
        raise ButlerNonsense
    return Identity(_id(said.get("steward_id")), _id(said.get("org_id")), named, _fields(said.get("record_fields")))


def shown(text: str) -> str:
    """A text of Butler's for a terminal: what would move the cursor, colour or hide something is escaped (F20)."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text)


def _id(said: object) -> UUID:
    """Written as RFC 9562 writes it, and no other way. The nil id is that of whoever was never registered: ours."""
    if not isinstance(said, str) or not _UUID.fullmatch(said) or said == _NIL:
        raise ButlerNonsense
    return UUID(said)


def _fields(said: object) -> frozenset[str] | None:
    """Those that we know; a Butler that takes no id takes no record."""
    if said is None:
        return None
    if not isinstance(said, list) or len(said) > MAX_FIELDS or "id" not in said:
        raise ButlerNonsense
    return frozenset(each for each in said if isinstance(each, str) and _FIELD.fullmatch(each))
