"""The viewer's own process under `steward serve`: off until asked for, alone on its port, in TLS."""

from __future__ import annotations

import http.client
import os
import re
import signal
import ssl
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import orjson
import psutil  # type: ignore[import-untyped]
import pytest
import trustme

from handlers.viewer import config, server_tls
from steward.errors import SettingError
from steward.settings import load
from tests.scraped import value
from tests.servers.listening import free_port
from tests.servers.plain_http import Request
from tests.servers.socket_provider import Provider
from tests.servers.steward import RunningSteward
from tests.servers.viewers import CLICKED, TYPED
from tests.servers.waiting import eventually

CANARY = "CANARY-3d51-the-question"
ADMIN = "an-operator-s-token-of-32-letters-"
MakeSteward = Callable[..., RunningSteward]
ASKED = orjson.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": CANARY}]})


def connect(port: int, trust: ssl.SSLContext | None = None) -> http.client.HTTPConnection:
    if trust is None:
        return http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    return http.client.HTTPSConnection("localhost", port, timeout=20, context=trust)


def ask(
    port: int,
    path: str,
    fields: dict[str, str],
    form: dict[str, str] | None = None,
    trust: ssl.SSLContext | None = None,
) -> tuple[int, dict[str, str], str]:
    """One request, as a browser on this machine would send it."""
    body = None if form is None else urlencode(form)
    sent = {"Host": f"localhost:{port}", **fields}
    if body is not None:
        sent["Content-Type"] = "application/x-www-form-urlencoded"
    with closing(connect(port, trust)) as connection:
        connection.request("GET" if form is None else "POST", path, body, sent)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()


def up(port: int, trust: ssl.SSLContext | None = None) -> bool:
    try:
        return ask(port, "/", TYPED, trust=trust)[0] == 401
    except OSError:
        return False


def json_of(steward: RunningSteward, *words: str) -> Any:
    ran = steward.run(*words, "--json")
    assert ran.returncode == 0, ran.stderr
    return orjson.loads(ran.stdout)


def one_call(steward: RunningSteward) -> str:
    """Relayed and settled; its id."""
    fields = [(b"Content-Type", b"application/json"), (b"Authorization", b"Bearer sk-x")]
    answer = steward.call(Request(b"POST", b"/v1/chat/completions", fields, ASKED))
    return str(steward.settled(answer.head.values(b"x-majordomo-request-id")[0]).id)


@pytest.mark.parametrize("after", ["spool", "inline"])
def test_a_body_is_opened_from_inside_and_written_down(
    make_steward: MakeSteward, provider: Provider, after: str
) -> None:
    port = free_port()
    given = {"VIEW_AUTH": "token", "VIEW_PORT": str(port), "STEWARD_ADMIN_TOKEN": ADMIN}
    steward = make_steward(provider.url, **given, AFTER_RESPONSE=after)
    eventually(lambda: up(port))
    wanted = one_call(steward)
    token = json_of(steward, "view-token", "create", "--org", "local", "--expires", "10m", "--name", "tests")
    assert token["url"] == f"http://localhost:{port}"
    status, fields, _ = ask(port, "/sign-in", CLICKED, {"token": token["token"], "next": wanted})
    assert (status, fields["location"]) == (303, f"/requests/{wanted}")
    mine = {**CLICKED, "Cookie": fields["set-cookie"].partition(";")[0]}
    assert CANARY in ask(port, f"/requests/{wanted}", mine)[2]
    assert CANARY in ask(port, f"/requests/{wanted}/download", mine)[2]
    assert ask(port, f"/requests/{token['id']}", mine)[0] == 404
    shown = steward.call(Request(b"GET", b"/metrics", [(b"Authorization", f"Bearer {ADMIN}".encode())])).body
    acts = ("opened", "downloaded", "refused")
    assert [value(shown, "steward_viewer_acts_total", act=act) for act in acts] == [1, 1, 1]
    account = json_of(steward, "view-audit")
    assert [each["act"] for each in account] == ["refused", "downloaded", "opened", "signed_in"]
    assert {each["who"] for each in account} == {"token tests"}
    assert account[1]["request_id"] == account[2]["request_id"] == wanted
    assert json_of(steward, "view-token", "revoke", token["id"])["revoked_at"]
    assert ask(port, f"/requests/{wanted}", mine)[0] == 401
    assert [each["id"] for each in json_of(steward, "view-token", "list")] == [token["id"]]
    for secret in (CANARY.encode(), token["token"].encode(), mine["Cookie"].encode()):
        assert secret not in steward.said()


