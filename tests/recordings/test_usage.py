"""Every strict truth row of the three providers, exactly; the same however the octets were packed and cut."""

from __future__ import annotations

import gzip
import io
import random
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import replace

import brotli  # type: ignore[import-untyped]
import pytest
import zstandard

from steward.exchange import Dialect, Exchange, Metered, Operation, Outcome, Route, Usage, UsageSource
from steward.meter import meter
from steward.wire.sse import Event, SseParser
from tests.exchanges import recorded
from tests.servers.corpus import PROVIDERS, Recording

FIELDS = ("input_tokens_total", "output_tokens", "cached_tokens", "cache_creation_tokens", "reasoning_tokens")

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": lambda data: bytes(brotli.compress(data, quality=3)),
    "zstd": zstandard.ZstdCompressor().compress,
}

OPERATIONS = {
    "chat": (Dialect.OPENAI, Operation.CHAT),
    "completions": (Dialect.OPENAI, Operation.COMPLETIONS),
    "responses": (Dialect.OPENAI, Operation.RESPONSES),
    "embeddings": (Dialect.OPENAI, Operation.EMBEDDINGS),
    "messages": (Dialect.ANTHROPIC, Operation.MESSAGES),
    "rawPredict": (Dialect.ANTHROPIC, Operation.MESSAGES),
    "streamRawPredict": (Dialect.ANTHROPIC, Operation.MESSAGES),
    "generateContent": (Dialect.GEMINI, Operation.GENERATE_CONTENT),
    "streamGenerateContent": (Dialect.GEMINI, Operation.GENERATE_CONTENT),
}
"""Endpoints of other providers that speak one of the three dialects."""

Row = tuple[object, ...]


def truth(recording: Recording) -> Row:
    """Model and the five counts; unknown counts as none."""
    return (recording.truth["model"], *(recording.truth[field] or 0 for field in FIELDS))


def row(metered: Metered) -> Row:
    """The same of what we read."""
    usage = metered.usage or Usage()
    counts = (
        usage.input_tokens,
        usage.output_tokens,
        usage.cached_tokens,
        usage.cache_creation_tokens,
        usage.reasoning_tokens,
    )
    return (metered.model, *(count or 0 for count in counts))


def test_every_strict_row_is_exact(dialect_corpus: list[Recording], record_property: Callable[..., None]) -> None:
    """What is not strict is ambiguous or hand-made upstream: reported, not failed."""
    wrong = {
        recording.id: (truth(recording), row(meter(recorded(recording))))
        for recording in dialect_corpus
        if truth(recording) != row(meter(recorded(recording)))
    }
    strict = {recording.id for recording in dialect_corpus if recording.strict}
    record_property("not strict", f"{len(dialect_corpus) - len(strict)}, wrong {len(wrong.keys() - strict)}")
    assert {each: wrong[each] for each in wrong.keys() & strict} == {}
    assert len(strict) > 100


def test_other_providers_of_the_dialects_are_read_as_far_as_the_rules_go(
    corpus: list[Recording], record_property: Callable[..., None]
) -> None:
    spoken = [each for each in corpus if each.provider not in PROVIDERS and each.endpoint in OPERATIONS and each.strict]
    right = sum(truth(recording) == row(meter(_elsewhere(recording))) for recording in spoken)
    record_property("other providers, right", f"{right} of {len(spoken)}")
    assert right > len(spoken) * 0.9


def _elsewhere(recording: Recording) -> Exchange:
    """A recording of a provider that is not served yet, under its own name."""
    dialect, operation = OPERATIONS[recording.endpoint]
    return recorded(recording, to=Route(recording.provider, dialect, operation, "/{other}", b"/other"))


def test_usage_is_whole_where_the_answer_is(dialect_corpus: list[Recording]) -> None:
    for recording in dialect_corpus:
        metered = meter(recorded(recording))
        if recording.strict and recording.truth["has_usage"] and recording.truth["complete"]:
            assert metered.source is UsageSource.PROVIDER, recording.id
        if recording.strict and not recording.truth["has_usage"]:
            assert metered.usage is None, recording.id
            assert metered.source is UsageSource.NONE, recording.id


def test_errors_and_streams_are_told(dialect_corpus: list[Recording]) -> None:
    for recording in dialect_corpus:
        metered = meter(recorded(recording))
        assert metered.streamed == recording.streamed, recording.id
        assert (metered.error is not None) == (recording.status >= 400), recording.id


