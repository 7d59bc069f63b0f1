"""How queues and a cloud's own callers are named in the settings."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from steward import queue_values
from steward.queue_values import SqsQueue, shown_sqs_queue, sqs_queue

URL = "https://sqs.eu-central-1.amazonaws.com/123456789012/calls"


@pytest.mark.parametrize(
    ("url", "region"),
    [
        (URL, "eu-central-1"),
        ("https://sqs-fips.us-east-1.amazonaws.com/123456789012/calls", "us-east-1"),
        ("https://sqs.cn-north-1.amazonaws.com.cn/123456789012/calls", "cn-north-1"),
        ("https://vpce-0abc-xyz.sqs.eu-west-1.vpce.amazonaws.com/123456789012/calls", "eu-west-1"),
    ],
)
def test_a_queue_of_amazon_s_says_its_region(url: str, region: str) -> None:
    assert sqs_queue(url).region == region


def test_a_queue_is_known_by_account_and_name() -> None:
    queue = sqs_queue(URL)
    assert queue == SqsQueue(URL, "https://sqs.eu-central-1.amazonaws.com", "eu-central-1", "123456789012/calls")
    assert shown_sqs_queue(queue) == URL


def test_a_stand_in_on_loopback_is_a_queue() -> None:
    assert sqs_queue("http://127.0.0.1:5000/123456789012/calls").endpoint == "http://127.0.0.1:5000"


WRONG: list[tuple[Callable[[str], object], str]] = [
    *(
        (queue_values.sqs_queue, given)
        for given in [
            "http://sqs.eu-central-1.amazonaws.com/123456789012/calls",
            "https://sqs.eu-central-1.amazonaws.com.evil.example/123456789012/calls",
            "https://evil.example/123456789012/calls",
            "https://10.0.0.1/123456789012/calls",
            "https://sqs.eu-central-1.amazonaws.com/calls",
            "https://sqs.eu-central-1.amazonaws.com/123456789012/../calls",
            f"{URL}?Action=DeleteQueue",
            f"{URL}\n",
            "",
        ]
    ),
    *(
        (queue_values.topic, given)
        for given in [
            "calls",
            "projects/p/topics/calls",
            "projects/my-project/topics/x/y",
            "projects/my-project/topics/a\n",
        ]
    ),
    (queue_values.subscription, "projects/my-project/topics/calls"),
    (queue_values.subscription, "projects/my-project/subscriptions/../../v1"),
    (queue_values.emulator, "pubsub.googleapis.com:443"),
    (queue_values.emulator, "localhost"),
    (queue_values.emulator, "http://localhost:8085"),
    (queue_values.service_account, "someone@example.com"),
    (queue_values.service_account, "a@b.gserviceaccount.com.evil.example"),
    (queue_values.service_account, "*@my-project.iam.gserviceaccount.com"),
    (queue_values.audience, "http://steward.example.com"),
    (queue_values.audience, "steward"),
]


@pytest.mark.parametrize(("parse", "given"), WRONG)
def test_what_names_none_is_refused_without_repeating_it(parse: Callable[[str], object], given: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the sentence is looked at below
        parse(given)
    assert not given or given not in str(refused.value)


@pytest.mark.parametrize(
    ("parse", "given"),
    [
        (queue_values.topic, "projects/my-project/topics/calls"),
        (queue_values.subscription, "projects/my-project/subscriptions/calls-pull"),
        (queue_values.emulator, "localhost:8085"),
        (queue_values.emulator, "127.0.0.1:8085"),
        (queue_values.service_account, "tasks@my-project.iam.gserviceaccount.com"),
        (queue_values.audience, "https://steward-abc.a.run.app/tasks/settle"),
        (queue_values.audience, "http://127.0.0.1:8080/tasks/settle"),
    ],
)
def test_what_names_one_is_kept_as_it_is(parse: Callable[[str], object], given: str) -> None:
    assert parse(given) == given
