"""The bucket document: what stands in it, that anything fits into it, and that size costs no memory."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

import brotli  # type: ignore[import-untyped]
import orjson
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from steward.body_object import PIECE_BYTES, SPILL_BYTES, SPLICE_BYTES, BodyObject, build, object_key, place
from steward.exchange import Body, Caller, Dialect, Exchange, Headers, Operation, Outcome, Route

ID = UUID("0192f0c1-0000-7000-8000-000000000002")
KEY_ID = UUID("0192f0c1-0000-7000-8000-000000000001")
JSON_TYPE = (b"content-type", b"application/json")


def exchange(
    request: Body | bytes = b"",
    response: Body | bytes = b"",
    response_headers: Headers | None = None,
    **facts: Any,
) -> Exchange:
    """One call; bytes stand for a body held in memory."""
    sides = [Body(side, size_bytes=len(side)) if isinstance(side, bytes) else side for side in (request, response)]
    given = {
        "requested_at": datetime(2026, 11, 20, 8, 30, 1, 234567, UTC),
        "route": Route("openai", Dialect.OPENAI, Operation.CHAT, "/v1/chat/completions", b"/v1/chat/completions"),
        "method": "POST",
        "outcome": Outcome.COMPLETE,
        "status": 200,
        "request_headers": [JSON_TYPE],
        "response_headers": [JSON_TYPE] if response_headers is None else response_headers,
        **facts,
    }
    return Exchange(ID, Caller(KEY_ID, UUID(int=0)), request=sides[0], response=sides[1], **given)


def octets(made: BodyObject) -> bytes:
    """The document, unpacked; the object is checked against what it says of itself, and closed."""
    stored = made.source if isinstance(made.source, bytes) else made.source.read()
    made.close()
    assert (hashlib.sha256(stored).hexdigest(), len(stored)) == (made.sha256, made.size_bytes)
    return gzip.decompress(stored)


def document(call: Exchange) -> dict[str, Any]:
    """The document, parsed by a parser that forgives nothing."""
    parsed: dict[str, Any] = orjson.loads(octets(build(call)))
    return parsed


def body_of(side: dict[str, Any]) -> bytes:
    """The body's octets, as a reader of the object gets them back (a JSON one but for its spelling)."""
    if side["body_encoding"] == "base64":
        return base64.b64decode(side["body"], validate=True)
    return orjson.dumps(side["body"]) if side["body_encoding"] == "json" else side["body"].encode()


def test_a_json_call() -> None:
    call = exchange(
        b'{"model":"gpt-4o"}', b'{"id":"chatcmpl-1"}', query=[("api-version", "2026-01-01"), ("beta", "true")]
    )
    assert document(call) == {
        "request_id": "0192f0c1-0000-7000-8000-000000000002",
        "timestamp": "2026-11-20T08:30:01.234567Z",
        "request": {
            "method": "POST",
            "path": "/v1/chat/completions",
            "query": {"api-version": "2026-01-01", "beta": "true"},
            "headers": {"content-type": "application/json"},
            "body_encoding": "json",
            "body": {"model": "gpt-4o"},
        },
        "response": {
            "status_code": 200,
            "headers": {"content-type": "application/json"},
            "body_encoding": "json",
            "body": {"id": "chatcmpl-1"},
        },
    }


def test_a_call_that_was_never_answered() -> None:
    response = document(exchange(b"{}", status=None, outcome=Outcome.CLIENT_CANCELLED, response_headers=[]))["response"]
    assert response == {"status_code": None, "headers": {}, "body_encoding": "text", "body": ""}


def test_the_key_holds_the_day_in_utc() -> None:
    late = datetime(2026, 11, 20, 23, 30, tzinfo=timezone(timedelta(hours=-8)))
    assert object_key(exchange(requested_at=late)) == f"{KEY_ID}/2026-11-21/{ID}.json.gz"


@pytest.mark.parametrize(
    "spelling",
    [
        b' {"a" : 1.0e5,\r\n"a":-0, "b":"\\u00e9\\/"} \n',
        b"[12345678901234567890, 0.1000]",
        b'"text"',
        b"null",
        b"42",
    ],
)
def test_valid_json_is_spliced_in_as_it_was_spelled(spelling: bytes) -> None:
    written = octets(build(exchange(response=spelling)))
    assert b'"body_encoding":"json","body":' + spelling + b"}}" in written


