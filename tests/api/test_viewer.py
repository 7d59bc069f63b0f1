"""The viewer over real connections: who gets what by which route; nothing that Butler issues opens a body."""

from __future__ import annotations

import gzip
import hashlib
import secrets
import threading
from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID, uuid4

import orjson
import pytest

from steward.adapters.memory_bodies import MemoryBodyStore
from steward.adapters.postgres_directory import PostgresDirectory
from steward.api.viewer import SESSION_COOKIE, SIGN_IN_COOKIE, router
from steward.api.viewer_gate import HEADERS
from steward.errors import ProviderUnavailable, SignInRefused, StoreUnavailable
from steward.exchange import BodyState
from steward.ports import IdentityProvider, Person, ViewAct
from steward.timed_reads import AT_ONCE
from tests.contracts.records import ORG, OTHER_ORG, new_id
from tests.servers.postgres import Database
from tests.servers.viewers import CLICKED, LED, TYPED, RunningViewer, Told, a_document, running_viewer
from tests.servers.waiting import eventually

CANARY = "CANARY-19be"
ROUTES = (
    ("GET", "/style.css"),
    ("GET", "/"),
    ("GET", "/find"),
    ("GET", "/requests/{request_id}"),
    ("GET", "/requests/{request_id}/download"),
    ("GET", "/requests/{request_id}/{side}"),
    ("POST", "/sign-in"),
    ("POST", "/sign-out"),
    ("GET", "/sign-in/oidc"),
    ("GET", "/sign-in/callback"),
)
BODIES = ("", "/download", "/request", "/response")


@pytest.fixture
def viewer(postgres: Database) -> Iterator[RunningViewer]:
    with running_viewer(postgres) as running:
        yield running


def test_the_route_table_is_whole() -> None:
    found = {(method, route.path) for route in router.routes for method in route.methods}  # type: ignore[attr-defined]
    assert found == set(ROUTES)


def addresses(viewer: RunningViewer) -> list[tuple[str, str]]:
    """Every route, with a call of ours in it."""
    row = viewer.keep(a_document(CANARY))
    return [(method, path.format(request_id=row.id, side="response")) for method, path in ROUTES]


def test_without_a_session_no_route_tells_anything(viewer: RunningViewer) -> None:
    for method, path in addresses(viewer):
        told = viewer.ask(path, CLICKED, method, {} if method == "POST" else None)
        assert CANARY not in told.text
        assert "gpt-4o-mini" not in told.text
        assert told.status in ((200,) if path == "/style.css" else (303, 401, 403, 404)), path
    assert viewer.account() == []


@pytest.mark.parametrize("path", BODIES)
def test_a_session_opens_its_own_organisation_s_bodies_alone(viewer: RunningViewer, path: str) -> None:
    mine, theirs = viewer.keep(a_document(CANARY)), viewer.keep(a_document("THEIRS-CANARY"), org_id=OTHER_ORG)
    viewer.sign_in()
    assert viewer.ask(f"/requests/{mine.id}{path}").status == 200
    not_mine, not_there = viewer.ask(f"/requests/{theirs.id}{path}"), viewer.ask(f"/requests/{new_id()}{path}")
    assert (not_mine.status, not_mine.body) == (not_there.status, not_there.body)
    assert not_mine.status == 404
    assert viewer.ask(f"/?org={OTHER_ORG}").status == 404
    assert str(theirs.id) not in viewer.ask("/").text
    assert [(each.request_id, each.org_id) for each in viewer.openings()] == [(mine.id, ORG)]
    refused = [each for each in viewer.account() if each.act is ViewAct.REFUSED]
    assert (refused[0].request_id, refused[0].code) == (theirs.id, "no_such_call")


def keys_of_butler(postgres: Database) -> list[str]:
    """All that Butler could mint, as good as it can be: among them an active key of the organisation."""
    key = "mdm_sk_" + secrets.token_urlsafe(32)
    PostgresDirectory(postgres.engine, postgres.keyring).create_key(ORG, "k", hashlib.sha256(key.encode()).hexdigest())
    return [key, *(prefix + secrets.token_urlsafe(32) for prefix in ("mdm_st_", "mdm_pk_", "mdm_se_", "mdm_vt_"))]


