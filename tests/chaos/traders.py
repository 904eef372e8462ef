"""Traders who open deals over REST, each under a name of its own, and ask again until they have an answer."""

from __future__ import annotations

import json
import random
import threading
import time
from decimal import Decimal
from typing import Any, Final

from chaos.feed import Feed
from chaos.system import SYMBOLS, System

NEAR: Final = (0.001, 0.015)
FAR: Final = (0.5, 0.9)
FAR_SHARE: Final = 0.1
AMOUNTS: Final = ("1", "2.5", "0.37")
GIVE_UP_S: Final = 120.0


class Traders:
    """Threads that open deals; `opened` maps the name of each deal that was answered to its number."""

    def __init__(self, system: System, feed: Feed, *, seed: int, threads: int = 2, pause_s: float = 0.1) -> None:
        self.opened: dict[str, int] = {}
        self.refused = 0
        self.problems: list[str] = []
        self._system = system
        self._feed = feed
        self._pause_s = pause_s
        self._working = threading.Event()
        self._ended = threading.Event()
        self._busy = threading.Semaphore(threads)
        self._threads = threads
        for number in range(threads):
            rng = random.Random(f"{seed}:{number}")
            threading.Thread(target=self._run, args=(number, rng), name=f"trader-{number}", daemon=True).start()

    def work(self) -> None:
        """Begin, or go on."""
        self._working.set()

    def pause(self, timeout_s: float = GIVE_UP_S) -> None:
        """Stop opening; answers when nobody waits for an answer any more."""
        self._working.clear()
        for _ in range(self._threads):
            assert self._busy.acquire(timeout=timeout_s), "a trader waits for the web process"
        for _ in range(self._threads):
            self._busy.release()

    def end(self) -> None:
        """Stop for good."""
        self._ended.set()
        self.pause()

    def open(self, name: str, terms: dict[str, Any], token: str) -> int | None:
        """Ask until there is an answer; the deal's number, or None when it was refused."""
        deadline = time.monotonic() + GIVE_UP_S
        while True:
            try:
                status, answer = self._system.post("/api/deals", token, {**terms, "clientId": name})
            except (OSError, json.JSONDecodeError) as error:  # the web process or its answer is gone
                status, answer = 503, str(error)
            if status in {200, 201}:
                self.opened[name] = int(answer["id"])
                return int(answer["id"])
            if status < 500:
                self.refused += 1  # the price moved past the level
                return None
            if time.monotonic() > deadline:
                self.problems.append(f"opening {name} has no answer for {GIVE_UP_S:.0f} s: {status} {answer}")
                return None
            time.sleep(0.1)

    def _run(self, number: int, rng: random.Random) -> None:
        count = 0
        while not self._ended.is_set():
            if not self._working.wait(0.2):
                continue
            with self._busy:
                if not self._working.is_set():
                    continue
                count += 1
                terms = self._terms(rng)
                self.open(f"{number}-{count}", terms, rng.choice(self._system.tokens))
            self._ended.wait(rng.uniform(0, 2 * self._pause_s))

    def _terms(self, rng: random.Random) -> dict[str, Any]:
        symbol, direction = rng.choice(SYMBOLS), rng.choice(("up", "down"))
        shares = FAR if rng.random() < FAR_SHARE else NEAR
        gain, loss = rng.uniform(*shares), rng.uniform(*shares)
        sides = rng.choice((("takeProfit", "stopLoss"), ("takeProfit",), ("stopLoss",)))
        return terms(
            symbol=symbol, direction=direction, amount=rng.choice(AMOUNTS), price=self._feed.price(symbol), gain=gain,
            loss=loss, sides=sides,
        )  # fmt: skip


def terms(
    *, symbol: str, direction: str, amount: str, price: Decimal, gain: float, loss: float, sides: tuple[str, ...]
) -> dict[str, Any]:
    """A request to open, its levels these shares away from the price."""
    sign = 1 if direction == "up" else -1
    levels = {
        "takeProfit": f"{price * Decimal(1 + sign * gain):.4f}",
        "stopLoss": f"{price * Decimal(1 - sign * loss):.4f}",
    }
    return {
        "symbol": symbol,
        "direction": direction,
        "amount": amount,
        "multiplier": 10,
        **{side: levels[side] for side in sides},
    }
