"""The S3 store: what it sends, what it makes of refusals, and that its destination's keys are all it knows."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from steward.adapters.s3 import ATTEMPTS, MULTIPART_BYTES, PARALLEL, PART_BYTES, S3BodyStore
from steward.destination import S3Destination, S3Keys
from steward.errors import BodyNotFound, StoreFault, StoreRefused, StoreUnavailable
from steward.ports import Put, PutResult
from steward.words import Secret
from tests.servers.stores import OWNER, Asked, S3Server, Said, Script, scripted

ROOT = Path(__file__).parents[2]
KEYS = S3Keys("AKIAEXAMPLE", Secret("CANARYSECRET"))


def put(octets: bytes, key: str = "k/1.json.gz") -> Put:
    return Put(key, octets, hashlib.sha256(octets).hexdigest(), len(octets))


def error(code: str, status: int, **headers: str) -> Said:
    return Said(status, headers, f"<Error><Code>{code}</Code><Message>CANARY text</Message></Error>".encode())


@contextlib.contextmanager
def opened(destination: S3Destination, read_timeout_s: float = 30) -> Iterator[S3BodyStore]:
    store = S3BodyStore(destination, read_timeout_s)
    try:
        yield store
    finally:
        store.close()


def at(script: Script, **facts: Any) -> S3Destination:
    return dataclasses.replace(S3Destination("bodies", "calls", KEYS, endpoint=script.address), **facts)


def put_one(destination: S3Destination, source: bytes | io.BytesIO = b"body") -> PutResult:
    octets = source if isinstance(source, bytes) else source.getvalue()
    with opened(destination) as store:
        [result] = store.put_many([Put("k", source, hashlib.sha256(octets).hexdigest(), len(octets))])
    return result


def test_the_object_says_what_it_is(s3_server: S3Server) -> None:
    destination = s3_server.bucket()
    with opened(destination) as store, contextlib.closing(s3_server.client()) as client:
        [result] = store.put_many([put(b"\x1f\x8b body")])
        there = client.head_object(Bucket=destination.bucket, Key="calls/of this/k/1.json.gz")
    assert (there["ContentType"], there["ContentEncoding"]) == ("application/json", "gzip")
    assert there["Metadata"] == {"sha256": hashlib.sha256(b"\x1f\x8b body").hexdigest()}
    assert result.ref is not None
    assert result.ref.url == f"s3://{destination.bucket}/calls/of%20this/k/1.json.gz"


def test_what_crosses_the_wire(script: Script) -> None:
    script.answer = lambda asked: Said(200, {"ETag": '"1"'})
    result = put_one(at(script, kms_key_id="alias/bodies", expected_owner=OWNER, region="eu-central-1"))
    assert result.ref is not None
    [asked] = script.asked
    assert (asked.method, asked.path, asked.body) == ("PUT", "/bodies/calls/k", b"body")
    assert asked.headers["x-amz-expected-bucket-owner"] == OWNER
    assert asked.headers["x-amz-server-side-encryption"] == "aws:kms"
    assert asked.headers["x-amz-server-side-encryption-aws-kms-key-id"] == "alias/bodies"
    assert asked.headers["x-amz-content-sha256"] == hashlib.sha256(b"body").hexdigest()
    assert "Credential=AKIAEXAMPLE/" in asked.headers["authorization"]
    assert "/eu-central-1/s3/" in asked.headers["authorization"]
    assert not {"x-amz-security-token", "transfer-encoding"} & set(asked.headers)
    assert not [name for name in asked.headers if "checksum" in name or "trailer" in name]


def test_only_a_file_waits_for_leave_to_be_sent(script: Script) -> None:
    script.answer = lambda asked: Said(200, {"ETag": '"1"'})
    with opened(at(script)) as store, tempfile.TemporaryFile() as file:
        file.write(b"file")
        for source in (b"body", file):
            assert store.put_many([Put("k", source, "00", 4)])[0].ref is not None
    assert [(asked.headers.get("expect"), asked.body) for asked in script.asked] == [
        (None, b"body"),
        ("100-continue", b"file"),
    ]


def test_a_bucket_of_another_account_is_refused(script: Script) -> None:
    def answer(asked: Asked) -> Said:
        if asked.headers["x-amz-expected-bucket-owner"] != OWNER:
            return error("AccessDenied", 403)
        return Said(204 if asked.method == "DELETE" else 200, {"ETag": '"1"'})

    script.answer = answer
    with opened(at(script, expected_owner=OWNER)) as store:
        assert store.put_many([put(b"body")])[0].ref is not None
        assert store.get("k") == b""
        store.delete("k")
    with opened(at(script, expected_owner="999999999999")) as store:
        assert store.put_many([put(b"body")]) == [PutResult(None, refused=True, code="AccessDenied")]
        with pytest.raises(StoreRefused):
            store.get("k")
        with pytest.raises(StoreRefused):
            store.delete("k")


@pytest.mark.parametrize(
    ("keys", "code"),
    [
        (lambda right: S3Keys(right.access_key_id, Secret("wrong")), "SignatureDoesNotMatch"),
        (lambda right: S3Keys("AKIAUNKNOWN", right.secret_access_key), "InvalidAccessKeyId"),
    ],
)
def test_wrong_keys_are_refused(s3_server: S3Server, keys: object, code: str) -> None:
    assert callable(keys)
    destination = s3_server.bucket()
    wrong = dataclasses.replace(destination, credentials=keys(destination.credentials))
    result = put_one(wrong)
    assert (result.ref, result.refused, result.code) == (None, True, code)
    with opened(wrong) as store, pytest.raises(StoreRefused):
        store.get("k")


def test_a_bucket_that_is_not_there_is_refused(s3_server: S3Server) -> None:
    gone = dataclasses.replace(s3_server.bucket(), bucket=f"gone-{uuid4().hex}")
    assert put_one(gone) == PutResult(None, refused=True, code="NoSuchBucket")
    with opened(gone) as store:
        with pytest.raises(StoreRefused):
            store.get("k")
        with pytest.raises(StoreRefused):
            store.delete("k")


@pytest.mark.parametrize(
    ("said", "refused", "code"),
    [
        (error("AccessDenied", 403), True, "AccessDenied"),
        (error("KMS.DisabledException", 400), True, "store_refused"),
        (error("CANARY text with a key in it", 403), True, "store_refused"),
        (error("C" * 65, 403), True, "store_refused"),
        (error("PermanentRedirect", 301), True, "PermanentRedirect"),
        (error("TemporaryRedirect", 307), True, "TemporaryRedirect"),
        (error("InvalidBucketState", 409), False, "InvalidBucketState"),
        (error("RequestTimeout", 400), False, "RequestTimeout"),
        (error("ExpiredToken", 400), False, "ExpiredToken"),
        (error("KMS.ThrottlingException", 400), False, "store_unavailable"),
        (error("SlowDown", 503), False, "SlowDown"),
        (error("InternalError", 500), False, "InternalError"),
        (error("TooManyRequests", 429), False, "TooManyRequests"),
        (Said(403, {}, b"no XML CANARY"), True, None),
        (Said(502, {}, b"<html>CANARY</html>"), False, None),
        (Said(200), False, "NoETag"),
        (Said(200, {"ETag": ""}), False, "NoETag"),
    ],
    ids=lambda value: f"{value.status} {value.body[13:30]!r}" if isinstance(value, Said) else None,
)
def test_answers_and_what_they_mean(script: Script, said: Said, refused: bool, code: str | None) -> None:
    script.answer = lambda asked: said
    result = put_one(at(script))
    assert (result.ref, result.refused) == (None, refused)
    assert result.code == code or code is None
    assert "CANARY" not in repr(result)
    assert len(script.asked) <= ATTEMPTS


@pytest.mark.parametrize("status", [403, 404, 500])
def test_no_word_of_the_vendor_is_in_an_error(script: Script, status: int) -> None:
    script.answer = lambda asked: error("Odd", status)
    with opened(at(script)) as store:
        for call in (store.get, store.delete):
            with pytest.raises(StoreFault) as caught:
                call("k")
            assert "CANARY" not in f"{caught.value} {caught.value!r}"
            assert isinstance(caught.value, StoreUnavailable if status == 500 else StoreRefused)


def test_a_missing_object_is_told_from_a_missing_bucket(script: Script) -> None:
    script.answer = lambda asked: error("NoSuchKey", 404)
    with opened(at(script)) as store:
        with pytest.raises(BodyNotFound):
            store.get("k")
        store.delete("k")


def test_a_file_is_sent_again_from_its_start(script: Script) -> None:
    said = iter([error("SlowDown", 503), Said(200, {"ETag": '"1"'})])
    script.answer = lambda asked: next(said)
    assert put_one(at(script), io.BytesIO(b"body" * 1000)).ref is not None
    assert [asked.body for asked in script.asked] == [b"body" * 1000] * 2


def test_one_that_fails_takes_no_other_with_it(script: Script) -> None:
    script.answer = lambda asked: error("AccessDenied", 403) if "bad" in asked.path else Said(200, {"ETag": '"1"'})
    keys = [f"{'bad' if number % 3 else 'good'}/{number}" for number in range(2 * PARALLEL)]
    with opened(at(script)) as store:
        results = store.put_many([put(b"body", key) for key in keys])
    assert [result.refused for result in results] == [key.startswith("bad") for key in keys]
    assert [result.ref.key for result in results if result.ref] == [key for key in keys if key.startswith("good")]


def test_failures_use_one_connection_and_give_it_back(script: Script) -> None:
    script.answer = lambda asked: error("SlowDown", 503)
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
        with opened(S3Destination("bodies", "", KEYS, endpoint=endpoint)) as store:
            assert store.put_many([put(b"body")]) == [PutResult(None, code="EndpointConnectionError")]
            with pytest.raises(StoreUnavailable):
                store.get("k")


def test_silence_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with opened(S3Destination("bodies", "", KEYS, endpoint=endpoint), read_timeout_s=0.2) as store:
            assert store.put_many([put(b"body")]) == [PutResult(None, code="ReadTimeoutError")]


HANGING = """
import sys, threading, time
from steward.adapters.s3 import PARALLEL, S3BodyStore
from steward.destination import S3Destination, S3Keys
from steward.ports import Put
from steward.words import Secret
store = S3BodyStore(S3Destination("bodies", "", S3Keys("AKIAEXAMPLE", Secret("secret")), endpoint=sys.argv[1]))
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


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_no_redirect_is_followed_to_another_address(script: Script, status: int) -> None:
    with scripted() as elsewhere:
        script.answer = lambda asked: error(
            "PermanentRedirect", status, Location=f"{elsewhere.address}/bodies/k", **{"x-amz-bucket-region": "evil-1"}
        )
        assert put_one(at(script)).refused
        assert elsewhere.asked == []
        assert [asked.method for asked in script.asked] == ["PUT"]