def test_nothing_that_butler_issues_opens_a_body(viewer: RunningViewer, postgres: Database) -> None:
    row = viewer.keep(a_document(CANARY))
    for key in keys_of_butler(postgres):
        told = viewer.ask("/sign-in", CLICKED, "POST", {"token": key})
        assert told.status == 403
        assert told.values("set-cookie") == []
        assert key not in told.text
        for fields in (
            {"X-Majordomo-Key": key},
            {"Authorization": f"Bearer {key}"},
            {"Cookie": f"{SESSION_COOKIE}={key}; session={key}; majordomo_session={key}"},
        ):
            for path in BODIES:
                assert viewer.ask(f"/requests/{row.id}{path}", {**CLICKED, **fields}).status == 401
    assert viewer.account() == []


def cookie(told: Told) -> tuple[str, list[str]]:
    (line,) = told.values("set-cookie")
    pair, *attributes = line.split("; ")
    return pair, attributes


def test_the_cookie_is_sealed_off_and_new_at_every_sign_in(viewer: RunningViewer) -> None:
    token = viewer.token()
    first = viewer.ask("/sign-in", CLICKED, "POST", {"token": token})
    assert (first.status, first.values("location")) == (303, ["/"])
    pair, attributes = cookie(first)
    assert pair.startswith("__Host-")
    assert set(attributes) == {"Max-Age=43200", "Path=/", "Secure", "HttpOnly", "SameSite=Lax"}
    second = viewer.ask("/sign-in", CLICKED, "POST", {"token": token})
    assert cookie(second)[0] != pair
    now, viewer.cookies[SESSION_COOKIE] = viewer.cookies[SESSION_COOKIE], pair.partition("=")[2]
    assert viewer.ask("/").status == 401, "the session before the sign-in has ended"
    viewer.cookies[SESSION_COOKIE] = now
    assert viewer.ask("/").status == 200


def test_a_session_that_was_ended_is_ended_on_the_server(viewer: RunningViewer) -> None:
    secret = viewer.sign_in()
    assert viewer.ask("/").status == 200
    told = viewer.ask("/sign-out", CLICKED, "POST", {})
    assert (told.status, told.values("location"), viewer.cookies) == (303, ["/"], {})
    viewer.cookies[SESSION_COOKIE] = secret
    assert viewer.ask("/").status == 401


def test_an_expired_token_opens_nothing_and_a_revoked_one_nothing_more(viewer: RunningViewer) -> None:
    expired = viewer.token(lasts=timedelta(seconds=-1))
    assert viewer.ask("/sign-in", CLICKED, "POST", {"token": expired}).status == 403
    token = viewer.token()
    viewer.ask("/sign-in", CLICKED, "POST", {"token": token})
    assert viewer.ask("/").status == 200
    viewer.book.revoke_token(viewer.book.tokens()[0].id)
    assert viewer.ask("/").status == 401
    assert viewer.ask("/sign-in", CLICKED, "POST", {"token": token}).status == 403


def test_a_sign_in_leads_to_the_call_and_nowhere_else(viewer: RunningViewer) -> None:
    row = viewer.keep(a_document(CANARY))
    assert f"value='{row.id}'" in viewer.ask(f"/requests/{row.id}").text
    for wanted, led in (
        (str(row.id), f"/requests/{row.id}"),
        ("https://evil.example", "/"),
        ("//evil.example", "/"),
        ("../..", "/"),
        ("", "/"),
    ):
        told = viewer.ask("/sign-in", CLICKED, "POST", {"token": viewer.token(), "next": wanted})
        assert told.values("location") == [led]


@pytest.mark.parametrize("form", [{"token": "x" * 5000}, {str(number): "x" for number in range(20)}, {}])
def test_a_form_that_is_none_of_ours_is_refused(viewer: RunningViewer, form: dict[str, str]) -> None:
    assert viewer.ask("/sign-in", CLICKED, "POST", form).status in (403, 404)
    assert viewer.ask("/sign-in", {**CLICKED, "Content-Type": "text/plain"}, "POST").status == 404


