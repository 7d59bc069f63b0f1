"""Path and query by themselves: what was sent stays, what a front decoded is encoded again, nothing else is text."""

from __future__ import annotations

from typing import Any

import pytest

from handlers.aws_targets import joined_query, octets, raw_path
from steward.errors import BadRequest


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("/v1/models", b"/v1/models"),
        ("/a%2Fb c\xe4", b"/a%2Fb c\xe4"),
        ("https://other.example/v1/models?x", b"/v1/models?x"),
        ("https://other.example?x", b"/?x"),
        ("", b"/"),
        (None, b"/"),
        ("*", b"*"),
    ],
)
def test_a_path_is_what_was_sent_without_a_host(given: object, path: bytes) -> None:
    assert raw_path(given) == path


def test_a_path_that_may_be_decoded_is_encoded_where_it_must_be() -> None:
    assert raw_path("/a b\u20ac%2F:x", may_be_decoded=True) == b"/a%20b%E2%82%AC%2F:x"
    assert raw_path(None, may_be_decoded=True) == b"/"


def test_a_query_is_joined_as_it_stands_or_encoded_anew() -> None:
    event = {"multiValueQueryStringParameters": {"a": ["1+%20", ""], "b": ["\xe4"]}}
    assert joined_query(event, decoded=False) == b"a=1+%20&a=&b=\xe4"
    assert joined_query(event, decoded=True) == b"a=1%2B%2520&a=&b=%C3%A4"
    assert joined_query({"queryStringParameters": {"a": None}}, decoded=False) == b"a="
    assert joined_query({}, decoded=True) == b""


@pytest.mark.parametrize("given", [3, [], "\u20ac"])
def test_what_no_octets_stand_for_is_refused(given: Any) -> None:
    for read in (octets, raw_path):
        with pytest.raises(BadRequest):
            read(given)
    with pytest.raises(BadRequest):
        raw_path("\ud800", may_be_decoded=True)
    for query in (3, {"a": 3}, {"a": ["\ud800"]}):
        with pytest.raises(BadRequest):
            joined_query({"queryStringParameters": query}, decoded=True)
