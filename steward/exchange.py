"""The nouns: what one call is, from its admission to its row.

No I/O, no clock, no environment: times arrive as arguments. An `Exchange` never holds a credential (SECURITY F16).

Nouns are frozen, but for the four that are made anew for every call while the caller waits (`Intent`, `Outbound`,
`Timings`, `Exchange`): freezing those costs 10 us a call, measured, a sixth of all we add. Nobody changes them either.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import BinaryIO
from uuid import UUID, SafeUUID

from steward.words import Content

LOCAL_ORG = UUID(int=0)
"""The organisation of keys made by `steward keys create` before any registration."""

MAX_TOKENS = 10**9
"""Counts above this are unknown, never stored (SECURITY F15)."""

MAX_COST_USD = Decimal(10_000)
"""Costs above this are unknown, never stored (SECURITY F15)."""


class Outcome(StrEnum):
    """How the call ended, as the caller saw it."""

    COMPLETE = "complete"
    CLIENT_CANCELLED = "client_cancelled"
    UPSTREAM_FAILED = "upstream_failed"
    TIMED_OUT = "timed_out"
    INTERRUPTED = "interrupted"


class BodyState(StrEnum):
    """Where the call's body object is. `stored` only when the store said so."""

    NONE = "none"
    OFF = "off"
    PENDING = "pending"
    STORED = "stored"
    FAILED = "failed"
    SHED = "shed"
    LOST = "lost"


class UsageSource(StrEnum):
    """Whose word the token counts are."""

    PROVIDER = "provider"
    PARTIAL = "partial"
    ESTIMATED = "estimated"
    NONE = "none"


class ErrorCode(StrEnum):
    """The closed list of what may be said of a failed call."""

    RATE_LIMITED = "rate_limited"
    INVALID_REQUEST = "invalid_request"
    OVERLOADED = "overloaded"
    AUTH = "auth"
    NOT_FOUND = "not_found"
    CONTEXT_LENGTH = "context_length"
    CONTENT_FILTER = "content_filter"
    SERVER_ERROR = "server_error"
    TIMEOUT = "timeout"
    CLIENT_CANCELLED = "client_cancelled"
    UPSTREAM_FAILED = "upstream_failed"
    OTHER = "other"


class Dialect(StrEnum):
    """The wire format a route speaks; the provider behind it may be another."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    GEMINI = "gemini"


class Operation(StrEnum):
    """What a route does, as far as usage and price depend on it."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    RESPONSES = "responses"
    RESPONSES_COMPACT = "responses_compact"
    RESPONSES_RETRIEVE = "responses_retrieve"
    EMBEDDINGS = "embeddings"
    IMAGES = "images"
    TRANSCRIPTION = "transcription"
    SPEECH = "speech"
    MESSAGES = "messages"
    GENERATE_CONTENT = "generate_content"
    EMBED_CONTENT = "embed_content"
    INTERACTIONS = "interactions"
    FREE = "free"
    """Bills nothing and reports no usage of its own: counting tokens, listing models, reading what was made before."""
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: one API key, and whose it is."""

    key_id: UUID
    org_id: UUID
    user_id: UUID | None = None
    registration_id: UUID | None = None
    """The registration that delivered the key; None for a key made inside."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where a call goes and what it is, from method, path and headers alone."""

    provider: str
    """The provider the call goes to, as the ledger names it."""
    dialect: Dialect
    operation: Operation
    template: str
    """A member of the closed list of `providers/`, as `/v1/files/{id}`; what is logged and exported for the path."""
    path: bytes
    """The raw path that goes upstream, before the base URL's own path is put in front; starts with `/`."""
    model: str | None = None
    """The model, where the path names it (Gemini)."""
    secretive: bool = False
    """The answer hands out credentials: metadata only, no body is kept (SECURITY F16)."""


@dataclass(frozen=True, slots=True)
class Origin:
    """A provider's address, decided by settings; never by a call."""

    scheme: str
    host: str
    port: int
    base_path: bytes = b""
    """Path of the base URL without its final slash."""

    @property
    def authority(self) -> bytes:
        """The `Host` field's value."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = 443 if self.scheme == "https" else 80
        return host.encode() if self.port == default else f"{host}:{self.port}".encode()


Headers = list[tuple[bytes, bytes]]
"""Header fields in their order with their repeats; names lower-case."""


@dataclass(slots=True, eq=False)
class Outbound:
    """What is sent to the provider, but for the body, which is streamed."""

    origin: Origin
    method: bytes
    target: bytes
    """Raw path and query; built from parts, never joined."""
    headers: Headers = field(repr=False)
    """Without `host content-length transfer-encoding connection`: those are the pool's own."""
    length: int | None = None
    """Octets of the body that follows: 0 for none, None for unknown (sent chunked)."""
    expects_continue: bool = False
    has_length: bool = True
    """Whether the caller's message had a length at all (a GET without one gets none upstream)."""
    lines: bytes | None = field(default=None, repr=False)
    """`headers` as they go on the wire, each with its CRLF, where somebody has joined them already."""


