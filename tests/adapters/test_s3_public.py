"""A client that connects to public addresses alone: no packet goes to any other, whatever a name leads to."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from steward.adapters.s3 import S3BodyStore
from steward.adapters.s3_public import connect_to_public_alone, is_public
from steward.destination import S3Destination, S3Keys
from steward.ports import Put
from steward.words import Secret
from tests.servers.stores import S3Server

PUT = Put("key", b"octets", hashlib.sha256(b"octets").hexdigest(), 6)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """One that would notice."""
    with socket.create_server(("127.0.0.66", 0)) as opened:
        opened.setblocking(False)
        yield opened


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("name", ["127.0.0.66", "localhost"])
def test_an_address_that_is_not_public_sees_no_connection(scheme: str, name: str, listener: socket.socket) -> None:
    endpoint = f"{scheme}://{name}:{listener.getsockname()[1]}"
    keys = S3Keys("AKIAEXAMPLE", Secret("very-secret"))
    store = S3BodyStore(S3Destination("acme-prompts", "", keys, "eu-west-1", endpoint, public_only=True))
    [result] = store.put_many([PUT])
    store.close()
    assert (result.ref, result.code) == (None, "EndpointConnectionError")
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_where_the_address_is_public_all_is_as_ever(s3_server: S3Server) -> None:
    asked: list[str] = []

    def public(address: str) -> bool:
        asked.append(address)
        return True

    store = S3BodyStore(s3_server.bucket())
    connect_to_public_alone(store._client(), public)
    [result] = store.put_many([PUT])
    assert result.ref is not None
    assert store.get("key") == b"octets"
    assert set(asked) == {"127.0.0.1"}
    store.close()


def test_without_the_word_nothing_is_asked(s3_server: S3Server) -> None:
    store = S3BodyStore(replace(s3_server.bucket(), public_only=False))
    assert store.put_many([PUT])[0].ref is not None
    store.close()


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:4700::1111", True),
        ("10.0.0.1", False),
        ("127.0.0.66", False),
        ("169.254.169.254", False),
        ("fd00:ec2::254", False),
        ("fe80::1%eth0", False),
        ("100.64.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("64:ff9b::5db8:d822", True),
        ("64:ff9b:1::5db8:d822", False),
        ("2002:a9fe:a9fe::1", False),
        ("::a9fe:a9fe", False),
        ("fec0::1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::", False),
        ("no address", False),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public
