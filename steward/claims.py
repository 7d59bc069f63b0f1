"""Large calls of a queue: their sealed objects to the caller's store before the message, and back from there.

Where an object lies follows from ids and from what is decided here and now, never from a message (SECURITY F19). It
deletes nothing: the consumer's role may not, and a lifecycle rule empties `queued/`.
"""

from __future__ import annotations

from collections.abc import Callable

from steward.errors import BodyNotFound, BodyTooLarge, MessageRefused, MessageWaits, StoreFault, StoreRefused
from steward.exchange import Caller, Exchange
from steward.ports import BodyStore, Place, Put, Stores
from steward.sealed_message import Claim, MessageSealer, queued_key

_BESIDE_BYTES = 4 << 20
"""More than headers, tags and all else of a call take."""


class Claims:
    """Makes messages of calls and calls of messages, by way of the stores where a call is large."""

    def __init__(
        self,
        sealer: MessageSealer,
        stores: Stores,
        most_text: int,
        look: Callable[[], None] = lambda: None,
        most_kept: int | None = None,
    ) -> None:
        """`most_text`: characters of the largest message. `look`: before the stores are asked for a large call's.

        `most_kept`: octets kept of each side of a call, at most; an object is in memory while it is opened, so that of
        a larger call none is read. None: any.
        """
        self._sealer = sealer
        self._stores = stores
        self._most_text = most_text
        self._look = look
        self._most_object = None if most_kept is None else _sealed_bytes(most_kept)

    def message(self, exchange: Exchange) -> Letter:
        """What is to be sent of a call; nobody is asked yet, so it takes no longer than a disk. Reads the call's files.

        Raises OSError.
        """
        text = self._sealer.whole(exchange, self._most_text)
        return Letter(self._sealer, self._place, exchange, text)

    def open(self, message: str | bytes) -> Exchange:
        """The call that a message holds, or speaks of.

        Raises MessageRefused for what is not ours or not as it was, MessageWaits when its object cannot be had now, and
        OSError when the disk has no room for it.
        """
        found = self._sealer.open(message)
        return found if isinstance(found, Exchange) else self._fetched(found)

    def _place(self, caller: Caller) -> Place | None:
        """Where a large call's object goes now. Raises what `look` raises."""
        self._look()
        return self._stores.of(caller)

    def _fetched(self, claim: Claim) -> Exchange:
        """From the store that took it, as long as that is in force; else from where the caller's bodies go now."""
        if self._most_object is not None and claim.size_bytes > self._most_object:
            raise MessageRefused("too_large")
        held = self._stores.holding(claim.caller.org_id, claim.config_id)
        place = self._stores.of(claim.caller)
        stores = [held] if held is not None else []
        if place is not None and place.store is not held:
            stores.append(place.store)
        waits = MessageWaits("no_store")
        for store in stores:
            try:
                octets = _got(store, claim)
            except MessageWaits as exc:
                waits = exc
            else:
                return self._sealer.open_object(claim, octets)
        raise waits


class Letter:
    """One call on its way into the queue: sealed, so that its own files are needed no more."""

    def __init__(
        self, sealer: MessageSealer, place: Callable[[Caller], Place | None], exchange: Exchange, text: str | None
    ) -> None:
        self._sealer = sealer
        self._text = text
        self._place = place
        self._id, self._caller, self._at = exchange.id, exchange.caller, exchange.requested_at
        self._object = sealer.object(exchange) if text is None else None

    def text(self) -> str | None:
        """The message. A large call's object is stored first; None when no store takes it.

        Waits for the database and the store, however long they take. Raises what `look` raises.
        """
        if self._text is not None or self._object is None or (place := self._place(self._caller)) is None:
            return self._text
        sealed = self._object
        key = queued_key(self._caller.org_id, self._at, self._id)
        [result] = place.store.put_many([Put(key, sealed.source, sealed.sha256, sealed.size_bytes)])
        if result.ref is None:
            return None
        config_id = place.config_id
        claim = Claim(self._id, self._caller, self._at, config_id, sealed.sha256, sealed.size_bytes, sealed.key)
        self._text = self._sealer.claim(claim)
        return self._text

    def close(self) -> None:
        """Gives the object's file back."""
        if self._object is not None:
            self._object.source.close()


def _sealed_bytes(most_kept: int) -> int:
    """The largest object of a call of which so much is kept of each side: both, their tags, and what is beside them."""
    return 2 * most_kept + (most_kept >> 10) + _BESIDE_BYTES


def _got(store: BodyStore, claim: Claim) -> bytes:
    """No more than the claim speaks of is read."""
    try:
        return store.get(claim.object_key, claim.size_bytes)
    except BodyNotFound as exc:
        raise MessageWaits("object_missing") from exc
    except BodyTooLarge as exc:
        raise MessageRefused("another_object") from exc
    except StoreRefused as exc:
        raise MessageWaits("store_refused") from exc
    except StoreFault as exc:
        raise MessageWaits("store_unavailable") from exc
