"""The running system in the hands of the state machine: real services, engine, sweep and settlement on real servers.

Nothing runs by itself: a message waits until it is delivered, and time moves when it is told to. Every message is kept,
so that it can be delivered again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple, TypeVar

from celery import current_app
from domain import new_account
from expected import Held
from expected_deal import Entry, ExpectedDeal, Levels
from market import BTC, ETH, Market
from redis.exceptions import RedisError
from servers import Valkey

from deals import services, state
from deals.errors import DealError
from deals.history import history
from deals.models import Account, Deal, DealEvent, LedgerEntry, Notification
from deals.settlement import Due, settle
from workers import book, keys, reconcile, sweep, system
from workers.clock import WALL_CLOCK, TapeClock, to_datetime
from workers.dispatch import send_closures
from workers.drivers import next_token
from workers.prices import RedisQuoteBoard
from workers.redis_client import connect
from workers.tasks import close_deals

T = TypeVar("T")
Batch = list[Any]
"""A message's deals: [id, fired entry] each."""
SYMBOLS = [BTC, ETH]


class InRedis(NamedTuple):
    """Upper score, lower score and version of every deal in any part of the book; what has fired; the cached state."""

    book: dict[int, tuple[float | None, float | None, str | None]]
    fired: dict[int, Entry]
    state: str


class LaterClock:
    """The prices process's clock, ahead by what the test has let pass. Neither moves by itself.

    They begin a minute ago, so that no price comes from the future where the system looks at the wall clock.
    """

    def __init__(self) -> None:
        self.prices = TapeClock(WALL_CLOCK.now_ms() - 60_000)
        self.ahead_ms = 0

    def now_ms(self) -> int:
        return self.prices.now_ms() + self.ahead_ms


