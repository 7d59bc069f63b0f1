"""Body objects in a Google Cloud Storage bucket.

It uses the credentials of its destination and looks for none elsewhere unless the destination says that the host's
own serve it (SECURITY F7); it talks to the destination's address and follows no answer to another. Nothing of a
vendor's text leaves it: an error is a code.
"""

from __future__ import annotations

import io
import re
import ssl
import threading
from collections.abc import Iterator, Sequence
from datetime import date
from http import HTTPStatus
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

from steward.body_object import key_facts, place
from steward.destination import Anonymous, GcsDestination, GoogleServiceAccount
from steward.errors import BodyNotFound, BodyTooLarge, SettingError, StoreFault, StoreRefused, StoreUnavailable
from steward.exchange import BodyRef
from steward.ports import Put, PutResult, StoredObject
from steward.uploads import put_all

if TYPE_CHECKING:
    from google.auth.credentials import Credentials
    from google.auth.transport.requests import AuthorizedSession

PARALLEL: Final = 16
TIMEOUT_S: Final = (5.0, 30.0)
"""To connect, and of silence."""
PATIENCE_S: Final = 30.0
"""How long one object is tried again."""
CHUNK_BYTES: Final = 8 << 20
"""Larger objects go up in pieces of this size, one in memory at a time."""

GOOGLE: Final = "https://storage.googleapis.com"
TOKEN_URI: Final = "https://oauth2.googleapis.com/token"  # noqa: S105 - an address
SCOPE: Final = "https://www.googleapis.com/auth/devstorage.read_write"

_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_PLAIN: Final = re.compile(r"[A-Za-z0-9]{1,64}")
_PASSING: Final = frozenset({408, 409, 425, 429})
"""4xx that pass by themselves."""


