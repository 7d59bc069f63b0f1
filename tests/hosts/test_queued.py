"""AFTER_RESPONSE=sqs on Lambda: one function relays and is frozen at once, another settles batches and exports.

The queue is an SQS that checks signatures; who carries batches from it to the second function is the test, as Lambda.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from steward.adapters.postgres_local import LocalPostgres
from steward.exchange import BodyState, Outcome
from steward.queue_values import SqsQueue
from tests.hosts.entries import BUFFERED, Entry, of_sandbox, on_lambda, registered, request_id
from tests.hosts.fronts import Alb
from tests.servers.lambda_sandbox import Sandbox
from tests.servers.plain_http import Request
from tests.servers.provider import Provider
from tests.servers.stores import S3Server

ARN = "arn:aws:sqs:us-east-1:123456789012:calls"
CALL = Request(
    b"POST",
    b"/v1/chat/completions",
    [(b"Authorization", b"Bearer sk-test"), (b"Content-Type", b"application/json")],
    orjson.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "canary-of-a-queue"}]}),
)


@pytest.fixture
def queue(s3_server: S3Server) -> SqsQueue:
    return s3_server.queue()


@pytest.fixture
def functions(
    postgres_server: LocalPostgres, provider: Provider, s3_server: S3Server, queue: SqsQueue, tmp_path: Path
) -> Iterator[tuple[Entry, Sandbox]]:
    """The one that relays, and the one that settles."""
    keys = {"AWS_ACCESS_KEY_ID": s3_server.access_key_id, "AWS_SECRET_ACCESS_KEY": s3_server.secret_access_key}
    queued = {"AFTER_RESPONSE": "sqs", "SQS_QUEUE_URL": queue.url, **keys}
    with registered(postgres_server, tmp_path, provider.url) as (made, butler):
        environ = on_lambda(made.environ, **queued)
        with (
            Sandbox(BUFFERED, environ, tmp_path / "relay") as relay,
            Sandbox("handlers.aws_lambda.settle", environ, tmp_path / "settle") as settle,
        ):
            yield of_sandbox("queued", made, butler, relay, Alb()), settle


def lying_there(server: S3Server, queue: SqsQueue) -> list[dict[str, Any]]:
    """What is in the queue, as records of a batch; all of it is taken out."""
    records = []
    with contextlib.closing(server.sqs()) as client:
        while found := client.receive_message(QueueUrl=queue.url, MaxNumberOfMessages=10).get("Messages"):
            for message in found:
                client.delete_message(QueueUrl=queue.url, ReceiptHandle=message["ReceiptHandle"])
                records.append(
                    {
                        "messageId": message["MessageId"],
                        "receiptHandle": message["ReceiptHandle"],
                        "body": message["Body"],
                        "attributes": {"ApproximateReceiveCount": "1"},
                        "messageAttributes": {},
                        "eventSource": "aws:sqs",
                        "eventSourceARN": ARN,
                        "awsRegion": "us-east-1",
                    }
                )
    return records


def test_calls_are_settled_and_exported_by_the_batch(
    functions: tuple[Entry, Sandbox], s3_server: S3Server, queue: SqsQueue
) -> None:
    """One row and one body each, also when a batch comes twice; a forged message alone is handed back."""
    entry, settle = functions
    calls = []
    for _ in range(3):
        answer = entry.call(CALL)
        assert answer.status == 200
        calls.append(request_id(answer))
        assert entry.sandbox is not None
        entry.sandbox.idle()
    records = lying_there(s3_server, queue)
    assert len(records) == len(calls)
    assert not [record for record in records if "canary-of-a-queue" in record["body"]]
    forged = {**records[0], "messageId": "forged", "body": records[0]["body"][:-8] + "AAAAAAA="}
    event = {"Records": [*records, forged]}
    assert settle.invoke(event) == {"batchItemFailures": [{"itemIdentifier": "forged"}]}
    settle.idle()
    assert settle.invoke({"Records": records}) == {"batchItemFailures": []}
    settle.idle()
    assert {str(record.id) for record in entry.installation.rows()} == set(calls)
    for record in entry.installation.rows():
        assert (record.outcome, record.body_state) == (Outcome.COMPLETE, BodyState.STORED)
        assert entry.exported()[str(record.id)]["body_state"] == "stored"
    assert len([path for path in entry.installation.bodies.rglob("*") if path.is_file()]) == len(calls)
    assert settle.left() == entry.left() == []