def test_a_very_large_object_goes_up_in_parts(s3_server: S3Server) -> None:
    octets = hashlib.shake_256(b"x").digest(1 << 20) * 17
    destination = s3_server.bucket()
    with opened(destination) as store, contextlib.closing(s3_server.client()) as client:
        for source in (octets, io.BytesIO(octets)):
            # Said to be larger than it is: what decides is the size said.
            [result] = store.put_many([Put("k", source, "00", MULTIPART_BYTES + 1)])
            assert result.ref is not None
            there = client.head_object(Bucket=destination.bucket, Key="calls/of this/k")
            assert there["ETag"].strip('"').endswith("-2")
            assert (there["ContentType"], there["ContentEncoding"]) == ("application/json", "gzip")
            assert store.get("k") == octets


def test_half_an_upload_is_taken_back(script: Script) -> None:
    def answer(asked: Asked) -> Said:
        if asked.method == "POST" and "uploads" in asked.path:
            return Said(200, {}, b"<R><Bucket>b</Bucket><Key>k</Key><UploadId>up-1</UploadId></R>")
        return Said(204) if asked.method == "DELETE" else error("AccessDenied", 403)

    script.answer = answer
    with opened(at(script)) as store:
        [result] = store.put_many([Put("k", b"x" * (PART_BYTES + 1), "00", MULTIPART_BYTES + 1)])
    assert (result.ref, result.refused, result.code) == (None, True, "AccessDenied")
    assert [asked.method for asked in script.asked] == ["POST", "PUT", "DELETE"]
    assert script.asked[-1].path == "/bodies/calls/k?uploadId=up-1"


