"""Our listener beneath a server that chose none: what uvicorn's own would let through is refused or dropped."""

from __future__ import annotations

import uvicorn
from uvicorn.config import HTTP_PROTOCOLS

from handlers.framework_listener import NAME, Connection, put_beneath
from steward.listener import Listener
from steward.proxy import Receive, Scope, Send
from tests.servers.listening import listening
from tests.servers.raw_caller import say


def test_a_server_that_asks_for_any_protocol_gets_ours() -> None:
    """Through uvicorn's own table, by name: so it does in a worker that gunicorn forked, too."""
    table = {"auto": "uvicorn.protocols.http.auto:AutoHTTPProtocol", "h11": "left.alone:H11"}
    put_beneath(table)
    assert table == {"auto": NAME, "h11": "left.alone:H11"}
    assert "auto" in HTTP_PROTOCOLS, "uvicorn has the table still"
    before = HTTP_PROTOCOLS["auto"]
    put_beneath()
    try:
        config = uvicorn.Config(lambda: None, http="auto", log_config=None)
        config.load()
        assert config.http_protocol_class is Connection
    finally:
        HTTP_PROTOCOLS["auto"] = before
    assert issubclass(Connection, Listener)


def test_a_trailer_is_no_header_and_a_caller_who_leaves_is_known() -> None:
    """The two facts for which it is there."""
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            continue
        seen.append(scope)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    octets = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    with listening(app, Connection) as served:
        assert say(served.port, octets + b"1\r\na\r\n0\r\nX-Late: 1\r\n\r\n").statuses == [204]
    [scope] = seen
    assert [name for name, _ in scope["headers"]] == [b"host", b"connection", b"transfer-encoding"]
    assert scope["extensions"]["steward"] is not None
