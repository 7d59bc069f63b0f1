"""Seals: answers known from another implementation, and refusal of everything that was moved or changed."""

from __future__ import annotations

import hashlib
import hmac
import itertools
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steward.errors import SealBroken
from steward.seal import OVERHEAD_BYTES, Keyring, Purpose, SealFacts
from steward.words import Secret

KEY = bytes(range(32))
NONCE = bytes(range(100, 112))
FACTS = SealFacts(
    row_id="row-1",
    org_id=UUID("0198c0de-0000-7000-8000-000000000001"),
    owner="user-2",
    provider="openai",
    destination="https://api.openai.com",
)
PLAINTEXT = b"sk-known-answer"


def ring(key: bytes = KEY) -> Keyring:
    return Keyring(Secret(key))


def hkdf(label: str, length: int) -> bytes:
    """RFC 5869 by its text, for one block of output."""
    extracted = hmac.digest(bytes(32), KEY, "sha256")
    return hmac.digest(extracted, f"majordomo-steward/1/{label}".encode() + b"\x01", "sha256")[:length]


@pytest.mark.parametrize("purpose", Purpose)
def test_a_subkey_is_hkdf_of_the_purpose(purpose: Purpose) -> None:
    assert ring().subkey(purpose).reveal() == hkdf(f"subkey/{purpose.value}", 32)


def test_the_key_id_names_the_key_and_is_no_part_of_it() -> None:
    assert ring().key_id == hkdf("key-id", 8)
    assert ring().key_id.hex() == "545063baca730a16"


@pytest.mark.parametrize(
    ("purpose", "sealed"),
    [
        (
            Purpose.SECRETS,
            "01545063baca730a166465666768696a6b6c6d6e6f572f30c6a49113ae4b7ab425951cc1c1d679c3eba0a17ec953e65c90511f74",
        ),
        (
            Purpose.SPOOL,
            "01545063baca730a166465666768696a6b6c6d6e6fa1a38e9cbda3e6d13b0ecf5f52f943473de7e16261796fa62a3ff8f49ea840",
        ),
        (
            Purpose.QUEUE,
            "01545063baca730a166465666768696a6b6c6d6e6fceada74ccbb3b3c04d9937fefefaab59a5252c3895de961376a2d1d9115e56",
        ),
        (
            Purpose.APPROVALS,
            "01545063baca730a166465666768696a6b6c6d6e6f5dbbfd6c239e208821e9723338eaf99aaaea46af5c6d708c545edbc9c9854d",
        ),
        (
            Purpose.PROVIDER_KEY_HASH,
            "01545063baca730a166465666768696a6b6c6d6e6fe9c40652d56893814f50d327008341365c00f9c46d2a80e6da5d7a87b5e27a",
        ),
        (
            Purpose.SYSTEM_PROMPT_HASH,
            "01545063baca730a166465666768696a6b6c6d6e6f1bc17e8dc72837bb73fb347138e7abc10a2bba21d497b3853c36b53ba64b75",
        ),
        (
            Purpose.BUTLER,
            "01545063baca730a166465666768696a6b6c6d6e6fc3614aed86a66cc21b448b6e54f1d249270ddcb2cac164047861b46a524fb9",
        ),
    ],
)
def test_known_answers(purpose: Purpose, sealed: str) -> None:
    """Made with another implementation of HKDF and AES-GCM (Node's, over OpenSSL). They must hold for ever."""
    assert ring().seal(purpose, PLAINTEXT, FACTS, NONCE).hex() == sealed
    assert ring().open(purpose, bytes.fromhex(sealed), FACTS).reveal() == PLAINTEXT


OTHERS = {
    "row": SealFacts("row-2", FACTS.org_id, "user-2", "openai", "https://api.openai.com"),
    "organisation": SealFacts("row-1", UUID(int=1), "user-2", "openai", "https://api.openai.com"),
    "no organisation": SealFacts("row-1", None, "user-2", "openai", "https://api.openai.com"),
    "owner": SealFacts("row-1", FACTS.org_id, "user-3", "openai", "https://api.openai.com"),
    "provider": SealFacts("row-1", FACTS.org_id, "user-2", "gemini", "https://api.openai.com"),
    "destination": SealFacts("row-1", FACTS.org_id, "user-2", "openai", "https://evil.example"),
    "a border moved": SealFacts("row-1", FACTS.org_id, "user-2", "openaih", "ttps://api.openai.com"),
}


def test_no_two_places_can_swap_their_ciphertexts() -> None:
    keyring = ring()
    places = [(purpose, facts) for purpose in Purpose for facts in (FACTS, *OTHERS.values())]
    sealed = {place: keyring.seal(*(place[0], PLAINTEXT, place[1])) for place in places}
    for here, there in itertools.permutations(places, 2):
        with pytest.raises(SealBroken):
            keyring.open(here[0], sealed[there], here[1])


def test_every_single_bit_counts() -> None:
    keyring = ring()
    sealed = keyring.seal(Purpose.SECRETS, PLAINTEXT, FACTS)
    for bit in range(len(sealed) * 8):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SealBroken):
            keyring.open(Purpose.SECRETS, bytes(changed), FACTS)


def test_every_cut_and_every_tail_is_refused() -> None:
    keyring = ring()
    sealed = keyring.seal(Purpose.SECRETS, PLAINTEXT, FACTS)
    for broken in [*(sealed[:length] for length in range(len(sealed))), sealed + b"\0"]:
        with pytest.raises(SealBroken):
            keyring.open(Purpose.SECRETS, broken, FACTS)


def test_another_key_opens_nothing() -> None:
    sealed = ring().seal(Purpose.SECRETS, PLAINTEXT, FACTS)
    with pytest.raises(SealBroken):
        ring(hashlib.sha256(b"another").digest()).open(Purpose.SECRETS, sealed, FACTS)


@given(plaintext=st.binary(max_size=200), row=st.text(max_size=20), owner=st.text(max_size=20))
def test_what_was_sealed_opens(plaintext: bytes, row: str, owner: str) -> None:
    facts = SealFacts(row_id=row, owner=owner)
    sealed = ring().seal(Purpose.QUEUE, plaintext, facts)
    assert len(sealed) == len(plaintext) + OVERHEAD_BYTES
    assert ring().open(Purpose.QUEUE, sealed, facts).reveal() == plaintext


def test_the_same_value_is_never_sealed_the_same() -> None:
    keyring = ring()
    assert keyring.seal(Purpose.SECRETS, PLAINTEXT, FACTS) != keyring.seal(Purpose.SECRETS, PLAINTEXT, FACTS)


@pytest.mark.parametrize("length", [0, 16, 31, 33, 64])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="32 octets"):
        ring(bytes(length))


def test_a_nonce_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="12 octets"):
        ring().seal(Purpose.SECRETS, PLAINTEXT, FACTS, bytes(8))


def test_nothing_prints_the_key() -> None:
    keyring = ring()
    said = f"{keyring!r} {keyring} {keyring.subkey(Purpose.SPOOL)!r}"
    assert KEY.hex() not in said
    assert keyring.subkey(Purpose.SPOOL).reveal().hex() not in said
