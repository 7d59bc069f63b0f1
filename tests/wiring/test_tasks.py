"""A cloud's own signed calls put together: nobody's without an account, and whose they are, settings say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from steward.adapters.oidc_calls import SignedCalls
from steward.api.tasks import Pushed
from steward.wiring.tasks import open_tasks
from tests.servers.openid import open_id
from tests.servers.signed_calls import right, signed_settings
from tests.services import settings


def nothing_due(until: float) -> None:
    """There is nothing."""


def test_without_an_account_there_is_no_door() -> None:
    assert open_tasks(settings(), nothing_due) is None


def test_the_settings_say_whose_calls_they_are() -> None:
    def settle(messages: Sequence[Pushed]) -> Mapping[str, str | None]:
        return {}

    with open_id() as issuer:
        tasks = open_tasks(settings(**signed_settings(issuer)), nothing_due, settle)
        assert tasks is not None
        assert (tasks.sweep, tasks.settle) == (nothing_due, settle)
        assert isinstance(tasks.signed, SignedCalls)
        assert issuer.asked == []
        assert tasks.signed.right(right(issuer))
        assert not tasks.signed.right(right(issuer, aud="https://other.example"))
        assert issuer.asked == ["/jwks"]
        tasks.signed.close()
