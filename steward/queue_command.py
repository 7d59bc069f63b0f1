"""`steward queue ...`: how much waits between relays and whoever settles, and what was set aside, sent back.

It shows ids and codes, opens messages to see whether they are ours, and shows nothing of what they say.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from uuid import UUID

from steward.carrier import Carrier, Delivery
from steward.errors import MessageRefused, StewardError
from steward.exchange import Exchange
from steward.printing import as_json
from steward.sealed_message import MessageSealer
from steward.settings import Settings
from steward.wiring.commands import open_carrier

NO_DEAD_LETTERS = (
    "The queue has no dead-letter queue. SQS: give it a RedrivePolicy; Pub/Sub: set PUBSUB_DEAD_LETTER_SUBSCRIPTION."
)
_AT_ONCE = 10
_HIDDEN_S = 120
_WAIT_S = 2.0
_SAID_EVERY = 100
_TURNS = 3
_FEW = 100
"""Less than `_TURNS` times so many, or times what was looked at where that is more, is a queue's usual repetition."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which dead letters."""

    most: int | None = None
    """None: all."""
    dry_run: bool = False
    wait_s: float = _WAIT_S
    """How long the queue is asked at a time."""


@dataclass(slots=True)
class Redriven:
    """What became of the messages of a dead-letter queue."""

    moved: int = 0
    stay: list[tuple[str, str]] = field(default_factory=list)
    """Those that do not open: the queue's name for each, and why."""
    more: bool = False
    """So many were moved as were wanted; whether others are left was not looked at."""


def depth(settings: Settings, json: bool) -> int:
    """Messages in the queue and in its dead-letter queue, hidden ones too."""
    with ExitStack() as undo:
        carrier, _ = open_carrier(settings, undo)
        dead = carrier.dead()
        if dead is not None:
            undo.callback(dead.close)
        counts = {"queue": carrier.depth(), "dead_letters": None if dead is None else dead.depth()}
    if json:
        sys.stdout.write(as_json(counts))
        return 0
    print(f"queue         {_shown(counts['queue'])}")
    print(f"dead letters  {'there is no dead-letter queue' if dead is None else _shown(counts['dead_letters'])}")
    return 0


def redrive(settings: Settings, most: int | None, dry_run: bool, json: bool) -> int:
    """Sends back what opens; 1 when something does not, which stays where it is."""
    with ExitStack() as undo:
        carrier, sealer = open_carrier(settings, undo)
        dead = carrier.dead()
        if dead is None:
            raise StewardError(NO_DEAD_LETTERS)
        undo.callback(dead.close)
        redriven = redrive_all(carrier, dead, sealer, Wanted(most, dry_run))
    if json:
        stay = [{"message_id": message_id, "code": code} for message_id, code in redriven.stay]
        sys.stdout.write(as_json({"moved": redriven.moved, "dry_run": dry_run, "stay": stay}))
        return 1 if redriven.stay else 0
    print(told(redriven, dry_run))
    return 1 if redriven.stay else 0


def redrive_all(carrier: Carrier, dead: Carrier, sealer: MessageSealer, wanted: Wanted = Wanted()) -> Redriven:
    """From `dead` to `carrier`: sent first, then taken away, so that one is rather there twice than lost.

    Goes on until none comes any more, or so many were moved. Raises QueueFault.
    """
    redriven = Redriven()
    seen: set[str] = set()
    staying: dict[str, str] = {}
    """The newest receipt of each that stays: by an older one a queue gives nothing back."""
    repeated = 0
    """Deliveries in a row of what was looked at already."""
    try:
        while (left := _AT_ONCE if wanted.most is None else wanted.most - redriven.moved) > 0:
            deliveries = dead.receive(min(_AT_ONCE, left), wanted.wait_s, _HIDDEN_S)
            if not deliveries:
                return redriven
            for delivery in deliveries:
                if delivery.message_id in seen:
                    repeated += 1
                    _look_again(dead, delivery, staying)
                    continue
                repeated = 0
                seen.add(delivery.message_id)
                call_id = _opens(sealer, delivery, redriven)
                if call_id is not None and not wanted.dry_run:
                    carrier.send(delivery.text, call_id)
                    dead.done([delivery.receipt])
                else:
                    staying[delivery.message_id] = delivery.receipt
                _say_progress(len(seen))
            if repeated >= _TURNS * max(len(seen), _FEW):  # what is hidden comes back in time: there is nothing else
                return redriven
        redriven.more = True
    finally:
        dead.hide(list(staying.values()), 0)
    return redriven


def _look_again(dead: Carrier, delivery: Delivery, staying: dict[str, str]) -> None:
    """One that stays is hidden once more; one that went is there again (a queue may do that), and is taken away."""
    if delivery.message_id in staying:
        staying[delivery.message_id] = delivery.receipt
    else:
        dead.done([delivery.receipt])


def told(redriven: Redriven, dry_run: bool) -> str:
    """For people; the last line says how it ended."""
    lines = [f"{redriven.moved} messages {'would go' if dry_run else 'went'} back to the queue."]
    lines += [f"{message_id}  stays: {code}" for message_id, code in redriven.stay]
    return "\n".join([*lines, _how_it_ended(redriven, dry_run)])


def _how_it_ended(redriven: Redriven, dry_run: bool) -> str:
    if redriven.more:
        return "Stopped: as many as were asked for; there may be more dead letters."
    if dry_run:
        return "All dead letters were looked at; none was moved."
    if redriven.stay:
        return f"All dead letters were looked at; {len(redriven.stay)} stay."
    return "The dead-letter queue is empty."


def _opens(sealer: MessageSealer, delivery: Delivery, redriven: Redriven) -> UUID | None:
    """The call's id; None when it is not ours."""
    try:
        call = sealer.open(delivery.text)
    except MessageRefused as exc:
        redriven.stay.append((delivery.message_id, exc.reason))
        return None
    if isinstance(call, Exchange):
        call.request.close()
        call.response.close()
    redriven.moved += 1
    return call.id


def _say_progress(seen: int) -> None:
    if seen % _SAID_EVERY == 0:
        print(f"{seen} messages looked at", file=sys.stderr)


def _shown(count: int | None) -> str:
    return "not told; see num_undelivered_messages in Cloud Monitoring" if count is None else f"{count:,}"
