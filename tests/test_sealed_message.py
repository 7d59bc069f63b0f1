"""A sealed message opens for its queue, its call and its key, as it was made, and in no other case."""

from __future__ import annotations

import base64
import io
import tempfile
import tracemalloc
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, cast
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steward.errors import MessageRefused
from steward.exchange import Body, Caller, Exchange
from steward.seal import Keyring
from steward.sealed_message import IN_MEMORY_BYTES, Claim, MessageSealer, queued_key
from steward.words import Secret
from tests.exchanges import exchange, route

KEYRING = Keyring(Secret(bytes(range(32))))
QUEUE = "123456789012/calls"
SEALER = MessageSealer(KEYRING, QUEUE)
MUCH = 1 << 30
CANARY = b"CANARY-5eal"


def call(asked: bytes = CANARY, answer: bytes = b"answer", number: int = 7) -> Exchange:
    made = exchange(route("/v1/chat/completions"), answer, asked=asked, tags={"team": "\0\ud800"})
    made.id = UUID(int=number)
    made.request.size_bytes, made.response.size_bytes = len(asked), len(answer)
    return made


def in_file(octets: bytes) -> Body:
    file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 - the body closes it
    file.write(octets)
    return Body(b"", file, len(octets))


def sealed(one: Exchange) -> str:
    text = SEALER.whole(one, MUCH)
    assert text is not None
    return text


def opened(message: str | bytes, sealer: MessageSealer = SEALER) -> Exchange:
    found = sealer.open(message)
    assert isinstance(found, Exchange)
    return found


def reason(message: str | bytes, sealer: MessageSealer = SEALER) -> str:
    with pytest.raises(MessageRefused) as refused:
        sealer.open(message)
    return refused.value.reason


def claim_of(one: Exchange, sealer: MessageSealer = SEALER) -> tuple[Claim, bytes]:
    made = sealer.object(one)
    octets = made.source.read()
    made.source.close()
    claim = Claim(one.id, one.caller, one.requested_at, None, made.sha256, made.size_bytes, made.key)
    assert len(octets) == made.size_bytes
    return claim, octets


def bodies(one: Exchange) -> tuple[bytes, bytes]:
    """Both sides, of a call that nobody looks at any more."""
    both = one.request.content().reveal(), one.response.content().reveal()
    one.request.close()
    one.response.close()
    return both


def test_a_call_opens_as_it_was_sealed_as_text_and_as_octets() -> None:
    one = call()
    text = sealed(one)
    for message in (text, text.encode(), base64.b64decode(text)):
        found = opened(message)
        assert bodies(found) == bodies(one)
        assert (found.id, found.caller, found.route, found.requested_at) == (
            *(one.id, one.caller, one.route, one.requested_at),
        )
        assert dict(found.tags) == dict(one.tags)


def test_nothing_of_it_can_be_read_and_no_two_are_alike() -> None:
    first, second = (base64.b64decode(sealed(call())) for _ in range(2))
    assert first != second
    assert CANARY not in first
    assert len({first[40:], second[40:]}) == 2


def test_a_text_is_of_letters_that_every_queue_takes() -> None:
    text = sealed(call())
    assert text.isascii() and text.isprintable() and not {" ", '"', "<", "&"} & set(text)


@pytest.mark.parametrize("spare", [-1, 0, 1])
def test_the_bound_is_of_the_text_as_it_is_sent(spare: int) -> None:
    text = sealed(call())
    again = SEALER.whole(call(), len(text) + spare)
    assert (again is not None) == (spare >= 0)


def test_bodies_in_files_go_along_when_they_fit() -> None:
    one = call()
    one.request, one.response = in_file(b"q" * 1000), in_file(b"r" * 3000)
    assert bodies(opened(sealed(one))) == bodies(one) == (b"q" * 1000, b"r" * 3000)


def test_another_queue_key_or_version_does_not_open() -> None:
    text = sealed(call())
    octets = base64.b64decode(text)
    assert reason(text, MessageSealer(KEYRING, "123456789012/other")) == "not_sealed_here"
    assert reason(text, MessageSealer(Keyring(Secret(bytes(range(1, 33)))), QUEUE)) == "other_key"
    assert reason(bytes((2,)) + octets[1:]) == "other_version"


