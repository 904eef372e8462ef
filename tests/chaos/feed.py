"""The service that publishes prices: a seeded walk whose every step is published until Redis says that it was taken.

So it is known for certain which prices the system has seen, whatever was killed meanwhile.
"""

from __future__ import annotations

import json
import random
import threading
import time
from bisect import bisect_right
from collections.abc import Mapping
from decimal import Decimal
from typing import Final, NamedTuple

import redis

from chaos.system import SYMBOLS, System

STEP_S: Final = 0.05
REPEAT_S: Final = 0.5
AGAIN_S: Final = 0.15
SMALLEST: Final = Decimal("0.0001")
START: Final = Decimal(100)
VOLATILITY: Final = 0.0006
PULL: Final = 0.002


class Published(NamedTuple):
    """A price as it was sent, and the exchange time it was sent with."""

    at_ms: int
    price: Decimal


class Feed:
    """Owns the walk in a thread. While it is paused it repeats the last prices, so that none becomes stale."""

    def __init__(self, system: System, seed: int) -> None:
        self.sent: dict[str, list[Published]] = {symbol: [] for symbol in SYMBOLS}
        self.taken: dict[str, int] = dict.fromkeys(SYMBOLS, 0)
        """How many of the sent prices are known to have been taken: these and all before."""
        self.steps = 0
        self._redis = redis.Redis.from_url(system.redis_url, decode_responses=True, socket_timeout=1)
        self._rng = random.Random(seed)
        self._prices = dict.fromkeys(SYMBOLS, START)
        self._walking = threading.Event()
        self._targets: dict[str, Decimal] = {}
        self._moved = threading.Condition()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)
        self._thread.start()

    def walk(self) -> None:
        """Move on by chance."""
        self._walking.set()

    def pause(self) -> None:
        """Stand still; answers when the step under way is taken."""
        self._walking.clear()
        self.go({})

    def go(self, prices: Mapping[str, Decimal], timeout_s: float = 240) -> None:
        """Jump to these prices in the next step, and wait until they are taken."""
        with self._moved:
            self._targets.update({symbol: price.quantize(SMALLEST) for symbol, price in prices.items()})
            wanted = self.steps + 2  # the step under way knows nothing of them
            assert self._moved.wait_for(lambda: self.steps >= wanted, timeout_s), "the system takes no prices"

    def price(self, symbol: str) -> Decimal:
        """Where the walk stands."""
        return self._prices[symbol]

    def after(self, symbol: str, at_ms: int) -> int:
        """The number of the first price that was sent with a later time."""
        return bisect_right(self.sent[symbol], at_ms, key=lambda sent: sent.at_ms)

    def end(self) -> None:
        """Stop."""
        self._ended.set()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._ended.is_set():
            with self._moved:
                targets, self._targets = self._targets, {}
            for symbol in SYMBOLS:
                if symbol in targets:
                    self._prices[symbol] = targets[symbol]
                elif self._walking.is_set():
                    self._prices[symbol] = self._next(self._prices[symbol])
            self._bring()
            with self._moved:
                self.steps += 1
                self._moved.notify_all()
                waiting = bool(self._targets)
            if not waiting:
                self._ended.wait(STEP_S if self._walking.is_set() else REPEAT_S / 5)

    def _next(self, price: Decimal) -> Decimal:
        drift = PULL * float((START - price) / START)
        moved = float(price) * (1 + drift + self._rng.gauss(0, VOLATILITY))
        return Decimal(f"{moved:.4f}")

    def _bring(self) -> None:
        """Publish every symbol's price until all of them are taken."""
        began_ms = dict.fromkeys(SYMBOLS, 0)
        missing = list(SYMBOLS)
        while missing and not self._ended.is_set():
            try:
                for symbol in missing:
                    sent = self._publish(symbol)
                    began_ms[symbol] = began_ms[symbol] or sent.at_ms
                deadline = time.monotonic() + AGAIN_S
                while missing and time.monotonic() < deadline:
                    missing = [symbol for symbol in missing if not self._has_taken(symbol, began_ms[symbol])]
                    time.sleep(0.003)
            except redis.RedisError:
                self._ended.wait(AGAIN_S)

    def _publish(self, symbol: str) -> Published:
        sent = self.sent[symbol]
        at_ms = time.time_ns() // 1_000_000
        published = Published(max(at_ms, sent[-1].at_ms + 1 if sent else 0), self._prices[symbol])
        sent.append(published)
        body = json.dumps({"symbol": symbol, "price": f"{published.price:f}", "timestamp": published.at_ms})
        self._redis.publish(f"price_update:{symbol}", body)
        return published

    def _has_taken(self, symbol: str, began_ms: int) -> bool:
        price, at_ms = self._redis.hmget(f"price:{symbol}", ["price", "at"])  # type: ignore[misc]
        if price is None or int(at_ms) < began_ms or Decimal(price) != self._prices[symbol]:
            return False
        self.taken[symbol] = len(self.sent[symbol])
        return True
