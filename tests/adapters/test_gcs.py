"""The Google store: what it makes of refusals, and that neither a key nor an answer can lead it elsewhere."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from steward.adapters.gcs import CHUNK_BYTES, GcsBodyStore
from steward.destination import Anonymous, GcsDestination, GoogleServiceAccount
from steward.errors import BodyNotFound, StoreFault, StoreRefused, StoreUnavailable
from steward.ports import Put, PutResult
from steward.words import Secret
from tests.servers.stores import Asked, GcsServer, Said, Script, scripted

SHA256 = hashlib.sha256(b"body").hexdigest()


@contextlib.contextmanager
def opened(destination: GcsDestination) -> Iterator[GcsBodyStore]:
    store = GcsBodyStore(destination, patience_s=1)
    try:
        yield store
    finally:
        store.close()


def at(script: Script, **facts: Any) -> GcsDestination:
    return dataclasses.replace(GcsDestination("bodies", "calls", Anonymous(), endpoint=script.address), **facts)


def put_one(destination: GcsDestination, octets: bytes = b"body") -> PutResult:
    with opened(destination) as store:
        [result] = store.put_many([Put("k", octets, hashlib.sha256(octets).hexdigest(), len(octets))])
    return result


def error(reason: str, status: int, **headers: str) -> Said:
    body = {"error": {"code": status, "message": "CANARY text", "errors": [{"reason": reason}]}}
    return Said(status, {"Content-Type": "application/json", **headers}, json.dumps(body).encode())


def test_the_object_says_what_it_is(gcs_server: GcsServer) -> None:
    destination = gcs_server.bucket()
    result = put_one(destination, b"\x1f\x8b body")
    assert result.ref is not None
    assert result.ref.url == f"gs://{destination.bucket}/calls/of%20this/k"
    name = quote("calls/of this/k", safe="")
    with urllib.request.urlopen(f"{gcs_server.address}/storage/v1/b/{destination.bucket}/o/{name}", timeout=30) as said:
        there = json.load(said)
    assert (there["contentType"], there["contentEncoding"]) == ("application/json", "gzip")
    assert there["metadata"] == {"sha256": hashlib.sha256(b"\x1f\x8b body").hexdigest()}


def test_one_object_is_one_request(script: Script) -> None:
    script.answer = lambda asked: Said(200, {}, b'{"etag":"1"}')
    assert put_one(at(script)).ref is not None
    [asked] = script.asked
    assert (asked.method, asked.path) == (
        "POST",
        "/upload/storage/v1/b/bodies/o?uploadType=multipart&ifGenerationMatch=0",
    )
    assert "authorization" not in asked.headers


@pytest.mark.parametrize(
    ("there", "stored", "methods"),
    [
        (Said(200, {}, json.dumps({"etag": "1", "metadata": {"sha256": SHA256}}).encode()), True, ["POST", "GET"]),
        (
            Said(200, {}, json.dumps({"etag": "1", "metadata": {"sha256": "00"}}).encode()),
            False,
            ["POST", "GET", "POST"],
        ),
        (Said(200, {}, b'{"etag":"1"}'), False, ["POST", "GET", "POST"]),
        ("forbidden", True, ["POST", "GET"]),
        ("backendError", False, ["POST", "GET"]),
    ],
    ids=["the same", "another", "nobody's", "may not look", "away"],
)
def test_an_object_that_is_there_already_was_put_for_this_call(
    script: Script, there: Said | str, stored: bool, methods: list[str]
) -> None:
    """Settled again, by a role that may put and not delete: to replace an object is to delete it."""

    def answer(asked: Asked) -> Said:
        if asked.method == "GET":
            return there if isinstance(there, Said) else error(there, 403 if there == "forbidden" else 503)
        return error("conditionNotMet", 412) if "ifGenerationMatch=0" in asked.path else error("forbidden", 403)

    script.answer = answer
    with opened(at(script)) as store:
        store._patience_s = 0.0  # noqa: SLF001 - one that is away is asked once
        [result] = store.put_many([Put("k", b"body", SHA256, 4)])
    assert (result.ref is not None) is stored
    assert [asked.method for asked in script.asked] == methods


def test_a_bucket_that_is_not_there_is_refused(gcs_server: GcsServer) -> None:
    gone = dataclasses.replace(gcs_server.bucket(), bucket="gone-for-good")
    assert put_one(gone) == PutResult(None, refused=True, code="NotFound")


@pytest.mark.parametrize(
    ("said", "refused", "code"),
    [
        (error("forbidden", 403), True, None),
        (error("authError", 401), True, None),
        (error("CANARY with blanks", 403), True, "Forbidden"),
        (error("invalid", 400), True, None),
        (error("conflict", 409), False, None),
        (error("rateLimitExceeded", 429), False, None),
        (error("backendError", 503), False, None),
        (Said(502, {}, b"<html>CANARY</html>"), False, None),
        (Said(200, {}, b"<html>CANARY</html>"), False, None),
        (Said(200, {}, b"{}"), False, "NoETag"),
        (Said(200, {}, b"[]"), False, None),
    ],
    ids=lambda value: f"{value.status} {value.body[-20:]!r}" if isinstance(value, Said) else None,
)
def test_answers_and_what_they_mean(script: Script, said: Said, refused: bool, code: str | None) -> None:
    script.answer = lambda asked: said
    result = put_one(at(script))
    assert (result.ref, result.refused) == (None, refused)
    assert result.code
    assert result.code == code or code is None
    assert "CANARY" not in repr(result)


def test_what_passes_is_tried_again_from_the_start(script: Script) -> None:
    said = iter([error("backendError", 503), Said(200, {}, b'{"etag":"1"}')])
    script.answer = lambda asked: next(said)
    with opened(at(script)) as store:
        [result] = store.put_many([Put("k", io.BytesIO(b"body" * 1000), "00", 4000)])
    assert result.ref is not None
    assert [b"body" * 1000 in asked.body for asked in script.asked] == [True, True]


@pytest.mark.parametrize(("status", "kind"), [(403, StoreRefused), (404, BodyNotFound), (500, StoreUnavailable)])
def test_no_word_of_the_vendor_is_in_an_error(script: Script, status: int, kind: type[StoreFault]) -> None:
    script.answer = lambda asked: error("odd", status)
    with opened(at(script)) as store:
        with pytest.raises(kind) as caught:
            store.get("k")
        assert "CANARY" not in f"{caught.value} {caught.value!r}"
        if status == 404:
            store.delete("k")
        else:
            with pytest.raises(kind):
                store.delete("k")


def test_failures_use_one_connection_and_give_it_back(script: Script) -> None:
    script.answer = lambda asked: error("backendError", 503)
    with opened(at(script)) as store:
        for call in (store.get, store.delete):
            with pytest.raises(StoreUnavailable):
                call("k")
    assert len(script.asked) > 2
    assert len({asked.peer for asked in script.asked}) == 1


def test_nobody_there_is_unavailable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert put_one(GcsDestination("bodies", "", Anonymous(), endpoint=endpoint)) == PutResult(
            None, code="ConnectionError"
        )


HANGING = """
import sys, threading, time
from steward.adapters.gcs import PARALLEL, GcsBodyStore
from steward.destination import Anonymous, GcsDestination
from steward.ports import Put
from steward.words import Secret
store = GcsBodyStore(GcsDestination("bodies", "", Anonymous(), endpoint=sys.argv[1]))
puts = [Put(f"k{number}", b"body", "00", 4) for number in range(3 * PARALLEL)]
putting = threading.Thread(target=store.put_many, args=(puts,), daemon=True)
putting.start()
sys.stdin.readline()
start = time.monotonic()
store.close()
print(putting.is_alive(), store.put_many(puts[:1])[0].code, time.monotonic() - start < 5)
"""


def test_closing_waits_for_no_upload_and_neither_does_the_interpreter() -> None:
    """Of a store that accepts and never answers, which would take minutes to give up."""
    with contextlib.ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        command = [sys.executable, "-c", HANGING, f"http://127.0.0.1:{silent.getsockname()[1]}"]
        pipe = subprocess.PIPE
        ran = stack.enter_context(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True))
        stack.callback(ran.kill)
        silent.settimeout(20)
        for _ in range(8):
            stack.enter_context(silent.accept()[0])
        out, complaints = ran.communicate("\n", timeout=20)
    assert (ran.returncode, out) == (0, "True StoreUnavailable True\n"), complaints[-2000:]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("size", [4, CHUNK_BYTES + 1])
def test_no_redirect_is_followed_to_another_address(script: Script, status: int, size: int) -> None:
    with scripted() as elsewhere:
        script.answer = lambda asked: Said(status, {"Location": f"{elsewhere.address}/upload"})
        result = put_one(at(script), b"x" * size)
        assert result.ref is None
        with opened(at(script)) as store, pytest.raises(StoreFault):
            store.get("k")
        assert elsewhere.asked == []
        assert script.asked != []


@pytest.mark.parametrize(
    "way", ["{other}/upload", "http://{host}@{other_host}/upload", "{address}.evil.example/upload"]
)
def test_an_upload_address_elsewhere_is_not_used(script: Script, way: str) -> None:
    with scripted() as elsewhere:
        location = way.format(
            other=elsewhere.address,
            address=script.address,
            host=script.address.removeprefix("http://"),
            other_host=elsewhere.address.removeprefix("http://"),
        )
        script.answer = lambda asked: Said(200, {"Location": location}, b"{}")
        result = put_one(at(script), b"x" * (CHUNK_BYTES + 1))
        assert result.ref is None
        assert elsewhere.asked == []
        assert [asked.method for asked in script.asked] == ["POST"]


@pytest.mark.parametrize(
    "facts",
    [
        {"bucket": "bodies/../other"},
        {"bucket": "Bodies"},
        {"bucket": "a..b"},
        {"bucket": ""},
        {"bucket": "bodies\n"},
        {"prefix": "../other"},
        {"endpoint": "https://user:CANARY@evil.example"},
        {"endpoint": "https://evil.example?x=1"},
        {"endpoint": "https://evil.example/path"},
        {"endpoint": "https://evil.example#x"},
        {"endpoint": "file:///etc/passwd"},
        {"endpoint": "https://"},
        {"endpoint": "https://evil.example:port"},
        {"endpoint": "https://evil.example\r\nX: y"},
    ],
)
def test_a_destination_that_is_not_exactly_one_is_refused(facts: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"bucket|prefix|endpoint|[Pp]ort") as caught:
        GcsBodyStore(dataclasses.replace(GcsDestination("bodies", "", Anonymous()), **facts))
    assert "CANARY" not in str(caught.value)


def test_a_key_that_is_none_is_refused_and_shown_nowhere() -> None:
    key = GoogleServiceAccount("steward@p.iam.gserviceaccount.com", Secret("CANARY not a PEM"), "1", "p")
    destination = GcsDestination("bodies", "", key)
    assert put_one(destination) == PutResult(None, refused=True, code="StoreRefused")
    with opened(destination) as store, pytest.raises(StoreRefused) as caught:
        store.get("k")
    assert "CANARY" not in f"{caught.value} {destination!r}"


HOSTILE = """
import sys
from steward.adapters.gcs import GcsBodyStore
from steward.destination import Anonymous, GcsDestination, GoogleServiceAccount, HostRole
from steward.ports import Put
from steward.words import Secret
kind, address = sys.argv[1:]
pem = Secret(sys.stdin.read())
credentials = {
    "key": GoogleServiceAccount("steward@p.iam.gserviceaccount.com", pem, "1", "p"),
    "role": HostRole(),
    "anonymous": Anonymous(),
}[kind]
store = GcsBodyStore(GcsDestination("bodies", "", credentials, endpoint=address or None), patience_s=1)
[result] = store.put_many([Put("k", b"body", "00", 4)])
print("stored" if result.ref else result.code)
store.close()
"""


def run_hostile(home: Path, environment: dict[str, str], kind: str, address: str = "") -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    command = [sys.executable, "-c", HOSTILE, kind, address]
    done = subprocess.run(command, env=environment, cwd=home, input=pem, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def hostile_environment(home: Path, evil: Script) -> dict[str, str]:
    """Every place Google's library looks in, each with something to find."""
    config = home / ".config" / "gcloud"
    config.mkdir(parents=True)
    planted = home / "planted"
    planted.write_text("CANARY token")
    hostile = {
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": f"{evil.address}/token",
        "credential_source": {"file": str(planted)},
    }
    for place in (config / "application_default_credentials.json", home / "adc.json"):
        place.write_text(json.dumps(hostile))
    netrc = home / ".netrc"
    netrc.write_text("default login evil password CANARY\n")
    netrc.chmod(0o600)
    host = evil.address.removeprefix("http://")
    root = Path(__file__).parents[2]
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join([str(root), *sys.path]),
        "HOME": str(home),
        "GOOGLE_APPLICATION_CREDENTIALS": str(home / "adc.json"),
        "GOOGLE_CLOUD_PROJECT": "evil",
        "STORAGE_EMULATOR_HOST": evil.address,
        "API_ENDPOINT_OVERRIDE": evil.address,
        "GCE_METADATA_HOST": host,
        "GCE_METADATA_ROOT": host,
        "GCE_METADATA_IP": host,
    }


