"""Google's Pub/Sub as a carrier of messages, by its REST interface: gRPC would bring 46 MB and cost 0.7 s at start.

It speaks to one address, as the host's own service account (to a stand-in: as nobody), and knows nothing of what a
message says. Nothing of Google's text leaves it: an error is a code.

Facts from https://cloud.google.com/pubsub/docs/reference/rest/v1/projects.subscriptions: a deadline is at most 600 s, 0
hands a message out again at once; how many wait is told to Cloud Monitoring alone.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final
from uuid import UUID

import httpx
import orjson

from steward.carrier import Carrier, Delivery
from steward.errors import QueueFault, QueueRefused, QueueUnavailable, SettingError
from steward.words import Secret

GOOGLE: Final = "https://pubsub.googleapis.com"
SCOPE: Final = "https://www.googleapis.com/auth/pubsub"
CONNECT_TIMEOUT_S: Final = 3.0
TIMEOUT_S: Final = 5.0
PULL_TIMEOUT_S: Final = 90.0
"""A pull that waits is answered by Google well before."""
MOST_HIDDEN_S: Final = 600
PARALLEL: Final = 32
_AT_ONCE: Final = 500
"""Marks in one call."""
_PULLED_AT_ONCE: Final = 20
"""Messages in one answer, of up to 10 MB each."""
_PASSING: Final = frozenset({408, 409, 429})

Token = Callable[[], str]
"""A bearer token that is good now. Raises QueueFault."""


@dataclass(frozen=True, slots=True)
class PubsubPlace:
    """One topic, and what is read of it."""

    topic: str | None
    subscription: str | None
    dead_subscription: str | None = None
    emulator: str | None = None
    """`host:port` of a stand-in."""


@dataclass(frozen=True, slots=True)
class PubsubWay:
    """How it is reached."""

    tls: ssl.SSLContext | None = None
    proxy: Secret[str] | None = None
    """The egress proxy; it may hold credentials."""
    token: Token | None = None
    """None: the host's own."""
    address: str = GOOGLE


