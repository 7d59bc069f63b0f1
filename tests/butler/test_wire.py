"""The Steward's protocol, server side: literal requests of the original, ours, and those of whoever has no business."""

from __future__ import annotations

import json
from datetime import timedelta
from uuid import uuid4

import pytest

from steward.butler.app import create_butler
from steward.egress import MetadataRecord
from steward.words import Secret
from tests.butler.browser import Asker
from tests.servers.butler import ButlerBench, Tenant

ORIGINAL_RECORD = """{"id":"8f14e45f-ceea-467f-a2d5-1f3b9e0c7a11","user_id":"0d4b2f0a-5c37-4e57-9c52-6e2b8f4f9d10",
"majordomo_api_key_id":"5f2d7c1e-9d7b-4f0b-8d0b-3a9b4f1c2d3e","provider_api_key_hash":"%s",
"provider":"openai","model":"gpt-4o-2024-08-06","request_path":"/v1/chat/completions","request_method":"POST",
"requested_at":"2026-11-18T11:59:58.123456Z","responded_at":"2026-11-18T11:59:59.5Z","response_time_ms":1377,
"input_tokens":1200,"output_tokens":80,"cached_tokens":0,"cache_creation_tokens":0,"input_cost":0.003,
"output_cost":0.0008,"total_cost":0.0038,"status_code":200,"raw_metadata":{"Team":"growth","User-Id":"u-7"},
"indexed_metadata":{"Team":"growth"},"body_s3_key":
"5f2d7c1e-9d7b-4f0b-8d0b-3a9b4f1c2d3e/2026-11-18/8f14e45f-ceea-467f-a2d5-1f3b9e0c7a11.json.gz",
"model_alias_found":true}""" % ("ab" * 32)
"""As the original writes it: no revision, no sources, numbers as they are."""


@pytest.fixture
def acme(butler: ButlerBench) -> Tenant:
    return butler.tenant("acme")


def steward(butler: ButlerBench, tenant: Tenant) -> Asker:
    asker = Asker(create_butler(butler.services), tenant.token)
    asker.headers["user-agent"] = "majordomo-steward/2.3.4"
    return asker


def rows(butler: ButlerBench) -> list[tuple[object, ...]]:
    return butler.postgres.run("SELECT org_id, id, revision, model, total_cost FROM butler.requests ORDER BY id")


def ours(**changed: object) -> dict[str, object]:
    record: dict[str, object] = {
        "id": str(uuid4()),
        "revision": 1,
        "provider": "anthropic",
        "model": "claude-sonnet-5",
        "request_path": "/v1/messages",
        "request_method": "POST",
        "requested_at": "2026-11-18T11:00:00.000001Z",
        "responded_at": "2026-11-18T11:00:01Z",
        "response_time_ms": 1000,
        "ttft_ms": 250,
        "status_code": 200,
        "outcome": "complete",
        "usage_source": "provider",
        "input_tokens": 10,
        "output_tokens": 5,
        "cached_tokens": 0,
        "cache_creation_tokens": 0,
        "price_source": "genai-prices 0.0.70",
        "input_cost": 0.01,
        "output_cost": 0.02,
        "total_cost": 0.03,
        "model_alias_found": True,
        "body_state": "stored",
    }
    return {**record, **changed}


def test_me_says_whose_token_it_is_and_which_fields_are_taken(butler: ButlerBench, acme: Tenant) -> None:
    answer = steward(butler, acme).get("/api/v1/steward/me")
    said = answer.json()
    assert (answer.status_code, said["org_name"]) == (200, "acme")
    assert (said["org_id"], said["steward_id"]) == (str(acme.bearer.org_id), str(acme.bearer.steward_id))
    assert set(said["record_fields"]) == set(MetadataRecord.model_fields)
    (seen,) = butler.services.stewards.all(acme.bearer.org_id)
    assert (seen.version, seen.last_seen_at) == ("2.3.4", butler.clock())


def test_the_originals_record_is_taken_as_it_stands(butler: ButlerBench, acme: Tenant) -> None:
    answer = steward(butler, acme).post(
        "/api/v1/steward/ingest/metadata", content='{"records":[' + ORIGINAL_RECORD + "]}"
    )
    assert answer.status_code == 200, answer.text
    call = butler.services.explorer.get(acme.bearer.org_id, json.loads(ORIGINAL_RECORD)["id"])
    assert (str(call.total_cost.normalize()), call.input_tokens, call.usage_source) == ("0.0038", 1200, None)  # type: ignore[union-attr]
    assert call.tags == {"Team": "growth", "User-Id": "u-7"}
    assert call.body_s3_key is not None
    again = steward(butler, acme).post(
        "/api/v1/steward/ingest/metadata", content='{"records":[' + ORIGINAL_RECORD + "]}"
    )
    assert (again.status_code, again.json()["ignored"], len(rows(butler))) == (200, 1, 1)


def test_an_unacknowledged_item_comes_back_after_a_minute(butler: ButlerBench, acme: Tenant) -> None:
    asker = steward(butler, acme)
    butler.services.keys.create(acme.owner, "checkout")
    butler.services.keys.create(acme.owner, "search")
    (item,) = asker.get("/api/v1/steward/work?limit=10").json()
    assert (item["job_type"], item["org_id"]) == ("sync_api_keys", str(acme.bearer.org_id))
    butler.clock.forward(timedelta(seconds=59))
    assert asker.get("/api/v1/steward/work?limit=10").json() == []
    butler.clock.forward(timedelta(seconds=1))
    assert asker.get("/api/v1/steward/work?limit=10").json() == [item]
    assert asker.post(f"/api/v1/steward/work/{item['job_id']}/ack").status_code == 200
    assert asker.post(f"/api/v1/steward/work/{item['job_id']}/ack").status_code == 200
    butler.clock.forward(timedelta(hours=1))
    assert asker.get("/api/v1/steward/work?limit=10").json() == []


@pytest.mark.parametrize("token", ["", "mdm_st_" + "x" * 43, "mdm_sk_" + "x" * 43, "Basic eA=="])
def test_a_stranger_gets_401_everywhere(butler: ButlerBench, acme: Tenant, token: str) -> None:
    asker = Asker(create_butler(butler.services), Secret(token) if token else None)
    for path in ("me", "work", "api-keys", "cloud-storage-configs", "provider-keys", "experiments", "managed/pending"):
        assert asker.get(f"/api/v1/steward/{path}").status_code == 401, path
    assert asker.post("/api/v1/steward/ingest/metadata", content=b"{}").status_code == 401
