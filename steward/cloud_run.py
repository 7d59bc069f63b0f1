"""How Cloud Run and Cloud Functions are known, and what holds there unless a setting says otherwise.

Pure: it is handed the environment. What it refuses there would lose calls without a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from steward.errors import SettingError

DEFAULTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "AFTER_RESPONSE": "inline",
        "SHUTDOWN_DELAY": "0",  # nobody asks /readyz: the front end sends no more calls once it has sent SIGTERM
        "SHUTDOWN_GRACE": "5s",  # of the 10 s until SIGKILL; the rest is for what was cut
    }
)

OF_THE_FRONT: Final = frozenset(
    {
        *(b"x-forwarded-for", b"x-forwarded-proto", b"forwarded", b"x-cloud-trace-context"),
        b"x-serverless-authorization",  # who may call the service at all; Google has checked it
    }
)
"""Fields that Google's front end writes or reads, about its own connection: no provider gets them.

`traceparent` stays: a caller's own tracing sets it, and the front end then keeps his.
"""


def is_here(environ: Mapping[str, str]) -> bool:
    """Whether this process is a service of Cloud Run; a function is one, too."""
    return bool(environ.get("K_SERVICE"))


def settings_there(environ: Mapping[str, str]) -> Mapping[str, str]:
    """The environment with the host's own defaults beneath; on another host as it is.

    Raises SettingError for what cannot work there.
    """
    if not is_here(environ):
        return environ
    given = {name: value for name, value in environ.items() if value or name not in DEFAULTS}
    if given.get("AFTER_RESPONSE") == "spool":
        raise SettingError(
            "AFTER_RESPONSE: spool needs a disk that outlives the process, and Cloud Run's is memory; "
            "use inline or pubsub"
        )
    if given.get("VIEW_AUTH", "off") != "off":
        raise SettingError("VIEW_AUTH: Cloud Run serves one port, and the callers have it; run the viewer elsewhere")
    return {**DEFAULTS, **given}
