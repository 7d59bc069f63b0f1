"""F21 and F10, end to end: which of our pages opens to whom, however its path is spelled, and no key of ours leaves."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import orjson
import pytest

from steward.adapters.postgres_local import LocalPostgres
from tests.servers.plain_http import Message, Request, call
from tests.servers.socket_provider import Answer, Provider, Received
from tests.servers.steward import RunningSteward, running_steward

TOKEN = "an-admin-token-of-more-than-32-characters"
OPERATORS = ["/docs", "/metrics", "/openapi.json"]
SPELLINGS = [
    b"/%64ocs",
    b"/docs/",
    b"/docs%2f",
    b"/DOCS",
    b"/docs;x",
    b"/%61dmin/orgs",
    b"/admi%6e",
    b"/openapi%2ejson",
    b"/openapi.json/",
    b"/readyz/",
    b"/%72eadyz",
    b"/metric%73",
]
TWISTED = [
    b"//docs",
    b"/./docs",
    b"/v1/../docs",
    b"/v1/%2e%2e/docs",
    b"/v1/%2E%2E%2Fdocs",
    b"/\\docs",
    b"/v1/..%2fadmin",
]


@dataclass(frozen=True)
class House:
    """A Steward with an operators' port and an admin token, and the provider behind it."""

    steward: RunningSteward
    provider: Provider
    ops_port: int

    def get(self, target: bytes, *fields: tuple[bytes, bytes], ops: bool = False, method: bytes = b"GET") -> Message:
        """One request without a key of a caller."""
        return call(self.ops_port if ops else self.steward.port, Request(method, target, list(fields)))


@pytest.fixture(scope="module")
def house(postgres_server: LocalPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    provider = Provider(_echo)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        ops_port = probe.getsockname()[1]
    settings = {"STEWARD_ADMIN_TOKEN": TOKEN, "OPS_PORT": str(ops_port)}
    with running_steward(postgres_server, tmp_path_factory.mktemp("doors"), provider.url, settings) as steward:
        yield House(steward, provider, ops_port)
    provider.close()


def _echo(received: Received) -> Answer:
    return Answer(200, [(b"Content-Type", b"application/json")], [b"{}"])


def _bearer(token: str) -> tuple[bytes, bytes]:
    return b"Authorization", b"Bearer " + token.encode()


@pytest.mark.parametrize("path", OPERATORS)
def test_operators_pages_open_to_operators_alone(house: House, path: str) -> None:
    target = path.encode()
    closed = [house.get(target), house.get(target, _bearer("x" * 40)), house.get(target, _bearer(TOKEN[:-1]))]
    key = house.steward.key
    closed += [house.get(target, (b"X-Majordomo-Key", key.encode())), house.get(target, _bearer(key))]
    assert {answer.status for answer in closed} == {401}
    assert house.get(target, _bearer(TOKEN)).status == 200
    assert house.get(target, ops=True).status == 200


def test_readyz_is_one_word_for_callers_and_names_no_secret_for_operators(house: House) -> None:
    assert house.get(b"/readyz").body == b"ready"
    for answer in (house.get(b"/readyz", _bearer(TOKEN)), house.get(b"/readyz", ops=True)):
        assert orjson.loads(answer.body)["state"] == "ready"
        assert TOKEN.encode() not in answer.body
        assert house.steward.environ["ENCRYPTION_KEY"].encode() not in answer.body


@pytest.mark.parametrize("target", SPELLINGS)
def test_another_spelling_of_our_path_is_not_our_path(house: House, target: bytes) -> None:
    house.provider.take()
    for answer in (house.get(target), house.get(target, _bearer(TOKEN))):
        assert answer.status in {400, 401}
        assert b"Majordomo" in answer.body
        assert b"<html" not in answer.body
    assert house.provider.take() == []


@pytest.mark.parametrize("target", TWISTED)
def test_a_twisted_path_is_refused_and_goes_nowhere(house: House, target: bytes) -> None:
    house.provider.take()
    answer = house.get(target, (b"X-Majordomo-Key", house.steward.key.encode()), _bearer("sk-test"))
    assert answer.status == 400
    assert house.provider.take() == []


def test_the_operators_port_relays_nothing(house: House) -> None:
    house.provider.take()
    key = (b"X-Majordomo-Key", house.steward.key.encode())
    assert house.get(b"/v1/models", key, _bearer("sk-test"), ops=True).status == 404
    assert house.provider.take() == []


def test_no_page_of_ours_names_a_foreign_host_or_runs_a_script(house: House) -> None:
    for path in ("/docs", "/openapi.json", "/health", "/metrics"):
        answer = house.get(path.encode(), ops=True)
        assert answer.status == 200
        assert not re.search(rb"https?://|//[a-z]|<script|@import|url\(", answer.body)
    policy = house.get(b"/docs", ops=True).head.values(b"content-security-policy")
    assert policy
    assert policy[0].startswith(b"default-src 'none'")


def test_no_cors_header_is_ours_and_options_needs_a_key_like_any_call(house: House) -> None:
    origin = (b"Origin", b"https://evil.example")
    wanted = (b"Access-Control-Request-Method", b"POST")
    answers = [house.get(b"/v1/chat/completions", origin, wanted, method=b"OPTIONS"), house.get(b"/health", origin)]
    answers.append(house.get(b"/docs", origin, ops=True))
    assert answers[0].status == 401
    for answer in answers:
        assert not [name for name, _ in answer.head.fields if name.lower().startswith(b"access-control-")]


CARRIERS: dict[str, Callable[[str], tuple[bytes, list[tuple[bytes, bytes]]]]] = {
    "bearer": lambda leaked: (b"/v1/chat/completions", [_bearer(leaked)]),
    "basic": lambda leaked: (b"/v1/chat/completions", [(b"Authorization", b"Basic " + leaked.encode())]),
    "x-api-key": lambda leaked: (b"/v1/messages", [(b"x-api-key", leaked.encode())]),
    "x-goog-api-key": lambda leaked: (b"/v1beta/models/m:generateContent", [(b"x-goog-api-key", leaked.encode())]),
    "query": lambda leaked: (b"/v1beta/models/m:generateContent?key=" + leaked.encode(), []),
    "encoded query": lambda leaked: (b"/v1beta/models/m:generateContent?key=%6d" + leaked[1:].encode(), []),
    "second field": lambda leaked: (b"/v1/messages", [(b"x-api-key", b"sk-ant-x"), _bearer(leaked)]),
}


@pytest.mark.parametrize("prefix", ["mdm_sk_", "mdm_pk_", "mdm_st_"])
@pytest.mark.parametrize("carrier", CARRIERS.values(), ids=CARRIERS.keys())
def test_no_key_of_ours_leaves_for_a_provider(
    house: House, carrier: Callable[[str], tuple[bytes, list[tuple[bytes, bytes]]]], prefix: str
) -> None:
    house.provider.take()
    target, fields = carrier(prefix + "A" * 40)
    answer = house.steward.call(Request(b"POST", target, fields, b"{}"))
    assert answer.status == 400
    assert b"majordomo_key_as_credential" in b" ".join(value for _, value in answer.ours())
    assert house.provider.take() == []
    assert b"A" * 40 not in answer.body + house.steward.said()


def test_the_callers_key_is_not_passed_on(house: House) -> None:
    house.provider.take()
    answer = house.steward.call(Request(b"POST", b"/v1/chat/completions", [_bearer("sk-test")], b"{}"))
    assert answer.status == 200
    (received,) = house.provider.take()
    assert not [name for name, _ in received.message.head.fields if name.lower().startswith(b"x-majordomo-")]
