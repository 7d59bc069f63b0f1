"""The wire to Butler: what `egress.py` says goes out, and whatever comes back is bounded and one of few things."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from uuid import UUID

import pytest
import trustme

from steward.adapters.butler import MAX_ANSWER_BYTES, HttpButler
from steward.egress import Ack, ApiKeys, Ingest, Me, MetadataRecord
from steward.errors import (
    ButlerDenied,
    ButlerFault,
    ButlerNonsense,
    ButlerRejected,
    ButlerUnavailable,
)
from steward.version import VERSION
from steward.words import Secret
from tests.servers.butler_wire import Reply, WireButler, octets, says, wire_butler, without_end
from tests.servers.egress_proxy import EgressProxy
from tests.test_egress import facts

TOKEN = "mdm_st_" + "t" * 32
ID = UUID("0192f0c1-8a53-7c3e-9d1a-2b6f5a1c0d3e")
WHO = {"steward_id": str(ID), "org_id": str(ID), "org_name": "Acme"}


def certified() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's side with a certificate of its own authority, and the side of whoever trusts that one."""
    authority = trustme.CA()
    server, friend = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(friend)
    return server, friend


@contextmanager
def asking(*replies: Reply, deadline_s: float = 10.0) -> Iterator[tuple[HttpButler, WireButler]]:
    with wire_butler(replies) as wire:
        butler = HttpButler(wire.url, Secret(TOKEN), deadline_s=deadline_s)
        yield butler, wire
        butler.close()