def test_what_price_depends_on_is_read(dialect_corpus: list[Recording]) -> None:
    for recording in dialect_corpus:
        extra = recording.truth["extra"]
        assert isinstance(extra, dict)
        metered = meter(recorded(recording))
        if "service_tier" in extra:
            assert metered.service_tier == extra["service_tier"], recording.id
        if "web_search_requests" in extra:
            assert metered.usage is not None
            assert metered.usage.web_searches == extra["web_search_requests"], recording.id
        if "billed" in extra:
            assert metered.usage is not None
            assert sum(part.input_tokens or 0 for _, part in metered.usage.parts) == extra["billed"][FIELDS[0]]
            assert sum(part.output_tokens or 0 for _, part in metered.usage.parts) == extra["billed"][FIELDS[1]]


def test_reported_prices_are_read_to_the_last_digit(corpus: list[Recording]) -> None:
    for recording in corpus:
        extra = recording.truth["extra"]
        assert isinstance(extra, dict)
        if "provider_cost_usd" in extra and recording.endpoint in OPERATIONS:
            cost = meter(_elsewhere(recording)).provider_cost_usd
            assert cost is not None, recording.id
            assert float(cost) == extra["provider_cost_usd"], recording.id


@pytest.mark.parametrize("coding", PACKERS)
def test_compressed_is_the_same(dialect_corpus: list[Recording], coding: str) -> None:
    for recording in dialect_corpus:
        packed = PACKERS[coding](recording.response_body)
        assert meter(recorded(recording, packed, coding)) == meter(recorded(recording)), recording.id


def test_from_a_file_is_the_same(dialect_corpus: list[Recording]) -> None:
    for recording in dialect_corpus:
        expected = meter(recorded(recording))
        kept = recorded(recording)
        with tempfile.TemporaryFile() as file:
            file.write(recording.response_body)
            kept.response.data, kept.response.file = b"", file
            assert meter(kept) == expected, recording.id


class _Trickle(io.BytesIO):
    """A file that gives few octets at a time."""

    def __init__(self, data: bytes, most: Callable[[], int]) -> None:
        super().__init__(data)
        self._most = most

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size if size is not None and size > 0 else 1, self._most()))


@pytest.mark.parametrize("most", [1, 3, 4096, None], ids=["byte by byte", "threes", "pages", "at random"])
def test_cut_into_pieces_is_the_same(dialect_corpus: list[Recording], most: int | None) -> None:
    dice = random.Random(7)
    for recording in dialect_corpus:
        if most == 1 and len(recording.response_body) > 40_000:
            continue
        kept = recorded(recording)
        kept.response.data = b""
        kept.response.file = _Trickle(recording.response_body, lambda: most or dice.choice((1, 2, 17, 900)))
        assert meter(kept) == meter(recorded(recording)), recording.id


def test_cut_off_anywhere_is_never_an_error(dialect_corpus: list[Recording]) -> None:
    dice = random.Random(7)
    for recording in dialect_corpus:
        whole = meter(recorded(recording))
        body = recording.response_body
        for at in {0, 1, len(body) - 1, *(dice.randrange(len(body) + 1) for _ in range(6))}:
            kept = recorded(recording, body[: max(at, 0)])
            cut = meter(replace(kept, outcome=Outcome.UPSTREAM_FAILED))
            assert cut.source is not UsageSource.PROVIDER or row(cut) == row(whole), recording.id


def test_streams_cut_after_each_event_are_partial(dialect_corpus: list[Recording]) -> None:
    """Usage that was seen is kept and flagged, and the end of the stream alone makes it whole."""
    for recording in dialect_corpus:
        if recording.framing != "sse":
            continue
        for at in _event_ends(recording.response_body):
            kept = recorded(recording, recording.response_body[:at])
            cut = meter(replace(kept, outcome=Outcome.UPSTREAM_FAILED))
            assert cut.source is (UsageSource.NONE if cut.usage is None else UsageSource.PARTIAL), recording.id
        assert row(cut) == row(meter(recorded(recording))), recording.id


def _event_ends(body: bytes) -> list[int]:
    """Up to forty offsets at which an event is complete."""
    parser, ends = SseParser(), []
    for at in range(0, len(body), 64):
        events: list[Event] = parser.feed(body[at : at + 64])
        if events:
            ends.append(at + 64)
    return [*ends[:: max(1, len(ends) // 40)], len(body)]
