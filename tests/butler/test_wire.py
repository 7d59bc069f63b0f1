"""The Steward's protocol, server side: literal requests of the original, ours, and those of whoever has no business."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from steward.butler.app import create_butler
from steward.egress import Ingest, MetadataRecord
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


def test_what_our_own_steward_sends_is_taken_whole(butler: ButlerBench, acme: Tenant) -> None:
    record = MetadataRecord.model_validate_json(json.dumps({**ours(), "org_id": str(acme.bearer.org_id)}))
    fields = frozenset(steward(butler, acme).get("/api/v1/steward/me").json()["record_fields"])
    answer = steward(butler, acme).post(
        "/api/v1/steward/ingest/metadata", content=Ingest(records=(record,)).body(fields)
    )
    assert (answer.status_code, answer.json()["added"]) == (200, 1)
    call = butler.services.explorer.get(acme.bearer.org_id, record.id)
    assert (call.ttft_ms, call.outcome, call.body_state, call.revision) == (250, "complete", "stored", 1)


def test_a_number_that_stands_for_nothing_is_kept_as_nothing(butler: ButlerBench, acme: Tenant) -> None:
    unmetered = ours(usage_source="none", input_tokens=0, output_tokens=0, cached_tokens=0, cache_creation_tokens=0)
    del unmetered["price_source"]
    unmetered |= {"input_cost": 0, "output_cost": 0, "total_cost": 0}
    free = ours(total_cost=0, input_cost=0, output_cost=0, input_tokens=0)
    unanswered = ours(status_code=0, response_time_ms=0, outcome="interrupted")
    assert ingest(butler, acme, unmetered, free, unanswered).status_code == 200
    calls = [butler.services.explorer.get(acme.bearer.org_id, each["id"]) for each in (unmetered, free, unanswered)]
    assert (calls[0].input_tokens, calls[0].cached_tokens, calls[0].total_cost) == (None, None, None)
    assert (calls[1].input_tokens, calls[1].total_cost) == (0, 0)
    assert (calls[2].status_code, calls[2].response_time_ms, calls[2].is_error) == (None, None, True)


def ingest(butler: ButlerBench, tenant: Tenant, *sent: Any) -> Any:
    return steward(butler, tenant).post("/api/v1/steward/ingest/metadata", json={"records": list(sent)})


CANARY = "CANARY-77b1"


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"prompt": CANARY}, "prompt"),
        ({CANARY: 1}, None),
        ({"org_id": str(UUID(int=5))}, "org_id"),
        ({"id": CANARY}, "id"),
        ({"revision": 0}, "revision"),
        ({"revision": CANARY}, "revision"),
        ({"requested_at": "2026-11-18T11:00:00"}, "requested_at"),
        ({"requested_at": CANARY}, "requested_at"),
        ({"input_tokens": -1}, "input_tokens"),
        ({"input_tokens": 2**63}, "input_tokens"),
        ({"total_cost": -1}, "total_cost"),
        ({"total_cost": 10_001}, "total_cost"),
        ({"total_cost": CANARY}, "total_cost"),
        ({"raw_metadata": [CANARY]}, "raw_metadata"),
        ({"raw_metadata": {"Team": {"a": CANARY}}}, "raw_metadata"),
        ({"provider": CANARY}, "provider"),
        ({"outcome": CANARY}, "outcome"),
        ({"body_state": CANARY}, "body_state"),
        ({"model": 7}, "model"),
    ],
)
def test_one_bad_record_is_named_by_place_and_field_and_nothing_is_kept(
    butler: ButlerBench, acme: Tenant, changed: dict[str, object], field: str | None
) -> None:
    answer = ingest(butler, acme, ours(), ours(**changed), ours())
    error = answer.json()["error"]
    assert (answer.status_code, error["index"], error.get("field")) == (422, 1, field)
    assert CANARY not in answer.text
    assert rows(butler) == []


def test_words_outside_the_closed_lists_are_brought_into_them(butler: ButlerBench, acme: Tenant) -> None:
    said = ours(
        error_message=f"Incorrect API key provided: {CANARY}",
        request_path=f"/v1/files/{CANARY}",
        request_method=CANARY,
        model=f"{CANARY} with spaces",
        body_s3_key=f"{CANARY}/x",
        provider_api_key_alias="a\0b" + "x" * 600,
        raw_metadata={"Team": "a\0b", "not a name": CANARY, "Long": "x" * 2000, "Count": 7},
    )
    assert ingest(butler, acme, said).status_code == 200
    call = butler.services.explorer.get(acme.bearer.org_id, said["id"])  # type: ignore[arg-type]
    assert (call.error_message, call.request_path, call.request_method) == ("other", "/{other}", "OTHER")
    assert (call.model, call.body_s3_key) == ("other", None)
    assert call.tags == {"Team": "a\ufffdb", "Long": "x" * 256, "Count": "7"}
    assert CANARY not in str(butler.postgres.run("SELECT r::text FROM butler.requests r"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"records": []}',
        b'{"records": {}}',
        b'{"records": [1]}',
        b'{"records": [{}], "more": 1}',
        b'{"records": [' + b"[" * 3000 + b"]" * 3000 + b"]}",
        b'{"records": [{"id": 1e999999999}]}',
        b'{"records": [{"total_cost": Infinity}]}',
        b"\xff\xfe",
    ],
)
def test_a_body_that_is_no_batch_is_422(butler: ButlerBench, acme: Tenant, content: bytes) -> None:
    assert steward(butler, acme).post("/api/v1/steward/ingest/metadata", content=content).status_code == 422
    assert rows(butler) == []


def test_a_batch_has_bounds(butler: ButlerBench, acme: Tenant) -> None:
    assert ingest(butler, acme, *[ours() for _ in range(501)]).status_code == 422
    assert ingest(butler, acme, *[ours() for _ in range(500)]).json()["added"] == 500
    long = b'{"records": [' + b" " * (8 << 20) + b"]}"
    assert steward(butler, acme).post("/api/v1/steward/ingest/metadata", content=long).status_code == 413


def test_a_lone_surrogate_does_not_stop_a_batch(butler: ButlerBench, acme: Tenant) -> None:
    document = json.dumps({"records": [ours(raw_metadata={"Team": "a\ud800b"})]})
    answer = steward(butler, acme).post("/api/v1/steward/ingest/metadata", content=document)
    assert (answer.status_code, len(rows(butler))) == (200, 1)


def test_keys_come_oldest_change_first_page_by_page_and_none_is_missed(butler: ButlerBench, acme: Tenant) -> None:
    made = [butler.services.keys.create(acme.owner, f"k{number}").id for number in range(5)]
    butler.services.keys.revoke(acme.owner, made[1])
    asker, seen, after = steward(butler, acme), [], None
    while True:
        query = {"limit": "2"} | ({"updated_after": after} if after else {})
        page = asker.get("/api/v1/steward/api-keys", params=query).json()
        if not page:
            break
        seen += page
        after = page[-1]["updated_at"]
    assert [each["id"] for each in seen] == [str(made[number]) for number in (0, 2, 3, 4, 1)]
    assert len({each["updated_at"] for each in seen}) == 5
    assert (seen[-1]["is_active"], "revoked_at" in seen[-1], "revoked_at" in seen[0]) == (False, True, False)
    assert set(seen[0]) == {
        *("id", "key_hash", "name", "is_active", "user_id", "org_id", "created_at", "updated_at"),
        "deprecated_model_behavior",
    }


def test_what_is_not_there_yet_is_404_and_experiments_are_none(butler: ButlerBench, acme: Tenant) -> None:
    asker = steward(butler, acme)
    assert asker.get("/api/v1/steward/experiments?limit=200").json() == []
    for path in (f"replay-runs/{uuid4()}", f"eval-runs/{uuid4()}"):
        assert asker.get(f"/api/v1/steward/{path}").status_code == 404
    for path in ("replay-runs/status", "eval-runs/status", "replay-results", "eval-results"):
        assert asker.post(f"/api/v1/steward/{path}", json=[{"id": str(uuid4())}]).status_code == 404
        assert asker.post(f"/api/v1/steward/{path}", json=[]).status_code == 200
        assert asker.post(f"/api/v1/steward/{path}", json={}).status_code == 422
    assert asker.post(f"/api/v1/steward/work/{uuid4()}/ack").status_code == 404
    assert asker.get("/api/v1/steward/work?limit=x").status_code == 422


def test_a_revoked_token_is_nobodys_and_a_failed_item_is_over(butler: ButlerBench, acme: Tenant) -> None:
    asker = steward(butler, acme)
    butler.services.keys.create(acme.owner, "k")
    (item,) = asker.get("/api/v1/steward/work").json()
    assert asker.post(f"/api/v1/steward/work/{item['job_id']}/fail").status_code == 200
    butler.clock.forward(timedelta(minutes=5))
    assert asker.get("/api/v1/steward/work").json() == []
    butler.services.stewards.revoke(acme.owner, acme.bearer.steward_id)
    assert asker.get("/api/v1/steward/me").status_code == 401


def test_a_managed_steward_takes_over_with_the_master_token_and_the_token_is_told_once(
    butler: ButlerBench, acme: Tenant
) -> None:
    master = Secret("mdm_st_" + "m" * 43)
    asker = Asker(create_butler(butler.services, master), master)
    steward_id = butler.services.managed.assign(acme.owner, "hosted")
    (waiting,) = asker.get("/api/v1/steward/managed/pending").json()
    assert (waiting["org_id"], waiting["org_name"]) == (str(acme.bearer.org_id), "acme")
    served = Asker(create_butler(butler.services, master), Secret(waiting["token"]))
    assert served.get("/api/v1/steward/me").json()["steward_id"] == str(steward_id)
    assert served.get("/api/v1/steward/managed/pending").status_code == 401
    assert asker.get("/api/v1/steward/me").status_code == 401
    claim = f"/api/v1/steward/managed/assignments/{waiting['id']}/claim"
    assert [asker.post(claim).status_code for _ in range(2)] == [204, 204]
    assert asker.get("/api/v1/steward/managed/pending").json() == []
    assert asker.post(f"/api/v1/steward/managed/assignments/{uuid4()}/claim").status_code == 404
    assert butler.postgres.run("SELECT sealed_token FROM butler.managed_assignments") == [(None,)]


def test_an_outage_is_503_and_never_401(butler: ButlerBench, acme: Tenant) -> None:
    asker = steward(butler, acme)
    butler.postgres.run("ALTER TABLE butler.steward_tokens RENAME TO gone")
    answer = asker.get("/api/v1/steward/me")
    assert answer.status_code == 503
