"""Makes a ledger row and a body object of each exchange: meter -> price -> store -> record.

Safe to run twice on the same exchange: the object has the same octets under the same key, and the ledger knows the row.
It never delays a caller (it runs after the last byte), never lets one poison exchange spoil a batch, and says one
canonical line a call, from the metering step, which needs neither database nor bucket.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from uuid import UUID

from steward import domains, log
from steward.body_object import BodyObject, build, object_key
from steward.errors import LedgerFault
from steward.exchange import BodyState, Cost, Exchange, Intent, Metered, Operation, Outcome, Record, UsageSource
from steward.meter import meter
from steward.metrics import CallMetrics
from steward.ports import Ledger, Place, Put, PutResult, Refused, Stores
from steward.price import PriceBook
from steward.providers import TEMPLATES

_OBJECTS_AT_ONCE = 64
_OK = range(200, 300)
_TIER = 40
_CLIENT = 256
_NAME = 256
_TAG = 64


@dataclass(slots=True, eq=False)
class Settling:
    """One exchange on its way to its row."""

    exchange: Exchange
    record: Record
    metered: Metered
    cost: Cost | None
    body: BodyObject | None = None
    refused: str | None = None
    """What the store said when it last refused the body: trying again soon does not help."""
    broken: bool = False
    """No object can be built of what was captured, now or later."""

    def close(self) -> None:
        """Gives back the files of the exchange and of its object."""
        _give_back(self.exchange)
        self.let_go_of_object()

    def let_go_of_object(self) -> None:
        """Gives back the object alone. Safe to call twice."""
        if self.body is not None:
            self.body.close()
            self.body = None

    def keep_object_alone(self) -> None:
        """Lets go of what the object was built of: what waits for its store must not hold the call twice."""
        if self.body is not None:
            _give_back(self.exchange)
            self.exchange.request.data = self.exchange.response.data = b""

    @property
    def held_bytes(self) -> int:
        """Octets of bodies and object in memory."""
        held = 0 if self.body is None or not isinstance(self.body.source, bytes) else len(self.body.source)
        return held + len(self.exchange.request.data) + len(self.exchange.response.data)


class Settler:
    """The stages after the last byte, with what they need. Each stage may have a thread of its own."""

    def __init__(
        self,
        ledger: Ledger,
        stores: Stores,
        prices: Callable[[], PriceBook],
        keep_bodies: bool = True,
        metrics: CallMetrics | None = None,
    ) -> None:
        self._ledger = ledger
        self._stores = stores
        self._prices = prices
        self._keep_bodies = keep_bodies
        self.metrics = metrics or CallMetrics()

    def settle(self, batch: Sequence[Exchange]) -> list[Settling]:
        """All stages for a batch. Rows whose body the store could not take now come back `pending`, files open.

        Raises LedgerUnavailable, SchemaTooOld: run it again with the same batch, whose files are open still.
        """
        settling = self.metered(batch)
        self.store(settling)
        self.record([each.record for each in settling])
        for each in settling:
            if each.record.body_state is not BodyState.PENDING:
                each.close()
        return settling

    def metered(self, batch: Sequence[Exchange], counted: bool = True) -> list[Settling]:
        """The metering step for a batch. An exchange that cannot even be read is set aside, alone, and said.

        Not `counted`: the caller does so, by `count`.
        """
        settling: list[Settling] = []
        for exchange in batch:
            try:
                settling.append(self.meter(exchange, counted=counted))
            except Exception as exc:
                log.error("exchange_poisoned", exc, id=exchange.id)
                self.metrics.poisoned()
                _give_back(exchange)
        return settling

    def meter(self, exchange: Exchange, again: bool = False, counted: bool = True) -> Settling:
        """Tokens, cost and the row so far; says the call's one line and counts it, unless it is metered `again`."""
        metered = meter(exchange)
        book = self._prices()
        cost = None
        if exchange.route.operation is not Operation.RESPONSES_RETRIEVE:
            # What is read again was paid for when it was made: its tokens are told, and no price is put on them.
            cost = book.cost(exchange.route.provider, metered, exchange.requested_at)
        known = exchange.status in _OK or (
            metered.model is not None and book.knows(metered.model, exchange.route.provider)
        )
        record = row(exchange, metered, cost, known, self._first_state(exchange))
        if not again:
            log.call(exchange, metered, cost, record.model, record.body_state)
            if counted:
                self.metrics.count(exchange, metered, cost, record)
        return Settling(exchange, record, metered, cost)

    def intent(self, intent: Intent) -> Record:
        """The row of a call whose outcome is not known yet; should the process die, it is the last word."""
        exchange = Exchange(
            id=intent.id,
            caller=intent.caller,
            route=intent.route,
            requested_at=intent.requested_at,
            method=intent.method,
            outcome=Outcome.INTERRUPTED,
        )
        state = self._first_state(exchange)
        state = BodyState.LOST if state is BodyState.PENDING else state
        return row(exchange, Metered(UsageSource.NONE), None, False, state)

    def _first_state(self, exchange: Exchange) -> BodyState:
        if exchange.route.secretive or self.place(exchange) is None:
            return BodyState.NONE
        if not self._keep_bodies:
            return BodyState.OFF
        return BodyState.SHED if exchange.bodies_shed else BodyState.PENDING

    def place(self, exchange: Exchange) -> Place | None:
        """Where the body of this exchange goes, as things stand now."""
        return self._stores.of(exchange.caller)

    def stores_changed(self) -> int:
        """A number that grows with every change of where bodies go."""
        return self._stores.changes()

    def store(self, settling: Sequence[Settling]) -> None:
        """Puts the bodies that wait: each row becomes `stored` or `failed`, or stays `pending` when to try again.

        One that cannot be built or is refused is `failed`, alone. Files of exchanges stay open.
        """
        waiting = [each for each in settling if each.record.body_state is BodyState.PENDING]
        for at in range(0, len(waiting), _OBJECTS_AT_ONCE):
            some = waiting[at : at + _OBJECTS_AT_ONCE]
            self.put(some)
            for each in some:
                if each.broken:
                    give_up(each, BodyState.FAILED)
                elif each.refused is not None:
                    each.record = replace(each.record, body_state=BodyState.FAILED)
                    each.let_go_of_object()

    def put(self, settling: Sequence[Settling]) -> None:
        """Puts these bodies once, all at a time, for who can wait: each row becomes `stored` or stays `pending`.

        Of those that stay, `refused` and `broken` say why it may be for good. Where each goes is decided now: what was
        approved or changed since it was metered counts.
        """
        by_place: dict[Place, list[tuple[Settling, Put]]] = {}
        for each in settling:
            try:
                body = each.body or build(each.exchange)
            except OSError as exc:  # the temporary folder is full, or no file can be opened: try again
                log.error("body_not_built", exc, id=each.record.id)
                continue
            except Exception as exc:  # what was captured of this one cannot be read, now or later
                log.error("body_not_built", exc, id=each.record.id)
                each.broken = True
                continue
            each.body = body
            put = Put(object_key(each.exchange), body.source, body.sha256, body.size_bytes)
            place = self.place(each.exchange)
            if place is None:
                self._take(each, PutResult(None, refused=True, code="NoStore"), None)
            else:
                by_place.setdefault(place, []).append((each, put))
        for place, puts in by_place.items():
            results = place.store.put_many([put for _, put in puts])
            for (each, _), result in zip(puts, results, strict=True):
                self._take(each, result, place)

    def _take(self, settling: Settling, result: PutResult, place: Place | None) -> None:
        _take_result(settling, result, place)
        self.metrics.put(result)

    def record(self, records: Sequence[Record]) -> list[Refused]:
        """One statement for the batch. A row that is refused is said, alone. Raises LedgerUnavailable, SchemaTooOld."""
        try:
            refused = self._ledger.record(records)
        except LedgerFault:
            self.metrics.not_written()
            raise
        for row_refused in refused:
            log.say("row_refused", logging.ERROR, id=row_refused.id, sqlstate=row_refused.sqlstate)
        self.metrics.written(records, len(refused))
        return refused

    def known(self, settling: Sequence[Settling]) -> set[UUID]:
        """Those that have a row already. Raises LedgerUnavailable, SchemaTooOld."""
        calls: dict[UUID, list[UUID]] = {}
        for each in settling:
            calls.setdefault(each.record.org_id, []).append(each.record.id)
        return set[UUID]().union(*(self._ledger.known(org_id, ids) for org_id, ids in calls.items()))

    def count(self, settling: Settling) -> None:
        """Counts a call that was metered without it."""
        self.metrics.count(settling.exchange, settling.metered, settling.cost, settling.record)

    def record_apart(self, records: Sequence[Record]) -> None:
        """The same; but a row that the ledger breaks on, while it takes others, is set aside alone, and said.

        Raises LedgerUnavailable, SchemaTooOld: then none may be in.
        """
        if not records:
            return
        try:
            self.record(records)
        except LedgerFault:
            raise
        except Exception as exc:  # no adapter promises it: one row may be poison to all
            fault = exc
        else:
            return
        broken: list[tuple[Record, Exception]] = []
        for each in records:
            try:
                self.record([each])
            except LedgerFault:
                raise
            except Exception as exc:
                broken.append((each, exc))
        if len(broken) == len(records):
            raise fault
        for each, reason in broken:
            log.error("row_poisoned", reason, id=each.id)


