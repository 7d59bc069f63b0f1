"""Makes what goes to the provider of what came from the caller: the address, and nothing else that was not asked for.

It never lets a key of ours leave (SECURITY F10), never joins a URL from strings that a caller sent (its parts are
concatenated behind an origin that settings decided) and changes no octet of target, field or body.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import unquote_to_bytes

from steward.errors import LeakedKey
from steward.exchange import Origin, Outbound, Route
from steward.providers import DialectFacts
from steward.wire.headers import CallerHead
from steward.words import Secret

_OURS = re.compile(rb"mdm_(?:sk|pk|st)_")
_MAX_CREDENTIAL = 16_384
_RECENT = 256
"""Credentials whose hash is remembered: hashing one costs 4 us. They are in this process's memory all the while."""


def outbound(origin: Origin, method: bytes, route: Route, query: bytes, head: CallerHead) -> Outbound:
    """The request as the provider will see it."""
    target = origin.base_path + route.path
    if query:
        target = b"%b?%b" % (target, query)
    length = None if head.chunked else head.length or 0
    return Outbound(
        origin,
        method,
        target,
        head.end_to_end,
        length,
        head.expects_continue and head.has_body,
        head.length is not None,
        head.wire,
    )


def of_the_front(names: tuple[str, ...]) -> Callable[[bytes], bool] | None:
    """Whether a field is one of these (`*` at the end: any rest); None where there are none."""
    if not names:
        return None
    whole = frozenset(name.encode() for name in names if not name.endswith("*"))
    begin = tuple(name[:-1].encode() for name in names if name.endswith("*"))
    return lambda name: name in whole or name.startswith(begin)


def without(sent: Outbound, dropped: Callable[[bytes], bool]) -> Outbound:
    """The same request without these fields, which whoever stands before this process set."""
    left = [item for item in sent.headers if not dropped(item[0])]
    return sent if len(left) == len(sent.headers) else replace(sent, headers=left, lines=None)


def credential(head: CallerHead, query: bytes, facts: DialectFacts) -> bytes | None:
    """The provider credential of a call, for its keyed hash alone.

    Raises LeakedKey for a key of ours in any field that would go to the provider, or in the query.
    """
    if head.may_leak and any(_OURS.search(value) for _, value in head.end_to_end):
        raise LeakedKey
    found: bytes | None = None
    for name, value in head.credentials:
        if found is None and name in facts.credential_headers:
            found = value[7:] if value[:7].lower() == b"bearer " else value
    if query:
        if _OURS.search(unquote_to_bytes(query)):
            raise LeakedKey
        if found is None:
            found = _in_query(query, facts.credential_query)
    return found


def _in_query(query: bytes, names: tuple[bytes, ...]) -> bytes | None:
    for pair in query.split(b"&"):
        name, _, value = pair.partition(b"=")
        if name in names:
            return value
    return None


class KeyedHash:
    """HMAC-SHA-256 of provider credentials under one key: tells two apart and gives neither away."""

    def __init__(self, key: Secret[bytes]) -> None:
        # Set up once and copied: setting up costs more than hashing a key does.
        self._keyed = hmac.new(key.reveal(), digestmod="sha256")
        self._recent: dict[bytes, str] = {}

    def of(self, found: bytes | None) -> str | None:
        """64 hex digits, or None for no credential."""
        if not found:
            return None
        known = self._recent.get(found)
        if known is None:
            keyed = self._keyed.copy()
            keyed.update(found[:_MAX_CREDENTIAL])
            known = keyed.hexdigest()
            if len(self._recent) >= _RECENT:
                self._recent.clear()
            self._recent[found] = known
        return known