def test_another_calls_id_does_not_open() -> None:
    octets = bytearray(base64.b64decode(sealed(call())))
    at = bytes(octets).index(UUID(int=7).bytes)
    octets[at : at + 16] = UUID(int=8).bytes
    assert reason(bytes(octets)) == "not_sealed_here"


def test_no_octet_of_it_can_be_changed_and_none_left_out() -> None:
    octets = base64.b64decode(sealed(call(b"q", b"r")))
    for at in range(len(octets)):
        changed = octets[:at] + bytes((octets[at] ^ 1,)) + octets[at + 1 :]
        assert reason(base64.b64encode(changed)) in {"not_sealed_here", "other_key", "other_version"}
        assert reason(base64.b64encode(octets[:at])) in {"not_sealed_here", "not_a_message"}
    assert reason(base64.b64encode(octets + b"\0")) == "not_sealed_here"


@given(st.one_of(st.binary(max_size=300), st.text(max_size=300)))
def test_whatever_else_lies_in_the_queue_is_refused_and_nothing_more(message: str | bytes) -> None:
    assert reason(message) in {"not_a_message", "other_version", "other_key"}


@pytest.mark.parametrize("size", [0, 10, 64 * 1024, 3 * 64 * 1024 + 1, IN_MEMORY_BYTES + 1, 2_000_001])
def test_a_large_call_opens_from_its_object(size: int) -> None:
    one = call(b"", b"small")
    one.request = in_file(b"q" * size)
    claim, octets = claim_of(one)
    found = SEALER.open_object(claim, octets)
    assert (found.request.file is not None) == (size > IN_MEMORY_BYTES)
    assert bodies(found) == bodies(one) == (b"q" * size, b"small")
    assert found.id == one.id


def test_the_claim_says_ids_hash_and_key_and_neither_bucket_nor_place() -> None:
    one = call()
    one.caller = Caller(UUID(int=1), UUID(int=2), UUID(int=3), UUID(int=4))
    claim, _ = claim_of(one)
    claim = replace(claim, config_id=UUID(int=5))
    assert SEALER.open(SEALER.claim(claim)) == claim
    assert claim.object_key == f"queued/{UUID(int=2)}/2026/11/20/{one.id}"


def test_the_day_of_an_objects_key_is_that_of_utc() -> None:
    late = datetime.fromisoformat("2026-11-20T23:30:00-05:00")
    assert queued_key(UUID(int=2), late, UUID(int=7)) == f"queued/{UUID(int=2)}/2026/11/21/{UUID(int=7)}"
    assert late.astimezone(UTC).day == 21


def test_an_object_of_another_call_queue_or_key_is_refused() -> None:
    claim, octets = claim_of(call(b"one"))
    other_claim, other = claim_of(call(b"two", number=8))
    refused = [
        (claim, other),
        (claim, octets[:-1]),
        (claim, octets[:-1] + bytes((octets[-1] ^ 1,))),
        (claim, b""),
        (replace(other_claim, sha256=claim.sha256, size_bytes=claim.size_bytes), octets),
        (replace(claim, key=other_claim.key), octets),
        (replace(claim, id=UUID(int=8)), octets),
    ]
    for wrong, given_octets in refused:
        with pytest.raises(MessageRefused):
            SEALER.open_object(wrong, given_octets)
    with pytest.raises(MessageRefused):
        MessageSealer(KEYRING, "123456789012/other").open_object(claim, octets)


def test_a_large_body_is_sealed_piece_by_piece(tmp_path: Path) -> None:
    one = call(b"", b"r")
    one.request = in_file(bytes(24 << 20))
    tracemalloc.start()
    made = SEALER.object(one, str(tmp_path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20
    assert made.source.seek(0, io.SEEK_END) == made.size_bytes > 24 << 20
    made.source.close()
    one.request.close()
    assert list(tmp_path.iterdir()) == []
