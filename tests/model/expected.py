"""The domain as it was designed, in plain Python: what deals, balances, book and `fired` must be after each step.

No Django, no Redis, no code of ours. Prices are numbered by `tick`; a deal is watched from the number of the price it
was checked against.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import NamedTuple

from expected_deal import Entry, ExpectedDeal, Levels, crosses, price_found_afterwards, profit_of

MAX_MONITORING_MS = 24 * 3600 * 1000
BUCKET_MS = 250


class Tick(NamedTuple):
    """A price, numbered over all symbols, and when it came."""

    number: int
    price: Decimal
    at_ms: int


class Held(NamedTuple):
    """What the book knows of a deal."""

    version: int
    upper: Decimal | None
    lower: Decimal | None


class Refused(Exception):
    """The step must be refused and change nothing."""


class Expected:
    """The whole system as it must be. Every method is one step; `Refused` means that it must not change anything."""

    def __init__(self, symbols: Iterable[str], funds: dict[int, Decimal]) -> None:
        self.symbols = list(symbols)
        self.funds = funds
        self.postings: dict[int, list[tuple[str, Decimal]]] = {key: [("funding", sum_)] for key, sum_ in funds.items()}
        self.deals: dict[int, ExpectedDeal] = {}
        self.state = "running"
        self.state_in_redis = "running"
        self.silent = False
        self.numbers = 0
        self.ticks: dict[str, list[Tick]] = {symbol: [] for symbol in self.symbols}
        self.engine_ticks: dict[str, list[Tick]] = {symbol: [] for symbol in self.symbols}
        self.buckets: dict[str, list[Tick]] = {symbol: [] for symbol in self.symbols}  # the first price of each
        self.quoted: set[str] = set()  # whose bucket has ended because somebody has read the price
        self.swept: dict[str, int] = dict.fromkeys(self.symbols, 0)
        self.book: dict[int, Held] = {}
        self.book_lost = False
        self.fired: dict[int, Entry] = {}
        self.engine_fired: dict[int, Entry] = {}

    # --- what follows from the rest ---------------------------------------------------------------------------

    def balance(self, account: int) -> Decimal:
        return sum((amount for _kind, amount in self.postings[account]), Decimal(0))

    def margin(self, account: int) -> Decimal:
        mine = (deal for deal in self.deals.values() if deal.account == account and deal.status == "open")
        return sum((deal.amount for deal in mine), Decimal(0))

    def statistics(self, account: int) -> tuple[int, int, Decimal, Decimal, Decimal, Decimal]:
        """Closed and winning deals, total volume and amount, largest profit and loss."""
        closed = [deal for deal in self.deals.values() if deal.account == account and deal.profit is not None]
        profits = [deal.profit for deal in closed if deal.profit is not None]
        return (
            len(closed),
            sum(profit > 0 for profit in profits),
            sum((deal.amount * deal.multiplier for deal in closed), Decimal(0)),
            sum((deal.amount for deal in closed), Decimal(0)),
            max([*profits, Decimal(0)]),
            min([*profits, Decimal(0)]),
        )

    def quote(self, symbol: str) -> Tick:
        """What is opened or amended at it is watched from exactly the next price on."""
        self.end_bucket(symbol)
        if self.silent or not self.ticks[symbol]:
            raise Refused
        return self.ticks[symbol][-1]

    def end_bucket(self, symbol: str) -> None:
        if self.ticks[symbol]:
            self.quoted.add(symbol)

    def prices_since(self, deal: ExpectedDeal, number: int = 0) -> list[Decimal]:
        """What came after the price that the deal was checked against, and not before the one of that number."""
        after = max(deal.watched_from, number - 1)
        return [tick.price for tick in self.ticks[deal.symbol] if tick.number > after]

    # --- prices ---------------------------------------------------------------------------------------------------

    def tick(self, symbol: str, price: Decimal, at_ms: int) -> list[int]:
        """The deals that it fires."""
        self.silent = False
        self.numbers += 1
        tick = Tick(self.numbers, price, at_ms)
        self.ticks[symbol].append(tick)
        self.engine_ticks[symbol].append(tick)
        buckets = self.buckets[symbol]
        if not buckets or symbol in self.quoted or at_ms - buckets[-1].at_ms >= BUCKET_MS:
            buckets.append(tick)
            self.quoted.discard(symbol)
        if self.state_in_redis != "running":
            return []
        crossed = [
            deal_id
            for deal_id, held in self.book.items()
            if self.deals[deal_id].symbol == symbol and crosses(price, held.upper, held.lower)
        ]
        fired = []
        for deal_id in crossed:
            entry = Entry(self.book.pop(deal_id).version, price, "tick")
            if deal_id not in self.fired or self.fired[deal_id].version < entry.version:
                self.fired[deal_id] = self.engine_fired[deal_id] = entry
                fired.append(deal_id)
        return fired

    # --- what users and operators do --------------------------------------------------------------------------------

    def check_open(self, deal: ExpectedDeal) -> None:
        """Raise `Refused` unless a deal may be opened so."""
        quote = self.quote(deal.symbol)
        self._require_running()
        self._require_right_side(deal.direction, (deal.take_profit, deal.stop_loss), quote.price)
        if self.balance(deal.account) < deal.amount:
            raise Refused

    def open(self, deal: ExpectedDeal, *, arming: bool) -> None:
        """A deal that was opened at the current price."""
        quote = self.quote(deal.symbol)
        deal.watched_from, deal.open_price = quote.number, quote.price
        deal.monitoring = "pending" if deal.has_levels else "none"
        deal.record("opened")
        self.deals[deal.id] = deal
        self.postings[deal.account].append(("open", -deal.amount))
        if arming:
            self.arm(deal)

    def amend(self, deal: ExpectedDeal, levels: Levels, now_ms: int, *, arming: bool) -> None:
        quote = self.quote(deal.symbol)
        self._require_running()
        self._require_open(deal)
        if levels == (deal.take_profit, deal.stop_loss):
            return
        self._require_right_side(deal.direction, levels, quote.price)
        deal.take_profit, deal.stop_loss = levels
        deal.version += 1
        deal.watched_from, deal.expires_ms = quote.number, now_ms + MAX_MONITORING_MS
        if deal.monitoring != "removed":
            deal.monitoring = "pending" if deal.has_levels else "none"
        deal.record("amended")
        if arming:
            self.arm(deal)

    def close_by_hand(self, deal: ExpectedDeal, *, arming: bool) -> None:
        quote = self.quote(deal.symbol)
        self._require_open(deal)
        if self.state == "halted":
            raise Refused
        self._close(deal, Entry(deal.version, quote.price, "manual"), "manual")
        if arming:
            self.arm(deal)

    def remove(self, deal: ExpectedDeal, *, arming: bool) -> None:
        self._require_open(deal)
        if not deal.has_levels:
            raise Refused
        if deal.monitoring == "removed":
            return
        self._end_watch(deal, "removed")
        if arming:
            self.arm(deal)

    def add(self, deal: ExpectedDeal, now_ms: int, *, arming: bool) -> None:
        quote = self.quote(deal.symbol)
        self._require_running()
        self._require_open(deal)
        if not deal.has_levels:
            raise Refused
        if deal.watched:
            return
        deal.version += 1
        deal.watched_from, deal.expires_ms = quote.number, now_ms + MAX_MONITORING_MS
        deal.monitoring = "pending"
        if arming:
            self.arm(deal)

    def resume(self) -> None:
        """Watched deals are watched from this moment on, except for what had fired."""
        for symbol in self.symbols:
            self.end_bucket(symbol)
        if self.state == "running":
            return
        for deal in self.deals.values():
            if deal.watched and deal.id not in self.fired and self.ticks[deal.symbol]:
                deal.watched_from = max(deal.watched_from, self.ticks[deal.symbol][-1].number)
        self.state = self.state_in_redis = "running"

    # --- what the system does -------------------------------------------------------------------------------------

    def arm(self, deal: ExpectedDeal) -> None:
        """The book is brought in line with the row; what has crossed since the price it was checked against fires."""
        entry = self.fired.get(deal.id)
        if entry is not None and entry.version >= deal.version:
            self._held(deal)
            if deal.id in self.book and self.book[deal.id].version <= entry.version:
                del self.book[deal.id]
            return
        self.fired.pop(deal.id, None)
        self.book.pop(deal.id, None)
        if not deal.watched:
            return
        price = price_found_afterwards(deal, self.prices_since(deal))
        if price is None:
            self.book[deal.id] = Held(deal.version, deal.upper, deal.lower)
            self._held(deal)
        elif self.state_in_redis == "running" and not self.silent:
            self.fired[deal.id] = Entry(deal.version, price, "arm")
            self._held(deal)
        else:  # it may not fire now: in the book, and still to be armed
            self.book[deal.id] = Held(deal.version, deal.upper, deal.lower)

    def settle(self, batch: dict[int, Entry]) -> int:
        """A worker takes a message and closes in the order of the deals' keys; how many it closes."""
        if self.state == "halted":
            return 0
        closed, changed = 0, []
        for deal_id, entry in sorted(batch.items()):
            deal = self.deals[deal_id]
            if deal.watched and deal.version == entry.version:
                stop = deal.lower if deal.direction == "up" else deal.upper
                is_stop = stop is not None and (entry.price <= stop if deal.direction == "up" else entry.price >= stop)
                self._close(deal, entry, "stop_loss" if is_stop else "take_profit")
                closed += 1
            elif deal.status == "open":
                changed.append(deal)
            waiting = self.fired.get(deal_id)
            if waiting is not None and waiting.version <= entry.version:
                del self.fired[deal_id]
        for deal in changed:
            self.arm(deal)
        return closed

    def sweep(self, now_ms: int) -> list[int]:
        """Find, end monitoring, arm. The armed deals that it found: in a healthy system none."""
        self.state_in_redis = self.state
        if self.state != "running":
            return []
        found = [] if self.silent else self._find()
        self._end_expired(now_ms)
        for deal in self.deals.values():
            if deal.status == "open" and deal.monitoring == "pending":
                self.arm(deal)
        return found

    def rebuild(self) -> None:
        """The book from PostgreSQL; then what PostgreSQL does not watch goes."""
        self.book_lost = False
        for deal in self.deals.values():
            if deal.watched or deal.id in self.book:
                self.arm(deal)

    def redis_forgets(self) -> None:
        """Everything: prices, book, what had fired, the state."""
        self.state_in_redis = ""
        self.ticks = {symbol: [] for symbol in self.symbols}
        self.buckets = {symbol: [] for symbol in self.symbols}
        self.quoted = set()
        self.fired = {}
        self.book = {}
        self.book_lost = True

    def redis_gets_back(self) -> None:
        """What the prices process knows: what fired by its ticks, and each price as a bucket of its own."""
        self.state_in_redis = self.state
        self.ticks = {symbol: list(ticks) for symbol, ticks in self.engine_ticks.items()}
        self.buckets = {symbol: list(ticks) for symbol, ticks in self.engine_ticks.items()}
        self.quoted = {symbol for symbol, ticks in self.ticks.items() if ticks}
        self.fired = self.engine_fired | self.fired

    def engine_replaced(self) -> None:
        """Another prices process, which remembers nothing."""
        self.state_in_redis = self.state
        self.engine_ticks = {symbol: [] for symbol in self.symbols}
        self.engine_fired = {}

    def settled_forgotten(self) -> None:
        """The prices process forgets what has left `fired`."""
        self.engine_fired = {key: entry for key, entry in self.engine_fired.items() if key in self.fired}

    def _find(self) -> list[int]:
        """What new prices reached. A bucket is looked at whole: the one that the last sweep ended in once more.

        That finds again what the last sweep had found and Redis has lost since.
        """
        found = []
        for deal in self.deals.values():
            swept, ticks = self.swept[deal.symbol], self.ticks[deal.symbol]
            if not ticks or ticks[-1].number <= swept:
                continue
            begins = max((tick.number for tick in self.buckets[deal.symbol] if tick.number <= swept), default=0)
            price = price_found_afterwards(deal, self.prices_since(deal, begins))
            entry = self.fired.get(deal.id)
            if deal.watched and price is not None and (entry is None or entry.version < deal.version):
                self.fired[deal.id] = Entry(deal.version, price, "sweep")
                self.book.pop(deal.id, None)
                if deal.monitoring == "armed":
                    found.append(deal.id)
        for symbol, ticks in self.ticks.items():
            if ticks:
                self.swept[symbol] = max(self.swept[symbol], ticks[-1].number)
        return found

    def _end_expired(self, now_ms: int) -> None:
        for deal in self.deals.values():
            if deal.watched and deal.expires_ms <= now_ms:
                entry = self.fired.get(deal.id)
                if entry is None or entry.version < deal.version:
                    self.fired.pop(deal.id, None)
                    self.book.pop(deal.id, None)
                    self._end_watch(deal, "expired")

    def _end_watch(self, deal: ExpectedDeal, monitoring: str) -> None:
        deal.version += 1
        deal.monitoring = monitoring
        deal.record(monitoring)
        deal.told.append(f"monitoring_{monitoring}")

    def _held(self, deal: ExpectedDeal) -> None:
        if deal.status == "open" and deal.monitoring == "pending":
            deal.monitoring = "armed"
            deal.record("armed")

    def _close(self, deal: ExpectedDeal, entry: Entry, reason: str) -> None:
        deal.status, deal.monitoring = "closed", "ended"
        deal.close_price, deal.detector, deal.reason = entry.price, entry.detector, reason
        deal.profit = profit_of(deal, entry.price)
        if entry.detector != "manual":
            deal.record("fired")
        deal.record("closed")
        deal.told.append("deal_closed")
        self.postings[deal.account].append(("close", deal.amount + deal.profit))

    def _require_running(self) -> None:
        if self.state != "running":
            raise Refused

    @staticmethod
    def _require_open(deal: ExpectedDeal) -> None:
        if deal.status != "open":
            raise Refused

    @staticmethod
    def _require_right_side(direction: str, levels: Levels, price: Decimal) -> None:
        upper, lower = levels if direction == "up" else reversed(levels)
        if (upper is not None and upper <= price) or (lower is not None and lower >= price):
            raise Refused
