"""The fields of a form: every one a line of bounded text, or a secret that is never shown again.

Refuses control characters, those that are not seen or turn the reading order, and what is too long; a fault names the
field and never its value. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from steward.butler.errors import NotAcceptable
from steward.words import Secret

_TEXT: Final = re.compile(r"[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]*")


class Form:
    """One form's fields; of a name that stands twice, the last."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        self._fields = dict(fields)

    def line(self, name: str, most: int = 256, label: str = "") -> str:
        """A line without spaces around it; empty when it is not there. Raises NotAcceptable."""
        said = self._fields.get(name, "").strip()
        if len(said) > most or not said.isprintable():
            raise NotAcceptable(name, message=f"{_spoken(name, label)} is too long, or has characters it cannot have.")
        return said

    def needed(self, name: str, most: int = 256, label: str = "") -> str:
        """The same, which must say something."""
        said = self.line(name, most, label)
        if not said:
            raise NotAcceptable(name, message=f"{_spoken(name, label)} is missing.")
        return said

    def secret(self, name: str, most: int = 1024) -> Secret[str] | None:
        """What is never shown again; None when it is empty. Lines may stand in it."""
        said = self._fields.get(name, "")
        if len(said) > most or _TEXT.fullmatch(said) is None:
            raise NotAcceptable(name, message=f"{_spoken(name, '')} is too long, or has characters it cannot have.")
        return Secret(said) if said else None

    def shown(self, *names: str) -> dict[str, str]:
        """What a form that failed shows again: these fields, as far as they are lines, and no other."""
        said = {name: self._fields.get(name, "")[:512] for name in names}
        return {name: value if value.isprintable() else "" for name, value in said.items()}


def _spoken(name: str, label: str) -> str:
    return label or name.replace("_", " ").capitalize()
