"""Butler over HTTPS: one call out, one bounded answer back, for one registration's token.

It takes calls of `egress.py` alone and sends exactly their method, path, query, body and head (SECURITY F20): no field
of a library's or a caller's joins them. https alone (plain http for loopback addresses), no redirect followed, no proxy
or other word from the environment, answers read to 8 MiB. It tries nothing again.
"""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Callable
from typing import Final, NoReturn

import httpx

from steward import values
from steward.egress import Call, Headers
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
"""From the first octet out to the last one back, however it drips."""
MAX_ANSWER_BYTES: Final = 8 << 20
MAX_RETRY_AFTER_S: Final = 300.0

_DENIED: Final = frozenset({401, 403})
_LATER: Final = frozenset({408, 425, 429})


class HttpButler(ControlPlane):
    """One Butler and one token."""

    def __init__(
        self,
        url: str,
        token: Secret[str],
        tls: ssl.SSLContext | None = None,
        now: Callable[[], float] = time.monotonic,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        """`url`: with or without a path before `/api`. Raises ValueError for one that may not be asked."""
        self._base = values.butler_url(url)
        self._token = token
        self._now = now
        self._deadline_s = deadline_s
        timeout = httpx.Timeout(min(SILENCE_TIMEOUT_S, deadline_s), connect=min(CONNECT_TIMEOUT_S, deadline_s))
        limits = httpx.Limits(max_connections=4, max_keepalive_connections=2, keepalive_expiry=15)
        verify = ssl.create_default_context() if tls is None else tls
        transport = httpx.HTTPTransport(verify=verify, trust_env=False, limits=limits, retries=0)
        self._client = httpx.Client(transport=transport, timeout=timeout, trust_env=False, follow_redirects=False)
        self._client.headers.clear()  # the library's own: every field that goes out is one of `egress.Headers`

    def ask(self, call: Call, fields: frozenset[str] | None = None) -> object:
        until = self._now() + self._deadline_s
        body = call.body(fields)
        head = Headers(authorization=self._token.reveal(), content_type=None if body is None else "application/json")
        try:
            with self._client.stream(
                call.METHOD, self._base + call.target(), headers=head.fields(), content=body
            ) as answer:
                document = self._read(answer, until)
        except (httpx.HTTPError, httpx.StreamError, OSError) as foreign:
            raise ButlerUnavailable from foreign
        if not answer.is_success:
            _refused(answer)
        if not document:
            return None
        parsed = jsondoc.parse(document)
        if parsed is None:
            raise ButlerNonsense
        return parsed

    def close(self) -> None:
        self._client.close()

    def _read(self, answer: httpx.Response, until: float) -> bytes:
        """The body as it stands on the wire: whole, uncompressed, within size and time."""
        if answer.headers.get("content-encoding", "identity") != "identity":
            raise ButlerNonsense
        document = bytearray()
        for piece in answer.iter_raw():
            document += piece
            if len(document) > MAX_ANSWER_BYTES:
                raise ButlerNonsense
            if self._now() > until:
                raise ButlerUnavailable
        return bytes(document)


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
