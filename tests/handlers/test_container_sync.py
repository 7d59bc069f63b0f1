"""A Steward as it runs, and a Butler: what is made there works here within a tick, registered by command or by HTTP."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import orjson
import pytest

from tests.servers.butler_stub import Organisation, StubButler, plaintext, spelled, stub_butler
from tests.servers.plain_http import Message, Request, call
from tests.servers.provider import Provider
from tests.servers.steward import RunningSteward, run_command
from tests.servers.waiting import eventually

ADMIN = "an-admin-token-of-more-than-32-characters"
Make = Callable[..., RunningSteward]


def asks(steward: RunningSteward, name: str) -> int:
    """A call with the key of that name: its status."""
    fields = [(b"X-Majordomo-Key", plaintext(name).encode()), (b"Authorization", b"Bearer sk-test")]
    return call(steward.port, Request(b"GET", b"/v1/models", fields)).status


def admin(steward: RunningSteward, method: bytes, path: bytes = b"", body: object = None) -> Message:
    octets = b"" if body is None else orjson.dumps(body)
    bearer = (b"Authorization", b"Bearer " + ADMIN.encode())
    return call(steward.port, Request(method, b"/admin/orgs" + path, [bearer], octets))


def registered(steward: RunningSteward, butler: StubButler, who: Organisation, by: str) -> None:
    if by == "http":
        assert admin(steward, b"POST", body={"token": who.token, "butler_url": butler.url}).status == 201
    else:
        environ = {**steward.environ, "MDM_STEWARD_TOKEN": who.token}
        assert run_command(environ, "register", "--butler-url", butler.url).returncode == 0


@pytest.mark.parametrize("by", ["http", "command"])
def test_what_is_made_in_butler_works_in_a_running_steward(make_steward: Make, provider: Provider, by: str) -> None:
    acme = Organisation()
    acme.key("first")
    with stub_butler(acme) as butler:
        steward = make_steward(provider.url, STEWARD_ADMIN_TOKEN=ADMIN, WORK_TICK_INTERVAL="500ms")
        assert asks(steward, "first") == 401
        registered(steward, butler, acme, by)
        eventually(lambda: asks(steward, "first") == 200, 10)
        acme.key("second")
        eventually(lambda: asks(steward, "second") == 200, 10)
        acme.key("first", is_active=False, revoked_at=spelled(datetime.now(UTC)))
        eventually(lambda: asks(steward, "first") == 401, 10)
        [listed] = orjson.loads(admin(steward, b"GET").body)["organisations"]
        assert (listed["org_id"], listed["fault"]) == (str(acme.id), None)
        assert set(listed["pending"]) >= {"rows"}
        assert admin(steward, b"DELETE", b"/" + str(acme.id).encode()).status == 200
        eventually(lambda: asks(steward, "second") == 401, 10)
        registered(steward, butler, acme, by)
        eventually(lambda: asks(steward, "second") == 200, 15)
        assert asks(steward, "first") == 401, "revoked stays revoked"
        assert acme.token.encode() not in steward.said()


def test_managed_organisations_are_taken_over_by_a_running_steward(make_steward: Make, provider: Provider) -> None:
    one, other = Organisation("One"), Organisation("Other")
    for each in (one, other):
        each.key(each.name)
    with stub_butler(one, other) as butler:
        butler.pending = [
            {"id": str(each.steward_id), "org_id": str(each.id), "org_name": each.name, "token": each.token}
            for each in (one, other)
        ]
        steward = make_steward(
            provider.url,
            BODY_STORE_URL="",
            MANAGED_ENABLED="on",
            MANAGED_MASTER_TOKEN="mdm_st_" + "m" * 32,
            MANAGED_BUTLER_URL=butler.url,
            MANAGED_POLL_INTERVAL="1s",
            WORK_TICK_INTERVAL="500ms",
        )
        for each in (one, other):
            eventually(lambda name=each.name: asks(steward, name) == 200, 15)  # type: ignore[misc]
        assert sorted(butler.claimed) == sorted(str(each.steward_id) for each in (one, other))
