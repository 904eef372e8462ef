"""The running system as people see it: their log-ins, pages that watch for errors, and pictures of them."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from chaos.feed import Feed
from chaos.system import System, wait
from playwright.sync_api import Browser, BrowserContext, Page, expect

PICTURES: Final = Path(__file__).parent / "screenshots"
DESKTOP: Final = {"width": 1440, "height": 1000}
PHONE: Final = {"width": 375, "height": 812}
MAKE_STAFF: Final = """
import json
from django.contrib.auth.models import Group, User
for name in ("operator", "support"):
    user = User.objects.create_user(name, password="browser", is_staff=True)
    user.groups.add(Group.objects.get(name={"operator": "operators"}.get(name, name)))
print(json.dumps("made"))
"""


@dataclass
class Watched:
    """What a page did besides what it shows."""

    errors: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)


class Site:
    """A system, prices that stand still unless they are moved, and a browser."""

    def __init__(self, system: System, feed: Feed, browser: Browser) -> None:
        self.system = system
        self.feed = feed
        self.address = f"http://127.0.0.1:{system.web_port}"
        self._browser = browser
        self._sessions: dict[str, Any] = {}
        self._contexts: list[BrowserContext] = []
        self._deals = 0

    def visit(self, user: str = "operator", **look: Any) -> tuple[Page, Watched]:
        """The live page as this user sees it, once it is live. `look`: viewport, color_scheme, locale, timezone_id."""
        if user not in self._sessions:
            self._sessions[user] = self._log_in(user)
        page, watched = self._page(storage_state=self._sessions[user], **look)
        page.goto(f"{self.address}/admin/workers/")
        expect(page.locator("#live")).to_have_attribute("data-live", "yes")
        return page, watched

    def _log_in(self, user: str) -> Any:
        page, watched = self._page()
        page.goto(f"{self.address}/admin/")
        page.get_by_label("Username").fill(user)
        page.get_by_label("Password").fill("browser")
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url(f"{self.address}/admin/")
        assert watched.errors == []
        return page.context.storage_state()

    def _page(self, **how: Any) -> tuple[Page, Watched]:
        how.setdefault("viewport", DESKTOP)
        context = self._browser.new_context(**how)
        context.set_default_timeout(10_000)
        self._contexts.append(context)
        page, watched = context.new_page(), Watched()
        page.on("console", lambda said: watched.errors.append(said.text) if said.type in {"error", "warning"} else None)
        page.on("pageerror", lambda error: watched.errors.append(str(error)))
        page.on("request", lambda request: watched.hosts.add(urlsplit(request.url).netloc))
        return page, watched

    def leave(self) -> None:
        """Close every page."""
        for context in self._contexts:
            context.close()
        self._contexts.clear()

    # --- what happens meanwhile ------------------------------------------------------------------------------

    def open_deal(self, symbol: str = "BTCUSDT", *, gain: str = "1.01", loss: str = "0.5") -> int:
        """An armed deal of the first trader with levels at these shares of the price; its number."""
        price = self.feed.price(symbol)
        self._deals += 1
        body = {
            "symbol": symbol,
            "direction": "up",
            "amount": "10",
            "multiplier": 5,
            "takeProfit": f"{price * Decimal(gain):.4f}",
            "stopLoss": f"{price * Decimal(loss):.4f}",
            "clientId": f"browser-{self._deals}",
        }
        status, deal = self.system.ask("POST", "/api/deals", self.system.tokens[0], body)
        assert status == 201, deal
        number = int(deal["id"])
        wait(lambda: self._is(number, "monitoring = 'armed'"), 15, "the deal is armed")
        return number

    def _is(self, deal: int, condition: str) -> bool:
        return bool(self.system.sql(f"SELECT 1 FROM deals WHERE id = %s AND {condition}", deal))  # noqa: S608 our own text

    def close_deal(self, symbol: str = "BTCUSDT", **levels: str) -> int:
        """Open one and let the price reach its Take Profit; its number, when it is closed."""
        number = self.open_deal(symbol, **levels)
        self.feed.go({symbol: self.feed.price(symbol) * Decimal(levels.get("gain", "1.01")) + 1})
        wait(lambda: self._is(number, "status = 'closed'"), 15, "the deal is closed")
        return number

    @contextlib.contextmanager
    def standing_still(self, name: str) -> Iterator[None]:
        """A program that does nothing for a while, as on a machine that hangs."""
        pids = self.system.heads(name)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def kill(self, name: str) -> None:
        """kill -9; the supervisor brings it back."""
        for pid in self.system.heads(name):
            os.kill(pid, signal.SIGKILL)

    def picture(self, page: Page, name: str) -> None:
        """Keep how the whole page looks."""
        PICTURES.mkdir(exist_ok=True)
        page.screenshot(path=PICTURES / f"{name}.png", full_page=True)