class Real:
    """One system with two traders on its own Valkey. `settings` are Django's; the test puts them back."""

    def __init__(self, valkey: Valkey, settings: Any) -> None:
        self._valkey = valkey
        self._settings = settings
        self.clock = LaterClock()
        self.accounts: dict[int, Account] = {account.pk: account for account in (new_account("1000"), new_account())}
        connect().flushall()
        close_what_is_left()
        self.waiting: list[Batch] = []
        self.delivered: list[Batch] = []
        self._broker = current_app.connection_for_read()
        self._channel: Any = self._broker.channel()
        self.collect()
        self.waiting.clear()
        self.be_silent(silent=False)
        system.refresh_state()
        reconcile.rebuild()
        self.former: Market | None = None
        self.market = Market(clock=self.clock.prices, token=next_token(), symbols=SYMBOLS)

    def close(self) -> None:
        for market in (self.former, self.market):
            if market is not None:
                market.close()
        self._broker.release()

    @property
    def now(self) -> datetime:
        return to_datetime(self.clock.now_ms())

    # --- prices and messages --------------------------------------------------------------------------------------

    def tick(self, symbol: str, price: Decimal, *, handing_over: bool) -> list[int]:
        """What fired; handed to the queue unless the prices process is to die before that."""
        self.be_silent(silent=False)
        self.clock.prices.set(self.clock.prices.now_ms() + 100)  # two or three prices a bucket
        fired = self.market.tick(f"{price:f}", symbol=symbol)
        if handing_over and fired:
            send_closures(fired)
        return [item.deal_id for item in fired]

    def be_silent(self, *, silent: bool) -> None:
        """Every price is stale, or none."""
        self._settings.PRICE_STALE_AFTER_S = 0 if silent else 10**9

    def former_tick(self, symbol: str, price: Decimal) -> None:
        """A prices process that was replaced and does not know it: what it sees counts no more."""
        if self.former is not None:
            with contextlib.suppress(RedisError):  # its Redis may have been restarted
                assert self.former.tick(f"{price:f}", symbol=symbol) == []

    def collect(self) -> list[tuple[int, Entry]]:
        """Take what has come into the queue; its entries."""
        entries = []
        while message := self._channel.basic_get("closures", no_ack=True):
            (batch, *_), _kwargs, _embedded = self._channel.message_to_python(message).payload
            self.waiting.append(batch)
            entries += entries_of(batch).items()
        return entries

    def deliver(self, batch: Batch) -> int:
        """What a worker does with a message; how many deals it closed."""
        self.delivered.append(batch)
        return close_deals(batch)

    # --- users and operators ----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _dying_after_commit(self, *, arming: bool) -> Iterator[None]:
        """Without arming the process ends right after its commit."""
        self._settings.STATIC_ONLY = not arming
        try:
            yield
        finally:
            self._settings.STATIC_ONLY = False

    def _act(self, work: Callable[[], T], *, arming: bool) -> T | None:
        """None when it was refused."""
        try:
            with self._dying_after_commit(arming=arming):
                return work()
        except DealError:
            return None

    def open(self, deal: ExpectedDeal, *, arming: bool) -> Deal | None:
        return self._act(
            lambda: services.open_deal(
                user_id=self.accounts[deal.account].user_id,
                symbol=deal.symbol,
                direction=deal.direction,  # type: ignore[arg-type]
                amount=deal.amount,
                multiplier=deal.multiplier,
                quote=RedisQuoteBoard().quote(deal.symbol),
                take_profit=deal.take_profit,
                stop_loss=deal.stop_loss,
                now=self.now,
            ),
            arming=arming,
        )

    def amend(self, deal: ExpectedDeal, levels: Levels, *, arming: bool) -> Deal | None:
        return self._act(
            lambda: services.amend_levels(
                user_id=self.accounts[deal.account].user_id,
                deal_id=deal.id,
                quote=RedisQuoteBoard().quote(deal.symbol),
                take_profit=levels[0],
                stop_loss=levels[1],
                now=self.now,
            ),
            arming=arming,
        )

    def close_by_hand(self, deal: ExpectedDeal, *, arming: bool) -> Deal | None:
        return self._act(
            lambda: services.close_deal(deal_id=deal.id, quote=RedisQuoteBoard().quote(deal.symbol)), arming=arming
        )

    def remove(self, deal: ExpectedDeal, *, arming: bool) -> Deal | None:
        return self._act(lambda: services.remove_from_monitoring(deal_id=deal.id, now=self.now), arming=arming)

    def add(self, deal: ExpectedDeal, *, arming: bool) -> Deal | None:
        return self._act(
            lambda: services.add_to_monitoring(
                deal_id=deal.id, quote=RedisQuoteBoard().quote(deal.symbol), now=self.now
            ),
            arming=arming,
        )

    def stop(self, kind: str, *, telling_redis: bool) -> None:
        if kind == "halted":
            state.halt("test")
        else:
            state.change(state.State(kind), "test")
        if telling_redis:
            system.refresh_state()

    def resume(self) -> None:
        system.resume("test")

    # --- the system and its faults ----------------------------------------------------------------------------------

    def sweep(self, *, later_s: int) -> sweep.SweepReport:
        self.clock.ahead_ms += later_s * 1000
        return sweep.sweep(clock=self.clock)

    def lose_from_book(self, deal: ExpectedDeal) -> None:
        client = connect()
        client.zrem(keys.upper(deal.symbol), str(deal.id))
        client.zrem(keys.lower(deal.symbol), str(deal.id))
        client.hdel(keys.versions(deal.symbol), str(deal.id))

    def empty_redis(self) -> None:
        """kill -9, no data, no queue. The prices process notices before it writes, and gives back what it knows."""
        self._valkey.kill()
        self._valkey.start(empty=True)
        self.waiting.clear()
        for _ in range(2):  # the broken connection, then the other run
            with contextlib.suppress(RedisError):
                self.market.run(self.market.engine.hold_leases())
        assert not connect().exists(keys.price(BTC)), (
            "a restarted Redis was written to before it got back what it forgot"
        )
        self.market.run(self.market.engine.recovery.give_back())  # and leaves the book to the reconcile
        self.market.hold()
        send_closures(self.market.flush())

    def notice_flush(self) -> None:
        """What the prices process does within a second of a FLUSHALL: the leases show it."""
        self.market.hold()
        assert self.market.engine.link.forgotten
        self.market.run(self.market.engine.recovery.run())
        self.market.run(self.market.engine.recovery.end())
        send_closures(self.market.flush())

    def replace_engine(self, *, in_order: bool) -> None:
        """Another prices process; the one before ended, or lives on behind an expired lease."""
        if self.former is not None:
            self.former.close()
        self.former = None if in_order else self.market
        if in_order:
            self.market.close()
        else:
            connect().delete(*(keys.lease(symbol) for symbol in SYMBOLS))
        system.refresh_state()
        silent = not self._settings.PRICE_STALE_AFTER_S
        self.be_silent(silent=False)  # the new one reads the limit once, when it starts
        self.market = Market(clock=self.clock.prices, token=next_token(), symbols=SYMBOLS)
        self.be_silent(silent=silent)
        assert self.market.engine.held == set(SYMBOLS)

    def renew_leases(self) -> None:
        """What the prices process does every second."""
        self.market.hold()
        engine = self.market.engine
        self.market.run(engine.memory.forget_settled(engine.link.client, keys.lease(SYMBOLS[0]), engine.owner))

    # --- what is --------------------------------------------------------------------------------------------------

    def deals(self) -> dict[int, Deal]:
        return Deal.objects.filter(account__in=self.accounts).order_by("pk").in_bulk()

    def events(self) -> dict[int, list[tuple[str, int]]]:
        rows = history(DealEvent.objects.filter(deal__account__in=self.accounts))
        return grouped((event.deal_id, (event.kind, event.version)) for event in rows)

    def told(self) -> dict[int, list[str]]:
        rows = Notification.objects.filter(account__in=self.accounts).order_by("id")
        return grouped(rows.values_list("deal_id", "kind"))

    def postings(self) -> dict[int, list[tuple[str, Decimal]]]:
        rows = LedgerEntry.objects.filter(account__in=self.accounts).order_by("id")
        return grouped((key, (kind, amount)) for key, kind, amount in rows.values_list("account_id", "kind", "amount"))

    def balances(self) -> dict[int, Account]:
        return Account.objects.in_bulk(list(self.accounts))

    def redis(self) -> InRedis:
        """Everything that a step may have changed there, in one round trip."""
        with connect().pipeline(transaction=False) as pipe:
            for symbol in SYMBOLS:
                pipe.hgetall(keys.versions(symbol))
                pipe.zrange(keys.upper(symbol), 0, -1, withscores=True)
                pipe.zrange(keys.lower(symbol), 0, -1, withscores=True)
            *books, fired, known = pipe.hgetall(keys.fired()).get(keys.state()).execute()
        held: dict[int, tuple[float | None, float | None, str | None]] = {}
        for versions, upper, lower in batched(books, 3):
            above, below = dict(upper), dict(lower)
            for key in versions.keys() | above.keys() | below.keys():
                held[int(key)] = (above.get(key), below.get(key), versions.get(key))
        entries = entries_of(list(fired.items()))
        return InRedis(held, entries, str(known).partition(":")[2])


def close_what_is_left() -> None:
    """What an example that failed left behind must not be in the way of the next one."""
    state.change(state.State.RUNNING, "test")
    settle(
        [
            Due(deal_id, None, Decimal(100), "manual")
            for deal_id in Deal.objects.filter(status="open").values_list("pk", flat=True)
        ]
    )


def entries_of(batch: Batch) -> dict[int, Entry]:
    """What a message says, as the model has it."""
    fired = book.read_fired((deal_id, entry) for deal_id, entry in batch)
    return {item.deal_id: Entry(item.version, Decimal(item.price), item.detector) for item in fired}


def as_scores(held: Held) -> tuple[float | None, float | None, str]:
    """A deal in the model's book, as `InRedis` has it."""
    upper, lower = (None if level is None else float(level) for level in (held.upper, held.lower))
    return upper, lower, str(held.version)


def batched(items: list[Any], size: int) -> Iterator[list[Any]]:
    """The items in groups of a size."""
    return (items[start : start + size] for start in range(0, len(items), size))


def grouped(pairs: Any) -> dict[int, list[Any]]:
    """The second of each pair, by the first, in order."""
    groups: dict[int, list[Any]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups
