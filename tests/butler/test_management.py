"""The management API: made once and shown once, written and never read back, audited, and closed to other tenants."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from fastapi import FastAPI

from steward.butler.app import create_butler
from steward.butler.nouns import Actor, Role
from steward.butler.store_audit import AuditFilter
from steward.butler.store_sessions import FRESH_FOR, Attempt
from steward.words import Secret
from tests.butler.browser import Asker
from tests.butler.calls import received
from tests.servers.butler import PASSWORD, ButlerBench, Tenant

CANARY = "CANARY-8f1e-secret"
S3 = {
    "provider": "s3",
    "bucket": "acme-bodies",
    "s3_region": "eu-central-1",
    "s3_access_key_id": "AKIA123",
    "secret": CANARY,
}


@pytest.fixture
def acme(butler: ButlerBench) -> Tenant:
    return butler.tenant("acme")


@pytest.fixture
def app(butler: ButlerBench) -> FastAPI:
    return create_butler(butler.services)


def line_of(butler: ButlerBench, app: FastAPI, actor: Actor) -> Asker:
    """A signed-in command line."""
    attempt = Attempt(actor.email, Secret(PASSWORD), "203.0.113.9", "cli", "laptop", actor.org_id)
    return Asker(app, butler.services.sessions.sign_in(attempt, butler.clock()).token)


def actions(butler: ButlerBench, tenant: Tenant) -> list[str]:
    entries = butler.services.audit.page(tenant.bearer.org_id, AuditFilter(), 200)
    return [entry.action for entry in entries if not entry.action.startswith("session.")]


def dump(butler: ButlerBench) -> str:
    """Every row of every table of Butler's."""
    names = butler.postgres.run("SELECT tablename FROM pg_tables WHERE schemaname = 'butler' ORDER BY 1")
    return "\n".join(str(butler.postgres.run(f'SELECT t::text FROM butler."{name}" t')) for (name,) in names)


def test_a_login_gives_a_token_that_is_kept_as_a_hash(butler: ButlerBench, acme: Tenant, app: FastAPI) -> None:
    said = Asker(app).post("/api/v1/login", json={"email": acme.owner.email.upper(), "password": PASSWORD}).json()
    assert said["token"].startswith("mdm_cli_")
    assert said["role"] == "owner"
    asker = Asker(app, Secret(said["token"]))
    assert asker.get("/api/v1/me").json()["email"] == acme.owner.email
    assert said["token"] not in dump(butler)
    assert PASSWORD not in dump(butler)
    assert asker.post("/api/v1/logout").status_code == 200
    assert asker.get("/api/v1/me").status_code == 401


def test_keys_and_tokens_are_shown_once_and_kept_as_hashes(butler: ButlerBench, acme: Tenant, app: FastAPI) -> None:
    asker = line_of(butler, app, acme.owner)
    key = asker.post("/api/v1/keys", json={"name": "checkout"}).json()
    steward = asker.post("/api/v1/stewards", json={"name": "eu", "host": "ECS"}).json()
    assert key["key"].startswith("mdm_sk_") and steward["token"].startswith("mdm_st_")
    for secret in (key["key"], steward["token"]):
        assert secret not in dump(butler)
        for path in ("keys", "stewards", "audit"):
            assert secret not in asker.get(f"/api/v1/{path}").text
    (told,) = asker.get("/api/v1/keys").json()
    assert (told["name"], told["is_active"], told["key_hint"]) == ("checkout", True, key["key"][-4:])
    assert "key_hash" not in told
    assert asker.ask("DELETE", f"/api/v1/keys/{key['id']}").status_code == 200
    assert asker.ask("DELETE", f"/api/v1/keys/{key['id']}").status_code == 200
    assert asker.get("/api/v1/keys").json()[0]["is_active"] is False


def test_secrets_of_storage_and_providers_are_written_and_never_read_back(
    butler: ButlerBench, acme: Tenant, app: FastAPI
) -> None:
    asker = line_of(butler, app, acme.owner)
    assert asker.ask("PUT", "/api/v1/storage/org", json=S3).status_code == 200
    assert asker.ask("PUT", "/api/v1/provider-keys/openai", json={"key": CANARY}).status_code == 200
    (config,) = asker.get("/api/v1/storage").json()
    assert (config["s3_bucket"], config["has_secret"]) == ("acme-bodies", True)
    for path in ("storage", "provider-keys", "audit"):
        assert CANARY not in asker.get(f"/api/v1/{path}").text
    assert CANARY not in dump(butler)
    steward = Asker(app, acme.token)
    (sent,) = steward.get("/api/v1/steward/cloud-storage-configs").json()
    assert sent == {
        "owner_id": str(acme.bearer.org_id),
        "owner_type": "org",
        "provider": "s3",
        "s3_bucket": "acme-bodies",
        "s3_region": "eu-central-1",
        "s3_access_key_id": "AKIA123",
        "s3_secret_access_key": CANARY,
    }
    (key,) = steward.get("/api/v1/steward/provider-keys").json()
    assert (key["provider"], key["key"], key["org_id"]) == ("openai", CANARY, str(acme.bearer.org_id))
    work = {item["job_type"] for item in steward.get("/api/v1/steward/work").json()}
    assert work == {"sync_cloud_storage", "sync_provider_keys"}


def test_another_destination_needs_its_secret_again(butler: ButlerBench, acme: Tenant, app: FastAPI) -> None:
    asker = line_of(butler, app, acme.owner)
    asker.ask("PUT", "/api/v1/storage/org", json=S3)
    same = {name: value for name, value in S3.items() if name != "secret"}
    assert asker.ask("PUT", "/api/v1/storage/org", json=same).status_code == 200
    for name, value in (("bucket", "evil-bodies"), ("s3_region", "us-east-1"), ("s3_access_key_id", "AKIA999")):
        answer = asker.ask("PUT", "/api/v1/storage/org", json={**same, name: value})
        assert (answer.status_code, answer.json()["error"]["field"]) == (422, "secret")
    answer = asker.ask("PUT", "/api/v1/storage/org", json={**same, "s3_endpoint": "https://evil.example"})
    assert answer.status_code == 422


def test_a_storage_row_that_was_edited_in_the_database_does_not_open(
    butler: ButlerBench, acme: Tenant, app: FastAPI
) -> None:
    line_of(butler, app, acme.owner).ask("PUT", "/api/v1/storage/org", json=S3)
    butler.postgres.run("UPDATE butler.storage_configs SET s3_bucket = 'evil-bodies'")
    answer = Asker(app, acme.token).get("/api/v1/steward/cloud-storage-configs")
    assert answer.status_code == 500
    assert CANARY not in answer.text


FRESH = [
    ("PUT", "/api/v1/storage/org", S3),
    ("PUT", "/api/v1/storage/user", S3),
    ("DELETE", "/api/v1/storage/{storage}", None),
    ("PUT", "/api/v1/provider-keys/openai", {"key": CANARY}),
    ("DELETE", "/api/v1/provider-keys/{provider}", None),
    ("POST", "/api/v1/stewards", {"name": "eu"}),
    ("DELETE", "/api/v1/stewards/{steward}", None),
    ("POST", "/api/v1/managed", {"name": "hosted"}),
]


def test_a_change_of_storage_provider_key_or_steward_asks_for_the_password(
    butler: ButlerBench, acme: Tenant, app: FastAPI
) -> None:
    asker, services = line_of(butler, app, acme.owner), butler.services
    asker.ask("PUT", "/api/v1/storage/org", json=S3)
    asker.ask("PUT", "/api/v1/provider-keys/openai", json={"key": CANARY})
    ids = {
        "storage": services.storage.all(acme.bearer.org_id)[0].id,
        "provider": services.provider_keys.all(acme.bearer.org_id)[0].id,
        "steward": acme.bearer.steward_id,
    }
    butler.clock.forward(FRESH_FOR)
    before = dump(butler)
    for method, path, body in FRESH:
        answer = asker.ask(method, path.format(**ids), json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "password_needed"), path
    wrong = asker.post("/api/v1/password/confirm", json={"password": "wrong"})
    assert wrong.status_code == 401
    assert dump(butler).count("AKIA123") == before.count("AKIA123")
    assert asker.post("/api/v1/password/confirm", json={"password": PASSWORD}).status_code == 200
    for method, path, body in (*FRESH[:2], *FRESH[3:4], *FRESH[5:6]):
        assert asker.ask(method, path.format(**ids), json=body).status_code < 300, path


def test_owners_are_told_of_changes_until_they_have_seen_them(butler: ButlerBench, acme: Tenant, app: FastAPI) -> None:
    admin, audit = butler.member(acme, Role.ADMIN), butler.services.audit
    org_id, owner_id = acme.bearer.org_id, acme.owner.user_id
    assert owner_id is not None and admin.user_id is not None
    line_of(butler, app, admin).ask("PUT", "/api/v1/storage/org", json=S3)
    told = audit.notices(org_id, owner_id)
    assert (told[0].action, told[0].actor_email, told[0].object_name) == ("storage.changed", admin.email, "acme-bodies")
    assert audit.notices(org_id, admin.user_id) == []
    audit.notices_seen(org_id, owner_id, told[0].at)
    assert audit.notices(org_id, owner_id) == []


def test_every_change_is_audited(butler: ButlerBench, acme: Tenant, app: FastAPI) -> None:
    asker, services = line_of(butler, app, acme.owner), butler.services
    member = butler.member(acme, Role.MEMBER)
    services.records.ingest(acme.bearer, [received(tags={"Team": "a"})], butler.clock())
    known = len(actions(butler, acme))

    def does(method: str, path: str, body: Any, *expected: str) -> Any:
        nonlocal known
        answer = asker.ask(method, path, json=body)
        assert answer.status_code < 300, (path, answer.text)
        found = actions(butler, acme)
        new, known = found[: len(found) - known], len(found)
        assert tuple(reversed(new)) == expected
        return answer.json()

    key = does("POST", "/api/v1/keys", {"name": "k"}, "api_key.created")["id"]
    does("PATCH", f"/api/v1/keys/{key}", {"deprecated_model_behavior": "warn"}, "api_key.changed")
    does("DELETE", f"/api/v1/keys/{key}", None, "api_key.revoked")
    steward = does("POST", "/api/v1/stewards", {"name": "s"}, "steward.created")["id"]
    does("DELETE", f"/api/v1/stewards/{steward}", None, "steward.revoked")
    does("POST", "/api/v1/managed", {"name": "m"}, "steward.created", "steward.assigned")
    config = does("PUT", "/api/v1/storage/user", S3, "storage.changed")["id"]
    does("DELETE", f"/api/v1/storage/{config}", None, "storage.removed")
    provider = does("PUT", "/api/v1/provider-keys/openai", {"key": CANARY}, "provider_key.changed")["id"]
    does("DELETE", f"/api/v1/provider-keys/{provider}", None, "provider_key.removed")
    does(
        "PATCH",
        "/api/v1/metadata-keys/Team",
        {"label": "Team", "active": True},
        "metadata_key.labelled",
        "metadata_key.activated",
    )
    does("PATCH", "/api/v1/metadata-keys/Team", {"active": False}, "metadata_key.deactivated")
    invitation = does("POST", "/api/v1/invitations", {"email": "n@x.example"}, "member.invited")["id"]
    does("DELETE", f"/api/v1/invitations/{invitation}", None, "member.invitation_withdrawn")
    does("PATCH", f"/api/v1/members/{member.user_id}", {"role": "viewer"}, "member.role_changed")
    does("DELETE", f"/api/v1/members/{member.user_id}", None, "member.removed")
    assert CANARY not in asker.get("/api/v1/audit?limit=200").text


