"""A market for tests: ticks through the real engine into the real book, deals at its quotes, what users hear."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import redis

from deals import services
from deals.models import Account, Deal
from deals.queries import WatchRow, watch_rows
from workers import book, keys
from workers.book import Fired
from workers.clock import WALL_CLOCK, Clock
from workers.engine import PriceEngine
from workers.prices import Price, RedisQuoteBoard
from workers.redis_client import CACHE_STATE, connect
from workers.sources.base import Tick

BTC, ETH = "BTCUSDT", "ETHUSDT"


def say_state(state: str = "running", version: int = 1) -> None:
    """Cache a system state as if PostgreSQL had said so."""
    CACHE_STATE.run(connect(), [keys.state()], [version, state])


def row(deal_id: int, upper: str | None = None, lower: str | None = None, **facts: Any) -> WatchRow:
    """What PostgreSQL says of a deal that exists in the test only."""
    return WatchRow(
        **{
            "id": deal_id,
            "symbol": BTC,
            "direction": "up",
            "upper_trigger": None if upper is None else Decimal(upper),
            "lower_trigger": None if lower is None else Decimal(lower),
            "watch_version": 1,
            "watched_from_seq": 0,
            "monitoring": "pending",
            **facts,
        }
    )


class Market:
    """One prices process in the hands of a test: `tick` is one call of the tick script."""

    def __init__(self, *, clock: Clock = WALL_CLOCK, token: int = 1, symbols: Iterable[str] = (BTC, ETH)) -> None:
        self.clock = clock
        self.sent: list[Fired] = []
        self._closed = False
        self._runner = asyncio.Runner()
        self.engine = PriceEngine(symbols, token=token, clock=clock, send=self.sent.extend)
        self.hold()

    def hold(self) -> set[str]:
        """Take or renew the leases; the symbols it drives."""
        self._runner.run(self.engine.hold_leases())
        return self.engine.held

    def stand_by(self) -> None:
        """Give the leases up, and drive nothing until the next `hold`."""
        self._runner.run(self.engine._release())
        self.engine.held.clear()

    def tick(
        self, *prices: str, symbol: str = BTC, at_ms: int | None = None, trade_id: int | None = None
    ) -> list[Fired]:
        """These prices at once, the trade ids rising from the given one; what they fired."""
        for accepted in self.accepted(*prices, symbol=symbol, at_ms=at_ms, trade_id=trade_id):
            self.engine.enqueue(accepted)
        return self.flush()

    def enqueue(self, price: str, *, symbol: str = BTC) -> None:
        """Have a price wait for the next flush."""
        [accepted] = self.accepted(price, symbol=symbol)
        self.engine.enqueue(accepted)

    def accepted(
        self, *prices: str, symbol: str = BTC, at_ms: int | None = None, trade_id: int | None = None
    ) -> list[Price]:
        """These prices as the board numbers them."""
        at_ms = self.clock.now_ms() if at_ms is None else at_ms
        ticks = [
            Tick(symbol, price, at_ms, None if trade_id is None else trade_id + number)
            for number, price in enumerate(prices)
        ]
        accepted = [price for tick in ticks if (price := self.engine.board.accept(tick)) is not None]
        assert len(accepted) == len(prices), self.engine.board.dropped
        return accepted

    def flush(self) -> list[Fired]:
        """Run what is pending through the book; what fired."""
        before = len(self.sent)
        self._runner.run(self._flush())
        return self.sent[before:]

    async def _flush(self) -> None:
        await self.engine.writer.flush()
        await self.engine.send_fired()

    def run(self, work: Any) -> Any:
        """Run something on the engine's loop."""
        return self._runner.run(work)

    def seq(self, symbol: str = BTC) -> int:
        """The number of the last price."""
        return RedisQuoteBoard(self.clock).last(symbol).quote.seq

    def open(
        self, account: Account, *, take_profit: str | None = None, stop_loss: str | None = None, **terms: Any
    ) -> Deal:
        """A deal at the current quote: 100 USDT × 10 `up` on BTCUSDT unless said otherwise."""
        given = {"symbol": BTC, "direction": "up", "amount": Decimal(100), "multiplier": 10, **terms}
        return services.open_deal(
            user_id=account.user_id,
            quote=RedisQuoteBoard(self.clock).quote(given["symbol"]),
            take_profit=None if take_profit is None else Decimal(take_profit),
            stop_loss=None if stop_loss is None else Decimal(stop_loss),
            **given,
        )

    def amend(self, deal: Deal, *, take_profit: str) -> Deal:
        """Another Take Profit, at the current quote."""
        return services.amend_levels(
            user_id=deal.account.user_id,
            deal_id=deal.pk,
            quote=RedisQuoteBoard(self.clock).quote(deal.symbol),
            take_profit=Decimal(take_profit),
        )

    def close(self) -> None:
        """Give everything up, as a process that ends in order; to do it twice changes nothing."""
        if not self._closed:
            self._closed = True
            self._runner.run(self.engine.close())
            self._runner.close()


def in_book(deal_id: int, symbol: str = BTC) -> tuple[float | None, float | None, str | None]:
    """The upper and lower score and the version at which the book holds a deal."""
    client: Any = connect()
    return (
        client.zscore(keys.upper(symbol), str(deal_id)),
        client.zscore(keys.lower(symbol), str(deal_id)),
        client.hget(keys.versions(symbol), str(deal_id)),
    )


NOT_IN_BOOK = (None, None, None)


def lose_from_book(deal: Deal) -> None:
    """Make the book forget a deal that PostgreSQL says is armed."""
    book.take_out(watch_rows([deal.pk]))
    assert in_book(deal.pk, deal.symbol) == NOT_IN_BOOK


def messages(pubsub: redis.client.PubSub) -> list[Any]:
    """What has come on the subscribed channels, as JSON."""
    heard = []
    while message := pubsub.get_message(timeout=0.2):
        if message["type"] == "message":
            heard.append(json.loads(message["data"]))
    return heard
