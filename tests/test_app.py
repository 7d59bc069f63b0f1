"""The whole application: which spelling of a path reaches which door, with which credential, on which port."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pydantic import BaseModel

from steward.adapters.postgres_local import LocalPostgres
from steward.api.health import REASONS
from steward.api.operators import Doors
from steward.app import create_app, create_ops_app, details, own_routes
from steward.ports import Registration
from steward.proxy import Proxy
from steward.settings import load
from steward.wiring.relay import Services, build
from tests.api.asking import ask, bearer
from tests.servers.examples import respond
from tests.servers.plain_http import Message, Request, call
from tests.servers.socket_provider import Provider
from tests.servers.steward import RunningSteward, running_steward

ROOT = Path(__file__).parents[1]
TOKEN = "an-admin-token-of-thirty-two-characters"
KEY = bytes(range(32)).hex()


# put together, without a server


@pytest.fixture
def services() -> Iterator[Callable[..., Services]]:
    """Makes processes that nobody started: none is ready. Each is stopped in the end."""
    made: list[Services] = []

    def make(**given: str) -> Services:
        environ = {
            "ENCRYPTION_KEY": KEY,
            "STEWARD_ADMIN_TOKEN": TOKEN,
            "PRICING_REMOTE_URL": "",
            "AFTER_RESPONSE": "inline",
            **given,
        }
        made.append(build(load(environ, None)))
        return made[-1]

    yield make
    for each in made:
        asyncio.run(each.stop())


Make = Callable[..., Services]


def test_the_proxy_stands_in_front_on_the_callers_port_and_not_on_the_operators(services: Make) -> None:
    made = services()
    assert isinstance(create_app(made), Proxy)
    assert not isinstance(create_ops_app(made), Proxy)
    assert ask(create_app(made), "/readyz").text == "unready"
    assert ask(create_app(made), "/readyz", bearer(TOKEN)).json()["state"] == "database"
    assert ask(create_ops_app(made), "/readyz").json()["state"] == "database"


def test_without_an_admin_token_the_callers_port_tells_nobody(services: Make) -> None:
    app = create_app(services(STEWARD_ADMIN_TOKEN=""))
    for headers in ({}, bearer(""), bearer("None"), bearer(TOKEN)):
        assert ask(app, "/docs", headers).status_code == 401
        assert ask(app, "/readyz", headers).text == "unready"


@pytest.mark.parametrize(
    ("url", "bodies"),
    [
        *(("", "none"), ("s3://bucket/prefix", "s3://bucket"), ("gs://bucket/prefix", "gs://bucket")),
        ("file:///bodies", "file:///bodies"),
    ],
)
def test_the_details_are_whole_json_and_hold_no_secret(services: Make, url: str, bodies: str) -> None:
    secret = "s3cr3t" * 8
    made = services(
        BODY_STORE_URL=url,
        POSTGRES_HOST="db.internal",
        POSTGRES_PASSWORD=secret,
        HTTPS_PROXY=f"http://user:{secret}@proxy.internal:3128",
        OPENAI_BASE_URL="https://gateway.example.com/openai/v1",
    )
    told: Any = json.loads(json.dumps(details(made)))
    assert told["bodies"] == bodies
    assert told["database"] == {"heard": False, "host": "db.internal"}
    assert told["origins"]["openai"] == "gateway.example.com"
    assert told["keys_in_memory"] == 0
    assert set(told["prices"]) == {"source", "last_try", "tried_at", "fetched_at", "held"}
    for word in (secret, TOKEN, KEY):
        assert word not in json.dumps(told)


class Order(BaseModel):
    """What a route of ours might take one day."""

    name: str
    count: int


def test_a_validation_error_names_fields_and_never_values(services: Make) -> None:
    app = own_routes(services(), Doors(None))

    @app.post("/orders")
    async def order(order: Order, limit: int) -> str:
        return order.name

    canary = "CANARY-77aa"
    answer = ask(app, f"/orders?limit={canary}", method="POST", body={"name": [canary], "count": canary, canary: 1})
    assert answer.status_code == 422
    assert answer.json() == {"error": {"code": "invalid_request", "fields": ["body.count", "body.name", "query.limit"]}}
    assert canary not in answer.text
    assert ask(app, f"/orders?limit={canary}", method="POST", body=[canary]).text.count(canary) == 0


def test_a_butler_that_was_not_heard_for_an_hour_is_told_to_operators(services: Make) -> None:
    made = services()
    now = datetime.now(UTC)
    lately = Registration(
        uuid4(), uuid4(), "Acme", uuid4(), "https://butler.example", now - timedelta(days=2), heard_at=now
    )
    long_ago = replace(lately, org_id=uuid4(), heard_at=now - timedelta(hours=1), fault="butler_denied")
    made.health.butlers = (lately, long_ago)
    told = ask(create_app(made), "/readyz", bearer(TOKEN)).json()["butlers"]
    assert [(each["org_id"], each["unheard"], each["fault"]) for each in told] == [
        (str(lately.org_id), False, None),
        (str(long_ago.org_id), True, "butler_denied"),
    ]
    assert made.relay_state(0, 0).butler_unheard_s == pytest.approx(3600, abs=60)
    assert ask(create_app(made), "/readyz").text == "unready"


def test_every_word_that_readyz_may_say_has_its_reason() -> None:
    function = ast.parse(textwrap.dedent(inspect.getsource(Services.ready)))
    returned = [node for node in ast.walk(function) if isinstance(node, ast.Return)]
    words = {node.value for each in returned for node in ast.walk(each) if isinstance(node, ast.Constant)}
    assert words == set(REASONS)


# as it runs


@dataclass(frozen=True)
class House:
    """A Steward with both ports and a provider that keeps what reaches it."""

    steward: RunningSteward
    provider: Provider
    ops: int

    def get(self, port: str, target: bytes, credential: str, method: bytes = b"GET") -> Message:
        """One request as it is spelled."""
        fields = {
            "none": [],
            "key": [(b"X-Majordomo-Key", self.steward.key.encode())],
            "key as bearer": [(b"Authorization", b"Bearer " + self.steward.key.encode())],
            "wrong token": [(b"Authorization", b"Bearer " + b"x" * 39)],
            "token": [(b"Authorization", b"Bearer " + TOKEN.encode())],
        }[credential]
        number = {"main": self.steward.port, "ops": self.ops}[port]
        origin = (b"Origin", b"https://evil.example")
        return call(number, Request(method, target, [*fields, origin]))


CREDENTIALS = ("none", "key", "key as bearer", "wrong token", "token")
PORTS = ("main", "ops")


@pytest.fixture(scope="module")
def house(postgres_server: LocalPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    provider = Provider(respond)
    given = {"OPS_PORT": "0", "STEWARD_ADMIN_TOKEN": TOKEN}
    try:
        with running_steward(postgres_server, tmp_path_factory.mktemp("app"), provider.url, given) as steward:
            found = re.search(rb'"ops_port": ?(\d+)', steward.said())
            assert found is not None
            yield House(steward, provider, int(found[1]))
    finally:
        provider.close()


def opens(port: str, credential: str) -> bool:
    """Whom operators' pages are for."""
    return port == "ops" or credential == "token"


