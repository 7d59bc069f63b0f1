"""The command line's client: credentials that only their owner reads, and Butlers that are none."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from steward.errors import SettingError
from steward.majordomo_client import MAX_ANSWER_BYTES, ButlerClient, ButlerSaid, Credentials, Kept, shown
from steward.words import Secret

TOKEN = Secret("mdm_cli_CANARY")


class _Script(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        answers: dict[str, tuple[int, bytes, dict[str, str]]] = self.server.answers  # type: ignore[attr-defined]
        status, body, headers = answers[self.path]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def scripted() -> Iterator[http.server.ThreadingHTTPServer]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Script) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield server
        server.shutdown()
        serving.join()


def ask(server: http.server.ThreadingHTTPServer, status: int, body: bytes, **headers: str) -> object:
    server.answers = {"/api/v1/x": (status, body, headers)}  # type: ignore[attr-defined]
    client = ButlerClient(Credentials(f"http://127.0.0.1:{server.server_port}", TOKEN))
    try:
        return client.ask("GET", "/x")
    finally:
        client.close()


def test_credentials_are_kept_for_their_owner_alone(tmp_path: Path) -> None:
    kept = Kept({"XDG_CONFIG_HOME": str(tmp_path)}, Path("/nowhere"))
    kept.write(Credentials("https://butler.example.com", TOKEN))
    assert kept.path.stat().st_mode & 0o777 == 0o600
    assert kept.read() == Credentials("https://butler.example.com", TOKEN)
    assert "CANARY" not in repr(kept.read())
    kept.path.chmod(0o640)
    with pytest.raises(SettingError, match="others"):
        kept.read()
    kept.forget()
    with pytest.raises(SettingError, match="not signed in"):
        kept.read()
    assert list(kept.path.parent.iterdir()) == []


@pytest.mark.parametrize(
    "said", [b"", b"[]", b"{", b'{"url": "http://evil.example", "token": "x"}', b'{"url": 7}', b"\xff"]
)
def test_a_file_that_is_none_is_one_sentence(tmp_path: Path, said: bytes) -> None:
    kept = Kept({}, tmp_path)
    kept.write(Credentials("https://b.example", TOKEN))
    kept.path.write_bytes(said)
    with pytest.raises(SettingError, match="majordomo login"):
        kept.read()


def test_an_answer_is_parsed(scripted: http.server.ThreadingHTTPServer) -> None:
    assert ask(scripted, 200, b'{"a": 1}') == {"a": 1}


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"<html>"),
        (200, b""),
        (302, b""),
        (500, b"<html>"),
        (404, b"{}"),
        (400, b'{"error": "x"}'),
        (200, b"null"),
    ],
)
def test_what_is_no_butler_is_told(scripted: http.server.ThreadingHTTPServer, status: int, body: bytes) -> None:
    with pytest.raises(ButlerSaid) as caught:
        ask(scripted, status, body, location="http://127.0.0.1:1/")
    assert "CANARY" not in caught.value.message


def test_a_refusal_is_butlers_own_sentence_made_printable(scripted: http.server.ThreadingHTTPServer) -> None:
    body = json.dumps({"error": {"code": "conflict", "message": "No\x1b[31m", "field": "name"}}).encode()
    with pytest.raises(ButlerSaid) as caught:
        ask(scripted, 409, body)
    assert (caught.value.said_code, caught.value.message) == ("conflict", "No\\x1b[31m (name)")
    assert shown("a\nb") == "a\\nb"


def test_an_answer_without_end_is_cut(scripted: http.server.ThreadingHTTPServer) -> None:
    with pytest.raises(ButlerSaid, match="too long"):
        ask(scripted, 200, b" " * (MAX_ANSWER_BYTES + 1))


def test_nobody_there_is_one_sentence() -> None:
    client = ButlerClient(Credentials("http://127.0.0.1:1", TOKEN))
    with pytest.raises(ButlerSaid, match="cannot be reached"):
        client.ask("GET", "/x")
    client.close()
