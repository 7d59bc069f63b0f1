"""One call as a message that may lie in anybody's queue: sealed for one queue and one call, under a key of its own.

Pure: it opens no connection and asks no clock. A message tells who reads it in the queue its call's id and its length;
whoever writes into the queue can make none, change none and move none to another queue or call (SECURITY F19). A call
too large for a message goes to the bucket as one sealed object, of which the message holds hash, key and ids alone.

    message: version 1 | key's id 8 | salt 32 | call's id 16 | form 1 | sealed rest, 16 longer
    object:  magic 8 | version 1 | pieces of 64 KiB, each with its tag behind it; the last one shorter

Each message's key is derived from the queue's subkey and 32 random octets of salt: no number of messages is too many
for one key. Associated data of the rest: the octets before it, and the queue's name. In clear the rest is the call's
record behind its length (form 1), and behind it the bodies that were files; or what is known of the object (form 2).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import BinaryIO, Final, cast
from uuid import UUID

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from steward.codec import Beside, Kept, decode_exchange, encode_exchange
from steward.errors import MessageRefused
from steward.exchange import Body, Caller, Exchange
from steward.seal import KEY_BYTES, KEY_ID_BYTES, TAG_BYTES, Keyring, Purpose

VERSION: Final = 1
MOST_TEXT: Final = 14 << 20
"""Characters of a message that are looked at: no queue carries more."""
IN_MEMORY_BYTES: Final = 256 * 1024
"""A body larger than this, of an object, is given back as an unlinked file."""
PIECE_BYTES: Final = 64 * 1024

_SALT_BYTES: Final = 32
_ID_BYTES: Final = 16
_ID_AT: Final = 1 + KEY_ID_BYTES + _SALT_BYTES
_HEAD_BYTES: Final = _ID_AT + _ID_BYTES + 1
_WHOLE, _CLAIM = 1, 2
_INFO: Final = b"majordomo-steward/1/queue-message/"
_OBJECT_HEADER: Final = b"MDQUEUE\n" + bytes((VERSION,))
_STEP: Final = PIECE_BYTES + TAG_BYTES
_NONCE: Final = bytes(12)
_LENGTH_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class Claim:
    """Where a large call's object is, by ids alone, and how to know and to open it."""

    id: UUID
    caller: Caller
    requested_at: datetime
    config_id: UUID | None
    """Whose store has it: the config's id; None for that of BODY_STORE_URL."""
    sha256: str
    """Hex, of the object as it is stored."""
    size_bytes: int
    key: bytes = field(repr=False)

    @property
    def object_key(self) -> str:
        """Below the store's prefix."""
        return queued_key(self.caller.org_id, self.requested_at, self.id)


@dataclass(slots=True, eq=False)
class SealedObject:
    """A large call, ready for its store: an unlinked file of its sealed octets, standing at its start."""

    source: BinaryIO
    sha256: str
    size_bytes: int
    key: bytes = field(repr=False)


def queued_key(org_id: UUID, requested_at: datetime, request_id: UUID) -> str:
    """`queued/{org}/{yyyy/mm/dd}/{request id}`, the day in UTC: what a lifecycle rule empties after some days."""
    day = requested_at.astimezone(UTC)
    return f"queued/{org_id}/{day:%Y/%m/%d}/{request_id}"


