"""The environment, read once into frozen Settings; one table says everything that may be set.

The only reader of the environment. It connects to nothing, writes nothing, and never repeats a value it refuses:
what is wrong is said in one line that names the setting (`SettingError`), and the process exits with 2.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple
from uuid import UUID

from dotenv import dotenv_values

from steward import values
from steward.body_store_url import StoreOptions, destination
from steward.destination import Allowed, Destination, GcsDestination, S3Destination
from steward.errors import SettingError
from steward.exchange import Origin
from steward.queue_values import SqsQueue
from steward.setting_table import TABLE, Setting
from steward.words import Secret, SignIn

MAX_SECRET_FILE_BYTES = 64 << 10

PROVIDERS = ("openai", "anthropic", "gemini")
_ALSO_LOWER = ("HTTPS_PROXY", "NO_PROXY")
_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104
_INJECTED = re.compile(
    r"[A-Z0-9_]+_(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)
_INJECTED_PORT = re.compile(r"(?:tcp|udp|sctp)://.*")
_STANDARD_NAMES = frozenset(
    {"HTTP_PROXY", "ALL_PROXY", "FTP_PROXY", "SSL_CERT_DIR", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN"}
)
"""Names that others use and that lie close to one of ours."""
_PREFIXES = ("STEWARD_", "MAJORDOMO_")
_BUTLERS = "BUTLER_POSTGRES_"
"""Begins names of our own Butler's, which may stand in one environment with ours; `butler/settings.py` reads them."""
_NEAR = 0.84
_SQS_MOST = 768 << 10

Source = Literal["default", "env", ".env", "file"]
SslMode = Literal["disable", "prefer", "require", "verify-ca", "verify-full"]
LogLevel = Literal["debug", "info", "warning", "error"]


class Shown(NamedTuple):
    """One line of `steward config`; a secret's value is a mask."""

    name: str
    value: str
    source: Source
    description: str


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the process was told. Durations end in `_s` (seconds), sizes in `_bytes`; None: not set."""

    encryption_key: Secret[bytes] | None
    postgres_host: str
    postgres_port: int
    postgres_user: str
    postgres_password: Secret[str] | None
    postgres_db: str
    postgres_sslmode: SslMode
    postgres_sslrootcert: Path | None
    postgres_iam_auth: bool
    postgres_max_conns: int
    host: str
    port: int
    ops_port: int | None
    front_headers: tuple[str, ...]
    """Lower-case; `*` at the end of one stands for any rest."""
    workers: int
    log_level: LogLevel
    pricing_remote_url: str
    """Empty: nothing is fetched."""
    pricing_refresh_interval_s: float
    pricing_aliases_file: Path | None
    origins: Mapping[str, Origin]
    """Provider -> where its calls go: `openai`, `anthropic`, `gemini`."""
    connect_timeout_s: float
    stream_header_timeout_s: float
    upstream_timeout_s: float
    upstream_max_conns: int
    https_proxy: Secret[str] | None
    """`http://[user:password@]host:port`."""
    no_proxy: tuple[str, ...]
    ssl_cert_file: Path | None
    mdm_steward_token: Secret[str] | None
    butler_ca_file: Path | None
    butler_urls_allow: tuple[str, ...]
    """Where an organisation may be registered; empty: anywhere."""
    work_tick_interval_s: float
    work_tick_limit: int
    managed_enabled: bool
    managed_master_token: Secret[str] | None
    managed_butler_url: str | None
    managed_poll_interval_s: float
    steward_admin_token: Secret[str] | None
    after_response: Literal["inline", "spool", "sqs", "pubsub"]
    after_response_wait: bool | None
    """None: as the host has it."""
    after_response_budget_s: float
    sqs_queue_url: SqsQueue | None
    pubsub_topic: str | None
    pubsub_subscription: str | None
    pubsub_dead_letter_subscription: str | None
    pubsub_emulator_host: str | None
    queue_message_max_bytes: int
    tasks_service_account: str | None
    tasks_audience: str | None
    tasks_issuer: str
    tasks_keys_url: str
    lambda_extension: bool | None
    """None: as the sandbox is."""
    alb_streaming: Literal["buffered", "refused"]
    spool_dir: Path
    spool_max_bytes: int
    spool_full: Literal["shed-bodies", "reject"]
    spool_flush_interval_s: float
    body_retry_for_s: float
    body_store: Destination | None
    body_store_allow: tuple[Allowed, ...] | None
    trust_window_s: float
    capture: Literal["full", "metadata"]
    capture_max_bytes: int
    batch_interval_s: float
    batch_max_size: int
    export_tags: tuple[str, ...]
    """Names in Title-Case; `*` alone: all leave."""
    egress_log_retention_s: float
    """0: for ever."""
    view_auth: Literal["off", "token", "oidc"]
    view_host: str
    view_port: int
    view_url: str
    """Scheme, host and port, as a browser shows them."""
    view_oidc_issuer: str | None
    view_oidc_client_id: str | None
    view_oidc_client_secret: Secret[str] | None
    view_oidc_groups: Mapping[str, frozenset[UUID]] | None
    """A provider's group -> the organisations whose bodies it may open."""
    tls_cert_file: Path | None
    tls_key_file: Path | None
    key_stale_ttl_s: float
    key_max_inflight: int
    """Calls that one key may have running in one process; 0: no bound."""
    max_connections: int
    shutdown_delay_s: float
    shutdown_grace_s: float
    postgres_sign_in: SignIn | None = field(default=None, repr=False)
    """Of a host that knows where the password is kept: it goes before `postgres_password`."""
    warnings: tuple[str, ...] = ()
    """What is worth a word at start, without values."""
    shown: tuple[Shown, ...] = field(default=(), repr=False)

    def needed_encryption_key(self) -> Secret[bytes]:
        """The key, for commands that do not run without one. Raises SettingError."""
        if self.encryption_key is None:
            raise SettingError("ENCRYPTION_KEY: not set; make one with: openssl rand -hex 32")
        return self.encryption_key