def test_a_call_is_its_line_its_five_fields_and_the_connection_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """SECURITY F20: whatever the environment or a library would like to add."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with asking(says(200, WHO, "set-cookie: sid=tracking"), says(200, []), says(204), says(200)) as (butler, wire):
        assert butler.ask(Me()) == WHO
        assert butler.ask(ApiKeys(updated_after=datetime(2026, 1, 2, tzinfo=UTC))) == []
        assert butler.ask(Ack(job_id=ID)) is None
        record = MetadataRecord(**facts())
        assert butler.ask(Ingest(records=(record,)), frozenset({"id", "model"})) is None
        host = wire.url.removeprefix("http://")
        always = {
            "authorization": f"Bearer {TOKEN}",
            "user-agent": f"majordomo-steward/{VERSION}",
            "accept": "application/json",
            "accept-encoding": "identity",
            "host": host,
            "connection": "keep-alive",
        }
        me, keys, ack, ingest = wire.calls
        assert me.first == "GET /api/v1/steward/me HTTP/1.1"
        assert keys.first == ("GET /api/v1/steward/api-keys?updated_after=2026-01-02T00%3A00%3A00Z&limit=200 HTTP/1.1")
        assert ack.first == f"POST /api/v1/steward/work/{ID}/ack HTTP/1.1"
        for heard in (me, keys):
            said = {name.lower(): value for name, value in heard.fields}
            assert said | {"connection": "keep-alive"} == always
            assert len(heard.fields) == len(said)
        assert {name.lower() for name, _ in ack.fields} <= {*always, "content-length"}
        assert {name.lower() for name, _ in ingest.fields} <= {*always, "content-length", "content-type"}
        assert json.loads(ingest.body) == {"records": [{"id": str(record.id), "model": record.model}]}
        assert wire.connections == 1, "one connection serves them all"


def test_a_path_of_the_address_stands_before_ours() -> None:
    with wire_butler([says(200, WHO)]) as wire:
        butler = HttpButler(wire.url + "/butler/", Secret(TOKEN))
        butler.ask(Me())
        butler.close()
        assert wire.calls[0].first == "GET /butler/api/v1/steward/me HTTP/1.1"


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        (says(401), ButlerDenied),
        (says(403, {"error": "no"}), ButlerDenied),
        (says(404), ButlerRejected),
        (says(422, {"detail": "field"}), ButlerRejected),
        (says(429), ButlerUnavailable),
        (says(500), ButlerUnavailable),
        (says(503, b"\x1f\x8b", "content-encoding: gzip"), ButlerUnavailable),
        (says(401, b"\x1f\x8b", "content-encoding: br"), ButlerDenied),
        (says(302, None, "location: https://" + "x" * 60_000), ButlerNonsense),
        (says(503), ButlerUnavailable),
        (says(302, None, "location: http://127.0.0.1:1/elsewhere"), ButlerNonsense),
        (says(200, b"not json"), ButlerNonsense),
        (says(200, b"[" * 100_000 + b"]" * 100_000), ButlerNonsense),
        (says(200, b"\x1f\x8b\x08\x00", "content-encoding: gzip"), ButlerNonsense),
        (octets(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{}", then_closes=True), ButlerUnavailable),
        (octets(b"SSH-2.0-OpenSSH_9.2\r\n", then_closes=True), ButlerUnavailable),
        (octets(b"", then_closes=True), ButlerUnavailable),
        (octets(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 300_000 + b"\r\n\r\n", then_closes=True), ButlerUnavailable),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_whatever_it_answers_is_one_of_four_faults(reply: Reply, fault: type[ButlerFault]) -> None:
    with asking(reply) as (butler, wire):
        with pytest.raises(fault):
            butler.ask(Me())
        assert len(wire.calls) == 1, "nothing is tried again, and no redirect followed"


def test_how_long_it_wants_to_be_left_alone_is_believed_up_to_five_minutes() -> None:
    for said, after_s in (("7", 7.0), ("315360000", 300.0), ("soon", None), ("-1", None), ("9" * 30, None)):
        with asking(says(503, None, f"retry-after: {said}")) as (butler, _):
            with pytest.raises(ButlerUnavailable) as fault:
                butler.ask(Me())
            assert fault.value.after_s == after_s


def test_an_answer_without_end_is_left_at_eight_megabytes() -> None:
    stop = threading.Event()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n"
    with asking(without_end(head, b"[1," * 20_000, stop)) as (butler, _), pytest.raises(ButlerNonsense):
        butler.ask(Me())
    with asking(says(200, b'"' + b"x" * MAX_ANSWER_BYTES + b'"')) as (butler, _), pytest.raises(ButlerNonsense):
        butler.ask(Me())


def test_an_answer_that_drips_ends_by_its_deadline() -> None:
    stop = threading.Event()
    head = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"
    dripping = without_end(head, b" ", stop, pause_s=0.05)
    with asking(dripping, deadline_s=0.5) as (butler, _), pytest.raises(ButlerUnavailable):
        butler.ask(Me())
    stop.set()


def test_a_head_that_drips_ends_by_its_deadline_too() -> None:
    stop = threading.Event()
    for head, piece in ((b"HTTP/1.1 200 OK\r\n", b"x: y\r\n"), (b"", b"HTTP/1.1 103 Early\r\n\r\n")):
        dripping = without_end(head, piece, stop, pause_s=0.05)
        with asking(dripping, deadline_s=0.5) as (butler, _), pytest.raises(ButlerUnavailable):
            butler.ask(Me())
    stop.set()


def test_nothing_but_a_call_of_the_list_leaves() -> None:
    class Evil(Me):
        PATH = "/x?prompt=hello"

    with asking(says(200, WHO)) as (butler, wire):
        with pytest.raises(TypeError):
            butler.ask(Evil())
        assert wire.calls == []


def test_one_who_never_answers_is_given_up() -> None:
    with asking(lambda _: None, deadline_s=0.5) as (butler, _), pytest.raises(ButlerUnavailable):
        butler.ask(Me())


def test_nobody_there_is_unavailable() -> None:
    butler = HttpButler("http://127.0.0.1:1", Secret(TOKEN))
    with pytest.raises(ButlerUnavailable):
        butler.ask(Me())
    butler.close()


def test_an_address_that_may_not_be_asked_is_refused() -> None:
    for url in ("http://butler.example", "https://anna:secret@butler.example", "butler.example"):
        with pytest.raises(ValueError, match="accepted|begin"):
            HttpButler(url, Secret(TOKEN))


def test_a_certificate_of_nobody_we_know_gets_no_token() -> None:
    context, known = certified()
    with wire_butler([says(200, WHO)], tls=context) as wire:
        stranger = HttpButler(wire.url, Secret(TOKEN))
        with pytest.raises(ButlerUnavailable):
            stranger.ask(Me())
        stranger.close()
        assert wire.calls == []
        friend = HttpButler(wire.url, Secret(TOKEN), tls=known)
        assert friend.ask(Me()) == WHO
        friend.close()


@pytest.mark.parametrize("word", [None, "user:pass"])
def test_it_may_be_spoken_to_through_the_company_s_proxy_alone(word: str | None) -> None:
    """All of the call stands in the tunnel: the proxy learns host and port."""
    context, known = certified()

    async def asked(wire: WireButler) -> list[bytes]:
        async with EgressProxy(word) as proxy:
            through = proxy.url if word is None else proxy.url.replace("//", f"//{word}@")
            butler = HttpButler(wire.url, Secret(TOKEN), known, proxy_url=Secret(through))
            assert await asyncio.to_thread(butler.ask, Me()) == WHO
            butler.close()
            return proxy.heads

    with wire_butler([says(200, WHO)], tls=context) as wire:
        heads = asyncio.run(asked(wire))
        assert [head.split(b"\r\n")[0] for head in heads] == [
            f"CONNECT {wire.url.removeprefix('https://')} HTTP/1.1".encode()
        ]
        assert TOKEN.encode() not in b"".join(heads)


def test_what_drips_through_the_proxy_ends_at_the_deadline() -> None:
    context, known = certified()
    stop = threading.Event()
    drip = without_end(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n", stop, 0.05)

    async def asked(wire: WireButler) -> None:
        async with EgressProxy() as proxy:
            butler = HttpButler(wire.url, Secret(TOKEN), known, 1.0, Secret(proxy.url))
            with pytest.raises(ButlerUnavailable):
                await asyncio.to_thread(butler.ask, Me())
            butler.close()

    with wire_butler([drip], tls=context) as wire:
        asyncio.run(asked(wire))
        stop.set()


def test_the_token_stands_in_no_representation() -> None:
    butler = HttpButler("https://butler.example", Secret(TOKEN))
    assert TOKEN not in repr(vars(butler))
    butler.close()
    assert TOKEN not in os.environ.values()
