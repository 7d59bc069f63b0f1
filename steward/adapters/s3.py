"""Body objects in a bucket that speaks S3.

It uses the credentials of its destination and consults nothing else for them: no environment, no file, no metadata
service, unless the destination says that the host's own role serves it (SECURITY F7). Nothing of a vendor's text
leaves it: an error is a code.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

from steward.adapters.s3_public import connect_to_public_alone
from steward.body_object import key_facts, place
from steward.destination import HostRole, S3Destination, is_region, is_s3_bucket
from steward.errors import BodyNotFound, BodyTooLarge, SettingError, StoreFault, StoreRefused, StoreUnavailable
from steward.exchange import BodyRef
from steward.ports import Put, PutResult, Source, StoredObject
from steward.uploads import put_all

if TYPE_CHECKING:
    from botocore.client import BaseClient
    from botocore.session import Session

PARALLEL: Final = 16
CONNECT_TIMEOUT_S: Final = 5
READ_TIMEOUT_S: Final = 30.0
ATTEMPTS: Final = 3
MULTIPART_BYTES: Final = 100 << 20
"""Larger objects go up in parts, so that a broken connection costs one of them."""
PART_BYTES: Final = 16 << 20

_PLAIN: Final = re.compile(r"[A-Za-z0-9]{1,64}")

_PASSING: Final = frozenset(
    {"RequestTimeout", "RequestTimeTooSkewed", "SlowDown", "ExpiredToken", "OperationAborted", "TooManyRequests"}
)
"""Codes that stand beside a 4xx and still pass by themselves; besides them everything that speaks of throttling."""


class S3BodyStore:
    """One bucket. Its client is made at first use and serves all threads."""

    def __init__(self, destination: S3Destination, read_timeout_s: float = READ_TIMEOUT_S) -> None:
        """Raises ValueError for a bucket, region or address that is not exactly one; SettingError without boto3."""
        if not is_s3_bucket(destination.bucket):
            raise ValueError("an S3 bucket is named by its plain name")
        if destination.region is not None and not is_region(destination.region):
            raise ValueError("an S3 region is a plain word")
        if destination.endpoint is not None and not _is_address(destination.endpoint):
            raise ValueError("an S3 endpoint is http(s)://host[:port][/path]")
        if find_spec("botocore") is None:
            raise SettingError("S3 needs boto3. Install majordomo-steward[aws].")
        place(destination.prefix, "key")
        self._to = destination
        self._read_timeout_s = read_timeout_s
        self._lock = threading.Lock()
        self._made: BaseClient | None = None
        self._closed = False

    def put_many(self, puts: Sequence[Put]) -> list[PutResult]:
        return put_all(self._put, puts, PARALLEL, "body-s3")

    def get(self, key: str, most_bytes: int | None = None) -> bytes:
        where = self._where(key)
        try:
            got = self._client().get_object(**where)
            with contextlib.closing(got["Body"]) as body:
                if most_bytes is not None and got["ContentLength"] > most_bytes:
                    raise BodyTooLarge
                octets: bytes = body.read()
        except BodyTooLarge:
            raise
        except Exception as exc:
            raise _fault(exc) from exc
        return octets

    def delete(self, key: str) -> None:
        where = self._where(key)
        try:
            self._client().delete_object(**where)
        except Exception as exc:
            fault = _fault(exc)
            if not isinstance(fault, BodyNotFound):
                raise fault from exc

    def listed(self, since: date) -> Iterator[StoredObject]:
        try:
            for folder in self._folders():
                yield from self._listed_below(folder, since)
        except Exception as exc:
            raise _fault(exc) from exc

    def url(self, key: str) -> str:
        return f"s3://{self._to.bucket}/{quote(place(self._to.prefix, key))}"

    def close(self) -> None:
        """At once: waits for no upload. What is under way may end or not; what comes later is unavailable."""
        with self._lock:
            self._closed = True
            if self._made is not None:
                self._made.close()
                self._made = None

    def _below(self) -> str:
        return f"{self._to.prefix}/" if self._to.prefix else ""

    def _folders(self) -> list[str]:
        """One for each key that has bodies here, with the store's prefix and a final slash."""
        pages = (
            self._client()
            .get_paginator("list_objects_v2")
            .paginate(**self._bucket(), Prefix=self._below(), Delimiter="/")
        )
        return [found["Prefix"] for page in pages for found in page.get("CommonPrefixes", ())]

    def _listed_below(self, folder: str, since: date) -> Iterator[StoredObject]:
        """The days stand in order: what is older is not even listed."""
        pages = (
            self._client()
            .get_paginator("list_objects_v2")
            .paginate(**self._bucket(), Prefix=folder, StartAfter=f"{folder}{since.isoformat()}")
        )
        for page in pages:
            for found in page.get("Contents", ()):
                key = found["Key"].removeprefix(self._below())
                if key_facts(key) is not None:
                    yield StoredObject(key, found["Size"], found["LastModified"])

    def _put(self, put: Put) -> PutResult:
        try:
            where = self._where(put.key)
        except ValueError:
            return PutResult(None, refused=True, code="InvalidKey")
        try:
            etag = self._in_parts(where, put) if put.size_bytes > MULTIPART_BYTES else self._at_once(where, put)
        # An SDK has no closed list of what it raises: an address that answers with garbage brings out any of it.
        except Exception as exc:
            return PutResult(None, isinstance(_fault(exc), StoreRefused), _code(exc))
        if not etag:
            return PutResult(None, code="NoETag")
        return PutResult(BodyRef(put.key, self.url(put.key), put.sha256, put.size_bytes))

    def _at_once(self, where: Mapping[str, str], put: Put) -> str | None:
        """One request; a file is streamed, and read again from its start when botocore tries again."""
        if not isinstance(put.source, bytes):
            put.source.seek(0)
        answer: Mapping[str, str] = self._client().put_object(**where, **self._about(put), Body=put.source)
        return answer.get("ETag")

    def _in_parts(self, where: Mapping[str, str], put: Put) -> str | None:
        """A multipart upload, one part in memory at a time. Half an upload is taken back."""
        client = self._client()
        upload = {**where, "UploadId": client.create_multipart_upload(**where, **self._about(put))["UploadId"]}
        try:
            parts = [
                {"PartNumber": number, "ETag": client.upload_part(**upload, PartNumber=number, Body=part)["ETag"]}
                for number, part in enumerate(_parts(put.source), 1)
            ]
            whole: Mapping[str, str] = client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
            return whole.get("ETag")
        except BaseException:
            with contextlib.suppress(Exception):
                client.abort_multipart_upload(**upload)
            raise

    def _where(self, key: str) -> dict[str, str]:
        return {**self._bucket(), "Key": place(self._to.prefix, key)}

    def _bucket(self) -> dict[str, str]:
        if self._to.expected_owner is None:
            return {"Bucket": self._to.bucket}
        return {"Bucket": self._to.bucket, "ExpectedBucketOwner": self._to.expected_owner}

    def _about(self, put: Put) -> dict[str, Any]:
        about: dict[str, Any] = {
            "ContentType": "application/json",
            "ContentEncoding": "gzip",
            "Metadata": {"sha256": put.sha256},
        }
        if self._to.kms_key_id is not None:
            about |= {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": self._to.kms_key_id}
        return about

    def _client(self) -> Any:
        with self._lock:
            if self._closed:
                raise StoreUnavailable
            if self._made is None:
                self._made = _client(self._to, self._read_timeout_s)
            return self._made


def _client(to: S3Destination, read_timeout_s: float) -> BaseClient:
    """The one place where botocore meets credentials."""
    from botocore.config import Config

    config = Config(
        signature_version="s3v4",
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=read_timeout_s,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        max_pool_connections=PARALLEL,
        ignore_configured_endpoint_urls=True,  # type: ignore[call-arg]  # missing in the stubs
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path" if to.endpoint else "auto"},
    )
    client = _session(to).create_client(
        "s3",
        to.region,
        endpoint_url=to.endpoint,
        verify=ssl.get_default_verify_paths().cafile,
        config=config,
        **_keys(to),
    )
    client.meta.events.register_last("before-call.s3", _without_leave)
    if to.region is not None or to.endpoint is not None:
        client.meta.events.register("before-call.s3", _stay)
    if to.public_only:
        connect_to_public_alone(client)
    return client


def _without_leave(params: dict[str, Any], **_: object) -> None:
    """Takes the `Expect` off a small body: waiting for leave costs a round trip and a third of the call's CPU."""
    if isinstance(params.get("body"), bytes | io.BytesIO):
        params["headers"].pop("Expect", None)


def _stay(context: dict[str, Any], **_: object) -> None:
    """Marks a call as redirected before it starts, so that botocore follows no answer to another region.

    Where the place is decided, a redirect is a refusal; and one that names no region sends botocore asking for it
    until the stack ends.
    """
    context.setdefault("s3_redirect", {})["redirected"] = True


def _keys(to: S3Destination) -> dict[str, Any]:
    if isinstance(to.credentials, HostRole):
        return {}
    return {
        "aws_access_key_id": to.credentials.access_key_id,
        "aws_secret_access_key": to.credentials.secret_access_key.reveal(),
    }


def _session(to: S3Destination) -> Session:
    """botocore's own session for the host's role; for keys one without sources.

    In that one each variable has its default, no environment and no file is asked, and credentials that were not
    given are not found.
    """
    from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES
    from botocore.credentials import CredentialResolver
    from botocore.session import Session

    if isinstance(to.credentials, HostRole):
        return Session()
    defaults = {
        name: (None, None, os.devnull if name.endswith("_file") else default, convert)
        for name, (_, _, default, convert) in BOTOCORE_DEFAUT_SESSION_VARIABLES.items()
    }
    session = Session(session_vars=defaults | {"region": (None, None, "us-east-1", None)})
    session.register_component("credential_provider", CredentialResolver([]))
    return session


def _parts(source: Source) -> Iterator[bytes]:
    if isinstance(source, bytes):
        for start in range(0, len(source), PART_BYTES):
            yield source[start : start + PART_BYTES]
        return
    source.seek(0)
    while part := source.read(PART_BYTES):
        yield part


def _fault(exc: Exception) -> StoreFault:
    """What an error of the SDK means for us."""
    from botocore.exceptions import ClientError

    if isinstance(exc, ClientError):
        status = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code = exc.response.get("Error", {}).get("Code", "")
        if code == "NoSuchKey":
            return BodyNotFound()
        passes = not 300 <= status < 500 or status in {408, 409, 429} or code in _PASSING or "hrottl" in code
        return StoreUnavailable() if passes else StoreRefused()
    return StoreUnavailable()


def _code(exc: Exception) -> str:
    """The vendor's code when it is a plain word, else the kind of the error."""
    response = getattr(exc, "response", None)
    if isinstance(response, dict):
        code = response.get("Error", {}).get("Code")
        return code if isinstance(code, str) and _PLAIN.fullmatch(code) else _fault(exc).code
    return type(exc).__name__


def _is_address(endpoint: str) -> bool:
    """http(s)://host[:port][/path] and nothing else."""
    try:
        parts = urlsplit(endpoint)
        port = parts.port
    except ValueError:
        return False
    plain = not (parts.username or parts.password or parts.query or parts.fragment) and endpoint.isprintable()
    return plain and parts.scheme in {"http", "https"} and bool(parts.hostname) and port != 0 and " " not in endpoint