@pytest.mark.parametrize("path", BODIES)
def test_another_site_s_link_opens_nothing_by_itself(viewer: RunningViewer, path: str) -> None:
    row = viewer.keep(a_document(CANARY))
    viewer.sign_in()
    told = viewer.ask(f"/requests/{row.id}{path}", LED)
    assert (told.status, CANARY in told.text) == (200, False)
    assert f"href='/requests/{row.id}'" in told.text
    assert viewer.openings() == []


def test_every_answer_carries_what_keeps_others_out(viewer: RunningViewer) -> None:
    viewer.sign_in()
    asked = [viewer.ask(path, CLICKED, method, {} if method == "POST" else None) for method, path in addresses(viewer)]
    asked += [
        viewer.ask("/nowhere"),
        viewer.ask("/", host="evil.example"),
        viewer.ask("/", {}),
        viewer.ask("/requests/x"),
    ]
    asked += [viewer.ask("/", {**TYPED, "Origin": "https://evil.example"}), viewer.ask("/", CLICKED, "OPTIONS")]
    assert {told.status for told in asked} >= {200, 303, 404, 421, 403, 405}
    for told in asked:
        carried = dict(told.fields)
        assert all(carried[name.decode()] == value.decode() for name, value in HEADERS.items())
        assert not [name for name, _ in told.fields if name.startswith("access-control")]


@pytest.mark.parametrize("host", ["127.0.0.1", "evil.example", "localhost", "LOCALHOST:1"])
def test_an_unknown_host_is_421(viewer: RunningViewer, host: str) -> None:
    viewer.sign_in()
    told = viewer.ask("/", host=host)
    assert told.status == 421
    assert b"<html" not in told.body


def test_a_download_is_octets_with_a_name_of_ours(viewer: RunningViewer) -> None:
    document = a_document("<script>alert(1)</script>")
    row = viewer.keep(document)
    viewer.sign_in()
    told = viewer.ask(f"/requests/{row.id}/download", CLICKED)
    assert told.values("content-type") == ["application/octet-stream"]
    assert told.values("content-disposition") == [f'attachment; filename="{row.id}.json"']
    assert orjson.loads(told.body) == document
    assert [each.act for each in viewer.openings()] == [ViewAct.DOWNLOADED]


