"""Tells where a call goes and what it is, from method, path, query and headers alone (DESIGN section 9).

It refuses to guess: what no provider's table knows is an error that names the header to set, never a default.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from urllib.parse import unquote_to_bytes

from steward.errors import BadRequest, LeakedKey, UnknownProvider, UnknownRoute
from steward.exchange import Headers, Operation, Route
from steward.providers import OTHER_TEMPLATE, TABLES
from steward.providers.openai import SEGMENTS
from steward.providers.template import READS, Fit, PathTable

_BARE = frozenset(segment.encode() for segment in SEGMENTS.split())

_PLAIN_PATH = re.compile(rb"/(?!/)[!\"$->@-\[\]-~]*")
"""Starts with one slash; visible ASCII without `#`, `?` and backslash (F9)."""

_DOTS = re.compile(rb"(?:/|%2f|%5c)(?:\.|%2e){1,2}(?:[/;]|%2f|%5c|\Z)", re.IGNORECASE)
"""A dot segment, however it is written."""

_PLAIN_QUERY = re.compile(rb"[!\"$-~]*")

_OUR_KEY = re.compile(rb"mdm_(?:sk|pk|st)_")

_SECRET_WORDS = frozenset(
    b"organization organizations realtime oauth oauth2 authtokens apikeys adminapikeys serviceaccounts "
    b"credentials clientsecrets upload token tokens secrets sessions keys".split()
)
"""A path that fits no template is taken to hand out secrets when one of these, however joined, is among its segments
(F16)."""

_SEGMENT_ENDS = re.compile(rb"[/:]")
_JOINTS = b"_-"

_CACHE_ENTRIES = 2048
_CACHE_PATH_BYTES = 512

_NAME = b"x-majordomo-provider"
_ANTHROPIC = 1
_GOOGLE = 2


class Detector:
    """The table of what this installation serves, with a bounded memory of what was asked before."""

    def __init__(self, providers: Collection[str] = ("openai", "anthropic", "gemini")) -> None:
        self._tables = {name: TABLES[name] for name in TABLES if name in providers}
        self._known: dict[tuple[bytes, bytes, bytes | None, int], Route] = {}

    def route(self, method: bytes, raw_path: bytes, query: bytes, headers: Headers) -> Route:
        """Where the call goes. Raises UnknownRoute, UnknownProvider, BadRequest, LeakedKey."""
        fields = dict(headers)
        name = fields.get(_NAME)
        signs = 0
        if b"anthropic-version" in fields or b"x-api-key" in fields:
            signs = _ANTHROPIC
        elif b"x-goog-api-key" in fields or (query and query.find(b"key=") >= 0 and _has_key(query)):
            signs = _GOOGLE
        if query and _PLAIN_QUERY.fullmatch(query) is None:
            raise BadRequest("The query holds a character that no URL may hold.")
        key = (method, raw_path, name, signs)
        found = self._known.get(key)
        if found is not None and name is None:
            return found
        if name is not None and sum(each == _NAME for each, _ in headers) > 1:
            raise BadRequest("X-Majordomo-Provider stands twice.")
        if found is None:
            found = self._find(method, raw_path, name, signs)
            if len(raw_path) <= _CACHE_PATH_BYTES and len(name or b"") <= _CACHE_PATH_BYTES:
                if len(self._known) >= _CACHE_ENTRIES:
                    self._known.clear()
                self._known[key] = found
        return found

    def _find(self, method: bytes, raw_path: bytes, name: bytes | None, signs: int) -> Route:
        if _PLAIN_PATH.fullmatch(raw_path) is None or _DOTS.search(raw_path) is not None:
            raise BadRequest("The path holds a dot segment, a backslash, or a character that no URL may hold.")
        if _OUR_KEY.search(unquote_to_bytes(raw_path)) is not None:
            raise LeakedKey
        path = raw_path
        if name is not None:
            table = self._tables.get(name.strip().lower().decode("latin-1"))
            if table is None:
                raise UnknownProvider()
            path = _versioned(path) if table.provider == "openai" else path
            return _route(table, table.fit(path), method, path)
        path = _versioned(path)
        table = self._claimant(path, signs)
        fit = table.fit(path)
        return _route(table, fit if fit is None or not fit.template.named_only else None, method, path)

    def _claimant(self, path: bytes, signs: int) -> PathTable:
        """The provider whose path this is; a shared one goes by the signs in the head."""
        claims: dict[str, Fit | None] = {}
        for name, table in self._tables.items():
            fit = table.fit(path)
            if fit is not None and fit.template.named_only:
                fit = None
            if fit is not None or table.covers(path):
                claims[name] = fit
        if not claims:
            raise UnknownRoute()
        spoken = [name for name, fit in claims.items() if fit is not None and fit.verb]
        candidates = spoken or list(claims)
        if signs == _ANTHROPIC and "anthropic" in candidates:
            return self._tables["anthropic"]
        if signs == _GOOGLE and "gemini" in candidates:
            return self._tables["gemini"]
        return self._tables["openai" if "openai" in candidates else candidates[0]]


def _route(table: PathTable, fit: Fit | None, method: bytes, path: bytes) -> Route:
    if fit is None:
        operation = Operation.FREE if method in READS else Operation.OTHER
        words = _SEGMENT_ENDS.split(unquote_to_bytes(path).lower().translate(None, _JOINTS))
        secretive = not _SECRET_WORDS.isdisjoint(words)
        return Route(table.provider, table.dialect, operation, OTHER_TEMPLATE, path, secretive=secretive)
    template = fit.template
    return Route(
        provider=table.provider,
        dialect=template.dialect or table.dialect,
        operation=template.operation(method),
        template=template.text,
        path=path,
        model=None if fit.model is None else unquote_to_bytes(fit.model).decode("utf-8", "replace"),
        secretive=template.secretive,
    )


def _versioned(path: bytes) -> bytes:
    """OpenAI's paths come with and without `/v1`; they go upstream with it."""
    return b"/v1" + path if path[1:].partition(b"/")[0] in _BARE else path


def _has_key(query: bytes) -> bool:
    """Whether a parameter is called `key`."""
    return any(part.startswith(b"key=") for part in query.split(b"&"))
