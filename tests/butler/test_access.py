"""Who may what: every route by every role, forms, fixed sessions, guesses at passwords, and headers on every answer."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from steward.butler.access import ANYONE, FORM_HEADER, SESSION, Rule, form_token
from steward.butler.app import create_butler
from steward.butler.nouns import Actor, Role
from steward.butler.store_sessions import TRIES_OF_ACCOUNT, TRIES_OF_ADDRESS, WINDOW, Attempt
from steward.words import Secret
from tests.butler.browser import Asker
from tests.servers.butler import PASSWORD, ButlerBench, Tenant

STEWARD_PATH = "/api/v1/steward/"
EXEMPT = {"GET /sign-in", "GET /invitations", "GET /static/{name}", "GET /health", "GET /readyz", "POST /api/v1/login"}
"""What anyone may ask without a form's token."""


@pytest.fixture
def acme(butler: ButlerBench) -> Tenant:
    return butler.tenant("acme")


@pytest.fixture
def app(butler: ButlerBench) -> FastAPI:
    return create_butler(butler.services, Secret("mdm_st_" + "m" * 43))


def routes(app: FastAPI) -> list[str]:
    """Every route of the application, as `METHOD /path`, whatever router it came by."""
    found = []

    def walk(these: Any, prefix: str = "") -> None:
        for each in these:
            if isinstance(each, APIRoute):
                found.extend(f"{method} {each.path}" for method in each.methods - {"HEAD"})
            elif hasattr(each, "effective_candidates"):
                found.extend(
                    f"{method} {one.path}" for one in each.effective_candidates() for method in one.methods - {"HEAD"}
                )

    walk(app.routes)
    return sorted(found)


def signed(butler: ButlerBench, app: FastAPI, actor: Actor, kind: Any = "browser") -> tuple[Asker, Secret[str]]:
    """A client that is signed in, and the secret by which it is."""
    attempt = Attempt(actor.email, Secret(PASSWORD), "203.0.113.9", kind, "test", actor.org_id)
    token = butler.services.sessions.sign_in(attempt, butler.clock()).token
    if kind == "cli":
        return Asker(app, token), token
    asker = Asker(app)
    asker.cookies.set(SESSION, token.reveal(), domain="127.0.0.1")
    return asker, token


def concrete(path: str) -> str:
    """The route's path with something in each of its places."""
    path = path.replace("{scope}", "org").replace("{provider}", "openai").replace("{name}", "Team")
    return re.sub(r"\{[a-z_]+\}", lambda _: str(uuid4()), path)


def test_every_route_has_a_rule_and_every_rule_a_route(app: FastAPI) -> None:
    known = routes(app)
    assert len(known) > 60
    assert set(known) == set(app.state.rules)


def test_every_route_by_every_role(butler: ButlerBench, acme: Tenant, app: FastAPI) -> None:
    people = {role: butler.member(acme, role) for role in (Role.ADMIN, Role.MEMBER, Role.VIEWER)}
    people[Role.OWNER] = acme.owner
    wrong = []
    for role, actor in people.items():
        for route, rule in app.state.rules.items():
            method, path = route.split(" ", 1)
            if rule.who != "person":
                continue
            asker, token = signed(butler, app, actor)
            status = asker.ask(method, concrete(path), headers={FORM_HEADER: form_token(token)}).status_code
            allowed = role.includes(rule.role)
            if (status == 403) == allowed and not (allowed and status == 403 and looks_itself(route)):
                wrong.append((role, route, status))
    assert not wrong


def looks_itself(route: str) -> bool:
    """What is one's own needs less than what is the organisation's: the route asks."""
    return any(word in route for word in ("/storage", "/provider-keys", "/keys"))


def test_every_route_without_a_session(acme: Tenant, app: FastAPI) -> None:
    wrong = []
    for route, rule in app.state.rules.items():
        method, path = route.split(" ", 1)
        answer = Asker(app).ask(method, concrete(path))
        if rule.who == "anyone":
            expected = {200, 404, 422} if route in EXEMPT else {403}
        else:
            expected = {401} if path.startswith("/api/") else {303, 401}
        if answer.status_code not in expected:
            wrong.append((route, answer.status_code))
    assert not wrong


