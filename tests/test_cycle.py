"""One answer on a caller's connection: how it is framed, how it breaks, and when its body is asked for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from steward.errors import Cut
from steward.proxy import Receive, Scope, Send
from tests.said import listening as hearing
from tests.servers.listening import Listening
from tests.servers.plays import (
    CLOSE,
    LOOPS,
    WITHIN_S,
    Told,
    bodies,
    body_of,
    connect,
    house,
    piece,
    play,
    refused,
    request,
    rest,
    start,
    to_the_end,
    until,
    whole,
)
from tests.servers.raw_caller import say


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[Listening, Told]]:
    """One house for tests that leave nothing behind."""
    with house() as made:
        yield made


@pytest.fixture
def port(shared: tuple[Listening, Told]) -> int:
    """Of the shared house."""
    return shared[0].port


# Answers


@play
async def no_length(_told: Told, _scope: Scope, receive: Receive, send: Send) -> None:
    """Three pieces, one of them empty."""
    await body_of(receive)
    await start(send)
    for each in (b"one ", b"", b"two "):
        await piece(send, each, more=True)
    await piece(send, b"three")


def test_without_a_length_it_is_chunked(port: int) -> None:
    """An empty piece is no end."""
    heard = say(port, request(b"/no_length", CLOSE))
    assert b"\r\ntransfer-encoding: chunked" in heard.head
    assert heard.octets.endswith(b"\r\n\r\n4\r\none \r\n4\r\ntwo \r\n5\r\nthree\r\n0\r\n\r\n")


def test_an_old_caller_gets_no_chunks(port: int) -> None:
    """HTTP/1.0: the end of the connection is the end of the answer, whatever he says of keeping it."""
    for line in (b"x-a: 1", b"Connection: keep-alive"):
        heard = say(port, request(b"/no_length", line, version=b"1.0"))
        assert b"transfer-encoding" not in heard.head
        assert heard.octets.endswith(b"\r\n\r\none two three")
        assert heard.closed


@play
async def sized_nothing(_told: Told, scope: Scope, receive: Receive, send: Send) -> None:
    """A length and no body, as HEAD, 204 and 304 have it; or the body all the same."""
    await body_of(receive)
    status, _, body = scope["query_string"].partition(b"&")
    await start(send, (b"content-length", b"1234"), status=int(status))
    await piece(send, body)


@pytest.mark.parametrize(("method", "status"), [(b"HEAD", 200), (b"GET", 204), (b"GET", 304), (b"HEAD", 304)])
@pytest.mark.parametrize("body", [b"", b"octets"])
def test_a_length_without_a_body_keeps_the_connection(port: int, method: bytes, status: int, body: bytes) -> None:
    """The next answer begins right behind the head."""
    target = b"/sized_nothing?%d&%b" % (status, body)
    heard = say(port, request(target, body=None, method=method) + request(b"/echo", CLOSE))
    assert heard.statuses == [status, 200]
    head, _, second = heard.octets.partition(b"\r\n\r\n")
    assert b"\r\ncontent-length: 1234" in head
    assert b"transfer-encoding" not in head
    assert second.startswith(b"HTTP/1.1 200 ")


def test_head_without_a_length_has_no_chunks(port: int) -> None:
    heard = say(port, request(b"/no_length", body=None, method=b"HEAD") + request(b"/echo", CLOSE))
    assert heard.statuses == [200, 200]
    assert b"transfer-encoding" not in heard.head


@play
async def held(_told: Told, _scope: Scope, receive: Receive, send: Send) -> None:
    """A head that goes with its first piece, large or small."""
    size = len(await body_of(receive))
    await start(send, (b"content-length", b"%d" % size), hold=True)
    await piece(send, b"x" * size)


@pytest.mark.parametrize("size", [0, 1, 1_000, 65_536, 65_537, 400_000])
def test_a_held_head_goes_with_its_first_piece(port: int, size: int) -> None:
    (body,) = bodies(say(port, request(b"/held", CLOSE, body=b"b" * size)))
    assert body == b"x" * size


# Answers that break


@play
async def breaks(told: Told, scope: Scope, receive: Receive, send: Send) -> None:
    """Half an answer, then `Cut`."""
    await body_of(receive)
    if scope["query_string"] == b"length":
        await start(send, (b"content-length", b"10"))
    elif scope["query_string"] == b"held":
        await start(send, hold=True)
        raise Cut
    else:
        await start(send)
    await piece(send, b"half", more=True)
    await told.pause()
    raise Cut


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    ("query", "version", "end"), [(b"chunks", b"1.1", b"4\r\nhalf\r\n"), (b"length", b"1.1", b"\r\n\r\nhalf")]
)
def test_a_broken_answer_never_ends_cleanly(loop: str, query: bytes, version: bytes, end: bytes) -> None:
    """What came arrives; then the connection ends where no answer can."""
    with house(loop=loop) as (running, told), connect(running.port) as sock:
        sock.sendall(request(b"/breaks?" + query, version=version) + request())
        heard = until(sock, b"half")
        told.go_on.set()
        heard += to_the_end(sock)
        assert heard.endswith(end)
        assert told.calls == ["/breaks"]


@pytest.mark.parametrize("loop", LOOPS)
def test_an_old_callers_broken_answer_is_reset(loop: str) -> None:
    """HTTP/1.0: a plain close would be the proper end of what has no other."""
    with house(loop=loop) as (running, told), connect(running.port) as sock:
        sock.sendall(request(b"/breaks", version=b"1.0"))
        until(sock, b"half")
        told.go_on.set()
        with pytest.raises(ConnectionResetError):
            rest(sock)


def test_an_answer_that_breaks_before_it_left_is_none(port: int) -> None:
    heard = say(port, request(b"/breaks?held"))
    assert heard.closed
    assert heard.octets == b""


@play
async def wrong_length(_told: Told, scope: Scope, receive: Receive, send: Send) -> None:
    """Says 4 octets and gives more, or fewer."""
    await body_of(receive)
    await start(send, (b"content-length", b"4"))
    await piece(send, b"ab", more=True)
    await piece(send, scope["query_string"])


@pytest.mark.parametrize("more", [b"", b"c", b"cde"])
def test_an_answer_that_is_not_as_long_as_it_says_breaks(port: int, more: bytes) -> None:
    """Never padded, never longer: what followed would be read as the next answer."""
    heard = say(port, request(b"/wrong_length?" + more) + request())
    assert heard.statuses in ([200], [])
    assert heard.closed
    assert len(heard.octets.partition(b"\r\n\r\n")[2]) < 4


@play
async def raises(told: Told, scope: Scope, receive: Receive, send: Send) -> None:
    """Fails at a place of the test's choice."""
    if scope["query_string"] == b"late":
        await body_of(receive)
        await start(send)
        await piece(send, b"half", more=True)
        await told.pause()
    raise RuntimeError("canary in the words of an error")