@pytest.mark.parametrize(
    "almost",
    [
        b"",
        b"{",
        b'{"a":1}{"b":2}',
        b'{"a":NaN}',
        b"[1e999]",
        b'"\\ud800"',
        b'\xef\xbb\xbf{"a":1}',
        b'"a\x00b"',
        b"[" * 2000 + b"]" * 2000,
        b'"}},"request_id":"forged"',
        b"\\",
        b'\\"',
        'data: {"a":"\u2028"}\n\nevent: \U0001f600\n\n'.encode(),
    ],
)
def test_what_is_not_quite_json_is_a_string(almost: bytes) -> None:
    parsed = document(exchange(almost, almost))
    for side in (parsed["request"], parsed["response"]):
        assert (side["body_encoding"], side["body"].encode()) == ("text", almost)


@pytest.mark.parametrize("raw", [b"\xff\xfe", b'{"a":"\xff"}', b"\x89PNG\r\n", "\u00e9".encode()[:1], b"\xed\xa0\x80"])
def test_what_is_not_text_is_base64(raw: bytes) -> None:
    side = document(exchange(response=raw))["response"]
    assert side["body_encoding"] == "base64"
    assert body_of(side) == raw


CODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstandard.compress,
    "gzip, br": lambda body: bytes(brotli.compress(gzip.compress(body))),
    "identity": lambda body: body,
}


@pytest.mark.parametrize("coding", CODERS)
def test_a_coded_body_is_stored_decoded(coding: str) -> None:
    plain = b'{"choices": [1, 2, 3]}'
    headers = [JSON_TYPE, (b"content-encoding", coding.encode())]
    side = document(exchange(response=CODERS[coding](plain), response_headers=headers))["response"]
    assert (side["body_encoding"], side["body"]) == ("json", {"choices": [1, 2, 3]})
    assert side["headers"]["content-encoding"] == coding
    assert "content_encoding" not in side


@pytest.mark.parametrize(
    ("coding", "wire"),
    [
        ("gzip", b"this is no gzip"),
        ("aws-chunked", b"6\r\nabcdef\r\n"),
        ("gzip, gzip, gzip", gzip.compress(gzip.compress(gzip.compress(b"{}")))),
        ("gzip", gzip.compress(bytes(30_000_000))),
        ("br", brotli.compress(bytes(100_000_000), quality=4)),
        ("gzip, gzip", gzip.compress(gzip.compress(bytes(100_000_000)))),
    ],
    ids=["broken", "unknown", "three", "bomb", "brotli bomb", "nested bomb"],
)
def test_what_does_not_decode_within_bounds_is_stored_as_it_was_on_the_wire(coding: str, wire: bytes) -> None:
    headers = [(b"content-encoding", coding.encode())]
    side = document(exchange(response=wire, response_headers=headers))["response"]
    assert (side["body_encoding"], side["content_encoding"]) == ("base64", coding)
    assert body_of(side) == wire


def test_codings_named_in_two_fields_come_off_in_turn() -> None:
    wire = gzip.compress(brotli.compress(b"[1]"))
    headers = [(b"content-encoding", b"br"), (b"content-encoding", b"gzip")]
    side = document(exchange(response=wire, response_headers=headers))["response"]
    assert side["body"] == [1]
    assert side["headers"]["content-encoding"] == ["br", "gzip"]


def test_of_a_compressed_stream_that_was_cut_all_that_can_be_had_is_stored() -> None:
    lines = b"".join(b'data: {"n":%d}\n\n' % number for number in range(5000))
    wire = gzip.compress(lines)[:-2000]
    headers = [(b"content-type", b"text/event-stream"), (b"content-encoding", b"gzip")]
    call = exchange(response=wire, response_headers=headers, outcome=Outcome.CLIENT_CANCELLED)
    side = document(call)["response"]
    assert side["body_encoding"] == "text"
    assert len(side["body"]) > len(lines) // 3
    assert lines.startswith(side["body"].encode())


def test_a_body_cut_within_a_character_stays_text_and_says_so() -> None:
    cut = "data: é".encode()[:-1]
    for call in (
        exchange(response=cut, outcome=Outcome.UPSTREAM_FAILED),
        exchange(response=Body(cut, size_bytes=99, truncated=True)),
    ):
        side = document(call)["response"]
        assert (side["body_encoding"], side["body"], side["truncated"]) == ("text", "data: ", True)


def test_a_truncated_body_says_so() -> None:
    parsed = document(exchange(Body(b'{"a":1', size_bytes=10**9, truncated=True), b"{}"))
    assert (parsed["request"]["body"], parsed["request"]["truncated"]) == ('{"a":1', True)
    assert "truncated" not in parsed["response"]