def test_a_token_of_one_kind_opens_nothing_of_another(butler: ButlerBench, acme: Tenant, app: FastAPI) -> None:
    _, cli = signed(butler, app, acme.owner, "cli")
    _, browser = signed(butler, app, acme.owner)
    key = butler.services.keys.create(acme.owner, "k").plaintext
    for token in (acme.token, key, browser):
        assert Asker(app, token).get("/api/v1/keys").status_code == 401
    for token in (cli, key, browser):
        assert Asker(app, token).get("/api/v1/steward/me").status_code == 401
    asker = Asker(app)
    asker.cookies.set(SESSION, cli.reveal(), domain="127.0.0.1")
    assert asker.get("/api/v1/keys").status_code == 401


def test_a_route_without_a_rule_answers_nobody(butler: ButlerBench, acme: Tenant, app: FastAPI) -> None:
    app.get("/forgotten")(lambda: {"secret": True})
    asker, _ = signed(butler, app, acme.owner)
    answer = asker.get("/forgotten")
    assert answer.status_code == 403
    assert "secret" not in answer.text


@pytest.mark.parametrize("said", [None, "", "x", "0" * 64, "é"])
def test_a_write_by_cookie_without_its_forms_token_is_refused(
    butler: ButlerBench, acme: Tenant, app: FastAPI, said: str | None
) -> None:
    asker, _ = signed(butler, app, acme.owner)
    form = {} if said is None else {"csrf": said}
    for path in ("/api/v1/keys", "/keys"):
        assert asker.post(path, data={**form, "name": "k"}).status_code == 403
    assert butler.services.keys.all(acme.bearer.org_id, butler.clock()) == []


def test_a_token_of_another_session_is_no_token(butler: ButlerBench, acme: Tenant, app: FastAPI) -> None:
    asker, token = signed(butler, app, acme.owner)
    _, other = signed(butler, app, acme.owner)
    wrong = asker.post("/api/v1/keys", json={"name": "k"}, headers={FORM_HEADER: form_token(other)})
    right = asker.post("/api/v1/keys", json={"name": "k"}, headers={FORM_HEADER: form_token(token)})
    assert (wrong.status_code, right.status_code) == (403, 201)


