"""What holds on Cloud Run unless a setting says otherwise, and what is refused there."""

from __future__ import annotations

import pytest

from steward.cloud_run import is_here, settings_there
from steward.errors import SettingError
from steward.settings import load

THERE = {"K_SERVICE": "steward", "PORT": "8080", "ENCRYPTION_KEY": bytes(range(32)).hex()}


def test_elsewhere_nothing_changes() -> None:
    environ = {"AFTER_RESPONSE": "spool", "K_SERVICE": ""}
    assert not is_here(environ)
    assert settings_there(environ) is environ


def test_it_listens_where_it_is_told_and_settles_before_the_end() -> None:
    settings = load(settings_there(THERE), None)
    assert (settings.port, settings.after_response, settings.workers) == (8080, "inline", 1)
    assert (settings.shutdown_delay_s, settings.shutdown_grace_s) == (0, 5)


def test_what_is_set_wins_and_what_is_empty_is_not_set() -> None:
    given = {"AFTER_RESPONSE": "pubsub", "PUBSUB_TOPIC": "projects/a-project/topics/calls", "SHUTDOWN_GRACE": "3s"}
    settings = load(settings_there({**THERE, **given, "SHUTDOWN_DELAY": ""}), None)
    assert (settings.after_response, settings.shutdown_grace_s, settings.shutdown_delay_s) == ("pubsub", 3, 0)
    assert load(settings_there({**THERE, "AFTER_RESPONSE": ""}), None).after_response == "inline"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"AFTER_RESPONSE": "spool"}, "^AFTER_RESPONSE: spool needs a disk that outlives the process"),
        ({"VIEW_AUTH": "token"}, "^VIEW_AUTH: Cloud Run serves one port"),
    ],
)
def test_what_would_lose_calls_there_is_refused(given: dict[str, str], says: str) -> None:
    with pytest.raises(SettingError, match=says):
        settings_there({**THERE, **given})
