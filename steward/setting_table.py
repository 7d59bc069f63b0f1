"""Everything that may be set: one row a name, with its parser, what holds without it, its unit and one sentence.

Data alone: it reads no environment. `settings.py`, `steward config`, the README's table and the tests are made from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from steward import queue_values, values, view_values
from steward.body_store_allow import allow_list
from steward.body_store_allow import shown as shown_allow_list

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
PRICE_LIST = "https://raw.githubusercontent.com/pydantic/genai-prices/refs/heads/main/prices/new_data/v2/data.json"


@dataclass(frozen=True, slots=True)
class Setting:
    """One name that may be set. `unset` is what holds without it, as it would be written; None when nothing does."""

    name: str
    parse: Callable[[str], object]
    unset: str | None
    unit: str
    says: str
    secret: bool = False
    required: str | None = None
    """The commands that do not run without it."""
    optional: bool = False
    """Without it nothing is missing, and nothing takes its place."""
    empty_counts: bool = False
    """An empty value is a value; for all others it means: not set."""
    show: Callable[[Any], str] | None = None


_port = values.whole(0, 65535)
_timeout = values.duration(0.001, DAY_S)

TABLE: tuple[Setting, ...] = (
    Setting(
        "ENCRYPTION_KEY",
        values.encryption_key,
        None,
        "64 hex digits",
        "Seals secrets at rest and keys the hashes of provider credentials. Losing it loses what it sealed.",
        secret=True,
        required="migrate, serve, settle, spool, reconcile, keys, register, orgs, deregister, export, egress, pending, "
        "approve, provider-keys, storage",
    ),
    Setting(
        "POSTGRES_HOST",
        values.postgres_host,
        "localhost",
        "host, address or /folder",
        "The database's host, or its socket folder.",
    ),
    Setting("POSTGRES_PORT", values.whole(1, 65535), "5432", "port", "The database's port; also names the socket."),
    Setting("POSTGRES_USER", values.text, "steward", "text", "The database role."),
    Setting("POSTGRES_PASSWORD", values.secret, None, "text", "The role's password.", secret=True, optional=True),
    Setting("POSTGRES_DB", values.text, "steward", "text", "The database."),
    Setting(
        "POSTGRES_SSLMODE",
        values.choice("disable", "prefer", "require", "verify-ca", "verify-full"),
        None,
        "disable, prefer, require, verify-ca or verify-full",
        "As libpq means it. Not set: disable for a socket folder or loopback, prefer (with a warning) for a private "
        "address or a single-label name, verify-full for any other.",
    ),
    Setting(
        "POSTGRES_SSLROOTCERT",
        values.certificate_file,
        None,
        "PEM file",
        "Whose word is taken for the database's certificate. Not set: the system's authorities.",
    ),
    Setting(
        "POSTGRES_IAM_AUTH",
        values.switch,
        "off",
        "on or off",
        "On AWS: signs in with a token of the host's own role, made anew for each connection, in place of "
        "POSTGRES_PASSWORD (RDS, RDS Proxy).",
        show=values.shown_switch,
    ),
    Setting(
        "POSTGRES_MAX_CONNS",
        values.whole(1, 1000),
        "10",
        "connections",
        "Most database connections one container holds: two for each worker, two to settle and sync, two for the "
        "viewer, at least.",
    ),
    Setting("HOST", values.host, "0.0.0.0", "host or address", "The address to listen on."),  # noqa: S104
    Setting("PORT", _port, "7680", "port", "The port to listen on; 0 takes any that is free."),
    Setting(
        "OPS_PORT",
        _port,
        None,
        "port",
        "A second port for operators: `/docs`, `/openapi.json`, the details of `/readyz`.",
        optional=True,
    ),
    Setting(
        "FRONT_HEADERS",
        values.field_names,
        "",
        "comma-separated names",
        "Header fields that go to no provider: what a load balancer in front adds about its own connection "
        "(`x-forwarded-*,x-amzn-*`). On Lambda, Cloud Run and Cloud Functions those of the host never do.",
        show=",".join,
    ),
    Setting("WORKERS", values.whole(1, 64), "1", "processes", "Relaying processes; `steward serve --workers` wins."),
    Setting(
        "LOG_LEVEL",
        values.choice("debug", "info", "warning", "error"),
        "info",
        "debug, info, warning or error",
        "The least important line that is written. No level writes content.",
    ),
    Setting(
        "PRICING_REMOTE_URL",
        values.feed_url,
        PRICE_LIST,
        "URL",
        "Where newer prices are fetched: the JSON of genai-prices or of llm-prices. Empty: nothing is fetched.",
        empty_counts=True,
    ),
    Setting(
        "PRICING_REFRESH_INTERVAL", values.duration(60, 30 * DAY_S), "6h", "duration", "How often prices are fetched."
    ),
    Setting(
        "PRICING_ALIASES_FILE",
        values.existing_file,
        None,
        "JSON file",
        "Names of models as you call them -> names the price list knows.",
        optional=True,
    ),
    Setting(
        "OPENAI_BASE_URL",
        values.origin,
        "https://api.openai.com",
        "URL",
        "Where OpenAI calls go; may end in /v1 or not.",
    ),
    Setting(
        "ANTHROPIC_BASE_URL",
        values.origin,
        "https://api.anthropic.com",
        "URL",
        "Where Anthropic calls go; may end in /v1 or not.",
    ),
    Setting(
        "GEMINI_BASE_URL",
        values.origin,
        "https://generativelanguage.googleapis.com",
        "URL",
        "Where Gemini calls go; may end in /v1beta or not.",
    ),
    Setting("CONNECT_TIMEOUT", _timeout, "10s", "duration", "To connect to a provider, all its addresses tried."),
    Setting(
        "STREAM_HEADER_TIMEOUT",
        _timeout,
        "600s",
        "duration",
        "From the request's last byte to the head of the provider's answer.",
    ),
    Setting(
        "UPSTREAM_TIMEOUT",
        _timeout,
        "600s",
        "duration",
        "Longest silence of a provider within its answer. There is no total limit.",
    ),
    Setting(
        "UPSTREAM_MAX_CONNS",
        values.whole(1, 65535),
        "512",
        "connections",
        "Most connections to one provider, a process.",
    ),
    Setting(
        "HTTPS_PROXY",
        values.proxy,
        None,
        "http://host:port",
        "An egress proxy for calls to providers and to Butler (also `https_proxy`).",
        secret=True,
        show=values.shown_proxy,
        optional=True,
    ),
    Setting(
        "NO_PROXY",
        values.names,
        "",
        "comma-separated hosts",
        "Hosts that the egress proxy is not asked for (also `no_proxy`).",
        show=",".join,
    ),
    Setting(
        "SSL_CERT_FILE",
        values.certificate_file,
        None,
        "PEM file",
        "Whose word is taken for providers' certificates. Not set: the system's authorities.",
    ),
    Setting(
        "MDM_STEWARD_TOKEN",
        values.steward_token,
        None,
        "mdm_st_...",
        "What `steward register` registers with, so that the token need not stand in a list of processes.",
        secret=True,
        optional=True,
    ),
    Setting(
        "BUTLER_CA_FILE",
        values.certificate_file,
        None,
        "PEM file",
        "Whose word is taken for Butler's certificate. Not set: SSL_CERT_FILE's, else the system's authorities.",
    ),
    Setting(
        "BUTLER_URLS_ALLOW",
        values.butler_urls,
        "",
        "comma-separated URLs",
        "The only control planes that may be registered at. Empty: any.",
        show=",".join,
    ),
    Setting(
        "WORK_TICK_INTERVAL",
        values.duration(0.1, HOUR_S),
        "5s",
        "duration",
        "How often Butler is asked for work: a key made there works this much later at most.",
    ),
    Setting("WORK_TICK_LIMIT", values.whole(1, 400), "50", "items", "Most work items asked for at once."),
    Setting(
        "MANAGED_ENABLED",
        values.switch,
        "off",
        "on or off",
        "One Steward for the many organisations that its Butler assigns. No BODY_STORE_URL then: each brings its own.",
        show=values.shown_switch,
    ),
    Setting(
        "MANAGED_MASTER_TOKEN",
        values.steward_token,
        None,
        "mdm_st_...",
        "With MANAGED_ENABLED: what asks for assignments, and nothing else.",
        secret=True,
        optional=True,
    ),
    Setting(
        "MANAGED_BUTLER_URL",
        values.butler_url,
        None,
        "URL",
        "With MANAGED_ENABLED: the Butler that assigns.",
        optional=True,
    ),
    Setting(
        "MANAGED_POLL_INTERVAL",
        values.duration(1, DAY_S),
        "30s",
        "duration",
        "With MANAGED_ENABLED: how often it is asked for assignments.",
    ),
    Setting(
        "STEWARD_ADMIN_TOKEN",
        values.admin_token,
        None,
        "32 or more characters",
        "Opens operators' pages on the main port, and `/admin/orgs` on both.",
        secret=True,
        optional=True,
    ),
    Setting(
        "AFTER_RESPONSE",
        values.choice("inline", "spool", "sqs", "pubsub"),
        "spool",
        "inline, spool, sqs or pubsub",
        "How calls are settled: `spool`, by a process of its own from SPOOL_DIR, whatever dies meanwhile; `inline`, in "
        "the serving process, from its memory; `sqs` and `pubsub`, by whoever reads the queue. On Lambda, Cloud Run "
        "and Cloud Functions: inline unless it says otherwise.",
    ),
    Setting(
        "AFTER_RESPONSE_WAIT",
        values.switch,
        None,
        "on or off",
        "With `inline` on a host that runs by the call: whether the piece that ends a response waits until its call is "
        "settled. Not set: on where the processor is taken away with the last byte (Cloud Run, Cloud Functions, Lambda "
        "without extensions), else off.",
        optional=True,
        show=values.shown_switch,
    ),
    Setting(
        "AFTER_RESPONSE_BUDGET",
        values.duration(0, HOUR_S),
        "2s",
        "duration",
        "With `inline`: the longest a caller waits, before the last piece of his answer, for his call to be noted in "
        "the database; on a host that runs by the call also how long settling and exporting it may take.",
    ),
    Setting(
        "SQS_QUEUE_URL",
        queue_values.sqs_queue,
        None,
        "URL",
        "With `sqs`: the queue. The host's own role sends to it and reads it.",
        optional=True,
        show=queue_values.shown_sqs_queue,
    ),
    Setting(
        "PUBSUB_TOPIC",
        queue_values.topic,
        None,
        "projects/PROJECT/topics/NAME",
        "With `pubsub`: the topic. The host's own service account publishes to it.",
        optional=True,
    ),
    Setting(
        "PUBSUB_SUBSCRIPTION",
        queue_values.subscription,
        None,
        "projects/PROJECT/subscriptions/NAME",
        "The topic's subscription, for who pulls: `steward settle`, `steward queue`. A push needs none.",
        optional=True,
    ),
    Setting(
        "PUBSUB_DEAD_LETTER_SUBSCRIPTION",
        queue_values.subscription,
        None,
        "projects/PROJECT/subscriptions/NAME",
        "That of the dead-letter topic, for `steward queue redrive`.",
        optional=True,
    ),
    Setting(
        "PUBSUB_EMULATOR_HOST",
        queue_values.emulator,
        None,
        "host:port",
        "A stand-in for Pub/Sub, spoken to without TLS and without credentials.",
        optional=True,
    ),
    Setting(
        "QUEUE_MESSAGE_MAX_BYTES",
        values.size(16 << 10, 10 << 20),
        "192KiB",
        "size",
        "A call that is larger when sealed goes to the bucket, and its message carries its hash. SQS takes 1 MiB.",
    ),
    Setting(
        "TASKS_SERVICE_ACCOUNT",
        queue_values.service_account,
        None,
        "e-mail address",
        "On Google's hosts: the account whose signed calls settle pushed messages and run what is due. Not set: "
        "nobody's do.",
        optional=True,
    ),
    Setting(
        "TASKS_AUDIENCE",
        queue_values.audience,
        None,
        "URL",
        "What those calls' tokens must be made out to; goes with TASKS_SERVICE_ACCOUNT.",
        optional=True,
    ),
    Setting(
        "TASKS_ISSUER",
        queue_values.audience,
        "https://accounts.google.com",
        "URL",
        "Who must have signed them.",
    ),
    Setting(
        "TASKS_KEYS_URL",
        queue_values.audience,
        "https://www.googleapis.com/oauth2/v3/certs",
        "URL",
        "Where the signers' keys are fetched, and kept an hour.",
    ),
    Setting(
        "LAMBDA_EXTENSION",
        values.switch,
        None,
        "on or off",
        "On Lambda: what comes after a response is done by an extension inside the function, while the caller has his "
        "answer already; off: before it is returned. Not set: on, but off where one sandbox serves several calls at "
        "once (managed instances).",
        optional=True,
        show=values.shown_switch,
    ),
    Setting(
        "ALB_STREAMING",
        values.choice("buffered", "refused"),
        "buffered",
        "buffered or refused",
        "What a load balancer before Lambda makes of a streamed answer: the whole of it at the end, or a 400 that says "
        "so before the provider is asked.",
    ),
    Setting(
        "SPOOL_DIR",
        values.folder,
        "/var/lib/steward/spool",
        "folder",
        "Where calls wait to be settled, sealed; on a local disk that outlives the container.",
        show=str,
    ),
    Setting(
        "SPOOL_MAX_BYTES",
        values.size(16 << 20, 1 << 50),
        "8GiB",
        "size",
        "Most octets that wait in SPOOL_DIR, of all workers together; one key's at most a quarter of it.",
    ),
    Setting(
        "SPOOL_FULL",
        values.choice("shed-bodies", "reject"),
        "shed-bodies",
        "shed-bodies or reject",
        "What happens to calls beyond that: kept without their bodies, or refused with 503 before they are sent.",
    ),
    Setting(
        "SPOOL_FLUSH_INTERVAL",
        values.duration(0.001, 60),
        "50ms",
        "duration",
        "How often what was written is forced to the disk: what a power cut can take. A killed process loses nothing.",
    ),
    Setting(
        "BODY_RETRY_FOR",
        values.duration(0, 30 * DAY_S),
        "24h",
        "duration",
        "With `spool`: how long a body that its store refuses is tried again; then it is `failed`, and set aside.",
    ),
    Setting(
        "BODY_STORE_URL",
        values.text,
        None,
        "s3://bucket/prefix, gs://bucket/prefix or file:///folder",
        "Where bodies are kept. Not set: they are not kept.",
    ),
    Setting(
        "BODY_STORE_S3_ENDPOINT",
        values.endpoint,
        None,
        "URL",
        "An S3 service other than the vendor's own. The host's own role is never used there.",
        optional=True,
    ),
    Setting("BODY_STORE_S3_REGION", values.text, None, "text", "The bucket's region.", optional=True),
    Setting(
        "BODY_STORE_S3_KMS_KEY_ID",
        values.text,
        None,
        "text",
        "Encrypt objects with this KMS key. Not set: the bucket's own default.",
    ),
    Setting(
        "BODY_STORE_S3_EXPECTED_OWNER",
        values.text,
        None,
        "12 digits",
        "The account that must own the bucket.",
        optional=True,
    ),
    Setting(
        "BODY_STORE_GCS_ENDPOINT",
        values.endpoint,
        None,
        "URL",
        "Another address of the storage service; one that is not Google's (an emulator) is used without credentials.",
        optional=True,
    ),
    Setting(
        "BODY_STORE_GCS_PROJECT",
        values.text,
        None,
        "text",
        "The project that is billed for storage calls.",
        optional=True,
    ),
    Setting(
        "BODY_STORE_ALLOW",
        allow_list,
        None,
        "comma-separated list of s3://bucket@region[/account], gs://bucket, https://endpoint/bucket",
        "The only buckets that storage settings from Butler may name, exactly; with it nothing is approved by hand.",
        optional=True,
        show=shown_allow_list,
    ),
    Setting(
        "TRUST_WINDOW",
        values.duration(0, 30 * DAY_S),
        "24h",
        "duration",
        "After `steward register`: how long a bucket from Butler, at the vendor's own address and with credentials of "
        "its own, is used without `steward approve`.",
    ),
    Setting(
        "AWS_ACCESS_KEY_ID",
        values.text,
        None,
        "text",
        "Key for BODY_STORE_S3_ENDPOINT. At the vendor's own address its library finds credentials by itself.",
        optional=True,
    ),
    Setting("AWS_SECRET_ACCESS_KEY", values.secret, None, "text", "Its secret half.", secret=True, optional=True),
    Setting(
        "CAPTURE",
        values.choice("full", "metadata"),
        "full",
        "full or metadata",
        "Whether bodies are kept, or rows alone.",
    ),
    Setting(
        "CAPTURE_MAX_BYTES",
        values.size(16 << 20, 1 << 40),
        "256MiB",
        "size",
        "Most octets kept of each side of a call; beyond, the row says `truncated`, and tokens told later are unknown.",
    ),
    Setting(
        "BATCH_INTERVAL",
        values.duration(0.05, HOUR_S),
        "2s",
        "duration",
        "How often rows are sent to Butler; at once, when more wait than one call takes.",
    ),
    Setting("BATCH_MAX_SIZE", values.whole(1, 500), "500", "rows", "Most rows of one call to Butler."),
    Setting(
        "EXPORT_TAGS",
        values.tag_names,
        "*",
        "*, none or names",
        "Which tags Butler is told: all, none, or those of a list (`User-Id,Feature`). The ledger keeps all.",
        show=values.shown_tag_names,
    ),
    Setting(
        "EGRESS_LOG_RETENTION",
        values.duration_or_none(30 * DAY_S, 3650 * DAY_S),
        "365d",
        "duration",
        "How long rows of `steward egress tail` are kept, at least 30d; `0`: for ever. The newest row always stays.",
    ),
    Setting(
        "VIEW_AUTH",
        values.choice("off", "token", "oidc"),
        "off",
        "off, token or oidc",
        "Who may open bodies in a browser: nobody; who has a token of `steward view-token create`; or whom your own "
        "OpenID provider knows.",
    ),
    Setting("VIEW_HOST", values.host, "127.0.0.1", "host or address", "The address the viewer listens on."),
    Setting("VIEW_PORT", values.whole(1, 65535), "7681", "port", "The port the viewer listens on."),
    Setting(
        "VIEW_URL",
        view_values.view_url,
        None,
        "URL",
        "Where people reach the viewer: `https://`, or `http://` on loopback. It answers to this host alone, which "
        "must not be Butler's. Not set: `http://localhost` and VIEW_PORT.",
    ),
    Setting(
        "VIEW_OIDC_ISSUER",
        view_values.issuer,
        None,
        "URL",
        "Your OpenID provider, exactly as it names itself.",
        optional=True,
    ),
    Setting("VIEW_OIDC_CLIENT_ID", values.text, None, "text", "The viewer's name at that provider.", optional=True),
    Setting(
        "VIEW_OIDC_CLIENT_SECRET",
        values.secret,
        None,
        "text",
        "Its secret there. Not set: a public client, with PKCE alone.",
        secret=True,
        optional=True,
    ),
    Setting(
        "VIEW_OIDC_GROUPS",
        view_values.groups,
        None,
        "group=organisation, comma-separated",
        "Whose bodies a group of the claim `groups` may open; an organisation's id, or `local`. Who is in none of them "
        "opens nothing.",
        optional=True,
        show=view_values.shown_groups,
    ),
    Setting(
        "TLS_CERT_FILE",
        values.certificate_file,
        None,
        "PEM file",
        "The viewer's certificate. Not set: TLS ends before it, or it stands on loopback.",
        optional=True,
    ),
    Setting("TLS_KEY_FILE", values.existing_file, None, "PEM file", "The certificate's key.", optional=True),
    Setting(
        "KEY_STALE_TTL",
        values.duration(0, 7 * DAY_S),
        "1h",
        "duration",
        "How long a known key is good while the database cannot be asked.",
    ),
    Setting(
        "KEY_MAX_INFLIGHT",
        values.whole(0, 1_000_000),
        "0",
        "calls",
        "Most calls one key may have running in one process; 0: no bound.",
    ),
    Setting(
        "MAX_CONNECTIONS",
        values.whole(1, 1_000_000),
        "10000",
        "connections",
        "Most callers' connections a process holds.",
    ),
    Setting(
        "SHUTDOWN_DELAY",
        values.duration(0, HOUR_S),
        "5s",
        "duration",
        "From SIGTERM (`/readyz` 503) to the listener's close.",
    ),
    Setting(
        "SHUTDOWN_GRACE", values.duration(0, DAY_S), "30s", "duration", "What running calls have to end, after that."
    ),
)