@pytest.mark.parametrize(
    "headers", [{"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}, {"origin": "https://evil.example"}]
)
def test_a_form_on_another_site_is_refused_even_with_the_token(
    butler: ButlerBench, acme: Tenant, app: FastAPI, headers: dict[str, str]
) -> None:
    asker, token = signed(butler, app, acme.owner)
    answer = asker.post("/api/v1/keys", json={"name": "k"}, headers={**headers, FORM_HEADER: form_token(token)})
    assert answer.status_code == 403


def test_a_session_that_was_there_before_is_not_the_one_that_is_signed_in(
    butler: ButlerBench, acme: Tenant, app: FastAPI
) -> None:
    planted = Asker(app)
    planted.cookies.set(SESSION, "planted", domain="127.0.0.1")
    page = planted.get("/sign-in")
    (csrf,) = re.findall(r'name="csrf" value="([0-9a-f]{64})"', page.text)
    form = {"csrf": csrf, "email": acme.owner.email, "password": PASSWORD, "next": "https://evil.example/"}
    answer = planted.post("/sign-in", data=form)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    (cookie,) = [each for each in answer.headers.get_list("set-cookie") if each.startswith(SESSION)]
    assert "planted" not in cookie
    assert "HttpOnly" in cookie and "SameSite=lax" in cookie and "Secure" not in cookie
    other = Asker(app)
    other.cookies.set(SESSION, "planted", domain="127.0.0.1")
    assert other.get("/api/v1/me").status_code == 401
    first = planted.cookies.get(SESSION)
    signed_again = planted.post("/sign-in", data={**form, "csrf": form_token(Secret(str(first)))})
    assert signed_again.status_code == 303
    assert planted.cookies.get(SESSION) not in {first, "planted", None}


def test_sign_in_needs_its_own_forms_token(butler: ButlerBench, acme: Tenant, app: FastAPI) -> None:
    asker = Asker(app)
    asker.get("/sign-in")
    form = {"email": acme.owner.email, "password": PASSWORD}
    assert asker.post("/sign-in", data=form).status_code == 403
    assert asker.post("/sign-in", data={**form, "csrf": form_token(Secret("other"))}).status_code == 403


def login(app: FastAPI, email: str, password: str, address: str = "203.0.113.9") -> Any:
    return Asker(app, address=address).post("/api/v1/login", json={"email": email, "password": password})


def test_an_unknown_account_and_a_wrong_password_are_one_answer(acme: Tenant, app: FastAPI) -> None:
    unknown, wrong = login(app, "nobody@acme.example", PASSWORD), login(app, acme.owner.email, "wrong")
    assert unknown.status_code == wrong.status_code == 401
    assert unknown.content == wrong.content
    strange = login(app, "x\0y@acme.example", PASSWORD)
    assert (strange.status_code, strange.content) == (401, wrong.content)


def test_guesses_are_throttled_by_account_and_address_known_or_not(
    butler: ButlerBench, acme: Tenant, app: FastAPI
) -> None:
    for email in (acme.owner.email, "nobody@acme.example"):
        for _ in range(TRIES_OF_ACCOUNT):
            assert login(app, email, "wrong").status_code == 401
        answer = login(app, email, PASSWORD)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "300")
    assert login(app, acme.owner.email, PASSWORD, "198.51.100.7").status_code == 200
    butler.clock.forward(WINDOW)
    assert login(app, acme.owner.email, PASSWORD).status_code == 200


def test_guesses_are_throttled_by_address_over_accounts_and_ipv6_by_its_network(acme: Tenant, app: FastAPI) -> None:
    for number in range(TRIES_OF_ADDRESS):
        assert login(app, f"a{number}@acme.example", "wrong", f"2001:db8::{number:x}").status_code == 401
    assert login(app, acme.owner.email, PASSWORD, "2001:db8::ffff").status_code == 429
    assert login(app, acme.owner.email, PASSWORD, "2001:db8:1::1").status_code == 200


def test_a_success_forgets_the_failures_of_its_account(acme: Tenant, app: FastAPI) -> None:
    for _ in range(3):
        for _ in range(TRIES_OF_ACCOUNT - 1):
            assert login(app, acme.owner.email, "wrong").status_code == 401
        assert login(app, acme.owner.email, PASSWORD).status_code == 200


def test_a_session_ends_after_twelve_hours_and_at_a_change_of_role(
    butler: ButlerBench, acme: Tenant, app: FastAPI
) -> None:
    admin = butler.member(acme, Role.ADMIN)
    asker, _ = signed(butler, app, admin)
    assert asker.get("/api/v1/me").json()["role"] == "admin"
    butler.services.people.change_role(acme.owner, admin.user_id, Role.VIEWER)  # type: ignore[arg-type]
    assert asker.get("/api/v1/me").status_code == 401
    asker, _ = signed(butler, app, admin)
    butler.clock.forward(timedelta(hours=11, minutes=59))
    assert asker.get("/api/v1/me").status_code == 200
    butler.clock.forward(timedelta(minutes=1))
    assert asker.get("/api/v1/me").status_code == 401


def test_every_answer_has_the_headers(butler: ButlerBench, acme: Tenant, app: FastAPI) -> None:
    asker, _ = signed(butler, app, acme.owner)
    for path in ("/", "/sign-in", "/nowhere", "/api/v1/me", "/api/v1/nowhere", "/requests", "/health"):
        headers = asker.get(path).headers
        policy = headers["content-security-policy"]
        assert re.search(r"default-src '(?:self|none)'", policy) and "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy and "http" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] in {"no-referrer", "same-origin"}
        assert "access-control-allow-origin" not in headers


def test_a_browser_that_came_by_https_is_told_to_stay_and_no_other(butler: ButlerBench, app: FastAPI) -> None:
    paths = ("/sign-in", "/nowhere", "/api/v1/me", "/static/butler.css", "/broken")

    def broken() -> None:
        raise ValueError

    for each in (app, apart := create_butler(replace(butler.services, public_url="https://butler.example.com"))):
        each.get("/broken")(broken)
        each.state.rules = {**each.state.rules, "GET /broken": ANYONE}
    for path in paths:
        assert "strict-transport-security" not in Asker(app).get(path).headers
        assert Asker(apart).get(path).headers["strict-transport-security"] == "max-age=31536000", path


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_a_body_beyond_its_bound_is_not_read(butler: ButlerBench, acme: Tenant, app: FastAPI, method: str) -> None:
    asker, _ = signed(butler, app, acme.owner, "cli")
    path = {"POST": "/api/v1/keys", "PUT": "/api/v1/storage/org"}.get(method, f"/api/v1/keys/{uuid4()}")
    assert asker.ask(method, path, content=b"x" * (64 * 1024 + 1)).status_code == 413


def test_roles_include_those_below() -> None:
    assert [role for role in Role if Role.ADMIN.includes(role)] == [Role.ADMIN, Role.MEMBER, Role.VIEWER]
    assert Rule("person").role is Role.VIEWER
