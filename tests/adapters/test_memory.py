"""The implementations in memory, beyond the contracts: what they keep for a test to look at."""

from __future__ import annotations

import asyncio
import tempfile
from uuid import UUID

from steward.adapters.memory import MemoryAfterResponse, MemoryDirectory
from steward.exchange import Body, Caller, Dialect, Exchange, Operation, Outcome, Route
from tests.contracts.records import KEY, NOON, ORG


def an_exchange(outcome: Outcome, response: Body | None = None) -> Exchange:
    route = Route("openai", Dialect.OPENAI, Operation.CHAT, "/v1/chat/completions", b"/v1/chat/completions")
    return Exchange(UUID(int=1), Caller(KEY, ORG), route, NOON, "POST", outcome, response=response or Body())


def test_it_keeps_what_was_intended_and_what_was_submitted_and_closes_files() -> None:
    after = MemoryAfterResponse()
    with tempfile.TemporaryFile() as file:
        intent = an_exchange(Outcome.INTERRUPTED)
        ended = an_exchange(Outcome.COMPLETE, Body(file=file))
        after.intend(intent)
        assert after.submit(ended) is None
        assert (after.intended, after.submitted) == ([intent], [ended])
        asyncio.run(after.close())
        assert file.closed
    asyncio.run(after.close())


def test_every_installation_has_secrets_of_its_own() -> None:
    one, two = MemoryDirectory(), MemoryDirectory()
    assert one.instance_secret("provider_key_hash") != two.instance_secret("provider_key_hash")