class Read(NamedTuple):
    """A setting's text, and where it stood."""

    text: str | None
    source: Source


def load(environ: Mapping[str, str], dotenv: Path | None = Path(".env")) -> Settings:
    """Reads, parses and cross-checks. The environment wins over the file. Raises SettingError: one line, a name in it.

    A missing ENCRYPTION_KEY is no error here: commands that need it ask for `needed_encryption_key()`.
    """
    environment = {name: value for name, value in environ.items() if not injected(name, value)}
    file = dotenv_file(dotenv)
    found = {setting.name: read(setting, environment, file) for setting in TABLE}
    parsed = {setting.name: parse(setting, found[setting.name].text) for setting in TABLE}
    warnings = _near_misses([*environment, *file])
    sslmode, sslmode_warning = default_sslmode(parsed["POSTGRES_HOST"])
    if parsed["POSTGRES_SSLMODE"] is None:
        parsed["POSTGRES_SSLMODE"] = sslmode
        warnings += sslmode_warning
    elif parsed["POSTGRES_SSLMODE"] == "require" and parsed["POSTGRES_SSLROOTCERT"] is None:
        warnings.append("POSTGRES_SSLMODE: require encrypts, but does not check who answers; verify-full does")
    origins = {provider: parsed[f"{provider.upper()}_BASE_URL"] for provider in PROVIDERS}
    _check_ports(parsed)
    _check_view(parsed)
    for provider, origin in origins.items():
        if _is_ourselves(origin, parsed):
            raise SettingError(
                f"{provider.upper()}_BASE_URL: names this Steward's own address; calls would go in circles"
            )
    _check_managed(parsed)
    _check_queues(parsed)
    body_store, store_warnings = _body_store(parsed)
    return Settings(
        **{field_name(setting): parsed[setting.name] for setting in TABLE if field_name(setting) in _FIELDS},
        origins=MappingProxyType(origins),
        body_store=body_store,
        warnings=tuple(warnings + store_warnings),
        shown=tuple(show(setting, parsed[setting.name], found[setting.name].source) for setting in TABLE),
    )


def describe(settings: Settings) -> list[Shown]:
    """What is in force: name, value as shown (secrets masked), where it came from, what it is."""
    return list(settings.shown)


def default_sslmode(host: str) -> tuple[SslMode, list[str]]:
    """What POSTGRES_SSLMODE is when nothing is said (SECURITY, decision on F13), and the warning that goes with it."""
    if host.startswith("/") or values.is_loopback(host):
        return "disable", []
    if values.is_private(host):
        return "prefer", [
            "POSTGRES_SSLMODE: not set; the database stands at a private address, so TLS is used only if it offers it "
            "and its certificate is not checked; set POSTGRES_SSLMODE=verify-full"
        ]
    return "verify-full", []


def dotenv_file(path: Path | None) -> dict[str, str]:
    """The file's settings, taken literally; none without a file."""
    if path is None or not path.exists():
        return {}
    try:
        found = dotenv_values(path, interpolate=False)
    except (OSError, UnicodeDecodeError):
        raise SettingError(".env: the file cannot be read as UTF-8 text") from None
    return {name: value for name, value in found.items() if value is not None}


def read(setting: Setting, environment: Mapping[str, str], file: Mapping[str, str]) -> Read:
    """The setting's text from the environment, else from the file, else its default; each itself or by its `_FILE`."""
    places: tuple[tuple[Mapping[str, str], Source], ...] = ((environment, "env"), (file, ".env"))
    for place, source in places:
        text = _given(setting, place)
        twin = place.get(f"{setting.name}_FILE") if setting.secret else None
        if text is not None and twin:
            raise SettingError(f"{setting.name}: given twice, also as {setting.name}_FILE; remove one")
        if twin:
            return Read(_secret_file(setting, twin), "file")
        if text is not None:
            return Read(text, source)
    return Read(setting.unset, "default")


