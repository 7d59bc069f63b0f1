"""`/metrics` of a whole Steward: right over its processes and after each was killed, without a canary (F4, F21)."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import psutil
import pytest
from sqlalchemy import text as sql

from steward.adapters.postgres_connection import PostgresAddress, open_engine
from steward.words import Secret
from tests.hostile.test_canaries import ANSWERS, SECRET, Told, known_model, request, through
from tests.scraped import scraped, value
from tests.servers.plain_http import Ended, Request, call
from tests.servers.raw_caller import say
from tests.servers.socket_provider import Provider
from tests.servers.steward import RunningSteward
from tests.servers.waiting import eventually

TOKEN = "an-admin-token-of-more-than-32-characters"
ADMIN = (b"Authorization", b"Bearer " + TOKEN.encode())


@pytest.fixture
def told() -> Iterator[Told]:
    made = Told(Provider(lambda received: made.next(received)), known_model)
    yield made
    made.server.close()


def scrape(steward: RunningSteward) -> bytes:
    """What /metrics says; empty while a worker that would have answered is gone."""
    try:
        answer = call(steward.port, Request(b"GET", b"/metrics", [ADMIN]))
    except (OSError, Ended):
        return b""
    assert answer.status == 200
    return answer.body


def shows(steward: RunningSteward, name: str, number: float, **labels: str) -> Callable[[], bool]:
    return lambda: value(scrape(steward), name, **labels) == number


@pytest.mark.parametrize("after", ["inline", "spool"])
def test_counts_are_right_over_processes_and_after_each_was_killed(
    make_steward: Callable[..., RunningSteward], told: Told, after: str
) -> None:
    steward = make_steward(told.server.url, WORKERS="2", AFTER_RESPONSE=after, STEWARD_ADMIN_TOKEN=TOKEN)
    processes = {"relay": 2.0, "settler": 1.0} if after == "spool" else {"relay": 2.0}
    for role, number in processes.items():
        eventually(shows(steward, "steward_processes", number, role=role), 30)
    made = 0
    children = psutil.Process(steward.process.pid).children()
    assert len(children) == sum(processes.values())
    for child in [None, *children]:
        if child is not None:
            _replaced(steward, child)
            eventually(lambda: _living(steward) == processes, 30)
        for _ in range(20):
            assert steward.call(request()).status == 200
            made += 1
        eventually(shows(steward, "steward_calls_total", made), 30)
        eventually(shows(steward, "steward_rows_total", made, body_state="stored"), 30)
    text = scrape(steward)
    assert value(text, "steward_calls_total", provider="openai", model="gpt-4o-mini", status="200") == made
    assert value(text, "steward_tokens_total", kind="input") == made
    assert value(text, "steward_call_seconds_count") == made
    assert value(text, "steward_added_seconds_count") == made
    eventually(shows(steward, "steward_ready", 1))
    eventually(shows(steward, "steward_database_up", 1, role="relay"))
    if after == "spool":
        assert value(text, "steward_spool_lost_records") == value(text, "steward_quarantine_items") == 0
        eventually(shows(steward, "steward_spool_items", 0))
    assert len(scraped(text)) > 50


def _living(steward: RunningSteward) -> dict[str, float]:
    found = scraped(scrape(steward))
    return {dict(labels)["role"]: number for (name, labels), number in found.items() if name == "steward_processes"}


def test_no_call_is_counted_twice_that_killed_settlers_had_in_hand(
    make_steward: Callable[..., RunningSteward], told: Told
) -> None:
    steward = make_steward(told.server.url, AFTER_RESPONSE="spool", STEWARD_ADMIN_TOKEN=TOKEN)
    _ask_database(steward, "ALTER TABLE llm_requests RENAME TO taken_away")
    for _ in range(20):
        assert steward.call(request()).status == 200
    for _ in range(3):
        eventually(shows(steward, "steward_calls_total", 20), 30)
        eventually(lambda: (value(scrape(steward), "steward_ledger_writes_total", result="failed") or 0) > 0, 30)
        eventually(shows(steward, "steward_spool_items", 20), 30)
        (settler,) = [each for each in psutil.Process(steward.process.pid).children() if _settles(steward, each)]
        _replaced(steward, settler)
        eventually(lambda: _living(steward) == {"relay": 1, "settler": 1}, 30)
    _ask_database(steward, "ALTER TABLE taken_away RENAME TO llm_requests")
    eventually(lambda: len(steward.rows()) == 20, 90)
    eventually(shows(steward, "steward_spool_items", 0), 30)
    text = scrape(steward)
    assert value(text, "steward_calls_total") == value(text, "steward_call_seconds_count") == 20
    assert value(text, "steward_tokens_total", kind="input") == 20


def _replaced(steward: RunningSteward, child: psutil.Process) -> None:
    """Kills it, and waits until another stands in its place."""
    parent = psutil.Process(steward.process.pid)
    others = {each.pid for each in parent.children()} - {child.pid}
    child.kill()

    def another() -> bool:
        now = {each.pid for each in parent.children()}
        return child.pid not in now and len(now - others) == 1

    eventually(another, 30)


def _settles(steward: RunningSteward, process: psutil.Process) -> bool:
    """Whether it is the child that holds no listening socket."""
    return not any(each.status == psutil.CONN_LISTEN for each in process.net_connections())


def _ask_database(steward: RunningSteward, statement: str) -> None:
    said = steward.environ
    address = PostgresAddress(
        said["POSTGRES_HOST"],
        int(said["POSTGRES_PORT"]),
        said["POSTGRES_USER"],
        Secret(said["POSTGRES_PASSWORD"]),
        said["POSTGRES_DB"],
        "disable",
    )
    engine = open_engine(address)
    with engine.begin() as connection:
        connection.execute(sql(statement))
    engine.dispose()


@pytest.mark.parametrize("after", ["inline", "spool"])
def test_no_canary_and_no_key_is_shown(make_steward: Callable[..., RunningSteward], told: Told, after: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        ops_port = probe.getsockname()[1]
    steward = make_steward(told.server.url, AFTER_RESPONSE=after, OPS_PORT=str(ops_port), STEWARD_ADMIN_TOKEN=TOKEN)
    for answer in ANSWERS:
        told.next = answer
        through(steward, request())
    told.next = known_model
    for target in (b"/" + SECRET.encode(), b"/v1/models/" + SECRET.encode(), b"/v1/%2e%2e/" + SECRET.encode()):
        through(steward, request(target))
    assert call(steward.port, request()).status == 401
    assert say(steward.port, b"GET / HTTP/1.1\r\nHost: x\r\n" + SECRET.encode() + b"\r\n\r\n").status == 400
    eventually(lambda: len(steward.rows()) == len(ANSWERS) + 1, 30)
    eventually(shows(steward, "steward_refused_callers_total", 1, code="missing_key"), 30)
    eventually(lambda: (value(scrape(steward), "steward_calls_total") or 0) >= len(ANSWERS) + 1, 30)
    for text in (scrape(steward), call(ops_port, Request(b"GET", b"/metrics")).body):
        assert b"steward_calls_total" in text
        for word in (SECRET.encode(), b"mdm_", b"sk-", steward.key.encode(), str(steward.key_id).encode()):
            assert word not in text.lower()
