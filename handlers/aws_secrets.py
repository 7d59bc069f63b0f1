"""Secrets that the environment only names: fetched while a function starts, by Powertools' Parameters.

The database's password is fetched anew when the database refuses it: it was changed while the process lived.

Any secret setting may be `arn:aws:secretsmanager:...:secret:NAME[:json-key[:stage[:version]]]`,
`arn:aws:ssm:...:parameter/NAME` or `ssm:///NAME`. A fault names the setting; no value and no word of a vendor's is
repeated. Nothing of AWS is imported where no setting is such a name.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Any

import orjson

from steward import log
from steward.errors import SettingError
from steward.setting_table import TABLE
from steward.settings import Settings, load
from steward.words import Secret

WITHIN_S = 8.0
"""Of the ten seconds that a start may take."""
ANEW_WITHIN_S = 4.0
ANEW_EVERY_S = 30.0
"""At most so often a process asks for a password that was refused. SSM answers 40 times a second, for all of them."""
_PASSWORD = "POSTGRES_PASSWORD"  # noqa: S105
_PLAIN = (
    "a plain secret in the environment of a function: whoever may look at its configuration reads it; name it by ARN"
)

_SECRET = re.compile(
    r"arn:aws[a-z-]*:secretsmanager:([a-z0-9-]{1,40}):[0-9]{12}:secret:[A-Za-z0-9/_+=.@!-]{1,512}"
    r"((?::[^:]{0,256}){0,3})"
)
_PARAMETER_ARN = re.compile(r"arn:aws[a-z-]*:ssm:([a-z0-9-]{1,40}):[0-9]{12}:parameter(/[A-Za-z0-9/_.-]{1,1010})")
_PARAMETER = re.compile(r"ssm://(/?[A-Za-z0-9/_.-]{1,1010})")


@dataclass(frozen=True, slots=True)
class Named:
    """Where a secret is."""

    service: str
    """`secretsmanager` or `ssm`."""
    region: str | None
    """None: the function's own."""
    name: str
    key: str | None = None
    """Of the JSON document that the secret is; None: all of it, or the password of one that RDS keeps."""
    stage: str | None = None
    version: str | None = None


Fetch = Callable[[Named], str]


def named(value: str) -> Named | None:
    """What the value names; None for one that names nothing. Raises ValueError for what only begins like a name."""
    if found := _SECRET.fullmatch(value):
        arn = value[: len(value) - len(found[2])]
        parts = [part or None for part in found[2].split(":")[1:]] + [None] * 3
        return Named("secretsmanager", found[1], arn, parts[0], parts[1], parts[2])
    if found := _PARAMETER_ARN.fullmatch(value):
        return Named("ssm", found[1], found[2])
    if found := _PARAMETER.fullmatch(value):
        return Named("ssm", None, found[1])
    if value.startswith(("arn:", "ssm:")):
        raise ValueError("begins like the name of a secret, but is none of Secrets Manager or of SSM")
    return None


def with_secrets(environ: Mapping[str, str], fetch: Fetch | None = None, within_s: float = WITHIN_S) -> dict[str, str]:
    """The environment with every secret that is named in place of its name. All are asked for at once.

    Raises SettingError, naming the setting; also when the answers take longer than `within_s`.
    """
    wanted: dict[str, Named] = {}
    for setting in TABLE:
        value = environ.get(setting.name)
        if not setting.secret or not value:
            continue
        try:
            found = named(value)
        except ValueError as refused:
            raise SettingError(f"{setting.name}: {refused.args[0]}") from None
        if found is not None:
            wanted[setting.name] = found
    if not wanted:
        return dict(environ)
    asked = _fetched(set(wanted.values()), fetch or fetcher(), within_s)
    return {**environ, **{name: _text(name, asked[place], place) for name, place in wanted.items()}}


def settings_of(environ: Mapping[str, str], defaults: Mapping[str, str], fetch: Fetch | None = None) -> Settings:
    """A function's, from its environment above its host's defaults. Raises SettingError."""
    given = with_secrets(environ, fetch)
    # Set to nothing is not set: the container's own defaults, a spool among them, are none of this host's.
    said = {name: value for name, value in given.items() if value or name not in defaults}
    settings = load({**defaults, **said}, None)
    name = environ.get(_PASSWORD, "")
    if settings.postgres_password is None or given.get(_PASSWORD) == name:
        return settings
    return replace(settings, postgres_sign_in=NamedPassword(name, settings.postgres_password, fetch))