def test_ids_of_another_organisation_are_not_found_and_nothing_of_it_changes(
    butler: ButlerBench, acme: Tenant, app: FastAPI
) -> None:
    other = butler.tenant("other")
    theirs, services = line_of(butler, app, other.owner), butler.services
    ids = {
        "key": services.keys.create(other.owner, "k").id,
        "steward": other.bearer.steward_id,
        "storage": theirs.ask("PUT", "/api/v1/storage/org", json=S3).json()["id"],
        "provider": theirs.ask("PUT", "/api/v1/provider-keys/openai", json={"key": CANARY}).json()["id"],
        "invitation": theirs.post("/api/v1/invitations", json={"email": "n@x.example"}).json()["id"],
        "user": other.owner.user_id,
        "job": services.work.claim(other.bearer.org_id, other.bearer.steward_id, 1, butler.clock())[0].job_id,
    }
    services.records.ingest(other.bearer, [received(tags={"Team": "theirs"})], butler.clock())
    call = services.explorer.page(other.bearer.org_id, whole(butler)).rows[0].id
    asker, steward = line_of(butler, app, acme.owner), Asker(app, acme.token)
    before = of_tenant(butler, other)
    for method, path, body in (
        ("PATCH", "/api/v1/keys/{key}", {"deprecated_model_behavior": "warn"}),
        ("DELETE", "/api/v1/keys/{key}", None),
        ("DELETE", "/api/v1/stewards/{steward}", None),
        ("DELETE", "/api/v1/storage/{storage}", None),
        ("DELETE", "/api/v1/provider-keys/{provider}", None),
        ("PATCH", "/api/v1/metadata-keys/Team", {"label": "x"}),
        ("PATCH", "/api/v1/metadata-keys/Team", {"active": True}),
        ("PATCH", "/api/v1/members/{user}", {"role": "viewer"}),
        ("DELETE", "/api/v1/members/{user}", None),
        ("DELETE", "/api/v1/invitations/{invitation}", None),
    ):
        assert asker.ask(method, path.format(**ids), json=body).status_code == 404, path
    assert asker.get(f"/requests/{call}").status_code in {303, 401, 404}
    for path in ("/api/v1/steward/work/{job}/ack", "/api/v1/steward/work/{job}/fail"):
        assert steward.post(path.format(**ids)).status_code == 404
    for path in ("keys", "storage", "provider-keys", "metadata-keys", "stewards", "members", "audit", "usage?by=key"):
        text = asker.get(f"/api/v1/{path}").text
        assert not [each for each in (*ids.values(), call, "theirs") if str(each) in text], path
    for path in ("work", "api-keys", "cloud-storage-configs", "provider-keys"):
        text = steward.get(f"/api/v1/steward/{path}").text
        assert not [each for each in ids.values() if str(each) in text], path
    assert of_tenant(butler, other) == before


def whole(butler: ButlerBench) -> Any:
    from steward.butler.views import Filter

    return Filter(butler.clock() - timedelta(days=30), butler.clock() + timedelta(days=1))


def of_tenant(butler: ButlerBench, tenant: Tenant) -> list[object]:
    """Every row of the organisation, in every table that has organisations."""
    tables = butler.postgres.run(
        "SELECT table_name FROM information_schema.columns WHERE table_schema = 'butler' AND column_name = 'org_id' "
        "ORDER BY 1"
    )
    assert len(tables) > 14
    return [
        butler.postgres.run(f'SELECT t::text FROM butler."{name}" t WHERE org_id = :org', org=tenant.bearer.org_id)
        for (name,) in tables
    ]