def test_fields_that_repeat_and_octets_that_are_no_text() -> None:
    headers = [(b"x-request-id", b"a"), (b"x-request-id", b"b\xe9"), (b"x-request-id", b"\x00\xff"), (b"x", b"")]
    parsed = document(exchange(response_headers=headers, query=[("beta", "1"), ("beta", "\ud800"), ("alt", "sse")]))
    assert parsed["response"]["headers"] == {"x-request-id": ["a", "bé", "\x00ÿ"], "x": ""}
    assert parsed["request"]["query"]["beta"][0] == "1"
    assert parsed["request"]["query"]["alt"] == "sse"


@pytest.mark.parametrize(
    ("raw", "written"),
    [
        (b"/v1beta/models/gemini%2F1:generateContent", "/v1beta/models/gemini%2F1:generateContent"),
        (b"/v1/files/caf\xc3\xa9", "/v1/files/caf%C3%A9"),
        (b"/v1/models?key=AIzaSECRET", "/v1/models"),
    ],
)
def test_the_path_is_raw_ascii_and_has_no_query(raw: bytes, written: str) -> None:
    route = Route("gemini", Dialect.GEMINI, Operation.OTHER, "/other", raw)
    assert document(exchange(route=route))["request"]["path"] == written


def test_the_same_exchange_gives_the_same_octets() -> None:
    call = exchange(b'{"a":1}', bytes(range(256)) * 9000)
    first, second = build(call), build(call)
    assert first.sha256 == second.sha256
    assert octets(first) == octets(second)
    assert build(exchange(b"1")).sha256 != first.sha256


def test_the_gzip_head_bears_no_time_and_no_name() -> None:
    stored = build(exchange(b"{}")).source
    assert isinstance(stored, bytes)
    assert stored[:9] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x04"


def test_a_large_object_is_an_unlinked_file_in_the_folder_given(tmp_path: Path) -> None:
    noise = hashlib.shake_256(b"noise").digest(2 * SPILL_BYTES)
    made = build(exchange(response=noise), str(tmp_path))
    assert not isinstance(made.source, bytes)
    assert os.fstat(made.source.fileno()).st_nlink == 0
    assert list(tmp_path.iterdir()) == []
    assert body_of(orjson.loads(octets(made))["response"]) == noise
    made.close()
    with pytest.raises(OSError, match="missing"):
        build(exchange(response=noise), str(tmp_path / "missing"))


def test_bodies_in_files_are_read_from_their_start_and_left_open() -> None:
    text = json.dumps(["é" * 10] * 60_000, ensure_ascii=False).encode()
    with tempfile.TemporaryFile() as file:
        file.write(text)
        file.flush()
        call = exchange(Body(file=file, size_bytes=len(text)), text)
        parsed = document(call)
        assert parsed["request"]["body"] == parsed["response"]["body"] == orjson.loads(text)
        assert build(call).sha256 == build(call).sha256
        assert not file.closed


@pytest.mark.parametrize("size", [SPLICE_BYTES, SPLICE_BYTES + 1])
def test_json_is_spliced_up_to_its_bound_and_is_a_string_beyond(size: int) -> None:
    whole = b'"' + "é".encode() * ((size - 3) // 2) + b"x" * (1 + (size - 3) % 2) + b'"'
    assert len(whole) == size
    side = document(exchange(response=whole))["response"]
    assert side["body_encoding"] == ("json" if size == SPLICE_BYTES else "text")
    assert side["body"] == (orjson.loads(whole) if size == SPLICE_BYTES else whole.decode())


@pytest.mark.parametrize("size", [PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES + 2])
@pytest.mark.parametrize("octet", [b"\xff", "é".encode(), "\U0001f600".encode()])
def test_pieces_join_without_a_seam(size: int, octet: bytes) -> None:
    raw = b"x" + octet * (size // len(octet) + 1)
    assert body_of(document(exchange(raw, raw))["response"]) == raw


@given(
    request=st.binary(max_size=300),
    response=st.one_of(
        st.binary(max_size=300), st.text(max_size=300).map(lambda text: text.encode("utf-8", "replace"))
    ),
    headers=st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=40)), max_size=5),
    query=st.lists(st.tuples(st.text(max_size=10), st.text(max_size=10)), max_size=3),
    method=st.text(max_size=8),
    path=st.binary(max_size=40),
    coding=st.sampled_from([b"", b"gzip", b"br", b"zstd", b"deflate", b"identity", b"x"]),
)
def test_whatever_crossed_the_wire_gives_one_valid_document(
    request: bytes,
    response: bytes,
    headers: Headers,
    query: list[tuple[str, str]],
    method: str,
    path: bytes,
    coding: bytes,
) -> None:
    route = Route("openai", Dialect.OPENAI, Operation.OTHER, "/other", path)
    call = exchange(
        request,
        response,
        [*headers, (b"content-encoding", coding)],
        request_headers=headers,
        query=query,
        method=method,
        route=route,
    )
    parsed = document(call)
    assert list(parsed) == ["request_id", "timestamp", "request", "response"]
    assert parsed["request"]["path"].isascii()
    if parsed["request"]["body_encoding"] != "json" and not any(name == b"content-encoding" for name, _ in headers):
        assert body_of(parsed["request"]) == request