def test_no_key_of_butler_s_kind_and_no_other_port_opens_a_body(make_steward: MakeSteward, provider: Provider) -> None:
    port = free_port()
    steward = make_steward(provider.url, VIEW_AUTH="token", VIEW_PORT=str(port))
    eventually(lambda: up(port))
    wanted = one_call(steward)
    for fields in ({"X-Majordomo-Key": steward.key}, {"Authorization": f"Bearer {steward.key}"}):
        assert ask(port, f"/requests/{wanted}", {**TYPED, **fields})[0] == 401
    assert ask(port, "/sign-in", CLICKED, {"token": steward.key})[0] == 403
    for path in (f"/requests/{wanted}", f"/api/v1/requests/{wanted}", "/sign-in"):
        answer = steward.call(Request(b"GET", path.encode(), [(b"Sec-Fetch-Site", b"none")]))
        assert answer.status >= 400
        assert CANARY.encode() not in answer.body
    assert [each["act"] for each in json_of(steward, "view-audit")] == []


def test_until_it_is_asked_for_nobody_listens(steward_server: RunningSteward) -> None:
    process = psutil.Process(steward_server.process.pid)
    family = [process, *process.children(recursive=True)]
    listening = {each.laddr.port for one in family for each in one.net_connections() if each.status == "LISTEN"}
    assert listening == {steward_server.port}
    assert b"view_port" not in steward_server.said()


def test_a_viewer_that_dies_is_started_again_and_relaying_goes_on(
    make_steward: MakeSteward, provider: Provider
) -> None:
    port = free_port()
    steward = make_steward(provider.url, VIEW_AUTH="token", VIEW_PORT=str(port))
    eventually(lambda: up(port))
    ours = [each for each in psutil.Process(steward.process.pid).children() if port in listened(each)]
    (viewer,) = ours
    assert listened(viewer) == {port}, "it holds the callers' port too"
    os.kill(viewer.pid, signal.SIGKILL)
    eventually(lambda: b'"viewer_died"' in steward.said())
    assert one_call(steward)
    eventually(lambda: up(port))


def listened(process: psutil.Process) -> set[int]:
    return {each.laddr.port for each in process.net_connections() if each.status == "LISTEN"}


def test_its_own_tls(make_steward: MakeSteward, provider: Provider, tmp_path: Path) -> None:
    port, authority = free_port(), trustme.CA()
    cert, key = files(authority, tmp_path)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    steward = make_steward(
        provider.url,
        VIEW_AUTH="token",
        VIEW_PORT=str(port),
        VIEW_HOST="0.0.0.0",
        TLS_CERT_FILE=str(cert),
        TLS_KEY_FILE=str(key),
    )
    eventually(lambda: up(port, trust))
    token = json_of(steward, "view-token", "create", "--org", "local")
    assert token["url"] == f"https://localhost:{port}"
    status, fields, _ = ask(port, "/sign-in", CLICKED, {"token": token["token"]}, trust)
    assert status == 303
    assert "Secure" in fields["set-cookie"]
    with pytest.raises((OSError, http.client.HTTPException)):
        ask(port, "/", TYPED)


def files(authority: trustme.CA, folder: Path) -> tuple[Path, Path]:
    issued = authority.issue_cert("localhost")
    cert, key = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    return cert, key


def test_a_certificate_without_its_key_is_told_at_start(tmp_path: Path) -> None:
    cert, _ = files(trustme.CA(), tmp_path)
    (tmp_path / "other").mkdir()
    _, other = files(trustme.CA(), tmp_path / "other")
    for key in (other, cert):
        with pytest.raises(SettingError, match=r"^TLS_CERT_FILE: [^\n]*$"):
            server_tls(load({"TLS_CERT_FILE": str(cert), "TLS_KEY_FILE": str(key)}, None))
    assert server_tls(load({}, None)) is None


def test_no_old_tls(tmp_path: Path) -> None:
    cert, key = files(trustme.CA(), tmp_path)
    context = server_tls(load({"TLS_CERT_FILE": str(cert), "TLS_KEY_FILE": str(key)}, None))
    assert context is not None
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError

    made = config(app, context)
    assert made.ssl is context
    assert re.search("Listener", made.http_protocol_class.__name__)