@pytest.mark.parametrize("port", PORTS)
@pytest.mark.parametrize("credential", CREDENTIALS)
def test_our_own_paths(house: House, port: str, credential: str) -> None:
    """Exactly as they are spelled, with or without a query; also in absolute form, whose host is ignored."""
    for before in (b"", b"http://evil.example"):
        get = partial(house.get, port, credential=credential)
        assert (get(before + b"/health").status, get(before + b"/health?x=/docs").body) == (200, b"alive")
        ready = get(before + b"/readyz")
        assert ready.status == 200
        assert (b"keys_in_memory" in ready.body) == opens(port, credential)
        if not opens(port, credential):
            assert ready.body == b"ready"
        for page in (b"/docs", b"/openapi.json", b"/docs?a=b", b"/metrics"):
            assert get(before + page).status == (200 if opens(port, credential) else 401)
        for absent in (
            b"/admin",
            b"/admin/",
            b"/api/v1/requests",
            b"/api/v1/proxy-keys/1",
        ):
            assert get(before + absent).status == 404
    assert house.provider.take() == []


@pytest.mark.parametrize("port", PORTS)
def test_organisations_are_for_the_admin_token_alone_on_both_ports(house: House, port: str) -> None:
    for credential, status in (("none", 401), ("key", 401), ("key as bearer", 401), ("token", 200)):
        assert house.get(port, b"/admin/orgs", credential).status == status
    assert house.get(port, b"/admin/orgs", "token").body == b'{"organisations":[]}'
    for spelling in (
        b"/admin/%6frgs",
        b"/admin/orgs/",
        b"/admin/orgs%2f",
        b"/admin/./orgs",
        b"/admin//orgs",
        b"/admin/Orgs",
    ):
        assert house.get(port, spelling, "token").status == 404
    assert house.get(port, b"/admin/orgs/x%2f..", "token", b"DELETE").status == 404
    assert house.provider.take() == []


SPELLINGS = (
    *(b"/%72eadyz", b"/%2freadyz", b"//readyz", b"/readyz/", b"/READYZ", b"/readyz%00", b"/readyz%20", b"/readyz;a"),
    *(b"/./readyz", b"/x/../readyz", b"/%2e/readyz", b"/readyz/.", b"\\readyz", b"/\\readyz", b"readyz", b"/readyz%2f"),
    *(b"//docs", b"/docs/", b"/DOCS", b"/%64ocs", b"/docs%2f", b"/docs/x", b"/./docs", b"/a/../docs", b"/docs;x=y"),
    *(b"/openapi.json/", b"/openapi%2ejson", b"//openapi.json", b"/OpenAPI.json", b"/openapi.json%00"),
    *(b"/%61dmin", b"/%61dmin/orgs", b"//admin", b"/Admin", b"/adm%69n/", b"/./admin/", b"/admin%2forgs", b"/admin;/x"),
    *(b"/%6detrics", b"/metrics/", b"//metrics", b"/health/", b"/%68ealth", b"//health", b"/HEALTH", b"/redoc", b"/"),
    *(b"//evil.example/docs", b"http://evil.example//docs", b"http://evil.example/%64ocs", b"*", b"/.well-known/x"),
)


