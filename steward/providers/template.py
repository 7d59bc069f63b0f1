"""What a dialect's file is made of: path templates with what they do, and how a path is told from them.

It refuses to know any provider: those are data, one file each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from steward.exchange import Dialect, Operation

OTHER_TEMPLATE = "/{other}"
"""Stands for every path that fits none; what is logged and exported in its place (SECURITY F3)."""

SHARED_AREAS = ("/v1/models", "/v1/files", "/v1/batches")
"""What several providers call alike; the signs in the head decide."""

READS = frozenset({b"GET", b"HEAD", b"OPTIONS", b"DELETE", b"TRACE"})
"""Methods that generate nothing."""


@dataclass(frozen=True, slots=True)
class Template:
    """One path of a provider. `{name}` stands for one segment, or for what precedes the colon of its last one."""

    text: str
    writes: Operation = Operation.OTHER
    """What POST, PUT and PATCH do here."""
    reads: Operation = Operation.FREE
    """What GET, HEAD and DELETE do here."""
    secretive: bool = False
    """Answers (or requests) on this path hand out or carry credentials (SECURITY F16)."""
    dialect: Dialect | None = None
    """The wire format where it is not the provider's own."""
    named_only: bool = False
    """The path alone does not tell this provider: `X-Majordomo-Provider` must."""

    def operation(self, method: bytes) -> Operation:
        """What this method does on this path."""
        return self.reads if method in READS else self.writes


@dataclass(frozen=True, slots=True)
class DialectFacts:
    """How a dialect carries credentials and spells errors."""

    dialect: Dialect
    credential_headers: tuple[bytes, ...]
    """Lower-case names of the headers in which the caller's credential travels."""
    credential_query: tuple[bytes, ...]
    """Names of query parameters that hold a credential."""
    error_document: Callable[[int, str, str], bytes]
    """(HTTP status, our code, our sentence) -> JSON that the provider's SDK turns into its proper exception."""


@dataclass(frozen=True, slots=True)
class Fit:
    """A path that fits a template."""

    template: Template
    verb: bool
    """The last segment ends in a `:verb` that the template names."""
    model: bytes | None
    """What stands at `{model}`, still percent-encoded."""


class _Node:
    """One step of the tree of segments."""

    __slots__ = ("below", "template")

    def __init__(self) -> None:
        self.below: dict[bytes, _Node] = {}
        self.template: Template | None = None


class PathTable:
    """A provider's templates, and the areas (first segments) below which unknown paths are still its own."""

    def __init__(self, provider: str, dialect: Dialect, templates: Iterable[Template], areas: Iterable[str]) -> None:
        self.provider = provider
        self.dialect = dialect
        self.templates = tuple(templates)
        self.areas = frozenset(tuple(area.encode().strip(b"/").split(b"/")) for area in areas)
        self._root = _Node()
        for template in self.templates:
            node = self._root
            for segment in template.text.encode().split(b"/")[1:]:
                node = node.below.setdefault(_key(segment), _Node())
            node.template = template

    def fit(self, path: bytes) -> Fit | None:
        """The template that a raw path (starting with `/`) fits. Case counts; `%3A` is a colon."""
        node = self._root
        verb, wild = False, b""
        for raw in path.split(b"/")[1:]:
            segment = raw.replace(b"%3A", b":").replace(b"%3a", b":") if b"%3" in raw else raw
            head, colon, tail = segment.rpartition(b":")
            verb = False
            if (below := node.below.get(segment)) is not None:
                node = below
            elif colon and head and (below := node.below.get(b"{}:" + tail)) is not None:
                node, verb, wild = below, True, head
            elif segment and (below := node.below.get(b"{}")) is not None:
                node, wild = below, segment
            else:
                return None
        if node.template is None:
            return None
        return Fit(node.template, verb, wild if "{model}" in node.template.text else None)

    def covers(self, path: bytes) -> bool:
        """Whether the path lies in one of the provider's areas."""
        segments = path.split(b"/", 4)[1:4]
        return any(tuple(segments[:depth]) in self.areas for depth in (1, 2, 3))


def _key(segment: bytes) -> bytes:
    """`{id}` becomes `{}`, `{model}:embedContent` becomes `{}:embedContent`; a literal stays."""
    if not segment.startswith(b"{"):
        return segment
    return b"{}" + segment.partition(b"}")[2]
