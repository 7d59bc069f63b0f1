"""The dashboard in Chromium: what a person does on it; both themes, three widths, by keyboard, and without scripts.

Each window must stay quiet (see conftest): no console error, no error of a script, no request to a foreign host.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any, Final
from uuid import uuid4

import orjson
import pytest
from playwright.sync_api import expect

from steward.butler.reading import records
from steward.butler.views import CallRow, Filter
from tests.browser.conftest import Site, Windows

PAGES: Final = {
    "overview": "/",
    "latency": "/?measure=latency&range=7d",
    "requests": "/requests",
    "keys": "/keys",
    "create-key": "/keys?new=1",
    "stewards": "/stewards",
    "storage": "/storage",
    "provider-keys": "/provider-keys?new=1",
    "metadata": "/metadata",
    "members": "/members",
    "audit": "/audit",
}
_SEEN: Final = "(name) => getComputedStyle(document.body).getPropertyValue(name)"


def _newest(site: Site, **narrower: Any) -> CallRow:
    bench = site.house.bench
    which = Filter(bench.clock() - timedelta(days=1), bench.clock(), **narrower)
    return bench.services.explorer.page(site.house.acme.owner.org_id, which).rows[0]


def test_a_person_signs_in_and_sees_how_things_are(windows: Windows) -> None:
    window = windows.open()
    page = window.go("/requests?model=gpt-5")
    assert page.url.endswith("/sign-in?next=%2Frequests%3Fmodel%3Dgpt-5")
    window.keep("sign-in-1440-light")
    page.get_by_label("Email").fill("owner@acme.example")
    page.get_by_label("Password").fill("correct horse battery")
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/requests?model=gpt-5")
    page.get_by_role("link", name="Overview").click()
    expect(page.get_by_role("heading", name="Cost over time")).to_be_visible()
    expect(page.locator(".figure")).to_have_count(5)
    assert page.locator("[data-chart] path").count() >= 5


def test_a_wrong_password_is_said_and_signs_nobody_in(windows: Windows) -> None:
    window = windows.open()
    page = window.go("/sign-in")
    page.get_by_label("Email").fill("owner@acme.example")
    page.get_by_label("Password").fill("not the password")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("The e-mail address or the password is wrong.")
    window.wrong = [each for each in window.wrong if "401" not in each]  # the browser's own word for the answer
    assert window.wrong == []


def test_a_key_is_made_copied_and_revoked(windows: Windows) -> None:
    window = windows.open(permissions=["clipboard-read", "clipboard-write"])
    page = window.sign_in()
    page.get_by_role("link", name="API keys").click()
    page.get_by_role("link", name="Create a key").click()
    page.get_by_label("Name").fill("browser-made")
    page.get_by_role("button", name="Create key").click()
    secret = page.locator(".command code").first.inner_text()
    assert re.fullmatch(r"mdm_sk_[A-Za-z0-9_-]{20,}", secret)
    page.get_by_role("button", name="Copy the key").click()
    expect(page.get_by_role("button", name="Copy the key")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == secret
    assert f"X-Majordomo-Key: {secret}" in page.locator(".command code").nth(1).inner_text()
    window.keep("key-made-1440-light")
    page.get_by_role("link", name="I have copied it").click()
    assert secret not in page.content()
    page.get_by_role("row", name="browser-made").get_by_role("link", name="Revoke").click()
    expect(page.get_by_role("heading", name="Revoke “browser-made”?")).to_be_visible()
    page.get_by_role("button", name="Revoke “browser-made”").click()
    expect(page.get_by_role("row", name="browser-made")).to_contain_text("revoked")


def test_storage_is_set_and_its_secret_is_gone_from_the_page(windows: Windows) -> None:
    window = windows.open()
    page = window.sign_in()
    page.get_by_role("link", name="Storage").click()
    form = page.locator('form[action="/storage/organisation"]')
    expect(form.get_by_label("Project id")).to_be_hidden()
    form.get_by_label("Google Cloud Storage").check()
    expect(form.get_by_label("Region")).to_be_hidden()
    expect(form.get_by_label("Project id")).to_be_visible()
    form.get_by_label("Amazon S3 or compatible").check()
    form.get_by_label("Bucket").fill("browser-bodies")
    form.get_by_label("Region").fill("eu-central-1")
    form.get_by_label("Access key id").fill("AKIAIOSFODNN7EXAMPLE")
    form.get_by_label("Secret access key").fill("never-to-be-seen-again")
    form.get_by_role("button", name="Save organisation storage").click()
    expect(page.get_by_text("Saved the organisation storage")).to_be_visible()
    expect(page.locator("dl", has_text="browser-bodies")).to_contain_text("set; nobody can read it back here")
    assert "never-to-be-seen-again" not in page.content()
    window.keep("storage-set-1440-light")


def test_filters_narrow_are_chips_and_stand_in_the_address(windows: Windows) -> None:
    window = windows.open()
    page = window.sign_in()
    page.get_by_role("link", name="Requests").click()
    page.locator("summary", has_text="Provider").click()
    page.get_by_role("link", name="anthropic", exact=True).click()
    page.wait_for_url("**provider=anthropic**")
    expect(page.locator(".chip")).to_have_count(1)
    assert set(page.locator("tr.row td:nth-child(2) .sub").all_inner_texts()) == {"anthropic"}
    page.locator("[data-filter]").fill("Feature=triage")
    page.keyboard.press("Enter")
    expect(page.locator(".chip")).to_have_count(2)
    window.keep("requests-filtered-1440-light")
    page.get_by_role("link", name="Remove the filter provider anthropic").click()
    expect(page.locator(".chip")).to_have_count(1)
    link = page.url
    other = windows.open()
    other.sign_in()
    expect(other.go(link.removeprefix(window.site.address)).locator(".chip")).to_contain_text("triage")


def test_a_row_opens_a_panel_and_the_panel_its_page(windows: Windows, site: Site) -> None:
    window = windows.open()
    page = window.sign_in()
    window.go("/requests")
    call = _newest(site)
    page.locator(f"#r-{call.id} .row-link").click()
    panel = page.get_by_role("complementary", name=f"Call {call.id}")
    expect(panel).to_contain_text(call.model)
    assert page.url.endswith(f"open={call.id}")
    window.keep("panel-1440-light")
    page.go_back()
    expect(panel).to_have_count(0)
    page.go_forward()
    panel.get_by_role("link", name="Open the page").click()
    page.wait_for_url(f"**/requests/{call.id}")
    expect(page.get_by_role("heading", name="Where the time went")).to_be_visible()
    expect(page.get_by_text("The body is not here")).to_be_visible()
    window.keep("request-1440-light")


def test_everything_is_done_by_keyboard(windows: Windows) -> None:
    window = windows.open()
    page = window.sign_in()
    window.go("/requests")
    expect(page.locator("html.no-js")).to_have_count(0)
    page.keyboard.press("/")
    expect(page.locator("[data-filter]")).to_be_focused()
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("j")
    expect(page.locator("tr.row").nth(1).locator(".row-link")).to_be_focused()
    page.keyboard.press("k")
    page.keyboard.press("Enter")
    expect(page.locator("[data-panel]")).to_be_visible()
    first = page.url
    page.keyboard.press("j")
    page.wait_for_url(lambda url: url != first)
    expect(page.locator("tr.row").nth(1)).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Escape")
    expect(page.locator("[data-panel]")).to_have_count(0)
    page.keyboard.press("Tab")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none" or page.locator(".row-link:focus-visible").count() == 1


def test_metadata_keys_are_labelled_and_switched(windows: Windows) -> None:
    window = windows.open()
    page = window.sign_in()
    page.get_by_role("link", name="Metadata keys").click()
    expect(page.get_by_role("button", name="Save the label of User-Id")).to_be_disabled()
    page.get_by_label("Label of User-Id").fill("Person")
    page.get_by_role("button", name="Save the label of User-Id").click()
    expect(page.get_by_label("Label of User-Id")).to_have_value("Person")
    page.get_by_role("switch", name="User-Id is active").click()
    expect(page.get_by_role("switch", name="User-Id is active")).to_have_attribute("aria-checked", "true")
    window.keep("metadata-switched-1440-light")
    page.get_by_role("switch", name="User-Id is active").click()
    expect(page.get_by_role("switch", name="User-Id is active")).to_have_attribute("aria-checked", "false")


def test_the_theme_follows_the_system_and_the_switch_which_is_kept(windows: Windows) -> None:
    dark = windows.open(color_scheme="dark")
    page = dark.sign_in()
    assert page.evaluate(_SEEN, "--page").strip() == "#121317"
    window = windows.open(color_scheme="light")
    page = window.sign_in()
    assert page.evaluate(_SEEN, "--page").strip() == "#ffffff"
    page.get_by_role("button", name="colours; change").click()
    assert page.evaluate(_SEEN, "--page").strip() == "#121317"
    window.go("/keys")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.get_by_role("button", name="colours; change").click()
    assert page.evaluate(_SEEN, "--page").strip() == "#ffffff"


@pytest.mark.parametrize(("theme", "width"), [("light", 1440), ("light", 768), ("dark", 1440), ("dark", 360)])
def test_every_page_fits_its_window(windows: Windows, site: Site, theme: str, width: int) -> None:
    window = windows.open(width=width, height=800, color_scheme=theme)
    page = window.sign_in()
    call = _newest(site)
    for name, path in {**PAGES, "request": f"/requests/{call.id}", "panel": f"/requests?open={call.id}"}.items():
        window.go(path)
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"{name} is {wide} wide in a window of {width}"
        window.keep(f"{name}-{width}-{theme}")


def test_a_narrow_table_is_cards_that_can_be_read_and_opened(windows: Windows, site: Site) -> None:
    window = windows.open(width=360, height=740)
    page = window.sign_in()
    window.go("/requests")
    for menu in page.locator("details.menu summary").all():
        menu.click()
        box = page.locator("details.menu[open] .menu-body").bounding_box()
        assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= 360
        page.keyboard.press("Escape")
    row = page.locator(f"#r-{_newest(site).id}")
    shown = [cell for cell in row.locator("td").all() if cell.is_visible()]
    assert 3 <= len(shown) <= 4
    row.locator(".row-link").click()
    panel = page.locator("[data-panel]")
    expect(panel).to_be_visible()
    box = panel.bounding_box()
    assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= 360
    panel.get_by_role("link", name="Close the panel").click()
    expect(panel).to_have_count(0)
    page.get_by_role("link", name="Storage").click()
    expect(page.get_by_role("heading", name="Storage", exact=True)).to_be_visible()


def test_new_calls_come_by_themselves_until_paused_and_never_move_what_is_read(windows: Windows, site: Site) -> None:
    window = windows.open()
    page = window.sign_in()
    window.go("/requests")
    known = _newest(site).id
    page.mouse.move(5, 5)
    first = _call(site)
    expect(page.locator(f"#r-{first}")).to_be_visible()
    page.locator(f"#r-{known} .row-link").focus()
    second = _call(site)
    expect(page.get_by_role("button", name="newer call")).to_be_visible()
    expect(page.locator(f"#r-{second}")).to_have_count(0)
    page.get_by_role("button", name="newer call").click()
    expect(page.locator(f"#r-{second}")).to_be_visible()
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("[data-live-word]")).to_have_text("Paused")
    assert "paused=1" in page.url
    page.get_by_role("button", name="Resume").click()
    assert "paused" not in page.url
    expect(page.locator("[data-live-word]")).to_have_text("Live")


def _call(site: Site) -> str:
    """One call more, half a second before now: newer than all others."""
    bench, call_id = site.house.bench, str(uuid4())
    at = bench.clock.forward(timedelta(milliseconds=500))
    told = {
        **{"id": call_id, "revision": 1, "provider": "openai", "model": "gpt-5", "request_path": "/v1/responses"},
        **{
            "request_method": "POST",
            "requested_at": (at - timedelta(milliseconds=100)).isoformat(),
            "status_code": 200,
        },
        **{"outcome": "complete", "usage_source": "none", "body_state": "stored", "model_alias_found": False},
    }
    document = orjson.dumps({"records": [told]})
    bench.services.records.ingest(site.house.acme.bearer, records(document, site.house.acme.bearer.org_id), at)
    return call_id


def test_a_chart_tells_its_figures_beside_the_pointer_and_as_a_table(windows: Windows) -> None:
    window = windows.open()
    page = window.sign_in()
    page.locator(".hit").nth(18).hover()
    expect(page.locator(".tip")).to_be_visible()
    assert "$" in page.locator(".tip").inner_text() and "\n" in page.locator(".tip").inner_text()
    page.get_by_text("The same figures as a table").click()
    expect(page.locator(".table-twin tbody tr").first).to_be_visible()
    page.mouse.move(5, 5)
    expect(page.locator(".tip")).to_be_hidden()


def test_every_page_is_whole_without_scripts(windows: Windows, site: Site) -> None:
    window = windows.open(java_script_enabled=False)
    page = window.sign_in()
    expect(page.locator(".figure")).to_have_count(5)
    expect(page.get_by_text("Live", exact=True)).to_be_hidden()
    window.go("/requests")
    page.locator("summary", has_text="Provider").click()
    page.get_by_role("link", name="openai", exact=True).click()
    expect(page.locator(".chip")).to_have_count(1)
    page.locator("tr.row .row-link").first.click()
    expect(page.locator(".panel")).to_be_visible()
    page.get_by_role("link", name="Close the panel").click()
    expect(page.locator(".panel")).to_have_count(0)
    page.get_by_role("link", name="Older").click()
    expect(page.get_by_role("link", name="Newer")).to_be_visible()
    window.go("/keys?new=1")
    page.get_by_label("Name").fill("made-without-scripts")
    page.get_by_role("button", name="Create key").click()
    expect(page.get_by_text("Copy it now.")).to_be_visible()
    page.get_by_role("button", name="colours; change").click()
    expect(page.locator('html[data-theme="dark"]')).to_have_count(1)


def test_a_callers_markup_is_text(windows: Windows) -> None:
    window = windows.open()
    page = window.sign_in()
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    window.go("/?tag=Feature&range=7d")
    expect(page.get_by_text("<script>alert('tag')</script>")).to_be_visible()
    page.get_by_role("link", name="<script>alert('tag')</script>").click()
    expect(page.locator(".chip")).to_contain_text("<script>")
    page.locator("tr.row .row-link").first.click()
    expect(page.locator("[data-panel]")).to_contain_text("<script>alert('tag')</script>")
    assert dialogs == []
