"""Butler over HTTPS: one call out, one bounded answer back, for one registration's token.

It takes calls of `egress.py` alone and sends exactly their method, path, query, body and head (SECURITY F20): no field
of a library's or a caller's joins them. https alone (plain http for loopback addresses), no redirect followed, no proxy
of the environment asked but only the one it is given, no cookie kept, answers read to 8 MiB. It tries nothing again.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final, NoReturn

import httpx

from steward import values
from steward.egress import CALLS, Call, Headers
from steward.errors import (
    ButlerDenied,
    ButlerNonsense,
    ButlerRejected,
    ButlerUnavailable,
)
from steward.ports import ControlPlane
from steward.wire import jsondoc
from steward.words import Secret

CONNECT_TIMEOUT_S: Final = 10.0
SILENCE_TIMEOUT_S: Final = 30.0
DEADLINE_S: Final = 60.0
"""For one call, however its answer drips; what a connection may take comes before it."""
MAX_ANSWER_BYTES: Final = 8 << 20
MAX_RETRY_AFTER_S: Final = 300.0

_CONNECTED: Final = (".connect_tcp.complete", ".start_tls.complete")
"""Of a connection, and of a tunnel through a proxy: each hands on the socket that the next one wraps."""
_DENIED: Final = frozenset({401, 403})
_LATER: Final = frozenset({408, 425, 429})


class HttpButler(ControlPlane):
    """One Butler and one token."""

    def __init__(
        self,
        url: str,
        token: Secret[str],
        tls: ssl.SSLContext | None = None,
        deadline_s: float = DEADLINE_S,
        proxy_url: Secret[str] | None = None,
    ) -> None:
        """`url`: with or without a path before `/api`. `proxy_url`: what tunnels to it; it may hold Basic credentials.

        Raises ValueError for an address that may not be asked.
        """
        self._base = values.butler_url(url)
        self._token = token
        self._deadline_s = deadline_s
        timeout = httpx.Timeout(min(SILENCE_TIMEOUT_S, deadline_s), connect=min(CONNECT_TIMEOUT_S, deadline_s))
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=15)
        verify = ssl.create_default_context() if tls is None else tls
        proxy = None if proxy_url is None else _proxy(proxy_url.reveal(), verify)
        transport = httpx.HTTPTransport(verify=verify, trust_env=False, limits=limits, retries=0, proxy=proxy)
        self._socket: socket.socket | None = None
        self._late = False
        self._client = httpx.Client(
            transport=transport,
            timeout=timeout,
            trust_env=False,
            follow_redirects=False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # none is kept, so none is sent
        )
        self._client.headers.clear()  # the library's own: every field that goes out is one of `egress.Headers`

    def ask(self, call: Call, fields: frozenset[str] | None = None) -> object:
        if type(call) not in CALLS:
            raise TypeError("only a call of egress.py leaves")
        call = type(call).model_validate(call)
        body = call.body(fields)
        head = Headers(
            authorization=f"Bearer {self._token.reveal()}", content_type=None if body is None else "application/json"
        )
        try:
            with (
                self._in_time(),
                self._client.stream(
                    call.METHOD,
                    self._base + call.target(),
                    headers=head.fields(),
                    content=body,
                    extensions={"trace": self._note_socket},
                ) as answer,
            ):
                if not answer.is_success:
                    _refused(answer)
                document = self._read(answer)
        except httpx.InvalidURL:
            raise ButlerNonsense from None  # where a redirect would lead
        except (httpx.HTTPError, httpx.StreamError, OSError) as foreign:
            raise ButlerUnavailable from foreign
        if not document:
            return None
        parsed = jsondoc.parse(document)
        if parsed is None:
            raise ButlerNonsense
        return parsed

    def close(self) -> None:
        self._client.close()

    def _read(self, answer: httpx.Response) -> bytes:
        """The body as it stands on the wire: whole, uncompressed, within its size."""
        if answer.headers.get("content-encoding", "identity") != "identity":
            raise ButlerNonsense
        document = bytearray()
        for piece in answer.iter_raw():
            document += piece
            if len(document) > MAX_ANSWER_BYTES:
                raise ButlerNonsense
        return bytes(document)

    @contextlib.contextmanager
    def _in_time(self) -> Iterator[None]:
        """What goes on beyond the deadline, a head or a body, breaks: the library's own times begin with each octet."""
        self._late = False
        watch = threading.Timer(self._deadline_s, self._break)
        watch.daemon = True
        watch.start()
        try:
            yield
        finally:
            watch.cancel()
        if self._late:
            raise ButlerUnavailable  # an answer without a length ends where its connection does: this one did not

    def _note_socket(self, event: str, told: dict[str, Any]) -> None:
        """The library tells what it does; of that only the connection's socket is kept, for `_break`."""
        if event.endswith(_CONNECTED) and (stream := told.get("return_value")) is not None:
            self._socket = stream.get_extra_info("socket")

    def _break(self) -> None:
        self._late = True
        with contextlib.suppress(OSError):
            if self._socket is not None:
                self._socket.shutdown(socket.SHUT_RDWR)


def _proxy(url: str, tls: ssl.SSLContext) -> httpx.Proxy:
    return httpx.Proxy(url, ssl_context=tls if url.lower().startswith("https:") else None)


def _refused(answer: httpx.Response) -> NoReturn:
    """What a status that is no 2xx means. Its words are not looked at."""
    status = answer.status_code
    if status in _DENIED:
        raise ButlerDenied
    if status in _LATER or status >= httpx.codes.INTERNAL_SERVER_ERROR:
        raise ButlerUnavailable(_retry_after_s(answer.headers.get("retry-after")))
    if status >= httpx.codes.BAD_REQUEST:
        raise ButlerRejected
    raise ButlerNonsense


def _retry_after_s(said: str | None) -> float | None:
    """Seconds, at most five minutes. A date is not read: it would need the two clocks to agree."""
    if said is None or not re.fullmatch(r"[0-9]{1,18}", said):
        return None
    return min(float(said), MAX_RETRY_AFTER_S)
