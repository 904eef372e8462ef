"""One running system and one browser for all tests here; both end with the last of them.

Playwright's own event loop runs in this thread until then. No test here uses the database from within this process.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from servers import CHROMIUM

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from browser.site import Site

FLAGS: Final = ["--disable-gpu", "--disable-background-networking", "--disable-component-update", "--no-first-run"]
PROGRAMS: Final = ("web", "prices", "worker", "sweeper", "beat")
SEED: Final = 6


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, or else Playwright's own (`playwright install chromium`)."""
    from playwright.sync_api import sync_playwright

    path = CHROMIUM if CHROMIUM.exists() else None
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def running_site(browser: Browser) -> Iterator[Site]:
    """The system with its prices standing still, an operator and someone of support."""
    from chaos.feed import Feed
    from chaos.system import running_system

    from browser.site import MAKE_STAFF, Site

    procfile = Path(__file__).parent / "Procfile"
    with running_system(procfile=procfile, programs=PROGRAMS, PRICE_STALE_AFTER_S="4") as system:
        system.shell(MAKE_STAFF)
        feed = Feed(system, SEED)
        try:
            feed.go({})
            yield Site(system, feed, browser)
        finally:
            feed.end()


@pytest.fixture
def site(running_site: Site) -> Iterator[Site]:
    """The same with no page open before and after the test, and a system that runs."""
    yield running_site
    running_site.leave()
