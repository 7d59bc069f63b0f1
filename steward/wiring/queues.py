"""The queue of AFTER_RESPONSE=sqs|pubsub, what opens and makes its messages, and its reader.

It connects to nothing: the first message does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from steward.carrier import Carrier
from steward.claims import Claims
from steward.errors import SettingError
from steward.ports import Stores
from steward.seal import Keyring
from steward.sealed_message import MessageSealer
from steward.settings import Settings
from steward.wiring.way_out import outward_tls, proxy_towards

if TYPE_CHECKING:
    from steward.adapters.queue_reader import QueueReader

_NO_QUEUE = "AFTER_RESPONSE: calls go through no queue; it is neither sqs nor pubsub."

Look = Callable[[], None]


def open_queue(settings: Settings) -> Carrier:
    """The queue itself. Raises SettingError where none is set."""
    if settings.after_response == "sqs" and settings.sqs_queue_url is not None:
        from steward.adapters.sqs import SqsCarrier

        return SqsCarrier(settings.sqs_queue_url)
    if settings.after_response == "pubsub" and settings.pubsub_topic is not None:
        return _open_pubsub(settings)
    raise SettingError(_NO_QUEUE)


def _open_pubsub(settings: Settings) -> Carrier:
    from steward.adapters.pubsub import GOOGLE, PubsubCarrier, PubsubPlace, PubsubWay

    place = PubsubPlace(
        settings.pubsub_topic,
        settings.pubsub_subscription,
        settings.pubsub_dead_letter_subscription,
        settings.pubsub_emulator_host,
    )
    if place.emulator is not None:
        return PubsubCarrier(place)
    return PubsubCarrier(place, PubsubWay(outward_tls(settings), proxy_towards(GOOGLE, settings)))


def queue_name(settings: Settings) -> str:
    """What its messages are bound to: an SQS queue's region, account and name; a topic's name.

    Raises SettingError where none is set.
    """
    queue = settings.sqs_queue_url
    if settings.after_response == "sqs" and queue is not None:
        return f"sqs:{queue.region}:{queue.name}"
    if settings.after_response == "pubsub" and settings.pubsub_topic is not None:
        return f"pubsub:{settings.pubsub_topic}"
    raise SettingError(_NO_QUEUE)


def queue_sealer(settings: Settings, keyring: Keyring) -> MessageSealer:
    """What makes and opens its messages."""
    return MessageSealer(keyring, queue_name(settings))


def queue_claims(settings: Settings, keyring: Keyring, stores: Stores, look: Look) -> Claims:
    """The same, by way of the stores where a call is large."""
    sealer = queue_sealer(settings, keyring)
    return Claims(sealer, stores, settings.queue_message_max_bytes, look, settings.capture_max_bytes)


def open_reader(settings: Settings, keyring: Keyring, stores: Stores, refused: Callable[[str], None]) -> QueueReader:
    """The settler's end. It asks nothing before it is started. `refused`: see QueueReader."""
    from steward.adapters.queue_reader import QueueReader

    if settings.after_response == "pubsub" and settings.pubsub_subscription is None:
        raise SettingError("PUBSUB_SUBSCRIPTION: not set; who settles pulls from it.")
    claims = queue_claims(settings, keyring, stores, lambda: None)
    return QueueReader(open_queue(settings), claims, refused)
