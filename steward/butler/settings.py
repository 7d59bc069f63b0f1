"""Butler's settings: BUTLER_*, read once into frozen values. The other reader of the environment.

BUTLER_POSTGRES_* falls back to POSTGRES_*, so that one database may serve both halves, each in its own schema. What is
wrong is said in one line that names the setting and never its value; the process then exits with 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from steward import settings as stewards
from steward import values
from steward.errors import SettingError
from steward.setting_table import TABLE as STEWARD_TABLE
from steward.setting_table import Setting
from steward.settings import LogLevel, Shown, SslMode
from steward.words import Secret

_POSTGRES: Final = tuple(
    each for each in STEWARD_TABLE if each.name.startswith("POSTGRES_") and each.name != "POSTGRES_IAM_AUTH"
)


def _fallback(setting: Setting) -> Setting:
    """The same under Butler's own name; without it, the Steward's holds."""
    return Setting(
        f"BUTLER_{setting.name}",
        setting.parse,
        None,
        setting.unit,
        f"As {setting.name}, for Butler; not set: {setting.name}.",
        secret=setting.secret,
        optional=True,
        show=setting.show,
    )


TABLE: Final[tuple[Setting, ...]] = (
    Setting(
        "BUTLER_ENCRYPTION_KEY",
        values.encryption_key,
        None,
        "64 hex digits",
        "Seals provider keys and storage secrets in Butler's database. Another than the Steward's ENCRYPTION_KEY.",
        secret=True,
        required="butler serve, butler migrate, butler create-admin",
    ),
    *(_fallback(setting) for setting in _POSTGRES),
    Setting("BUTLER_HOST", values.host, "127.0.0.1", "host or address", "The address that Butler listens on."),
    Setting("BUTLER_PORT", values.whole(0, 65535), "7690", "port", "The port that Butler listens on."),
    Setting(
        "BUTLER_PUBLIC_URL",
        values.butler_url,
        None,
        "https://...",
        "Where people and Stewards reach Butler. Not set: http on loopback, at BUTLER_PORT.",
    ),
    Setting(
        "BUTLER_TRUSTED_PROXIES",
        values.names,
        "",
        "comma-separated addresses",
        "Proxies whose word on a caller's address is taken; sign-ins that fail are counted by address.",
        show=",".join,
    ),
    Setting(
        "BUTLER_STEWARD_VIEW_URL",
        values.butler_url,
        None,
        "https://...",
        "Where the Steward's own viewer is reached inside the network: `open body` leads there.",
        optional=True,
    ),
    Setting(
        "BUTLER_MANAGED_TOKEN",
        values.steward_token,
        None,
        "mdm_st_...",
        "The master token of a managed Steward (its MANAGED_MASTER_TOKEN). Not set: there is none.",
        secret=True,
        optional=True,
    ),
    Setting(
        "BUTLER_LOG_LEVEL",
        values.choice("debug", "info", "warning", "error"),
        None,
        "debug, info, warning or error",
        "As LOG_LEVEL, for Butler; not set: LOG_LEVEL.",
        optional=True,
    ),
)


@dataclass(frozen=True, slots=True)
class ButlerSettings:
    """Everything that Butler was told."""

    encryption_key: Secret[bytes] | None
    postgres_host: str
    postgres_port: int
    postgres_user: str
    postgres_password: Secret[str] | None
    postgres_db: str
    postgres_sslmode: SslMode
    postgres_sslrootcert: Path | None
    postgres_max_conns: int
    host: str
    port: int
    public_url: str
    trusted_proxies: tuple[str, ...]
    steward_view_url: str | None
    managed_token: Secret[str] | None
    log_level: LogLevel
    warnings: tuple[str, ...] = ()
    shown: tuple[Shown, ...] = field(default=(), repr=False)

    def needed_encryption_key(self) -> Secret[bytes]:
        """Raises SettingError without one."""
        if self.encryption_key is None:
            raise SettingError("BUTLER_ENCRYPTION_KEY: not set; make one with: openssl rand -hex 32")
        return self.encryption_key


def load(environ: Mapping[str, str], dotenv: Path | None = Path(".env")) -> ButlerSettings:
    """Reads, parses and cross-checks. The environment wins over the file. Raises SettingError."""
    file = stewards.dotenv_file(dotenv)
    environment = {name: value for name, value in environ.items() if not stewards.injected(name, value)}
    parsed: dict[str, Any] = {}
    shown = []
    for setting in TABLE:
        found = stewards.read(setting, environment, file)
        parsed[setting.name] = stewards.parse(setting, found.text)
        shown.append(stewards.show(setting, parsed[setting.name], found.source))
    held = {name: _or_stewards(name, parsed, environment, file) for name in ("LOG_LEVEL", *(s.name for s in _POSTGRES))}
    warnings: list[str] = []
    if held["POSTGRES_SSLMODE"] is None:
        held["POSTGRES_SSLMODE"], warnings = stewards.default_sslmode(held["POSTGRES_HOST"])
    return ButlerSettings(
        encryption_key=parsed["BUTLER_ENCRYPTION_KEY"],
        **{name.lower(): value for name, value in held.items()},
        host=parsed["BUTLER_HOST"],
        port=parsed["BUTLER_PORT"],
        public_url=_public_url(parsed),
        trusted_proxies=parsed["BUTLER_TRUSTED_PROXIES"],
        steward_view_url=parsed["BUTLER_STEWARD_VIEW_URL"],
        managed_token=parsed["BUTLER_MANAGED_TOKEN"],
        warnings=tuple(warnings),
        shown=tuple(shown),
    )


def _or_stewards(name: str, parsed: Mapping[str, Any], environment: Mapping[str, str], file: Mapping[str, str]) -> Any:
    own = parsed[f"BUTLER_{name}"]
    if own is not None:
        return own
    setting = next(each for each in STEWARD_TABLE if each.name == name)
    return stewards.parse(setting, stewards.read(setting, environment, file).text)


def _public_url(parsed: Mapping[str, Any]) -> str:
    """Plain http is for loopback alone: a session's cookie would cross the network in clear."""
    url: str | None = parsed["BUTLER_PUBLIC_URL"]
    if url is not None:
        if url.count("/") > 2:
            raise SettingError("BUTLER_PUBLIC_URL: has a path; Butler stands at the root of its host")
        return url
    if not values.is_loopback(parsed["BUTLER_HOST"]):
        raise SettingError("BUTLER_PUBLIC_URL: not set; a Butler that others reach needs its https:// address")
    return f"http://127.0.0.1:{parsed['BUTLER_PORT']}"