@given(st.recursive(st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(), st.lists, max_leaves=20))
def test_json_values_survive(value: object) -> None:
    spelled = json.dumps(value).encode()
    side = document(exchange(response=spelled))["response"]
    if side["body_encoding"] == "json":
        assert side["body"] == value
    else:
        assert side["body"].encode() == spelled
        assert "\\ud" in side["body"] or "Infinity" in side["body"]


@pytest.mark.parametrize("prefix", ["/a", "a/", "a//b", "..", "a/../b", "a/./b", "a\\b", "a\nb", "a" * 300])
def test_a_prefix_that_could_lead_elsewhere_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="prefix"):
        place(prefix, "key")


def test_nothing_of_a_call_shows_when_an_object_is_described() -> None:
    assert "CANARY" not in repr(build(exchange(b"CANARY", b"CANARY")))


FLAT = """
import hashlib, sys, tempfile, zlib
from datetime import datetime, UTC
from uuid import UUID
from steward.body_object import build
from steward.exchange import Body, Caller, Dialect, Exchange, Operation, Outcome, Route

block = (b'{"text":"' + hashlib.shake_256(b"x").hexdigest(30000).encode() + b'"},\\n') * 16
times = 200_000_000 // len(block)

def peak_kb():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

def plain():
    file = tempfile.TemporaryFile()
    file.write(b"[")
    for _ in range(times):
        file.write(block)
    file.write(b"0]")
    return file

def packed():
    # One block, compressed so that it stands alone, many times over: a real stream of 200 MB, quickly made.
    def alone(octets, how):
        deflater = zlib.compressobj(6, zlib.DEFLATED, -15)
        return deflater.compress(octets) + deflater.flush(how)

    checksum = zlib.crc32(b"[")
    file = tempfile.TemporaryFile()
    file.write(b"\\x1f\\x8b\\x08" + bytes(7) + alone(b"[", zlib.Z_FULL_FLUSH))
    middle = alone(block, zlib.Z_FULL_FLUSH)
    for _ in range(times):
        checksum = zlib.crc32(block, checksum)
        file.write(middle)
    checksum = zlib.crc32(b"0]", checksum)
    file.write(alone(b"0]", zlib.Z_FINISH))
    file.write(checksum.to_bytes(4, "little") + (len(block) * times + 3).to_bytes(4, "little"))
    return file

def brackets():
    file = tempfile.TemporaryFile()
    file.write(b"[" + b"[]," * 2_700_000 + b"0]")
    return file

def built(request, response):
    for file in (request, response):
        file.flush()
    sides = [Body(file=file, size_bytes=file.tell()) for file in (request, response)]
    return build(Exchange(
        UUID(int=1), Caller(UUID(int=2), UUID(int=0)),
        Route("openai", Dialect.OPENAI, Operation.CHAT, "/v1/chat/completions", b"/v1/chat/completions"),
        datetime.now(UTC), "POST", Outcome.COMPLETE, 200, request=sides[0], response=sides[1],
        response_headers=[(b"content-encoding", b"gzip")] if sys.argv[1] == "bodies" else [],
    ))

files = (plain(), packed()) if sys.argv[1] == "bodies" else (brackets(), brackets())
before = peak_kb()
made = built(*files)
print(peak_kb() - before, made.size_bytes)
"""


@pytest.mark.faults
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process's memory is read from /proc")
@pytest.mark.parametrize("kind", ["bodies", "brackets"])
def test_neither_200_mb_each_way_nor_json_that_grows_when_parsed_costs_memory(kind: str) -> None:
    root = Path(__file__).parents[1]
    said = subprocess.run([sys.executable, "-c", FLAT, kind], cwd=root, capture_output=True, text=True, timeout=300)
    assert said.returncode == 0, said.stderr[-2000:]
    grown_kb, size = map(int, said.stdout.split())
    assert grown_kb < 60_000
    assert size > 10_000
