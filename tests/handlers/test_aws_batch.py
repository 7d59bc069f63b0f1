"""A batch of SQS and its partial failures, as Lambda reads them."""

from __future__ import annotations

import io
from typing import Any

import pytest

from handlers.aws_batch import partial_failures
from tests.said import listening


def batch(*names: str) -> dict[str, Any]:
    return {"Records": [{"messageId": name, "body": f"body-{name}", "eventSource": "aws:sqs"} for name in names]}


@pytest.mark.parametrize(
    ("said", "failed"),
    [
        ({"a": None, "b": None}, []),
        ({"a": None, "b": "sealed_otherwise"}, ["b"]),
        ({"a": "x", "b": "y"}, ["a", "b"]),
        ({"a": None}, ["b"]),
        ({}, ["a", "b"]),
    ],
)
def test_those_that_are_not_settled_come_again(said: dict[str, str | None], failed: list[str]) -> None:
    handed: list[Any] = []

    def settle(messages: Any) -> dict[str, str | None]:
        handed.append(list(messages))
        return said

    with listening() as heard:
        answer = partial_failures(batch("a", "b"), settle)
    assert [each["itemIdentifier"] for each in answer["batchItemFailures"]] == failed
    assert handed == [[("a", "body-a"), ("b", "body-b")]], "in one batch"
    assert "body-" not in heard.text


def test_an_empty_batch_is_settled() -> None:
    assert partial_failures({"Records": []}, lambda messages: {}) == {"batchItemFailures": []}


@pytest.mark.parametrize(
    "event",
    [
        None,
        {},
        [],
        {"Records": None},
        {"Records": [1]},
        {"Records": [{"eventSource": "aws:s3"}]},
        {"requestContext": {}},
    ],
)
def test_what_is_no_batch_is_told_so(event: Any) -> None:
    with listening() as heard, pytest.raises(TypeError, match="handlers.aws_lambda.handler"):
        partial_failures(event, lambda messages: {})
    assert heard.events() == ["event_unknown"] and isinstance(heard.stream, io.BytesIO)
