"""Every page of the dashboard at once: who may see and send it, and what each must and must not have."""

from __future__ import annotations

import re
from datetime import timedelta
from html.parser import HTMLParser
from typing import Final
from uuid import uuid4

import pytest
from fastapi.routing import APIRoute

from steward.butler.nouns import Role
from steward.butler.pages.site import ROUTERS, RULES
from steward.butler.views import Filter
from tests.butler.pages.visits import House, Visit

PAGES: Final = (
    *("/", "/?measure=latency&range=7d", "/?measure=errors&by=key&range=1h", "/?measure=tokens&by=provider&range=30d"),
    *("/requests", "/requests?failed=yes&range=7d", "/keys", "/keys?new=1", "/stewards", "/stewards?new=1", "/storage"),
    *("/provider-keys", "/provider-keys?new=1", "/metadata", "/members", "/members?new=1", "/audit", "/sign-in"),
)
_VOID: Final = frozenset({"meta", "link", "input", "br", "img", "hr"})


class _Reader(HTMLParser):
    """Collects what a page must and must not have."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.fields: list[str] = []
        self.labelled: set[str] = set()
        self.forms = 0
        self.tokens = 0
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = dict(attrs)
        if tag not in _VOID:
            self.open.append(tag)
        if tag in {"style", "iframe", "object", "embed"} or (tag == "script" and "src" not in said):
            self.wrong.append(f"<{tag}>")
        self.wrong += [f"{tag} {name}" for name in said if name == "style" or name.startswith("on")]
        for name in ("src", "href", "action"):
            if re.fullmatch(r"((?:[a-z]+:)?//|javascript:|data:).*", said.get(name) or "/"):
                self.wrong.append(f"{tag} {name}={said[name]}")
        if said.get("id"):
            self.ids.append(str(said["id"]))
        self._control(tag, said)

    def _control(self, tag: str, said: dict[str, str | None]) -> None:
        if tag == "form" and said.get("method") == "post":
            self.forms += 1
        if said.get("name") == "csrf":
            self.tokens += 1
        if tag in {"input", "select", "textarea"} and said.get("type") not in {"hidden", "radio"}:
            self.fields.append(str(said.get("id")))
        if tag == "label" and said.get("for"):
            self.labelled.add(str(said["for"]))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}> closes nothing")


def _read(page: str) -> _Reader:
    reader = _Reader()
    reader.feed(page)
    return reader


def test_every_page_is_whole_and_asks_this_host_alone(house: House) -> None:
    visit = house.visit()
    call = house.bench.services.explorer.page(house.acme.owner.org_id, _all(house)).rows[0]
    for path in (*PAGES, f"/requests/{call.id}", f"/requests?open={call.id}"):
        page = (Visit(house.app) if path == "/sign-in" else visit).text(path)
        read = _read(page)
        assert not read.wrong and not read.open, (path, read.wrong, read.open)
        assert read.forms == read.tokens, f"{path}: a form without its token"
        assert set(read.fields) <= read.labelled, f"{path}: {set(read.fields) - read.labelled} has no label"
        assert len(read.ids) == len(set(read.ids)), path
        assert "<title>" in page and 'lang="en"' in page


def _all(house: House) -> Filter:
    now = house.bench.clock()
    return Filter(now - timedelta(days=2), now)


def test_every_page_bears_the_headers_that_keep_it_apart(house: House) -> None:
    visit = house.visit()
    for path in ("/", "/requests", "/nowhere", "/static/butler.css"):
        headers = visit.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
    assert visit.get("/").headers["cache-control"] == "no-store"


def test_every_route_has_its_rule_and_every_rule_its_route() -> None:
    routes = [each for router in ROUTERS for each in router.routes if isinstance(each, APIRoute)]
    assert set(RULES) == {f"{method} {each.path}" for each in routes for method in each.methods}


def _filled(path: str) -> str:
    names = {"{scope}": "organisation", "{name}": "Team"}
    return re.sub(r"\{\w+\}", lambda found: names.get(found[0], str(uuid4())), path)


@pytest.mark.parametrize("role", list(Role))
def test_a_role_may_what_its_rule_says_and_no_more(house: House, role: Role) -> None:
    visit = house.visit(role)
    for rule, needed in RULES.items():
        method, path = rule.split(" ")
        if needed.who == "anyone" or path in {"/sign-out"}:
            continue
        sent = {"data": {"csrf": visit.token()}} if method == "POST" else {}
        answer = visit.asker.ask(method, _filled(path), **sent)
        refused = answer.status_code == 403 and "Your role in this organisation" in answer.text
        may = role.includes(needed.role)
        if path.startswith("/storage/{scope}") and not role.includes(Role.ADMIN):
            may = False  # the organisation's, which the route looks at
        assert refused != may, (rule, role, answer.status_code)


def test_nobody_is_asked_to_sign_in_and_comes_back(house: House) -> None:
    visit = Visit(house.app)
    for rule, needed in RULES.items():
        method, path = rule.split(" ")
        if needed.who == "anyone":
            continue
        answer = visit.asker.ask(method, _filled(path))
        assert answer.status_code == 303 and answer.headers["location"].startswith("/sign-in"), rule
    asked = visit.get("/requests?model=o3").headers["location"]
    assert asked == "/sign-in?next=%2Frequests%3Fmodel%3Do3"


def test_what_is_not_there_is_a_page_that_says_so(house: House) -> None:
    visit = house.visit()
    for path in ("/nowhere", f"/requests/{uuid4()}", "/static/secret", "/requests/../etc"):
        answer = visit.get(path)
        assert answer.status_code == 404 and "<h1>Not found</h1>" in answer.text
    assert visit.get("/requests/not-an-id").status_code == 422


def test_nothing_of_another_organisation_is_shown(house: House) -> None:
    visit = Visit(house.app)
    visit.sign_in(house.other.owner.email)
    call = house.bench.services.explorer.page(house.acme.owner.org_id, _all(house)).rows[0]
    assert visit.get(f"/requests/{call.id}").status_code == 404
    assert "No call of this organisation has the id" in visit.words(f"/requests?open={call.id}")
    for path in PAGES[:-1]:
        assert "support-copilot" not in visit.text(path) and "acme" not in visit.text(path), path
    assert visit.asker.get("/requests.csv").text.count("\r\n") == 1
    key = house.bench.services.keys.all(house.acme.owner.org_id, house.bench.clock())[0].key
    assert visit.send(f"/keys/{key.id}/revoke").status_code == 404
    assert house.bench.services.keys.get(house.acme.owner.org_id, key.id).is_active
