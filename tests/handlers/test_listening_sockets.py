"""The container's sockets: each on its port, closed by whom it is not for, and a port that is taken named."""

from __future__ import annotations

import resource
import socket

import pytest

from handlers.listening_sockets import Sockets, raise_descriptor_limit
from steward.errors import SettingError
from tests.servers.listening import free_port
from tests.services import settings


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


def test_each_is_on_its_port_and_closed_apart() -> None:
    main, ops, view = free_port(), free_port(), free_port()
    given = {"HOST": "127.0.0.1", "PORT": str(main), "OPS_PORT": str(ops)}
    sockets = Sockets(settings(**given, VIEW_AUTH="token", VIEW_HOST="127.0.0.1", VIEW_PORT=str(view)))
    assert (sockets.port, sockets.ops_port) == (main, ops)
    assert [listens(port) for port in (main, ops, view)] == [True, True, True]
    assert sockets.main.get_inheritable(), "children accept on it"
    sockets.close_main()
    assert [listens(port) for port in (main, ops, view)] == [False, False, True]
    sockets.close()
    assert not listens(view)


def test_what_is_not_set_is_not_opened() -> None:
    sockets = Sockets(settings(HOST="127.0.0.1", PORT=str(free_port())))
    assert (sockets.ops, sockets.ops_port, sockets.view) == (None, None, None)
    sockets.close()


def test_a_port_that_is_taken_is_told_by_its_settings_name() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(SettingError, match="^PORT: "):
        Sockets(settings(HOST="127.0.0.1", PORT=str(other.getsockname()[1])))


def test_as_many_descriptors_as_the_host_allows() -> None:
    before = soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1000), hard))
    try:
        raise_descriptor_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