class Hanging(MemoryBodyStore):
    """A bucket that takes the question and does not answer."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.ends = threading.Event()

    def get(self, key: str, most_bytes: int | None = None) -> bytes:
        self.asked += 1
        self.ends.wait(60)
        raise StoreUnavailable


def test_a_bucket_that_does_not_answer_is_said_and_holds_up_no_other(viewer: RunningViewer) -> None:
    config_id, bucket, told = uuid4(), Hanging(), []
    viewer.others[config_id] = bucket
    slow, other = viewer.keep(a_document(CANARY), storage_config_id=config_id), viewer.keep(a_document("of another"))
    viewer.sign_in()
    asking = [
        threading.Thread(target=lambda: told.append(viewer.ask(f"/requests/{slow.id}"))) for _ in range(AT_ONCE + 2)
    ]
    for each in asking:
        each.start()
    eventually(lambda: bucket.asked == AT_ONCE)
    assert "of another" in viewer.ask(f"/requests/{other.id}").text
    for each in asking:
        each.join(60)
    bucket.ends.set()
    assert [each.status for each in told] == [503] * len(asking)
    assert all("did not answer in time" in each.text and each.values("retry-after") == ["5"] for each in told)
    assert f"href='/requests/{slow.id}'" in told[0].text
    assert bucket.asked == AT_ONCE
    assert [each.request_id for each in viewer.openings()] == [other.id]
    assert [each.code for each in viewer.account()].count("store_slow") == len(asking)


@pytest.mark.parametrize("path", BODIES)
def test_a_tampered_object_is_not_shown(viewer: RunningViewer, path: str) -> None:
    row = viewer.keep(a_document(CANARY))
    assert row.body_key is not None
    viewer.store.objects[row.body_key] = gzip.compress(orjson.dumps(a_document("PLANTED")))
    viewer.sign_in()
    told = viewer.ask(f"/requests/{row.id}{path}")
    assert (told.status, "PLANTED" in told.text) == (502, False)
    assert "SHA-256" in told.text
    assert [each.code for each in viewer.account()] == [None, "not_the_object"]


@pytest.mark.parametrize("path", BODIES)
def test_a_bomb_is_not_unpacked(viewer: RunningViewer, path: str) -> None:
    row = viewer.keep(gzip.compress(bytes(100 << 20), 9))
    viewer.sign_in()
    assert viewer.ask(f"/requests/{row.id}{path}").status == 413
    assert [each.code for each in viewer.account()] == [None, "body_too_large"]


@pytest.mark.parametrize("state", [each for each in BodyState if each is not BodyState.STORED])
def test_a_row_without_a_body_says_why(viewer: RunningViewer, state: BodyState) -> None:
    row = viewer.keep(a_document(CANARY), body_state=state)
    viewer.sign_in()
    told = viewer.ask(f"/requests/{row.id}")
    assert (told.status, CANARY in told.text) == (200, False)
    assert "class=note" in told.text
    assert viewer.ask(f"/requests/{row.id}/download").status == 404
    assert viewer.openings() == []


def test_a_long_body_is_read_page_by_page(viewer: RunningViewer) -> None:
    row = viewer.keep(a_document(body="start " + "x" * 500_000 + " end", body_encoding="text"))
    viewer.sign_in()
    first = viewer.ask(f"/requests/{row.id}").text
    assert "start x" in first
    assert "x end" not in first
    assert f"/requests/{row.id}/response?page=2" in first
    assert "x end" in viewer.ask(f"/requests/{row.id}/response?page=3").text
    for page in ("0", "-1", "99999999999", "x", ""):
        assert viewer.ask(f"/requests/{row.id}/response?page={page}").status == 200
    assert viewer.ask(f"/requests/{row.id}/nothing").status == 404


def test_what_cannot_be_laid_out_is_shown_as_it_is(viewer: RunningViewer) -> None:
    deep = b'{"request":' + b"[" * 300 + b"]" * 300 + b"}"
    row = viewer.keep(gzip.compress(deep))
    viewer.sign_in()
    assert "cannot" not in viewer.ask(f"/requests/{row.id}").text
    assert "[[[[[[" in viewer.ask(f"/requests/{row.id}").text
    assert "[[[[[[" in viewer.ask(f"/requests/{row.id}/document").text


@pytest.mark.parametrize(
    "name", ["requests/x", "requests/", "requests/%2e%2e", "docs", "openapi.json", "requests/{}/a/b"]
)
def test_there_is_nothing_else(viewer: RunningViewer, name: str) -> None:
    viewer.sign_in()
    told = viewer.ask(f"/{name}")
    assert told.status == 404
    assert "Nothing here" in told.text


def test_a_box_takes_an_id_and_nothing_else(viewer: RunningViewer) -> None:
    viewer.sign_in()
    wanted = new_id()
    assert viewer.ask(f"/find?id=%20{wanted}%20").values("location") == [f"/requests/{wanted}"]
    assert viewer.ask(f"/find?id={{{wanted}}}").values("location") == [f"/requests/{wanted}"]
    for wrong in ("", "//evil.example", "%0d%0aX:%201", "%3Cscript%3E"):
        told = viewer.ask(f"/find?id={wrong}")
        assert (told.status, "script>" in told.text.replace("&lt;script", "")) == (404, False)


def test_under_butler_s_own_host_nobody_signs_in(postgres: Database) -> None:
    with running_viewer(postgres, butler_urls=lambda: ["http://localhost:9000"]) as viewer:
        told = viewer.ask("/sign-in", CLICKED, "POST", {"token": viewer.token()})
        assert (told.status, told.values("set-cookie")) == (503, [])
        assert "host name of its own" in told.text


class Provider(IdentityProvider):
    """Takes any code for `ada`'s."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.groups = frozenset({"readers"})
        self.fault: Exception | None = None

    def address(self, state: str, nonce: str, challenge: str) -> str:
        self.asked.append((state, nonce, challenge))
        return f"https://login.example.com/?state={state}"

    def redeem(self, code: str, verifier: str, nonce: str) -> Person:
        self.asked.append((code, verifier, nonce))
        if self.fault is not None:
            raise self.fault
        return Person("ada", self.groups)

    def close(self) -> None:
        return None


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
def elsewhere(postgres: Database, provider: Provider) -> Iterator[RunningViewer]:
    """A viewer where people sign in elsewhere."""
    with running_viewer(postgres, {"readers": frozenset({ORG})}, lambda url: provider) as running:
        yield running


