"""Events as AWS writes them, literally, and what the provider is asked because of each.

The files in events/ are whole events; `KEY` stands for a key. What the suite's own fronts build is compared with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from steward.adapters.postgres_local import LocalPostgres
from tests.hosts.entries import BUFFERED, STREAMING, Entry, of_sandbox, of_stream, on_lambda, registered, request_id
from tests.hosts.fronts import Alb, FunctionUrl
from tests.servers.lambda_sandbox import Sandbox
from tests.servers.plain_http import Fields, Request
from tests.servers.provider import Provider
from tests.servers.socket_provider import Received

EVENTS = Path(__file__).parent / "events"
HELLO = '{"model": "gpt-4o", "messages": [{"role": "user", "content": "héllo"}]}'.encode()
MULTIPART = (
    b'------x\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
    b'------x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\n'
    b"RIFF\x00\xff\xfe\x80\r\n------x--\r\n"
)


def read(name: str, key: str = "KEY") -> Any:
    """One of the files, with a key in it."""
    return orjson.loads((EVENTS / f"{name}.json").read_bytes().replace(b'"KEY"', orjson.dumps(key)))


@pytest.fixture(scope="module")
def entries(
    postgres_server: LocalPostgres, provider: Provider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Entry]]:
    """Both runtimes on one installation."""
    folder = tmp_path_factory.mktemp("events")
    with (
        registered(postgres_server, folder, provider.url) as (made, butler),
        Sandbox(BUFFERED, on_lambda(made.environ), folder / "buffered") as buffered,
        Sandbox("handlers.aws_lambda_stream", on_lambda(made.environ), folder / "streaming", STREAMING) as streaming,
    ):
        yield {
            "alb": of_sandbox("alb", made, butler, buffered, Alb()),
            "alb, single values": of_sandbox("alb", made, butler, buffered, Alb(multi=False)),
            "url": of_sandbox("url", made, butler, buffered, FunctionUrl()),
            "stream": of_stream(made, butler, streaming),
        }


def told(entry: Entry, provider: Provider, event: Any, status: int = 200) -> Received:
    """What the provider was asked because of an event, which it answered with `status`."""
    assert entry.handed is not None
    assert entry.front is not None
    provider.take()
    answer = entry.front.message(entry.handed(event))
    assert answer.status == status, answer.body
    (received,) = provider.take()
    assert entry.installation.settled(request_id(answer)).status_code == status
    return received


def values(received: Received, name: bytes) -> list[bytes]:
    return received.message.head.values(name)


def test_a_load_balancers_event(entries: dict[str, Entry], provider: Provider) -> None:
    """Query as it was sent, repeats apart, UTF-8; the key and the tag stay here."""
    entry = entries["alb"]
    received = told(entry, provider, read("alb_multi_value", entry.installation.key))
    assert received.target == b"/v1/chat/completions?a=1&a=2&q=x%20y%2Bz&empty="
    assert received.message.body == HELLO
    assert values(received, b"x-twice") == [b"b", b"a"]
    assert received.message.ours() == []
    assert values(received, b"content-length") == [b"72"]


def test_a_load_balancers_event_without_multiple_values(entries: dict[str, Entry], provider: Provider) -> None:
    """Answered in the same form: such a load balancer reads no lists."""
    entry = entries["alb, single values"]
    received = told(entry, provider, read("alb_single_value", entry.installation.key))
    assert received.target == b"/v1/chat/completions?a=2&q=x%20y%2Bz"
    assert received.message.body == HELLO


def test_a_body_in_base64(entries: dict[str, Entry], provider: Provider) -> None:
    """A form with a file; the stand-in for the provider has no transcriptions, and says so."""
    entry = entries["alb"]
    received = told(entry, provider, read("alb_base64", entry.installation.key), 404)
    assert received.message.body == MULTIPART
    assert values(received, b"content-type") == [b"multipart/form-data; boundary=----x"]


def test_a_path_with_an_encoded_slash(entries: dict[str, Entry], provider: Provider) -> None:
    """As it was sent: decoded, it would be another path."""
    entry = entries["alb"]
    received = told(entry, provider, read("alb_encoded_path", entry.installation.key))
    assert received.target == b"/v1beta/models/gemini-1.5%2Fpro:generateContent?alt=json"


def test_a_health_check(entries: dict[str, Entry], provider: Provider) -> None:
    """It has no host and no key; it is well while the process is, and makes no row."""
    entry = entries["alb"]
    assert entry.handed is not None
    provider.take()
    before = len(entry.installation.rows())
    answer = Alb().message(entry.handed(read("alb_health_check")))
    assert answer.status == 200
    assert provider.take() == []
    assert len(entry.installation.rows()) == before


@pytest.mark.parametrize("name", ["url", "stream"])
def test_a_function_urls_event(entries: dict[str, Entry], provider: Provider, name: str) -> None:
    """The raw query, and cookies as one field again."""
    entry = entries[name]
    received = told(entry, provider, read("function_url", entry.installation.key))
    assert received.target == b"/v1/chat/completions?a=1&a=2&q=x%20y%2Bz&empty="
    assert received.message.body == HELLO
    assert values(received, b"cookie") == [b"c=1; d=2"]
    assert values(received, b"x-twice") == [b"b,a"]


@pytest.mark.parametrize("name", ["url", "stream"])
def test_an_api_gateways_event(entries: dict[str, Entry], provider: Provider, name: str) -> None:
    """Its query comes decoded and goes on encoded; the stage is no part of the path."""
    entry = entries[name]
    assert entry.handed is not None
    provider.take()
    entry.handed(read("api_gateway", entry.installation.key))
    (received,) = provider.take()
    assert received.path == "/v1/chat/completions"
    assert received.target.partition(b"?")[2] in {b"a=1&a=2&q=x%20y%2Bz", b"a=1&a=2&q=x+y%2Bz"}
    assert received.message.body == HELLO
    assert values(received, b"x-twice") == [b"b", b"a"]


def test_the_last_forwarded_address_is_the_callers(entries: dict[str, Entry], provider: Provider) -> None:
    """The load balancer's own word; what stands before it is the caller's."""
    entry = entries["alb"]
    assert entry.handed is not None
    assert entry.sandbox is not None
    answer = Alb().message(entry.handed(read("alb_multi_value", entry.installation.key)))
    entry.sandbox.idle()
    said = entry.installation.said()
    assert request_id(answer).encode() in said
    assert b"203.0.113.9" not in said


@pytest.mark.parametrize(
    "event",
    [
        None,
        [],
        "text",
        7,
        {},
        {"Records": []},
        {"requestContext": {"elb": {}}},
        {"requestContext": {"elb": {}}, "httpMethod": 5, "path": None, "headers": "x", "body": 7},
        {"requestContext": {"elb": {}}, "httpMethod": "GET", "path": "/healthz", "multiValueHeaders": {"a": [1, None]}},
        {"requestContext": {"elb": {}}, "httpMethod": "POST", "path": "/v1/x", "body": "%%%", "isBase64Encoded": True},
        {
            "requestContext": {"elb": {}},
            "httpMethod": "POST",
            "path": "/v1/\ud800x".encode("utf-8", "replace").decode(),
        },
        {"version": "2.0", "requestContext": {"http": {}}},
        {"version": "2.0", "requestContext": {"http": {"method": "GET"}}, "rawPath": 7, "cookies": 5},
    ],
)
@pytest.mark.parametrize("name", ["alb", "stream"])
def test_an_event_of_nobodys_harms_nothing(
    entries: dict[str, Entry], provider: Provider, name: str, event: object
) -> None:
    """A refusal or an error, the provider is not asked, and the next call is served by the same process."""
    entry = entries[name]
    assert entry.sandbox is not None
    process = entry.sandbox.process.pid
    provider.take()
    answered = entry.sandbox.begin(event).answered()
    assert answered.body
    assert b"Traceback" not in answered.body
    assert provider.take() == []
    fields: Fields = [(b"Authorization", b"Bearer sk-test")]
    assert entry.call(Request(b"POST", b"/v1/chat/completions", fields, b"{}")).status == 200
    assert entry.sandbox.process.pid == process


def test_what_the_fronts_of_this_suite_build_is_what_aws_writes() -> None:
    """The same keys, and for the same request the same values."""
    literal = read("alb_multi_value")
    fields = [(name.encode(), each.encode()) for name, told in literal["multiValueHeaders"].items() for each in told]
    request = Request(b"POST", b"/v1/chat/completions?a=1&a=2&q=x%20y%2Bz&empty=", fields, HELLO)
    assert Alb().event(request, fields) == literal
    literal = read("function_url")
    fields = [(name.encode(), each.encode()) for name, each in literal["headers"].items()]
    built = FunctionUrl().event(request, [*fields, (b"cookie", b"c=1; d=2")])
    assert set(built) == set(literal)
    for name in ("version", "rawPath", "rawQueryString", "headers", "queryStringParameters", "cookies", "body"):
        assert built[name] == literal[name], name
    assert built["requestContext"]["http"].keys() == literal["requestContext"]["http"].keys()