@pytest.mark.parametrize("body", [b"{}", b"x" * 300_000])
def test_an_application_that_fails_is_an_error_of_ours(port: int, body: bytes) -> None:
    """500 in JSON, the connection closed, though a body is left unread; the error's own words nowhere."""
    with hearing() as said:
        heard = say(port, request(b"/raises", body=body))
    refused(heard, 500, "internal_error")
    assert said.events() == ["listener_failed"]
    assert "canary" not in said.text + heard.octets.decode()


def test_an_application_that_fails_half_way_breaks() -> None:
    with house() as (running, told), connect(running.port) as sock:
        sock.sendall(request(b"/raises?late"))
        heard = until(sock, b"half\r\n")
        told.go_on.set()
        heard += to_the_end(sock)
        assert heard.endswith(b"4\r\nhalf\r\n")


@play
async def says_nothing(_told: Told, _scope: Scope, receive: Receive, _send: Send) -> None:
    """Returns without an answer."""
    await body_of(receive)


def test_an_application_that_answers_nothing_ends_the_connection(port: int) -> None:
    heard = say(port, request(b"/says_nothing") + request())
    assert heard.closed
    assert heard.octets == b""


@play
async def says_too_much(_told: Told, scope: Scope, receive: Receive, send: Send) -> None:
    """Goes on after the end, as an application with a defect might."""
    await body_of(receive)
    if scope["query_string"] == b"length":
        await whole(send, b"enough")
    else:
        await start(send)
        await piece(send, b"enough")
    await piece(send, b"HTTP/1.1 200 OK", more=True)
    await piece(send, b"")
    await whole(send, b"again", status=500)


@pytest.mark.parametrize("query", [b"length", b"chunks"])
def test_after_the_end_nothing_is_said(port: int, query: bytes) -> None:
    """It would be read as the next call's answer."""
    heard = say(port, request(b"/says_too_much?" + query) + request(b"/echo", CLOSE))
    assert heard.statuses == [200, 200]
    end = b"\r\n\r\nenough" if query == b"length" else b"\r\n6\r\nenough\r\n0\r\n\r\n"
    assert end + b"HTTP/1.1 200 " in heard.octets


# Expectations


@play
async def deaf(told: Told, _scope: Scope, _receive: Receive, send: Send) -> None:
    """Answers without having read anything."""
    await told.pause()
    await whole(send, b"unheard", status=403)


EXPECT = b"Expect: 100-continue"


@pytest.mark.parametrize("line", [EXPECT, b"expect:100-Continue", b"Expect: 100-continue \t"])
def test_a_body_is_asked_for_when_it_is_read(line: bytes) -> None:
    """100 comes with the first `receive`, not before; once."""
    with house() as (running, told), connect(running.port) as sock:
        head = request(b"/reads_when_told", line, CLOSE, b"Content-Length: 300000", body=None)
        sock.sendall(head)
        assert told.reached.wait(WITHIN_S)
        sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        sock.settimeout(WITHIN_S)
        told.go_on.set()
        assert until(sock, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"y" * 300_000)
        heard = rest(sock)
    assert heard.startswith(b"HTTP/1.1 200 ")
    assert heard.endswith(b"\r\n\r\n" + b"y" * 300_000)


def test_a_body_that_is_not_wanted_is_not_asked_for() -> None:
    with house() as (running, told):
        told.go_on.set()
        heard = say(running.port, request(b"/deaf", EXPECT, b"Content-Length: 5", body=None))
    assert heard.statuses == [403]
    assert heard.closed


def test_an_old_caller_is_not_told_to_go_on(port: int) -> None:
    """RFC 9110, 10.1.1: HTTP/1.0 knows no interim answers."""
    heard = say(port, request(b"/echo", EXPECT, version=b"1.0"))
    assert heard.statuses == [200]
