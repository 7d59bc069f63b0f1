"""The gate: the one place where header bytes pass, in both directions, on every host (SECURITY F9).

It lets nothing through that could split a message, name two hosts, bear two keys or come from a trailer. It looks at
no body and knows no provider but for the names of the fields that carry credentials.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from steward.errors import BadRequest, Unsupported, UpstreamBadAnswer
from steward.exchange import Headers

OUR_PREFIX = b"x-majordomo-"
KEY = b"x-majordomo-key"
_OUR_KEYS = b"mdm_"

_TOKEN = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

_FIELD = re.compile(rb"([^:\r]*+):[ \t]*+([^\r]*+)\r\n")
_CONTROL = bytes({*range(32), 127} - {ord("\t")})
"""What no line may hold (RFC 9110, 5.5), but for the two octets of its end."""

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Fields of one connection (RFC 9110, 7.6.1); `Connection` may name more."""

OURS_UPSTREAM = frozenset({b"host", b"content-length"})
"""Set anew towards the provider, whatever `Connection` names."""

CREDENTIALS = frozenset({b"authorization", b"x-api-key", b"x-goog-api-key", b"api-key"})
"""Where a provider's credential may stand; each at most once."""

FOR_THE_FRONT = frozenset({b"x-serverless-authorization"})
"""A credential for the host's own front (Cloud Run), which hands it on: no provider gets it."""

_OURS_OR_HOP = HOP_BY_HOP | OURS_UPSTREAM | FOR_THE_FRONT
_RARE = frozenset({b"transfer-encoding", b"expect", b"connection"})

KEPT = frozenset(
    {
        b"content-type",
        b"content-encoding",
        b"anthropic-version",
        b"anthropic-beta",
        b"openai-beta",
        b"openai-processing-ms",
        b"x-request-id",
        b"request-id",
        b"retry-after",
        b"x-should-retry",
    }
)
"""The header fields an Exchange and a body object may hold (SECURITY F16). What is not listed is dropped."""

KEPT_PREFIXES = (b"x-ratelimit-", b"anthropic-ratelimit-")

KEPT_QUERY = frozenset({b"alt", b"api-version", b"beta", b"stream"})
"""The query parameters kept beside the path."""

PLAIN_CONNECTION = frozenset({b"keep-alive", b"close", b"Keep-Alive", b"Close"})
_STAYS = [b"keep-alive"]
_SAY_SO = frozenset({b"connection", b"proxy-connection"})
_KEPT_VALUE_MAX = 1_024
_KEPT_NAME_MAX = 64


@dataclass(slots=True)
class CallerHead:
    """A caller's head, checked and taken apart."""

    end_to_end: Headers = field(repr=False)
    """What goes to the provider, in order with repeats; without ours, hop-by-hop, host and length."""
    majordomo: Headers = field(repr=False)
    """The `X-Majordomo-*` fields but for the key."""
    credentials: Headers = field(repr=False)
    """Those of `end_to_end` that may carry a provider's credential."""
    key: bytes | None = field(default=None, repr=False)
    length: int | None = None
    """`content-length`; None when the message has none."""
    chunked: bool = False
    expects_continue: bool = False
    may_leak: bool = False
    """What looks like a key of ours stands somewhere besides `X-Majordomo-Key`: perhaps where it must not."""
    kept: Headers = field(default_factory=list, repr=False)
    """Those that an Exchange may hold."""
    wire: bytes | None = field(default=None, repr=False, compare=False)
    """`end_to_end` as lines, each with its CRLF, where somebody has joined them already."""

    @property
    def has_body(self) -> bool:
        """Whether octets may follow the head."""
        return self.chunked or bool(self.length)

    def with_length(self, length: int) -> CallerHead:
        """The same head before a body of another length."""
        return CallerHead(
            self.end_to_end,
            self.majordomo,
            self.credentials,
            self.key,
            length,
            self.chunked,
            self.expects_continue,
            self.may_leak,
            self.kept,
            self.wire,
        )


def check(fields: Headers, error: type[BadRequest] | type[UpstreamBadAnswer]) -> bytes:
    """All values in one, once names are tokens and values hold no CR, LF or NUL. Raises `error` otherwise."""
    names = [item[0] for item in fields]
    if b"".join(names).translate(None, _TOKEN) or b"" in names:
        raise error
    values = b"".join([item[1] for item in fields])
    # `find`, here and below: `in` first takes what it is given for a number, and builds an exception each time.
    if values.find(b"\r") >= 0 or values.find(b"\n") >= 0 or values.find(b"\x00") >= 0:
        raise error
    return values