@pytest.mark.parametrize(
    "facts",
    [
        {"bucket": "arn:aws:s3:eu-central-1:999999999999:accesspoint/evil"},
        {"bucket": "bodies/../other"},
        {"bucket": "bodies?x=1"},
        {"bucket": "Bodies"},
        {"bucket": "a..b"},
        {"bucket": "192.168.0.1"},
        {"bucket": "evil-abcdefgh-s3alias"},
        {"bucket": "bodies--x-s3"},
        {"bucket": "evil.mrap"},
        {"bucket": "bodies\n"},
        {"prefix": "../other"},
        {"region": "eu-central-1.evil.example/"},
        {"region": ""},
        {"endpoint": "https://user:CANARY@evil.example"},
        {"endpoint": "https://evil.example?x=1"},
        {"endpoint": "file:///etc/passwd"},
        {"endpoint": "https://"},
        {"endpoint": "https://evil.example:port"},
        {"endpoint": "https://evil.example/\r\nX: y"},
    ],
)
def test_a_destination_that_is_not_exactly_one_is_refused(facts: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="S3|prefix") as caught:
        S3BodyStore(dataclasses.replace(S3Destination("bodies", "", KEYS), **facts))
    assert "CANARY" not in str(caught.value)


HOSTILE = """
import sys
from steward.adapters.s3 import S3BodyStore
from steward.destination import HostRole, S3Destination, S3Keys
from steward.ports import Put
from steward.words import Secret
bucket, endpoint, key, secret = sys.argv[1:]
credentials = S3Keys(key, Secret(secret)) if key else HostRole()
store = S3BodyStore(S3Destination(bucket, "", credentials, endpoint=endpoint))
[result] = store.put_many([Put("k", b"body", "00", 4)])
print("stored" if result.ref else result.code)
store.close()
"""