def _given(setting: Setting, place: Mapping[str, str]) -> str | None:
    """What stands under the setting's name (for a proxy also the lower-case one), None for nothing."""
    for name in (setting.name, setting.name.lower()) if setting.name in _ALSO_LOWER else (setting.name,):
        text = place.get(name)
        if text or (text is not None and setting.empty_counts):
            return text
    return None


def _secret_file(setting: Setting, path: str) -> str:
    """A secret's text from its file, without the final line end."""
    try:
        with Path(path).open("rb") as file:
            held = file.read(MAX_SECRET_FILE_BYTES + 1)
        text = held.decode().removesuffix("\n").removesuffix("\r")
    except (OSError, ValueError):
        raise SettingError(f"{setting.name}_FILE: the file cannot be read as UTF-8 text") from None
    if not text or len(held) > MAX_SECRET_FILE_BYTES:
        raise SettingError(f"{setting.name}_FILE: the file is empty or larger than 64 KiB")
    return text


def parse(setting: Setting, text: str | None) -> Any:
    """The setting's value. Raises SettingError with its name and the parser's sentence, never with its text."""
    if text is None:
        return None
    try:
        return setting.parse(text)
    except ValueError as refused:
        raise SettingError(f"{setting.name}: {refused.args[0]}") from None


def show(setting: Setting, value: Any, source: Source) -> Shown:
    """The setting's line: a mask for a secret, its own spelling where it has one, else the text of the value."""
    if value is None or value == "":
        text = "(not set)"
    elif setting.show is not None:
        text = setting.show(value)
    elif isinstance(value, Secret):
        text = Secret.MASK
    elif isinstance(value, Origin):
        text = f"{value.scheme}://{value.authority.decode()}{value.base_path.decode()}"
    elif isinstance(value, float):
        text = f"{value:g}s"
    else:
        text = str(value)
    return Shown(setting.name, text, source, setting.says)


def field_name(setting: Setting) -> str:
    """The field of Settings that holds it: its name in lower case, with the unit of a duration."""
    name = setting.name.lower()
    return f"{name}_s" if setting.unit == "duration" else name


def injected(name: str, value: str) -> bool:
    """Whether Kubernetes put it there for a Service: `POSTGRES_PORT=tcp://10.0.0.1:5432` and kin."""
    if name.endswith("_PORT") and _INJECTED_PORT.fullmatch(value):
        return True
    return _INJECTED.fullmatch(name) is not None


def _near_misses(given: list[str]) -> list[str]:
    """A warning for each name that is none of ours but close to one."""
    known = {name for setting in TABLE for name in _spellings(setting)}
    warnings = []
    for name in sorted(set(given) - known):
        upper = name.upper()
        if upper in _STANDARD_NAMES or upper.startswith(_BUTLERS) or not re.fullmatch(r"[A-Za-z0-9_]{5,64}", name):
            continue
        bare = next((upper.removeprefix(prefix) for prefix in _PREFIXES if upper.startswith(prefix)), upper)
        near = [bare] if bare in known else difflib.get_close_matches(upper, known, 1, _NEAR)
        if near:
            warnings.append(f"{name}: not a setting; is {near[0]} meant?")
    return warnings


def _spellings(setting: Setting) -> list[str]:
    """The names under which a setting is read."""
    found = [setting.name]
    if setting.secret:
        found.append(f"{setting.name}_FILE")
    if setting.name in _ALSO_LOWER:
        found.append(setting.name.lower())
    return found


def _check_ports(parsed: Mapping[str, Any]) -> None:
    """Two listeners, two ports."""
    if parsed["OPS_PORT"] and parsed["OPS_PORT"] == parsed["PORT"]:
        raise SettingError("OPS_PORT: the same as PORT")
    if parsed["VIEW_AUTH"] != "off" and parsed["VIEW_PORT"] in (parsed["PORT"], parsed["OPS_PORT"]):
        raise SettingError("VIEW_PORT: the same as PORT or OPS_PORT; the viewer has a listener of its own")