def read_caller_head(headers: Headers, lines: bytes | None = None) -> CallerHead:
    """Takes a caller's fields apart (names lower-case). Raises BadRequest, Unsupported.

    `lines`: the same fields as they stood on the wire, if `read_lines` read them; they are not checked again.
    """
    values = check(headers, BadRequest) if lines is None else lines
    named = dict(headers)
    if len(named) != len(headers):
        _refuse_repeats([item[0] for item in headers])
    if b"host" not in named:
        raise BadRequest("The Host header is missing.")
    key = named.get(KEY)
    head = CallerHead(
        [item for item in headers if item[0] not in _OURS_OR_HOP and not item[0].startswith(OUR_PREFIX)],
        [item for item in headers if item[0].startswith(OUR_PREFIX) and item[0] != KEY],
        [item for item in headers if item[0] in CREDENTIALS],
        key,
        may_leak=values.count(_OUR_KEYS) > (key is not None),
    )
    if b"content-length" in named:
        head.length = _length(named[b"content-length"])
    if not _RARE.isdisjoint(named):
        _note_rare(head, headers, named)
    head.kept = kept(head.end_to_end)
    return head


_TWICE = {
    b"host": "The Host header occurs more than once.",
    b"content-length": "The Content-Length header occurs more than once.",
    KEY: "The X-Majordomo-Key header occurs more than once.",
    b"expect": "The Expect header occurs more than once.",
    b"transfer-encoding": "The Transfer-Encoding header occurs more than once.",
} | dict.fromkeys(CREDENTIALS, "The provider's credential occurs more than once.")


def _refuse_repeats(names: list[bytes]) -> None:
    for name, words in _TWICE.items():
        if names.count(name) > 1:
            raise BadRequest(words)


def _note_rare(head: CallerHead, headers: Headers, named: dict[bytes, bytes]) -> None:
    """Takes note of what few heads have: chunks, an expectation, fields of this connection alone."""
    if b"transfer-encoding" in named:
        if named[b"transfer-encoding"].strip().lower() != b"chunked":
            raise Unsupported
        if head.length is not None:
            raise BadRequest("Content-Length and Transfer-Encoding exclude each other.")
        head.chunked = True
    if b"expect" in named:
        head.expects_continue = named[b"expect"].strip().lower() == b"100-continue"
    head.end_to_end = _without_named(head.end_to_end, headers)


def _length(value: bytes) -> int:
    if not value.isdigit() or len(value) > 18:
        raise BadRequest("The Content-Length header is not a whole number.")
    return int(value)


def read_lines(lines: bytes) -> Headers | None:
    """The fields of a head as it stood on the wire, each line with its CRLF: names lower-case, values without the space
    before them. None when one would not pass the gate, or the parser: what is no field, a name that is no token, a
    control character but for a tab, a folded line.

    Counting line ends and looking once through all names costs a third of an expression that says the same.
    """
    fields = [(name.lower(), value) for name, value in _FIELD.findall(lines)]
    ends = lines.count(b"\r\n")
    if ends != len(fields) or len(lines) - len(lines.translate(None, _CONTROL)) != 2 * ends:
        return None
    names = [item[0] for item in fields]
    if b"".join(names).translate(None, _TOKEN) or b"" in names:
        return None
    return fields


def closes(headers: Headers) -> bool:
    """Whether the connection ends with this message. Old servers say it in `Proxy-Connection`."""
    lists = [value for name, value in headers if name in _SAY_SO]
    return bool(lists) and (lists != _STAYS) and any(b"close" in _words(value) for value in lists)


def _words(value: bytes) -> list[bytes]:
    return [token.strip().lower() for token in value.split(b",")]


def _tokens(value: bytes) -> frozenset[bytes]:
    """The field names that `Connection` lists, but for those that are ours or mean the connection itself."""
    return frozenset(_words(value)) - {b"close", b"keep-alive", b""} - OURS_UPSTREAM


def from_provider(headers: Headers) -> Headers:
    """A provider's fields as the caller gets them: checked, without hop-by-hop and without `X-Majordomo-*`.

    Raises UpstreamBadAnswer.
    """
    check(headers, UpstreamBadAnswer)
    return end_to_end(headers)


def end_to_end(headers: Headers) -> Headers:
    """Fields that passed the gate (`from_provider`, `read_lines`), without those of one connection and without ours."""
    passed = [item for item in headers if item[0] not in HOP_BY_HOP and not item[0].startswith(OUR_PREFIX)]
    if len(passed) == len(headers):
        return passed
    return _without_named(passed, headers)


def _without_named(passed: Headers, headers: Headers) -> Headers:
    """What is left once the fields that `Connection` lists are gone too."""
    lists = [value for name, value in headers if name == b"connection" and value not in PLAIN_CONNECTION]
    if not lists:
        return passed
    named = frozenset[bytes]().union(*map(_tokens, lists))
    return [item for item in passed if item[0] not in named]


def kept(headers: Headers) -> Headers:
    """The fields of the allow-list, values cut at 1,024 octets."""
    return [
        (name, value[:_KEPT_VALUE_MAX])
        for name, value in headers
        if name in KEPT or (name.startswith(KEPT_PREFIXES) and len(name) <= _KEPT_NAME_MAX)
    ]


def kept_query(query: bytes) -> tuple[tuple[str, str], ...]:
    """The query parameters of the allow-list, as they stood: never decoded, at most 64 octets a value."""
    if not query:
        return ()
    found = []
    for pair in query.split(b"&", 64)[:64]:
        name, _, value = pair.partition(b"=")
        if name in KEPT_QUERY:
            found.append((name.decode("ascii"), value[:64].decode("ascii", "replace")))
    return tuple(found)
