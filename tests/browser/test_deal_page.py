"""A deal's own page in a real browser: its chart is drawn, it follows the deal, and it fits a phone."""

from __future__ import annotations

import re
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from browser.site import DESKTOP, PHONE, Site, Watched

LOOKS = [
    pytest.param({"viewport": size, "color_scheme": scheme}, f"deal-{where}-{scheme}", id=f"{where}-{scheme}")
    for where, size in (("desktop", DESKTOP), ("phone", PHONE))
    for scheme in ("light", "dark")
]
SERIOUS = {"serious", "critical"}


@pytest.fixture
def closed(site: Site) -> int:
    """A deal that reached its Take Profit."""
    return site.close_deal()


def look_at(site: Site, deal: int, user: str = "operator", **look: Any) -> tuple[Page, Watched]:
    """The deal's page, with its chart drawn."""
    page, watched = site.visit(user, **look)
    watched.errors.clear()
    page.goto(f"{site.address}/admin/deals/deal/{deal}/change/")
    expect(page.locator("#deal-chart-note")).to_contain_text("Each point is")
    return page, watched


@pytest.mark.parametrize(("look", "name"), LOOKS)
def test_it_shows_chart_explanation_and_history_without_an_error_or_a_fault(
    site: Site, closed: int, look: dict[str, Any], name: str
) -> None:
    page, watched = look_at(site, closed, **look)

    chart = page.get_by_role("img", name="Price of BTCUSDT")
    expect(chart).to_have_accessible_name(re.compile("Take Profit .* Opened at .* Closed at "))
    assert _is_drawn(page)
    for title in ("Price", "From the tick to the commit", "History"):
        expect(page.get_by_role("region", name=title)).to_be_visible()
    steps = page.get_by_role("region", name="History").get_by_role("listitem")
    expect(steps.last).to_contain_text("Closed at")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert faults(page) == []
    assert watched.errors == []
    site.picture(page, name)


def test_an_open_page_follows_the_deal_to_its_closing(site: Site) -> None:
    deal = site.open_deal()
    page, watched = look_at(site, deal)
    expect(page.get_by_role("region", name="Why it is open")).to_contain_text("has not reached a trigger")

    site.feed.go({"BTCUSDT": site.feed.price("BTCUSDT") * 2})

    expect(page.get_by_role("region", name="From the tick to the commit")).to_be_visible(timeout=30_000)
    expect(page.locator("#deal_form")).to_contain_text("ended: the deal is closed")
    assert watched.errors == []


def test_support_sees_it_too(site: Site, closed: int) -> None:
    page, watched = look_at(site, closed, "support")

    assert _is_drawn(page)
    assert watched.errors == []


def test_without_the_web_process_it_says_that_it_is_not_read_any_more(site: Site) -> None:
    page, _watched = look_at(site, site.open_deal())

    page.context.set_offline(True)

    expect(page.get_by_text("It cannot be read at the moment.")).to_be_visible(timeout=15_000)
    expect(page.locator("#deal-chart-note")).to_contain_text("The chart cannot be read.")


def faults(page: Page) -> list[str]:
    """What axe-core calls serious in our part of the page, with the elements."""
    found = Axe().run(page, context="#deal", options={"resultTypes": ["violations"]}).response["violations"]
    return [f"{one['id']}: {[node['html'] for node in one['nodes']]}" for one in found if one["impact"] in SERIOUS]


def _is_drawn(page: Page) -> bool:
    """Whether anything was painted on the canvas."""
    return bool(
        page.evaluate(
            "() => { const canvas = document.getElementById('deal-chart');"
            " const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);"
            " return data.some((value) => value !== 0); }"
        )
    )
