"""Traders who open, amend and close deals over REST, and ask again until they have an answer."""

from __future__ import annotations

import random
import threading
import time
from decimal import Decimal
from http.client import HTTPException
from typing import Any, Final

from chaos.answers import Answers
from chaos.feed import Feed
from chaos.system import SYMBOLS, System

NEAR: Final = (0.001, 0.015)
FAR: Final = (0.5, 0.9)
FAR_SHARE: Final = 0.1
BOTH: Final = ("takeProfit", "stopLoss")
CLOSED_SHARE: Final = 0.08
AMENDED_SHARE: Final = 0.15
AMOUNTS: Final = ("1", "2.5", "0.37")
GIVE_UP_S: Final = 240.0


class Traders:
    """Threads that open deals, amend some and close some by hand."""

    def __init__(self, system: System, feed: Feed, *, seed: int, threads: int = 3, pause_s: float = 0.1) -> None:
        self.answers = Answers()
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

    def pause(self, timeout_s: float = 3 * GIVE_UP_S) -> None:
        """Stop opening; answers when nobody waits for an answer any more, to an opening and to what followed it."""
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
        answer = self._ask("POST", "/api/deals", token, {**terms, "clientId": name})
        if answer is None:
            return None
        deal_id = int(answer["id"])
        self.answers.opened[name] = deal_id
        return deal_id

    def _ask(self, method: str, path: str, token: str, body: dict[str, Any]) -> Any:
        """The answer; None when it was refused: the price has moved past a level, the deal is closed."""
        deadline = time.monotonic() + GIVE_UP_S
        while True:
            try:
                status, answer = self._system.ask(method, path, token, body)
            except (OSError, HTTPException, ValueError) as error:  # the web process or its answer is gone
                status, answer = 503, str(error)
            if status < 300:
                return answer
            if status < 500:
                self.refused += 1
                return None
            if time.monotonic() > deadline:
                self.problems.append(f"{method} {path} has no answer for {GIVE_UP_S:.0f} s: {status} {answer}")
                return None
            time.sleep(0.1)

    def _change(self, deal_id: int, terms: dict[str, Any], token: str, rng: random.Random) -> None:
        """Some deals get other levels, some are closed by hand."""
        chance = rng.random()
        if chance < CLOSED_SHARE:
            if self._ask("POST", f"/api/deals/{deal_id}/close", token, {}) is not None:
                self.answers.closed.append(deal_id)
        elif chance < CLOSED_SHARE + AMENDED_SHARE:
            levels = {side: self._terms(rng, terms)[side] for side in ("takeProfit", "stopLoss") if side in terms}
            if self._ask("PATCH", f"/api/deals/{deal_id}", token, levels) is not None:
                self.answers.amended[deal_id] = levels

    def _run(self, number: int, rng: random.Random) -> None:
        count = 0
        while not self._ended.is_set():
            if not self._working.wait(0.2):
                continue
            with self._busy:
                if not self._working.is_set():
                    continue
                count += 1
                terms, token = self._terms(rng), rng.choice(self._system.tokens)
                deal_id = self.open(f"{number}-{count}", terms, token)
                if deal_id is not None:
                    self._change(deal_id, terms, token, rng)
            self._ended.wait(rng.uniform(0, 2 * self._pause_s))

    def _terms(self, rng: random.Random, like: dict[str, Any] | None = None) -> dict[str, Any]:
        """A request by chance, or levels for a deal that is open."""
        symbol = like["symbol"] if like else rng.choice(SYMBOLS)
        direction = like["direction"] if like else rng.choice(("up", "down"))
        shares = FAR if rng.random() < FAR_SHARE else NEAR
        gain, loss = rng.uniform(*shares), rng.uniform(*shares)
        sides = BOTH if like else rng.choice((BOTH, BOTH[:1], BOTH[1:]))
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