class NamedPassword:
    """SignIn by the database's password, which is kept under a name, and fetched anew when it is refused."""

    def __init__(
        self, name: str, first: Secret[str], fetch: Fetch | None = None, now: Callable[[], float] = time.time
    ) -> None:
        """`first`: as it was fetched at the start. `now`: a clock that goes on while the process is frozen."""
        self._name = name
        self._known = first
        self._fetch = fetch
        self._now = now
        self._asked_at: float | None = None
        self._lock = threading.Lock()

    def __call__(self) -> Secret[str]:
        """See words.SignIn."""
        return self._known

    def refused(self, secret: Secret[str]) -> bool:
        """See words.SignIn. Asks at most every ANEW_EVERY_S; a service that does not answer changes nothing."""
        with self._lock:
            now = self._now()
            due = self._asked_at is None or abs(now - self._asked_at) >= ANEW_EVERY_S
            if due and self._known == secret:
                self._asked_at = now
                self._learn()
            return self._known != secret

    def _learn(self) -> None:
        try:
            found = with_secrets({_PASSWORD: self._name}, self._fetch, ANEW_WITHIN_S)
        except SettingError as fault:
            log.error("password_not_fetched", fault)
            return
        log.say("password_fetched_anew")
        self._known = Secret(found[_PASSWORD])


def plain_secrets(environ: Mapping[str, str]) -> list[str]:
    """A warning if the key that opens everything stands in the environment itself."""
    value = environ.get("ENCRYPTION_KEY")
    return [f"ENCRYPTION_KEY: {_PLAIN}"] if value and not value.startswith(("arn:", "ssm:")) else []


def _fetched(places: set[Named], fetch: Fetch, within_s: float) -> dict[Named, Future[str]]:
    pool = ThreadPoolExecutor(min(8, len(places)), "steward-secrets")
    asked = {place: pool.submit(fetch, place) for place in places}
    wait(asked.values(), within_s)
    pool.shutdown(wait=False, cancel_futures=True)
    return asked


def _text(setting: str, answer: Future[str], place: Named) -> str:
    if not answer.done() or answer.cancelled():
        raise SettingError(f"{setting}: {place.service} did not answer in time; can the function reach it in its VPC?")
    fault = answer.exception()
    if fault is not None:
        log.error("secret_not_fetched", fault)
        raise SettingError(f"{setting}: {place.service} did not give it; may the function's role read it, is it there?")
    text = answer.result()
    if place.key is not None:
        return _field(setting, text, place.key)
    if setting.endswith("_PASSWORD") and text.startswith("{"):
        return _field(setting, text, "password")  # as RDS keeps it
    return text


def _field(setting: str, text: str, key: str) -> str:
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        document = None
    value = document.get(key) if isinstance(document, dict) else None
    if not isinstance(value, str) or not value:
        raise SettingError(f"{setting}: the secret is no JSON object with a text under that key")
    return value


def fetcher() -> Fetch:
    """From AWS, as the function's own role. Each try is short: the start is bounded."""
    try:
        from aws_lambda_powertools.utilities.parameters import SecretsProvider, SSMProvider
        from botocore.config import Config
    except ImportError:
        raise SettingError("a secret is named by ARN, which needs majordomo-steward[aws]") from None

    def config(place: Named) -> Config:
        return Config(region_name=place.region, connect_timeout=2, read_timeout=3, retries={"total_max_attempts": 2})

    def fetch(place: Named) -> str:
        if place.service == "ssm":
            return str(SSMProvider(boto_config=config(place)).get(place.name, decrypt=True))
        options: dict[str, Any] = {}
        if place.version is not None:
            options["VersionId"] = place.version
        if place.stage is not None:
            options["VersionStage"] = place.stage
        value = SecretsProvider(boto_config=config(place)).get(place.name, **options)
        return value.decode() if isinstance(value, bytes) else str(value)

    return fetch
