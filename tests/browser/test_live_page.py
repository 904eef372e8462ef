"""The live page in a real browser, against the running system."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from chaos.system import SYMBOLS
from playwright.sync_api import Page, expect

from browser.site import DESKTOP, PHONE, Site

pytestmark = pytest.mark.timeout(300)  # the first test starts the system

LOOKS = [
    pytest.param({"viewport": size, "color_scheme": scheme}, f"{where}-{scheme}", id=f"{where}-{scheme}")
    for where, size in (("desktop", DESKTOP), ("phone", PHONE))
    for scheme in ("light", "dark")
]
SERIOUS = ("serious", "critical")
MAKE_LETTER = """
import json
from django.utils import timezone
from deals.models import Deal
from workers.models import DeadLetter
deal, now = Deal.objects.get(pk={deal}), timezone.now()
Deal.objects.filter(pk=deal.pk).update(monitoring="dead", monitoring_since=now)
letter = DeadLetter.objects.create(
    deal=deal, version=deal.watch_version, task="workers.close_deals", price="101", fired="", attempts=3,
    error_class="ValueError", error="broken", first_failed_at=now, last_failed_at=now,
)
print(json.dumps(letter.pk))
"""
WATCH_FEED = """deal => {
    const seen = () => document.querySelector(`#feed-rows [data-deal="${deal}"]`);
    const note = () => { if (seen() && !window.seenAt) window.seenAt = Date.now(); };
    new MutationObserver(note).observe(document.querySelector('#feed-rows'), {childList: true});
    note();
}"""


def title(page: Page) -> Any:
    return page.locator("#banner-title")


def all_is_well(page: Page, timeout_s: float = 30) -> None:
    expect(title(page)).to_have_text("All is well", timeout=timeout_s * 1000)


def faults(page: Page) -> list[str]:
    """What axe-core calls serious, with the elements."""
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{one['id']}: {one['help']}: {[node['html'][:120] for node in one['nodes']]}"
        for one in found
        if one["impact"] in SERIOUS
    ]


# --- what is shown -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("look", "name"), LOOKS)
def test_the_page_says_that_all_is_well_without_an_error_or_a_fault(
    site: Site, look: dict[str, Any], name: str
) -> None:
    site.close_deal()
    page, watched = site.visit(**look)
    all_is_well(page)
    expect(page.locator("#feed-rows li").first).to_be_visible()
    expect(page.locator("#market-rows tr")).to_have_count(len(SYMBOLS))
    for tile in ("open", "armed", "unprotected", "rate", "p50", "p99", "oldest", "letters", "swept"):
        expect(page.locator(f"#tile-{tile} .value")).to_have_text(re.compile(r"\d"))
    expect(page.locator("#market-rows tr").first.locator("td").first).to_have_text(re.compile(r"\d"))
    expect(page.locator("#process-rows tr")).to_have_count(5)
    expect(page.locator("#letters-empty")).to_have_text(re.compile("^None"))
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "it scrolls sideways"
    site.picture(page, name)
    assert faults(page) == []
    assert watched.errors == []
    assert watched.hosts == {f"127.0.0.1:{site.system.web_port}"}


def test_a_closure_appears_within_a_second_of_its_commit(site: Site) -> None:
    page, _ = site.visit()
    deal = site.open_deal("ETHUSDT")
    page.evaluate(WATCH_FEED, deal)
    site.feed.go({"ETHUSDT": site.feed.price("ETHUSDT") * Decimal("1.02")})
    row = page.locator(f'#feed-rows [data-deal="{deal}"]')
    expect(row).to_be_visible()
    expect(row).to_contain_text("Take Profit")
    expect(row.get_by_role("link", name=f"deal {deal}")).to_have_attribute("href", f"/admin/deals/deal/{deal}/change/")
    [(committed_at,)] = site.system.sql(
        "SELECT committed_at FROM settlements JOIN deals ON settlement_id = settlements.id WHERE deals.id = %s", deal
    )
    seen_at = datetime.fromtimestamp(page.evaluate("window.seenAt") / 1000, UTC)
    assert (seen_at - committed_at).total_seconds() < 1


def test_numbers_and_times_are_written_as_the_operator_writes_them(site: Site) -> None:
    page, _ = site.visit(locale="de-DE", timezone_id="Europe/Berlin")
    expect(page.locator("#fact-since")).to_have_text(re.compile(r"\d{2}:\d{2}:\d{2} MEZ|\d{2}:\d{2}:\d{2} MESZ"))
    expect(page.locator("#market-rows tr").first.locator("td").first).to_have_text(re.compile(r"^\d+,\d{4}$"))


def test_a_symbol_shows_its_price_and_what_waits_near_it(site: Site) -> None:
    deal = site.close_deal("XRPUSDT")
    site.open_deal("XRPUSDT")
    page, watched = site.visit()
    name = page.get_by_role("button", name="XRPUSDT")
    name.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="XRPUSDT")).to_be_visible()
    chart = page.get_by_role("img", name=re.compile("^Price of XRPUSDT: .* 1 triggers wait near it above"))
    expect(chart).to_be_visible(timeout=20_000)
    expect(page.locator("#symbol-closures li").first).to_contain_text(f"deal {deal}")
    site.picture(page, "symbol")
    assert faults(page) == []
    page.keyboard.press("Escape")
    expect(page.locator("#symbol")).to_be_hidden()
    expect(name).to_be_focused()
    assert watched.errors == []


def test_no_page_breaks_the_policy(site: Site) -> None:
    page, watched = site.visit()
    deal = site.open_deal()
    for place in ("/admin/", "/admin/deals/deal/", f"/admin/deals/deal/{deal}/change/", "/admin/workers/auditentry/"):
        page.goto(site.address + place)
        page.wait_for_load_state("load")
        expect(page.locator("#main")).to_be_visible()
    page.goto(f"{site.address}/api/docs")
    expect(page.get_by_role("heading", name="CryptoCraze automatic TP/SL")).to_be_visible(timeout=30_000)
    assert watched.errors == []
    assert watched.hosts == {f"127.0.0.1:{site.system.web_port}"}


# --- when something is wrong -------------------------------------------------------------------------------------


def test_a_feed_that_falls_silent_turns_the_banner_and_says_what_to_do(site: Site) -> None:
    site.open_deal()
    page, _ = site.visit()
    all_is_well(page)
    with site.standing_still("prices"):
        expect(page.locator("#banner")).to_have_attribute("data-tone", "bad", timeout=20_000)
        reason = page.locator("#banner-reasons li").filter(has_text="No fresh price of BTCUSDT")
        expect(reason).to_be_visible()
        reason.locator("summary").click()
        expect(reason).to_contain_text("is it still traded")
        expect(page.locator('#market-rows tr[data-symbol="BTCUSDT"]')).to_have_class("stale")
        site.picture(page, "no-prices")
        assert faults(page) == []
    all_is_well(page, 40)


def test_without_the_stream_the_page_says_since_when_and_comes_back(site: Site) -> None:
    page, _ = site.visit()
    all_is_well(page)
    with site.standing_still("web"):
        expect(title(page)).to_have_text(re.compile("^Not live since .*:.*"), timeout=25_000)
        expect(page.locator("#live")).to_have_attribute("data-live", "no")
        expect(page.locator("#stream-text")).to_have_text("not live")
        site.picture(page, "not-live")
    all_is_well(page, 40)
    expect(page.locator("#live")).to_have_attribute("data-live", "yes")


def test_after_a_lost_log_the_page_begins_anew(site: Site) -> None:
    page, _ = site.visit()
    all_is_well(page)
    site.system.redis.delete("events")
    deal = site.close_deal("BNBUSDT")
    expect(page.locator(f'#feed-rows [data-deal="{deal}"]')).to_be_visible()
    all_is_well(page)


def test_who_is_logged_out_is_told_so(site: Site) -> None:
    page, _ = site.visit()
    all_is_well(page)
    page.context.clear_cookies()
    site.kill("web")
    expect(title(page)).to_have_text("You are logged out", timeout=40_000)


# --- control -----------------------------------------------------------------------------------------------------


def test_an_emergency_stop_by_keyboard_alone_works_and_is_audited(site: Site) -> None:
    page, _ = site.visit()
    all_is_well(page)
    tab_to(page, "Emergency stop…")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="Stop at once?")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#ask")).to_be_hidden()
    expect(page.get_by_role("button", name="Emergency stop…")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.type("prices look wrong")
    site.picture(page, "asking")
    assert faults(page) == []
    page.keyboard.press("Enter")
    expect(title(page)).to_have_text("Halted")
    expect(page.locator("#operation")).to_contain_text("Emergency stop is done")
    assert site.system.sql("SELECT state FROM system_state") == [("halted",)]
    [(who, action, reason)] = site.system.sql("SELECT who, action, reason FROM audit_entries ORDER BY id DESC LIMIT 1")
    assert (who, reason) == ("operator", "prices look wrong")
    assert "stop" in action
    site.picture(page, "halted")
    assert faults(page) == []
    page.get_by_role("button", name="Resume…").click()
    page.get_by_label("Reason, for the audit log").fill("they were right")
    page.get_by_role("button", name="Resume", exact=True).click()
    all_is_well(page)
    expect(page.locator("#operation")).to_contain_text("Resume is done")


def tab_to(page: Page, name: str) -> None:
    """Press Tab until this control has the focus, as someone without a mouse does."""
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent.trim()") == name:
            ring = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert ring == "solid", "the focus is not seen"
            return
    raise AssertionError(f"{name} cannot be reached by Tab")


def test_a_reason_must_be_given_and_a_refusal_is_told(site: Site) -> None:
    page, _ = site.visit()
    page.get_by_role("button", name="Drain and stop…").click()
    page.get_by_label("Reason, for the audit log").fill("   ")
    page.get_by_role("button", name="Drain and stop", exact=True).click()
    expect(page.locator("#ask-error")).to_have_text(re.compile("Say why"))
    assert site.system.sql("SELECT state FROM system_state") == [("running",)]


def test_a_dead_letter_is_told_and_discarded_with_a_reason(site: Site) -> None:
    deal = site.open_deal("SOLUSDT")
    letter = site.system.shell(MAKE_LETTER.format(deal=deal))
    page, _ = site.visit()
    expect(title(page)).to_have_text("One deal is unprotected", timeout=15_000)
    row = page.locator(f'#letters-rows [data-letter="{letter}"]')
    expect(row).to_contain_text("ValueError: broken")
    site.picture(page, "dead-letter")
    assert faults(page) == []
    row.get_by_role("button", name="Discard…").click()
    page.get_by_label("Reason, for the audit log").fill("cannot be mended")
    page.get_by_role("button", name="Discard", exact=True).click()
    expect(page.locator("#letters-empty")).to_be_visible()
    assert site.system.sql("SELECT state FROM dead_letters WHERE id = %s", letter) == [("discarded",)]
    all_is_well(page)


def test_support_sees_everything_and_no_button(site: Site) -> None:
    page, watched = site.visit("support")
    all_is_well(page)
    expect(page.locator("#banner")).to_contain_text("You may look.")
    expect(page.locator("#letters-empty")).to_have_text(re.compile("^None"))
    assert page.locator("[data-control]").count() == 0
    for name in ("Emergency stop", "Restart", "Drain", "Resume", "Requeue", "Discard"):
        assert page.get_by_role("button", name=name).count() == 0
    site.picture(page, "support")
    assert watched.errors == []
