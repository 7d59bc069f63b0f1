"""The ways to the providers."""

from __future__ import annotations

from steward.adapters.httpx_upstream import HttpxUpstream
from steward.forward import Pool
from steward.wiring.relay import build
from tests.services import run, settings


def test_calls_go_through_the_egress_proxy_but_for_hosts_that_are_spared() -> None:
    found = settings(
        HTTPS_PROXY="http://proxy.internal:3128",
        NO_PROXY="anthropic.com",
        OPENAI_BASE_URL="https://api.openai.com",
        ANTHROPIC_BASE_URL="https://api.anthropic.com",
        GEMINI_BASE_URL="http://127.0.0.1:9/gemini",
    )
    services = build(found)
    kinds = {name: type(services.stages.upstream(origin)) for name, origin in found.origins.items()}
    assert kinds["openai"] is HttpxUpstream
    assert kinds["anthropic"] is Pool
    assert set(map(type, services.upstreams)) == {HttpxUpstream, Pool}

    async def story() -> None:
        assert services.ready() == "database"

    run(services, story)
    direct = build(settings())
    assert [type(upstream) for upstream in direct.upstreams] == [Pool]
    run(direct, story)