def _take_result(settling: Settling, result: PutResult, place: Place | None) -> None:
    ref = result.ref
    if ref is None:
        settling.refused = (result.code or "refused") if result.refused else None
        event = "body_refused" if result.refused else "body_not_stored_yet"
        if result.code is not None:
            log.say(event, logging.WARNING, id=settling.record.id, vendor_code=result.code)
        else:
            log.say(event, logging.WARNING, id=settling.record.id)
        return
    settling.refused = None
    settling.record = replace(
        settling.record,
        body_state=BodyState.STORED,
        body_key=ref.key,
        body_url=ref.url,
        body_sha256=ref.sha256,
        body_bytes=ref.size_bytes,
        storage_config_id=None if place is None else place.config_id,
    )
    settling.let_go_of_object()


def row(exchange: Exchange, metered: Metered, cost: Cost | None, known: bool, body_state: BodyState) -> Record:
    """The ledger row of an exchange; every text is cleaned and in its domain (SECURITY F3), every number in its range.

    `known`: the model stands in the price book, or the provider answered 2xx.
    """
    usage = metered.usage
    timings = exchange.timings
    last_us = timings.last_byte_us
    return Record(
        id=exchange.id,
        org_id=exchange.caller.org_id,
        api_key_id=exchange.caller.key_id,
        user_id=exchange.caller.user_id,
        registration_id=exchange.caller.registration_id,
        provider=exchange.route.provider,
        request_path=domains.route_template(exchange.route.template, TEMPLATES),
        request_method=domains.method(exchange.method),
        requested_at=exchange.requested_at,
        outcome=exchange.outcome,
        body_state=body_state,
        usage_source=metered.source,
        provider_api_key_hash=exchange.provider_api_key_hash,
        provider_api_key_alias=_text(exchange.provider_api_key_alias, _NAME),
        model=domains.model_name(metered.model, known),
        responded_at=exchange.requested_at + timedelta(microseconds=last_us) if last_us is not None else None,
        response_time_ms=_ms(last_us),
        ttft_ms=_ms(timings.first_byte_us) if metered.streamed else None,
        sent_us=timings.sent_us,
        head_us=timings.head_us,
        first_byte_us=timings.first_byte_us,
        last_byte_us=last_us,
        input_tokens=usage.input_tokens if usage else None,
        output_tokens=usage.output_tokens if usage else None,
        cached_tokens=usage.cached_tokens if usage else None,
        cache_creation_tokens=usage.cache_creation_tokens if usage else None,
        reasoning_tokens=usage.reasoning_tokens if usage else None,
        input_cost=cost.input_usd if cost else None,
        output_cost=cost.output_usd if cost else None,
        total_cost=cost.total_usd if cost else None,
        provider_cost=metered.provider_cost_usd,
        price_source=cost.source if cost else None,
        model_alias_found=cost.alias_found if cost else False,
        service_tier=_text(metered.service_tier, _TIER),
        streamed=metered.streamed,
        status_code=exchange.status,
        error_message=metered.error,
        tags={_tag(name): domains.clean_text(value, domains.MAX_TAG_CHARS) for name, value in exchange.tags.items()},
        tags_dropped=exchange.tags_dropped,
        client=_text(exchange.client, _CLIENT),
        claude_session_id=_text(exchange.claude_session_id, _NAME),
        claude_session_name=_text(exchange.claude_session_name, _NAME),
        request_bytes=exchange.request.size_bytes,
        response_bytes=exchange.response.size_bytes,
        truncated=exchange.request.truncated or exchange.response.truncated,
    )


def _tag(name: str) -> str:
    return domains.clean_text(name, _TAG)


def _text(text: str | None, limit: int) -> str | None:
    return domains.clean_text(text, limit) if text is not None else None


def _ms(us: int | None) -> int | None:
    return (us + 500) // 1000 if us is not None else None


def give_up(settling: Settling, state: BodyState) -> Record:
    """The body will not be stored any more; the row says so.

    `failed` or `shed`: what is `pending` in the ledger never becomes `lost` there (DESIGN 10).
    """
    settling.record = replace(settling.record, body_state=state)
    settling.close()
    return settling.record


def _give_back(exchange: Exchange) -> None:
    exchange.request.close()
    exchange.response.close()