class GcsBodyStore:
    """One bucket. Its client is made at first use and serves all threads."""

    def __init__(self, destination: GcsDestination, patience_s: float = PATIENCE_S) -> None:
        """Raises ValueError for a bucket or address that is not exactly one; SettingError without Google's library."""
        if not _BUCKET.fullmatch(destination.bucket) or ".." in destination.bucket:
            raise ValueError("a bucket is named by its plain name")
        self._address = _address(destination.endpoint or GOOGLE)
        if not _installed():
            raise SettingError("Google Cloud Storage needs google-cloud-storage. Install majordomo-steward[gcp].")
        place(destination.prefix, "key")
        self._to = destination
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._made: Any = None
        self._closed = False

    def put_many(self, puts: Sequence[Put]) -> list[PutResult]:
        return put_all(self._put, puts, PARALLEL, "body-gcs")

    def get(self, key: str, most_bytes: int | None = None) -> bytes:
        name = place(self._to.prefix, key)
        end = most_bytes  # a range names its last octet: one more than may be had
        try:
            octets: bytes = self._blob(name).download_as_bytes(raw_download=True, end=end, **self._bounds())
        except Exception as exc:
            raise _fault(exc) from exc
        if most_bytes is not None and len(octets) > most_bytes:
            raise BodyTooLarge
        return octets

    def delete(self, key: str) -> None:
        name = place(self._to.prefix, key)
        try:
            self._blob(name).delete(**self._bounds())
        except Exception as exc:
            fault = _fault(exc)
            if not isinstance(fault, BodyNotFound):
                raise fault from exc

    def listed(self, since: date) -> Iterator[StoredObject]:
        below = f"{self._to.prefix}/" if self._to.prefix else ""
        try:
            listing = self._bucket().list_blobs(prefix=below, delimiter="/", **self._bounds())
            for _ in listing.pages:  # the folders are known once all pages were read
                pass
            for folder in sorted(listing.prefixes):
                start = f"{folder}{since.isoformat()}"
                for blob in self._bucket().list_blobs(prefix=folder, start_offset=start, **self._bounds()):
                    key = blob.name.removeprefix(below)
                    if (facts := key_facts(key)) is not None and facts.day >= since:
                        yield StoredObject(key, int(blob.size), blob.updated)
        except Exception as exc:
            raise _fault(exc) from exc

    def url(self, key: str) -> str:
        return f"gs://{self._to.bucket}/{quote(place(self._to.prefix, key))}"

    def close(self) -> None:
        """At once: waits for no upload. What is under way may end or not; what comes later is unavailable."""
        with self._lock:
            self._closed = True
            if self._made is not None:
                self._made.close()
                self._made = None

    def _put(self, put: Put) -> PutResult:
        try:
            name = place(self._to.prefix, put.key)
        except ValueError:
            return PutResult(None, refused=True, code="InvalidKey")
        try:
            # Whoever replaces an object must be allowed to delete, and nobody is: one that is there already was put by
            # who settled this call before.
            etag = self._upload(name, put, if_generation_match=0)
            if etag is None:
                etag = self._there(name, put) or self._upload(name, put)
        # An SDK has no closed list of what it raises: an address that answers with garbage brings out any of it.
        except Exception as exc:
            fault = _fault(exc)
            return PutResult(None, not isinstance(fault, StoreUnavailable), _code(exc))
        if not etag:
            return PutResult(None, code="NoETag")
        return PutResult(BodyRef(put.key, self.url(put.key), put.sha256, put.size_bytes))

    def _upload(self, name: str, put: Put, **condition: int) -> str | None:
        """The new object's etag, empty if the store says none; None when the condition did not hold."""
        from google.api_core.exceptions import PreconditionFailed

        blob = self._blob(name)
        blob.content_encoding = "gzip"
        blob.metadata = {"sha256": put.sha256}
        source = io.BytesIO(put.source) if isinstance(put.source, bytes) else put.source
        source.seek(0)
        bounds = {**self._bounds(), **condition}
        try:
            blob.upload_from_file(source, size=put.size_bytes, content_type="application/json", **bounds)
        except PreconditionFailed:
            if not condition:
                raise
            return None
        return blob.etag or ""

    def _there(self, name: str, put: Put) -> str | None:
        """The etag of the object that is there, if it is this one; None for another.

        Who may put and not look takes the key's word: the row's hash is compared with the object by all who read it.
        """
        blob = self._blob(name)
        try:
            blob.reload(**self._bounds())
        except Exception as exc:
            if isinstance(_fault(exc), StoreRefused):
                return "there"
            raise
        return blob.etag if (blob.metadata or {}).get("sha256") == put.sha256 else None

    def _bounds(self) -> dict[str, Any]:
        from google.cloud.storage.retry import DEFAULT_RETRY  # type: ignore[import-untyped]

        retry = DEFAULT_RETRY.with_delay(initial=0.5, maximum=4.0, multiplier=2.0).with_timeout(self._patience_s)
        return {"timeout": TIMEOUT_S, "retry": retry}

    def _blob(self, name: str) -> Any:
        return self._bucket().blob(name, chunk_size=CHUNK_BYTES)

    def _bucket(self) -> Any:
        with self._lock:
            if self._closed:
                raise StoreUnavailable
            if self._made is None:
                self._made = _client(self._to, self._address)
            return self._made.bucket(self._to.bucket)


def _client(to: GcsDestination, address: str) -> Any:
    """The one place where Google's library meets credentials."""
    from google.cloud.storage import Client  # type: ignore[import-untyped]

    try:
        credentials = _credentials(to)
    except ValueError as exc:  # a key that is none
        raise StoreRefused from exc
    # Address and project are always said: what is left unsaid, the library looks for in the environment.
    client = Client(
        project=to.project or "none",
        credentials=credentials,
        client_options={"api_endpoint": address},
        _http=_session(credentials, address),
    )
    # For spans that nobody asked for it would read the bucket's own description, in a thread of its own.
    client._bucket_metadata_cache = None
    return client


