"""Headless Chromium, and screenshots in a folder that CI can keep; where it cannot be had, the tests are skipped with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browser import DRAWN_MS, LONGEST_MS, OFFLINE, chromium, keep

LONGEST_S = 3600  # of a test, on a machine that has other work


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(LONGEST_S))


@pytest.fixture(scope="session")
def page() -> Iterator:
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install playwright")
    path = chromium()
    flags = ["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in OFFLINE)]
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, headless=True, args=flags, timeout=LONGEST_MS)
        one = browser.new_page(viewport={"width": 2200, "height": 1200})
        one.set_default_timeout(LONGEST_MS)
        yield one
        browser.close()


@pytest.fixture
def shown(page) -> Callable[..., str]:
    """Opens an address, waits until the page has certain words, keeps a screenshot, and gives the text of the page."""

    def show(name: str, address: str, *words: str) -> str:
        page.goto("about:blank")
        page.goto(address, wait_until="commit")
        try:
            for word in words:
                page.wait_for_function("word => document.body && document.body.innerText.includes(word)", arg=word)
            page.wait_for_timeout(DRAWN_MS)
        finally:
            keep(page, name)  # of a page that lacks a word too
        return page.inner_text("body")

    return show
