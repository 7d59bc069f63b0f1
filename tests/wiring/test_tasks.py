"""A cloud's own signed calls put together: nobody's without an account, and whose they are, settings say."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from steward.adapters.oidc_calls import SignedCalls
from steward.api.tasks import Pushed
from steward.wiring.tasks import open_tasks
from tests.servers.openid import open_id
from tests.servers.postgres import Database
from tests.servers.signed_calls import right, signed_settings
from tests.services import settings


def nothing_due(until: float) -> None:
    """There is nothing."""


def test_without_an_account_there_is_no_door() -> None:
    assert open_tasks(settings(), nothing_due) is None


def test_the_settings_say_whose_calls_they_are() -> None:
    with open_id() as issuer:
        tasks = open_tasks(settings(**signed_settings(issuer)), nothing_due)
        assert tasks is not None
        assert (tasks.sweep, tasks.settle) == (nothing_due, None)
        assert isinstance(tasks.signed, SignedCalls)
        assert issuer.asked == []
        assert tasks.signed.right(right(issuer))
        assert not tasks.signed.right(right(issuer, aud="https://other.example"))
        assert issuer.asked == ["/jwks"]
        tasks.close()


def test_a_pushed_message_that_nobody_of_ours_sealed_is_not_acknowledged(postgres: Database) -> None:
    """By the consumer itself, over a real database; two pushes at once wait for each other."""
    queue = {"AFTER_RESPONSE": "pubsub", "PUBSUB_TOPIC": "projects/a-project/topics/calls"}
    with open_id() as issuer:
        tasks = open_tasks(settings(postgres, **signed_settings(issuer), **queue), nothing_due)
        assert tasks is not None and tasks.settle is not None
        settle = tasks.settle
        with ThreadPoolExecutor(2) as pushers:
            said = list(pushers.map(lambda ident: settle([Pushed(ident, b"forged", {})]), ("1", "2")))
        assert [(list(each), all(each.values())) for each in said] == [(["1"], True), (["2"], True)]
        tasks.close()
