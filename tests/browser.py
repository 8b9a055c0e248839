"""A real browser for the tests: Debian's Chromium, or any Chrome there is, driven by Playwright."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_PATIENCE_MS = 200_000  # a busy machine takes minutes for what takes seconds on an idle one
_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def browser_path() -> str:
    """The browser's program; the test is skipped where there is none."""
    found = os.environ.get("AFD_BROWSER") or next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip("no browser: apt-get install chromium, or name one in AFD_BROWSER")
    return found


class Page:
    """A page as somebody sees it. complaints: what its console said, and what it failed to load.

    too_late: what is raised when something did not appear in time.
    """

    def __init__(self, page: Any) -> None:
        from playwright.sync_api import TimeoutError as PlaywrightTimeoutError

        self.too_late = PlaywrightTimeoutError
        self.page = page
        page.set_default_timeout(_PATIENCE_MS)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("requestfailed", lambda request: self.complaints.append(request.url))
        page.on("request", lambda request: self.requests.append(request.url))

    def open(self, file: Path) -> None:
        """Waits until every chart is drawn."""
        self.page.goto(file.as_uri())
        self.page.wait_for_selector("html[data-charts]")


@contextmanager
def running_browser() -> Iterator[Any]:
    """Playwright's browser, without a window."""
    playwright = pytest.importorskip("playwright.sync_api")
    program = browser_path()
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(
            executable_path=program, args=["--no-sandbox"], timeout=_PATIENCE_MS
        )
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(
    browser: Any, file: Path, *, width: int = 1280, dark: bool = False, **options: Any
) -> Iterator[Page]:
    """A page of its own. options: of Playwright's `new_context`."""
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme="dark" if dark else "light",
        offline=True,
        **options,
    )
    try:
        page = Page(context.new_page())
        page.open(file)
        yield page
    finally:
        context.close()
