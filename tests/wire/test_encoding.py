"""Codings are undone whatever the pieces, and bombs are put down."""

from __future__ import annotations

import gzip
import random
import zlib
from collections.abc import Callable, Iterator
from functools import cache

import brotli  # type: ignore[import-untyped]
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from steward.wire.encoding import (
    FREE_BYTES,
    MAX_DECODED_BYTES,
    MAX_MEMBERS,
    MAX_RATIO,
    TooMuch,
    Undecodable,
    codings,
    decoded,
)


def _raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def _zstd_stream(data: bytes) -> bytes:
    packer = zstandard.ZstdCompressor().compressobj()
    return packer.compress(data) + packer.flush()


PACKERS: dict[str, tuple[bytes, Callable[[bytes], bytes]]] = {
    "gzip": (b"gzip", gzip.compress),
    "x-gzip": (b"x-gzip", gzip.compress),
    "deflate": (b"deflate", zlib.compress),
    "raw deflate": (b"deflate", _raw_deflate),
    "br": (b"br", brotli.compress),
    "zstd": (b"zstd", _zstd_stream),
}
NAMES = list(PACKERS)
TEXT = b"".join(b'{"n":%d,"text":"the quick brown fox"},' % number for number in range(9000))


def whole(pieces: Iterator[bytes]) -> bytes:
    return b"".join(pieces)


def cut(data: bytes, step: int) -> Iterator[bytes]:
    return (data[at : at + step] for at in range(0, len(data), step))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("step", [1, 7, 4096, 10**9])
def test_each_coding_in_pieces_of_any_size(name: str, step: int) -> None:
    coding, pack = PACKERS[name]
    text = TEXT if step > 1 else TEXT[:5000]
    assert whole(decoded(cut(pack(text), step), [coding])) == text


@pytest.mark.parametrize("inner", NAMES)
@pytest.mark.parametrize("outer", NAMES)
def test_two_codings(inner: str, outer: str) -> None:
    (first, pack_first), (second, pack_second) = PACKERS[inner], PACKERS[outer]
    assert whole(decoded([pack_second(pack_first(TEXT))], [first, second])) == TEXT


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_nothing(name: str) -> None:
    coding, pack = PACKERS[name]
    assert whole(decoded([], [coding])) == b""
    assert whole(decoded([pack(b"")], [coding])) == b""


def test_no_coding_passes_pieces_on() -> None:
    assert list(decoded([b"a", b"b"], [])) == [b"a", b"b"]


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_body_yields_what_can_be_had(name: str) -> None:
    coding, pack = PACKERS[name]
    noise = random.Random(7).randbytes(150_000)
    packed = pack(noise)
    had = whole(decoded(cut(packed[: len(packed) // 2], 1000), [coding]))
    assert noise.startswith(had)
    assert had or name == "zstd"  # whose blocks are 128 KiB, and the first is cut


def test_gzip_members_follow_one_another_and_rubbish_after_them_is_let_go() -> None:
    packed = gzip.compress(b"one") + gzip.compress(b"two")
    for step in (1, 5, 1000):
        assert whole(decoded(cut(packed, step), [b"gzip"])) == b"onetwo"
    assert whole(decoded([packed + b"rubbish"], [b"gzip"])) == b"onetwo"


def test_what_follows_the_end_is_let_go() -> None:
    assert whole(decoded([zlib.compress(b"x") + b"rest"], [b"deflate"])) == b"x"
    assert whole(decoded([brotli.compress(b"x"), b"rest"], [b"br"])) == b"x"


@pytest.mark.parametrize("name", NAMES)
def test_garbage_is_undecodable(name: str) -> None:
    with pytest.raises(Undecodable):
        whole(decoded([b"\xff\xfe this is no compressed body at all" * 9], [PACKERS[name][0]]))


@pytest.mark.parametrize(
    ("fields", "applied"),
    [
        ([], []),
        ([b""], []),
        ([b"identity"], []),
        ([b"GZip"], [b"gzip"]),
        ([b" gzip , br "], [b"gzip", b"br"]),
        ([b"gzip", b"zstd"], [b"gzip", b"zstd"]),
        ([b"identity, deflate"], [b"deflate"]),
    ],
)
def test_the_header_says_what_was_applied(fields: list[bytes], applied: list[bytes]) -> None:
    assert codings(fields) == applied


def test_unknown_codings_and_three_of_them_are_refused() -> None:
    for fields in ([b"compress"], [b"gzip, aws-chunked"], [b"\xff"]):
        with pytest.raises(Undecodable):
            codings(fields)
    with pytest.raises(TooMuch):
        codings([b"gzip, gzip", b"gzip"])


@cache
def bomb(name: str) -> bytes:
    """100 MB of blanks in few octets."""
    if name == "br":
        return bytes(brotli.compress(b" " * 100_000_000, quality=4))
    return PACKERS[name][1](b" " * 100_000_000)


@pytest.mark.parametrize("outer", [None, "gzip", "raw deflate", "br", "zstd"])
@pytest.mark.parametrize("inner", ["gzip", "raw deflate", "br", "zstd"])
def test_bombs_are_put_down_early(inner: str, outer: str | None) -> None:
    """Given up by the ratio, long before 64 MiB, and never more than a step at a time."""
    packed, applied = bomb(inner), [PACKERS[inner][0]]
    if outer is not None:
        packed, applied = PACKERS[outer][1](packed), [*applied, PACKERS[outer][0]]
    sizes: list[int] = []
    with pytest.raises(TooMuch):
        sizes.extend(map(len, decoded([packed], applied)))
    assert max(sizes) <= 256 * 1024
    assert sum(sizes) <= FREE_BYTES + MAX_RATIO * len(packed)


def test_64_mib_are_the_end_also_at_a_modest_ratio() -> None:
    block = random.Random(7).randbytes(16_384)
    packed = zlib.compressobj()
    pieces = [packed.compress(block + b"\0" * 300_000) for _ in range(300)]
    sizes: list[int] = []
    with pytest.raises(TooMuch):
        sizes.extend(map(len, decoded([*pieces, packed.flush()], [b"deflate"])))
    assert MAX_DECODED_BYTES - 65_536 < sum(sizes) <= MAX_DECODED_BYTES


def test_a_flood_of_empty_members_is_put_down() -> None:
    with pytest.raises(TooMuch):
        whole(decoded([gzip.compress(b"") * (MAX_MEMBERS + 5)], [b"gzip"]))


def test_a_zstd_window_beyond_the_coding_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=25, write_content_size=0)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    packed = packer.compress(random.Random(7).randbytes(100_000)) + packer.flush()
    with pytest.raises(Undecodable):
        whole(decoded([packed], [b"zstd"]))


@given(st.sampled_from(NAMES), st.binary(max_size=300), st.integers(1, 50), st.integers(0, 300), st.binary(max_size=4))
def test_damage_is_undecodable_or_harmless(name: str, text: bytes, step: int, at: int, damage: bytes) -> None:
    coding, pack = PACKERS[name]
    packed = pack(text)
    packed = packed[:at] + damage + packed[at + len(damage) :]
    try:
        out = whole(decoded(cut(packed, step), [coding, coding][: 1 + at % 2]))
    except Undecodable:
        return
    assert isinstance(out, bytes)
