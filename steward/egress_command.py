"""`steward egress`: what may leave this network, and to whom, for whoever reviews it or writes the firewall's rules.

It asks nobody but the database which Butlers are registered, and prints no secret, no path and no bucket's prefix.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TextIO
from urllib.parse import urlsplit

import orjson

from steward import egress
from steward.destination import (
    Destination,
    FilesDestination,
    GcsDestination,
    GoogleServiceAccount,
    HostRole,
    S3Destination,
    S3Keys,
)
from steward.ports import Registration
from steward.settings import Settings
from steward.words import Secret

UNKNOWN_BUTLERS = "not known: the database did not say"
_WIDTHS = (10, 44, 6)


@dataclass(frozen=True, slots=True)
class Host:
    """One address that the settings allow."""

    what: str
    """What goes there."""
    host: str
    """A name or address; a pattern with `*` where the vendor chooses among several."""
    port: int | None
    """None: a socket of this host."""
    setting: str
    """The setting that decides it."""


def schema(out: TextIO | None = None) -> int:
    """Prints the JSON Schema of all calls to Butler."""
    printed = orjson.dumps(egress.schema(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()
    (out or sys.stdout).write(printed)
    return 0


def hosts(
    settings: Settings, as_json: bool, registered: Sequence[Registration] | None = None, out: TextIO | None = None
) -> int:
    """Prints every host and port that these settings allow, and those of the Butlers that are registered.

    `registered`: None when the database could not say; then that is said.
    """
    found = allowed_hosts(settings, registered)
    if as_json:
        text = orjson.dumps(
            [asdict(each) for each in found], option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
        ).decode()
    else:
        text = _table(found)
    (out or sys.stdout).write(text)
    return 0


def allowed_hosts(settings: Settings, registered: Sequence[Registration] | None = None) -> list[Host]:
    """In the order in which they stand in the settings' table; the same address for two purposes stands twice."""
    return [
        *_database(settings),
        *_providers(settings),
        *_proxy(settings),
        *_bodies(settings.body_store, "BODY_STORE_URL"),
        *_allowed(settings),
        *_queue(settings),
        *_prices(settings),
        *_sign_in(settings),
        *_signed_calls(settings),
        *_butlers(settings, registered),
    ]


def _database(settings: Settings) -> Iterator[Host]:
    local = settings.postgres_host.startswith("/")
    yield Host("database", settings.postgres_host, None if local else settings.postgres_port, "POSTGRES_HOST")


def _providers(settings: Settings) -> Iterator[Host]:
    """Straight, or through the egress proxy unless `NO_PROXY` names them."""
    for name, each in settings.origins.items():
        yield Host(name, each.host, each.port, f"{name.upper()}_BASE_URL{_through(settings)}")


def _through(settings: Settings) -> str:
    return "" if settings.https_proxy is None else ", through HTTPS_PROXY unless NO_PROXY names it"


def _proxy(settings: Settings) -> Iterator[Host]:
    """Providers and Butlers are then reached through it, but for those that `NO_PROXY` names."""
    if settings.https_proxy is not None:
        proxy = urlsplit(settings.https_proxy.reveal())
        yield Host("proxy", proxy.hostname or "", proxy.port or 80, "HTTPS_PROXY")


def _allowed(settings: Settings) -> Iterator[Host]:
    """Buckets that the control plane may name."""
    if settings.body_store_allow is None:
        yield Host("bodies", "as approved: steward storage check", 443, "steward approve")
    for each in settings.body_store_allow or ():
        bucket: Destination = GcsDestination(each.bucket, "", HostRole())
        if each.vendor == "s3":  # the host's own role never goes to an endpoint of another
            role = HostRole() if each.endpoint is None else S3Keys("", Secret(""))
            bucket = S3Destination(each.bucket, "", role, each.region, each.endpoint)
        yield from _bodies(bucket, "BODY_STORE_ALLOW")


def _bodies(store: Destination | None, setting: str) -> Iterator[Host]:
    match store:
        case S3Destination():
            if store.endpoint:
                yield _address(store.endpoint, setting)
            else:
                yield from (Host("bodies", name, 443, setting) for name in _s3_hosts(store))
        case GcsDestination():
            yield (
                _address(store.endpoint, setting)
                if store.endpoint
                else Host("bodies", "storage.googleapis.com", 443, setting)
            )
            if isinstance(store.credentials, GoogleServiceAccount):
                yield Host("bodies", "oauth2.googleapis.com", 443, setting)
        case FilesDestination() | None:
            return
    if isinstance(store.credentials, HostRole):
        yield from (Host("role", name, port, setting) for name, port in _role_hosts(store))


