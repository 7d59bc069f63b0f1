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

FIELD_LINES = rb"(?:[!#$%&'*+\-.^_`|~0-9a-zA-Z]++:[^\r\n\x00]*+\r\n)*+"
"""What passes the gate, as it stands on the wire: names are tokens, values hold no CR, LF or NUL; nothing is folded."""

_FIELD = re.compile(rb"([^:]++):[ \t]*+([^\r]*+)\r\n")

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

_SPECIAL = HOP_BY_HOP | OURS_UPSTREAM | CREDENTIALS | {KEY, b"expect"}
_DROPPED = HOP_BY_HOP - {b"transfer-encoding"}

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

_PLAIN_CONNECTION = frozenset({b"keep-alive", b"close", b"Keep-Alive", b"Close"})
_RATE_LIMIT = b"ratelimit-"
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

    @property
    def has_body(self) -> bool:
        """Whether octets may follow the head."""
        return self.chunked or bool(self.length)


def check(fields: Headers, error: type[BadRequest] | type[UpstreamBadAnswer]) -> bytes:
    """All values in one, once names are tokens and values hold no CR, LF or NUL. Raises `error` otherwise."""
    names = [item[0] for item in fields]
    if b"".join(names).translate(None, _TOKEN) or b"" in names:
        raise error
    values = b"".join([item[1] for item in fields])
    if b"\r" in values or b"\n" in values or b"\x00" in values:
        raise error
    return values


def read_caller_head(headers: Headers) -> CallerHead:
    """Takes a caller's fields apart (names lower-case). Raises BadRequest, Unsupported."""
    values = check(headers, BadRequest)
    head = CallerHead([], [], [])
    passed = head.end_to_end
    seen: list[bytes] = []
    named: frozenset[bytes] = frozenset()
    for item in headers:
        name = item[0]
        if name in _SPECIAL:
            if name == b"connection":
                named |= _tokens(item[1])
            elif name not in _DROPPED:
                if name in seen:
                    raise BadRequest(_TWICE.get(name, _TWICE_CREDENTIAL))
                seen.append(name)
                _note(head, item)
        elif name.startswith(OUR_PREFIX):
            head.majordomo.append(item)
        else:
            passed.append(item)
    if b"host" not in seen:
        raise BadRequest("The Host header is missing.")
    if head.chunked and head.length is not None:
        raise BadRequest("Content-Length and Transfer-Encoding exclude each other.")
    head.may_leak = values.count(_OUR_KEYS) > (head.key is not None)
    if named:
        head.end_to_end = [item for item in passed if item[0] not in named]
    return head


_TWICE = {
    b"host": "The Host header occurs more than once.",
    b"content-length": "The Content-Length header occurs more than once.",
    KEY: "The X-Majordomo-Key header occurs more than once.",
    b"expect": "The Expect header occurs more than once.",
    b"transfer-encoding": "The Transfer-Encoding header occurs more than once.",
}
_TWICE_CREDENTIAL = "The provider's credential occurs more than once."


def _note(head: CallerHead, item: tuple[bytes, bytes]) -> None:
    """Takes note of a field that means something to us. Credentials and `Expect` go on as well."""
    name, value = item
    if name in CREDENTIALS:
        head.credentials.append(item)
        head.end_to_end.append(item)
    elif name == KEY:
        head.key = value
    elif name == b"content-length":
        head.length = _length(value)
    elif name == b"transfer-encoding":
        if value.strip().lower() != b"chunked":
            raise Unsupported
        head.chunked = True
    elif name == b"expect":
        head.expects_continue = value.strip().lower() == b"100-continue"
        head.end_to_end.append(item)


def _length(value: bytes) -> int:
    if not value.isdigit() or len(value) > 18:
        raise BadRequest("The Content-Length header is not a whole number.")
    return int(value)


def fields_of(lines: bytes) -> Headers:
    """The fields of lines that `FIELD_LINES` matched: names lower-case, no space around values."""
    if b" \r\n" in lines or b"\t\r\n" in lines:
        return [(name.lower(), value.rstrip(b" \t")) for name, value in _FIELD.findall(lines)]
    return [(name.lower(), value) for name, value in _FIELD.findall(lines)]


def _tokens(value: bytes) -> frozenset[bytes]:
    """The field names that `Connection` lists, but for those that are ours or mean the connection itself."""
    if value in _PLAIN_CONNECTION:
        return frozenset()
    names = {token.strip().lower() for token in value.split(b",")}
    return frozenset(names - {b"close", b"keep-alive", b""} - OURS_UPSTREAM)


def from_provider(headers: Headers) -> Headers:
    """A provider's fields as the caller gets them: checked, without hop-by-hop and without `X-Majordomo-*`.

    Raises UpstreamBadAnswer.
    """
    check(headers, UpstreamBadAnswer)
    return end_to_end(headers)


def end_to_end(headers: Headers) -> Headers:
    """Fields that passed the gate (`from_provider`, `FIELD_LINES`), without those of one connection and without ours."""
    passed = [item for item in headers if item[0] not in HOP_BY_HOP and not item[0].startswith(OUR_PREFIX)]
    if len(passed) == len(headers):
        return passed
    named: frozenset[bytes] = frozenset()
    for name, value in headers:
        if name == b"connection":
            named |= _tokens(value)
    return [item for item in passed if item[0] not in named] if named else passed


def kept(headers: Headers) -> Headers:
    """The fields of the allow-list, values cut at 1,024 octets."""
    return [
        (name, value[:_KEPT_VALUE_MAX])
        for name, value in headers
        if name in KEPT or (_RATE_LIMIT in name and name.startswith(KEPT_PREFIXES) and len(name) <= _KEPT_NAME_MAX)
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
