"""Opens the octet stream to a PostgreSQL server: socket folder or TCP, plain or TLS, by libpq's `sslmode`.

Refuses to go on in plain text where TLS was demanded: nothing but the eight octets of the SSL request crosses before
the server agreed (SECURITY F13). The TLS context is always ours; pg8000's own verifies nothing.

    mode         server without TLS   unknown CA            other name   no bundle given
    disable      not asked            -                     -            -
    prefer       plain text           accepted              accepted     nothing is verified
    require      refused              accepted              accepted     nothing is verified
    verify-ca    refused              refused               accepted     the system's CAs
    verify-full  refused              refused               refused      the system's CAs

With a bundle (`POSTGRES_SSLROOTCERT`), `require` refuses an unknown CA, and `prefer` goes on in plain text, as libpq
does. A socket folder never uses TLS.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
from dataclasses import dataclass, field
from typing import Final

from steward.errors import LedgerUnavailable
from steward.words import Secret, SignIn

CONNECT_TIMEOUT_S: Final = 5.0
SSLMODES: Final = ("disable", "prefer", "require", "verify-ca", "verify-full")
SSL_REQUEST: Final = bytes.fromhex("0000000804d2162f")
_USER_TIMEOUT_MS: Final = 30_000
_KEEPALIVE: Final = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))


@dataclass(frozen=True, slots=True)
class PostgresAddress:
    """Where the database is and who we are there."""

    host: str
    """A name, an address, or a folder (`/run/postgresql`) that holds the server's socket."""
    port: int
    user: str
    password: Secret[str] = field(repr=False)
    database: str
    sslmode: str
    sslrootcert: str | None = None
    """A PEM bundle of CAs; None: the system's."""
    max_conns: int = 10
    sign_in: SignIn | None = field(default=None, repr=False)
    """Asked for what stands in for the password, with each connection. Raises LedgerUnavailable."""


@dataclass(frozen=True, slots=True)
class Dialled:
    """A connected stream, of which the server has seen at most an SSL request."""

    sock: socket.socket
    private: bool
    """Nobody on the way can read it: TLS, a socket folder, or a loopback address."""


def dial(address: PostgresAddress) -> Dialled:
    """Connects as the address's mode says. Raises LedgerUnavailable, naming the setting at fault."""
    try:
        if address.host.startswith("/"):
            return Dialled(_unix(address), private=True)
        return _tcp(address)
    except ssl.SSLCertVerificationError:
        raise LedgerUnavailable(
            "The database's certificate is not trusted or names another host. "
            "POSTGRES_SSLROOTCERT names the CA bundle; POSTGRES_HOST must be a name in the certificate."
        ) from None
    except ssl.SSLError:
        raise LedgerUnavailable("TLS with the database failed. See POSTGRES_SSLMODE.") from None
    except OSError:
        raise LedgerUnavailable("The database cannot be reached at POSTGRES_HOST and POSTGRES_PORT.") from None


def _unix(address: PostgresAddress) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(CONNECT_TIMEOUT_S)
    try:
        sock.connect(f"{address.host.rstrip('/')}/.s.PGSQL.{address.port}")
    except OSError:
        sock.close()
        raise
    return sock


def _tcp(address: PostgresAddress) -> Dialled:
    local = _is_local(address.host)
    if address.sslmode == "disable":
        return Dialled(_connect(address), private=local)
    context = _context(address)
    sock = _connect(address)
    try:
        sock.sendall(SSL_REQUEST)
        answer = sock.recv(1)
        if answer == b"S":
            return Dialled(context.wrap_socket(sock, server_hostname=address.host), private=True)
    except OSError:
        sock.close()
        if address.sslmode == "prefer":
            return Dialled(_connect(address), private=local)
        raise
    except BaseException:
        sock.close()
        raise
    if address.sslmode == "prefer" and answer == b"N":
        return Dialled(sock, private=local)
    sock.close()
    if address.sslmode == "prefer" and answer == b"E":  # a server from before TLS answers with an error and hangs up
        return Dialled(_connect(address), private=local)
    raise LedgerUnavailable(f"The database offers no TLS, and POSTGRES_SSLMODE={address.sslmode} demands it.")


def _connect(address: PostgresAddress) -> socket.socket:
    sock = socket.create_connection((address.host, address.port), CONNECT_TIMEOUT_S)
    # Small messages wait for nobody, and a peer that vanished is noticed within half a minute.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (*_KEEPALIVE, ("TCP_USER_TIMEOUT", _USER_TIMEOUT_MS)):
        option = getattr(socket, name, None)  # not every platform has each
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
    return sock


def _context(address: PostgresAddress) -> ssl.SSLContext:
    """A client context for the mode. Raises LedgerUnavailable when the bundle cannot be read."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = address.sslmode == "verify-full"
    verifies = address.sslmode.startswith("verify-") or address.sslrootcert is not None
    context.verify_mode = ssl.CERT_REQUIRED if verifies else ssl.CERT_NONE
    if address.sslrootcert is not None:
        try:
            context.load_verify_locations(cafile=address.sslrootcert)
        except OSError:
            raise LedgerUnavailable("The file that POSTGRES_SSLROOTCERT names is no readable CA bundle.") from None
    elif verifies:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    return context


def _is_local(host: str) -> bool:
    """A socket folder, or a loopback host."""
    address = _address(host)
    return (
        host.startswith("/") or host.lower().rstrip(".") == "localhost" or (address is not None and address.is_loopback)
    )


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that the host is written as, or None for a name."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]").partition("%")[0])
    return None