def state_of(told: Told) -> str:
    (location,) = told.values("location")
    return location.partition("state=")[2]


def test_a_person_comes_back_signed_in_to_where_he_wanted(elsewhere: RunningViewer, provider: Provider) -> None:
    row = elsewhere.keep(a_document(CANARY))
    left = elsewhere.ask(f"/sign-in/oidc?next={row.id}", CLICKED)
    assert left.status == 303
    back = elsewhere.ask(f"/sign-in/callback?code=c&state={state_of(left)}", LED)
    assert (back.status, back.values("location")) == (303, [f"/requests/{row.id}"])
    assert set(elsewhere.cookies) == {SESSION_COOKIE}
    (state, nonce, challenge), (code, verifier, said) = provider.asked
    assert (code, said) == ("c", nonce)
    assert len({state, nonce, verifier, challenge}) == 4
    assert [each.who for each in elsewhere.account()] == ["ada"]


def test_what_comes_back_to_another_browser_signs_nobody_in(elsewhere: RunningViewer, provider: Provider) -> None:
    state = state_of(elsewhere.ask("/sign-in/oidc", CLICKED))
    mine = dict(elsewhere.cookies)
    other = state_of(elsewhere.ask("/sign-in/oidc", CLICKED))
    for cookies, query in (
        ({}, f"code=c&state={state}"),
        (mine, f"code=c&state={other}"),
        (mine, "code=c"),
        (mine, f"state={state}"),
        (mine, f"error=access_denied&state={state}"),
        (mine, "code=c&state=%C3%A9"),
        ({SIGN_IN_COOKIE: ""}, "code=c&state="),
    ):
        elsewhere.cookies = dict(cookies)
        assert elsewhere.ask(f"/sign-in/callback?{query}", LED).status == 403, query
    assert elsewhere.account() == []
    assert not [each for each in provider.asked if each[0] == "c"]


def test_whom_the_provider_or_the_groups_do_not_let_in_stays_out(elsewhere: RunningViewer, provider: Provider) -> None:
    for fault, status in ((SignInRefused(), 403), (ProviderUnavailable(), 502)):
        provider.fault = fault
        state = state_of(elsewhere.ask("/sign-in/oidc", CLICKED))
        assert elsewhere.ask(f"/sign-in/callback?code=c&state={state}", LED).status == status
    provider.fault, provider.groups = None, frozenset({"others"})
    state = state_of(elsewhere.ask("/sign-in/oidc", CLICKED))
    assert elsewhere.ask(f"/sign-in/callback?code=c&state={state}", LED).status == 403
    assert elsewhere.account() == []
    assert SESSION_COOKIE not in elsewhere.cookies


def test_another_site_starts_no_sign_in_and_no_token_is_taken(elsewhere: RunningViewer, provider: Provider) -> None:
    assert elsewhere.ask("/sign-in/oidc", LED).status == 401
    assert provider.asked == []
    assert elsewhere.ask("/sign-in", CLICKED, "POST", {"token": elsewhere.token()}).status == 404
    assert elsewhere.account() == []


def test_by_token_there_is_no_other_way(viewer: RunningViewer) -> None:
    assert viewer.ask("/sign-in/oidc", CLICKED).status == 404
    assert viewer.ask("/sign-in/callback?code=c&state=s", LED).status == 404


def test_two_organisations_are_two_lists(postgres: Database, provider: Provider) -> None:
    groups = {"readers": frozenset({ORG, UUID(int=0)})}
    with running_viewer(postgres, groups, lambda url: provider) as viewer:
        mine, local = viewer.keep(a_document()), viewer.keep(a_document(), org_id=UUID(int=0))
        state = state_of(viewer.ask("/sign-in/oidc", CLICKED))
        viewer.ask(f"/sign-in/callback?code=c&state={state}", LED)
        first, second = viewer.ask("/").text, viewer.ask(f"/?org={ORG}").text
        assert (str(local.id) in first, str(mine.id) in first) == (True, False)
        assert (str(local.id) in second, str(mine.id) in second) == (False, True)
        assert viewer.ask(f"/requests/{mine.id}").status == viewer.ask(f"/requests/{local.id}").status == 200
