"""Lets an S3 client connect to public addresses alone, looked up at the moment of each connect (SECURITY F1, F7).

A name that led to a public address when it was decided on, and to a private one now, leads nowhere: what was looked up
and found public is what is connected to. Through an egress proxy, which looks names up by itself, it connects to
nothing unless the proxy is public.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from ipaddress import IPv4Address, ip_network
from typing import TYPE_CHECKING, Any, Final

from steward import values

if TYPE_CHECKING:
    from botocore.client import BaseClient


_DOORS: Final = tuple(map(ip_network, ("64:ff9b:1::/48", "2002::/16", "::/96", "fec0::/10")))
"""Local NAT64, 6to4 and their like, of which a gateway makes an IPv4 address, and a former kind of private ones.
`ipaddress` calls them global."""
_NAT64: Final = ip_network("64:ff9b::/96")
"""Counts as the IPv4 address in it."""


def is_public(address: str) -> bool:
    """Whether anybody's traffic may go there; never the metadata services, and nothing of the host's own networks."""
    literal = values.address(address.partition("%")[0])
    if literal is None or any(literal in network for network in _DOORS):
        return False
    if literal in _NAT64:
        literal = IPv4Address(int(literal) & 0xFFFF_FFFF)
    return literal.is_global and not literal.is_multicast


def connect_to_public_alone(client: BaseClient, public: Callable[[str], bool] = is_public) -> None:
    """Guards every connection that this client will make. `public` decides on an address."""
    from botocore.awsrequest import (
        AWSHTTPConnection,
        AWSHTTPConnectionPool,
        AWSHTTPSConnection,
        AWSHTTPSConnectionPool,
    )

    plain: Any = type("_Plain", (AWSHTTPConnection,), {"_new_conn": _guarded(AWSHTTPConnection, public)})
    tls: Any = type("_Tls", (AWSHTTPSConnection,), {"_new_conn": _guarded(AWSHTTPSConnection, public)})
    pools = {
        "http": type("_PlainPool", (AWSHTTPConnectionPool,), {"ConnectionCls": plain}),
        "https": type("_TlsPool", (AWSHTTPSConnectionPool,), {"ConnectionCls": tls}),
    }
    session: Any = client._endpoint.http_session  # type: ignore[attr-defined]
    session._pool_classes_by_scheme = pools
    session._manager.pool_classes_by_scheme = pools


def _guarded(kind: Any, public: Callable[[str], bool]) -> Callable[[Any], socket.socket]:
    """`_new_conn` of a connection: looks up, and connects to the address it found; the name stays that of the TLS."""

    def connect(self: Any) -> socket.socket:
        name = self._dns_host
        self._dns_host = _looked_up(self, public)
        try:
            opened: socket.socket = kind._new_conn(self)
        finally:
            self._dns_host = name
        return opened

    return connect


def _looked_up(connection: Any, public: Callable[[str], bool]) -> str:
    """One address; all that the name leads to must be public."""
    from urllib3.exceptions import NewConnectionError

    try:
        found = socket.getaddrinfo(connection._dns_host.strip("[]"), connection.port, type=socket.SOCK_STREAM)
    except OSError as exc:
        raise NewConnectionError(connection, "the name is not known") from exc
    addresses = [str(each[4][0]) for each in found]
    if not addresses or not all(map(public, addresses)):
        raise NewConnectionError(connection, "not a public address")
    return addresses[0]