class PubsubCarrier(Carrier):
    """One topic and its subscription. Its client is made at first use and serves all threads."""

    def __init__(self, place: PubsubPlace, way: PubsubWay = PubsubWay()) -> None:
        """Raises SettingError without google-auth. Connects to nothing yet."""
        if place.emulator is None and way.token is None and find_spec("google.auth") is None:
            raise SettingError("Pub/Sub needs google-auth. Install majordomo-steward[gcp].")
        self._place = place
        self._way = way
        self._address = way.address if place.emulator is None else f"http://{place.emulator}"
        self._token: Token | None = None if place.emulator is not None else way.token or HostToken()
        self._lock = threading.Lock()
        self._made: httpx.Client | None = None
        self._closed = False

    def send(self, text: str, request_id: UUID) -> None:
        message = {"data": text, "attributes": {"request_id": str(request_id)}}
        answer = self._ask(_named(self._place.topic), "publish", {"messages": [message]})
        if not answer.get("messageIds"):
            raise QueueUnavailable

    def receive(self, most: int, wait_s: float, hidden_s: int) -> list[Delivery]:
        """With `wait_s` it waits as long as Google likes, about a minute; what came is hidden by a second call."""
        found: list[Delivery] = []
        while len(found) < most:
            try:
                came = self._pulled(min(most - len(found), _PULLED_AT_ONCE), 0.0 if found else wait_s)
                self.hide([each.receipt for each in came], hidden_s)
            except QueueFault:
                if found:  # handed out already: forgotten here, a try of theirs would be lost
                    break
                raise
            if not came:
                break
            found += came
        return found

    def done(self, receipts: Sequence[str]) -> None:
        for at in range(0, len(receipts), _AT_ONCE):
            marks = {"ackIds": list(receipts[at : at + _AT_ONCE])}
            self._ask(_named(self._place.subscription), "acknowledge", marks)

    def hide(self, receipts: Sequence[str], hidden_s: int) -> None:
        for at in range(0, len(receipts), _AT_ONCE):
            marks = {"ackIds": list(receipts[at : at + _AT_ONCE]), "ackDeadlineSeconds": min(hidden_s, MOST_HIDDEN_S)}
            self._ask(_named(self._place.subscription), "modifyAckDeadline", marks)

    def depth(self) -> int | None:
        return None

    def dead(self) -> PubsubCarrier | None:
        """What is read of the dead-letter topic, where that is set."""
        if self._place.dead_subscription is None:
            return None
        return PubsubCarrier(PubsubPlace(None, self._place.dead_subscription, None, self._place.emulator), self._way)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._made is not None:
                self._made.close()
                self._made = None

    def _pulled(self, most: int, wait_s: float) -> list[Delivery]:
        asked = {"maxMessages": most, "returnImmediately": wait_s <= 0}
        timeout_s = TIMEOUT_S if wait_s <= 0 else PULL_TIMEOUT_S
        answer = self._ask(_named(self._place.subscription), "pull", asked, timeout_s)
        try:
            return [_delivery(each) for each in answer.get("receivedMessages", [])]
        except (TypeError, LookupError, AttributeError) as exc:
            raise QueueUnavailable from exc

    def _ask(self, name: str, verb: str, said: object, timeout_s: float = TIMEOUT_S) -> Mapping[str, Any]:
        headers = {"content-type": "application/json"}
        if self._token is not None:
            headers["authorization"] = f"Bearer {self._token()}"
        timeout = httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S)
        url = f"{self._address}/v1/{name}:{verb}"
        try:
            answer = self._posted(url, orjson.dumps(said), headers, timeout)
            found = orjson.loads(answer.content) if answer.is_success else None
        except httpx.ReadTimeout as exc:
            if verb == "pull" and timeout_s == PULL_TIMEOUT_S:
                return {}
            raise QueueUnavailable from exc
        except (httpx.HTTPError, httpx.InvalidURL, orjson.JSONDecodeError, RuntimeError) as exc:
            raise QueueUnavailable from exc
        if not answer.is_success:
            refused = 300 <= answer.status_code < 500 and answer.status_code not in _PASSING
            raise QueueRefused if refused else QueueUnavailable
        if not isinstance(found, dict):
            raise QueueUnavailable
        return found

    def _posted(self, url: str, said: bytes, headers: Mapping[str, str], timeout: httpx.Timeout) -> httpx.Response:
        """Once more where a connection breaks: one frozen with its process is often dead. Twice does no harm."""
        try:
            return self._client().post(url, content=said, headers=headers, timeout=timeout)
        except (httpx.NetworkError, httpx.RemoteProtocolError):
            return self._client().post(url, content=said, headers=headers, timeout=timeout)

    def _client(self) -> httpx.Client:
        with self._lock:
            if self._closed:
                raise QueueUnavailable
            if self._made is None:
                way = self._way
                proxy = None if way.proxy is None else httpx.Proxy(way.proxy.reveal())
                limits = httpx.Limits(max_connections=PARALLEL, max_keepalive_connections=PARALLEL)
                tls = way.tls or ssl.create_default_context()
                self._made = httpx.Client(
                    verify=tls, trust_env=False, follow_redirects=False, proxy=proxy, limits=limits
                )
            return self._made


class HostToken:
    """The host's own service account, as Google's library finds it; asked anew when its token ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._credentials: Any = None

    def __call__(self) -> str:
        """Raises QueueRefused where there is no account, QueueUnavailable when it cannot be asked."""
        import google.auth
        from google.auth.exceptions import DefaultCredentialsError, RefreshError
        from google.auth.transport.requests import Request

        with self._lock:
            try:
                if self._credentials is None:
                    self._credentials = google.auth.default(scopes=[SCOPE])[0]  # noqa: TID251 - settings alone chose it
                if not self._credentials.valid:
                    self._credentials.refresh(Request())
                token: str = self._credentials.token
            except DefaultCredentialsError as exc:
                raise QueueRefused from exc
            except RefreshError as exc:
                raise (QueueUnavailable if exc.retryable else QueueRefused) from exc
            except Exception as exc:  # it has no closed list: a metadata service that answers oddly brings out any
                raise QueueUnavailable from exc
        return token


def _named(name: str | None) -> str:
    if name is None:
        raise QueueRefused
    return name


def _delivery(received: Mapping[str, Any]) -> Delivery:
    message = received["message"]
    return Delivery(str(received["ackId"]), str(message["messageId"]), str(message.get("data", "")))