def hostile_environment(home: Path, metadata: Script) -> dict[str, str]:
    """Every place the vendor's default chain looks in, each with something to find."""
    aws = home / ".aws"
    aws.mkdir()
    wrong = "aws_access_key_id = AKIAWRONG\naws_secret_access_key = wrong\n"
    (aws / "credentials").write_text(f"[default]\n{wrong}[other]\n{wrong}")
    (aws / "config").write_text(
        f"[default]\nregion = wrong-1\nendpoint_url = {metadata.address}\ncredential_process = touch {home}/ran\n"
        f"[profile other]\nregion = wrong-1\nendpoint_url = {metadata.address}\ns3 =\n  addressing_style = virtual\n"
    )
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        "HOME": str(home),
        "AWS_PROFILE": "other",
        "AWS_DEFAULT_REGION": "wrong-1",
        "AWS_SESSION_TOKEN": "WRONGTOKEN",
        "AWS_ENDPOINT_URL": metadata.address,
        "AWS_ENDPOINT_URL_S3": metadata.address,
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{metadata.address}/container",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN": "WRONG",
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata.address,
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(aws / "credentials"),
        "AWS_ROLE_ARN": "arn:aws:iam::999999999999:role/evil",
        "AWS_ENDPOINT_URL_STS": metadata.address,
        "AWS_DEFAULTS_MODE": "auto",
        "AWS_USE_FIPS_ENDPOINT": "true",
        "AWS_CA_BUNDLE": str(home / "none.pem"),
    }


def run_hostile(home: Path, environment: dict[str, str], *words: str) -> str:
    command = [sys.executable, "-W", "error", "-c", HOSTILE, *words]
    done = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


@pytest.mark.parametrize("in_environment", [{"AWS_ACCESS_KEY_ID": "AKIAWRONG", "AWS_SECRET_ACCESS_KEY": "wrong"}, {}])
def test_static_keys_are_used_and_nothing_else_is_consulted(
    s3_server: S3Server, script: Script, tmp_path: Path, in_environment: dict[str, str]
) -> None:
    environment = hostile_environment(tmp_path, script) | in_environment
    keys = (s3_server.access_key_id, s3_server.secret_access_key)
    assert run_hostile(tmp_path, environment, s3_server.bucket().bucket, s3_server.address, *keys) == "stored"
    wrong = (s3_server.access_key_id, "wrong")
    assert run_hostile(tmp_path, environment, "bodies", s3_server.address, *wrong) == "SignatureDoesNotMatch"
    assert script.asked == []
    assert not (tmp_path / "ran").exists()


def test_the_hosts_own_role_is_found_where_the_vendor_looks(
    s3_server: S3Server, script: Script, tmp_path: Path
) -> None:
    # The other side of the proof above: with the host's role, these places do count.
    bucket = s3_server.bucket().bucket
    given = {"AWS_ACCESS_KEY_ID": s3_server.access_key_id, "AWS_SECRET_ACCESS_KEY": s3_server.secret_access_key}
    plain = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "HOME": str(tmp_path)}
    region = {"AWS_DEFAULT_REGION": "us-east-1"}
    assert run_hostile(tmp_path, plain | region | given, bucket, s3_server.address, "", "") == "stored"
    metadata = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{script.address}/container"}
    assert run_hostile(tmp_path, plain | region | metadata, bucket, s3_server.address, "", "") != "stored"
    assert "/container" in {asked.path for asked in script.asked}


def test_the_sdk_is_imported_when_first_used_and_no_other_is() -> None:
    code = (
        "import sys\n"
        "from steward.adapters.s3 import S3BodyStore\n"
        "from steward.destination import HostRole, S3Destination\n"
        "S3BodyStore(S3Destination('bodies', '', HostRole())).close()\n"
        "print([name for name in ('botocore', 'boto3', 'google.cloud.storage', 'requests') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "[]")
