"""Events come out the same however their octets were cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steward.wire.sse import MAX_EVENT_BYTES, Event, SseParser


def parse(*pieces: bytes) -> list[Event]:
    """All events of a stream that arrives in these pieces."""
    parser = SseParser()
    events = [event for piece in pieces for event in parser.feed(piece)]
    return events + parser.close()


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_lines_end_in_three_ways(end: bytes) -> None:
    stream = end.join([b"event: one", b"data: a", b"", b"data: b", b"data: c", b"", b""])
    assert parse(stream) == [Event(b"one", b"a"), Event(b"", b"b\nc")]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data:x\n\n", [Event(b"", b"x")]),
        (b"data:  x\n\n", [Event(b"", b" x")]),
        (b"data\n\n", [Event(b"", b"")]),
        (b": OPENROUTER PROCESSING\n\ndata: x\n\n", [Event(b"", b"x")]),
        (b"\xef\xbb\xbfdata: x\n\n", [Event(b"", b"x")]),
        (b"id: 7\nretry: 10\nunknown: y\ndata: x\n\n", [Event(b"", b"x")]),
        (b"event: lonely\n\ndata: x\n\n", [Event(b"", b"x")]),
        (b"data: x", [Event(b"", b"x")]),
        (b"data: x\n", [Event(b"", b"x")]),
        (b"data: a\x0bb\x0cc\x1cd\xe2\x80\xa8e\xc2\x85f\n\n", [Event(b"", b"a\x0bb\x0cc\x1cd\xe2\x80\xa8e\xc2\x85f")]),
        (b"", []),
        (b"\n\n\n", []),
        (b"garbage without any field", []),
    ],
)
def test_shapes(stream: bytes, events: list[Event]) -> None:
    assert parse(stream) == events
    assert parse(*(stream[at : at + 1] for at in range(len(stream)))) == events


def test_a_carriage_return_at_the_cut_is_one_line_end() -> None:
    assert parse(b"data: a\r", b"\ndata: b\r", b"\n\r", b"\n") == [Event(b"", b"a\nb")]
    assert parse(b"data: a\r", b"", b"\ndata: b\r\r") == [Event(b"", b"a\nb")]


@given(
    st.lists(
        st.sampled_from(
            [
                b"data: x",
                b"data:y",
                b"event: e",
                b":c",
                b"",
                b"\xef\xbb\xbf",
                b"\n",
                b"\r",
                b"\r\n",
                b"\n\n",
                b"\xff\x00",
            ]
        ),
        max_size=40,
    ),
    st.lists(st.integers(0, 200), max_size=12),
)
def test_cuts_change_nothing(tokens: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(tokens)
    edges = [0, *sorted(cut for cut in cuts if cut <= len(stream)), len(stream)]
    pieces = [stream[start:stop] for start, stop in pairwise(edges)]
    assert parse(*pieces) == parse(stream)


@given(st.binary(max_size=400))
def test_any_octets_are_taken(stream: bytes) -> None:
    whole = parse(stream)
    assert parse(*(stream[at : at + 1] for at in range(len(stream)))) == whole
    assert all(b"\n" not in event.name and b"\r" not in event.data for event in whole)


def test_an_event_may_span_many_pieces() -> None:
    body = b"x" * 200_000
    stream = b"data: " + body + b"\n\n"
    assert parse(*(stream[at : at + 4096] for at in range(0, len(stream), 4096))) == [Event(b"", body)]


@pytest.mark.parametrize("line", [b"x" * 65_536, b"data: " + b"x" * 65_536 + b"\n"])
def test_an_endless_event_is_given_up(line: bytes) -> None:
    parser = SseParser()
    parser.feed(b"data: first\n\ndata: ")
    for _ in range(MAX_EVENT_BYTES // len(line) + 2):
        assert parser.feed(line) == []
    assert parser.overflowed
    assert parser.feed(b"\n\ndata: later\n\n") == []
    assert parser.close() == []