def test_a_service_account_asks_google_for_its_token_and_nobody_else(script: Script, tmp_path: Path) -> None:
    with scripted() as proxy:
        proxy.answer = lambda asked: Said(403)
        environment = hostile_environment(tmp_path, script) | {"HTTPS_PROXY": proxy.address}
        assert run_hostile(tmp_path, environment, "key") != "stored"
        assert {(asked.method, asked.path) for asked in proxy.asked} == {("CONNECT", "oauth2.googleapis.com:443")}
    assert script.asked == []


def test_without_credentials_none_are_sent(script: Script, tmp_path: Path) -> None:
    with scripted() as store:
        store.answer = lambda asked: Said(200, {}, b'{"etag":"1"}')
        environment = hostile_environment(tmp_path, script)
        assert run_hostile(tmp_path, environment, "anonymous", store.address) == "stored"
        assert [asked.headers.get("authorization") for asked in store.asked] == [None]
    assert script.asked == []


def test_the_hosts_own_credentials_are_found_where_the_vendor_looks(script: Script, tmp_path: Path) -> None:
    # The other side of the proofs above: with the host's own, these places do count.
    environment = hostile_environment(tmp_path, script)
    assert run_hostile(tmp_path, environment, "role") != "stored"
    assert "/token" in {asked.path for asked in script.asked}


def test_the_sdk_is_imported_when_first_used_and_no_other_is() -> None:
    code = (
        "import sys\n"
        "from steward.adapters.gcs import GcsBodyStore\n"
        "from steward.destination import GcsDestination, HostRole\n"
        "GcsBodyStore(GcsDestination('bodies', '', HostRole())).close()\n"
        "print([name for name in ('google.cloud.storage', 'google.auth', 'botocore') if name in sys.modules])\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "[]")