@pytest.mark.parametrize("port", PORTS)
def test_no_other_spelling_opens_a_door_of_ours(house: House, port: str) -> None:
    """On the callers' port it is a provider's path or a bad one, and needs a key like any call; on the other, none."""
    for target in SPELLINGS:
        for credential in CREDENTIALS:
            answer = house.get(port, target, credential)
            assert answer.status in ((400, 401) if port == "main" else (400, 404)), (target, credential)
            if port == "main" and answer.status == 401:
                assert credential != "key", target
            assert not re.search(rb"keys_in_memory|<h1>|openapi\"|^alive|^ready", answer.body), (target, credential)
            assert answer.head.values(b"location") == [], "no redirect tells what a path should have been"
    assert house.provider.take() == []


def test_no_answer_of_ours_lets_another_origin_read_it(house: House) -> None:
    """No CORS header on either port; OPTIONS needs a key like any call."""
    for port in PORTS:
        for target in (b"/health", b"/readyz", b"/docs", b"/openapi.json", b"/admin", b"/v1/models", b"/nothing"):
            for method in (b"GET", b"OPTIONS", b"POST", b"DELETE"):
                for credential in ("none", "token"):
                    answer = house.get(port, target, credential, method)
                    names = {name.lower() for name, _ in answer.head.fields}
                    assert not [name for name in names if name.startswith(b"access-control-")]
    assert house.provider.take() == []


@pytest.mark.parametrize("credential", ["none", "key as bearer", "wrong token", "token"])
def test_a_preflight_needs_a_key(house: House, credential: str) -> None:
    answer = house.get("main", b"/v1/chat/completions", credential, b"OPTIONS")
    assert answer.status == 401
    assert house.provider.take() == []


def test_a_preflight_with_a_key_is_the_providers_to_answer(house: House) -> None:
    assert house.get("main", b"/v1/chat/completions", "key", b"OPTIONS").status == 200
    [received] = house.provider.take()
    assert received.method == b"OPTIONS"


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS"])
def test_our_own_pages_are_read_and_nothing_else(house: House, method: bytes) -> None:
    for port in PORTS:
        for target in (b"/health", b"/readyz", b"/docs", b"/openapi.json", b"/metrics"):
            assert house.get(port, target, "token", method).status == 405


def test_no_page_of_ours_names_another_host(house: House) -> None:
    page, document = (house.get("ops", target, "none").body for target in (b"/docs", b"/openapi.json"))
    assert not re.search(rb"<script|src=|href=|@import|url\(|https?://", page)
    assert set(json.loads(document)["paths"]) == {"/health", "/metrics", "/readyz", "/admin/orgs", "/admin/orgs/{org}"}
    assert not re.search(rb"https?://", document)


def test_a_provider_is_not_to_be_had_by_the_operators_port(house: House) -> None:
    for credential in CREDENTIALS:
        assert house.get("ops", b"/v1/models", credential).status == 404
    assert house.provider.take() == []


def test_callers_are_told_nothing_of_the_house(house: House) -> None:
    """No server's name, no version, no path of this machine in any refusal."""
    for target in (b"/docs", b"/admin", b"/nothing", b"/v1/models", b"/v1/../docs"):
        answer = house.get("main", target, "none")
        names = {name.lower() for name, _ in answer.head.fields}
        assert not names & {b"server", b"x-powered-by", b"via"}
        assert not re.search(rb"Traceback|File \"|site-packages|uvicorn|fastapi|pydantic", answer.body, re.IGNORECASE)


def test_our_own_routes_are_made_when_first_asked_for(services: Make) -> None:
    """A relayed call does without FastAPI, which takes half of a cold start."""
    program = (
        "import os, sys\n"
        "from steward.app import create_app\n"
        "from steward.settings import load\n"
        "from steward.wiring.hosted import build_hosted\n"
        "services = build_hosted(load(os.environ, None), False).services\n"
        "app = create_app(services)\n"
        "assert not {'fastapi', 'starlette'} & set(sys.modules)\n"
        "create_app(services, at_once=True)\n"
        "assert 'fastapi' in sys.modules\n"
    )
    environ = {"ENCRYPTION_KEY": "0123456789abcdef" * 4, "AFTER_RESPONSE": "inline", "POSTGRES_HOST": "localhost"}
    ran = subprocess.run(
        [sys.executable, "-c", program], env=environ, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    app = create_app(services())
    assert [ask(app, "/health").status_code for _ in range(2)] == [200, 200]
