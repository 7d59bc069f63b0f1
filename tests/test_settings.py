"""The environment becomes settings, or one line that names what is wrong."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from steward.destination import S3Destination
from steward.errors import SettingError
from steward.exchange import LOCAL_ORG, Origin
from steward.setting_table import TABLE
from steward.settings import Settings, default_sslmode, describe, load
from steward.wire.headers import CREDENTIALS

KEY = "00112233445566778899aabbccddeeff" * 2
TOKEN = "t" * 32

TWO_BUTLERS = ("https://a.example", "https://b.example/x")
WRONG = [
    ("ENCRYPTION_KEY", "CANARY"),
    ("ENCRYPTION_KEY", "ab" * 32),
    ("ENCRYPTION_KEY", KEY + "\n"),
    ("POSTGRES_HOST", "-CANARY-"),
    ("POSTGRES_HOST", "[::1]"),
    ("POSTGRES_PORT", "0"),
    ("POSTGRES_PORT", "65536"),
    ("POSTGRES_USER", "CANARY\n"),
    ("POSTGRES_PASSWORD", "CANARY\0"),
    ("POSTGRES_PASSWORD", "CANARY\udcff"),
    ("POSTGRES_SSLMODE", "allow"),
    ("POSTGRES_SSLROOTCERT", "/CANARY"),
    ("POSTGRES_MAX_CONNS", "-1"),
    ("HOST", "CANARY:7680"),
    ("PORT", "CANARY"),
    ("PORT", "65536"),
    ("PORT", "7680 "),
    ("OPS_PORT", "7680"),
    ("WORKERS", "0"),
    ("LOG_LEVEL", "CANARY"),
    ("PRICING_REMOTE_URL", "ftp://CANARY"),
    ("PRICING_REMOTE_URL", "http://prices.example.com/list.json"),
    ("PRICING_REFRESH_INTERVAL", "1s"),
    ("PRICING_ALIASES_FILE", "/CANARY"),
    ("OPENAI_BASE_URL", "CANARY"),
    ("OPENAI_BASE_URL", "https://"),
    ("OPENAI_BASE_URL", "https://u:CANARY@api.openai.com"),
    ("OPENAI_BASE_URL", "https://api.openai.com/?CANARY"),
    ("OPENAI_BASE_URL", "https://api.openai.com/#CANARY"),
    ("OPENAI_BASE_URL", "https://api.openai.com:99999"),
    ("OPENAI_BASE_URL", "https://api.openai.com:0"),
    ("OPENAI_BASE_URL", "https://api.openai.com/a/../b"),
    ("OPENAI_BASE_URL", "https://api.openai.com/a/%2e%2e/b"),
    ("OPENAI_BASE_URL", "https://api.openai.com\\@evil/"),
    ("OPENAI_BASE_URL", "https://[::1"),
    ("OPENAI_BASE_URL", "http://api.openai.com"),
    ("OPENAI_BASE_URL", "http://169.254.169.254"),
    ("ANTHROPIC_BASE_URL", "http://localhost:7680"),
    ("ANTHROPIC_BASE_URL", "http://127.9.9.9:7680/v1"),
    ("GEMINI_BASE_URL", "http://[::1]:7680"),
    ("GEMINI_BASE_URL", "https://0.0.0.0:7680"),
    ("CONNECT_TIMEOUT", "soon"),
    ("CONNECT_TIMEOUT", "0"),
    ("STREAM_HEADER_TIMEOUT", "-5s"),
    ("UPSTREAM_TIMEOUT", "5 s"),
    ("UPSTREAM_MAX_CONNS", "1e3"),
    ("HTTPS_PROXY", "https://CANARY:3128"),
    ("HTTPS_PROXY", "socks5://CANARY:1080"),
    ("HTTPS_PROXY", "http://proxy:3128/CANARY"),
    ("NO_PROXY", "CANARY\n"),
    *(("FRONT_HEADERS", wrong) for wrong in ("CANARY CANARY", "x-*-for", "*", "x:y", "x-api*")),
    *(("FRONT_HEADERS", name.decode()) for name in sorted(CREDENTIALS)),
    ("SSL_CERT_FILE", "/CANARY"),
    ("MDM_STEWARD_TOKEN", "mdm_sk_CANARY"),
    ("BUTLER_CA_FILE", "/CANARY"),
    ("BUTLER_URLS_ALLOW", "http://CANARY.example"),
    ("BUTLER_URLS_ALLOW", "https://butler.example.com,CANARY"),
    ("WORK_TICK_INTERVAL", "0"),
    ("WORK_TICK_LIMIT", "401"),
    ("MANAGED_ENABLED", "CANARY"),
    ("MANAGED_MASTER_TOKEN", "CANARY"),
    ("MANAGED_BUTLER_URL", "http://CANARY.example"),
    ("MANAGED_POLL_INTERVAL", "0.1s"),
    ("STEWARD_ADMIN_TOKEN", "CANARY"),
    ("STEWARD_ADMIN_TOKEN", "t" * 31),
    ("STEWARD_ADMIN_TOKEN", "t" * 31 + " "),
    ("AFTER_RESPONSE_WAIT", "CANARY"),
    ("SQS_QUEUE_URL", "https://CANARY/123456789012/calls"),
    ("PUBSUB_TOPIC", "CANARY"),
    ("PUBSUB_SUBSCRIPTION", "CANARY"),
    ("PUBSUB_DEAD_LETTER_SUBSCRIPTION", "projects/my-project/topics/CANARY"),
    ("PUBSUB_EMULATOR_HOST", "CANARY.example.com:1"),
    ("QUEUE_MESSAGE_MAX_BYTES", "1KiB"),
    ("TASKS_SERVICE_ACCOUNT", "CANARY@example.com"),
    ("TASKS_AUDIENCE", "http://CANARY.example.com"),
    ("TASKS_ISSUER", "CANARY"),
    ("TASKS_KEYS_URL", "http://CANARY.example.com"),
    ("ALB_STREAMING", "CANARY"),
    ("POSTGRES_IAM_AUTH", "CANARY"),
    ("AFTER_RESPONSE", "CANARY"),
    ("AFTER_RESPONSE_BUDGET", "CANARY"),
    ("AFTER_RESPONSE_WAIT", "CANARY"),
    ("ALB_STREAMING", "CANARY"),
    ("LAMBDA_EXTENSION", "CANARY"),
    ("POSTGRES_IAM_AUTH", "CANARY"),
    ("SPOOL_DIR", "CANARY"),
    ("SPOOL_DIR", "/"),
    ("SPOOL_DIR", "/var/lib/../CANARY"),
    ("SPOOL_DIR", "/CANARY\n"),
    ("SPOOL_MAX_BYTES", "1MiB"),
    ("SPOOL_FULL", "CANARY"),
    ("SPOOL_FLUSH_INTERVAL", "0"),
    ("BODY_RETRY_FOR", "forever"),
    ("BODY_STORE_ALLOW", "CANARY"),
    ("BODY_STORE_ALLOW", ","),
    ("BODY_STORE_ALLOW", "s3://arn:aws:s3:::CANARY@eu-west-1"),
    ("TRUST_WINDOW", "CANARY"),
    ("TRUST_WINDOW", "31d"),
    ("BODY_STORE_URL", "CANARY"),
    ("BODY_STORE_URL", "http://bucket/prefix"),
    ("CAPTURE", "CANARY"),
    ("CAPTURE_MAX_BYTES", "256 MiB"),
    ("BATCH_INTERVAL", "1ms"),
    ("BATCH_MAX_SIZE", "501"),
    ("EXPORT_TAGS", "User-Id,CANARY CANARY"),
    ("EXPORT_TAGS", ","),
    ("EGRESS_LOG_RETENTION", "CANARY"),
    ("EGRESS_LOG_RETENTION", "29d"),
    ("EGRESS_LOG_RETENTION", "9999d"),
    ("VIEW_AUTH", "CANARY"),
    ("VIEW_HOST", "CANARY:7681"),
    ("VIEW_PORT", "0"),
    ("VIEW_URL", "http://CANARY.example.com"),
    ("VIEW_URL", "https://view.example.com/CANARY"),
    ("VIEW_OIDC_ISSUER", "http://CANARY.example.com"),
    ("VIEW_OIDC_CLIENT_ID", "CANARY\n"),
    ("VIEW_OIDC_CLIENT_SECRET", "CANARY\udcff"),
    ("VIEW_OIDC_GROUPS", "CANARY"),
    ("VIEW_OIDC_GROUPS", "readers=CANARY"),
    ("TLS_CERT_FILE", "/CANARY"),
    ("TLS_KEY_FILE", "/CANARY"),
    ("KEY_STALE_TTL", "forever"),
    ("KEY_MAX_INFLIGHT", "-1"),
    ("MAX_CONNECTIONS", "0"),
    ("SHUTDOWN_DELAY", "CANARY"),
    ("SHUTDOWN_GRACE", "CANARY"),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_value_is_one_line_that_names_the_setting_and_not_the_value(name: str, value: str) -> None:
    with pytest.raises(SettingError) as caught:
        load({name: value}, None)
    line = caught.value.message
    assert line.startswith(f"{name}: ")
    assert "\n" not in line
    assert "CANARY" not in line


def test_every_setting_that_can_be_wrong_is_tried() -> None:
    tried = {name for name, _ in WRONG}
    with_free_text = {setting.name for setting in TABLE} - tried
    assert with_free_text == {
        *("POSTGRES_DB", "BODY_STORE_S3_ENDPOINT", "BODY_STORE_S3_REGION", "BODY_STORE_S3_KMS_KEY_ID"),
        *("BODY_STORE_S3_EXPECTED_OWNER", "BODY_STORE_GCS_ENDPOINT", "BODY_STORE_GCS_PROJECT"),
        *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    }, "tests/test_body_store_url.py tries the store's options"


@pytest.mark.parametrize("setting", TABLE, ids=lambda setting: setting.name)
def test_a_setting_has_a_default_or_says_who_needs_it_and_a_unit_and_a_sentence(setting: object) -> None:
    row = next(row for row in TABLE if row is setting)
    assert row.unit
    assert row.says.endswith(".")
    assert row.unset is not None or row.required or "Not set: " in row.says or row.optional


def test_nothing_set_gives_the_defaults_of_the_design() -> None:
    settings = load({}, None)
    assert settings.encryption_key is None
    assert (settings.host, settings.port, settings.ops_port, settings.workers) == ("0.0.0.0", 7680, None, 1)
    assert (settings.connect_timeout_s, settings.stream_header_timeout_s, settings.upstream_timeout_s) == (10, 600, 600)
    assert (settings.upstream_max_conns, settings.postgres_max_conns) == (512, 10)
    assert settings.capture_max_bytes == 256 * 1024 * 1024
    assert (settings.key_stale_ttl_s, settings.key_max_inflight) == (3600, 0)
    assert (settings.shutdown_delay_s, settings.shutdown_grace_s) == (5, 30)
    assert (settings.after_response, settings.capture, settings.body_store) == ("spool", "full", None)
    assert (settings.spool_dir, settings.spool_max_bytes) == (Path("/var/lib/steward/spool"), 8 << 30)
    assert (settings.spool_full, settings.spool_flush_interval_s) == ("shed-bodies", 0.05)
    assert settings.body_retry_for_s == 24 * 3600
    assert (settings.batch_interval_s, settings.batch_max_size, settings.export_tags) == (2, 500, ("*",))
    assert settings.pricing_remote_url.startswith("https://")
    assert settings.pricing_refresh_interval_s == 6 * 3600
    assert settings.origins["openai"] == Origin("https", "api.openai.com", 443)
    assert settings.origins["anthropic"] == Origin("https", "api.anthropic.com", 443)
    assert settings.origins["gemini"] == Origin("https", "generativelanguage.googleapis.com", 443)
    assert settings.warnings == ()


def test_commands_that_need_the_key_say_how_to_make_one() -> None:
    with pytest.raises(SettingError, match="^ENCRYPTION_KEY: .*openssl rand -hex 32$"):
        load({}, None).needed_encryption_key()
    assert load({"ENCRYPTION_KEY": KEY}, None).needed_encryption_key().reveal() == bytes.fromhex(KEY)


@pytest.mark.parametrize(
    ("name", "value", "field", "meant"),
    [
        ("CONNECT_TIMEOUT", "250ms", "connect_timeout_s", 0.25),
        ("CONNECT_TIMEOUT", "7", "connect_timeout_s", 7),
        ("UPSTREAM_TIMEOUT", "5m", "upstream_timeout_s", 300),
        ("KEY_STALE_TTL", "2h", "key_stale_ttl_s", 7200),
        ("EGRESS_LOG_RETENTION", "", "egress_log_retention_s", 365 * 86400),
        ("EGRESS_LOG_RETENTION", "0", "egress_log_retention_s", 0),
        ("EGRESS_LOG_RETENTION", "30d", "egress_log_retention_s", 30 * 86400),
        ("PRICING_REFRESH_INTERVAL", "1d", "pricing_refresh_interval_s", 86400),
        ("CAPTURE_MAX_BYTES", "16777216", "capture_max_bytes", 1 << 24),
        ("CAPTURE_MAX_BYTES", "2GB", "capture_max_bytes", 2 * 10**9),
        ("LOG_LEVEL", "DEBUG", "log_level", "debug"),
        ("PRICING_REMOTE_URL", "", "pricing_remote_url", ""),
        ("PORT", "", "port", 7680),
        ("PORT", "0", "port", 0),
        ("BUTLER_URLS_ALLOW", "", "butler_urls_allow", ()),
        ("BUTLER_URLS_ALLOW", "https://A.example/, https://b.example/x", "butler_urls_allow", TWO_BUTLERS),
        ("WORK_TICK_INTERVAL", "2s", "work_tick_interval_s", 2),
        ("MANAGED_ENABLED", "False", "managed_enabled", False),
        ("FRONT_HEADERS", " X-Forwarded-*, x-real-ip,", "front_headers", ("x-forwarded-*", "x-real-ip")),
        ("NO_PROXY", " a.example, .b.example ,", "no_proxy", ("a.example", ".b.example")),
        ("no_proxy", "a.example", "no_proxy", ("a.example",)),
    ],
)
def test_a_right_value_is_read(name: str, value: str, field: str, meant: object) -> None:
    assert getattr(load({name: value}, None), field) == meant


def test_managed_mode_is_whole_or_off_and_has_no_store_of_its_own() -> None:
    whole = {
        "MANAGED_ENABLED": "on",
        "MANAGED_MASTER_TOKEN": "mdm_st_" + "m" * 32,
        "MANAGED_BUTLER_URL": "https://butler.example",
    }
    settings = load(whole, None)
    assert (settings.managed_enabled, settings.managed_poll_interval_s) == (True, 30)
    assert settings.managed_butler_url == "https://butler.example"
    for name in ("MANAGED_MASTER_TOKEN", "MANAGED_BUTLER_URL"):
        with pytest.raises(SettingError, match=f"^{name}: "):
            load({**whole, name: ""}, None)
    with pytest.raises(SettingError, match="^BODY_STORE_URL: ") as refused:
        load({**whole, "BODY_STORE_URL": "s3://CANARY"}, None)
    assert "CANARY" not in refused.value.message
    assert load({**whole, "MANAGED_ENABLED": "off", "BODY_STORE_URL": "s3://bucket"}, None).body_store is not None


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("https://api.openai.com/v1", Origin("https", "api.openai.com", 443)),
        ("https://api.openai.com/v1/", Origin("https", "api.openai.com", 443)),
        ("https://API.openai.com:8443/proxy/openai/v1", Origin("https", "api.openai.com", 8443, b"/proxy/openai")),
        ("http://vllm:8000/v1", Origin("http", "vllm", 8000)),
        ("http://10.1.2.3", Origin("http", "10.1.2.3", 80)),
        ("http://[fd00::1]:9000", Origin("http", "fd00::1", 9000)),
        ("http://models.corp.internal", Origin("http", "models.corp.internal", 80)),
        ("http://127.0.0.1:7681", Origin("http", "127.0.0.1", 7681)),
    ],
)
def test_a_base_url_ends_in_a_version_or_not(url: str, meant: Origin) -> None:
    assert load({"OPENAI_BASE_URL": url}, None).origins["openai"] == meant


def test_geminis_version_is_not_doubled_either() -> None:
    url = "https://generativelanguage.googleapis.com/v1beta"
    assert load({"GEMINI_BASE_URL": url}, None).origins["gemini"].base_path == b""


@pytest.mark.parametrize(
    ("host", "mode"),
    [
        ("/var/run/postgresql", "disable"),
        ("localhost", "disable"),
        ("127.0.0.1", "disable"),
        ("::1", "disable"),
        ("postgres", "prefer"),
        ("10.0.0.7", "prefer"),
        ("192.168.1.1", "prefer"),
        ("fd12::1", "prefer"),
        ("db.corp.internal", "prefer"),
        ("db.example.com", "verify-full"),
        ("8.8.8.8", "verify-full"),
        ("169.254.0.1", "verify-full"),
    ],
)
def test_tls_to_the_database_follows_from_where_it_stands(host: str, mode: str) -> None:
    settings = load({"POSTGRES_HOST": host}, None)
    assert settings.postgres_sslmode == mode == default_sslmode(host)[0]
    named = [line for line in settings.warnings if "POSTGRES_SSLMODE" in line]
    assert len(named) == (1 if mode == "prefer" else 0)


@pytest.mark.parametrize("mode", ["disable", "prefer", "require", "verify-ca", "verify-full"])
def test_an_explicit_tls_mode_stands(mode: str) -> None:
    settings = load({"POSTGRES_HOST": "db", "POSTGRES_SSLMODE": mode}, None)
    assert settings.postgres_sslmode == mode
    assert len(settings.warnings) == (1 if mode == "require" else 0)


def test_what_kubernetes_injects_does_no_harm() -> None:
    injected = {
        "POSTGRES_PORT": "tcp://10.0.0.1:5432",
        "POSTGRES_SERVICE_HOST": "10.0.0.1",
        "POSTGRES_SERVICE_PORT": "5432",
        "POSTGRES_SERVICE_PORT_SQL": "5432",
        "POSTGRES_PORT_5432_TCP": "tcp://10.0.0.1:5432",
        "POSTGRES_PORT_5432_TCP_PROTO": "tcp",
        "POSTGRES_PORT_5432_TCP_PORT": "5432",
        "POSTGRES_PORT_5432_TCP_ADDR": "10.0.0.1",
        "STEWARD_PORT": "tcp://10.0.0.2:7680",
        "STEWARD_SERVICE_HOST": "10.0.0.2",
        "STEWARD_SERVICE_PORT": "7680",
        "STEWARD_PORT_7680_TCP": "tcp://10.0.0.2:7680",
        "STEWARD_PORT_7680_TCP_ADDR": "10.0.0.2",
        "OPS_PORT": "tcp://10.0.0.3:80",
        "HOST_SERVICE_HOST": "10.0.0.4",
    }
    assert load(injected, None) == load({}, None)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("POSTGRES_PASS", "POSTGRES_PASSWORD"),
        ("LOGLEVEL", "LOG_LEVEL"),
        ("ENCRYPTON_KEY", "ENCRYPTION_KEY"),
        ("OPENAI_BASEURL", "OPENAI_BASE_URL"),
        ("STEWARD_PORT", "PORT"),
        ("MAJORDOMO_LOG_LEVEL", "LOG_LEVEL"),
        ("postgres_host", "POSTGRES_HOST"),
    ],
)
def test_a_name_close_to_a_known_one_is_a_warning_with_the_nearest_name(name: str, nearest: str) -> None:
    assert load({name: "CANARY"}, None).warnings == (f"{name}: not a setting; is {nearest} meant?",)


@pytest.mark.parametrize(
    "name",
    ["PATH", "HOME", "HOSTNAME", "HTTP_PROXY", "SSL_CERT_DIR", "OPENAI_API_KEY", "AWS_REGION", "AWS_SESSION_TOKEN"],
)
def test_names_of_others_are_nothing_to_us(name: str) -> None:
    assert load({name: "CANARY"}, None).warnings == ()


def test_a_secret_may_stand_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(KEY + "\n")
    settings = load({"ENCRYPTION_KEY_FILE": str(file)}, None)
    assert settings.needed_encryption_key().reveal() == bytes.fromhex(KEY)
    assert next(shown for shown in describe(settings) if shown.name == "ENCRYPTION_KEY").source == "file"


@pytest.mark.parametrize("setting", [row for row in TABLE if row.secret], ids=lambda row: row.name)
def test_a_secret_given_twice_is_an_error(setting: object, tmp_path: Path) -> None:
    row = next(row for row in TABLE if row is setting)
    file = tmp_path / "secret"
    file.write_text(KEY)
    with pytest.raises(SettingError, match=f"^{row.name}: given twice"):
        load({row.name: KEY, f"{row.name}_FILE": str(file)}, None)


@pytest.mark.parametrize("held", [b"", b"\n", b"\xff\xfe", b"x" * 70_000])
def test_a_secrets_file_that_holds_none_is_an_error(held: bytes, tmp_path: Path) -> None:
    file = tmp_path / "CANARY"
    file.write_bytes(held)
    for path in (file, tmp_path, tmp_path / "missing"):
        with pytest.raises(SettingError, match="^POSTGRES_PASSWORD_FILE: ") as caught:
            load({"POSTGRES_PASSWORD_FILE": str(path)}, None)
        assert "CANARY" not in caught.value.message


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text(f"PORT=8000\nHOST=127.0.0.1 # here\nENCRYPTION_KEY={'cd' * 31}ef\nLOG_LEVEL='${{PORT}}'\n")
    with pytest.raises(SettingError, match="^LOG_LEVEL: "):
        load({}, file)
    settings = load({"PORT": "9000", "LOG_LEVEL": "error"}, file)
    assert (settings.port, settings.host, settings.log_level) == (9000, "127.0.0.1", "error")
    sources = {shown.name: shown.source for shown in describe(settings)}
    assert (sources["PORT"], sources["HOST"], sources["WORKERS"]) == ("env", ".env", "default")


def test_a_secrets_file_of_the_environment_wins_over_the_value_in_the_file(tmp_path: Path) -> None:
    dotenv, secret = tmp_path / ".env", tmp_path / "password"
    dotenv.write_text("POSTGRES_PASSWORD=old\n")
    secret.write_text("new\n")
    password = load({"POSTGRES_PASSWORD_FILE": str(secret)}, dotenv).postgres_password
    assert password is not None
    assert password.reveal() == "new"


def test_a_dotenv_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_bytes(b"PORT=\xff\xfe\n")
    with pytest.raises(SettingError, match=r"^\.env: "):
        load({}, file)


def test_no_secret_is_shown() -> None:
    canary = "CANARY" * 8
    settings = load(
        {
            "ENCRYPTION_KEY": KEY,
            "POSTGRES_PASSWORD": canary,
            "STEWARD_ADMIN_TOKEN": canary,
            "HTTPS_PROXY": f"http://user:{canary}@proxy.corp:3128",
            "BODY_STORE_URL": "s3://bucket/prefix",
            "BODY_STORE_S3_ENDPOINT": "http://127.0.0.1:9000",
            "AWS_ACCESS_KEY_ID": "id",
            "AWS_SECRET_ACCESS_KEY": canary,
        },
        None,
    )
    everything = f"{settings!r} {settings} {describe(settings)}"
    assert canary not in everything
    assert KEY not in everything
    assert "http://***@proxy.corp:3128" in everything
    assert isinstance(settings.body_store, S3Destination)


def test_every_row_is_a_field_or_part_of_one() -> None:
    known = {field.name for field in fields(Settings)}
    parts = re.compile(r"(OPENAI|ANTHROPIC|GEMINI)_BASE_URL|BODY_STORE_.*|AWS_.*")
    for row in TABLE:
        name = row.name.lower()
        assert name in known or f"{name}_s" in known or parts.fullmatch(row.name), row.name


def test_every_setting_is_read_by_somebody() -> None:
    root = Path(__file__).parents[1]
    apart = {root / "steward" / "settings.py"}
    files = [file for name in ("steward", "handlers") for file in (root / name).rglob("*.py") if file not in apart]
    text = "\n".join(file.read_text() for file in files)
    without_choice = {"encryption_key", "after_response", "shown"}
    read = {field.name for field in fields(Settings) if re.search(rf"settings\.{field.name}\b", text)}
    assert read | without_choice == {field.name for field in fields(Settings)}
    assert "needed_encryption_key()" in text


_texts = st.one_of(
    st.text(max_size=80),
    st.from_regex(r"(https?|s3|gs|file)://[ -~]{0,40}", fullmatch=True),
    st.from_regex(r"[0-9]{1,20}(ms|s|m|h|d|B|KiB|GiB)?", fullmatch=True),
)


@examples(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from([row.name for row in TABLE]), _texts, max_size=6))
def test_any_environment_gives_settings_or_one_line(environ: dict[str, str]) -> None:
    outcome = _outcome(environ)
    if isinstance(outcome, Settings):
        assert len(describe(outcome)) == len(TABLE)
    else:
        assert re.fullmatch(r"[A-Z0-9_]+: [ -~]+", outcome)
        assert outcome.split(":")[0] in {row.name for row in TABLE}


def _outcome(environ: dict[str, str]) -> Settings | str:
    try:
        return load(environ, None)
    except SettingError as refused:
        return refused.message


OIDC = {
    "VIEW_AUTH": "oidc",
    "VIEW_URL": "https://view.example.com",
    "VIEW_OIDC_ISSUER": "https://login.example.com",
    "VIEW_OIDC_CLIENT_ID": "viewer",
    "VIEW_OIDC_GROUPS": "readers=local",
}


def test_the_viewer_is_off_and_on_loopback_until_it_is_set() -> None:
    settings = load({}, None)
    assert (settings.view_auth, settings.view_host, settings.view_port) == ("off", "127.0.0.1", 7681)
    assert settings.view_url == "http://localhost:7681"
    assert load({"VIEW_AUTH": "token", "VIEW_PORT": "9000"}, None).view_url == "http://localhost:9000"


def test_who_signs_in_elsewhere_is_set_whole() -> None:
    settings = load(OIDC, None)
    assert settings.view_oidc_groups == {"readers": frozenset({LOCAL_ORG})}
    for name in ("VIEW_OIDC_ISSUER", "VIEW_OIDC_CLIENT_ID", "VIEW_OIDC_GROUPS"):
        with pytest.raises(SettingError, match=rf"^{name}: "):
            load({**OIDC, name: ""}, None)
    assert load({**OIDC, "VIEW_OIDC_CLIENT_SECRET": "s3"}, None).view_oidc_client_secret is not None


NOT_SAFE = [
    ({"VIEW_AUTH": "token", "VIEW_HOST": "0.0.0.0"}, "VIEW_URL"),
    ({"VIEW_AUTH": "token", "VIEW_HOST": "10.0.0.5", "VIEW_URL": "http://localhost:7681"}, "VIEW_URL"),
    ({"VIEW_AUTH": "token", "PORT": "7681"}, "VIEW_PORT"),
    ({"VIEW_AUTH": "token", "OPS_PORT": "7681"}, "VIEW_PORT"),
]


@pytest.mark.parametrize(("environ", "name"), NOT_SAFE)
def test_a_viewer_that_would_not_be_safe_is_refused(environ: dict[str, str], name: str) -> None:
    with pytest.raises(SettingError, match=rf"^{name}: "):
        load(environ, None)
    assert load({**environ, "VIEW_AUTH": "off"}, None).view_auth == "off"


def test_a_certificate_and_its_key_go_together(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_text("-----BEGIN CERTIFICATE-----")
    key.touch()
    with pytest.raises(SettingError, match=r"^TLS_KEY_FILE: "):
        load({"TLS_CERT_FILE": str(cert)}, None)
    with pytest.raises(SettingError, match=r"^TLS_CERT_FILE: "):
        load({"TLS_KEY_FILE": str(key)}, None)
    both = {"TLS_CERT_FILE": str(cert), "TLS_KEY_FILE": str(key), "VIEW_AUTH": "token", "VIEW_HOST": "0.0.0.0"}
    assert load(both, None).view_url == "https://localhost:7681"
    with pytest.raises(SettingError, match=r"^VIEW_URL: "):
        load({**both, "VIEW_URL": "http://localhost:7681"}, None)