def test_a_member_may_change_what_is_his_own_and_nothing_else(butler: ButlerBench, acme: Tenant, app: FastAPI) -> None:
    member = butler.member(acme, Role.MEMBER)
    asker = line_of(butler, app, member)
    theirs = butler.services.keys.create(acme.owner, "owner's").id
    mine = asker.post("/api/v1/keys", json={"name": "mine"}).json()["id"]
    assert asker.ask("DELETE", f"/api/v1/keys/{theirs}").status_code == 403
    assert asker.ask("DELETE", f"/api/v1/keys/{mine}").status_code == 200
    assert asker.ask("PUT", "/api/v1/storage/org", json=S3).status_code == 403
    config = asker.ask("PUT", "/api/v1/storage/user", json=S3).json()["id"]
    assert asker.ask("DELETE", f"/api/v1/storage/{config}").status_code == 200
    assert asker.ask("PUT", "/api/v1/provider-keys/openai", json={"key": CANARY}).status_code == 403
    personal = asker.ask("PUT", "/api/v1/provider-keys/openai", json={"key": CANARY, "scope": "user"}).json()["id"]
    (sent,) = Asker(app, acme.token).get("/api/v1/steward/provider-keys").json()
    assert (sent["id"], sent["user_id"]) == (personal, str(member.user_id))
    line_of(butler, app, acme.owner).ask("PUT", "/api/v1/storage/org", json=S3)
    (config,) = [str(each.id) for each in butler.services.storage.all(acme.bearer.org_id)]
    assert asker.ask("DELETE", f"/api/v1/storage/{config}").status_code == 403


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/api/v1/keys", {"name": "k", "org_id": str(uuid4())}, "org_id"),
        ("/api/v1/keys", {"name": "k", "user_id": str(uuid4())}, "user_id"),
        ("/api/v1/keys", {"name": ""}, "name"),
        ("/api/v1/keys", {"name": "a\nb"}, "name"),
        ("/api/v1/keys", {"name": "x" * 201}, "name"),
        ("/api/v1/keys", {}, "name"),
        ("/api/v1/keys", {"name": "k", "deprecated_model_behavior": CANARY}, "deprecated_model_behavior"),
        ("/api/v1/stewards", {"name": 7}, "name"),
        ("/api/v1/invitations", {"email": CANARY}, "email"),
        ("/api/v1/invitations", {"email": "a@b.example", "role": CANARY}, "role"),
    ],
)
def test_what_is_not_taken_is_named_and_not_repeated(
    butler: ButlerBench, acme: Tenant, app: FastAPI, path: str, body: dict[str, object], field: str
) -> None:
    answer = line_of(butler, app, acme.owner).post(path, json=body)
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, field)
    assert CANARY not in answer.text


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b'{"name": NaN}', b"[" * 50, b"null"])
def test_a_body_that_is_none_is_422(butler: ButlerBench, acme: Tenant, app: FastAPI, content: bytes) -> None:
    assert line_of(butler, app, acme.owner).post("/api/v1/keys", content=content).status_code == 422


def test_usage_adds_up_by_model_key_and_tag(butler: ButlerBench, acme: Tenant, app: FastAPI) -> None:
    asker, services = line_of(butler, app, acme.owner), butler.services
    key = services.keys.create(acme.owner, "checkout").id
    services.records.ingest(acme.bearer, [received(tags={"Team": "a"}, api_key_id=key)], butler.clock())
    services.metadata_keys.activate(acme.owner, "Team", butler.clock())
    while services.metadata_keys.backfill():
        pass
    for by, group in (("model", "gpt-5"), ("provider", "openai"), ("key", "checkout"), ("tag:Team", "a")):
        said = asker.get("/api/v1/usage", params={"by": by}).json()
        assert [(each["group"], each["calls"], each["cost"]) for each in said["groups"]] == [(group, 1, 0.03)]
        assert said["total"]["calls"] == 1
    for wrong in ({"by": "x"}, {"since": "1999-01-01T00:00:00Z"}, {"since": "2026-11-18T00:00:00"}, {"since": "x"}):
        assert asker.get("/api/v1/usage", params=wrong).status_code == 422


def test_the_last_owner_stays(butler: ButlerBench, acme: Tenant, app: FastAPI) -> None:
    asker = line_of(butler, app, acme.owner)
    assert asker.ask("PATCH", f"/api/v1/members/{acme.owner.user_id}", json={"role": "admin"}).status_code == 409
    assert asker.ask("DELETE", f"/api/v1/members/{acme.owner.user_id}").status_code == 409
    second = butler.member(acme, Role.OWNER)
    assert asker.ask("DELETE", f"/api/v1/members/{second.user_id}").status_code == 200
