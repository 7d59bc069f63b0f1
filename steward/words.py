"""Masks what must never be read: the types that hold secrets and content.

Refuses to print them: `repr`, `str`, `format`, JSON and pickling of a `Secret` or a `Content` give a mask, so that a
log call, a traceback or a debugger's summary cannot become a second way out (SECURITY F4). Only `reveal()` gives the
value, and a search for that word finds every place that does.
"""

from __future__ import annotations

import hmac
from typing import Generic, NoReturn, Protocol, TypeVar

T = TypeVar("T", str, bytes)


class _Masked(Generic[T]):
    """A value with no way out but `reveal()`."""

    __slots__ = ("_value",)
    MASK = "***"
    _value: T

    def __init__(self, value: T) -> None:
        self._value = value

    def reveal(self) -> T:
        """The value itself. Call it where the value is used, never where it is described."""
        return self._value

    def __repr__(self) -> str:
        return self.MASK

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return self.MASK

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Masked):
            return NotImplemented
        mine, theirs = self._value, other._value
        left = mine.encode("utf-8", "surrogatepass") if isinstance(mine, str) else mine
        right = theirs.encode("utf-8", "surrogatepass") if isinstance(theirs, str) else theirs
        return hmac.compare_digest(left, right)

    def __hash__(self) -> int:
        return hash((type(self), self._value))

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} is not serialised; seal it, or write it where it belongs")


class Secret(_Masked[T]):
    """A key, a token, a password. Compared in constant time."""

    __slots__ = ()


class SignIn(Protocol):
    """What signs in where the password may change while the process lives. Safe for threads."""

    def __call__(self) -> Secret[str]:
        """What stands for the password now."""

    def refused(self, secret: Secret[str]) -> bool:
        """The other side refused it; whether there is another by now, which is worth one more try."""


class Content(_Masked[T]):
    """What a caller said or a provider answered. Never described, only stored."""

    __slots__ = ()
    MASK = "<content>"

    def __len__(self) -> int:
        return len(self._value)