@dataclass(slots=True, eq=False)
class Body:
    """One side's captured body, as it was on the wire: still compressed, in memory or in an unlinked file.

    `size_bytes` counts what crossed the wire; what is kept is shorter when `truncated`.
    """

    data: bytes = field(default=b"", repr=False)
    file: BinaryIO | None = field(default=None, repr=False)
    size_bytes: int = 0
    truncated: bool = False

    def content(self) -> Content[bytes]:
        """All that was kept. Reads a file whole: for small bodies and tests."""
        if self.file is None:
            return Content(self.data)
        self.file.seek(0)
        return Content(self.file.read())

    @property
    def kept_bytes(self) -> int:
        """Octets kept, at most `size_bytes`."""
        if self.file is None:
            return len(self.data)
        at = self.file.tell()
        size = self.file.seek(0, io.SEEK_END)
        self.file.seek(at)
        return size

    def close(self) -> None:
        """Gives the file back. Safe to call twice."""
        if self.file is not None:
            self.file.close()
            self.file = None


@dataclass(slots=True)
class Timings:
    """Monotonic offsets from admission, in microseconds; None for what did not happen."""

    sent_us: int | None = None
    head_us: int | None = None
    first_byte_us: int | None = None
    last_byte_us: int | None = None


@dataclass(slots=True, eq=False)
class Intent:
    """A call that is about to go to the provider: what is known if nothing more is ever heard of it."""

    id: UUID
    caller: Caller
    route: Route
    requested_at: datetime
    method: str


@dataclass(slots=True)
class Exchange:
    """The one thing that crosses from relay to settle. It never holds a credential.

    Headers are those of the allow-list in `wire/headers.py`; the query is the closed list kept beside the path.
    """

    id: UUID
    caller: Caller
    route: Route
    requested_at: datetime
    method: str
    outcome: Outcome
    status: int | None = None
    """What the caller got; None when he left before any answer."""
    timings: Timings = field(default_factory=Timings)
    request: Body = field(default_factory=Body)
    response: Body = field(default_factory=Body)
    request_headers: Headers = field(default_factory=list, repr=False)
    response_headers: Headers = field(default_factory=list, repr=False)
    query: Sequence[tuple[str, str]] = ()
    tags: Mapping[str, str] = field(default_factory=dict, repr=False)
    tags_dropped: int = 0
    """Tags refused at admission: too many, or they looked like a credential (SECURITY F3)."""
    tags_refused: Sequence[str] = ()
    """Names of the tags that looked like a credential. Their values are kept nowhere."""
    provider_api_key_hash: str | None = None
    """HMAC-SHA-256 (hex) of the provider credential, made at admission."""
    provider_api_key_alias: str | None = None
    client: str | None = None
    claude_session_id: str | None = None
    claude_session_name: str | None = field(default=None, repr=False)
    error: str | None = None
    """Code of our own error, when the answer was ours."""
    bodies_shed: bool = False
    """The queue had no room for the bodies: the row says `shed`."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call. Input includes cache reads and writes; output includes reasoning; parts are separate fields.

    No provider, no model. Every count is a whole number from 0 to 10^9, else None: unknown.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    cache_creation_tokens: int | None = None
    cache_creation_1h_tokens: int | None = None
    reasoning_tokens: int | None = None
    input_audio_tokens: int | None = None
    output_audio_tokens: int | None = None
    cached_audio_tokens: int | None = None
    input_image_tokens: int | None = None
    output_image_tokens: int | None = None
    web_searches: int | None = None
    parts: Sequence[tuple[str, Usage]] = ()
    """Billed steps under models of their own, (model, usage); when present, they are what is priced."""


@dataclass(frozen=True, slots=True)
class Metered:
    """What settle reads from an exchange's bytes: usage, and the facts that price depends on."""

    source: UsageSource
    usage: Usage | None = None
    model: str | None = None
    """As the response names it, else the request, else the path."""
    request_model: str | None = None
    streamed: bool = False
    service_tier: str | None = None
    """The provider's own word in the answer (`default`, `priority`, `flex`, `batch`, ...)."""
    provider_cost_usd: Decimal | None = None
    """The price the provider itself reports."""
    error: ErrorCode | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """US dollars of one call, and the list that says so."""

    input_usd: Decimal
    output_usd: Decimal
    total_usd: Decimal
    """Input, output and fees (web searches)."""
    source: str
    """Which list, and its version: `genai-prices 0.2.3`, `remote 2026-11-20T08:00:00Z`."""
    alias_found: bool = False
    """The model was found through the alias file."""