class MessageSealer:
    """Makes and opens the messages of one queue."""

    def __init__(self, keyring: Keyring, queue: str) -> None:
        """`queue`: its name, to which its messages are bound."""
        self._key_id = keyring.key_id
        self._subkey = keyring.subkey(Purpose.QUEUE)
        self._queue = queue.encode()

    def whole(self, exchange: Exchange, most_text: int) -> str | None:
        """The call as one message of at most so many characters; None when it does not fit."""
        record = _record(exchange)
        size = _LENGTH_BYTES + len(record) + _in_files(exchange)
        if _text_length(_HEAD_BYTES + size + TAG_BYTES) > most_text:
            return None
        plain = b"".join((len(record).to_bytes(_LENGTH_BYTES, "big"), record, *_of_files(exchange)))
        return self._sealed(exchange.id, _WHOLE, plain)

    def object(self, exchange: Exchange, folder: str | None = None) -> SealedObject:
        """The call as an object, in a file of `folder` (None: the system's temporary folder). Raises OSError.

        Reads the call's files piece by piece; the caller closes `source`.
        """
        key = AESGCM.generate_key(KEY_BYTES * 8)
        file = cast(BinaryIO, tempfile.TemporaryFile(dir=folder))  # noqa: SIM115 - the caller closes it
        try:
            sha256, size = _write_object(file, AESGCM(key), self._object_facts(exchange.id), _pieces(exchange))
        except BaseException:
            file.close()
            raise
        return SealedObject(file, sha256, size, key)

    def claim(self, claim: Claim) -> str:
        """The message of a call whose object is stored."""
        caller = claim.caller
        said = [
            (caller.key_id, caller.org_id, caller.user_id, caller.registration_id),
            claim.requested_at,
            claim.config_id,
            claim.sha256,
            claim.size_bytes,
            claim.key.hex(),
        ]
        return self._sealed(claim.id, _CLAIM, orjson.dumps(said))

    def open(self, message: str | bytes) -> Exchange | Claim:
        """What a message holds. Raises MessageRefused for all that was not sealed here, for this queue, as it stands.

        `message`: as it was sent, or its octets where the queue undid the base64.
        """
        octets = _octets(message)
        if len(octets) < _HEAD_BYTES + TAG_BYTES:
            raise MessageRefused("not_a_message")
        if octets[0] != VERSION:
            raise MessageRefused("other_version")
        if octets[1 : 1 + KEY_ID_BYTES] != self._key_id:
            raise MessageRefused("other_key")
        head, rest = octets[:_HEAD_BYTES], octets[_HEAD_BYTES:]
        try:
            plain = self._cipher(head).decrypt(_NONCE, rest, self._facts(head))
        except InvalidTag:
            raise MessageRefused("not_sealed_here") from None
        request_id = UUID(bytes=head[_ID_AT : _ID_AT + _ID_BYTES])
        try:
            found = _exchange_of(_Memory(plain)) if head[-1] == _WHOLE else _claim_of(request_id, plain)
        except (ValueError, TypeError, LookupError, AttributeError) as exc:
            raise MessageRefused("not_understood") from exc
        if found.id != request_id:
            raise MessageRefused("not_understood")
        return found

    def open_object(self, claim: Claim, octets: bytes, folder: str | None = None) -> Exchange:
        """The call of a claim, from what its store gave. Raises MessageRefused for any other octets, and OSError.

        Large bodies come as unlinked files in `folder`: beside the object itself, one piece at a time is in memory.
        """
        if len(octets) != claim.size_bytes or hashlib.sha256(octets).hexdigest() != claim.sha256:
            raise MessageRefused("another_object")
        if not octets.startswith(_OBJECT_HEADER):
            raise MessageRefused("other_version")
        try:
            pieces = _opened(octets, AESGCM(claim.key), self._object_facts(claim.id))
            exchange = _exchange_of(_Pieces(pieces), folder)
        except InvalidTag:
            raise MessageRefused("another_object") from None
        except (ValueError, TypeError, LookupError, AttributeError) as exc:
            raise MessageRefused("not_understood") from exc
        if exchange.id != claim.id:
            _close(exchange)
            raise MessageRefused("another_object")
        return exchange

    def _sealed(self, request_id: UUID, form: int, plain: bytes) -> str:
        salt = os.urandom(_SALT_BYTES)
        head = b"".join((bytes((VERSION,)), self._key_id, salt, request_id.bytes, bytes((form,))))
        return base64.b64encode(head + self._cipher(head).encrypt(_NONCE, plain, self._facts(head))).decode("ascii")

    def _cipher(self, head: bytes) -> AESGCM:
        """Of this message alone: its salt is in its head."""
        salt = head[1 + KEY_ID_BYTES : _ID_AT]
        return AESGCM(HKDF(SHA256(), KEY_BYTES, salt=salt, info=_INFO).derive(self._subkey.reveal()))

    def _facts(self, head: bytes) -> bytes:
        return head + self._queue

    def _object_facts(self, request_id: UUID) -> bytes:
        return _OBJECT_HEADER + request_id.bytes + self._queue


def _octets(message: str | bytes) -> bytes:
    """Undoes the base64, unless somebody did: no base64 starts with an octet as low as a version."""
    if len(message) > MOST_TEXT:
        raise MessageRefused("not_a_message")
    if isinstance(message, bytes) and message[:1] < b" ":
        return message
    try:
        return base64.b64decode(message, validate=True)
    except (binascii.Error, ValueError):
        raise MessageRefused("not_a_message") from None


