"""A batch of SQS, as Lambda hands it over, and which of its messages are to come again: by Powertools' batch processor.

It opens no message. Of a fault only our own word is said; what the processor raises or logs holds no more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType

from steward import log

Settle = Callable[[Sequence[tuple[str, str | bytes]]], dict[str, str | None]]


class NotSettled(Exception):
    """One message is to come again."""


def partial_failures(event: Any, settle: Settle) -> dict[str, Any]:
    """`{"batchItemFailures": [...]}`, of the messages that `settle` did not take.

    The queue must ask for it (FunctionResponseTypes: ReportBatchItemFailures). Raises TypeError for what is no batch.
    """
    records = event.get("Records") if isinstance(event, dict) else None
    if not isinstance(records, list) or not all(_is_message(record) for record in records):
        log.say("event_unknown", logging.ERROR)
        raise TypeError("no batch of SQS messages: requests are for handlers.aws_lambda.handler")
    said = settle([(record["messageId"], record["body"]) for record in records]) if records else {}

    def one(record: dict[str, Any]) -> None:
        if said.get(record["messageId"], "unanswered") is not None:
            raise NotSettled

    processor = BatchProcessor(EventType.SQS, raise_on_entire_batch_failure=False)
    with processor(records, one):
        processor.process()
    return dict(processor.response())


def _is_message(record: object) -> bool:
    return (
        isinstance(record, dict)
        and record.get("eventSource") == "aws:sqs"
        and isinstance(record.get("messageId"), str)
        and isinstance(record.get("body"), str)
    )
