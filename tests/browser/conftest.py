"""Fixtures: Chromium, a Butler that listens, and a person's window on it that must stay quiet.

Everything here lives as long as one file of tests: Playwright's loop runs in this thread, which others need.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from steward.adapters.postgres_local import LocalPostgres
from steward.butler.app import create_butler
from tests.butler.pages.visits import House
from tests.butler.seed import seed
from tests.servers.butler import _TEMPLATE, PASSWORD, bench_over
from tests.servers.listening import listening
from tests.servers.postgres import _database

NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE_MS: Final = 20_000
SCREENSHOTS: Final = Path(__file__).parents[2] / "build" / "screenshots"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Headless, without a sandbox where root runs the tests."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None and os.environ.get("CI") != "true":
        pytest.skip("Chromium was not found; install with: apt-get install chromium")
    assert found is not None, "CI has Chromium: make tools"
    apart = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=[*apart, "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@dataclass
class Site:
    """A Butler that listens, with two days in it."""

    address: str
    house: House


@pytest.fixture(scope="module")
def site(butler_server: LocalPostgres) -> Iterator[Site]:
    """On a port of its own; its clock stands at a noon."""
    for database in _database(butler_server, _TEMPLATE):
        bench = bench_over(database)
        acme, other = bench.tenant("acme"), bench.tenant("other")
        day = seed(bench.services, acme.owner, acme.bearer, bench.clock(), 900, days=2)
        app = create_butler(bench.services)
        with listening(app, "httptools") as it:
            yield Site(f"http://127.0.0.1:{it.port}", House(bench, app, acme, other, day))


@dataclass
class Window:
    """A page of a browser, and everything that should not have happened in it."""

    site: Site
    context: BrowserContext
    page: Page
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", lambda said: self._said(said.type, said.text))
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on("request", lambda asked: self._asked(asked.url))

    def _said(self, kind: str, text: str) -> None:
        if kind in {"error", "warning"}:
            self.wrong.append(f"console: {text}")

    def _asked(self, url: str) -> None:
        if not url.startswith(self.site.address + "/"):
            self.wrong.append(f"a foreign host: {url}")

    def go(self, path: str) -> Page:
        self.page.goto(self.site.address + path)
        return self.page

    def sign_in(self, email: str | None = None) -> Page:
        page = self.go("/sign-in")
        page.get_by_label("Email").fill(email or self.site.house.acme.owner.email)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(f"{self.site.address}/")
        return page

    def keep(self, name: str) -> None:
        """A screenshot, for whoever looks at the run."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


@dataclass
class Windows:
    """Opens windows, and asks at the end of each test whether all of them were quiet."""

    chromium: Browser
    site: Site
    opened: list[Window] = field(default_factory=list)

    def open(self, width: int = 1440, height: int = 900, **options: Any) -> Window:
        """A window of that size, with no cookie in it."""
        context = self.chromium.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(PATIENCE_MS)
        window = Window(self.site, context, context.new_page())
        self.opened.append(window)
        return window


@pytest.fixture
def windows(chromium: Browser, site: Site) -> Iterator[Windows]:
    """Quiet ones: no console error, no error of a script, no foreign host."""
    opener = Windows(chromium, site)
    yield opener
    wrong = [each for window in opener.opened for each in window.wrong]
    for window in opener.opened:
        window.context.close()
    assert wrong == []
