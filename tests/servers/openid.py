"""A small OpenID provider on a socket: discovery, sign-in without a question, PKCE, ID tokens by RS256 or ES256.

It keeps what it was asked. A test says what it does wrong.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

CLIENT_ID = "viewer"
CLIENT_SECRET = "s3cret/with:odd+characters"


@dataclass
class OpenId:
    """One provider."""

    issuer: str = ""
    algorithm: str = "RS256"
    keys: dict[str, Any] = field(default_factory=dict)
    """Key id -> private key; the first signs."""
    secret: str | None = CLIENT_SECRET
    claims: dict[str, Any] = field(default_factory=dict)
    """What an ID token says beside or instead of what is right; None takes a claim away."""
    discovery: dict[str, Any] = field(default_factory=dict)
    """The same of the discovery document."""
    publish: list[Any] | None = None
    """Keys to publish instead of ours."""
    sign: Callable[[dict[str, Any]], str] | None = None
    """Makes the ID token instead of us."""
    asked: list[str] = field(default_factory=list)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    """Code -> what was asked for it. Good once."""
    told: list[dict[str, Any]] = field(default_factory=list)
    """What token requests held."""

    def new_key(self, kid: str) -> None:
        """From now on this one signs."""
        made: Any = (
            rsa.generate_private_key(65537, 2048)
            if self.algorithm == "RS256"
            else ec.generate_private_key(ec.SECP256R1())
        )
        self.keys = {kid: made, **self.keys}

    def public(self) -> list[dict[str, Any]]:
        """The keys as they are published."""
        kinds: dict[str, Any] = {"RS256": jwt.algorithms.RSAAlgorithm, "ES256": jwt.algorithms.ECAlgorithm}
        return [
            {
                **kinds[self.algorithm].to_jwk(key.public_key(), as_dict=True),
                "kid": kid,
                "use": "sig",
                "alg": self.algorithm,
            }
            for kid, key in self.keys.items()
        ]

    def id_token(self, nonce: str) -> str:
        """What is right, and what the test says."""
        now = int(time.time())
        said = {
            "iss": self.issuer,
            "sub": "ada-1",
            "aud": CLIENT_ID,
            "iat": now,
            "exp": now + 300,
            "nonce": nonce,
            "preferred_username": "ada",
            "groups": ["readers"],
        }
        said = {name: value for name, value in {**said, **self.claims}.items() if value is not None}
        if self.sign is not None:
            return self.sign(said)
        kid, key = next(iter(self.keys.items()))
        return jwt.encode(said, key, self.algorithm, headers={"kid": kid})

    def documents(self) -> dict[str, Any]:
        """What a GET finds."""
        return {
            "/.well-known/openid-configuration": {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/jwks",
                **self.discovery,
            },
            "/jwks": {"keys": self.public() if self.publish is None else self.publish},
        }

    def authorize(self, asked: dict[str, str]) -> str:
        """Where the browser goes next."""
        code = secrets.token_urlsafe(16)
        self.codes[code] = asked
        return f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state']})}"

    def redeem(self, form: dict[str, str], authorization: str | None) -> tuple[int, dict[str, Any]]:
        """An ID token, once, to who can show what belongs to the code."""
        self.told.append({**form, "authorization": authorization})
        asked = self.codes.pop(form.get("code", ""), None)
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        right = asked is not None and asked["code_challenge"] == challenge
        if (
            asked is None
            or not right
            or form.get("redirect_uri") != asked["redirect_uri"]
            or not self._known(form, authorization)
        ):
            return 400, {"error": "invalid_grant"}
        return 200, {"token_type": "Bearer", "access_token": "unused", "id_token": self.id_token(asked["nonce"])}

    def _known(self, form: dict[str, str], authorization: str | None) -> bool:
        if self.secret is None:
            return form.get("client_id") == CLIENT_ID and authorization is None
        if form.get("client_secret") == self.secret:
            return form.get("client_id") == CLIENT_ID
        pair = base64.b64decode((authorization or "").removeprefix("Basic ")).decode()
        return pair == f"{CLIENT_ID}:{urlencode({'': self.secret})[1:]}"


@contextmanager
def open_id(algorithm: str = "RS256", secret: str | None = CLIENT_SECRET) -> Iterator[OpenId]:
    """Serves until the block ends."""
    provider = OpenId(algorithm=algorithm, secret=secret)
    provider.new_key("first")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *words: object) -> None:
            """Nothing."""

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            provider.asked.append(parts.path)
            if parts.path == "/authorize":
                given = {name: values[0] for name, values in parse_qs(parts.query).items()}
                self._say(302, b"", ("location", provider.authorize(given)))
            elif (found := provider.documents().get(parts.path)) is not None:
                self._say(200, found if isinstance(found, bytes) else json.dumps(found).encode())
            else:
                self._say(404, b"{}")

        def do_POST(self) -> None:
            provider.asked.append(self.path)
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            form = {name: values[0] for name, values in parse_qs(body).items()}
            status, said = provider.redeem(form, self.headers.get("authorization"))
            self._say(status, json.dumps(said).encode())

        def _say(self, status: int, body: bytes, *fields: tuple[str, str]) -> None:
            self.send_response(status)
            for name, value in fields:
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    provider.issuer = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
