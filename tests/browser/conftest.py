"""A real Chromium for the tests of a module, and a Butler to look at.

Missing, the tests are skipped and say so; where `CI` is set they fail. It is started for each module and ended with it:
Playwright keeps an event loop running in the thread that started it, and no other test could run its own there.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from steward.adapters.postgres_local import LocalPostgres
from steward.butler.app import create_butler
from tests.butler.pages.visits import House
from tests.butler.seed import seed
from tests.servers.butler import _TEMPLATE, PASSWORD, bench_over
from tests.servers.listening import listening
from tests.servers.postgres import _database

PLACES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
"""What the run looked like; kept for whoever wants to see it."""

PATIENCE_MS = 20_000

NewPage = Callable[..., Page]


def chromium() -> str | None:
    """Where this machine has one."""
    return next((found for name in PLACES if (found := shutil.which(name))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for a module's tests."""
    found = chromium()
    if found is None:
        words = "no Chromium is installed (make tools, or: apt-get install chromium); nothing was tried in a browser"
        assert not os.environ.get("CI"), words
        pytest.skip(words)
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield started
        started.close()


@pytest.fixture
def new_page(browser: Browser) -> Iterator[NewPage]:
    """Pages with nothing in common: `new_page(width=360, dark=True)`."""
    with ExitStack() as undo:

        def made(width: int = 1280, height: int = 900, dark: bool = False, **options: object) -> Page:
            context = browser.new_context(
                viewport={"width": width, "height": height},
                color_scheme="dark" if dark else "light",
                **options,  # type: ignore[arg-type]
            )
            undo.callback(context.close)
            context.set_default_timeout(15_000)
            return context.new_page()

        yield made


@pytest.fixture
def screenshot(request: pytest.FixtureRequest) -> Callable[[Page, str], Path]:
    """Keeps what a page looks like: `screenshot(page, "sign-in-360-dark")`."""

    def kept(page: Page, name: str) -> Path:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        path = SCREENSHOTS / f"{re.sub(r'[^a-z0-9-]+', '-', name.lower())}.png"
        page.screenshot(path=path, full_page=True)
        return path

    return kept


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

    browser: Browser
    site: Site
    opened: list[Window] = field(default_factory=list)

    def open(self, width: int = 1440, height: int = 900, **options: Any) -> Window:
        """A window of that size, with no cookie in it."""
        context = self.browser.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(PATIENCE_MS)
        window = Window(self.site, context, context.new_page())
        self.opened.append(window)
        return window


@pytest.fixture
def windows(browser: Browser, site: Site) -> Iterator[Windows]:
    """Quiet ones: no console error, no error of a script, no foreign host."""
    opener = Windows(browser, site)
    yield opener
    wrong = [each for window in opener.opened for each in window.wrong]
    for window in opener.opened:
        window.context.close()
    assert wrong == []
