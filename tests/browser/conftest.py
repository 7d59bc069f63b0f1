"""A real Chromium for the tests of a module. Missing, the tests are skipped and say so; where `CI` is set they fail.

It is started for each module and ended with it: Playwright keeps an event loop running in the thread that started it,
and no other test could run its own there.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

PLACES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
"""What the run looked like; kept for whoever wants to see it."""

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