def _s3_hosts(store: S3Destination) -> list[str]:
    """As the vendor's library names them when none of its own variables (FIPS, dual stack) says otherwise."""
    region = store.region or "*"
    ending = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    bucket = "" if "." in store.bucket else f"{store.bucket}."  # a certificate's `*` stands for no dot
    regional = f"{bucket}s3.{region}.{ending}"
    return [f"{bucket}s3.amazonaws.com", regional] if region in {"*", "us-east-1"} else [regional]


_AWS_ROLES = (("169.254.169.254", 80), ("169.254.170.2", 80), ("169.254.170.23", 80), ("sts.*.amazonaws.com", 443))
_GOOGLE_ROLES = (
    ("metadata.google.internal", 80),
    *((name, 443) for name in ("oauth2.googleapis.com", "sts.googleapis.com", "iamcredentials.googleapis.com")),
)


def _role_hosts(store: S3Destination | GcsDestination) -> Sequence[tuple[str, int]]:
    """Where a role may come from: one of these, as the host has it."""
    return _GOOGLE_ROLES if isinstance(store, GcsDestination) else _AWS_ROLES


def _address(url: str, setting: str) -> Host:
    parts = urlsplit(url)
    return Host("bodies", parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80), setting)


def _queue(settings: Settings) -> Iterator[Host]:
    """The host's own role speaks to it; where that comes from, besides."""
    if settings.after_response == "sqs" and settings.sqs_queue_url is not None:
        yield replace(_address(settings.sqs_queue_url.endpoint, "SQS_QUEUE_URL"), what="queue")
        yield from (Host("role", name, port, "SQS_QUEUE_URL") for name, port in _AWS_ROLES)
    if settings.after_response == "pubsub":
        if settings.pubsub_emulator_host is not None:
            emulator = _address(f"http://{settings.pubsub_emulator_host}", "PUBSUB_EMULATOR_HOST")
            yield replace(emulator, what="queue")
            return
        yield Host("queue", "pubsub.googleapis.com", 443, f"PUBSUB_TOPIC{_through(settings)}")
        yield from (Host("role", name, port, "PUBSUB_TOPIC") for name, port in _GOOGLE_ROLES)


def _prices(settings: Settings) -> Iterator[Host]:
    if settings.pricing_remote_url:
        parts = urlsplit(settings.pricing_remote_url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        yield Host("prices", parts.hostname or "", port, "PRICING_REMOTE_URL")


def _butlers(settings: Settings, registered: Sequence[Registration] | None) -> list[Host]:
    """Those that are told something: who was deregistered is not."""
    decided = f"steward register{_through(settings)}"
    if registered is None:
        return [Host("butler", UNKNOWN_BUTLERS, 443, decided)]
    urls = sorted({each.butler_url for each in registered if each.deregistered_at is None})
    parts = [urlsplit(url) for url in urls]
    addresses = {(each.hostname or "", each.port or (443 if each.scheme == "https" else 80)) for each in parts}
    return [Host("butler", host, port, decided) for host, port in sorted(addresses)]


def _sign_in(settings: Settings) -> Iterator[Host]:
    if settings.view_auth == "oidc" and settings.view_oidc_issuer:
        parts = urlsplit(settings.view_oidc_issuer)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        yield Host("sign-in", parts.hostname or "", port, "VIEW_OIDC_ISSUER, and the addresses it publishes")


def _signed_calls(settings: Settings) -> Iterator[Host]:
    """Whose keys tell a cloud's own calls from others."""
    if settings.tasks_service_account is not None:
        parts = urlsplit(settings.tasks_keys_url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        yield Host("keys", parts.hostname or "", port, "TASKS_KEYS_URL")


def _table(found: Iterable[Host]) -> str:
    lines = [("what", "host", "port", "decided by")]
    lines += [(each.what, each.host, "socket" if each.port is None else str(each.port), each.setting) for each in found]
    return "".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, (*_WIDTHS, 0), strict=True)) + "\n" for line in lines
    )