def _credentials(to: GcsDestination) -> Credentials:
    if isinstance(to.credentials, Anonymous):
        from google.auth.credentials import AnonymousCredentials

        return AnonymousCredentials()  # type: ignore[no-untyped-call]
    if isinstance(to.credentials, GoogleServiceAccount):
        return _service_account(to.credentials)
    import google.auth

    found: Credentials = google.auth.default(scopes=[SCOPE])[0]  # noqa: TID251 - reachable from settings alone
    return found


def _service_account(key: GoogleServiceAccount) -> Credentials:
    """Rebuilt from four fields: nothing in a key can name another token address, a file or a command."""
    from google.oauth2.service_account import Credentials

    info = {
        "type": "service_account",
        "client_email": key.client_email,
        "private_key": key.private_key.reveal(),
        "private_key_id": key.private_key_id,
        "project_id": key.project_id,
        "token_uri": TOKEN_URI,
    }
    rebuilt: Credentials = Credentials.from_service_account_info(info, scopes=[SCOPE])  # type: ignore[no-untyped-call]
    return rebuilt


def _session(credentials: Credentials, address: str) -> AuthorizedSession:
    """A session that knows the way to one address only: a redirect or an upload address elsewhere leads nowhere."""
    from google.auth.transport.requests import AuthorizedSession
    from requests.adapters import HTTPAdapter

    session = AuthorizedSession(credentials)  # type: ignore[no-untyped-call]
    session.adapters.clear()
    session.mount(f"{address}/", HTTPAdapter(pool_connections=1, pool_maxsize=PARALLEL))
    session.auth = _unchanged  # else requests would look into ~/.netrc
    session.hooks["response"].append(_read_failure)
    if (authorities := ssl.get_default_verify_paths().cafile) is not None:
        session.verify = authorities
    return session


def _unchanged(request: Any) -> Any:
    return request


def _read_failure(response: Any, **_: object) -> None:
    """Reads a failed download's answer at once: the library leaves it, and with it the connection, to the collector."""
    if not response.ok:
        response.content  # noqa: B018 - read for its effect


def _fault(exc: Exception) -> StoreFault:
    """What an error of the SDK means for us."""
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.exceptions import InvalidOperation, RefreshError
    from requests.exceptions import InvalidSchema, InvalidURL, MissingSchema

    if isinstance(exc, StoreFault):
        return exc
    if isinstance(exc, GoogleAPICallError):
        status = int(exc.code or 0)
        if status == HTTPStatus.NOT_FOUND:
            return BodyNotFound()
        return StoreRefused() if status // 100 in {3, 4} and status not in _PASSING else StoreUnavailable()
    if isinstance(exc, RefreshError):
        return StoreUnavailable() if exc.retryable else StoreRefused()
    # Credentials asked of who has none, and ways that lead elsewhere.
    astray = isinstance(exc, InvalidOperation | InvalidSchema | InvalidURL | MissingSchema)
    return StoreRefused() if astray else StoreUnavailable()


def _code(exc: Exception) -> str:
    """The vendor's reason when it is a plain word, else the kind of the error; of the last one when many were met."""
    exc = getattr(exc, "cause", None) or exc
    errors = getattr(exc, "errors", None)
    first = errors[0] if isinstance(errors, list) and errors else None
    reason = first.get("reason") if isinstance(first, dict) else None
    return reason if isinstance(reason, str) and _PLAIN.fullmatch(reason) else type(exc).__name__


def _installed() -> bool:
    """Whether Google's library is here. Of a dotted name whose parent is missing, `find_spec` raises."""
    try:
        return find_spec("google.cloud.storage") is not None
    except ModuleNotFoundError:
        return False


def _address(endpoint: str) -> str:
    """`scheme://host[:port]` without a final slash. Raises ValueError for anything more."""
    address = endpoint.rstrip("/")
    parts = urlsplit(address)
    plain = address.isascii() and address.isprintable() and parts.port != 0 and address.count("/") == len("//")
    if parts.scheme not in {"http", "https"} or not parts.hostname or set("@?#") & set(address) or not plain:
        raise ValueError("a Google Cloud Storage endpoint is http(s)://host[:port]")
    return address
