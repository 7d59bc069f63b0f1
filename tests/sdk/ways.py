"""The two ways to a provider, and the claim that they are one: same results, same octets at the provider.

It refuses to know any SDK: a test hands in what it would do with a base URL.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TypeVar

from tests.servers.socket_provider import Provider, Received

T = TypeVar("T")


@dataclass(frozen=True)
class Ways:
    """A provider, and a Steward in front of it."""

    provider: Provider
    steward_url: str
    headers: dict[str, str]
    """What every caller sends along, both ways: the key and a tag. A provider never sees them through the Steward."""

    def same(self, call: Callable[[str], T]) -> T:
        """Makes the call directly, then through the Steward; returns the one result that both had."""
        direct, told_directly = self._once(call, self.provider.url)
        steward, told_by_steward = self._once(call, self.steward_url)
        assert steward == direct
        assert len(told_by_steward) == len(told_directly) > 0
        for mine, theirs in zip(told_by_steward, told_directly, strict=True):
            assert_same_request(mine, theirs)
        return steward

    def same_async(self, call: Callable[[str], Coroutine[object, object, T]]) -> T:
        """The same for a coroutine, each in an event loop of its own."""
        return self.same(lambda url: asyncio.run(call(url)))

    def _once(self, call: Callable[[str], T], url: str) -> tuple[T, list[Received]]:
        self.provider.take()
        return call(url), self.provider.take()


def assert_same_request(through: Received, directly: Received) -> None:
    """Promise 1 for what a provider sees: method, raw target, end-to-end fields in order, body octets."""
    assert through.method == directly.method
    assert through.target == directly.target
    assert through.message.end_to_end() == directly.message.end_to_end()
    assert through.message.body == directly.message.body
    assert through.message.ours() == []


def said(error: Exception) -> dict[str, object]:
    """What an application can read of an SDK's exception."""
    response = getattr(error, "response", None)
    fields = response.headers if response is not None else {}
    return {
        "class": type(error).__name__,
        "status": getattr(error, "status_code", getattr(error, "code", None)),
        "message": str(error),
        "body": getattr(error, "body", None),
        "retry-after": fields.get("retry-after"),
        "x-should-retry": fields.get("x-should-retry"),
    }