def _check_view(parsed: dict[str, Any]) -> None:
    """What the viewer needs to be safe (SECURITY F5), and its address where none is set."""
    if (parsed["TLS_CERT_FILE"] is None) != (parsed["TLS_KEY_FILE"] is None):
        missing = "TLS_KEY_FILE" if parsed["TLS_KEY_FILE"] is None else "TLS_CERT_FILE"
        raise SettingError(f"{missing}: not set; a certificate and its key go together")
    if parsed["VIEW_URL"] is None:
        scheme = "http" if parsed["TLS_CERT_FILE"] is None else "https"
        parsed["VIEW_URL"] = f"{scheme}://localhost:{parsed['VIEW_PORT']}"
    if parsed["VIEW_AUTH"] == "off":
        return
    plain = parsed["VIEW_URL"].startswith("http:")
    if plain and parsed["TLS_CERT_FILE"] is not None:
        raise SettingError("VIEW_URL: http://, but TLS_CERT_FILE is set; write https://")
    if plain and not values.is_loopback(parsed["VIEW_HOST"]):
        raise SettingError("VIEW_URL: not https://, but VIEW_HOST is not loopback: bodies would cross the network bare")
    if parsed["VIEW_AUTH"] == "oidc":
        for name in ("VIEW_OIDC_ISSUER", "VIEW_OIDC_CLIENT_ID", "VIEW_OIDC_GROUPS"):
            if not parsed[name]:
                raise SettingError(f"{name}: not set; VIEW_AUTH=oidc needs it")


def _check_managed(parsed: Mapping[str, Any]) -> None:
    """Managed mode is whole or off, and has no store of its own: one organisation's bodies would lie in another's."""
    if not parsed["MANAGED_ENABLED"]:
        return
    for name in ("MANAGED_MASTER_TOKEN", "MANAGED_BUTLER_URL"):
        if parsed[name] is None:
            raise SettingError(f"{name}: not set; MANAGED_ENABLED needs it")
    if parsed["BODY_STORE_URL"]:
        raise SettingError("BODY_STORE_URL: refused with MANAGED_ENABLED; each organisation brings its own store")


def _check_queues(parsed: Mapping[str, Any]) -> None:
    """A queue that calls go to must be named; so must all that a signed call is known by."""
    for way, name in (("sqs", "SQS_QUEUE_URL"), ("pubsub", "PUBSUB_TOPIC")):
        if parsed["AFTER_RESPONSE"] == way and parsed[name] is None:
            raise SettingError(f"{name}: not set; AFTER_RESPONSE={way} needs it")
    if parsed["SQS_QUEUE_URL"] is not None and parsed["QUEUE_MESSAGE_MAX_BYTES"] > _SQS_MOST:
        raise SettingError("QUEUE_MESSAGE_MAX_BYTES: more than SQS takes, which is 1 MiB less a third for its text")
    pair = ("TASKS_SERVICE_ACCOUNT", "TASKS_AUDIENCE")
    missing = [name for name in pair if parsed[name] is None]
    if len(missing) == 1:
        raise SettingError(f"{missing[0]}: not set; {' and '.join(pair)} go together")
    if parsed["POSTGRES_IAM_AUTH"] and parsed["POSTGRES_PASSWORD"] is not None:
        raise SettingError("POSTGRES_PASSWORD: set, but POSTGRES_IAM_AUTH signs in without one; remove one of them")


def _is_ourselves(origin: Origin, parsed: Mapping[str, Any]) -> bool:
    """Whether calls sent there would come back to this listener."""
    if origin.port not in {parsed["PORT"], parsed["OPS_PORT"]} - {0, None}:
        return False
    listening = parsed["HOST"].lower()
    if origin.host == listening or origin.host in _WILDCARDS:
        return True
    everywhere = listening in _WILDCARDS or values.is_loopback(listening)
    return everywhere and values.is_loopback(origin.host)


def _body_store(parsed: Mapping[str, Any]) -> tuple[Destination | None, list[str]]:
    """Where bodies go, and warnings for options that then have no effect. Raises SettingError."""
    url = parsed["BODY_STORE_URL"]
    secret = parsed["AWS_SECRET_ACCESS_KEY"]
    options = StoreOptions(
        s3_endpoint=parsed["BODY_STORE_S3_ENDPOINT"],
        s3_region=parsed["BODY_STORE_S3_REGION"],
        s3_kms_key_id=parsed["BODY_STORE_S3_KMS_KEY_ID"],
        s3_expected_owner=parsed["BODY_STORE_S3_EXPECTED_OWNER"],
        gcs_endpoint=parsed["BODY_STORE_GCS_ENDPOINT"],
        gcs_project=parsed["BODY_STORE_GCS_PROJECT"],
        aws_access_key_id=parsed["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=secret,
    )
    chosen = destination(url, options) if url else None
    idle = [
        f"{setting.name}: has no effect without a BODY_STORE_URL of its kind"
        for setting in TABLE
        if (
            setting.name.startswith("BODY_STORE_S3_") and not isinstance(chosen, S3Destination) and parsed[setting.name]
        )
        or (
            setting.name.startswith("BODY_STORE_GCS_")
            and not isinstance(chosen, GcsDestination)
            and parsed[setting.name]
        )
    ]
    return chosen, idle


_FIELDS = frozenset(field.name for field in fields(Settings))
