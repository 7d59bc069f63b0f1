"""Body objects read back: exactly the row's, within bounds, whatever is in them."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steward.body_object import build
from steward.body_reading import MAX_OBJECT_BYTES, laid_out, unpacked
from steward.errors import BodyTooLarge, BodyUnreadable, NotTheObject
from tests.exchanges import exchange as exchanged
from tests.exchanges import route
from tests.servers.viewers import a_document


def stored(document: object) -> tuple[bytes, str]:
    octets = gzip.compress(document if isinstance(document, bytes) else orjson.dumps(document), mtime=0)
    return octets, sha256(octets)


def sha256(octets: bytes) -> str:
    return hashlib.sha256(octets).hexdigest()


def test_what_the_object_s_writer_wrote_is_read_back() -> None:
    exchange = exchanged(route("/v1/chat/completions"), {"choices": []}, asked={"messages": []})
    made = build(exchange)
    assert isinstance(made.source, bytes)
    reading = laid_out(unpacked(made.source, made.sha256))
    assert reading is not None
    assert ("method", exchange.method) in reading.request.facts
    assert ("status_code", str(exchange.status)) in reading.response.facts


def test_another_object_than_the_row_s_is_refused_before_it_is_unpacked() -> None:
    octets, right = stored(a_document())
    assert unpacked(octets, right)
    for other in (sha256(b""), right.upper(), right[:-1], "", "\u00e9", None):
        with pytest.raises(NotTheObject):
            unpacked(octets, other)
    with pytest.raises(NotTheObject):
        unpacked(octets[:-1] + bytes([octets[-1] ^ 1]), right)
    with pytest.raises(NotTheObject):
        unpacked(b"no gzip at all", right)


@pytest.mark.parametrize("size", [MAX_OBJECT_BYTES + 1, 3 * MAX_OBJECT_BYTES])
def test_unpacking_stops_at_the_bound(size: int) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    octets = b"".join([packer.compress(bytes(1 << 20)) for _ in range(-(-size // (1 << 20)))]) + packer.flush()
    assert len(octets) < 1 << 20
    with pytest.raises(BodyTooLarge):
        unpacked(octets, sha256(octets))


def test_as_much_as_the_bound_is_unpacked() -> None:
    octets = gzip.compress(bytes(MAX_OBJECT_BYTES), 1, mtime=0)
    assert len(unpacked(octets, sha256(octets))) == MAX_OBJECT_BYTES


def test_an_object_beyond_the_bound_is_not_even_hashed() -> None:
    with pytest.raises(BodyTooLarge):
        unpacked(bytes(MAX_OBJECT_BYTES + 1), sha256(b""))


BROKEN = {
    "empty": b"",
    "text": b"hello",
    "cut": gzip.compress(b"x" * 1000)[:-9],
    "cut in its head": gzip.compress(b"x")[:5],
    "two members": gzip.compress(b"{") + gzip.compress(b"}"),
    "something behind": gzip.compress(b"{}") + b"behind",
    "bad checksum": gzip.compress(b"x" * 100)[:-8] + bytes(8),
    "zlib": zlib.compress(b"{}"),
}


@pytest.mark.parametrize("octets", BROKEN.values(), ids=BROKEN.keys())
def test_what_is_no_gzip_of_ours_is_unreadable(octets: bytes) -> None:
    with pytest.raises(BodyUnreadable):
        unpacked(octets, sha256(octets))


@given(st.binary(max_size=300))
def test_whatever_lies_there_is_refused(octets: bytes) -> None:
    with pytest.raises(BodyUnreadable):
        unpacked(octets, sha256(octets))
    with pytest.raises(NotTheObject):
        unpacked(octets, sha256(octets + b"."))


JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
SIDES = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(("body", "headers", "query", "method", "body_encoding", "truncated", "status_code"), JSON),
)


@given(st.fixed_dictionaries({"request": SIDES, "response": SIDES}))
def test_whatever_a_document_says_it_is_text(document: dict[str, Any]) -> None:
    reading = laid_out(json.dumps(document).encode("utf-8", "surrogatepass"))
    assert reading is not None
    for side in (reading.request, reading.response):
        words = [side.text(), *(word for pair in (*side.facts, *side.headers, *side.query) for word in pair)]
        assert all(isinstance(word, str) and word.encode() is not None for word in words)


@pytest.mark.parametrize("document", [b"[]", b"1", b'"x"', b"{}", b'{"request":{}}', b'{"request":[],"response":{}}'])
def test_what_is_json_but_none_of_ours_is_unreadable(document: bytes) -> None:
    with pytest.raises(BodyUnreadable):
        laid_out(document)


@pytest.mark.parametrize("document", [b"", b"{", b"[" * 5000, b'{"request":' * 200 + b"1" + b"}" * 200])
def test_what_cannot_be_laid_out_is_not(document: bytes) -> None:
    assert laid_out(document) is None


def test_json_is_indented_and_text_and_base64_are_as_they_are() -> None:
    reading = laid_out(orjson.dumps(a_document(body={"b": 1, "a": ["\u00e9"]})))
    assert reading is not None
    assert reading.response.text() == '{\n  "b": 1,\n  "a": [\n    "\u00e9"\n  ]\n}'
    for encoding in ("text", "base64"):
        reading = laid_out(orjson.dumps(a_document(body="data: {}\n", body_encoding=encoding)))
        assert reading is not None
        assert reading.response.text() == "data: {}\n"


def test_names_that_repeat_have_a_line_each() -> None:
    reading = laid_out(orjson.dumps(a_document(headers={"vary": ["a", "b"], "x": "1"})))
    assert reading is not None
    assert reading.response.headers == (("vary", "a"), ("vary", "b"), ("x", "1"))
