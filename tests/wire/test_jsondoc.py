"""Strangers' JSON: read within bounds, refused beyond, never an exception."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steward.wire.jsondoc import MAX_DEPTH, MAX_DOCUMENT_BYTES, elements, parse

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=30,
)


@given(VALUES)
def test_json_is_read(value: object) -> None:
    assert parse(json.dumps(value).encode()) == value


@given(st.binary(max_size=300))
def test_anything_else_is_nothing(octets: bytes) -> None:
    value = parse(octets)
    assert value is None or isinstance(value, bool | int | float | str | list | dict)
    assert isinstance(list(elements(octets)), list)


@pytest.mark.parametrize(
    ("document", "value"),
    [
        (b'\xef\xbb\xbf{"a":1}', {"a": 1}),
        (b'{"a":"\\ud800","n":1}', {"a": "\ud800", "n": 1}),
        (b'{"a":"\x00","n":1}', {"a": "\x00", "n": 1}),
        (b'{"a":"\xff","n":1}', {"a": "\N{REPLACEMENT CHARACTER}", "n": 1}),
        (b'{"a":1e999,"n":1}', {"a": math.inf, "n": 1}),
        (b"9" * 5000, None),
        (b"{'a':1}", None),
        (b"", None),
    ],
)
def test_what_strict_parsers_refuse(document: bytes, value: object) -> None:
    assert parse(document) == value


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_depth_is_bounded(opening: bytes, closing: bytes) -> None:
    assert parse(opening * MAX_DEPTH + b"1" + closing * MAX_DEPTH) is not None
    assert parse(opening * (MAX_DEPTH + 1) + b"1" + closing * (MAX_DEPTH + 1)) is None
    assert parse(opening * 100_000) is None


def test_brackets_in_text_are_no_depth_and_many_siblings_neither() -> None:
    text = "[{" * 500 + '\\"' + "[" * 500
    assert parse(json.dumps({"a": text}).encode()) == {"a": text}
    assert parse(b"[" + b",".join([b"[[]]"] * 500) + b"]") == [[[]]] * 500


def test_size_is_bounded() -> None:
    fits = b'"' + b"a" * (MAX_DOCUMENT_BYTES - 2) + b'"'
    assert isinstance(parse(fits), str)
    assert parse(fits + b" ") is None


def test_long_embeddings_are_read_past() -> None:
    numbers = b"[" + b"-0.0123456789," * 800_000 + b"1]"
    value = parse(b'{"data":[{"embedding":' + numbers + b'}],"usage":{"prompt_tokens":5}}')
    assert value == {"data": [{"embedding": []}], "usage": {"prompt_tokens": 5}}


HOSTILE = """
import time
from steward.wire.jsondoc import elements, parse
documents = [
    lambda: b"[" + b"[]," * 5_000_000 + b"1]",
    lambda: b"[" + b'{"a":1},' * 2_000_000 + b"1]",
    lambda: b"[" + b'"ab",' * 3_000_000 + b"1]",
    lambda: b"[" * 8_000_000 + b"]" * 8_000_000,
    lambda: (b"[" * 120 + b"]" * 120) * 60_000,
    lambda: b"[]" * 100_000 + b'\\\\"' * 7_000_000,
    lambda: b"[" * 200 + b'"' + b"a" * 15_000_000,
    lambda: b"[" + b"1," * 7_000_000,
    lambda: b'"' * 15_000_000,
]

def highest_kib():
    # the peak of this process alone: what getrusage tells is inherited from the parent
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

before, refused = highest_kib(), 0
for make in documents:
    document = make()
    refused += parse(document) is None and not list(elements(document))
print(refused, len(documents), highest_kib() - before, time.process_time())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_heavy_documents_are_refused_lightly() -> None:
    """Each may weigh its own 16 MiB several times over, never the gigabyte it would unfold to."""
    said = subprocess.run([sys.executable, "-c", HOSTILE], check=True, capture_output=True, text=True)
    refused, asked, grown_kib, seconds = said.stdout.split()
    assert refused == asked
    assert int(grown_kib) < 100 * 1024
    assert float(seconds) < 2 * int(asked)


def test_a_cut_array_still_has_its_elements() -> None:
    document = b'[{"a": 1},\r\n{"b": [2, "]"]},\r\n{"c": '
    assert list(elements(document)) == [{"a": 1}, {"b": [2, "]"]}]
    assert parse(document) is None
    assert list(elements(b"[")) == list(elements(b"")) == list(elements(b"{}")) == []
