"""SQS beyond the contract of carriers: what its faults mean, and where its dead-letter queue may lie."""

from __future__ import annotations

import contextlib
import json
from uuid import uuid4

import pytest

from steward.adapters.sqs import SqsCarrier
from steward.errors import QueueFault, QueueRefused, QueueUnavailable
from steward.queue_values import SqsQueue
from tests.servers.stores import Asked, S3Server, Said, Script


def scripted(script: Script, monkeypatch: pytest.MonkeyPatch) -> SqsCarrier:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    url = f"{script.address}/123456789012/calls"
    return SqsCarrier(SqsQueue(url, script.address, "eu-west-1", "123456789012/calls"))


@pytest.mark.parametrize(
    ("status", "code", "fault"),
    [
        (400, "QueueDoesNotExist", QueueRefused),
        (403, "AccessDenied", QueueRefused),
        (400, "ThrottlingException", QueueUnavailable),
        (400, "ExpiredTokenException", QueueUnavailable),
        (500, "InternalFailure", QueueUnavailable),
        (503, "ServiceUnavailable", QueueUnavailable),
        (302, "", QueueRefused),
    ],
)
def test_a_fault_passes_by_itself_or_does_not(
    script: Script, monkeypatch: pytest.MonkeyPatch, status: int, code: str, fault: type[QueueFault]
) -> None:
    body = json.dumps({"__type": f"com.amazonaws.sqs#{code}", "message": "CANARY"}).encode()
    script.answer = lambda asked: Said(status, {"Location": "http://127.0.0.1:1/"} if status == 302 else {}, body)
    with contextlib.closing(scripted(script, monkeypatch)) as carrier, pytest.raises(fault) as raised:
        carrier.send("x", uuid4())
    assert "CANARY" not in str(raised.value)


def test_an_answer_that_is_garbage_or_none_at_all_is_an_outage(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    script.answer = lambda asked: Said(200, {}, b"<html>")
    with contextlib.closing(scripted(script, monkeypatch)) as carrier, pytest.raises(QueueUnavailable):
        carrier.send("x", uuid4())
    nowhere = SqsQueue("http://127.0.0.1:1/123456789012/calls", "http://127.0.0.1:1", "us-east-1", "x")
    with contextlib.closing(SqsCarrier(nowhere)) as carrier, pytest.raises(QueueUnavailable):
        carrier.send("x", uuid4())


def test_a_batch_of_which_a_part_failed_is_said_again(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(asked: Asked) -> Said:
        failed = [{"Id": "1", "SenderFault": False, "Code": "InternalError"}]
        return Said(200, {}, json.dumps({"Successful": [{"Id": "0"}], "Failed": failed}).encode())

    script.answer = answer
    with contextlib.closing(scripted(script, monkeypatch)) as carrier:
        for ask in (lambda: carrier.done(["a", "b"]), lambda: carrier.hide(["a", "b"], 1)):
            with pytest.raises(QueueUnavailable):
                ask()


@pytest.mark.parametrize(
    "policy",
    [
        "nonsense",
        "[]",
        '{"deadLetterTargetArn": 7}',
        '{"deadLetterTargetArn": "arn:aws:sqs:us-east-1:123456789012:../other"}',
        '{"deadLetterTargetArn": "arn:aws:sqs:us-east-1:123456789012:dead"}',
    ],
)
def test_a_dead_letter_queue_elsewhere_is_refused(script: Script, monkeypatch: pytest.MonkeyPatch, policy: str) -> None:
    """The last one lies in another region."""
    script.answer = lambda asked: Said(200, {}, json.dumps({"Attributes": {"RedrivePolicy": policy}}).encode())
    with contextlib.closing(scripted(script, monkeypatch)) as carrier, pytest.raises(QueueRefused):
        carrier.dead()


def test_without_a_policy_there_is_no_dead_letter_queue(host_role: S3Server) -> None:
    with contextlib.closing(host_role.sqs()) as client:
        url = client.create_queue(QueueName=f"plain-{uuid4().hex}")["QueueUrl"]
    name = url.split("/", 3)[3]
    with contextlib.closing(SqsCarrier(SqsQueue(url, host_role.address, "us-east-1", name))) as carrier:
        assert carrier.dead() is None
        assert carrier.name == name


def test_once_closed_it_connects_no_more(sqs_carrier: SqsCarrier) -> None:
    sqs_carrier.close()
    with pytest.raises(QueueUnavailable):
        sqs_carrier.depth()


def test_what_was_handed_out_is_kept_when_the_next_question_fails(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Asked] = []

    def answer(one: Asked) -> Said:
        asked.append(one)
        if len(asked) > 1:
            return Said(400, {}, b'{"__type":"com.amazonaws.sqs#AccessDenied"}')
        came = [{"ReceiptHandle": f"r{at}", "MessageId": f"m{at}", "Body": "x"} for at in range(10)]
        return Said(200, {}, json.dumps({"Messages": came}).encode())

    script.answer = answer
    with contextlib.closing(scripted(script, monkeypatch)) as carrier:
        assert [each.receipt for each in carrier.receive(20, 0.0, 30)] == [f"r{at}" for at in range(10)]
        with pytest.raises(QueueRefused):
            carrier.receive(20, 0.0, 30)