@dataclass(frozen=True, slots=True)
class BodyRef:
    """A stored body object: its key below the store's prefix, its whole address, and the hash of what was stored."""

    key: str
    url: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Record:
    """One ledger row. Text is cleaned (no NUL, no lone surrogate) and in its domain before it stands here."""

    id: UUID
    org_id: UUID
    api_key_id: UUID
    provider: str
    request_path: str
    request_method: str
    requested_at: datetime
    outcome: Outcome
    body_state: BodyState
    usage_source: UsageSource
    user_id: UUID | None = None
    registration_id: UUID | None = None
    provider_api_key_hash: str | None = None
    provider_api_key_alias: str | None = None
    model: str | None = None
    original_model: str | None = None
    responded_at: datetime | None = None
    response_time_ms: int | None = None
    ttft_ms: int | None = None
    sent_us: int | None = None
    head_us: int | None = None
    first_byte_us: int | None = None
    last_byte_us: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    cache_creation_tokens: int | None = None
    reasoning_tokens: int | None = None
    input_cost: Decimal | None = None
    output_cost: Decimal | None = None
    total_cost: Decimal | None = None
    provider_cost: Decimal | None = None
    price_source: str | None = None
    model_alias_found: bool = False
    service_tier: str | None = None
    streamed: bool = False
    status_code: int | None = None
    error_message: ErrorCode | None = None
    tags: Mapping[str, str] = field(default_factory=dict, repr=False)
    tags_dropped: int = 0
    client: str | None = None
    claude_session_id: str | None = None
    claude_session_name: str | None = field(default=None, repr=False)
    request_bytes: int = 0
    response_bytes: int = 0
    truncated: bool = False
    body_key: str | None = None
    body_url: str | None = None
    body_sha256: str | None = None
    body_bytes: int | None = None
    storage_config_id: UUID | None = None
    """Whose bucket has it: that of BODY_STORE_URL where there is none. It never leaves."""

    @property
    def ranks(self) -> tuple[int, int]:
        """How far the call's outcome and its body have come; neither ever goes back (DESIGN 10)."""
        return int(self.outcome is not Outcome.INTERRUPTED), _BODY_RANKS[self.body_state]

    def supersedes(self, earlier: Record) -> bool:
        """Whether this row takes the place of an earlier one of the same call: further in one, behind in none.

        A call that was cut and keeps no body comes no further than its intent, which has no status yet: it has one.
        """
        (outcome, body), (old_outcome, old_body) = self.ranks, earlier.ranks
        if outcome < old_outcome or body < old_body:
            return False
        return (outcome, body) != (old_outcome, old_body) or (
            not outcome and earlier.status_code is None and self.status_code is not None
        )


_BODY_RANKS = {
    BodyState.NONE: 0,
    BodyState.OFF: 0,
    BodyState.LOST: 0,
    BodyState.PENDING: 1,
    BodyState.FAILED: 2,
    BodyState.SHED: 2,
    BodyState.STORED: 3,
}


_RANDOM_BITS = (1 << 80) - 1 & ~(0xF << 76) & ~(0x3 << 62)
_VERSION_BITS = 7 << 76 | 2 << 62


def uuid7(unix_ms: int, random: bytes) -> UUID:
    """A UUIDv7 (RFC 9562, 5.7) of 48 bits of time and 74 of the ten random octets given."""
    made = object.__new__(UUID)
    number = (unix_ms & 0xFFFF_FFFF_FFFF) << 80 | int.from_bytes(random, "big") & _RANDOM_BITS | _VERSION_BITS
    # As unpickling does: the constructor's checks cost more than all else here, and one is made for every call.
    object.__setattr__(made, "int", number)
    object.__setattr__(made, "is_safe", SafeUUID.unknown)
    return made