def _text_length(octets: int) -> int:
    return -(-octets // 3) * 4


def _kept(body: Body) -> Kept:
    return body.data if body.file is None else Beside(b"", body.kept_bytes)


def _record(exchange: Exchange) -> bytes:
    return encode_exchange(exchange, _kept(exchange.request), _kept(exchange.response))


def _in_files(exchange: Exchange) -> int:
    return sum(body.kept_bytes for body in (exchange.request, exchange.response) if body.file is not None)


def _of_files(exchange: Exchange) -> Iterator[bytes]:
    """The octets of the bodies that are files, piece by piece, request first."""
    for body in (exchange.request, exchange.response):
        if body.file is not None:
            body.file.seek(0)
            while piece := body.file.read(PIECE_BYTES):
                yield piece


def _pieces(exchange: Exchange) -> Iterator[bytes]:
    record = _record(exchange)
    yield len(record).to_bytes(_LENGTH_BYTES, "big") + record
    yield from _of_files(exchange)


def _write_object(file: BinaryIO, cipher: AESGCM, facts: bytes, plain: Iterator[bytes]) -> tuple[str, int]:
    """Writes the object and goes back to its start; SHA-256 and length of what was written."""
    digest, size, number = hashlib.sha256(_OBJECT_HEADER), len(_OBJECT_HEADER), 0
    file.write(_OBJECT_HEADER)
    held = bytearray()
    for piece in plain:
        held += piece
        while len(held) >= PIECE_BYTES:
            sealed = cipher.encrypt(number.to_bytes(12, "big"), held[:PIECE_BYTES], facts)
            del held[:PIECE_BYTES]
            number += 1
            digest.update(sealed)
            size += file.write(sealed)
    sealed = cipher.encrypt(number.to_bytes(12, "big"), bytes(held), facts)
    digest.update(sealed)
    size += file.write(sealed)
    file.flush()
    file.seek(0)
    return digest.hexdigest(), size


def _opened(octets: bytes, cipher: AESGCM, facts: bytes) -> Iterator[bytes]:
    """Raises InvalidTag."""
    view = memoryview(octets)[len(_OBJECT_HEADER) :]
    for number, at in enumerate(range(0, len(view), _STEP)):
        yield cipher.decrypt(number.to_bytes(12, "big"), view[at : at + _STEP], facts)


class _Memory:
    """What was sealed, to be read once from its start."""

    def __init__(self, plain: bytes) -> None:
        self._plain = plain
        self._at = 0

    def take(self, size: int) -> bytes:
        """So many octets, at most to the end."""
        self._at += size
        return self._plain[self._at - size : self._at]


class _Pieces:
    """The same of pieces as they are opened."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._left = pieces
        self._held = bytearray()

    def take(self, size: int) -> bytes:
        """So many octets, at most to the end."""
        while len(self._held) < size and (piece := next(self._left, None)) is not None:
            self._held += piece
        taken = bytes(self._held[:size])
        del self._held[:size]
        return taken


def _exchange_of(plain: _Memory | _Pieces, folder: str | None = None) -> Exchange:
    """Raises ValueError and its like for what is no record, and for one that does not end where it says."""
    length = int.from_bytes(plain.take(_LENGTH_BYTES), "big")
    record = plain.take(length)
    if len(record) != length:
        raise ValueError("cut short")
    exchange, *besides = decode_exchange(record)
    try:
        for body, beside in zip((exchange.request, exchange.response), besides, strict=True):
            if beside is not None:
                _fill(body, plain, beside.size_bytes, folder)
        if plain.take(1):
            raise ValueError("more than was said")
    except BaseException:
        _close(exchange)
        raise
    return exchange


def _fill(body: Body, plain: _Memory | _Pieces, size: int, folder: str | None) -> None:
    if size <= IN_MEMORY_BYTES:
        body.data = plain.take(size)
        if len(body.data) != size:
            raise ValueError("cut short")
        return
    body.file = cast(BinaryIO, tempfile.TemporaryFile(dir=folder))  # noqa: SIM115 - the caller closes it
    while size:
        piece = plain.take(min(size, PIECE_BYTES))
        if not piece:
            raise ValueError("cut short")
        body.file.write(piece)
        size -= len(piece)
    body.file.seek(0)


def _claim_of(request_id: UUID, plain: bytes) -> Claim:
    (key_id, org_id, user_id, registration_id), at, config_id, sha256, size, key = orjson.loads(plain)
    return Claim(
        request_id,
        Caller(UUID(key_id), UUID(org_id), _uuid(user_id), _uuid(registration_id)),
        datetime.fromisoformat(at),
        _uuid(config_id),
        str(sha256),
        int(size),
        bytes.fromhex(key),
    )


def _uuid(text: str | None) -> UUID | None:
    return None if text is None else UUID(text)


def _close(exchange: Exchange) -> None:
    exchange.request.close()
    exchange.response.close()
