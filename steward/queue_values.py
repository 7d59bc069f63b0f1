"""How the settings of queues and of a cloud's own callers become values. Pure.

Each raises ValueError with one of our own fixed sentences, which `settings.py` puts behind the setting's name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from steward import values

_QUEUE_PATH = re.compile(r"/[0-9]{12}/[A-Za-z0-9_-]{1,75}")
_SQS_HOST = re.compile(r"sqs(?:-fips)?\.([a-z0-9-]{1,40})\.amazonaws\.com(?:\.cn)?")
_VPC_HOST = re.compile(r"[a-z0-9-]{1,80}\.sqs\.([a-z0-9-]{1,40})\.vpce\.amazonaws\.com")
_PROJECT = r"[a-z](?:[a-z0-9-]{4,28})[a-z0-9]"
_NAME = r"[A-Za-z](?:[A-Za-z0-9._~%+-]{2,254})"
_TOPIC = re.compile(rf"projects/{_PROJECT}/topics/{_NAME}")
_SUBSCRIPTION = re.compile(rf"projects/{_PROJECT}/subscriptions/{_NAME}")
_ACCOUNT = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}@[a-z0-9][a-z0-9.-]{0,200}\.gserviceaccount\.com")
_HOST_PORT = re.compile(r"[A-Za-z0-9.\[\]:-]{1,255}:[0-9]{1,5}")


@dataclass(frozen=True, slots=True)
class SqsQueue:
    """One queue of Amazon's, as its URL says."""

    url: str
    endpoint: str
    """Scheme, host and port."""
    region: str
    name: str
    """Account and name, as `123456789012/calls`: to this its messages are bound."""


def sqs_queue(given: str) -> SqsQueue:
    """`https://sqs.REGION.amazonaws.com/ACCOUNT/NAME`; also of a VPC endpoint, or of a stand-in on loopback."""
    parts = values.web_address(given)
    name = (parts.hostname or "").lower()
    if parts.query or not _QUEUE_PATH.fullmatch(parts.path):
        raise ValueError("not a queue's URL; it ends in /ACCOUNT/NAME, and .fifo is not needed")
    found = _SQS_HOST.fullmatch(name) or _VPC_HOST.fullmatch(name)
    if found is None and not values.is_loopback(name):
        raise ValueError("names no host of SQS")
    region = found[1] if found else "us-east-1"
    return SqsQueue(given, f"{parts.scheme}://{parts.netloc}", region, parts.path[1:])


def shown_sqs_queue(queue: SqsQueue) -> str:
    """As it was given: it holds no secret."""
    return queue.url


def topic(given: str) -> str:
    """`projects/PROJECT/topics/NAME`."""
    if not _TOPIC.fullmatch(given):
        raise ValueError("not a topic's name; it reads projects/PROJECT/topics/NAME")
    return given


def subscription(given: str) -> str:
    """`projects/PROJECT/subscriptions/NAME`."""
    if not _SUBSCRIPTION.fullmatch(given):
        raise ValueError("not a subscription's name; it reads projects/PROJECT/subscriptions/NAME")
    return given


def emulator(given: str) -> str:
    """`host:port` of a stand-in for Pub/Sub, on loopback or a private address: messages go there without TLS."""
    if not _HOST_PORT.fullmatch(given):
        raise ValueError("not host:port")
    name = urlsplit(f"http://{given}").hostname or ""
    if not values.is_private(name) and not values.is_loopback(name):
        raise ValueError("accepted for loopback and private addresses only")
    return given


def service_account(given: str) -> str:
    """The e-mail address of a Google service account."""
    if not _ACCOUNT.fullmatch(given):
        raise ValueError("not the address of a service account; it ends in .gserviceaccount.com")
    return given


def audience(given: str) -> str:
    """What a token must be made out to: an https URL, compared octet for octet; http on loopback."""
    parts = values.web_address(given)
    if parts.scheme == "http" and not values.is_loopback(parts.hostname or ""):
        raise ValueError("http:// is accepted for loopback addresses only; use https://")
    return given
